//! Every type of DuckDB as JSON, and what ends a query.

mod arrow_stream;

use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::Date;
use serde_json::{Value, json};

use super::{Bounds, Cancelled, Form, Parameter, Part, Query, Rows, RunError, Running, View};
use crate::duck::gate::Gate;
use crate::duck::{Engine, EngineSettings, Files, Store};
use crate::storage::schema::{Model, Schema};

fn engine() -> (tempfile::TempDir, Arc<Engine>) {
    let dir = tempfile::tempdir().expect("a directory");
    let settings =
        EngineSettings { memory_limit_bytes: 64 << 20, threads: 1, temp_directory: dir.path().join("temp") };
    let engine = Engine::open(&settings).expect("DuckDB");
    engine.lock_down(&[dir.path().to_owned()], 16 << 20).expect("locked down");
    (dir, engine)
}

fn query(sql: &str, parameters: Vec<Parameter>) -> Query {
    let checked = Gate::open(64 << 10).expect("DuckDB").check(sql, &[]).expect(sql);
    let bounds = Bounds { max_rows: 100, max_bytes: 1 << 20 };
    Query { checked, parameters, views: Vec::new(), bounds, form: Form::Rows }
}

fn run(sql: &str, parameters: Vec<Parameter>) -> Result<Rows, RunError> {
    query(sql, parameters).run(&engine().1, &Running::new("any"))
}

