//! Many dates as one table: those that are open, those that are closed, and those that somebody opens meanwhile.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::start;
use crate::harness::{Config, Conn, Daemon};

fn date(day: usize) -> String {
    format!("2025-{:02}-{:02}", 1 + day / 28, 1 + day % 28)
}

fn fill(conn: &mut Conn, days: usize) {
    for day in 0..days {
        let ops: Vec<_> =
            (0..10).map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {"day": day}})).collect();
        conn.ok(json!({"op": "batch", "date": date(day), "ops": ops}));
    }
}

fn year(sql: &str) -> Value {
    json!({"op": "query", "sql": sql, "from": "2025-01-01", "to": "2025-12-31"})
}

fn open_files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("listed").count()
}

#[test]
fn a_hundred_dates_are_read_with_few_open() {
    let (site, daemon, mut conn) = start(&Config::new().limits("max_open_dates = 4").dated("jobs", ""));
    fill(&mut conn, 100);
    let before = open_files(&daemon);
    let all = "SELECT count(*), count(DISTINCT date), min(date), max(date), sum((data->>'$.day')::INTEGER) FROM storage";
    let expected = json!([[1_000, 100, date(0), date(99), 49_500]]);
    for _ in 0..3 {
        assert_eq!(conn.ok(year(all))["rows"], expected);
    }
    let one = "SELECT count(*), any_value(data.day) FROM storage WHERE date = '2025-02-01'";
    assert_eq!(conn.ok(year(one))["rows"], json!([[10, 28]]));
    let stats = conn.ok(json!({"op": "stats"}));
    assert!(stats["storages"]["jobs"]["open_partitions"].as_u64().unwrap() <= 4, "{stats}");
    assert!(open_files(&daemon) <= before + 20, "{} files, {before} before", open_files(&daemon));
    // Nothing in the directory of a closed date has changed, and it counts as closed still.
    assert!(site.path(&format!("jobs/{}/settled", date(3))).exists());
    assert!(!site.path(&format!("jobs/{}/data.duckdb.wal", date(3))).exists());
    daemon.kill();
    let again = site.start();
    assert_eq!(again.connect().ok(year(all))["rows"], expected, "after a kill");
}

#[test]
fn a_date_that_is_opened_while_it_is_read_is_written_at_once() {
    let (_site, daemon, mut conn) = start(&Config::new().limits("max_open_dates = 2").dated("jobs", ""));
    fill(&mut conn, 12);
    let mut reader = daemon.connect();
    let reading = thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..10 {
            let found = reader.ok(year(
                "SELECT count(*) FROM storage, range(300000) r WHERE hash(r.range) % 2 = 0 OR r.range = 0",
            ));
            assert!(found["rows"][0][0].as_u64().unwrap() > 0);
            let count = reader.ok(year("SELECT count(*) FROM storage"))["rows"][0][0].as_u64().unwrap();
            seen.push(count);
        }
        seen
    });
    for round in 0..3 {
        for day in 0..12 {
            let key = format!("late_{round}");
            conn.ok(json!({"op": "store", "date": date(day), "key": key, "data": {}}));
            thread::sleep(Duration::from_millis(5));
        }
    }
    let seen = reading.join().expect("every query is answered");
    assert!(seen.is_sorted() && seen.iter().all(|count| (120..=156).contains(count)), "{seen:?}");
    assert_eq!(conn.ok(year("SELECT count(*) FROM storage"))["rows"], json!([[156]]));
}

#[test]
fn too_many_dates_are_refused_by_name() {
    let (_site, _daemon, mut conn) = start(&Config::new().limits("max_query_dates = 5").dated("jobs", ""));
    fill(&mut conn, 6);
    let error = conn.refused(year("SELECT 1"), "bad_request");
    assert!(error["message"].as_str().unwrap().contains("max_query_dates"), "{error}");
    let few = json!({"op": "query", "sql": "SELECT count(*) FROM storage", "from": date(0), "to": date(4)});
    assert_eq!(conn.ok(few)["rows"], json!([[50]]));
}

#[test]
fn a_column_that_old_dates_lack_is_null_there() {
    let (site, daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    conn.ok(json!({"op": "store", "date": "2025-01-01", "key": "old", "data": {"price": 1.5}}));
    daemon.stop();
    site.configure(&Config::new().dated("jobs", "extra_schema = { price = \"float64\" }"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "date": "2025-01-02", "key": "new", "data": {"price": 2.5}}));
    let found = conn.ok(year("SELECT key, price FROM storage ORDER BY date"));
    assert_eq!(found["rows"], json!([["old", null], ["new", 2.5]]));
}
