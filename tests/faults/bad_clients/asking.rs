//! The limits on queries: how long, how large, how many.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::ground::{ENDLESS, Ground, query, query_within, store};
use crate::harness::{Config, Conn, child::Stranger, is_root};

pub(super) fn query_rows() -> u64 {
    let mut ground = Ground::new("max_query_rows = 5");
    let mut conn = ground.connect();
    for (asked, rows, truncated) in [(5, 5, false), (6, 5, true), (1_000_000_000, 5, true)] {
        let found = conn.ok(query(&format!("SELECT * FROM range({asked})")));
        assert_eq!((&found["row_count"], &found["truncated"]), (&json!(rows), &json!(truncated)), "{asked}");
    }
    ground.others_go_on();
    2
}

pub(super) fn query_bytes() -> u64 {
    let mut ground = Ground::new("max_query_bytes = 2048");
    let mut conn = ground.connect();
    // A row is `["xxx"]`. Behind one that leaves a byte free another one is begun.
    for (row_bytes, rows, truncated) in [(2047, 2, false), (2048, 1, true), (9_000, 1, true)] {
        let sql = format!("SELECT repeat('x', {}) FROM range(2)", row_bytes - 4);
        let found = conn.ok(query(&sql));
        let last = found["rows"].as_array().and_then(|rows| rows.last()).expect("a row");
        assert_eq!(last[0].as_str().map(str::len), Some(row_bytes - 4), "a row is whole");
        assert_eq!(
            (&found["row_count"], &found["truncated"]),
            (&json!(rows), &json!(truncated)),
            "{row_bytes}"
        );
    }
    ground.others_go_on();
    2
}

pub(super) fn query_sql_bytes() -> u64 {
    let mut ground = Ground::new("max_query_sql_bytes = 100");
    let mut conn = ground.connect();
    let sql = |bytes: usize| format!("SELECT{}1", " ".repeat(bytes - 7));
    assert_eq!(conn.ok(query(&sql(100)))["rows"], json!([[1]]));
    conn.refused(query(&sql(101)), "query_rejected");
    ground.others_go_on();
    1
}

/// Clients with a query each that does not end by itself.
fn endless(ground: &mut Ground, count: u64) -> Vec<Conn> {
    let conns = (0..count).map(|_| {
        let mut conn = ground.connect();
        conn.send(query_within(ENDLESS, 30_000));
        conn
    });
    let conns = conns.collect();
    ground.wait_for_figure("queries", count);
    conns
}

/// The next query waits as long as it may take, is told `busy`, and gets the place of one that ends.
fn next_waits(ground: &mut Ground, mut held: Vec<Conn>, said: &str) {
    let mut conn = ground.connect();
    let begun = Instant::now();
    let error = conn.refused(query_within("SELECT 1", 200), "busy");
    assert!(error["message"].as_str().is_some_and(|text| text.contains(said)), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(200), "it did not wait");
    ground.others_go_on();
    conn.send(query_within("SELECT 2", 20_000));
    held.pop();
    assert_eq!(conn.answer()["rows"], json!([[2]]), "a query whose client is gone makes room");
}

pub(super) fn concurrent_queries() -> u64 {
    let mut ground = Ground::new("max_concurrent_queries = 2");
    let held = endless(&mut ground, 2);
    next_waits(&mut ground, held, "all places for queries");
    1
}

pub(super) fn concurrent_queries_per_uid() -> u64 {
    let config = Config::both()
        .daemon("socket_mode = \"0666\"\ndefault_role = \"reader\"")
        .limits("max_concurrent_queries = 3\nmax_concurrent_queries_per_uid = 2");
    let mut ground = Ground::on(&config);
    let held = endless(&mut ground, 2);
    if is_root() {
        let mut stranger = Stranger::connect(&ground.site);
        assert_eq!(stranger.verdict(&query("SELECT 1")), "ok", "another user has a place");
    }
    next_waits(&mut ground, held, "one user's");
    1
}

pub(super) fn query_timeout() -> u64 {
    let mut ground = Ground::new("query_timeout_ms = 500");
    let mut conn = ground.connect();
    conn.ok(query("SELECT 1"));
    for request in [query(ENDLESS), query_within(ENDLESS, 3_600_000)] {
        let begun = Instant::now();
        conn.refused(request, "timeout");
        let took = begun.elapsed();
        assert!((Duration::from_millis(500)..Duration::from_secs(6)).contains(&took), "{took:?}");
        ground.others_go_on();
    }
    2
}

