//! After SIGKILL: every answered write is there, once, in history too.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Random, Site, python};

fn counts(conn: &mut Conn) -> (usize, u64) {
    let keys = conn.ok(json!({"op": "keys", "storage": "jobs", "date": "2025-01-15", "limit": 10000}));
    let item = conn.ok(json!({"op": "get_item", "storage": "settings", "key": "counter"}));
    (keys["keys"].as_array().unwrap().len(), item["record"]["value"].as_u64().unwrap_or(0))
}

fn write(conn: &mut Conn, from: u64, count: u64) {
    conn.all_ok((from..from + count).flat_map(|n| {
        [
            json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": format!("k{n:04}"), "data": {"n": n}}),
            json!({"op": "store", "storage": "settings", "key": "counter", "data": {}, "value": n + 1}),
        ]
    }));
}

#[test]
fn every_answered_write_is_there_after_each_of_many_kills() {
    let site = Site::new(&Config::both());
    for round in 0..8 {
        let daemon = site.start();
        let mut conn = daemon.connect();
        assert_eq!(counts(&mut conn), (round * 50, round as u64 * 50), "round {round}");
        write(&mut conn, round as u64 * 50, 50);
        // Some rounds die with everything flushed, some with half, some with nothing.
        if round % 3 == 1 {
            for storage in ["jobs", "settings"] {
                conn.ok(json!({"op": "flush", "storage": storage}));
            }
        }
        daemon.kill();
    }
}

#[test]
fn history_repeats_nothing_and_misses_nothing() {
    let site =
        Site::new(&Config::new().dated("jobs", "batch_size = 7").collection("settings", "batch_size = 7"));
    let (mut written, mut random) = (0, Random::new());
    for _ in 0..12 {
        let daemon = site.start();
        let mut conn = daemon.connect();
        let count = random.between(1, 40);
        write(&mut conn, written, count);
        written += count;
        // The flushes that these writes have started are in the middle of their work somewhere.
        std::thread::sleep(Duration::from_micros(random.between(0, 20_000)));
        daemon.kill();
    }
    let daemon = site.start();
    assert_eq!(counts(&mut daemon.connect()), (written as usize, written));
    daemon.stop();
    if !python::available() {
        return;
    }
    let expected: Vec<Value> = (1..=written).map(|n| json!([n, n, n])).collect();
    let history = python::rows(
        &site.path("settings/storage_history.duckdb"),
        "SELECT seq, value_int, version FROM storage_history ORDER BY seq",
    );
    assert_eq!(json!(history), json!(expected));
    let latest = python::rows(
        &site.path("settings/storage_latest.duckdb"),
        "SELECT seq, value_int, version FROM storage_latest",
    );
    assert_eq!(json!(latest), json!([[written, written, written]]));
    let dated = python::rows(
        &site.path("jobs/2025-01-15/data.duckdb"),
        "SELECT count(*), count(DISTINCT key), max(version), max(seq) FROM storage",
    );
    assert_eq!(json!(dated), json!([[written, written, 1, written]]));
}

#[test]
fn dying_during_recovery_is_no_worse_than_dying() {
    let mut random = Random::new();
    let site = Site::new(&Config::both());
    let daemon = site.start();
    write(&mut daemon.connect(), 0, 500);
    daemon.kill();
    for _ in 0..15 {
        let daemon = site.spawn(site.command(), site.socket());
        std::thread::sleep(Duration::from_micros(random.between(0, 60_000)));
        daemon.kill();
    }
    let daemon = site.start();
    assert_eq!(counts(&mut daemon.connect()), (500, 500));
    daemon.stop();
    if python::available() {
        let rows = python::rows(
            &site.path("settings/storage_history.duckdb"),
            "SELECT count(*), count(DISTINCT seq), max(seq) FROM storage_history",
        );
        assert_eq!(json!(rows), json!([[500, 500, 500]]));
    }
}

#[test]
fn records_come_back_as_they_were_times_included() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "k", "process_name": "p", "data": {"status": "s", "username": "u"}}));
    conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "collection_name": "c", "item_name": "i", "data": {"status_int": 4}, "value": 1.0}));
    let reads = [
        r#"{"op":"get_key","storage":"jobs","date":"2025-01-15","key":"k"}"#,
        r#"{"op":"get_key","storage":"settings","key":"k"}"#,
    ];
    let before = reads.map(|read| {
        conn.send(read);
        conn.text()
    });
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    let after_kill = reads.map(|read| {
        conn.send(read);
        conn.text()
    });
    assert_eq!(before, after_kill, "byte for byte, updated_at too");
    drop(conn);
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (read, before) in reads.iter().zip(before) {
        assert_eq!(conn.ok(read), serde_json::from_str::<Value>(&before).unwrap(), "from DuckDB");
    }
}

#[test]
fn a_batch_that_was_not_answered_is_there_whole_or_not_at_all() {
    let mut random = Random::new();
    let site = Site::new(&Config::both());
    let mut whole = 0;
    for round in 0..10 {
        let daemon = site.start();
        let mut conn = daemon.connect();
        let ops: Value = (0..2000)
            .map(|n| json!({"op": "store", "key": format!("r{round}-{n:04}"), "data": {"n": n}}))
            .collect();
        conn.send(json!({"op": "batch", "storage": "jobs", "date": "2025-01-15", "ops": ops}));
        std::thread::sleep(Duration::from_micros(random.between(0, 8_000)));
        daemon.kill();
        let answered = conn.next().is_some();
        let daemon = site.start();
        let prefix = format!("r{round}-");
        let request =
            json!({"op": "keys", "storage": "jobs", "date": "2025-01-15", "prefix": prefix, "limit": 5000});
        let found = daemon.connect().ok(request)["keys"].as_array().unwrap().len();
        assert!(found == 2000 || (found == 0 && !answered), "{found} of 2000, answered: {answered}");
        whole += usize::from(found == 2000);
    }
    eprintln!("{whole} of 10 batches had been written");
}
