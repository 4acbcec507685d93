//! `if_seq`: a write that counts only if nobody else has written.

use std::thread;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site};

fn start(lines: &str) -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::new().dated("jobs", lines).collection("settings", lines));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn store(storage: &str, if_seq: u64) -> Value {
    json!({"op": "store", "storage": storage, "key": "k", "data": {"if": if_seq}, "if_seq": if_seq})
}

fn conflict(conn: &mut Conn, request: &Value, current: u64) {
    let error = conn.refused(request, "conflict");
    assert_eq!(error["current_seq"], current, "{request}: {error}");
}

#[test]
fn a_store_counts_only_on_the_seq_it_names() {
    let (_site, _daemon, mut conn) = start("");
    for storage in ["jobs", "settings"] {
        conflict(&mut conn, &store(storage, 1), 0);
        assert_eq!(conn.ok(store(storage, 0))["seq"], 1);
        conflict(&mut conn, &store(storage, 0), 1);
        conflict(&mut conn, &store(storage, 2), 1);
        assert_eq!(conn.ok(store(storage, 1))["seq"], 2);
        conflict(&mut conn, &store(storage, 1), 2);
        let got = conn.ok(json!({"op": "get_key", "storage": storage, "key": "k"}));
        assert_eq!((&got["records"][0]["data"]["if"], &got["records"][0]["seq"]), (&json!(1), &json!(2)));
    }
}

#[test]
fn a_delete_counts_only_on_the_seq_it_names() {
    let (_site, _daemon, mut conn) = start("");
    for storage in ["jobs", "settings"] {
        let delete = |if_seq: u64| json!({"op": "delete", "storage": storage, "key": "k", "if_seq": if_seq});
        conflict(&mut conn, &delete(1), 0);
        // The record must not exist, and it does not: nothing to delete.
        let answer = conn.ok(delete(0));
        assert_eq!((&answer["deleted"], &answer["seq"]), (&json!(false), &Value::Null));
        conn.ok(store(storage, 0));
        conflict(&mut conn, &delete(0), 1);
        conflict(&mut conn, &delete(2), 1);
        assert_eq!(conn.ok(delete(1))["deleted"], true);
        conflict(&mut conn, &store(storage, 1), 0);
        assert_eq!(conn.ok(store(storage, 0))["seq"], 3, "what was deleted does not exist");
    }
}

#[test]
fn it_is_the_seq_of_the_record_and_not_of_the_partition() {
    let (_site, _daemon, mut conn) = start("");
    conn.ok(store("jobs", 0));
    for n in 0..5 {
        conn.ok(json!({"op": "store", "storage": "jobs", "key": format!("other{n}"), "data": {}}));
        conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "process_name": "p", "data": {}}));
    }
    assert_eq!(conn.ok(store("jobs", 1))["seq"], 12);
}

#[test]
fn it_holds_for_records_that_lie_in_duckdb_only() {
    let (site, daemon, mut conn) = start("cache_max_bytes = 1");
    for storage in ["jobs", "settings"] {
        conn.ok(json!({"op": "store", "storage": storage, "key": "first", "data": {}}));
        conn.ok(store(storage, 0));
        conn.ok(json!({"op": "flush", "storage": storage}));
        conflict(&mut conn, &store(storage, 0), 2);
    }
    drop(conn);
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings"] {
        conflict(&mut conn, &store(storage, 0), 2);
        conflict(&mut conn, &store(storage, 1), 2);
        assert_eq!(conn.ok(store(storage, 2))["seq"], 3);
        conn.ok(json!({"op": "flush", "storage": storage}));
        let delete = json!({"op": "delete", "storage": storage, "key": "k", "if_seq": 2});
        conflict(&mut conn, &delete, 3);
        assert_eq!(
            conn.ok(json!({"op": "delete", "storage": storage, "key": "k", "if_seq": 3}))["deleted"],
            true
        );
        conflict(&mut conn, &store(storage, 3), 0);
    }
}

#[test]
fn counting_up_from_many_connections_loses_no_step() {
    let (_site, daemon, mut conn) = start("batch_size = 20");
    let steps = 50;
    thread::scope(|scope| {
        for _ in 0..6 {
            let mut conn = daemon.connect();
            scope.spawn(move || {
                for _ in 0..steps {
                    count_up(&mut conn);
                }
            });
        }
    });
    let got = conn.ok(json!({"op": "get_item", "storage": "settings", "key": "counter"}));
    assert_eq!(got["record"]["value"], 6 * steps);
    assert_eq!(got["record"]["seq"], 6 * steps, "each success was one write");
}

/// One step up, tried until nobody was faster.
fn count_up(conn: &mut Conn) {
    loop {
        let record =
            conn.ok(json!({"op": "get_item", "storage": "settings", "key": "counter"}))["record"].clone();
        let value = record["value"].as_u64().unwrap_or(0) + 1;
        let seq = record["seq"].as_u64().unwrap_or(0);
        let store = json!({"op": "store", "storage": "settings", "key": "counter", "data": {}, "value": value, "if_seq": seq});
        let answer = conn.ask(store);
        if answer["ok"] == true {
            return;
        }
        assert_eq!(answer["error"]["code"], "conflict", "{answer}");
        assert!(answer["error"]["current_seq"].as_u64().unwrap() > seq, "{answer}");
    }
}
