//! `durability`: what each answer promises, and that a killed daemon keeps both.

use serde_json::{Value, json};

use crate::harness::{Config, PATIENCE, Site, wait_for};

#[test]
fn each_answer_says_which_it_was() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (durability, durable) in [(None, true), (Some("sync"), true), (Some("buffered"), false)] {
        for storage in ["jobs", "settings"] {
            let ask = |mut request: Value| {
                request["storage"] = json!(storage);
                if let Some(durability) = durability {
                    request["durability"] = json!(durability);
                }
                request
            };
            let key = durability.unwrap_or("default");
            let stored = conn.ok(ask(json!({"op": "store", "key": key, "data": {}})));
            assert_eq!(stored["durable"], durable, "{stored}");
            let deleted = conn.ok(ask(json!({"op": "delete", "key": key})));
            assert_eq!((&deleted["durable"], &deleted["deleted"]), (&json!(durable), &json!(true)));
            let batch =
                conn.ok(ask(json!({"op": "batch", "ops": [{"op": "store", "key": key, "data": {}}]})));
            assert_eq!(batch["durable"], durable, "{batch}");
        }
    }
    conn.refused(
        json!({"op": "store", "storage": "jobs", "key": "k", "data": {}, "durability": "none"}),
        "bad_request",
    );
    // It stands on the batch, never on its ops.
    let ops = json!([{"op": "store", "key": "k", "data": {}, "durability": "sync"}]);
    conn.refused(json!({"op": "batch", "storage": "jobs", "ops": ops}), "bad_request");
}

#[test]
fn both_survive_the_daemons_death() {
    // A killed process loses no byte that it has written to a file; only the machine's death could.
    let site = Site::new(&Config::both());
    let mut daemon = site.start();
    for round in 0..3 {
        let mut conn = daemon.connect();
        for n in 0..100 {
            let durability = if n % 2 == 0 { "sync" } else { "buffered" };
            let key = format!("{round}-{n:03}");
            for storage in ["jobs", "settings"] {
                conn.ok(json!({"op": "store", "storage": storage, "key": key, "data": {"n": n}, "durability": durability}));
            }
        }
        daemon.kill();
        daemon = site.start();
        let mut conn = daemon.connect();
        for storage in ["jobs", "settings"] {
            let keys = conn.ok(json!({"op": "keys", "storage": storage, "limit": 1000}));
            assert_eq!(keys["keys"].as_array().unwrap().len(), 100 * (round + 1), "{storage}");
        }
    }
}

#[test]
fn a_buffered_write_is_seen_by_every_reader_at_once() {
    let site = Site::new(&Config::new().dated("jobs", "wal_sync_interval_ms = 60000"));
    let daemon = site.start();
    let (mut writer, mut reader) = (daemon.connect(), daemon.connect());
    for n in 0..200 {
        writer.ok(json!({"op": "store", "key": "k", "data": {"n": n}, "durability": "buffered"}));
        assert_eq!(reader.ok(json!({"op": "get_key_process", "key": "k"}))["record"]["data"]["n"], n);
    }
    // One that waits for the disk stands behind them in the same file, and takes them along.
    let stored = writer.ok(json!({"op": "store", "key": "k2", "data": {}}));
    assert_eq!((&stored["seq"], &stored["durable"]), (&json!(201), &json!(true)));
}

#[test]
fn buffered_writes_are_flushed_like_all_others() {
    let site =
        Site::new(&Config::new().dated("jobs", "cache_max_bytes = 1\nduckdb_flush_interval_seconds = 1"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "key": "k", "data": {"n": 1}, "durability": "buffered"}));
    wait_for("the flush by interval takes a buffered write", PATIENCE, || {
        let stats = conn.ok(json!({"op": "stats"}));
        (crate::flush::stat(&stats, "pending_writes") == 0).then_some(())
    });
    assert_eq!(conn.ok(json!({"op": "get_key_process", "key": "k"}))["record"]["data"]["n"], 1);
}
