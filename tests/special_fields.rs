//! `process_name`, `timestamp`, `username`, `status`, `status_int`: the request's own field, else `data`'s, else null.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, is_stamp, raw};

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

/// Stores under the key `k` and gives the answer and the only record of that key.
fn store(conn: &mut Conn, storage: &str, fields: &str) -> (Value, Value) {
    let stored = conn.ok(format!(r#"{{"op":"store","storage":"{storage}","key":"k",{fields}}}"#));
    let got = conn.ok(json!({"op": "get_key", "storage": storage, "key": "k"}));
    let records = got["records"].as_array().unwrap();
    assert_eq!(records.len(), 1, "{got}");
    let record = records[0].clone();
    let mut delete = json!({"op": "delete", "storage": storage, "key": "k"});
    if storage == "jobs" {
        delete["process_name"] = record["process_name"].clone();
    }
    assert_eq!(conn.ok(delete)["deleted"], true);
    (stored, record)
}

#[test]
fn the_requests_own_field_wins_over_datas() {
    let (_site, _daemon, mut conn) = start();
    let data = r#""data":{"process_name":"inner","username":"inner","timestamp":"2001-01-01"}"#;
    let outer = r#""process_name":"outer","username":"outer","timestamp":"2002-02-02""#;
    let (stored, record) = store(&mut conn, "jobs", &format!("{outer},{data}"));
    assert!(stored.get("warnings").is_none(), "{stored}");
    assert_eq!((&record["process_name"], &record["username"]), (&json!("outer"), &json!("outer")));
    assert_eq!(record["timestamp"], "2002-02-02T00:00:00.000000Z");
    // `data` keeps its own.
    assert_eq!(record["data"]["process_name"], "inner");
}

#[test]
fn datas_field_counts_where_the_request_has_none() {
    let (_site, _daemon, mut conn) = start();
    let data = r#""data":{"process_name":"inner","username":"inner","timestamp":"2001-01-01","status":"done","status_int":7}"#;
    for fields in [data.to_owned(), format!(r#""process_name":null,"username":null,"timestamp":null,{data}"#)]
    {
        let (stored, record) = store(&mut conn, "jobs", &fields);
        assert!(stored.get("warnings").is_none(), "{stored}");
        assert_eq!(
            (&record["process_name"], &record["username"]),
            (&json!("inner"), &json!("inner")),
            "{fields}"
        );
        assert_eq!(record["timestamp"], "2001-01-01T00:00:00.000000Z");
        assert_eq!((&record["status"], &record["status_int"]), (&json!("done"), &json!(7)));
        assert_eq!(record["data"]["status"], "done", "it stays in data too");
    }
}

#[test]
fn datas_process_name_is_part_of_the_address() {
    let (_site, _daemon, mut conn) = start();
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {"process_name": "w", "n": 1}}));
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "process_name": "w", "data": {"n": 2}}));
    let got = conn.ok(json!({"op": "get_key", "storage": "jobs", "key": "k"}));
    assert_eq!(got["records"].as_array().unwrap().len(), 1, "one address, one record: {got}");
    assert_eq!(got["records"][0]["data"]["n"], 2);
    let null = conn.ok(json!({"op": "get_key_process", "storage": "jobs", "key": "k"}));
    assert_eq!(null["record"], Value::Null);
}

#[test]
fn a_field_of_the_wrong_type_in_data_leaves_its_column_null_and_warns() {
    let (_site, _daemon, mut conn) = start();
    let cases = [
        ("jobs", "process_name", "5"),
        ("jobs", "process_name", r#"{"a":1}"#),
        ("jobs", "username", "true"),
        ("jobs", "timestamp", "12345"),
        ("jobs", "timestamp", "[]"),
        ("jobs", "status", "5"),
        ("jobs", "status_int", r#""5""#),
        ("jobs", "status_int", "2147483648"),
        ("jobs", "status_int", "-2147483649"),
        ("jobs", "status_int", "1.5"),
        ("jobs", "status_int", "true"),
        ("settings", "username", "[1]"),
        ("settings", "status", "{}"),
        ("settings", "status_int", "99999999999999999999999"),
    ];
    for (storage, field, value) in cases {
        let (stored, record) = store(&mut conn, storage, &format!(r#""data":{{"{field}":{value}}}"#));
        let warnings = stored["warnings"]
            .as_array()
            .unwrap_or_else(|| panic!("no warning for {field} {value}: {stored}"));
        assert_eq!(warnings.len(), 1, "{stored}");
        assert!(warnings[0].as_str().unwrap().contains(field), "{stored}");
        assert_eq!(record[field], Value::Null, "{field} {value}");
        let kept = raw(&record["data"].to_string(), &[field]);
        if value.len() < 12 {
            assert_eq!(kept, value, "data keeps what was sent");
        }
    }
}

#[test]
fn a_null_in_data_is_no_mistake() {
    let (_site, _daemon, mut conn) = start();
    let data =
        r#""data":{"process_name":null,"username":null,"timestamp":null,"status":null,"status_int":null}"#;
    let (stored, record) = store(&mut conn, "jobs", data);
    assert!(stored.get("warnings").is_none(), "{stored}");
    for field in ["process_name", "username", "status", "status_int"] {
        assert_eq!(record[field], Value::Null);
    }
    assert!(is_stamp(&record["timestamp"]), "left out means now: {record}");
}

#[test]
fn status_int_has_32_bits() {
    let (_site, _daemon, mut conn) = start();
    for value in [i32::MIN, -1, 0, i32::MAX] {
        let (stored, record) = store(&mut conn, "jobs", &format!(r#""data":{{"status_int":{value}}}"#));
        assert!(stored.get("warnings").is_none(), "{stored}");
        assert_eq!(record["status_int"], value);
    }
}

#[test]
fn only_the_top_level_of_data_counts() {
    let (_site, _daemon, mut conn) = start();
    let data = r#""data":{"inner":{"status":"no","username":"no","status_int":1},"list":[{"status":"no"}]}"#;
    let (_, record) = store(&mut conn, "jobs", data);
    for field in ["username", "status", "status_int"] {
        assert_eq!(record[field], Value::Null, "{field}");
    }
    // An escaped name is the same name.
    let (_, record) = store(&mut conn, "jobs", r#""data":{"st\u0061tus":"yes"}"#);
    assert_eq!(record["status"], "yes");
}

#[test]
fn a_batch_warns_too() {
    let (_site, _daemon, mut conn) = start();
    let ops =
        json!([{"op": "store", "key": "a", "data": {}}, {"op": "store", "key": "b", "data": {"status": 1}}]);
    let stored = conn.ok(json!({"op": "batch", "storage": "jobs", "ops": ops}));
    assert_eq!(stored["warnings"].as_array().map(Vec::len), Some(1), "{stored}");
}
