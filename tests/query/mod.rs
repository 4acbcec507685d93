//! `query`: one SELECT over what the storage holds, and nothing else.

mod bounds;
mod command_line;
mod dates;
mod fresh;
mod handed_over;
mod refused;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, is_stamp};

fn start(config: &Config) -> (Site, Daemon, Conn) {
    let site = Site::new(config);
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

/// The rows of a query on the storage `jobs`.
fn rows(conn: &mut Conn, sql: &str) -> Value {
    conn.ok(json!({"op": "query", "storage": "jobs", "sql": sql}))["rows"].clone()
}

#[test]
fn a_dated_storage_is_one_table_with_a_date() {
    let (_site, _daemon, mut conn) =
        start(&Config::new().dated("jobs", "extra_schema = { price = \"float64\" }"));
    let store = |date: &str, key: &str, price: f64| json!({"op": "store", "date": date, "key": key, "process_name": "w", "data": {"price": price, "status": "new"}});
    conn.ok(store("2025-01-15", "a", 1.5));
    conn.ok(store("2025-01-15", "a", 2.5));
    conn.ok(store("2025-01-16", "b", 3.5));
    let found =
        conn.ok(json!({"op": "query", "id": 7, "sql": "SELECT * FROM storage", "from": "2025-01-15"}));
    let columns: Vec<_> = found["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["type"].as_str().unwrap()))
        .collect();
    let expected = [
        ("date", "DATE"),
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
        ("price", "DOUBLE"),
    ];
    assert_eq!(columns, expected);
    let row = &found["rows"][0];
    let stamp = row[4].clone();
    assert!(is_stamp(&stamp), "{stamp}");
    let data = json!({"price": 2.5, "status": "new"});
    assert_eq!(*row, json!(["2025-01-15", "a", "w", data, stamp, "new", null, null, row[8], 2, 2, 2.5]));
    assert_eq!(
        (&found["row_count"], &found["truncated"], &found["id"]),
        (&json!(1), &json!(false), &json!(7))
    );
    assert!(found["elapsed_ms"].is_u64());
    let both = conn.ok(json!({"op": "query", "sql": "SELECT date, key FROM storage ORDER BY date", "from": "2025-01-01", "to": "2025-12-31"}));
    assert_eq!(both["rows"], json!([["2025-01-15", "a"], ["2025-01-16", "b"]]));
    let today = conn.ok(json!({"op": "query", "sql": "SELECT * FROM storage"}));
    assert_eq!(
        (&today["rows"], today["columns"].as_array().unwrap().len()),
        (&json!([]), 12),
        "today is empty, and has its columns"
    );
    for (from, to) in [("2025-01-17", "2025-01-15"), ("2025-01-32", "2025-01-31")] {
        conn.refused(json!({"op": "query", "sql": "SELECT 1", "from": from, "to": to}), "bad_request");
    }
}

#[test]
fn a_collection_storage_has_its_history_and_its_latest_values() {
    let (_site, _daemon, mut conn) = start(&Config::new().collection("settings", ""));
    let store = |value: i64| json!({"op": "store", "key": "k", "collection_name": "c", "item_name": "i", "data": {}, "value": value});
    for table in ["storage_history", "storage_latest"] {
        let empty = conn.ok(json!({"op": "query", "sql": format!("SELECT * FROM {table}")}));
        assert_eq!(empty["rows"], json!([]), "{table} before the first write");
    }
    conn.ok(store(1));
    conn.ok(store(2));
    conn.ok(json!({"op": "delete", "key": "k", "collection_name": "c", "item_name": "i"}));
    conn.ok(store(3));
    let latest = conn.ok(json!({"op": "query", "sql": "SELECT key, value_int, version FROM storage_latest"}));
    assert_eq!(latest["rows"], json!([["k", 3, 1]]));
    let history = conn.ok(
        json!({"op": "query", "sql": "SELECT seq, value_int, deleted FROM storage_history ORDER BY seq"}),
    );
    assert_eq!(history["rows"], json!([[1, 1, false], [2, 2, false], [3, null, true], [4, 3, false]]));
    let joined =
        "SELECT h.value_int FROM storage_latest l JOIN storage_history h USING (key) WHERE h.seq = l.seq - 2";
    assert_eq!(conn.ok(json!({"op": "query", "sql": joined}))["rows"], json!([[2]]));
    let error = conn.refused(json!({"op": "query", "sql": "SELECT 1", "from": "2025-01-01"}), "bad_request");
    assert_eq!(error["field"], "from");
}

#[test]
fn parameters_are_values_and_never_sql() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    conn.ok(json!({"op": "store", "key": "x' OR '1'='1", "data": {"n": 18_446_744_073_709_551_615_u64}}));
    conn.ok(json!({"op": "store", "key": "other", "data": {"n": 2}}));
    let ask = |sql: &str, params: Value| json!({"op": "query", "sql": sql, "params": params});
    let found = conn.ok(ask("SELECT data FROM storage WHERE key = ?", json!(["x' OR '1'='1"])));
    assert_eq!(found["rows"], json!([[{"n": 18_446_744_073_709_551_615_u64}]]));
    let found =
        conn.ok(ask("SELECT $2, $1, ?3", json!([1, "two", null])).to_string().replace(", ?3", ", $3"));
    assert_eq!(found["rows"], json!([["two", 1, null]]));
    let nested = conn.ok(ask("SELECT (?::JSON)->'$.a', (?::JSON)[0]", json!([{"a": [1]}, [true]])));
    assert_eq!(nested["rows"], json!([[[1], true]]));
    for params in [json!([]), json!([1, 2])] {
        let error = conn.refused(ask("SELECT ?", params), "bad_request");
        assert_eq!(error["field"], "params");
    }
    conn.refused(ask("SELECT ?", json!({"a": 1})), "bad_request");
    conn.refused(ask("SELECT $name", json!([1])), "query_rejected");
}

#[test]
fn json_comes_back_as_it_was_stored_and_values_have_their_types() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let data = r#"{"b":1.10,"a":12345678901234567890123,"t":"\u00e9\n"}"#;
    conn.ok(format!(r#"{{"op":"store","key":"k","data":{data}}}"#));
    conn.send(json!({"op": "query", "sql": "SELECT data FROM storage"}));
    let line = conn.text();
    assert!(line.contains(&format!("[[{data}]]")), "{line}");
    let found = rows(
        &mut conn,
        "SELECT 1::BIGINT, 18446744073709551616::HUGEINT, 1.5::DECIMAL(3,1), 'nan'::DOUBLE, DATE '2025-01-15', \
         '\\x01'::BLOB, [1, 2], {'a': 1}, NULL, true, 0.5::DOUBLE",
    );
    let expected = json!([[
        1, "18446744073709551616", "1.5", "NaN", "2025-01-15", "AQ==", [1, 2], {"a": 1}, null, true, 0.5
    ]]);
    assert_eq!(found, expected);
}

#[test]
fn what_fails_says_why_and_leaves_the_connection_usable() {
    let (site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let ask = |sql: &str| json!({"op": "query", "sql": sql});
    let failure = conn.refused(ask("SELECT nope FROM storage"), "query_failed");
    assert!(failure["message"].as_str().unwrap().contains("\"nope\" not found"), "{failure}");
    conn.refused(ask("SELECT CAST(key AS INTEGER) / 0 FROM (VALUES ('x')) t(key)"), "query_failed");
    conn.refused(ask("SELECT error('mine')"), "query_failed");
    let failure = conn.refused(ask("SELECT 1::VARIANT"), "query_failed");
    assert!(failure["message"].as_str().unwrap().contains("cast it"), "{failure}");
    conn.refused(json!({"op": "query"}), "bad_request");
    conn.refused(json!({"op": "query", "sql": 7}), "bad_request");
    conn.refused(json!({"op": "query", "sql": "SELECT 1", "max_rows": 0}), "bad_request");
    conn.refused(json!({"op": "query", "sql": "SELECT 1", "limit": 1}), "bad_request");
    let directory = site.path("").display().to_string();
    for sql in ["SELECT nope FROM storage", "SELECT storage.nope", "SELECT * FROM storage WHERE seq = 'x'"] {
        let answer = conn.ask(ask(sql)).to_string();
        assert!(!answer.contains(&directory), "{answer}");
    }
    assert_eq!(rows(&mut conn, "SELECT 1"), json!([[1]]));
}
