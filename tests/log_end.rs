//! A log that ends too early, or whose oldest segments are unreadable: what else tells of its records is believed, no
//! place is given again, and what is known to be lost is counted.

use std::{fs, path::PathBuf, process::Command};

use serde_json::json;

use crate::harness::{
    Config, Conn, Site, binary,
    faults::{DAY, Fault, data, health, remove_log, set_aside},
    files,
};

/// `settings` (collection) and `jobs` (dated).
fn config(backup: bool) -> Config {
    let lines = format!(
        "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nwal_retain_days = 30\nbackup = {backup}"
    );
    Config::new().dated("jobs", &lines).collection("settings", &lines)
}

fn store(conn: &mut Conn, storage: &str, range: std::ops::RangeInclusive<u64>) {
    for n in range {
        let mut store = json!({"op": "store", "storage": storage, "key": format!("k{n}"), "data": data(n)});
        if storage == "jobs" {
            store["date"] = json!(DAY);
        }
        conn.ok(store);
    }
}

fn key_count(conn: &mut Conn, storage: &str) -> usize {
    let mut keys = json!({"op": "keys", "storage": storage, "limit": 1000});
    if storage == "jobs" {
        keys["date"] = json!(DAY);
    }
    conn.ok(keys)["keys"].as_array().unwrap().len()
}

fn next_seq(conn: &mut Conn, storage: &str) -> u64 {
    let mut next = json!({"op": "store", "storage": storage, "key": "next", "data": {}});
    if storage == "jobs" {
        next["date"] = json!(DAY);
    }
    conn.ok(next)["seq"].as_u64().unwrap()
}

fn repair(site: &Site, storage: &str, option: &str) -> String {
    let mut command = Command::new(binary("fastpersist"));
    command.args(["repair", "--storage", storage, option, "--config"]).arg(site.config_file());
    let output = command.output().expect("run fastpersist");
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

/// Records 1 to 10 in one segment and 11 to 20 in the next, all of them flushed; `before_end` comes before the daemon stops.
fn two_segments(storage: &str, backup: bool, before_end: impl FnOnce(&mut Conn)) -> (Site, Vec<PathBuf>) {
    let site = Site::new(&config(backup));
    let daemon = site.start();
    store(&mut daemon.connect(), storage, 1..=10);
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, storage, 11..=20);
    conn.ok(json!({"op": "flush"}));
    before_end(&mut conn);
    daemon.stop();
    let segments = files::segments(&site.path(storage));
    assert_eq!(segments.len(), 2, "{segments:?}");
    (site, segments)
}

#[test]
fn a_log_that_ends_before_the_sound_latest_values_replaces_nothing() {
    let (site, segments) = two_segments("settings", false, |_| {});
    fs::remove_file(&segments[1]).unwrap();
    Fault::Header.apply(&site.path("settings/storage_history.duckdb"));
    let exit = site.refused_start();
    assert!(exit.stderr.contains("it ends with record 10, and there were 20"), "{}", exit.stderr);
    let text = repair(&site, "settings", "--dry-run");
    assert!(text.contains("older values and deletions would be lost"), "{text}");
    assert!(!text.contains("\nnothing would be lost"), "{text}");
    repair(&site, "settings", "--accept-loss");
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(key_count(&mut conn, "settings"), 20, "the sound file stays");
    assert_eq!(next_seq(&mut conn, "settings"), 21, "no place is given again");
    conn.ok(json!({"op": "flush"}));
    health(&mut conn, true, &[]);
}

#[test]
fn a_log_that_ends_before_a_backup_replaces_nothing() {
    for fault in [Fault::Header, Fault::Gone] {
        for (storage, databases) in [
            ("jobs", &["jobs/2025-01-15/data.duckdb"][..]),
            ("settings", &["settings/storage_history.duckdb", "settings/storage_latest.duckdb"]),
        ] {
            let what = format!("{storage}, {fault:?}");
            let (site, segments) = two_segments(storage, true, |conn| {
                let mut backup = json!({"op": "backup", "storage": storage});
                if storage == "jobs" {
                    backup["date"] = json!(DAY);
                }
                conn.ok(backup);
            });
            fs::remove_file(&segments[1]).unwrap();
            let _ = fs::remove_file(site.path("jobs").join(DAY).join("settled"));
            for file in databases {
                fault.apply(&site.path(file));
            }
            let exit = site.refused_start();
            assert!(exit.stderr.contains("nothing tells what came after it"), "{what}: {}", exit.stderr);
            let text = repair(&site, storage, "--dry-run");
            assert!(
                text.contains("(up to record 20)") && text.contains("cannot be counted"),
                "{what}: {text}"
            );
            repair(&site, storage, "--accept-loss");
            let daemon = site.start();
            let mut conn = daemon.connect();
            assert_eq!(key_count(&mut conn, storage), 20, "{what}");
            assert_eq!(next_seq(&mut conn, storage), 21, "{what}: no place is given again");
            health(&mut conn, true, &[]);
        }
    }
}

