//! `batch`: all or nothing, one partition, in order.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site};

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn batch(ops: &Value) -> Value {
    json!({"op": "batch", "storage": "jobs", "date": "2025-01-15", "ops": ops})
}

fn data(conn: &mut Conn, key: &str) -> Value {
    let got = conn.ok(json!({"op": "get_key_process", "storage": "jobs", "date": "2025-01-15", "key": key}));
    got["record"]["data"].clone()
}

fn keys(conn: &mut Conn) -> Value {
    conn.ok(json!({"op": "keys", "storage": "jobs", "date": "2025-01-15"}))["keys"].clone()
}

#[test]
fn every_op_has_its_own_seq() {
    let (_site, _daemon, mut conn) = start();
    let ops = json!([
        {"op": "store", "key": "a", "process_name": "p", "data": {"n": 1}},
        {"op": "store", "key": "b", "data": {"n": 2}},
        {"op": "delete", "key": "nothing"},
        {"op": "delete", "key": "a", "process_name": "p"},
        {"op": "store", "key": "c", "data": {"n": 3}}
    ]);
    let stored = conn.ok(batch(&ops));
    assert_eq!(stored, json!({"ok": true, "seqs": [1, 2, null, 3, 4], "durable": true}));
    assert_eq!(keys(&mut conn), json!(["b", "c"]));
    let next =
        conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "d", "data": {}}));
    assert_eq!(next["seq"], 5);
}

#[test]
fn ops_work_on_what_those_before_them_left() {
    let (_site, _daemon, mut conn) = start();
    let ops = json!([
        {"op": "store", "key": "k", "data": {"n": 1}, "if_seq": 0},
        {"op": "store", "key": "k", "data": {"n": 2}, "if_seq": 1},
        {"op": "delete", "key": "k", "if_seq": 2},
        {"op": "delete", "key": "k"},
        {"op": "store", "key": "k", "data": {"n": 3}, "if_seq": 0}
    ]);
    assert_eq!(conn.ok(batch(&ops))["seqs"], json!([1, 2, 3, null, 4]));
    assert_eq!(data(&mut conn, "k"), json!({"n": 3}));
    let ops = json!([
        {"op": "store", "key": "x", "data": {}, "if_seq": 0},
        {"op": "store", "key": "x", "data": {}, "if_seq": 0}
    ]);
    conn.refused(batch(&ops), "conflict");
    assert_eq!(keys(&mut conn), json!(["k"]));
}

/// Whether an error says that the op number `index` was the bad one.
fn names_index(error: &Value, index: u64) -> bool {
    let message = error["message"].as_str().unwrap();
    let digits = message.split(|c: char| !c.is_ascii_digit());
    error["index"] == index || digits.into_iter().any(|part| part == index.to_string())
}

#[test]
fn one_bad_op_rejects_the_whole_and_is_named() {
    let (_site, _daemon, mut conn) = start();
    let good = |n: usize| json!({"op": "store", "key": format!("k{n}"), "data": {}});
    let bad = [
        json!({"op": "store", "key": "", "data": {}}),
        json!({"op": "store", "key": "x", "data": []}),
        json!({"op": "store", "key": "x"}),
        json!({"op": "store", "key": "x", "data": {}, "unknown": 1}),
        json!({"op": "store", "key": "x", "data": {}, "timestamp": "never"}),
        json!({"op": "delete"}),
        json!({"op": "get_key", "key": "x"}),
        json!({"op": "batch", "ops": []}),
        json!({"key": "x", "data": {}}),
        json!("store"),
        json!(null),
    ];
    for bad in bad {
        // First, in the middle and last of eight.
        for at in [0, 3, 7] {
            let mut ops: Vec<Value> = (0..8).map(good).collect();
            ops[at] = bad.clone();
            let answer = conn.ask(batch(&json!(ops)));
            assert_eq!(answer["ok"], false, "{bad}: {answer}");
            assert_eq!(answer["error"]["code"], "bad_request", "{bad}: {answer}");
            assert!(names_index(&answer["error"], at as u64), "{bad} at {at}: {answer}");
        }
    }
    assert_eq!(keys(&mut conn), json!([]));
    assert_eq!(conn.ok(json!({"op": "dates", "storage": "jobs"}))["dates"], json!([]));
}