pub(super) fn query_dates() -> u64 {
    let mut ground = Ground::new("max_query_dates = 2");
    let mut conn = ground.connect();
    for day in 1..=3 {
        let mut request = store("k");
        request["date"] = json!(format!("2025-02-{day:02}"));
        conn.ok(request);
    }
    let over = |last: &str| {
        let mut request = query("SELECT count(*) FROM storage");
        request["from"] = json!("2025-02-01");
        request["to"] = json!(last);
        request
    };
    assert_eq!(conn.ok(over("2025-02-02"))["rows"], json!([[2]]));
    let error = conn.refused(over("2025-02-03"), "bad_request");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("max_query_dates")), "{error}");
    ground.others_go_on();
    1
}

pub(super) fn handed_over_bytes() -> u64 {
    let ask = |rows: u64| {
        let mut request = query(&format!("SELECT * FROM range({rows})"));
        request["result"] = json!("fd");
        request
    };
    let bytes_of = |answer: &Value| answer["bytes"].as_u64().expect("its bytes");
    // As the daemon finds it: how large the result is that shall just fit.
    let bytes = bytes_of(&Ground::new("").connect().ok(ask(20_000)));
    let mut ground = Ground::new(&format!("max_handed_over_bytes = {bytes}"));
    let mut conn = ground.connect();
    let whole = conn.ok(ask(20_000));
    assert_eq!((&whole["truncated"], bytes_of(&whole)), (&json!(false), bytes));
    ground.wait_for_figure("handed_over_bytes", 0);
    for rows in [20_001, 1_000_000] {
        let cut = conn.ok(ask(rows));
        assert_eq!(cut["truncated"], true, "{cut}");
        assert!(bytes_of(&cut) <= bytes, "{cut}");
    }
    ground.wait_for_figure("handed_over_bytes", 0);
    // What a client has not taken from its socket counts as held.
    let mut holder = ground.connect();
    holder.send(ask(20_000));
    ground.wait_for_figure("handed_over_bytes", bytes);
    conn.refused(ask(20_000), "busy");
    assert_eq!(conn.ok(query("SELECT 1"))["rows"], json!([[1]]), "rows need no such memory");
    ground.others_go_on();
    drop(holder);
    ground.wait_for_figure("handed_over_bytes", 0);
    conn.ok(ask(20_000));
    2
}

/// Needs more memory than DuckDB may take: it spills, or fails.
const LARGE: &str = "SELECT count(*) FROM (SELECT DISTINCT md5(i::VARCHAR) FROM range(1500000) t(i))";

pub(super) fn duckdb_memory() -> u64 {
    let mut ground = Ground::new("duckdb_memory_bytes = 67108864");
    let mut conn = ground.connect();
    assert_eq!(conn.ok(query(LARGE))["rows"], json!([[1_500_000]]), "what may be spilled is");
    // One value that has to be in memory whole.
    conn.refused(query("SELECT length(list(i)::VARCHAR) FROM range(1000000000) t(i)"), "query_failed");
    ground.others_go_on();
    assert_eq!(conn.ok(query("SELECT 1"))["rows"], json!([[1]]));
    1
}

pub(super) fn duckdb_temp() -> u64 {
    let mut ground = Ground::new("duckdb_memory_bytes = 67108864\nduckdb_temp_bytes = 1048576");
    let mut conn = ground.connect();
    conn.refused(query(LARGE), "query_failed");
    ground.others_go_on();
    assert_eq!(conn.ok(query("SELECT 1"))["rows"], json!([[1]]));
    1
}

pub(super) fn duckdb_threads() -> u64 {
    // The second thread computes only beside others, so a query is asked for; threads that sleep count too.
    let threads = |count: u64| {
        let mut ground = Ground::new(&format!("duckdb_threads = {count}"));
        let mut conn = ground.connect();
        conn.ok(query("SELECT count(*) FROM range(3000000) t(i) WHERE hash(i) % 2 = 0"));
        ground.others_go_on();
        let tasks = format!("/proc/{}/task", ground.daemon.pid());
        fs::read_dir(tasks).expect("its threads").count()
    };
    let (one, three) = (threads(1), threads(3));
    assert!(three >= one + 2, "{one} threads with one of DuckDB's, {three} with three");
    1
}
