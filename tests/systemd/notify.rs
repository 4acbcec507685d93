//! The protocol of `NOTIFY_SOCKET`: ready, status, more time, reloading, stopping.

use rustix::process::Signal;
use serde_json::json;

use super::{Manager, config, place};
use crate::harness::{Conn, Site, run_to_exit};

#[test]
fn ready_comes_after_recovery_and_not_before_it_answers() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..500 {
        let key = format!("k{n}");
        conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": key, "data": {}}));
    }
    daemon.kill();

    let manager = Manager::new(&site);
    let daemon = site.spawn(manager.command(&site), site.socket());
    let lines = manager.until("READY=1");
    // Connected at the first try, and what had to be played again is there.
    let mut conn = Conn::connect(site.socket());
    let found = conn.ok(json!({"op": "get_key", "storage": "jobs", "date": "2025-01-15", "key": "k499"}));
    assert_eq!(found["records"].as_array().map(Vec::len), Some(1), "{found}");
    let first = place(&lines, "STATUS=recovering jobs, 1 of 2 storages");
    let second = place(&lines, "STATUS=recovering settings, 2 of 2 storages");
    let ready = place(&lines, "READY=1");
    let serving = place(&lines, "STATUS=serving 2 storages, 0 connections");
    assert!(first < second && second < ready && ready < serving, "{lines:#?}");
    assert!(
        place(&lines, "EXTEND_TIMEOUT_USEC=") < ready,
        "a recovery may take longer than a start: {lines:#?}"
    );
    daemon.stop();
}

#[test]
fn a_start_that_is_refused_never_says_ready() {
    let site = Site::new(&config());
    let daemon = site.start();
    let manager = Manager::new(&site);
    let exit = run_to_exit(manager.command(&site));
    assert_eq!(exit.code, Some(78), "{}", exit.stderr);
    let lines = manager.rest();
    assert!(!lines.iter().any(|line| line.starts_with("READY")), "{lines:#?}");
    let failed = &lines[place(&lines, "STATUS=failed: ")];
    assert!(failed.contains("jobs") && failed.contains(&daemon.pid().to_string()), "{failed}");
    daemon.stop();
}

#[test]
fn stopping_tells_each_step_and_asks_for_time() {
    let site = Site::new(&config().text("[storage.measured]\nmodel = \"dated\"\nparquet_path = \"{dir}/parquet\"\nbase_dir = \"{dir}/measured\""));
    let manager = Manager::new(&site);
    let daemon = site.start_as(manager.command(&site), site.socket());
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings", "measured"] {
        conn.ok(json!({"op": "store", "storage": storage, "key": "k", "data": {}}));
    }
    manager.until("READY=1");
    daemon.stop();
    let lines = manager.rest();
    let stopping = place(&lines, "STOPPING=1");
    let extend = place(&lines, "EXTEND_TIMEOUT_USEC=");
    let jobs = place(&lines, "STATUS=stopping: flushing jobs");
    let export = place(&lines, "STATUS=stopping: exporting measured");
    let measured = place(&lines, "STATUS=stopping: flushing measured");
    assert!(stopping < extend && stopping < jobs && jobs < export && export < measured, "{lines:#?}");
}

#[test]
fn reading_the_configuration_again_is_told_with_its_time() {
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = site.start_as(manager.command(&site), site.socket());
    manager.until("READY=1");
    let monotonic = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000
    };
    let before = monotonic();
    daemon.signal(Signal::HUP);
    let lines = manager.until("READY=1");
    let reloading = place(&lines, "RELOADING=1");
    let told = lines[place(&lines, "MONOTONIC_USEC=")].split_once('=').unwrap().1.parse::<i128>().unwrap();
    assert!((before..=monotonic()).contains(&told), "{told} is not now");
    assert!(reloading < place(&lines, "READY=1"), "{lines:#?}");
    daemon.stop();
}

#[test]
fn without_a_manager_nothing_is_different() {
    let site = Site::new(&config());
    // A manager that is gone is told nothing, and nobody minds.
    let manager = Manager::new(&site);
    let command = manager.command(&site);
    drop(manager);
    let daemon = site.start_as(command, site.socket());
    daemon.connect().ok(json!({"op": "ping"}));
    daemon.stop();
}
