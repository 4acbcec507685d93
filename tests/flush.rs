//! When memory goes to DuckDB: by count, by interval, by `flush`; and that what waits for it is bounded.

use std::thread;

use serde_json::{Value, json};

use crate::harness::{Config, Conn, PATIENCE, Site, python, wait_for};

/// The figure `name` of the only storage, wherever `stats` has it.
pub(crate) fn stat(stats: &Value, name: &str) -> u64 {
    fn find(value: &Value, name: &str) -> Option<u64> {
        match value {
            Value::Object(members) => {
                let here = members.get(name).and_then(Value::as_u64);
                here.or_else(|| members.values().find_map(|member| find(member, name)))
            }
            Value::Array(items) => items.iter().find_map(|item| find(item, name)),
            _ => None,
        }
    }
    find(stats, name).unwrap_or_else(|| panic!("no {name} in {stats}"))
}

fn pending(conn: &mut Conn) -> u64 {
    let stats = conn.ok(json!({"op": "stats"}));
    stat(&stats, "pending_writes")
}

fn store(conn: &mut Conn, count: u64) {
    conn.all_ok((0..count).map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {"n": n}})));
}

fn models(lines: &str) -> [Config; 2] {
    [Config::new().dated("only", lines), Config::new().collection("only", lines)]
}

#[test]
fn a_flush_starts_with_the_batch_size() {
    for config in models("batch_size = 10\nduckdb_flush_interval_seconds = 3600") {
        let site = Site::new(&config);
        let daemon = site.start();
        let mut conn = daemon.connect();
        store(&mut conn, 9);
        assert_eq!(pending(&mut conn), 9);
        store(&mut conn, 1);
        wait_for("ten records are flushed", PATIENCE, || (pending(&mut conn) == 0).then_some(()));
    }
}

#[test]
fn a_flush_starts_with_the_interval() {
    for config in models("batch_size = 100000\nduckdb_flush_interval_seconds = 1") {
        let site = Site::new(&config);
        let daemon = site.start();
        let mut conn = daemon.connect();
        for round in 0..2 {
            store(&mut conn, 3);
            let what = format!("three records are flushed by the clock, round {round}");
            wait_for(&what, PATIENCE, || (pending(&mut conn) == 0).then_some(()));
        }
    }
}

#[test]
fn the_op_flushes_all_dates_before_it_answers() {
    let site =
        Site::new(&Config::new().dated("jobs", "batch_size = 100000\nduckdb_flush_interval_seconds = 3600"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for day in 1..=5 {
        conn.ok(json!({"op": "store", "date": format!("2025-01-0{day}"), "key": "k", "data": {}}));
    }
    assert_eq!(pending(&mut conn), 5);
    conn.ok(json!({"op": "flush"}));
    assert_eq!(pending(&mut conn), 0);
    for day in 1..=5 {
        assert!(site.path(&format!("jobs/2025-01-0{day}/data.duckdb")).is_file());
    }
    conn.ok(json!({"op": "flush"}));
}

#[test]
fn what_the_op_flushed_lies_in_duckdb_even_if_the_daemon_dies() {
    if !python::available() {
        return;
    }
    let lines = "batch_size = 100000\nduckdb_flush_interval_seconds = 3600";
    let site = Site::new(&Config::new().dated("jobs", lines).collection("settings", lines));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..7 {
        conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": format!("k{n}"), "data": {}}));
        conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}, "value": n}));
    }
    conn.ok(json!({"op": "flush", "storage": "jobs"}));
    conn.ok(json!({"op": "flush", "storage": "settings"}));
    daemon.kill();
    // Opened for writing: a reader may have to play DuckDB's own WAL first.
    let count = |file: &str, sql: &str| {
        let script = "import duckdb, json, sys\n\
            print(json.dumps(duckdb.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))";
        python::run(script, &[&site.path(file).to_string_lossy(), sql])
    };
    assert_eq!(count("jobs/2025-01-15/data.duckdb", "SELECT count(*) FROM storage"), json!([[7]]));
    let history = "SELECT count(*), max(version) FROM storage_history";
    assert_eq!(count("settings/storage_history.duckdb", history), json!([[7, 7]]));
    // The latest values too, not only at the end of a daemon's life.
    let latest = "SELECT count(*), max(value_int), max(version), max(seq) FROM storage_latest";
    assert_eq!(count("settings/storage_latest.duckdb", latest), json!([[1, 6, 7, 7]]));
}

