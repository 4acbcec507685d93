//! Everything that a query must not be: after each, the files and the settings are as they were.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::{rows, start};
use crate::harness::Config;

/// Every file below a directory with its length; DuckDB's spill directory may come and go.
fn files(directory: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string(), path.metadata().expect("its length").len());
        }
    }
    found.retain(|name, _| !name.contains("duckdb_temp"));
    found
}

#[test]
fn whatever_is_no_plain_select_is_refused() {
    let (site, mut daemon, mut conn) = start(&Config::new().dated("jobs", "").collection("settings", ""));
    conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "k", "data": {"n": 1}}));
    conn.ok(json!({"op": "flush"}));
    let outside = tempfile::tempdir().expect("a directory");
    let readable = outside.path().join("readable.csv");
    fs::write(&readable, "a,b\nunseen,2\n").expect("written");
    let (csv, own) =
        (readable.display().to_string(), site.path("jobs/2025-01-15/data.duckdb").display().to_string());
    let target = outside.path().join("made").display().to_string();
    let before = (files(&site.path("jobs")), files(&site.path("settings")), files(outside.path()));
    let mut wrong = Vec::new();
    for sql in REFUSED {
        let sql = sql.replace("{csv}", &csv).replace("{own}", &own).replace("{target}", &target);
        let answer = conn.ask(json!({"op": "query", "storage": "jobs", "sql": sql, "from": "2025-01-15"}));
        if answer["error"]["code"] != "query_rejected" {
            wrong.push(format!("{sql}: {answer}"));
        }
        if answer.to_string().contains("unseen") {
            wrong.push(format!("{sql} shows a file: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    daemon.assert_running();
    assert_eq!(before, (files(&site.path("jobs")), files(&site.path("settings")), files(outside.path())));
    // What was set is as it was, and the storage goes on.
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "after", "data": {}}));
    assert_eq!(rows(&mut conn, "SELECT key FROM storage"), json!([["after"]]));
    let found = conn.ok(json!({"op": "query", "storage": "jobs", "sql": "SELECT count(*) FROM storage", "from": "2025-01-15"}));
    assert_eq!(found["rows"], json!([[1]]));
    daemon.stop();
}

const REFUSED: &[&str] = &[
    "COPY storage TO '{target}'",
    "COPY (SELECT * FROM storage) TO '{target}' (FORMAT csv)",
    "COPY storage FROM '{csv}'",
    "ATTACH '{target}'",
    "ATTACH '{own}' AS again (READ_ONLY)",
    "DETACH store_1",
    "USE memory",
    "EXPORT DATABASE '{target}'",
    "IMPORT DATABASE '{target}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '1MB'",
    "SET GLOBAL enable_external_access = true",
    "RESET memory_limit",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL force_checkpoint()",
    "CREATE TABLE t (a INTEGER)",
    "CREATE TEMP TABLE t (a INTEGER)",
    "CREATE OR REPLACE TEMP VIEW storage AS SELECT 1",
    "CREATE SECRET s (TYPE s3, KEY_ID 'x')",
    "CREATE MACRO m(a) AS a",
    "ALTER TABLE storage ADD COLUMN a INTEGER",
    "DROP TABLE storage",
    "INSERT INTO storage (key) VALUES ('x')",
    "UPDATE storage SET key = 'x'",
    "DELETE FROM storage",
    "MERGE INTO storage USING (SELECT 1 AS a) s ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE storage",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "BEGIN TRANSACTION",
    "COMMIT",
    "CHECKPOINT",
    "VACUUM",
    "EXPLAIN ANALYZE DELETE FROM storage",
    "EXPLAIN SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE storage",
    "WITH d AS (DELETE FROM storage RETURNING *) SELECT * FROM d",
    "SELECT * FROM read_csv('{csv}')",
    "SELECT * FROM read_text('{csv}')",
    "SELECT * FROM read_blob('{csv}')",
    "SELECT * FROM read_blob('{own}')",
    "SELECT * FROM read_blob('{own}.wal')",
    "SELECT * FROM read_json('{csv}')",
    "SELECT * FROM read_parquet('{csv}')",
    "SELECT * FROM glob('{csv}')",
    "SELECT * FROM sniff_csv('{csv}')",
    "SELECT * FROM parquet_metadata('{csv}')",
    "SELECT * FROM '{csv}'",
    "SELECT * FROM \"{csv}\"",
    "SELECT * FROM '{own}'",
    "WITH \"{csv}\" AS (SELECT 1) SELECT * FROM \"{csv}\"",
    "SELECT (SELECT max(content) FROM read_text('{csv}'))",
    "SELECT getenv('HOME')",
    "SELECT current_setting('memory_limit')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM duckdb_databases",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('storage')",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM pragma_storage_info('storage')",
    "SELECT nextval('s')",
    "SELECT * FROM store_1.main.storage",
    "SELECT * FROM store_1.main.fastpersist_state",
    "SELECT * FROM fastpersist_state",
    "SELECT * FROM storage_latest",
    "SHOW TABLES",
    "DESCRIBE storage",
    "SUMMARIZE storage",
    "PIVOT storage ON status USING count(*)",
    "nonsense",
    "",
];

#[test]
fn sql_that_is_too_long_or_too_deep_is_refused() {
    let (_site, mut daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let nested = |open: &str, close: &str, times: usize| {
        format!("SELECT {}1{}", open.repeat(times), close.repeat(times))
    };
    for sql in [
        format!("SELECT '{}'", "x".repeat(100 << 10)),
        nested("(", ")", 1_000),
        nested("(SELECT ", ")", 1_000),
        nested("[", "]", 1_000),
        nested("abs(", ")", 1_000),
        nested("CASE WHEN true THEN ", " END", 1_000),
        nested("-", "", 10_000),
        nested("- ", "", 30_000),
        format!("SELECT * FROM {}(SELECT 1){}", "(SELECT * FROM ".repeat(1_000), ")".repeat(1_000)),
        format!("SELECT 1{}", " + 1".repeat(10_000)),
    ] {
        let answer = conn.ask(json!({"op": "query", "sql": sql}));
        // Two minus signs are a comment, and many of them are one too.
        assert_eq!(answer["error"]["code"], "query_rejected", "{}: {answer}", &sql[..40]);
    }
    daemon.assert_running();
    assert_eq!(rows(&mut conn, "SELECT 1"), json!([[1]]));
}

/// A writer that holds a lock on nothing, a reader that may not write: the roles.
#[test]
fn a_query_of_one_storage_sees_nothing_of_another() {
    let (_site, _daemon, mut conn) = start(&Config::both());
    conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {"password": "hidden"}}));
    for sql in ["SELECT * FROM storage_latest", "SELECT * FROM storage_history", "SELECT * FROM settings"] {
        let answer = conn.ask(json!({"op": "query", "storage": "jobs", "sql": sql}));
        assert_eq!(answer["error"]["code"], "query_rejected", "{answer}");
    }
}
