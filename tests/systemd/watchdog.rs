//! The watchdog: beats while commits can be made, and silence while they cannot.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::{Manager, config};
use crate::harness::{
    Daemon, PATIENCE, Site,
    strace::{self, Attached},
    wait_for,
};

/// Short, so that silence shows soon; a beat is due every third.
const WATCHDOG: Duration = Duration::from_secs(3);
const BEAT: &str = "WATCHDOG=1";

fn start(site: &Site, manager: &Manager) -> Daemon {
    let mut command = manager.command(site);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    site.start_as(command, site.socket())
}

/// `strace` on all threads of the daemon, to make its system calls fail or wait. `None` where there is no strace, or it may not be
/// used; says so.
fn tampered(daemon: &Daemon, site: &Site, inject: &str) -> Option<Attached> {
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-e", &format!("inject={inject}")]).arg("-o").arg(site.path("strace.log"));
    strace::available("make the disk hang").then(|| Attached::attach(command, daemon))
}

#[test]
fn it_beats_as_often_as_it_must() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = start(&site, &manager);
    manager.until("READY=1");
    manager.until(BEAT);
    let begun = Instant::now();
    for _ in 0..6 {
        let waited = Instant::now();
        manager.until(BEAT);
        assert!(waited.elapsed() < WATCHDOG, "the manager would have killed it");
    }
    assert!(begun.elapsed() > WATCHDOG, "six beats in {:?} are too many", begun.elapsed());
    daemon.stop();
}

#[test]
fn a_watchdog_for_another_process_is_not_ours() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let mut command = manager.command(&site);
    command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let daemon = site.start_as(command, site.socket());
    manager.until("READY=1");
    daemon.stop();
    let lines = manager.rest();
    assert!(!lines.iter().any(|line| line.starts_with("WATCHDOG")), "{lines:#?}");
}

#[test]
fn it_is_silent_while_commits_hang() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = start(&site, &manager);
    let mut writer = daemon.connect();
    writer.ok(json!({"op": "store", "storage": "jobs", "key": "before", "data": {}}));
    manager.until("READY=1");
    manager.until(BEAT);
    let Some(hanging) = tampered(&daemon, &site, "fdatasync:delay_enter=3600000000") else { return };
    manager.until(BEAT);
    writer.send(json!({"op": "store", "storage": "jobs", "key": "hangs", "data": {}}));
    manager.until_silent(BEAT, 2 * WATCHDOG);
    drop(hanging);
    assert_eq!(writer.answer()["durable"], true);
    manager.until(BEAT);
    daemon.stop();
}

#[test]
fn buffered_writes_that_hang_are_seen_too() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = start(&site, &manager);
    let mut writer = daemon.connect();
    writer.ok(json!({"op": "store", "storage": "settings", "key": "before", "data": {}}));
    manager.until("READY=1");
    let Some(hanging) = tampered(&daemon, &site, "fdatasync:delay_enter=3600000000") else { return };
    // Answered at once; the sync that hangs is the one that comes later by itself.
    let store =
        json!({"op": "store", "storage": "settings", "key": "k", "data": {}, "durability": "buffered"});
    assert_eq!(writer.ok(store)["durable"], false);
    manager.until("STATUS=storage \"settings\": a commit has been waiting for the disk");
    manager.never(BEAT, 2 * WATCHDOG);
    // It is not the process that hangs: who reads is answered.
    let read = daemon.connect().ok(json!({"op": "get_key", "storage": "settings", "key": "before"}));
    assert_eq!(read["records"].as_array().map(Vec::len), Some(1), "{read}");
    let told = daemon.log().matches("the watchdog is not told to wait any longer").count();
    assert_eq!(told, 1, "{}", daemon.log());
    drop(hanging);
    manager.until(BEAT);
    daemon.stop();
}

#[test]
fn it_is_silent_after_a_failed_sync_until_a_restart_heals() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = start(&site, &manager);
    let mut writer = daemon.connect();
    writer.ok(json!({"op": "store", "storage": "jobs", "key": "before", "data": {}}));
    manager.until("READY=1");
    let Some(failing) = tampered(&daemon, &site, "fdatasync:error=EIO") else { return };
    writer.refused(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}), "outcome_unknown");
    manager.until("STATUS=storage \"jobs\" takes no writes until a restart");
    drop(failing);
    manager.never(BEAT, 2 * WATCHDOG);
    // What the manager does then.
    daemon.signal(Signal::ABORT);
    drop(daemon);
    manager.rest();
    let daemon = start(&site, &manager);
    manager.until("READY=1");
    manager.until(BEAT);
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "after", "data": {}}));
    let read = conn.ok(json!({"op": "get_key", "storage": "jobs", "key": "before"}));
    assert_eq!(read["records"].as_array().map(Vec::len), Some(1), "{read}");
    daemon.stop();
}

#[test]
fn a_full_disk_is_no_reason_to_be_killed() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = start(&site, &manager);
    manager.until("READY=1");
    let Some(full) = tampered(&daemon, &site, "fallocate,pwrite64:error=ENOSPC") else { return };
    let mut writer = daemon.connect();
    writer.refused(json!({"op": "store", "storage": "settings", "key": "k", "data": {}}), "disk_full");
    for _ in 0..5 {
        let waited = Instant::now();
        manager.until(BEAT);
        assert!(waited.elapsed() < WATCHDOG, "the manager would have killed it");
    }
    drop(full);
    let stored = wait_for("there is room again", PATIENCE, || {
        let answer = writer.ask(json!({"op": "store", "storage": "settings", "key": "k", "data": {}}));
        (answer["ok"] == true).then_some(answer)
    });
    assert_eq!(stored["durable"], true);
    daemon.stop();
}
