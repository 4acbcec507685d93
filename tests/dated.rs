//! The dated model: `date` → `key` → `process_name` → `data`, one isolated store per date.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, is_stamp};

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn get(conn: &mut Conn, key: &str, process_name: &Value) -> Value {
    let request = json!({"op": "get_key_process", "key": key, "process_name": process_name});
    conn.ok(request)["record"].clone()
}

#[test]
fn a_store_answers_with_seq_and_durable() {
    let (_site, _daemon, mut conn) = start();
    let store = json!({"op": "store", "key": "task_1", "process_name": "worker1", "data": {"value": 100}});
    assert_eq!(conn.ok(&store), json!({"ok": true, "seq": 1, "durable": true}));
    assert_eq!(conn.ok(&store), json!({"ok": true, "seq": 2, "durable": true}));
}

#[test]
fn a_record_has_these_fields_and_no_others() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(json!({
        "op": "store", "date": "2025-01-15", "key": "k", "process_name": "p", "username": "ann",
        "timestamp": "2025-01-15T10:30:00Z", "data": {"status": "done", "status_int": 3}
    }));
    let got =
        conn.ok(json!({"op": "get_key_process", "date": "2025-01-15", "key": "k", "process_name": "p"}));
    let mut record = got["record"].clone();
    let updated_at = record.as_object_mut().unwrap().shift_remove("updated_at").unwrap();
    assert!(is_stamp(&updated_at), "{updated_at}");
    let expected = json!({
        "date": "2025-01-15", "key": "k", "process_name": "p", "data": {"status": "done", "status_int": 3},
        "timestamp": "2025-01-15T10:30:00.000000Z", "status": "done", "status_int": 3, "username": "ann", "seq": 1
    });
    assert_eq!(record, expected);
}

#[test]
fn absent_fields_are_null_and_still_there() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(json!({"op": "store", "key": "k", "data": {}}));
    let record = get(&mut conn, "k", &Value::Null);
    let names: BTreeSet<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "data",
        "date",
        "key",
        "process_name",
        "seq",
        "status",
        "status_int",
        "timestamp",
        "updated_at",
        "username",
    ];
    assert_eq!(names, expected.into());
    for name in ["process_name", "status", "status_int", "username"] {
        assert_eq!(record[name], Value::Null, "{name}");
    }
}

#[test]
fn process_names_and_null_are_different_records() {
    let (_site, _daemon, mut conn) = start();
    for (n, name) in
        [json!(null), json!(""), json!("null"), json!("worker1"), json!("Worker1")].iter().enumerate()
    {
        conn.ok(json!({"op": "store", "key": "k", "process_name": name, "data": {"n": n}}));
    }
    for (n, name) in
        [json!(null), json!(""), json!("null"), json!("worker1"), json!("Worker1")].iter().enumerate()
    {
        let record = get(&mut conn, "k", name);
        assert_eq!((&record["data"]["n"], &record["process_name"]), (&json!(n), name));
    }
    // Left out is null.
    assert_eq!(conn.ok(json!({"op": "get_key_process", "key": "k"}))["record"]["data"]["n"], 0);
    assert_eq!(get(&mut conn, "k", &json!("worker2")), Value::Null);
}

#[test]
fn get_key_gives_all_processes_sorted_null_first() {
    let (_site, _daemon, mut conn) = start();
    for name in [json!("b"), json!("é"), json!("a"), json!(null), json!("Z"), json!(""), json!("a1")] {
        conn.ok(json!({"op": "store", "key": "k", "process_name": name, "data": {}}));
    }
    conn.ok(json!({"op": "store", "key": "k2", "process_name": "other", "data": {}}));
    let names = |conn: &mut Conn| -> Vec<Value> {
        let got = conn.ok(json!({"op": "get_key", "key": "k"}));
        got["records"].as_array().unwrap().iter().map(|record| record["process_name"].clone()).collect()
    };
    let sorted = [json!(null), json!(""), json!("Z"), json!("a"), json!("a1"), json!("b"), json!("é")];
    assert_eq!(names(&mut conn), sorted);
    conn.ok(json!({"op": "flush"}));
    assert_eq!(names(&mut conn), sorted);
}

#[test]
fn what_is_not_there_is_null_or_empty() {
    let (_site, _daemon, mut conn) = start();
    assert_eq!(conn.ok(json!({"op": "get_key_process", "key": "k"})), json!({"ok": true, "record": null}));
    assert_eq!(conn.ok(json!({"op": "get_key", "key": "k"})), json!({"ok": true, "records": []}));
    assert_eq!(conn.ok(json!({"op": "keys"})), json!({"ok": true, "keys": [], "more": false}));
    assert_eq!(conn.ok(json!({"op": "dates"})), json!({"ok": true, "dates": []}));
}

#[test]
fn a_store_replaces_the_whole_record() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(json!({"op": "store", "key": "k", "username": "ann", "data": {"status": "new", "a": 1}}));
    conn.ok(json!({"op": "store", "key": "k", "data": {"b": 2}}));
    let record = get(&mut conn, "k", &Value::Null);
    assert_eq!((&record["data"], &record["seq"]), (&json!({"b": 2}), &json!(2)));
    assert_eq!((&record["status"], &record["username"]), (&Value::Null, &Value::Null));
    assert_eq!(conn.ok(json!({"op": "get_key", "key": "k"}))["records"].as_array().unwrap().len(), 1);
}

#[test]
fn a_write_that_was_answered_is_seen_by_every_later_read() {
    let (_site, daemon, mut writer) = start();
    let mut readers: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
    for n in 0..500 {
        writer.ok(json!({"op": "store", "key": "k", "data": {"n": n}}));
        let reader = &mut readers[n % 4];
        assert_eq!(get(reader, "k", &Value::Null)["data"]["n"], n);
    }
}

#[test]
fn updated_at_is_the_time_of_the_write() {
    let (_site, _daemon, mut conn) = start();
    let before = chrono::Utc::now();
    conn.ok(json!({"op": "store", "key": "k", "timestamp": "2001-01-01", "data": {}}));
    let after = chrono::Utc::now();
    let record = get(&mut conn, "k", &Value::Null);
    let updated: chrono::DateTime<chrono::Utc> = record["updated_at"].as_str().unwrap().parse().unwrap();
    // The clock that labels may be a coarse one.
    let slack = chrono::TimeDelta::milliseconds(20);
    assert!(before - slack <= updated && updated <= after + slack, "{before} {updated} {after}");
}