fn rows(rows: &Rows) -> Value {
    let text = format!("[{}]", String::from_utf8(rows.json.clone()).expect("UTF-8"));
    assert!(!text.contains('\n'), "one line: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// One value, as its exact text, and its type.
fn value(sql: &str) -> (String, String) {
    let rows = run(&format!("SELECT {sql}"), Vec::new()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let text = String::from_utf8(rows.json.clone()).expect("UTF-8");
    serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{sql}: {error}: {text}"));
    (text[1..text.len() - 1].to_owned(), rows.columns[0].kind.clone())
}

#[test]
fn every_type_has_its_form() {
    let mut wrong = Vec::new();
    for (sql, expected, kind) in TYPES {
        let (text, found) = value(sql);
        if (text.as_str(), found.as_str()) != (*expected, *kind) {
            wrong.push(format!("{sql}: {text} {found}, not {expected} {kind}"));
        }
        if !sql.starts_with("NULL") {
            let (text, _) = value(&format!("CASE WHEN random() < 0 THEN {sql} END"));
            assert_eq!(text, "null", "{sql}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const TYPES: &[(&str, &str, &str)] = &[
    ("NULL", "null", "INTEGER"),
    ("true", "true", "BOOLEAN"),
    ("false", "false", "BOOLEAN"),
    ("(-128)::TINYINT", "-128", "TINYINT"),
    ("(-32768)::SMALLINT", "-32768", "SMALLINT"),
    ("(-2147483648)::INTEGER", "-2147483648", "INTEGER"),
    ("(-9223372036854775808)::BIGINT", "-9223372036854775808", "BIGINT"),
    ("255::UTINYINT", "255", "UTINYINT"),
    ("65535::USMALLINT", "65535", "USMALLINT"),
    ("4294967295::UINTEGER", "4294967295", "UINTEGER"),
    ("18446744073709551615::UBIGINT", "18446744073709551615", "UBIGINT"),
    ("3::HUGEINT", "3", "HUGEINT"),
    ("18446744073709551615::HUGEINT", "18446744073709551615", "HUGEINT"),
    ("18446744073709551616::HUGEINT", "\"18446744073709551616\"", "HUGEINT"),
    ("(-9223372036854775808)::HUGEINT", "-9223372036854775808", "HUGEINT"),
    ("(-9223372036854775809)::HUGEINT", "\"-9223372036854775809\"", "HUGEINT"),
    (
        "(-170141183460469231731687303715884105728)::HUGEINT",
        "\"-170141183460469231731687303715884105728\"",
        "HUGEINT",
    ),
    ("7::UHUGEINT", "7", "UHUGEINT"),
    (
        "340282366920938463463374607431768211455::UHUGEINT",
        "\"340282366920938463463374607431768211455\"",
        "UHUGEINT",
    ),
    ("12::BIGNUM", "12", "BIGNUM"),
    ("(-12)::BIGNUM", "-12", "BIGNUM"),
    ("0::BIGNUM", "0", "BIGNUM"),
    (
        "'123456789012345678901234567890123456789012345678901234567890'::BIGNUM",
        "\"123456789012345678901234567890123456789012345678901234567890\"",
        "BIGNUM",
    ),
    ("'-99999999999999999999'::BIGNUM", "\"-99999999999999999999\"", "BIGNUM"),
    ("1.5::FLOAT", "1.5", "FLOAT"),
    ("0.1::FLOAT", "0.1", "FLOAT"),
    ("0.1::DOUBLE", "0.1", "DOUBLE"),
    ("1::DOUBLE", "1.0", "DOUBLE"),
    ("1e300::DOUBLE", "1e300", "DOUBLE"),
    ("'nan'::DOUBLE", "\"NaN\"", "DOUBLE"),
    ("'inf'::DOUBLE", "\"Infinity\"", "DOUBLE"),
    ("'-inf'::FLOAT", "\"-Infinity\"", "FLOAT"),
    ("1.50::DECIMAL(4, 2)", "\"1.50\"", "DECIMAL(4,2)"),
    ("(-0.001)::DECIMAL(9, 3)", "\"-0.001\"", "DECIMAL(9,3)"),
    ("12345678901234567::DECIMAL(18, 1)", "\"12345678901234567.0\"", "DECIMAL(18,1)"),
    (
        "99999999999999999999999999999999999999::DECIMAL(38, 0)",
        "\"99999999999999999999999999999999999999\"",
        "DECIMAL(38,0)",
    ),
    ("'a \"b\" \n ü'", "\"a \\\"b\\\" \\n ü\"", "VARCHAR"),
    ("'\\x00\\xFFab'::BLOB", "\"AP9hYg==\"", "BLOB"),
    ("''::BLOB", "\"\"", "BLOB"),
    ("'101'::BIT", "\"101\"", "BIT"),
    ("'0110100001'::BIT", "\"0110100001\"", "BIT"),
    ("'00000000-0000-0000-0000-000000000001'::UUID", "\"00000000-0000-0000-0000-000000000001\"", "UUID"),
    ("'f0000000-1111-2222-3333-444444444444'::UUID", "\"f0000000-1111-2222-3333-444444444444\"", "UUID"),
    ("DATE '2025-01-15'", "\"2025-01-15\"", "DATE"),
    ("DATE '1969-12-31'", "\"1969-12-31\"", "DATE"),
    ("DATE '12025-02-28'", "\"12025-02-28\"", "DATE"),
    ("DATE '0044-03-15 (BC)'", "\"0044-03-15 (BC)\"", "DATE"),
    ("'infinity'::DATE", "\"infinity\"", "DATE"),
    ("'-infinity'::DATE", "\"-infinity\"", "DATE"),
    ("TIME '10:30:00.5'", "\"10:30:00.500000\"", "TIME"),
    ("TIME '24:00:00'", "\"24:00:00.000000\"", "TIME"),
    ("TIME_NS '10:30:00.123456789'", "\"10:30:00.123456789\"", "TIME_NS"),
    ("'10:30:00+02'::TIMETZ", "\"10:30:00.000000+02:00\"", "TIME WITH TIME ZONE"),
    ("'10:30:00-05:30'::TIMETZ", "\"10:30:00.000000-05:30\"", "TIME WITH TIME ZONE"),
    ("TIMESTAMP '2025-01-15 10:30:00'", "\"2025-01-15T10:30:00.000000Z\"", "TIMESTAMP"),
    ("TIMESTAMP '1969-12-31 23:59:59.999999'", "\"1969-12-31T23:59:59.999999Z\"", "TIMESTAMP"),
    ("'infinity'::TIMESTAMP", "\"infinity\"", "TIMESTAMP"),
    ("'2025-01-15 10:30:00'::TIMESTAMP_S", "\"2025-01-15T10:30:00.000000Z\"", "TIMESTAMP_S"),
    ("'2025-01-15 10:30:00.123'::TIMESTAMP_MS", "\"2025-01-15T10:30:00.123000Z\"", "TIMESTAMP_MS"),
    ("'2025-01-15 10:30:00.123456'::TIMESTAMP_NS", "\"2025-01-15T10:30:00.123456Z\"", "TIMESTAMP_NS"),
    ("'2025-01-15 10:30:00.123456789'::TIMESTAMP_NS", "\"2025-01-15T10:30:00.123456789Z\"", "TIMESTAMP_NS"),
    ("to_timestamp(1736937000)", "\"2025-01-15T10:30:00.000000Z\"", "TIMESTAMP WITH TIME ZONE"),
    ("INTERVAL '14 months 3 days'", "\"1 year 2 months 3 days\"", "INTERVAL"),
    ("INTERVAL '90 minutes'", "\"01:30:00\"", "INTERVAL"),
    ("INTERVAL '1 day 0.5 seconds'", "\"1 day 00:00:00.5\"", "INTERVAL"),
    ("INTERVAL '-1 hours'", "\"-01:00:00\"", "INTERVAL"),
    ("INTERVAL '0 days'", "\"00:00:00\"", "INTERVAL"),
    ("'b'::ENUM ('a', 'b')", "\"b\"", "ENUM"),
    (
        "'{\"a\": [1, 1.10, 12345678901234567890123]}'::JSON",
        "{\"a\": [1, 1.10, 12345678901234567890123]}",
        "JSON",
    ),
    ("'{\n\"a\": 1\r\n}'::JSON", "{ \"a\": 1  }", "JSON"),
    ("'[NaN, 1]'::JSON", "\"[NaN, 1]\"", "JSON"),
    ("'null'::JSON", "null", "JSON"),
    ("[1, NULL, 3]", "[1,null,3]", "INTEGER[]"),
    ("[]::VARCHAR[]", "[]", "VARCHAR[]"),
    ("[[1], [], NULL]", "[[1],[],null]", "INTEGER[][]"),
    ("[DATE '2025-01-15']", "[\"2025-01-15\"]", "DATE[]"),
    ("['{\"a\":1}'::JSON]", "[{\"a\":1}]", "JSON[]"),
    ("[true, false, NULL]", "[true,false,null]", "BOOLEAN[]"),
    (
        "[170141183460469231731687303715884105727, 1::HUGEINT]",
        "[\"170141183460469231731687303715884105727\",1]",
        "HUGEINT[]",
    ),
    ("array_value(1, 2)", "[1,2]", "ARRAY(INTEGER)"),
    ("{'a': 1, 'B c': [true]}", "{\"a\":1,\"B c\":[true]}", "STRUCT(a INTEGER, \"B c\" BOOLEAN[])"),
    ("row(1, 'x')", "[1,\"x\"]", "STRUCT(INTEGER, VARCHAR)"),
    (
        "{'t': TIMESTAMP '2025-01-15', 'd': 1.5::DECIMAL(3,1)}",
        "{\"t\":\"2025-01-15T00:00:00.000000Z\",\"d\":\"1.5\"}",
        "STRUCT(t TIMESTAMP, d DECIMAL(3,1))",
    ),
    ("map {'a': 1, 'b': NULL}", "{\"a\":1,\"b\":null}", "MAP(VARCHAR, INTEGER)"),
    ("map {1: 'x'}", "[{\"key\":1,\"value\":\"x\"}]", "MAP(INTEGER, VARCHAR)"),
    ("union_value(num := 5)", "5", "UNION(num INTEGER)"),
    ("'x'::UNION (num INTEGER, str VARCHAR)", "\"x\"", "UNION(num INTEGER, str VARCHAR)"),
    ("'POINT (1 2)'::GEOMETRY", "\"AQEAAAAAAAAAAADwPwAAAAAAAABA\"", "GEOMETRY"),
];

#[test]
fn a_variant_says_what_to_do() {
    let error = run("SELECT 1::VARIANT", Vec::new()).expect_err("it has no form");
    assert!(error.to_string().contains("cast it"), "{error}");
}

#[test]
fn parameters_have_the_types_of_json() {
    let parameters = vec![
        Parameter::Null,
        Parameter::Bool(true),
        Parameter::Int(-1),
        Parameter::UInt(u64::MAX),
        Parameter::Huge(i128::MAX),
        Parameter::Double(0.5),
        Parameter::Text("a'b".to_owned()),
    ];
    let found = run("SELECT ?, ?, ?, ?, ?, ?, ?", parameters).expect("it runs");
    let expected = json!([[null, true, -1, u64::MAX, i128::MAX.to_string(), 0.5, "a'b"]]);
    assert_eq!(rows(&found), expected);
    let text = |text: &str| vec![Parameter::Text(text.to_owned())];
    let found = run("SELECT DATE '2025-01-15' = ?", text("2025-01-15")).expect("it runs");
    assert_eq!(rows(&found), json!([[true]]), "a date is given as a string");
    let found = run("SELECT (?::JSON)->>'$.a[1]'", text("{\"a\":[1,2]}")).expect("it runs");
    assert_eq!(rows(&found), json!([["2"]]), "an array or object as its text");
    let found = run("SELECT * FROM range(10) LIMIT ?", vec![Parameter::Int(2)]).expect("it runs");
    assert_eq!(found.count, 2);
    let error = run("SELECT ?, ?", text("1")).expect_err("one is missing");
    assert!(matches!(error, RunError::Parameters { expected: 2, given: 1 }), "{error}");
}

#[test]
fn a_result_is_cut_at_its_bounds() {
    let (_dir, engine) = engine();
    let mut query = query("SELECT * FROM range(1000000000000)", Vec::new());
    query.bounds = Bounds { max_rows: 5_000, max_bytes: 1 << 20 };
    let found = query.run(&engine, &Running::new("any")).expect("it runs");
    assert_eq!((found.count, found.truncated), (5_000, true));
    query.bounds = Bounds { max_rows: 5_000, max_bytes: 100 };
    let found = query.run(&engine, &Running::new("any")).expect("it runs");
    assert!(found.truncated && found.json.len() < 110, "{} bytes", found.json.len());
    query.bounds = Bounds { max_rows: 10, max_bytes: 100 };
    query.checked = Gate::open(1 << 10).expect("DuckDB").check("SELECT * FROM range(10)", &[]).expect("fine");
    let found = query.run(&engine, &Running::new("any")).expect("it runs");
    assert_eq!((found.count, found.truncated), (10, false), "exactly as many are not too many");
}

#[test]
fn what_never_ends_is_ended() {
    for sql in [
        "SELECT count(*) FROM range(1000000000000)",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
    ] {
        let (_dir, engine) = engine();
        let query = query(sql, Vec::new());
        let running = engine.runnings().add("any");
        let (sender, ended) = std::sync::mpsc::channel();
        let (thread_engine, thread_running) = (Arc::clone(&engine), Arc::clone(&running));
        super::spawn(move || drop(sender.send(query.run(&thread_engine, &thread_running))))
            .expect("a thread");
        assert!(ended.recv_timeout(Duration::from_millis(50)).is_err(), "{sql} still runs");
        assert!(
            engine.runnings().cancel_all(Cancelled::Timeout, Duration::from_secs(10)),
            "{sql} was running"
        );
        let result = ended.recv_timeout(Duration::from_secs(10)).expect("it ends");
        assert!(matches!(result, Err(RunError::Cancelled(Cancelled::Timeout))), "{sql}: {result:?}");
    }
}

#[test]
fn a_query_that_needs_more_than_there_is_fails_and_leaves_nothing() {
    let (_dir, engine) = engine();
    for sql in [
        "SELECT list(i) FROM range(1000000000) t(i)",
        "SELECT count(*) FROM (SELECT DISTINCT i || 'x', md5(i::VARCHAR) FROM range(20000000) t(i))",
        "WITH RECURSIVE t(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM t) SELECT length(s) FROM t",
    ] {
        let result = query(sql, Vec::new()).run(&engine, &Running::new("any"));
        let Err(RunError::Failed(message)) = &result else { panic!("{sql}: {result:?}") };
        assert!(message.contains("Out of Memory") && !message.contains("SET "), "{sql}: {message}");
    }
    let found = query("SELECT 1", Vec::new()).run(&engine, &Running::new("any")).expect("it runs");
    assert_eq!(rows(&found), json!([[1]]));
}

/// Behind the gate: what would have to be refused there fails here too.
#[test]
fn the_engine_itself_is_shut() {
    let (dir, engine) = engine();
    let outside = tempfile::tempdir().expect("a directory");
    let conn = engine.connect().expect("a connection");
    let path = |name: &str| outside.path().join(name).display().to_string();
    std::fs::write(outside.path().join("data.csv"), "a\n1\n").expect("written");
    for sql in [
        format!("SELECT * FROM read_csv('{}')", path("data.csv")),
        format!("SELECT * FROM '{}'", path("data.csv")),
        format!("COPY (SELECT 1) TO '{}'", path("out.csv")),
        format!("ATTACH '{}'", path("out.duckdb")),
        format!("SELECT * FROM read_text('{}/../../etc/passwd')", dir.path().display()),
        "SET threads = 4".to_owned(),
        "SET GLOBAL enable_external_access = true".to_owned(),
        "SET GLOBAL allowed_configs = ['threads']".to_owned(),
        "SET GLOBAL lock_configuration = false".to_owned(),
        "RESET GLOBAL lock_configuration".to_owned(),
        "INSTALL httpfs".to_owned(),
        "LOAD httpfs".to_owned(),
    ] {
        conn.execute_batch(&sql).expect_err(&sql);
    }
    let files: Vec<_> = std::fs::read_dir(outside.path()).expect("listed").collect();
    assert_eq!(files.len(), 1, "nothing was made outside");
    // What the daemon itself does still works.
    engine.release_cache();
    let file = dir.path().join("inside.duckdb");
    engine.attach(&file, "inside").expect("attached");
    engine.detach(&file, "inside").expect("detached");
}

/// A condition on `date` leaves out the files of all other dates.
#[test]
fn dates_that_the_sql_rules_out_are_not_read() {
    let (dir, engine) = engine();
    let schema = Arc::new(Schema { model: Model::Dated, extra: Vec::new(), record_writer: false });
    let dates = ["2025-01-15", "2025-01-16", "2025-01-17"].map(|date| Date::parse(date).expect("a date"));
    let conn = engine.connect().expect("a connection");
    let stores = dates.map(|date| {
        let files = Files::Dated { data: dir.path().join(format!("{date}.duckdb")) };
        let store = Store::open(Arc::clone(&engine), Arc::clone(&schema), files).expect("it opens");
        let table = store.shared().current.sql();
        conn.execute_batch(&format!(
            "INSERT INTO {table} (key, seq) SELECT 'k' || i, i FROM range(100) t(i)"
        ))
        .expect("filled");
        store
    });
    let parts = dates.iter().zip(&stores).map(|(date, store)| Part::of_store(Some(*date), store)).collect();
    conn.execute_batch(&View::dated(&schema, parts).sql()).expect("a view");
    let files_read = |condition: &str| {
        let sql = format!("EXPLAIN SELECT count(*), max(key) FROM storage WHERE {condition}");
        let plan: String = conn.query_row(&sql, [], |row| row.get(1)).expect(condition);
        plan.matches("SEQ_SCAN").count()
    };
    assert_eq!(files_read("seq = 1"), 3);
    assert_eq!(files_read("date = '2025-01-16'"), 1);
    assert_eq!(files_read("date >= DATE '2025-01-16' AND seq = 1"), 2);
    assert_eq!(files_read("date IN ('2025-01-15', '2025-01-17')"), 2);
    assert_eq!(files_read("date = '2024-01-01'"), 0);
}
