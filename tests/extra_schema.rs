//! `extra_schema`: columns read from `data` by name; what does not fit is refused before it can spoil a flush.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, python};

const DATE: &str = "2025-01-15";

const SCHEMA: &str = r#"extra_schema = {
    c_string = "string", c_int8 = "int8", c_int16 = "int16", c_int32 = "int32", c_int64 = "int64",
    c_uint8 = "uint8", c_uint16 = "uint16", c_uint32 = "uint32", c_uint64 = "uint64",
    c_float32 = "float32", c_float64 = "float64", c_bool = "bool",
    c_ts_s = "timestamp[s]", c_ts_ms = "timestamp[ms]", c_ts_us = "timestamp[us]", c_ts_ns = "timestamp[ns]",
    c_date32 = "date32", c_date64 = "date64" }"#;

fn schema() -> String {
    // TOML wants an inline table on one line.
    SCHEMA.replace('\n', " ")
}

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::new().dated("jobs", &schema()));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn store(key: &str, data: &str) -> String {
    format!(r#"{{"op":"store","date":"{DATE}","key":"{key}","data":{data}}}"#)
}

#[test]
fn what_fits_is_in_its_column() {
    let (site, daemon, mut conn) = start();
    let full = r#"{"c_string":"é'\"","c_int8":-128,"c_int16":32767,"c_int32":-2147483648,
        "c_int64":9223372036854775807,"c_uint8":255,"c_uint16":65535,"c_uint32":4294967295,
        "c_uint64":18446744073709551615,"c_float32":0.5,"c_float64":1e300,"c_bool":true,
        "c_ts_s":"2025-01-15T10:30:00.123456Z","c_ts_ms":"2025-01-15T12:30:00.123456+02:00",
        "c_ts_us":"2025-01-15 10:30:00.123456","c_ts_ns":"2025-01-15T10:30:00.123456Z",
        "c_date32":"2025-01-15","c_date64":"2024-02-29","other":{"not":"a column"}}"#;
    conn.ok(store("full", &full.replace('\n', " ")));
    conn.ok(store("missing", "{}"));
    conn.ok(store("null", r#"{"c_int8":null,"c_string":null,"c_ts_ns":null,"c_bool":null}"#));
    // A whole number is a float, too.
    conn.ok(store("whole", r#"{"c_float64":100,"c_float32":-3,"c_bool":false}"#));
    drop(conn);
    daemon.stop();
    if !python::available() {
        return;
    }
    let columns = "c_string, c_int8, c_int16, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_float32, \
                   c_float64, c_bool, epoch_us(c_ts_s), epoch_us(c_ts_ms), epoch_us(c_ts_us), epoch_us(c_ts_ns), \
                   c_date32, CAST(c_date64 AS DATE)";
    let sql = format!("SELECT {columns} FROM storage ORDER BY key");
    let rows = python::rows(&site.path("jobs/2025-01-15/data.duckdb"), &sql);
    let expected = json!([
        "é'\"",
        -128,
        32767,
        -2_147_483_648_i64,
        i64::MAX,
        255,
        65535,
        u32::MAX,
        u64::MAX,
        0.5,
        1e300,
        true,
        1_736_937_000_123_456_i64,
        1_736_937_000_123_456_i64,
        1_736_937_000_123_456_i64,
        1_736_937_000_123_456_i64,
        "2025-01-15",
        "2024-02-29"
    ]);
    assert_eq!(json!(rows[0]), expected, "full");
    for row in &rows[1..3] {
        assert!(row.iter().all(Value::is_null), "missing and null are NULL: {row:?}");
    }
    assert_eq!(
        (&rows[3][10], &rows[3][9], &rows[3][11]),
        (&json!(100.0), &json!(-3.0), &json!(false)),
        "whole"
    );
}

#[test]
fn the_columns_stand_behind_the_others_with_their_types() {
    if !python::available() {
        return;
    }
    let (site, daemon, mut conn) = start();
    conn.ok(store("k", "{}"));
    drop(conn);
    daemon.stop();
    let rows = python::rows(&site.path("jobs/2025-01-15/data.duckdb"), "DESCRIBE storage");
    assert_eq!(rows.len(), 28, "{rows:?}");
    let types: Vec<_> =
        rows[10..].iter().map(|row| (row[0].as_str().unwrap(), row[1].as_str().unwrap())).collect();
    // Whatever the unit's name, the column holds the instant to the microsecond.
    let expected = [
        ("c_string", "VARCHAR"),
        ("c_int8", "TINYINT"),
        ("c_int16", "SMALLINT"),
        ("c_int32", "INTEGER"),
        ("c_int64", "BIGINT"),
        ("c_uint8", "UTINYINT"),
        ("c_uint16", "USMALLINT"),
        ("c_uint32", "UINTEGER"),
        ("c_uint64", "UBIGINT"),
        ("c_float32", "FLOAT"),
        ("c_float64", "DOUBLE"),
        ("c_bool", "BOOLEAN"),
        ("c_ts_s", "TIMESTAMP"),
        ("c_ts_ms", "TIMESTAMP"),
        ("c_ts_us", "TIMESTAMP"),
        ("c_ts_ns", "TIMESTAMP"),
        ("c_date32", "DATE"),
    ];
    assert_eq!(types[..expected.len()], expected);
    // DuckDB has one DATE and no date64; what stands for it is the daemon's choice.
    assert_eq!(types[17].0, "c_date64");
}

#[test]
fn what_does_not_fit_is_refused_names_the_column_and_stores_nothing() {
    let (_site, _daemon, mut conn) = start();
    let cases = [
        ("c_string", "5"),
        ("c_string", "{}"),
        ("c_string", "true"),
        ("c_int8", "128"),
        ("c_int8", "-129"),
        ("c_int8", "1.5"),
        ("c_int8", r#""1""#),
        ("c_int8", "true"),
        ("c_int16", "32768"),
        ("c_int32", "2147483648"),
        ("c_int64", "9223372036854775808"),
        ("c_int64", "1e30"),
        ("c_int64", "[]"),
        ("c_uint8", "-1"),
        ("c_uint8", "256"),
        ("c_uint16", "65536"),
        ("c_uint32", "4294967296"),
        ("c_uint64", "-1"),
        ("c_uint64", "18446744073709551616"),
        ("c_float32", "1e39"),
        ("c_float32", r#""1.0""#),
        ("c_float64", "1e309"),
        ("c_float64", "false"),
        ("c_bool", "1"),
        ("c_bool", r#""true""#),
        ("c_ts_s", r#""yesterday""#),
        ("c_ts_ms", "1736937000"),
        ("c_ts_us", r#""2025-02-30""#),
        ("c_date32", r#""2025-02-30""#),
        ("c_date32", "20250115"),
        ("c_date64", r#""15.01.2025""#),
    ];
    for (column, value) in cases {
        let error = conn.refused(store("bad", &format!(r#"{{"{column}":{value}}}"#)), "bad_request");
        assert!(
            error["message"].as_str().unwrap().contains(column),
            "{value}: {column} is not named in {error}"
        );
    }
    let got = conn.ok(json!({"op": "get_key", "date": DATE, "key": "bad"}));
    assert_eq!(got["records"], json!([]));
}

#[test]
fn one_that_does_not_fit_spoils_no_later_flush() {
    for config in [Config::new().dated("only", &schema()), Config::new().collection("only", &schema())] {
        let site = Site::new(&config);
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.ok(json!({"op": "store", "key": "a", "data": {"c_int32": 1}}));
        conn.refused(json!({"op": "store", "key": "a", "data": {"c_int32": "two"}}), "bad_request");
        let ops = json!([
            {"op": "store", "key": "b", "data": {"c_int32": 3}},
            {"op": "store", "key": "c", "data": {"c_int32": "four"}}
        ]);
        let error = conn.refused(json!({"op": "batch", "ops": ops}), "bad_request");
        assert!(error["message"].as_str().unwrap().contains("c_int32"), "{error}");
        conn.ok(json!({"op": "flush"}));
        conn.ok(json!({"op": "store", "key": "d", "data": {"c_int32": 5}}));
        conn.ok(json!({"op": "flush"}));
        assert_eq!(conn.ok(json!({"op": "keys"}))["keys"], json!(["a", "d"]));
        drop(conn);
        daemon.stop();
        let daemon = site.start();
        assert_eq!(daemon.connect().ok(json!({"op": "keys"}))["keys"], json!(["a", "d"]));
    }
}

#[test]
fn a_collection_has_its_columns_in_both_tables() {
    if !python::available() {
        return;
    }
    let schema = r#"extra_schema = { customer_id = "int64", price = "float64" }"#;
    let site = Site::new(&Config::new().collection("settings", schema));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "key": "k", "data": {"customer_id": 42, "price": 9.5}, "value": 1}));
    drop(conn);
    daemon.stop();
    for table in ["storage_history", "storage_latest"] {
        let rows = python::rows(
            &site.path(&format!("settings/{table}.duckdb")),
            &format!("SELECT customer_id, price FROM {table}"),
        );
        assert_eq!(rows, [[json!(42), json!(9.5)]], "{table}");
        let columns =
            python::rows(&site.path(&format!("settings/{table}.duckdb")), &format!("DESCRIBE {table}"));
        let names: Vec<_> = columns.iter().map(|row| row[0].as_str().unwrap()).collect();
        assert_eq!(names[names.len() - 2..], ["customer_id", "price"], "{table}");
    }
}
