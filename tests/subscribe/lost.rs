//! What a repair had to leave out: never passed over in silence, told once, and with the way to go on.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{Subscriber, subscribe};
use crate::harness::{Config, Site, binary, files};

const DAY: &str = "2025-01-15";

fn with_day(storage: &str, mut fields: Value) -> Value {
    fields["storage"] = json!(storage);
    if storage == "jobs" {
        fields["date"] = json!(DAY);
    }
    fields
}

/// Ten records, of which a repair has left out the fourth and the fifth. `flushed`: the first six are in DuckDB, too.
fn repaired(storage: &str, flushed: bool) -> Site {
    let lines = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nwal_retain_days = 30";
    let site = Site::new(&Config::new().dated("jobs", lines).collection("settings", lines));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 1..=10 {
        conn.ok(with_day(storage, json!({"op": "store", "key": format!("k{n}"), "data": {"n": n}})));
        if flushed && n == 6 {
            conn.ok(json!({"op": "flush"}));
        }
    }
    daemon.kill();
    let segment = files::segments(&site.path(storage)).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    for (offset, line) in &files::wal_lines(&segment)[3..5] {
        bytes[offset + line.len() / 2] ^= 1;
    }
    fs::write(&segment, &bytes).unwrap();
    repair(&site, storage);
    assert!(fs::read_to_string(&segment).unwrap().contains("\"op\":\"gap\""), "the log has a gap");
    site
}

fn repair(site: &Site, storage: &str) {
    let mut command = Command::new(binary("fastpersist"));
    command.args(["repair", "--storage", storage, "--accept-loss", "--config"]).arg(site.config_file());
    let output = command.output().expect("run fastpersist");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// It is told up to the gap, then that there is one, and where it goes on.
fn check_gap(site: &Site, storage: &str) {
    let daemon = site.start();
    for from in 1..=3 {
        let mut subscriber = Subscriber::begin(&daemon, with_day(storage, json!({"from_seq": from})));
        subscriber.expect(from..=3);
        assert_eq!(subscriber.event(), json!({"id": 9, "event": "dropped", "last_seq": 3}));
    }
    for from in 4..=5 {
        let line = subscribe(9, with_day(storage, json!({"from_seq": from})));
        let error = daemon.connect().refused(line, "compacted");
        assert_eq!(error["oldest_seq"], 6, "from {from}: {error}");
    }
    for from in 6..=10 {
        let mut subscriber = Subscriber::begin(&daemon, with_day(storage, json!({"from_seq": from})));
        subscriber.expect(from..=10);
    }
    daemon.stop();
}

#[test]
fn places_that_are_lost_are_told_and_not_passed_over() {
    for storage in ["jobs", "settings"] {
        let site = repaired(storage, false);
        check_gap(&site, storage);
        // Now they are missing in the history, too.
        check_gap(&site, storage);
    }
}

#[test]
fn where_the_log_has_a_gap_a_collection_tells_what_its_history_has() {
    let site = repaired("settings", true);
    let daemon = site.start();
    for from in 1..=6 {
        let mut subscriber = Subscriber::begin(&daemon, with_day("settings", json!({"from_seq": from})));
        subscriber.expect(from..=10);
    }
}

#[test]
fn a_gap_at_the_end_of_a_log_is_passed_by_those_who_come_later() {
    let site = repaired("jobs", true);
    let segment = files::segments(&site.path("jobs")).pop().unwrap();
    // All lines behind the gap go: what the repair makes of them ends the log with a second one.
    let (offset, line) = files::wal_lines(&segment)
        .into_iter()
        .find(|(_, line)| line.starts_with(b"{\"op\":\"gap\""))
        .expect("a gap");
    let mut bytes = fs::read(&segment).unwrap();
    bytes.truncate(offset + line.len());
    fs::write(&segment, &bytes).unwrap();
    repair(&site, "jobs");
    let daemon = site.start();
    let line = subscribe(9, with_day("jobs", json!({"from_seq": 4})));
    let error = daemon.connect().refused(line, "compacted");
    let next = error["oldest_seq"].as_u64().expect("a place");
    let mut subscriber = Subscriber::begin(&daemon, with_day("jobs", json!({"from_seq": next})));
    let stored = with_day("jobs", json!({"op": "store", "key": "next", "data": {}}));
    let stored = daemon.connect().ok(stored);
    assert_eq!(stored["seq"], next);
    subscriber.expect([next]);
}
