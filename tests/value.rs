//! The typed `value` of a collection: back with the type with which it was stored.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, python, raw};

/// What is sent, and the column that must hold it.
const VALUES: [(&str, &str); 26] = [
    ("0", "value_int"),
    ("1", "value_int"),
    ("-1", "value_int"),
    ("32", "value_int"),
    ("9007199254740993", "value_int"),
    ("9223372036854775807", "value_int"),
    ("-9223372036854775808", "value_int"),
    ("1.0", "value_float"),
    ("0.0", "value_float"),
    ("0.1", "value_float"),
    ("-2.5", "value_float"),
    ("100.0", "value_float"),
    ("1e300", "value_float"),
    ("1E2", "value_float"),
    ("5e-324", "value_float"),
    ("1.7976931348623157e308", "value_float"),
    ("9223372036854775808.0", "value_float"),
    (r#""""#, "value_string"),
    (r#""1""#, "value_string"),
    (r#""true""#, "value_string"),
    (r#""null""#, "value_string"),
    (r#""é 日本 😀 \" \\ \n""#, "value_string"),
    ("true", "value_bool"),
    ("false", "value_bool"),
    ("null", "none"),
    ("", "none"),
];

fn collection(lines: &str) -> Site {
    Site::new(&Config::new().collection("settings", lines))
}

fn store_all(conn: &mut Conn) {
    for (n, (value, _)) in VALUES.iter().enumerate() {
        let field = if value.is_empty() { String::new() } else { format!(r#","value":{value}"#) };
        conn.ok(format!(r#"{{"op":"store","key":"k","item_name":"i{n:02}","data":{{}}{field}}}"#));
    }
}

/// The type and the exact value of a JSON scalar, floats by their bits.
fn kind(text: &str) -> (&'static str, String) {
    match serde_json::from_str(text).unwrap() {
        Value::Null => ("null", String::new()),
        Value::Bool(value) => ("bool", value.to_string()),
        Value::String(value) => ("string", value),
        Value::Number(_) if text.contains(['.', 'e', 'E']) => {
            ("float", text.parse::<f64>().unwrap().to_bits().to_string())
        }
        Value::Number(_) => ("integer", text.to_owned()),
        other => panic!("{other} is no scalar"),
    }
}

fn assert_typed(daemon: &Daemon, when: &str) {
    let mut conn = daemon.connect();
    for (n, (sent, _)) in VALUES.iter().enumerate() {
        conn.send(json!({"op": "get_item", "key": "k", "item_name": format!("i{n:02}")}));
        let back = raw(&conn.text(), &["record", "value"]);
        let sent = if sent.is_empty() { "null" } else { sent };
        assert_eq!(kind(&back), kind(sent), "{when}: sent {sent}, got {back}");
    }
}

#[test]
fn a_value_keeps_its_type_through_memory_wal_and_duckdb() {
    let site = collection("cache_max_bytes = 1");
    let daemon = site.start();
    store_all(&mut daemon.connect());
    assert_typed(&daemon, "from memory");
    daemon.kill();
    let daemon = site.start();
    assert_typed(&daemon, "from the WAL");
    daemon.connect().ok(json!({"op": "flush"}));
    assert_typed(&daemon, "after a flush");
    daemon.stop();
    assert_typed(&site.start(), "after a clean restart");
}

#[test]
fn each_type_has_its_own_column() {
    if !python::available() {
        return;
    }
    let site = collection("");
    let daemon = site.start();
    store_all(&mut daemon.connect());
    daemon.stop();
    for (file, table) in [("storage_history", "storage_history"), ("storage_latest", "storage_latest")] {
        let rows = python::rows(
            &site.path(&format!("settings/{file}.duckdb")),
            &format!(
                "SELECT value_int, value_float, value_string, value_bool FROM {table} ORDER BY item_name"
            ),
        );
        assert_eq!(rows.len(), VALUES.len(), "{table}");
        let columns = ["value_int", "value_float", "value_string", "value_bool"];
        for (row, (sent, column)) in rows.iter().zip(VALUES) {
            let filled: Vec<_> = columns.iter().zip(row).filter(|(_, cell)| !cell.is_null()).collect();
            if column == "none" {
                assert!(filled.is_empty(), "{table}: {sent}: {filled:?}");
            } else {
                assert_eq!(filled.len(), 1, "{table}: {sent} is in one column: {row:?}");
                assert_eq!(*filled[0].0, column, "{table}: {sent}");
                assert_eq!(kind(&filled[0].1.to_string()), kind(sent), "{table}");
            }
        }
    }
}

#[test]
fn a_value_that_fits_no_column_is_refused() {
    let site = collection("");
    let daemon = site.start();
    let mut conn = daemon.connect();
    let bad = [
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "123456789012345678901234567890",
        "1e309",
        "-1e400",
        "[]",
        "{}",
        "[1]",
    ];
    for value in bad {
        let request = format!(r#"{{"op":"store","key":"k","data":{{}},"value":{value}}}"#);
        let error = conn.refused(request, "bad_request");
        assert!(error["message"].as_str().unwrap().contains("value"), "{value}: {error}");
    }
    assert_eq!(conn.ok(json!({"op": "get_key", "key": "k"}))["records"], json!([]));
}

#[test]
fn a_value_may_change_its_type() {
    let site = collection("cache_max_bytes = 1");
    let daemon = site.start();
    let mut conn = daemon.connect();
    for value in ["1", "true", "\"x\"", "1.5", "null", "2"] {
        conn.ok(format!(r#"{{"op":"store","key":"k","data":{{}},"value":{value}}}"#));
        for when in ["in memory", "flushed"] {
            conn.send(json!({"op": "get_item", "key": "k"}));
            let back = raw(&conn.text(), &["record", "value"]);
            assert_eq!(kind(&back), kind(value), "{when}: sent {value}, got {back}");
            conn.ok(json!({"op": "flush"}));
        }
    }
}
