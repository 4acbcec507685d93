//! The collection model: `key` → `collection_name` → `item_name` → `data` and a typed `value`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, is_stamp};

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::new().collection("settings", ""));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

/// The collection and item names of the records in an answer to `get_key`.
fn names(got: &Value) -> Vec<(String, String)> {
    let name = |record: &Value, field: &str| record[field].as_str().unwrap().to_owned();
    let records = got["records"].as_array().unwrap();
    records.iter().map(|record| (name(record, "collection_name"), name(record, "item_name"))).collect()
}

#[test]
fn a_record_has_these_fields_and_no_others() {
    let (_site, _daemon, mut conn) = start();
    let stored = conn.ok(json!({
        "op": "store", "key": "user_profile", "collection_name": "personal_info", "item_name": "age",
        "data": {"label": "Age", "status": "ok", "status_int": -1}, "value": 32, "username": "ann",
        "timestamp": "2025-01-15"
    }));
    assert_eq!(stored, json!({"ok": true, "seq": 1, "durable": true}));
    let request = json!({"op": "get_item", "key": "user_profile", "collection_name": "personal_info", "item_name": "age"});
    let mut record = conn.ok(request)["record"].clone();
    let updated_at = record.as_object_mut().unwrap().shift_remove("updated_at").unwrap();
    assert!(is_stamp(&updated_at), "{updated_at}");
    let expected = json!({
        "key": "user_profile", "collection_name": "personal_info", "item_name": "age", "value": 32,
        "data": {"label": "Age", "status": "ok", "status_int": -1}, "timestamp": "2025-01-15T00:00:00.000000Z",
        "status": "ok", "status_int": -1, "username": "ann", "seq": 1
    });
    assert_eq!(record, expected);
}

#[test]
fn collection_and_item_default_to_the_empty_name() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(json!({"op": "store", "key": "k", "data": {"n": 1}}));
    let spelled = json!({"op": "get_item", "key": "k", "collection_name": "", "item_name": ""});
    for request in [json!({"op": "get_item", "key": "k"}), spelled] {
        let record = conn.ok(request)["record"].clone();
        assert_eq!((&record["collection_name"], &record["item_name"]), (&json!(""), &json!("")));
        assert_eq!((&record["data"], &record["value"]), (&json!({"n": 1}), &Value::Null));
        let names: BTreeSet<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names.len(), 11, "{record}");
    }
    // The same record when it is spelled out.
    conn.ok(json!({"op": "store", "key": "k", "collection_name": "", "item_name": "", "data": {"n": 2}}));
    let got = conn.ok(json!({"op": "get_key", "key": "k"}));
    assert_eq!(got["records"].as_array().unwrap().len(), 1);
    assert_eq!(got["records"][0]["data"]["n"], 2);
}

#[test]
fn get_key_gives_one_collection_or_all() {
    let (_site, _daemon, mut conn) = start();
    for (collection, item) in [("b", "2"), ("", "x"), ("a", "z"), ("b", "10"), ("a", ""), ("B", "é")] {
        conn.ok(
            json!({"op": "store", "key": "k", "collection_name": collection, "item_name": item, "data": {}}),
        );
    }
    conn.ok(json!({"op": "store", "key": "k2", "collection_name": "b", "item_name": "other", "data": {}}));
    let pair = |collection: &str, item: &str| (collection.to_owned(), item.to_owned());
    let all = [pair("", "x"), pair("B", "é"), pair("a", ""), pair("a", "z"), pair("b", "10"), pair("b", "2")];
    for round in ["in memory", "flushed"] {
        assert_eq!(names(&conn.ok(json!({"op": "get_key", "key": "k"}))), all, "{round}");
        let one = conn.ok(json!({"op": "get_key", "key": "k", "collection_name": "b"}));
        assert_eq!(names(&one), all[4..], "{round}");
        let default = conn.ok(json!({"op": "get_key", "key": "k", "collection_name": ""}));
        assert_eq!(names(&default), all[..1], "{round}");
        let none = conn.ok(json!({"op": "get_key", "key": "k", "collection_name": "none"}));
        assert_eq!(none["records"], json!([]), "{round}");
        conn.ok(json!({"op": "flush"}));
    }
}

#[test]
fn collections_of_a_key_are_listed() {
    let (_site, _daemon, mut conn) = start();
    for (key, collection) in [("k", "b"), ("k", "a"), ("k", "b"), ("k", ""), ("other", "c")] {
        conn.ok(json!({"op": "store", "key": key, "collection_name": collection, "data": {}}));
    }
    let list = json!({"op": "collections", "key": "k"});
    assert_eq!(conn.ok(&list), json!({"ok": true, "collections": ["", "a", "b"]}));
    // With its last item a collection goes.
    conn.ok(json!({"op": "delete", "key": "k", "collection_name": "a"}));
    assert_eq!(conn.ok(&list)["collections"], json!(["", "b"]));
    conn.ok(json!({"op": "flush"}));
    assert_eq!(conn.ok(&list)["collections"], json!(["", "b"]));
    assert_eq!(conn.ok(json!({"op": "collections", "key": "nothing"}))["collections"], json!([]));
}

#[test]
fn what_is_not_there_is_null_or_empty() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(json!({"op": "store", "key": "k", "item_name": "i", "data": {}}));
    assert_eq!(conn.ok(json!({"op": "get_item", "key": "k"})), json!({"ok": true, "record": null}));
    assert_eq!(conn.ok(json!({"op": "get_key", "key": "none"})), json!({"ok": true, "records": []}));
}

#[test]
fn after_a_restart_every_collection_of_a_key_is_found() {
    let (site, daemon, mut conn) = start();
    for collection in ["", "a", "b"] {
        for item in ["1", "2"] {
            conn.ok(json!({"op": "store", "key": "k", "collection_name": collection, "item_name": item, "data": {}, "value": item}));
        }
    }
    drop(conn);
    daemon.stop();
    let daemon = site.start();
    // The first thing asked is the key without a collection: nothing else has loaded them.
    let got = daemon.connect().ok(json!({"op": "get_key", "key": "k"}));
    assert_eq!(names(&got).len(), 6);
    assert_eq!(
        daemon.connect().ok(json!({"op": "collections", "key": "k"}))["collections"],
        json!(["", "a", "b"])
    );
}

#[test]
fn a_collection_has_one_sequence() {
    let (_site, _daemon, mut conn) = start();
    for seq in 1..=20 {
        let key = format!("k{}", seq % 3);
        assert_eq!(conn.ok(json!({"op": "store", "key": key, "data": {}, "value": seq}))["seq"], seq);
    }
}
