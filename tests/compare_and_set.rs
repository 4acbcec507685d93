//! Read, change, write, by many processes at once: no step is lost.

use std::process::{Child, Stdio};

use fastpersist_client::{Client, CollectionRecord, ConnectOptions, Edit, Error, Value, blocking};
use serde_json::json;

use crate::harness::{Config, PATIENCE, Site, child, wait_for};

const STEPS: &str = "FASTPERSIST_TEST_STEPS";
const KIND: &str = "FASTPERSIST_TEST_WRITER";
const PROCESSES: u64 = 16;
const STEPS_IN_ALL: u64 = 10_000;

/// A process that counts up.
pub(crate) fn count_up(socket: &str) {
    let steps: u64 = std::env::var(STEPS).expect("the steps").parse().expect("a number");
    let options = ConnectOptions::new().socket(socket);
    if std::env::var(KIND).expect("the kind") == "blocking" {
        let client = blocking::Client::connect(options).expect("a daemon");
        let settings = client.collection("settings");
        for _ in 0..steps {
            settings.update("counter").item_name("steps").run(step).expect("a step");
        }
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(options).await.expect("a daemon");
        let settings = client.collection("settings");
        for _ in 0..steps {
            settings.update("counter").item_name("steps").run(step).await.expect("a step");
        }
    });
}

#[allow(clippy::unnecessary_wraps, reason = "an edit may fail, this one does not")]
fn step(record: Option<&CollectionRecord>) -> Result<Edit, Error> {
    let before = match record.and_then(|record| record.value.clone()) {
        Some(Value::Int(number)) => number,
        _ => 0,
    };
    Ok(Edit::store(&json!({})).value(before + 1))
}

#[test]
fn sixteen_processes_count_to_ten_thousand() {
    let site = Site::new(&Config::new().collection("settings", ""));
    let daemon = site.start();
    let exe = std::env::current_exe().expect("the test binary");
    let start = |number: u64| -> Child {
        let mut command = child::command(&exe, "count-up", site.socket());
        let kind = if number.is_multiple_of(2) { "blocking" } else { "async" };
        command.env(STEPS, (STEPS_IN_ALL / PROCESSES).to_string()).env(KIND, kind);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("start a process")
    };
    let mut processes: Vec<Child> = (0..PROCESSES).map(start).collect();
    for process in &mut processes {
        let status = wait_for("the counting ends", PATIENCE * 5, || process.try_wait().expect("wait"));
        assert!(status.success(), "{status}");
    }
    let mut conn = daemon.connect();
    let got =
        conn.ok(json!({"op": "get_item", "storage": "settings", "key": "counter", "item_name": "steps"}));
    assert_eq!(got["record"]["value"], STEPS_IN_ALL);
    assert_eq!(got["record"]["seq"], STEPS_IN_ALL, "each step was one write");
    let conflicts = conn.ok(json!({"op": "stats"}))["daemon"]["errors"]["conflict"].clone();
    eprintln!("{conflicts} conflicts on the way");
    assert!(conflicts.as_u64() > Some(0), "they did get into each other's way");
}

#[test]
fn an_update_deletes_keeps_and_gives_up() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let client = blocking::Client::connect(ConnectOptions::new().socket(site.socket())).expect("a daemon");
    let jobs = client.dated("jobs");
    let date = jobs.dates().expect("dates");
    assert!(date.is_empty());
    let update = || jobs.update("k").process_name("p");
    let kept = update().run(|record| {
        assert!(record.is_none());
        Ok(Edit::keep())
    });
    assert_eq!(kept.expect("nothing to do").seq, None);
    let stored = update().run(|_| Ok(Edit::store(&json!({"n": 1})).username("ann"))).expect("stored");
    assert_eq!((stored.seq, stored.attempts), (Some(1), 1));
    let seen = update().run(|record| {
        let record = record.expect("it is there");
        assert_eq!((record.data_json(), record.username.as_deref()), ("{\"n\":1}", Some("ann")));
        Err(Error::Data("not today".to_owned()))
    });
    assert_eq!(seen.expect_err("what the edit says").to_string(), "not today");
    // Somebody else is faster, every time.
    let mut conn = daemon.connect();
    let mut tries = 0;
    let beaten = update().attempts(3).run(|_| {
        tries += 1;
        conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "process_name": "p", "data": {"other": tries}}));
        Ok(Edit::store(&json!({})))
    });
    let error = beaten.expect_err("a conflict");
    assert_eq!((error.code(), tries), (Some(fastpersist_client::ErrorCode::Conflict), 3), "{error}");
    assert!(update().run(|_| Ok(Edit::delete())).expect("deleted").seq.is_some());
    assert!(jobs.get_key_process("k", Some("p")).expect("a read").is_none());
}
