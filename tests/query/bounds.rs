//! What a query may cost: rows, bytes, time, memory, and how many run at once.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{rows, start};
use crate::harness::{Config, PATIENCE, wait_for};

const ENDLESS: &str = "SELECT count(*) FROM range(1000000000000)";

#[test]
fn a_result_is_cut_at_max_rows_and_says_so() {
    let (_site, _daemon, mut conn) = start(&Config::new().limits("max_query_rows = 50").dated("jobs", ""));
    let ask = |sql: &str, rows: u64| json!({"op": "query", "sql": sql, "max_rows": rows});
    for (sql, max_rows, count, truncated) in [
        ("SELECT * FROM range(1000000000000)", 10, 10, true),
        ("SELECT * FROM range(1000000000000)", 1_000, 50, true),
        ("SELECT * FROM range(50)", 1_000, 50, false),
        ("SELECT * FROM range(51)", 1_000, 50, true),
        ("SELECT * FROM range(10)", 10, 10, false),
        ("SELECT * FROM range(0)", 10, 0, false),
    ] {
        let found = conn.ok(ask(sql, max_rows));
        assert_eq!(found["rows"].as_array().unwrap().len(), count, "{sql}");
        assert_eq!((&found["row_count"], &found["truncated"]), (&json!(count), &json!(truncated)), "{sql}");
    }
}

#[test]
fn a_result_is_cut_at_a_whole_row_where_its_bytes_are_over_the_limit() {
    let (_site, _daemon, mut conn) =
        start(&Config::new().limits("max_query_bytes = 10000").dated("jobs", ""));
    conn.send(json!({"op": "query", "sql": "SELECT i, repeat('x', 1000) FROM range(100) t(i)"}));
    let line = conn.text();
    let found: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
    assert!((10_000..12_000).contains(&line.len()), "{} bytes", line.len());
    assert_eq!((&found["row_count"], &found["truncated"]), (&json!(10), &json!(true)));
    assert_eq!(found["rows"][9][1].as_str().unwrap().len(), 1_000, "the last row is whole");
}

#[test]
fn what_never_ends_is_ended_in_time() {
    let config = Config::new().limits("query_timeout_ms = 1000").dated("jobs", "");
    let (_site, mut daemon, mut conn) = start(&config);
    for (sql, timeout_ms, at_most_ms) in [
        (ENDLESS, Some(100), 1_000),
        (
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT sum(n) FROM t",
            Some(100),
            1_000,
        ),
        (
            "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range + b.range) = 1",
            Some(100),
            1_500,
        ),
        (ENDLESS, None, 2_500),
        (ENDLESS, Some(3_600_000), 2_500),
    ] {
        let begun = Instant::now();
        let mut request = json!({"op": "query", "sql": sql});
        if let Some(timeout_ms) = timeout_ms {
            request["timeout_ms"] = json!(timeout_ms);
        }
        let error = conn.refused(request, "timeout");
        assert_eq!(error["retryable"], true);
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(at_most_ms + 4_000), "{sql} took {took:?}");
        assert!(
            took >= Duration::from_millis(timeout_ms.unwrap_or(1_000).min(1_000)),
            "{sql} took only {took:?}"
        );
    }
    assert_eq!(rows(&mut conn, "SELECT 1"), json!([[1]]));
    daemon.assert_running();
}

#[test]
fn a_query_that_needs_too_much_memory_fails_and_writing_goes_on() {
    let limits = "duckdb_memory_bytes = 67108864\nduckdb_temp_bytes = 16777216";
    let (_site, mut daemon, mut conn) =
        start(&Config::new().limits(limits).dated("jobs", "batch_size = 100"));
    let mut writer = daemon.connect();
    for (n, sql) in [
        "SELECT list(i) FROM range(1000000000) t(i)",
        "SELECT count(*) FROM (SELECT DISTINCT i || 'x', md5(i::VARCHAR) FROM range(50000000) t(i))",
        "SELECT * FROM range(50000000) t(i) ORDER BY md5(i::VARCHAR)",
        "WITH RECURSIVE t(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM t) SELECT length(s) FROM t",
    ]
    .into_iter()
    .enumerate()
    {
        conn.send(json!({"op": "query", "sql": sql}));
        for key in 0..300 {
            writer.ok(json!({"op": "store", "key": format!("{n}_{key}"), "data": {"n": key}}));
        }
        writer.ok(json!({"op": "flush"}));
        let error = conn.refusal(sql, "query_failed");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("memory") || message.contains("Memory"), "{message}");
    }
    daemon.assert_running();
    assert_eq!(rows(&mut conn, "SELECT count(*) FROM storage"), json!([[1_200]]));
    let stats = conn.ok(json!({"op": "stats"}));
    assert_eq!(stats["storages"]["jobs"]["last_flush"]["ok"], true);
}

