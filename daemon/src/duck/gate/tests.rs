//! What the gate lets through, and everything that it must not.

use super::{Gate, Rejection};

const TABLES: &[&str] = &["storage"];

fn check(sql: &str) -> Result<usize, Rejection> {
    let gate = Gate::open(64 << 10).expect("DuckDB");
    let sql = sql.to_owned();
    // The stack that a query's thread has.
    let (sender, checked) = std::sync::mpsc::channel();
    let check = move || drop(sender.send(gate.check(&sql, TABLES).map(|checked| checked.parameters())));
    crate::duck::query::spawn(check).expect("a thread");
    checked.recv().expect("it is checked")
}

#[test]
fn ordinary_queries_pass() {
    let failed: Vec<_> = GOOD
        .iter()
        .filter_map(|sql| check(sql).err().map(|rejection| format!("{sql}\n    {rejection}")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

const GOOD: &[&str] = &[
    "SELECT 1",
    "SELECT 1;",
    "  /* a comment */ SELECT 1 -- another\n",
    "SELECT count(*) FROM storage",
    "FROM storage",
    "FROM STORAGE SELECT \"key\" LIMIT 3",
    "TABLE storage",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT date, count(*) FROM storage GROUP BY ALL ORDER BY ALL DESC NULLS LAST LIMIT 10 OFFSET 1",
    "SELECT key FROM storage WHERE date = '2025-01-15' AND seq BETWEEN 1 AND 10 OR status IS NULL",
    "SELECT a.key FROM storage a JOIN storage b USING (key) LEFT JOIN storage c ON a.seq = c.seq",
    "SELECT * FROM storage a ASOF JOIN storage b ON a.key = b.key AND a.seq >= b.seq",
    "SELECT * FROM storage POSITIONAL JOIN range(3)",
    "SELECT * FROM storage s, LATERAL (SELECT s.seq + 1) t",
    "SELECT * EXCLUDE (data) REPLACE (seq + 1 AS seq), COLUMNS('k.*') FROM storage",
    "WITH a AS (SELECT key FROM storage), b AS (SELECT * FROM a) SELECT * FROM b, a",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t",
    "WITH storage AS (SELECT 1 AS x) SELECT x FROM storage",
    "SELECT key FROM storage UNION ALL BY NAME SELECT key FROM storage EXCEPT SELECT 'a' INTERSECT SELECT 'b'",
    "SELECT row_number() OVER (PARTITION BY key ORDER BY seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM storage",
    "SELECT lag(seq, 1) OVER w, sum(seq) OVER w FROM storage WINDOW w AS (ORDER BY seq) QUALIFY lag(seq) OVER w > 1",
    "SELECT DISTINCT ON (key) key, seq FROM storage ORDER BY key, seq DESC",
    "SELECT count(*) FILTER (WHERE seq > 1), string_agg(key, ',' ORDER BY key), max(seq) FROM storage HAVING count(*) > 1",
    "SELECT key, count(*) FROM storage GROUP BY GROUPING SETS ((key), ()), ROLLUP (status)",
    "SELECT data->>'$.x', data->'$.y'->'z', data.x, json_extract(data, '$.a'), json_extract_string(data, ['$.a', '$.b']) FROM storage",
    "SELECT json_array_length(data, '$.a'), json_keys(data), json_type(data), json_group_array(key) FROM storage GROUP BY data",
    "SELECT e.key, e.value FROM storage s, json_each(s.data) e",
    "SELECT [1, 2, 3][1], [x * 2 FOR x IN [1, 2] IF x > 1], list_transform([1], x -> x + 1), list_filter([1], lambda x: x > 0)",
    "SELECT {'a': 1}.a, struct_pack(a := 1), map {'a': 1}['a'], row(1, 2), (1, 2)",
    "SELECT unnest([1, 2]), unnest(data->'$.list[*]') FROM storage",
    "SELECT * FROM range(10), generate_series(1, 10, 2), unnest([1]) u(x)",
    "SELECT range(10), generate_series(1, 5)",
    "SELECT date_trunc('hour', timestamp), date_part('year', timestamp), timestamp + INTERVAL 1 DAY, timestamp::DATE FROM storage",
    "SELECT now(), current_date, extract(year FROM timestamp), strftime(timestamp, '%Y'), age(timestamp) FROM storage",
    "SELECT regexp_matches(key, '^a'), regexp_replace(key, 'a', 'b', 'g'), key SIMILAR TO 'a.*', key ~ 'a' FROM storage",
    "SELECT key LIKE 'a%', key ILIKE 'A%', key GLOB 'a*', NOT key = 'x', key IN ('a', 'b'), key[1:2] FROM storage",
    "SELECT CAST(seq AS VARCHAR), TRY_CAST(key AS INTEGER), seq::DECIMAL(10, 2), key::ENUM ('a', 'b') FROM storage",
    "SELECT CASE WHEN seq > 1 THEN 'a' ELSE 'b' END, coalesce(key, 'x'), nullif(key, 'x'), if(seq > 1, 1, 2), greatest(1, 2) FROM storage",
    "SELECT * FROM storage WHERE EXISTS (SELECT 1) AND seq = ANY (SELECT 1) AND key IN (SELECT key FROM storage)",
    "SELECT median(seq), quantile_cont(seq, 0.9), arg_max(key, seq), approx_count_distinct(key), histogram(status), list(key) FROM storage",
    "SELECT * FROM storage USING SAMPLE 10 PERCENT",
    "SELECT * FROM (PIVOT storage ON status IN ('a', 'b') USING count(*) GROUP BY key)",
    "SELECT * FROM (UNPIVOT storage ON status, username INTO NAME n VALUE v)",
    "SELECT lpad(key, 10, ' '), repeat('-', 20) FROM storage",
    "SELECT md5(key), hash(key), upper(key) || lower(key), length(key) FROM storage",
    "SELECT TRY(1 / 0), typeof(1), error('x')",
    "SELECT $$it's$$, 'a;b', \"key\" FROM storage",
];

#[test]
fn parameters_are_counted() {
    assert_eq!(check("SELECT 1"), Ok(0));
    assert_eq!(check("SELECT ?, ? FROM storage WHERE key = ?"), Ok(3));
    assert_eq!(check("SELECT $2, $1, $2"), Ok(2));
    assert!(matches!(check("SELECT $2"), Err(Rejection::Parameter(_))));
    assert!(matches!(check("SELECT $name"), Err(Rejection::Parameter(_))));
}

/// Every case of what a query must not be, by the reason for which it is refused.
#[test]
fn everything_else_is_refused() {
    let mut wrong = Vec::new();
    for (group, cases) in REFUSED {
        for sql in *cases {
            match check(sql) {
                Err(rejection) if matches(group, &rejection) => {}
                other => wrong.push(format!("{group}: {sql}\n    {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn matches(group: &str, rejection: &Rejection) -> bool {
    match group {
        "not a SELECT" => matches!(rejection, Rejection::NotSelect),
        "several" => matches!(rejection, Rejection::Several(_)),
        "a table" => matches!(rejection, Rejection::Table { .. }),
        "a name" => matches!(rejection, Rejection::Qualified { .. }),
        "a function" => matches!(rejection, Rejection::Function(_) | Rejection::TableFunction(_)),
        "a size" => matches!(rejection, Rejection::Sized { .. } | Rejection::Series(_)),
        "a CTE" => matches!(rejection, Rejection::CteName(_)),
        "unknown" => matches!(rejection, Rejection::Unknown(_)),
        "no SQL" => matches!(rejection, Rejection::Syntax(_) | Rejection::Empty | Rejection::Nul),
        _ => false,
    }
}

const REFUSED: &[(&str, &[&str])] = &[
    (
        "not a SELECT",
        &[
            "COPY storage TO '/tmp/x'",
            "COPY (SELECT 1) TO '/tmp/x'",
            "COPY storage FROM '/tmp/x'",
            "COPY FROM DATABASE a TO b",
            "ATTACH '/tmp/x.db'",
            "DETACH x",
            "USE x",
            "EXPORT DATABASE '/tmp/x'",
            "IMPORT DATABASE '/tmp/x'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET memory_limit = '1GB'",
            "RESET memory_limit",
            "PRAGMA database_size",
            "PRAGMA table_info('storage')",
            "CALL pragma_version()",
            "CREATE TABLE t (a INTEGER)",
            "CREATE TEMP TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "CREATE SECRET s (TYPE s3)",
            "CREATE MACRO m(a) AS a",
            "CREATE SEQUENCE s",
            "CREATE SCHEMA s",
            "CREATE TYPE t AS ENUM ('a')",
            "CREATE INDEX i ON storage (key)",
            "ALTER TABLE storage ADD COLUMN a INTEGER",
            "DROP TABLE storage",
            "DROP VIEW storage",
            "INSERT INTO storage VALUES (1)",
            "UPDATE storage SET key = 'a'",
            "DELETE FROM storage",
            "MERGE INTO storage USING (SELECT 1 AS x) s ON true WHEN MATCHED THEN DELETE",
            "TRUNCATE storage",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE p",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "CHECKPOINT",
            "FORCE CHECKPOINT",
            "VACUUM",
            "ANALYZE",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE DELETE FROM storage",
            "EXPLAIN ANALYZE SELECT 1",
            "COMMENT ON TABLE storage IS 'x'",
            "PIVOT storage ON status USING count(*)",
            "WITH x AS (DELETE FROM storage RETURNING *) SELECT * FROM x",
            "WITH x AS (INSERT INTO storage VALUES (1) RETURNING *) SELECT * FROM x",
        ],
    ),
    ("several", &["SELECT 1; SELECT 2", "SELECT 1;; SELECT 2;", "SELECT 1; /* x */ SELECT 2 --"]),
    (
        "a table",
        &[
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM '/etc/hosts.csv'",
            "SELECT * FROM \"data.parquet\"",
            "SELECT * FROM 'data.duckdb'",
            "SELECT * FROM duckdb_settings",
            "SELECT * FROM duckdb_secrets",
            "SELECT * FROM sqlite_master",
            "SELECT * FROM pg_class",
            "SELECT * FROM storage_history",
            "SELECT * FROM fastpersist_state",
            "SELECT (SELECT max(a) FROM other)",
            "SELECT * FROM storage WHERE key IN (SELECT a FROM other)",
            "SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a), a",
            "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a",
            "WITH a AS (SELECT * FROM a) SELECT * FROM a",
            "SELECT (WITH hidden AS (SELECT 1) SELECT * FROM hidden), (SELECT * FROM hidden)",
        ],
    ),
    (
        "a name",
        &[
            "SELECT * FROM main.storage",
            "SELECT * FROM store_1.main.storage",
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM pg_catalog.pg_class",
            "SELECT * FROM temp.storage",
            "SELECT * FROM system.main.duckdb_settings",
            "SELECT pg_catalog.pg_backend_pid()",
            "SELECT key.upper() FROM storage",
            "SELECT system.main.upper('a')",
            "SELECT * FROM system.main.range(1)",
        ],
    ),
    (
        "a function",
        &[
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM read_csv_auto('/etc/passwd')",
            "SELECT * FROM read_text('/etc/passwd')",
            "SELECT * FROM read_blob('data.duckdb.wal')",
            "SELECT * FROM READ_BLOB('data.duckdb.wal')",
            "SELECT * FROM read_json('/etc/passwd')",
            "SELECT * FROM read_json_auto('/etc/passwd')",
            "SELECT * FROM read_ndjson('/etc/passwd')",
            "SELECT * FROM read_parquet('x')",
            "SELECT * FROM parquet_scan('x')",
            "SELECT * FROM parquet_metadata('x')",
            "SELECT * FROM parquet_schema('x')",
            "SELECT * FROM glob('*')",
            "SELECT * FROM sniff_csv('/etc/passwd')",
            "SELECT * FROM read_duckdb('x')",
            "SELECT * FROM seq_scan('storage')",
            "SELECT * FROM arrow_scan(1, 2, 3)",
            "SELECT * FROM query('SELECT 1')",
            "SELECT * FROM query_table('storage')",
            "SELECT * FROM query_table(['storage'])",
            "SELECT * FROM duckdb_secrets()",
            "SELECT * FROM duckdb_settings()",
            "SELECT * FROM duckdb_tables()",
            "SELECT * FROM duckdb_logs()",
            "SELECT * FROM which_secret('x', 's3')",
            "SELECT * FROM pragma_database_size()",
            "SELECT * FROM pragma_table_info('storage')",
            "SELECT * FROM pragma_storage_info('storage')",
            "SELECT * FROM pragma_version()",
            "SELECT * FROM force_checkpoint()",
            "SELECT * FROM checkpoint()",
            "SELECT * FROM json_execute_serialized_sql('x')",
            "SELECT * FROM test_all_types()",
            "SELECT * FROM repeat('x', 10)",
            "SELECT * FROM histogram('storage', key)",
            "SELECT * FROM histogram_values('storage', key)",
            "SELECT * FROM enable_logging()",
            "SELECT * FROM storage, read_text('/etc/passwd')",
            "SELECT (SELECT content FROM read_text('/etc/passwd'))",
            "SELECT * FROM storage WHERE key IN (FROM glob('*'))",
            "WITH x AS (FROM read_text('/etc/passwd')) SELECT * FROM x",
            "SELECT * FROM storage ORDER BY (SELECT count(*) FROM glob('*'))",
            "SELECT * FROM storage LIMIT (SELECT count(*) FROM glob('*'))",
            "SELECT getenv('HOME')",
            "SELECT current_setting('memory_limit')",
            "SELECT getvariable('x')",
            "SELECT nextval('s')",
            "SELECT currval('s')",
            "SELECT current_query()",
            "SELECT json_serialize_sql('SELECT 1')",
            "SELECT pg_sleep(10)",
            "SELECT sleep_ms(10)",
            "SELECT write_log('x')",
            "SELECT setseed(0.5)",
            "SELECT txid_current()",
            "SELECT no_such_function(1)",
            "SELECT list_transform(['a'], x -> getenv(x))",
            "SELECT sum(getenv('x')::INTEGER) OVER ()",
            "SELECT ('HOME').getenv()",
            "SELECT CASE WHEN true THEN getenv('x') END",
            "SELECT count(*) FILTER (WHERE getenv('x') = '1')",
        ],
    ),
    (
        "a size",
        &[
            "SELECT repeat('x', 1000000000)",
            "SELECT repeat('x', seq) FROM storage",
            "SELECT repeat('x', ?)",
            "SELECT lpad('x', 2000000000, 'y')",
            "SELECT rpad('x', 10 * 1000000, 'y')",
            "SELECT list_resize([1], 1000000000)",
            "SELECT range(1000000000)",
            "SELECT generate_series(1, seq) FROM storage",
        ],
    ),
    (
        "a CTE",
        &[
            "WITH duckdb_settings AS (SELECT 1) SELECT * FROM duckdb_settings",
            "WITH \"/etc/passwd\" AS (SELECT 1) SELECT * FROM \"/etc/passwd\"",
            "WITH \"x.csv\" AS (SELECT 1) SELECT 1",
        ],
    ),
    (
        "unknown",
        &[
            "SHOW TABLES",
            "SHOW ALL TABLES",
            "DESCRIBE storage",
            "SUMMARIZE storage",
            "SELECT * FROM (DESCRIBE storage)",
            "SELECT * FROM (SHOW TABLES)",
            "SELECT * FROM storage AT (VERSION => 1)",
        ],
    ),
    (
        "no SQL",
        &[
            "",
            "SELECT 1 INTO t",
            "SELEC 1",
            "SELECT",
            "SELECT 'a",
            "SELECT \0",
            ";",
            "-- nothing",
            "SELECT * FROM storage WHERE",
        ],
    ),
];

/// Nothing ends DuckDB's binder once it has begun to write these out.
#[test]
fn common_table_expressions_that_are_written_out_are_refused() {
    let gate = Gate::open(64 << 10).expect("DuckDB");
    for sql in [
        "WITH a AS NOT MATERIALIZED (SELECT 1 AS x), b AS NOT MATERIALIZED (SELECT * FROM a, a AS c) SELECT * FROM b",
        "WITH a AS not/**/Materialized (SELECT 1) SELECT * FROM a",
    ] {
        let rejected = gate.check(sql, &[]).expect_err(sql);
        assert!(matches!(rejected, Rejection::Materialized), "{rejected}");
    }
}

#[test]
fn long_and_deep_sql_is_refused() {
    let nested = |open: &str, inner: &str, close: &str, times: usize| {
        format!("SELECT {}{inner}{}", open.repeat(times), close.repeat(times))
    };
    assert!(matches!(check(&format!("SELECT '{}'", "x".repeat(100 << 10))), Err(Rejection::TooLong { .. })));
    for sql in [
        nested("(", "1", ")", 1_000),
        nested("(SELECT ", "1", ")", 1_000),
        nested("[", "1", "]", 1_000),
        nested("abs(", "1", ")", 1_000),
        nested("CASE WHEN true THEN ", "1", " END", 1_000),
        nested("NOT ", "true", "", 10_000),
        format!("SELECT * FROM {}(SELECT 1){}", "(SELECT * FROM ".repeat(1_000), ")".repeat(1_000)),
        nested("list_transform([1], x -> ", "1", ")", 5),
        format!("SELECT 1{}", "+1".repeat(10_000)),
        format!("SELECT 1{}", "::INTEGER".repeat(5_000)),
    ] {
        let checked = check(&sql);
        assert!(matches!(checked, Err(Rejection::TooDeep)), "{}: {checked:?}", &sql[..40]);
    }
    check(&nested("list_transform([1], x -> ", "1", ")", 4)).expect("some lambdas");
    // Long and flat is fine.
    check(&format!("SELECT 1{}", "+1".repeat(500))).expect("a long sum");
    check(&vec!["SELECT 1"; 500].join(" UNION ALL ")).expect("a long union");
    check(&format!("SELECT 1 IN ({})", vec!["1"; 5_000].join(","))).expect("a long list");
}
