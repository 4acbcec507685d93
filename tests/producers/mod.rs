//! Producers: a write that comes again under its number is stored once, whatever happened in between.

pub(crate) mod client;
mod kept;
mod refused;

use std::thread;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, files, wait_for};

const STORAGES: [&str; 2] = ["jobs", "settings"];

fn config(lines: &str) -> Config {
    Config::new().dated("jobs", lines).collection("settings", lines)
}

fn start(lines: &str) -> (Site, Daemon, Conn) {
    let site = Site::new(&config(lines));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

/// A request under a producer's number. Dates do not change under it at midnight.
fn under(mut request: Value, storage: &str, producer: &str, seq: u64) -> Value {
    request["storage"] = json!(storage);
    request["producer"] = json!(producer);
    request["producer_seq"] = json!(seq);
    on_a_date(request)
}

fn on_a_date(mut request: Value) -> Value {
    if request["storage"] == "jobs" {
        request["date"] = json!("2025-01-15");
    }
    request
}

fn store(storage: &str, key: &str, producer: &str, seq: u64) -> Value {
    under(json!({"op": "store", "key": key, "data": {"n": seq}}), storage, producer, seq)
}

/// Asks, and says whether it was a repetition.
fn is_repeated(conn: &mut Conn, request: &Value) -> bool {
    let answer = conn.ok(request);
    assert_eq!(answer["durable"], true, "{answer}");
    answer.get("duplicate").is_some_and(|duplicate| *duplicate == true)
}

fn record(conn: &mut Conn, storage: &str, key: &str) -> Value {
    let answer = conn.ok(on_a_date(json!({"op": "get_key", "storage": storage, "key": key})));
    answer["records"][0].clone()
}

#[test]
fn the_same_number_again_stores_nothing() {
    let (_site, _daemon, mut conn) = start("");
    for storage in STORAGES {
        let first = store(storage, "k", "p", 5);
        assert_eq!(conn.ok(&first), json!({"ok": true, "seq": 1, "durable": true}));
        let repeated = json!({"ok": true, "duplicate": true, "seq": 1, "durable": true});
        assert_eq!(conn.ok(&first), repeated, "the answer that was lost");
        // Another write under a number that was there before is one that was written before.
        assert_eq!(conn.ok(store(storage, "other", "p", 5)), repeated);
        let lower = conn.ok(store(storage, "other", "p", 4));
        assert_eq!((&lower["duplicate"], &lower["seq"]), (&json!(true), &Value::Null));
        assert_eq!(record(&mut conn, storage, "other"), Value::Null);
        assert_eq!(conn.ok(store(storage, "k", "p", 100))["seq"], 2, "gaps are no matter");
        assert_eq!(conn.ok(store(storage, "k", "another", 1))["seq"], 3);
        assert_eq!(conn.ok(&first)["seq"], Value::Null, "where it was written is not known any more");
        assert_eq!(record(&mut conn, storage, "k")["seq"], 3);
    }
    let elsewhere = json!({"op": "store", "storage": "jobs", "date": "2025-01-16", "key": "k", "data": {}, "producer": "p", "producer_seq": 5});
    assert!(!is_repeated(&mut conn, &elsewhere), "each partition has producers of its own");
}

#[test]
fn deletes_and_batches_are_repeated_too() {
    let (_site, _daemon, mut conn) = start("");
    for storage in STORAGES {
        let ops = json!([{"op": "store", "key": "a", "data": {}}, {"op": "store", "key": "b", "data": {}}, {"op": "delete", "key": "none"}]);
        let batch = under(json!({"op": "batch", "ops": ops}), storage, "p", 1);
        assert_eq!(conn.ok(&batch), json!({"ok": true, "seqs": [1, 2, null], "durable": true}));
        assert_eq!(conn.ok(&batch), json!({"ok": true, "duplicate": true, "seqs": null, "durable": true}));
        let delete = |seq| under(json!({"op": "delete", "key": "a"}), storage, "p", seq);
        assert_eq!(conn.ok(delete(2)), json!({"ok": true, "seq": 3, "deleted": true, "durable": true}));
        let again = conn.ok(delete(2));
        assert_eq!(again, json!({"ok": true, "duplicate": true, "seq": 3, "deleted": true, "durable": true}));
        // What writes nothing leaves no trace, so it is answered anew.
        for _ in 0..2 {
            let nothing = conn.ok(delete(3));
            assert_eq!(nothing, json!({"ok": true, "seq": null, "deleted": false, "durable": true}));
        }
        assert_eq!(conn.ok(store(storage, "a", "p", 3))["seq"], 4);
        let too_late = conn.ok(delete(3));
        assert_eq!((&too_late["duplicate"], &too_late["deleted"]), (&json!(true), &json!(true)));
        assert_eq!(record(&mut conn, storage, "a")["seq"], 4, "it was not deleted again");
    }
}

#[test]
fn a_conflict_stores_nothing_and_moves_nothing() {
    let (_site, _daemon, mut conn) = start("");
    for storage in STORAGES {
        conn.ok(on_a_date(json!({"op": "store", "storage": storage, "key": "k", "data": {}})));
        let conditional = |if_seq: u64| {
            let mut request = store(storage, "k", "p", 7);
            request["if_seq"] = json!(if_seq);
            request
        };
        conn.refused(conditional(9), "conflict");
        conn.refused(conditional(9), "conflict");
        assert!(!is_repeated(&mut conn, &conditional(1)));
        // Its condition is not true any more, and need not be: it was stored.
        assert!(is_repeated(&mut conn, &conditional(1)));
        let bad = under(
            json!({"op": "batch", "ops": [{"op": "store", "key": "x", "data": {}}, {"op": "store", "key": "k", "data": {}, "if_seq": 0}]}),
            storage,
            "p",
            8,
        );
        conn.refused(&bad, "conflict");
        assert!(!is_repeated(&mut conn, &store(storage, "k", "p", 8)));
    }
}

#[test]
fn two_that_come_together_are_told_apart() {
    let (_site, daemon, mut conn) = start("");
    for storage in STORAGES {
        let lines: Vec<_> = [1, 1, 2, 2, 1, 3].iter().map(|seq| store(storage, "k", "p", *seq)).collect();
        let answers = conn.pipeline(&lines);
        let repeated: Vec<_> = answers.iter().map(|answer| answer.get("duplicate").is_some()).collect();
        assert_eq!(repeated, [false, true, false, true, true, false], "{answers:?}");
    }
    // The same numbers over many connections at once: each is stored by one of them.
    let stored: usize = thread::scope(|scope| {
        let writers: Vec<_> = (0..6)
            .map(|_| {
                let mut conn = daemon.connect();
                scope.spawn(move || {
                    let mut stored = 0;
                    for seq in 1..=200 {
                        stored += usize::from(!is_repeated(&mut conn, &store("settings", "many", "q", seq)));
                    }
                    stored
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).sum()
    });
    assert!(stored <= 200, "{stored}");
    assert_eq!(
        conn.ok(json!({"op": "history", "storage": "settings", "key": "many", "limit": 1000}))["records"]
            .as_array()
            .unwrap()
            .len(),
        stored
    );
    assert_eq!(record(&mut conn, "settings", "many")["data"]["n"], 200);
}

/// Stops or kills a daemon in every way there is, and asks the next one.
#[test]
fn what_was_written_is_remembered_over_kills_flushes_and_restarts() {
    // Log files go as soon as they are flushed, so that nothing but DuckDB can know.
    for lines in ["", "wal_retain_days = 0\nmax_wal_size = 65536\nmax_wal_age_seconds = 1"] {
        let site = Site::new(&config(&format!("{lines}\nduckdb_flush_interval_seconds = 3600")));
        let mut last = 0;
        for (round, flushed, killed) in
            [(1, false, true), (2, true, true), (3, true, false), (4, false, false), (5, false, true)]
        {
            let daemon = site.start();
            let mut conn = daemon.connect();
            for storage in STORAGES {
                for (producer, seq) in [("p", last), ("q", last * 10), ("p", 1)] {
                    let request = store(storage, "k", producer, seq);
                    assert!(last == 0 || is_repeated(&mut conn, &request), "round {round}: {request}");
                }
                assert!(!is_repeated(&mut conn, &store(storage, "k", "p", last + 10)));
                assert!(!is_repeated(&mut conn, &store(storage, "k", "q", (last + 10) * 10)));
                if flushed {
                    conn.ok(json!({"op": "flush", "storage": storage}));
                    // Behind the flush, so that log and database have a part of it each.
                    assert!(!is_repeated(&mut conn, &store(storage, "k", "p", last + 11)));
                }
            }
            last += if flushed { 11 } else { 10 };
            for storage in STORAGES {
                if flushed {
                    assert!(!is_repeated(&mut conn, &store(storage, "k", "q", last * 10)));
                }
            }
            let producers = conn.ok(json!({"op": "stats"}))["storages"]["jobs"]["producers"].clone();
            assert_eq!(producers, 2, "round {round}");
            if killed { daemon.kill() } else { daemon.stop() }
        }
    }
}

#[test]
fn when_the_log_is_gone_duckdb_still_knows() {
    let lines = "wal_retain_days = 0\nmax_wal_age_seconds = 1\nduckdb_flush_interval_seconds = 1";
    let (site, daemon, mut conn) = start(lines);
    for storage in STORAGES {
        conn.ok(store(storage, "k", "p", 7));
    }
    wait_for("the log files go", PATIENCE, || {
        STORAGES.iter().all(|storage| files::segments(&site.path(storage)).is_empty()).then_some(())
    });
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in STORAGES {
        assert!(is_repeated(&mut conn, &store(storage, "k", "p", 7)), "{storage}");
        assert!(!is_repeated(&mut conn, &store(storage, "k", "p", 8)), "{storage}");
    }
}

#[test]
fn a_buffered_write_is_repeated_and_then_durable() {
    let (_site, daemon, mut conn) = start("wal_sync_interval_ms = 60000");
    let mut request = store("settings", "k", "p", 1);
    request["durability"] = json!("buffered");
    assert_eq!(conn.ok(&request)["durable"], false);
    assert_eq!(conn.ok(&request), json!({"ok": true, "duplicate": true, "seq": 1, "durable": false}));
    let durable =
        |conn: &mut Conn| conn.ok(json!({"op": "stats"}))["storages"]["settings"]["durable_seq"].clone();
    assert_eq!(durable(&mut conn), 0);
    assert!(is_repeated(&mut conn, &store("settings", "k", "p", 1)));
    assert_eq!(durable(&mut conn), 1, "what is answered as durable is");
    daemon.kill();
}

#[test]
fn the_number_of_producers_is_bounded_and_the_oldest_is_forgotten() {
    let config = config("duckdb_flush_interval_seconds = 3600").limits("max_producers = 3");
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in STORAGES {
        for producer in ["a", "b", "c"] {
            conn.ok(store(storage, "k", producer, 5));
        }
        conn.ok(json!({"op": "flush", "storage": storage}));
        conn.ok(store(storage, "k", "a", 6));
        conn.ok(store(storage, "k", "d", 5));
    }
    drop(conn);
    let check = |daemon: &Daemon| {
        let mut conn = daemon.connect();
        for storage in STORAGES {
            for (producer, seq) in [("a", 6), ("c", 5), ("d", 5)] {
                assert!(is_repeated(&mut conn, &store(storage, "k", producer, seq)), "{storage} {producer}");
            }
            let stats = conn.ok(json!({"op": "stats"}));
            assert_eq!(stats["storages"][storage]["producers"], 3, "{storage}");
        }
    };
    check(&daemon);
    daemon.kill();
    let daemon = site.start();
    check(&daemon);
    daemon.stop();
    let daemon = site.start();
    check(&daemon);
    let mut conn = daemon.connect();
    for storage in STORAGES {
        assert!(!is_repeated(&mut conn, &store(storage, "k", "b", 5)), "b is forgotten");
    }
}

#[test]
fn the_log_has_the_number_in_the_line_of_the_write() {
    let (site, _daemon, mut conn) = start("");
    conn.ok(store("settings", "k", "the \"producer\"", 5));
    let ops = json!([{"op": "store", "key": "a", "data": {"producer": "x", "producer_seq": 9}}]);
    conn.ok(under(json!({"op": "batch", "ops": ops}), "settings", "p", 6));
    let segment = files::segments(&site.path("settings")).pop().expect("a segment");
    let lines: Vec<Value> = files::wal_lines(&segment)
        .into_iter()
        .map(|(_, line)| serde_json::from_slice(&line).expect("a line of JSON"))
        .collect();
    let marks: Vec<_> = lines.iter().map(|line| (&line["producer"], &line["producer_seq"])).collect();
    assert_eq!(marks, [(&json!("the \"producer\""), &json!(5)), (&json!("p"), &json!(6))]);
    assert_eq!(lines[1]["ops"][0].get("producer"), None);
}

#[test]
fn half_a_producer_is_refused() {
    let (_site, _daemon, mut conn) = start("");
    let request = |fields: Value| {
        let mut request = json!({"op": "store", "storage": "jobs", "key": "k", "data": {}});
        for (name, value) in fields.as_object().expect("fields") {
            request[name] = value.clone();
        }
        request
    };
    for fields in [
        json!({"producer": "p"}),
        json!({"producer_seq": 1}),
        json!({"producer": "", "producer_seq": 1}),
        json!({"producer": "p", "producer_seq": 0}),
        json!({"producer": "p", "producer_seq": -1}),
        json!({"producer": "p", "producer_seq": "1"}),
        json!({"producer": "x".repeat(256), "producer_seq": 1}),
    ] {
        conn.refused(request(fields), "bad_request");
    }
    let inside = json!([{"op": "store", "key": "a", "data": {}, "producer": "p", "producer_seq": 1}]);
    conn.refused(json!({"op": "batch", "storage": "jobs", "ops": inside}), "bad_request");
    let largest = request(json!({"producer": "p", "producer_seq": u64::MAX, "date": "2025-01-15"}));
    assert!(!is_repeated(&mut conn, &largest) && is_repeated(&mut conn, &largest));
}