#[test]
fn only_so_many_run_at_once_and_the_next_waits_or_is_told() {
    let (_site, daemon, mut conn) =
        start(&Config::new().limits("max_concurrent_queries = 1").dated("jobs", ""));
    let mut other = daemon.connect();
    other.send(json!({"op": "query", "sql": ENDLESS, "timeout_ms": 1500}));
    // Until it runs, and holds the one place.
    let begun = Instant::now();
    let busy = loop {
        let answer = conn.ask(json!({"op": "query", "sql": "SELECT 1", "timeout_ms": 100}));
        if answer["ok"] == false {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "the other query does not begin");
    };
    assert_eq!((&busy["error"]["code"], &busy["error"]["retryable"]), (&json!("busy"), &json!(true)));
    // With more patience it waits its turn.
    let waited = conn.ok(json!({"op": "query", "sql": "SELECT 1", "timeout_ms": 20_000}));
    assert_eq!(waited["rows"], json!([[1]]));
    other.refusal(ENDLESS, "timeout");
}

#[test]
fn a_query_whose_client_is_gone_is_ended_and_one_that_only_sends_no_more_is_answered() {
    let (_site, daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let mut running = || conn.ok(json!({"op": "stats"}))["daemon"]["queries"].as_u64();
    let mut until = |expected: u64, what: &str| {
        let begun = Instant::now();
        while running() != Some(expected) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let mut gone = daemon.connect();
    gone.send(json!({"op": "query", "sql": ENDLESS}));
    until(1, "the query does not begin");
    drop(gone);
    until(0, "the query goes on for nobody");
    let mut half_closed = daemon.connect();
    half_closed.send(json!({"op": "query", "sql": "SELECT count(*) FROM range(100000000)"}));
    half_closed.half_close();
    assert_eq!(half_closed.answer()["rows"], json!([[100_000_000]]));
}

#[test]
fn one_user_does_not_get_every_place() {
    let limits = "max_concurrent_queries = 3\nmax_concurrent_queries_per_uid = 1";
    let (_site, daemon, mut conn) = start(&Config::new().limits(limits).dated("jobs", ""));
    let mut other = daemon.connect();
    other.send(json!({"op": "query", "sql": ENDLESS, "timeout_ms": 10_000}));
    let begun = Instant::now();
    let busy = loop {
        let answer = conn.ask(json!({"op": "query", "sql": "SELECT 1", "timeout_ms": 100}));
        if answer["ok"] == false {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the other query does not begin");
    };
    assert_eq!(busy["error"]["code"], "busy", "{busy}");
    assert!(busy["error"]["message"].as_str().is_some_and(|text| text.contains("one user's")), "{busy}");
}

#[test]
fn a_long_query_keeps_nobody_else_waiting() {
    let (_site, daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let mut others: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for other in &mut others {
        other.send(json!({"op": "query", "sql": ENDLESS, "timeout_ms": 2000}));
    }
    let begun = Instant::now();
    for n in 0..50 {
        conn.ok(json!({"op": "store", "key": format!("k{n}"), "data": {}}));
        conn.ok(json!({"op": "get_key", "key": format!("k{n}")}));
    }
    assert!(begun.elapsed() < Duration::from_millis(1900), "100 requests took {:?}", begun.elapsed());
    for other in &mut others {
        other.refusal(ENDLESS, "timeout");
    }
}

#[test]
fn a_daemon_that_stops_does_not_wait_for_a_query() {
    let (_site, daemon, _conn) = start(&Config::new().dated("jobs", ""));
    let mut conn = daemon.connect();
    conn.send(json!({"op": "query", "sql": ENDLESS}));
    let asked = thread::spawn(move || conn.refusal(ENDLESS, "shutting_down"));
    // The query runs when another one can be seen to be slower than alone; but it may also be stopped before.
    let mut other = daemon.connect();
    other.ok(json!({"op": "query", "sql": "SELECT 1"}));
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    asked.join().expect("it was told");
}

/// Whoever goes while its query waits for a place kept its connection and its turn until it had had one: a client that comes
/// and goes often enough had all of its user's connections so.
#[test]
fn who_goes_while_its_query_waits_keeps_nothing() {
    let config = Config::new().limits("max_concurrent_queries_per_uid = 1").dated("jobs", "");
    let (_site, daemon, mut conn) = start(&config);
    let mut slow = daemon.connect();
    slow.send(json!({"op": "query", "sql": ENDLESS, "timeout_ms": 20_000}));
    let mut figure = |name: &str| conn.ok(json!({"op": "stats"}))["daemon"][name].clone();
    wait_for("the slow one runs", PATIENCE, || (figure("queries") == 1).then_some(()));
    for _ in 0..20 {
        daemon.connect().send(json!({"op": "query", "sql": "SELECT 1"}));
    }
    let begun = Instant::now();
    wait_for("the others are forgotten", PATIENCE, || (figure("connections") == 2).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(10), "only when the slow one had ended");
    assert_eq!(figure("queries"), 1, "which still runs");
}