#[test]
fn writes_go_on_while_flushes_do() {
    for config in models("batch_size = 20\nduckdb_flush_interval_seconds = 1") {
        let site = Site::new(&config);
        let daemon = site.start();
        thread::scope(|scope| {
            let mut flusher = daemon.connect();
            scope.spawn(move || (0..15).for_each(|_| drop(flusher.ok(json!({"op": "flush"})))));
            for writer in 0..3 {
                let mut conn = daemon.connect();
                scope.spawn(move || {
                    let store = |n| json!({"op": "store", "key": format!("w{writer}"), "data": {"n": n}});
                    for n in 0..400 {
                        conn.ok(store(n));
                        let got = conn.ok(json!({"op": "get_key", "key": format!("w{writer}")}));
                        assert_eq!(
                            got["records"][0]["data"]["n"], n,
                            "a read during a flush sees the last write"
                        );
                    }
                });
            }
        });
        let mut conn = daemon.connect();
        conn.ok(json!({"op": "flush"}));
        assert_eq!(pending(&mut conn), 0);
    }
}

#[test]
fn what_waits_for_a_flush_is_bounded_and_nothing_is_dropped() {
    let lines = "max_pending_bytes = 2097152\nbatch_size = 1000000\nduckdb_flush_interval_seconds = 3600";
    for config in models(lines) {
        let site = Site::new(&config);
        let daemon = site.start();
        let pad = "x".repeat(4000);
        thread::scope(|scope| {
            for writer in 0..4 {
                let (mut conn, pad) = (daemon.connect(), &pad);
                scope.spawn(move || {
                    for n in 0..500 {
                        let key = format!("w{writer}-{n:03}");
                        store_when_there_is_room(
                            &mut conn,
                            &json!({"op": "store", "key": key, "data": {"n": n, "pad": pad}}),
                        );
                    }
                });
            }
        });
        let mut conn = daemon.connect();
        // 8 MB were written: at most 2 of them can still wait.
        assert!(pending(&mut conn) <= 600, "{} writes of 4 kB wait", pending(&mut conn));
        for writer in 0..4 {
            let reads = (0..500).map(|n| json!({"op": "get_key", "key": format!("w{writer}-{n:03}")}));
            for (n, got) in conn.all_ok(reads).iter().enumerate() {
                assert_eq!(got["records"][0]["data"]["n"], n, "w{writer}-{n:03}");
            }
        }
    }
}

/// Writers wait, and may be told `busy`, which is worth another try.
fn store_when_there_is_room(conn: &mut Conn, request: &Value) {
    wait_for("room for a write", PATIENCE, || {
        let answer = conn.ask(request);
        if answer["ok"] == true {
            return Some(());
        }
        assert_eq!(
            (&answer["error"]["code"], &answer["error"]["retryable"]),
            (&json!("busy"), &json!(true)),
            "{answer}"
        );
        None
    });
}

/// DuckDB has all rows of a transaction in memory: such a flush failed for ever, and writers were told `busy`.
#[test]
fn documents_that_are_together_larger_than_duckdbs_memory_are_flushed() {
    const COUNT: usize = 120;
    let storage = "batch_size = 100000\nduckdb_flush_interval_seconds = 3600";
    let limits = Config::new().limits("duckdb_memory_bytes = 67108864");
    let config = limits.dated("jobs", storage).collection("settings", storage);
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    let text = "x".repeat(900_000);
    for n in 0..COUNT {
        for storage in ["jobs", "settings"] {
            let key = format!("k{}", n % 70);
            conn.ok(json!({"op": "store", "storage": storage, "key": key, "durability": "buffered", "data": {"n": n, "text": text}}));
        }
    }
    conn.ok(json!({"op": "flush"}));
    let stats = conn.ok(json!({"op": "stats"}));
    for storage in ["jobs", "settings"] {
        assert_eq!(stats["storages"][storage]["pending_writes"], 0, "{storage}");
    }
    let ask = |storage: &str, sql: &str| json!({"op": "query", "storage": storage, "sql": sql});
    let dated = "SELECT count(*), sum(version), max(version), min(seq) FROM storage";
    assert_eq!(conn.ok(ask("jobs", dated))["rows"], json!([[70, COUNT, 2, 51]]));
    let history = "SELECT count(*), max(version) FROM storage_history";
    assert_eq!(conn.ok(ask("settings", history))["rows"], json!([[COUNT, 2]]));
    let latest = "SELECT count(*), sum(version) FROM storage_latest";
    assert_eq!(conn.ok(ask("settings", latest))["rows"], json!([[70, COUNT]]));
    daemon.stop();
}
