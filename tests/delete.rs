//! `delete`: gone from memory, after a kill, and from DuckDB; what is not there is not deleted.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Site};

fn delete(conn: &mut Conn, process_name: &Value) -> Value {
    conn.ok(json!({"op": "delete", "date": "2025-01-15", "key": "k", "process_name": process_name}))
}

fn store(conn: &mut Conn, process_name: &Value) -> Value {
    conn.ok(
        json!({"op": "store", "date": "2025-01-15", "key": "k", "process_name": process_name, "data": {}}),
    )
}

fn names(conn: &mut Conn) -> Vec<Value> {
    let got = conn.ok(json!({"op": "get_key", "date": "2025-01-15", "key": "k"}));
    got["records"].as_array().unwrap().iter().map(|record| record["process_name"].clone()).collect()
}

#[test]
fn a_delete_takes_one_record() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for name in [json!(null), json!("a"), json!("b")] {
        store(&mut conn, &name);
    }
    assert_eq!(
        delete(&mut conn, &json!("a")),
        json!({"ok": true, "seq": 4, "deleted": true, "durable": true})
    );
    assert_eq!(names(&mut conn), [json!(null), json!("b")]);
    assert_eq!(delete(&mut conn, &json!(null))["deleted"], true);
    assert_eq!(names(&mut conn), [json!("b")]);
    assert_eq!(conn.ok(json!({"op": "keys", "date": "2025-01-15"}))["keys"], json!(["k"]));
    assert_eq!(delete(&mut conn, &json!("b"))["seq"], 6);
    assert_eq!(conn.ok(json!({"op": "keys", "date": "2025-01-15"}))["keys"], json!([]));
}

#[test]
fn a_delete_of_nothing_writes_nothing() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, &json!("a"));
    for name in [json!(null), json!("b")] {
        let answer = delete(&mut conn, &name);
        assert_eq!((&answer["deleted"], &answer["seq"]), (&json!(false), &Value::Null), "{answer}");
    }
    delete(&mut conn, &json!("a"));
    assert_eq!(delete(&mut conn, &json!("a"))["deleted"], false, "it was there, and is gone");
    assert_eq!(store(&mut conn, &json!("a"))["seq"], 3, "no number was used up");
}

#[test]
fn what_was_deleted_stays_so_through_kill_flush_and_restart() {
    let site = Site::new(&Config::new().dated("jobs", "cache_max_bytes = 1"));
    let mut daemon = site.start();
    let mut conn = daemon.connect();
    for name in ["flushed", "other"] {
        store(&mut conn, &json!(name));
    }
    conn.ok(json!({"op": "flush"}));
    // One that lies in DuckDB, and one that was never flushed.
    assert_eq!(delete(&mut conn, &json!("flushed"))["deleted"], true);
    assert_eq!(delete(&mut conn, &json!("flushed"))["deleted"], false);
    store(&mut conn, &json!("fresh"));
    delete(&mut conn, &json!("fresh"));
    assert_eq!(names(&mut conn), [json!("other")]);
    for step in ["killed", "flushed", "stopped"] {
        match step {
            "killed" => {
                daemon.kill();
                daemon = site.start();
            }
            "flushed" => {
                daemon.connect().ok(json!({"op": "flush"}));
            }
            _ => {
                daemon.stop();
                daemon = site.start();
            }
        }
        let mut conn = daemon.connect();
        assert_eq!(names(&mut conn), [json!("other")], "{step}");
        assert_eq!(delete(&mut conn, &json!("flushed"))["deleted"], false, "{step}");
    }
    assert_eq!(store(&mut daemon.connect(), &json!("new"))["seq"], 6, "a seq is never used again");
}

#[test]
fn a_seq_is_not_used_again_when_its_record_is_gone() {
    for config in [Config::new().dated("only", ""), Config::new().collection("only", "")] {
        let site = Site::new(&config);
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.ok(json!({"op": "store", "key": "k", "data": {}}));
        assert_eq!(conn.ok(json!({"op": "delete", "key": "k"}))["seq"], 2);
        drop(conn);
        daemon.stop();
        let daemon = site.start();
        assert_eq!(daemon.connect().ok(json!({"op": "store", "key": "k", "data": {}}))["seq"], 3);
    }
}

#[test]
fn a_collection_item_is_deleted_alone() {
    let site = Site::new(&Config::new().collection("settings", "cache_max_bytes = 1"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for item in ["", "a", "b"] {
        conn.ok(json!({"op": "store", "key": "k", "item_name": item, "data": {}, "value": item}));
    }
    conn.ok(json!({"op": "flush"}));
    let gone = conn.ok(json!({"op": "delete", "key": "k", "item_name": "a"}));
    assert_eq!(gone, json!({"ok": true, "seq": 4, "deleted": true, "durable": true}));
    assert_eq!(conn.ok(json!({"op": "delete", "key": "k", "item_name": "a"}))["deleted"], false);
    assert_eq!(conn.ok(json!({"op": "delete", "key": "k", "collection_name": "c"}))["deleted"], false);
    let items = |conn: &mut Conn| -> Vec<Value> {
        let got = conn.ok(json!({"op": "get_key", "key": "k"}));
        got["records"].as_array().unwrap().iter().map(|record| record["item_name"].clone()).collect()
    };
    assert_eq!(items(&mut conn), [json!(""), json!("b")]);
    conn.ok(json!({"op": "flush"}));
    assert_eq!(items(&mut conn), [json!(""), json!("b")]);
    assert_eq!(conn.ok(json!({"op": "get_item", "key": "k", "item_name": "a"}))["record"], Value::Null);
}