#[test]
fn a_conflict_inside_rejects_the_whole() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(batch(&json!([{"op": "store", "key": "k", "data": {"n": 1}}])));
    let ops = json!([
        {"op": "store", "key": "a", "data": {}},
        {"op": "delete", "key": "k"},
        {"op": "store", "key": "b", "data": {}},
        {"op": "store", "key": "c", "data": {}, "if_seq": 77}
    ]);
    let error = conn.refused(batch(&ops), "conflict");
    assert!(names_index(&error, 3), "{error}");
    assert_eq!(keys(&mut conn), json!(["k"]));
    // Nothing was used up.
    assert_eq!(conn.ok(batch(&json!([{"op": "store", "key": "d", "data": {}}])))["seqs"], json!([2]));
}

#[test]
fn a_collection_takes_batches_with_values() {
    let (_site, _daemon, mut conn) = start();
    let ops = json!([
        {"op": "store", "key": "k", "collection_name": "c", "item_name": "i", "data": {}, "value": true},
        {"op": "store", "key": "k", "collection_name": "c", "item_name": "j", "data": {}, "value": 1.0},
        {"op": "delete", "key": "k", "collection_name": "c", "item_name": "i"}
    ]);
    let stored = conn.ok(json!({"op": "batch", "storage": "settings", "ops": ops}));
    assert_eq!(stored["seqs"], json!([1, 2, 3]));
    let got = conn.ok(json!({"op": "get_key", "storage": "settings", "key": "k"}));
    assert_eq!(got["records"].as_array().unwrap().len(), 1);
    assert_eq!(got["records"][0]["item_name"], "j");
    let ops = json!([{"op": "store", "key": "k", "data": {}, "process_name": "p"}]);
    conn.refused(json!({"op": "batch", "storage": "settings", "ops": ops}), "bad_request");
}

#[test]
fn ten_thousand_ops_are_taken_and_one_more_is_not() {
    let (_site, daemon, mut conn) = start();
    let ops = |count: usize| -> Value {
        (0..count).map(|n| json!({"op": "store", "key": format!("k{n:05}"), "data": {}})).collect()
    };
    let error = conn.refused(batch(&ops(10_001)), "bad_request");
    assert!(error["message"].as_str().unwrap().contains("10000"), "the limit is not named: {error}");
    assert_eq!(keys(&mut conn), json!([]));
    let stored = conn.ok(batch(&ops(10_000)));
    let expected: Vec<u64> = (1..=10_000).collect();
    assert_eq!(stored["seqs"], json!(expected));
    let mut other = daemon.connect();
    assert_eq!(data(&mut other, "k00000"), json!({}));
    assert_eq!(data(&mut other, "k09999"), json!({}));
}

#[test]
fn the_number_of_ops_can_be_set() {
    let site = Site::new(&Config::both().limits("max_batch_ops = 3"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let op = json!({"op": "store", "key": "k", "data": {}});
    conn.ok(batch(&json!([op, op, op])));
    let error = conn.refused(batch(&json!([op, op, op, op])), "bad_request");
    assert!(error["message"].as_str().unwrap().contains('3'), "{error}");
}

#[test]
fn a_batch_survives_a_kill_whole() {
    let (site, daemon, mut conn) = start();
    let ops: Value =
        (0..500).map(|n| json!({"op": "store", "key": format!("k{n:03}"), "data": {"n": n}})).collect();
    conn.ok(batch(&ops));
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(keys(&mut conn).as_array().unwrap().len(), 500);
    assert_eq!(data(&mut conn, "k499"), json!({"n": 499}));
}
