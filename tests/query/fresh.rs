//! `fresh`: what was answered before a query is in its result, also while others write at full speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{rows, start};
use crate::harness::Config;

const WRITERS: usize = 8;
const QUERIES: u32 = 20;

#[test]
fn what_was_answered_is_in_the_result() {
    for model in ["dated", "collection"] {
        let config = Config::new();
        let (config, table) = match model {
            "dated" => (config.dated("only", ""), "storage"),
            _ => (config.collection("only", ""), "storage_latest"),
        };
        let (_site, daemon, mut conn) = start(&config);
        let mut reader = daemon.connect();
        for n in 1..30_u64 {
            conn.ok(json!({"op": "store", "key": format!("k{}", n % 7), "data": {"n": n}}));
            let sql = format!("SELECT max(seq), count(*) FROM {table}");
            let found = reader.ok(json!({"op": "query", "sql": sql}));
            assert_eq!(found["rows"], json!([[n, n.min(7)]]), "{model}");
        }
        let stats = conn.ok(json!({"op": "stats"}));
        assert_eq!(stats["storages"]["only"]["pending_writes"], 0, "{model}");
    }
}

#[test]
fn what_is_not_asked_to_be_fresh_does_not_flush() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    conn.ok(json!({"op": "store", "key": "a", "data": {}}));
    let stale = json!({"op": "query", "sql": "SELECT count(*) FROM storage", "fresh": false});
    assert_eq!(conn.ok(&stale)["rows"], json!([[0]]), "nothing is in DuckDB yet");
    assert_eq!(conn.ok(json!({"op": "stats"}))["storages"]["jobs"]["pending_writes"], 1);
    assert_eq!(rows(&mut conn, "SELECT count(*) FROM storage"), json!([[1]]));
    assert_eq!(conn.ok(&stale)["rows"], json!([[1]]));
}

#[test]
fn a_write_before_it_on_the_same_connection_is_seen() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let answers = conn.pipeline([
        json!({"op": "store", "key": "a", "data": {}}),
        json!({"op": "query", "sql": "SELECT count(*) FROM storage"}),
        json!({"op": "store", "key": "b", "data": {}}),
        json!({"op": "query", "sql": "SELECT count(*) FROM storage"}),
    ]);
    assert_eq!((&answers[1]["rows"], &answers[3]["rows"]), (&json!([[1]]), &json!([[2]])));
}

/// A dashboard beside eight writers: every result holds everything that was answered before it was asked for.
#[test]
fn a_dashboard_sees_every_answered_write_while_eight_write() {
    let (_site, daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (mut conn, stop, answered) = (daemon.connect(), Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    conn.ok(json!({"op": "store", "key": format!("w{writer}"), "data": {"n": n}}));
                    answered[writer].store(n, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut next = Instant::now();
    for _ in 0..QUERIES {
        let before: Vec<u64> = answered.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        let found = rows(&mut conn, "SELECT key, (data->>'$.n')::BIGINT, version FROM storage");
        for (writer, least) in before.into_iter().enumerate() {
            let row = found.as_array().unwrap().iter().find(|row| row[0] == format!("w{writer}"));
            let seen = row.map_or(0, |row| row[1].as_u64().unwrap());
            assert!(seen >= least, "writer {writer} was answered {least}, and {seen} is in the result");
            assert!(row.is_none_or(|row| row[1] == row[2]), "every write is counted: {row:?}");
        }
        next += Duration::from_millis(100);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("it wrote");
    }
}
