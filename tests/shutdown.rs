//! SIGTERM and SIGINT: what was read is answered, everything is flushed, exit 0.

use std::{sync::mpsc, thread};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Config, Conn, Site, python};

const NO_FLUSH: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

fn config() -> Config {
    Config::new().dated("jobs", NO_FLUSH).collection("settings", NO_FLUSH)
}

#[test]
fn either_signal_flushes_everything_and_ends_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let site = Site::new(&config());
        let daemon = site.start();
        let mut conn = daemon.connect();
        for n in 0..100 {
            let date = format!("2025-01-{:02}", n % 5 + 1);
            conn.ok(
                json!({"op": "store", "storage": "jobs", "date": date, "key": format!("k{n}"), "data": {}}),
            );
            conn.ok(json!({"op": "store", "storage": "settings", "key": format!("k{}", n % 10), "data": {}, "value": n}));
        }
        daemon.signal(signal);
        daemon.ended_cleanly();
        assert!(Conn::try_connect(site.socket()).is_err(), "nobody listens any more");
        if python::available() {
            for day in 1..=5 {
                let file = site.path(&format!("jobs/2025-01-0{day}/data.duckdb"));
                assert_eq!(python::value(&file, "SELECT count(*) FROM storage"), 20);
            }
            let history = python::value(
                &site.path("settings/storage_history.duckdb"),
                "SELECT count(*) FROM storage_history",
            );
            let latest = python::value(
                &site.path("settings/storage_latest.duckdb"),
                "SELECT count(*) FROM storage_latest",
            );
            assert_eq!((history, latest), (json!(100), json!(10)));
        }
        let daemon = site.start();
        let stats = daemon.connect().ok(json!({"op": "stats"}));
        assert_eq!(crate::flush::stat(&stats, "pending_writes"), 0, "nothing had to be played again");
    }
}

#[test]
fn what_was_sent_before_is_answered_and_what_was_answered_is_there() {
    let site = Site::new(&config());
    for round in 0..3 {
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.send_all((0..2000).map(|n| {
            let key = format!("r{round}-{n:04}");
            json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": key, "data": {"n": n}})
        }));
        // The first answer says that it has begun to read.
        assert_eq!(conn.answer()["ok"], true);
        daemon.signal(Signal::TERM);
        let mut stored = 1;
        while let Some(text) = conn.next() {
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["ok"] == true {
                stored += 1;
            } else {
                assert_eq!(answer["error"]["code"], "shutting_down", "{answer}");
                assert_eq!(answer["error"]["retryable"], true, "{answer}");
            }
        }
        daemon.ended_cleanly();
        let daemon = site.start();
        let prefix = format!("r{round}-");
        let request =
            json!({"op": "keys", "storage": "jobs", "date": "2025-01-15", "prefix": prefix, "limit": 3000});
        let found = daemon.connect().ok(request)["keys"].as_array().unwrap().len();
        assert!(found >= stored, "{stored} answered, {found} there");
        daemon.stop();
    }
}

#[test]
fn writers_at_work_lose_nothing_that_was_answered() {
    let site = Site::new(&config());
    let daemon = site.start();
    let (report, answered) = mpsc::channel();
    thread::scope(|scope| {
        for writer in 0..4 {
            let mut conn = daemon.connect();
            let report = report.clone();
            scope.spawn(move || {
                for n in 0.. {
                    let key = format!("w{writer}-{n:06}");
                    let request = json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": key, "data": {}});
                    match conn.try_ask(request) {
                        Some(answer) if answer["ok"] == true => report.send(key).unwrap(),
                        Some(answer) => assert_eq!(answer["error"]["code"], "shutting_down", "{answer}"),
                        None => return,
                    }
                }
            });
        }
        let mut first: Vec<String> = (0..200).map(|_| answered.recv().unwrap()).collect();
        daemon.signal(Signal::TERM);
        drop(report);
        first.extend(answered.iter());
        daemon.ended_cleanly();
        let daemon = site.start();
        let mut conn = daemon.connect();
        let reads = first
            .iter()
            .map(|key| json!({"op": "get_key_process", "storage": "jobs", "date": "2025-01-15", "key": key}));
        for (got, key) in conn.all_ok(reads).iter().zip(&first) {
            assert!(got["record"].is_object(), "{key} was answered and is gone");
        }
    });
}

#[test]
fn idle_and_half_sent_clients_do_not_hold_it_up() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut idle: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    idle[0].ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "k", "data": {}}));
    idle[1].send_bytes(b"{\"op\":\"store\",\"storage\":\"jobs\",\"date\":\"2025-01-15\",\"key\":\"half");
    daemon.stop();
    let daemon = site.start();
    let keys = daemon.connect().ok(json!({"op": "keys", "storage": "jobs", "date": "2025-01-15"}));
    assert_eq!(keys["keys"], json!(["k"]));
}

#[test]
fn a_second_signal_is_as_clean() {
    let site =
        Site::new(&Config::new().dated("jobs", &format!("{NO_FLUSH}\nparquet_path = \"{{dir}}/parquet\"")));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.all_ok(
        (0..2000)
            .map(|n| json!({"op": "store", "date": "2025-01-15", "key": format!("k{n}"), "data": {"n": n}})),
    );
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::TERM);
    daemon.ended_cleanly();
    let daemon = site.start();
    let keys = daemon.connect().ok(json!({"op": "keys", "date": "2025-01-15", "limit": 5000}));
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2000);
}

#[test]
fn it_can_be_stopped_as_soon_as_it_answers() {
    let site = Site::new(&config());
    for _ in 0..5 {
        site.start().stop();
    }
}
