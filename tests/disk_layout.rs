//! Contract 7: what lies on the disk, read back by DuckDB for Python, which knows nothing of us.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Site, python};

fn columns(site: &Site, file: &str, table: &str) -> Vec<(String, String)> {
    let rows = python::rows(&site.path(file), &format!("DESCRIBE {table}"));
    let text = |cell: &Value| cell.as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

fn typed(columns: &[(&str, &str)]) -> Vec<(String, String)> {
    columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
}

#[test]
fn a_dated_storage_has_one_table_per_date() {
    if !python::available() {
        return;
    }
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for _ in 0..3 {
        conn.ok(json!({
            "op": "store", "date": "2025-01-15", "key": "a", "process_name": "p", "username": "ann",
            "timestamp": "2025-01-15T10:30:00.000001Z", "data": {"status": "done", "status_int": -5, "n": 1.50}
        }));
    }
    conn.ok(r#"{"op":"store","date":"2025-01-15","key":"b","data":{ "z" : 1, "a":123456789012345678901234567890}}"#);
    conn.ok(json!({"op": "store", "date": "2025-01-16", "key": "c", "data": {}}));
    drop(conn);
    daemon.stop();
    let file = "jobs/2025-01-15/data.duckdb";
    let expected = typed(&[
        ("key", "VARCHAR"),
        ("process_name", "VARCHAR"),
        ("data", "JSON"),
        ("timestamp", "TIMESTAMP"),
        ("status", "VARCHAR"),
        ("status_int", "INTEGER"),
        ("username", "VARCHAR"),
        ("updated_at", "TIMESTAMP"),
        ("version", "INTEGER"),
        ("seq", "UBIGINT"),
    ]);
    assert_eq!(columns(&site, file, "storage"), expected);
    let rows = python::rows(
        &site.path(file),
        "SELECT key, process_name, data::VARCHAR, epoch_us(timestamp), status, status_int, username, version, seq, \
         updated_at IS NOT NULL FROM storage ORDER BY key",
    );
    let first = json!([
        "a",
        "p",
        "{\"status\":\"done\",\"status_int\":-5,\"n\":1.5}",
        1_736_937_000_000_001_i64,
        "done",
        -5,
        "ann",
        3,
        3,
        true
    ]);
    assert_eq!(json!(rows[0]), first);
    let text = r#"{ "z" : 1, "a":123456789012345678901234567890}"#;
    assert_eq!(rows[1][..3], [json!("b"), Value::Null, json!(text)]);
    assert_eq!(rows[1][4..9], [Value::Null, Value::Null, Value::Null, json!(1), json!(4)]);
    assert_eq!(rows.len(), 2);
    assert_eq!(python::value(&site.path("jobs/2025-01-16/data.duckdb"), "SELECT count(*) FROM storage"), 1);
}

#[test]
fn a_collection_has_history_and_latest() {
    if !python::available() {
        return;
    }
    let site = Site::new(&Config::new().collection("settings", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let store = |conn: &mut Conn, item: &str, value: Value| {
        conn.ok(json!({"op": "store", "key": "k", "collection_name": "c", "item_name": item, "data": {"v": value}, "value": value}));
    };
    store(&mut conn, "a", json!(1));
    store(&mut conn, "b", json!("x"));
    conn.ok(json!({"op": "flush"}));
    store(&mut conn, "a", json!(2));
    conn.ok(json!({"op": "delete", "key": "k", "collection_name": "c", "item_name": "b"}));
    store(&mut conn, "a", json!(true));
    drop(conn);
    daemon.stop();
    let shared = [
        ("key", "VARCHAR"),
        ("collection_name", "VARCHAR"),
        ("item_name", "VARCHAR"),
        ("data", "JSON"),
        ("value_int", "BIGINT"),
        ("value_float", "DOUBLE"),
        ("value_string", "VARCHAR"),
        ("value_bool", "BOOLEAN"),
        ("timestamp", "TIMESTAMP"),
        ("status", "VARCHAR"),
        ("status_int", "INTEGER"),
        ("username", "VARCHAR"),
        ("updated_at", "TIMESTAMP"),
        ("version", "INTEGER"),
        ("seq", "UBIGINT"),
    ];
    let latest = "settings/storage_latest.duckdb";
    assert_eq!(columns(&site, latest, "storage_latest"), typed(&shared));
    let history = "settings/storage_history.duckdb";
    let with_deleted = [&shared[..], &[("deleted", "BOOLEAN")]].concat();
    assert_eq!(columns(&site, history, "storage_history"), typed(&with_deleted));
    let rows = python::rows(
        &site.path(history),
        "SELECT seq, item_name, value_int, value_string, value_bool, deleted FROM storage_history ORDER BY seq",
    );
    let expected = json!([
        [1, "a", 1, null, null, false],
        [2, "b", null, "x", null, false],
        [3, "a", 2, null, null, false],
        [4, "b", null, null, null, true],
        [5, "a", null, null, true, false]
    ]);
    assert_eq!(json!(rows), expected);
    let versions = "SELECT version FROM storage_history WHERE item_name = 'a' ORDER BY seq";
    assert_eq!(json!(python::rows(&site.path(history), versions)), json!([[1], [2], [3]]));
    let rows = python::rows(
        &site.path(latest),
        "SELECT key, collection_name, item_name, data::VARCHAR, value_int, value_bool, version, seq FROM storage_latest",
    );
    assert_eq!(json!(rows), json!([["k", "c", "a", "{\"v\":true}", null, true, 3, 5]]));
}

#[test]
fn version_counts_the_writes_to_one_record() {
    if !python::available() {
        return;
    }
    let site = Site::new(&Config::new().dated("jobs", ""));
    let mut daemon = site.start();
    // Written in one flush, over several flushes, over a kill and a restart.
    for step in ["flush", "kill", "stop", "flush"] {
        let mut conn = daemon.connect();
        for n in 0..3 {
            conn.ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {"n": n}}));
            conn.ok(json!({"op": "store", "date": "2025-01-15", "key": format!("{step}{n}"), "data": {}}));
        }
        match step {
            "flush" => drop(conn.ok(json!({"op": "flush"}))),
            "kill" => {
                daemon.kill();
                daemon = site.start();
            }
            _ => {
                drop(conn);
                daemon.stop();
                daemon = site.start();
            }
        }
    }
    daemon.stop();
    let file = site.path("jobs/2025-01-15/data.duckdb");
    assert_eq!(python::value(&file, "SELECT version FROM storage WHERE key = 'k'"), 12);
    assert_eq!(
        json!(python::rows(&file, "SELECT count(*), count(DISTINCT key), max(seq) FROM storage")),
        json!([[10, 10, 24]])
    );
}

#[test]
fn a_null_process_name_is_one_row_however_often_it_is_written() {
    if !python::available() {
        return;
    }
    let site = Site::new(&Config::new().dated("jobs", "cache_max_bytes = 1"));
    let mut daemon = site.start();
    for round in 0..3 {
        let mut conn = daemon.connect();
        for _ in 0..2 {
            conn.ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {"round": round}}));
            conn.ok(json!({"op": "flush"}));
        }
        drop(conn);
        daemon.stop();
        daemon = site.start();
    }
    daemon.stop();
    let rows = python::rows(
        &site.path("jobs/2025-01-15/data.duckdb"),
        "SELECT process_name, version, data->>'round' FROM storage",
    );
    assert_eq!(json!(rows), json!([[null, 6, "2"]]));
}

#[test]
fn the_database_may_have_another_name_and_place() {
    for (path, file) in [
        ("mine.duckdb", "jobs/2025-01-15/mine.duckdb"),
        ("{dir}/elsewhere/{date}.duckdb", "elsewhere/2025-01-15.duckdb"),
    ] {
        let site = Site::new(&Config::new().dated("jobs", &format!("db_path = \"{path}\"")));
        let daemon = site.start();
        daemon.connect().ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {}}));
        daemon.stop();
        assert!(site.path(file).is_file(), "{file}");
        let daemon = site.start();
        let got = daemon.connect().ok(json!({"op": "get_key", "date": "2025-01-15", "key": "k"}));
        assert_eq!(got["records"].as_array().unwrap().len(), 1, "{path}");
        assert_eq!(daemon.connect().ok(json!({"op": "dates"}))["dates"], json!(["2025-01-15"]), "{path}");
    }
}