#[test]
fn a_removed_backup_still_tells_how_far_a_date_went() {
    let (site, segments) = two_segments("jobs", true, |conn| {
        conn.ok(json!({"op": "backup", "storage": "jobs", "date": DAY}));
    });
    let day = site.path("jobs").join(DAY);
    fs::remove_file(&segments[1]).unwrap();
    let _ = fs::remove_file(day.join("settled"));
    fs::rename(day.join("backup.json"), day.join("backup.json.removed")).unwrap();
    fs::remove_file(day.join("data.duckdb.backup")).unwrap();
    fs::remove_file(day.join("data.duckdb")).unwrap();
    let exit = site.refused_start();
    assert!(exit.stderr.contains("it ends with record 10, and there were 20"), "{}", exit.stderr);
    let text = repair(&site, "jobs", "--accept-loss");
    assert!(text.contains("records 11 to 20 (10) would be lost"), "{text}");
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(key_count(&mut conn, "jobs"), 10);
    // The log ends in a gap: a flush is through with it, and nothing stays pending.
    conn.ok(json!({"op": "flush"}));
    let stats = conn.ok(json!({"op": "stats"}));
    assert_eq!(stats["storages"]["jobs"]["pending_writes"], 0, "{stats}");
    let backup = conn.ok(json!({"op": "backup", "storage": "jobs", "date": DAY}));
    assert!(backup.to_string().contains("\"seq\":20"), "{backup}");
    assert_eq!(next_seq(&mut conn, "jobs"), 21, "no place is given again");
    daemon.stop();
    assert_eq!(fs::read_to_string(day.join("settled")).unwrap().split(' ').next(), Some("21"));
}

/// Where a mount was away for a while, or a person put them back, the files of before stand in place of newer ones, and the
/// log of what came later may be removed already. Its records were gone without a word, and their places given again.
#[test]
fn a_database_of_before_is_not_taken_for_all_that_there_was() {
    for (storage, databases) in [
        ("jobs", &["jobs/2025-01-15/data.duckdb"][..]),
        ("settings", &["settings/storage_history.duckdb", "settings/storage_latest.duckdb"]),
    ] {
        for backup in [false, true] {
            let what = format!("{storage}, backup {backup}");
            let site = Site::new(&config(backup));
            let daemon = site.start();
            store(&mut daemon.connect(), storage, 1..=10);
            daemon.stop();
            let kept: Vec<_> = databases.iter().map(|file| fs::read(site.path(file)).unwrap()).collect();
            let daemon = site.start();
            let mut conn = daemon.connect();
            store(&mut conn, storage, 11..=20);
            if backup {
                conn.ok(json!({"op": "backup", "storage": storage}));
            }
            drop(conn);
            daemon.stop();
            remove_log(&site.path(storage), 20);
            for (file, bytes) in databases.iter().zip(&kept) {
                fs::write(site.path(file), bytes).unwrap();
            }
            if !backup {
                // A date without a log is looked at when somebody asks for it.
                let told = if storage == "jobs" {
                    let keys = json!({"op": "keys", "storage": storage, "date": DAY});
                    site.start().connect().ask(keys)["error"].to_string()
                } else {
                    let exit = site.refused_start();
                    assert_eq!(exit.code, Some(78), "{what}: {}", exit.stderr);
                    exit.stderr
                };
                let says = "is complete up to record 10, and there were 20 by the notes beside the log";
                assert!(told.contains(says), "{what}: {told}");
                let text = repair(&site, storage, "--accept-loss");
                assert!(text.contains("records 11 to 20 (10) would be lost"), "{what}: {text}");
            }
            let daemon = site.start();
            let mut conn = daemon.connect();
            assert_eq!(key_count(&mut conn, storage), if backup { 20 } else { 10 }, "{what}");
            assert_eq!(next_seq(&mut conn, storage), 21, "{what}: no place is given again");
            conn.ok(json!({"op": "flush"}));
            health(&mut conn, true, &[]);
            for file in databases.iter().filter(|_| backup) {
                let aside = set_aside(&site.path(file));
                assert!(aside[0].to_string_lossy().ends_with("Z-outdated"), "{what}: {aside:?}");
            }
        }
    }
}

#[test]
fn an_older_segment_without_a_readable_line_is_not_a_torn_end() {
    let site = Site::new(&config(false));
    let daemon = site.start();
    store(&mut daemon.connect(), "settings", 1..=1);
    daemon.stop();
    let daemon = site.start();
    store(&mut daemon.connect(), "settings", 2..=3);
    daemon.kill();
    let segments = files::segments(&site.path("settings"));
    assert_eq!(segments.len(), 2, "{segments:?}");
    let (_, line) = files::wal_lines(&segments[0]).remove(0);
    let mut bytes = fs::read(&segments[0]).unwrap();
    bytes[line.len() / 2] ^= 1;
    fs::write(&segments[0], &bytes).unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(key_count(&mut conn, "settings"), 3);
    assert_eq!(fs::read(&segments[0]).unwrap(), bytes, "what is flushed is not read, and stays");
    let torn = files::tree(&site.path("settings"));
    assert!(!torn.iter().any(|path| path.to_string_lossy().contains("torn-")), "{torn:?}");
    health(&mut conn, true, &["wal_damaged"]);
}
