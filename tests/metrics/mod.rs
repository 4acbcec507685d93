//! The figures as metrics: on the wire, over HTTP, in a file; right, in form, and at no client's mercy.

// Counts are whole numbers, which a float holds exactly.
#![allow(clippy::float_cmp)]

mod http;
mod page;
mod textfile;

use std::{collections::BTreeSet, process::Command, sync::OnceLock, thread};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, python};
use page::Page;

const NO_FLUSH: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

fn config() -> Config {
    Config::new().dated("jobs", NO_FLUSH).collection("settings", NO_FLUSH)
}

/// The metrics as `stats` gives them.
fn open_metrics(conn: &mut Conn) -> String {
    let answer = conn.ok(json!({"op": "stats", "format": "openmetrics"}));
    answer["openmetrics"].as_str().expect("a text").to_owned()
}

/// Something of everything: writes, reads, conflicts, a line that is no request, and one flush.
fn busy(conn: &mut Conn) {
    for n in 0..7 {
        conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": format!("k{n}"), "data": {}}));
        conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}, "value": n}));
    }
    let ops = json!([{"op": "store", "key": "a", "data": {}}, {"op": "delete", "key": "b"}]);
    conn.ok(json!({"op": "batch", "storage": "settings", "ops": ops}));
    conn.ok(json!({"op": "delete", "storage": "settings", "key": "a"}));
    conn.ok(json!({"op": "get_key", "storage": "settings", "key": "k"}));
    let stale = json!({"op": "store", "storage": "settings", "key": "k", "data": {}, "if_seq": 99});
    conn.refused(&stale, "conflict");
    conn.refused(&stale, "conflict");
    conn.refused(json!({"op": "get_item", "storage": "jobs", "key": "k"}), "bad_request");
    conn.refused(json!({"op": "get_key", "storage": "nowhere", "key": "k"}), "unknown_storage");
    conn.refused("{}", "bad_request");
    conn.refused("no JSON", "bad_json");
    conn.ok(json!({"op": "flush", "storage": "jobs"}));
}

#[test]
fn metrics_say_what_stats_say() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    busy(&mut conn);
    let page = Page::read(&open_metrics(&mut conn));
    let stats = conn.ok(json!({"op": "stats"}));
    for (storage, figures) in stats["storages"].as_object().expect("storages") {
        let of = |name: &str| page.value(name, &[("storage", storage)]);
        for (metric, figure) in [
            ("fastpersist_unflushed_records", "pending_writes"),
            ("fastpersist_unflushed_bytes", "pending_bytes"),
            ("fastpersist_max_pending_bytes", "max_pending_bytes"),
            ("fastpersist_cache_records", "cache_size"),
            ("fastpersist_cache_bytes", "cache_bytes"),
            ("fastpersist_wal_bytes", "wal_bytes"),
            ("fastpersist_wal_segments", "wal_files_count"),
            ("fastpersist_open_partitions", "open_partitions"),
            ("fastpersist_commits_total", "commits"),
            ("fastpersist_committed_records_total", "records"),
            ("fastpersist_flushes_total", "flushes"),
            ("fastpersist_flushed_records_total", "flushed_rows"),
            ("fastpersist_producers", "producers"),
        ] {
            assert_eq!(Some(of(metric)), figures[figure].as_f64(), "{metric} of {storage}");
        }
        assert_eq!(of("fastpersist_read_only"), 0.0);
        for (metric, figure) in [
            ("fastpersist_wal_fsync_duration_seconds", "fsync_latency"),
            ("fastpersist_request_duration_seconds", "request_latency"),
        ] {
            let count = figures[figure]["count"].as_f64();
            assert_eq!(Some(of(&format!("{metric}_count"))), count, "{metric} of {storage}");
            let all = page.value(&format!("{metric}_bucket"), &[("storage", storage), ("le", "+Inf")]);
            assert_eq!(Some(all), count, "{metric} of {storage}");
            let longest = figures[figure]["max_us"].as_f64().expect("a number") * 1e-6;
            let sum = of(&format!("{metric}_sum"));
            assert!(sum > 0.0 && sum <= longest * count.expect("a number") * 1.01, "{metric}: {sum}");
        }
    }
    assert_eq!(page.value("fastpersist_unflushed_records", &[("storage", "jobs")]), 0.0);
    assert_eq!(page.value("fastpersist_unflushed_records", &[("storage", "settings")]), 9.0);
    assert_eq!(page.value("fastpersist_ready", &[]), 1.0);
    assert_eq!(page.value("fastpersist_connections", &[]), 1.0);
    let resident = page.value("process_resident_memory_bytes", &[]);
    let really = daemon.resident_bytes() as f64;
    assert!(resident > really / 2.0 && resident < really * 2.0, "{resident} where /proc says {really}");
}

#[test]
fn what_clients_hold_stands_beside_its_limit() {
    let limits = "max_subscriptions = 5\nmax_locks = 6\nmax_producers = 7";
    let site = Site::new(&config().limits(limits));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "lock", "name": "a"}));
    conn.ok(json!({"op": "lock", "name": "b"}));
    conn.ok(json!({"op": "subscribe", "id": 1, "storage": "settings", "prefix": "none"}));
    for producer in ["p", "q", "r"] {
        conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}, "producer": producer, "producer_seq": 1}));
    }
    let page = Page::read(&open_metrics(&mut conn));
    let stats = conn.ok(json!({"op": "stats"}));
    let of_daemon = |name: &str| stats["daemon"][name].as_f64();
    for (name, count, max) in [("subscriptions", 1.0, 5.0), ("locks", 2.0, 6.0), ("connections", 1.0, 256.0)]
    {
        for (name, expected) in [(name.to_owned(), count), (format!("max_{name}"), max)] {
            assert_eq!(page.value(&format!("fastpersist_{name}"), &[]), expected, "{name}");
            assert_eq!(of_daemon(&name), Some(expected), "{name}");
        }
    }
    assert_eq!(page.value("fastpersist_lock_waiters", &[]), 0.0);
    assert_eq!(page.value("fastpersist_producers", &[("storage", "settings")]), 3.0);
    assert_eq!(page.value("fastpersist_max_producers", &[]), 7.0);
    let settings = &stats["storages"]["settings"];
    assert_eq!((&settings["producers"], &settings["max_producers"]), (&json!(3), &json!(7)));
}

#[test]
fn every_request_is_counted_once_with_its_outcome() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    busy(&mut conn);
    let page = Page::read(&open_metrics(&mut conn));
    let requests =
        |op: &str, code: &str| page.value("fastpersist_requests_total", &[("op", op), ("code", code)]);
    for (op, code, count) in [
        ("store", "ok", 14.0),
        ("store", "conflict", 2.0),
        ("batch", "ok", 1.0),
        ("delete", "ok", 1.0),
        ("get_key", "ok", 1.0),
        ("get_key", "unknown_storage", 1.0),
        ("get_item", "bad_request", 1.0),
        ("get_item", "ok", 0.0),
        ("flush", "ok", 1.0),
        ("none", "bad_request", 1.0),
        ("none", "bad_json", 1.0),
    ] {
        assert_eq!(requests(op, code), count, "{op} {code}");
    }
    let stats = conn.ok(json!({"op": "stats"}));
    let daemon_stats = &stats["daemon"];
    assert_eq!(daemon_stats["requests"]["store"], 16, "with its errors: {daemon_stats}");
    let errors = json!({"conflict": 2, "bad_request": 2, "unknown_storage": 1, "bad_json": 1});
    let sorted = |value: &Value| -> BTreeSet<String> {
        value.as_object().expect("counts").iter().map(|(name, count)| format!("{name} {count}")).collect()
    };
    assert_eq!(sorted(&daemon_stats["errors"]), sorted(&errors));
}

#[test]
fn times_are_those_of_the_last_success() {
    let site =
        Site::new(&Config::new().dated("jobs", &format!("{NO_FLUSH}\nparquet_path = \"{{dir}}/parquet\"")));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let page = Page::read(&open_metrics(&mut conn));
    for name in ["flush", "export", "verified_backup"] {
        let name = format!("fastpersist_last_{name}_timestamp_seconds");
        assert_eq!(page.find(&name, &[("storage", "jobs")]), None, "{name}: never is not 1970");
    }
    conn.ok(json!({"op": "store", "key": "k", "data": {}}));
    conn.ok(json!({"op": "export_parquet"}));
    let page = Page::read(&open_metrics(&mut conn));
    let stats = conn.ok(json!({"op": "stats"}));
    for job in ["flush", "export"] {
        let at = stats["storages"]["jobs"][format!("last_{job}")]["at"].as_str().expect("a time").to_owned();
        let at = chrono::DateTime::parse_from_rfc3339(&at).expect("a time").timestamp_micros() as f64 * 1e-6;
        let told = page.value(&format!("fastpersist_last_{job}_timestamp_seconds"), &[("storage", "jobs")]);
        assert!((told - at).abs() < 0.1, "{job}: {told} where stats say {at}");
    }
}

#[test]
fn labels_hold_nothing_that_a_client_chose() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for key in ["marker_key_1", "marker_key_2"] {
        conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": key,
            "process_name": "marker_process", "data": {"marker_field": "marker_value"}}));
        conn.ok(json!({"op": "store", "storage": "settings", "key": key, "collection_name": "marker_collection", "data": {}}));
        conn.refused(json!({"op": "marker_op"}), "unknown_op");
        conn.refused(json!({"op": "get_key", "storage": "marker_storage", "key": key}), "unknown_storage");
    }
    let text = open_metrics(&mut conn);
    assert!(!text.contains("marker") && !text.contains("2025-01-15"), "{text}");
    let page = Page::read(&text);
    let known = ["storage", "op", "code", "job", "le", "version", "duckdb_version"];
    let names: BTreeSet<_> = page.label_names();
    assert!(names.iter().all(|name| known.contains(&name.as_str())), "{names:?}");
    let storages = page.label_values("storage");
    assert_eq!(storages, BTreeSet::from(["jobs".to_owned(), "settings".to_owned()]));
}

#[test]
fn no_counter_ever_goes_down() {
    let site = Site::new(&config());
    let daemon = site.start();
    // Deep pipelines of which half conflicts: whoever counts too soon has to take back.
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let mut conn = daemon.connect();
            thread::spawn(move || {
                for round in 0..60 {
                    let lines = (0..200).map(|n| {
                        let key = format!("w{writer}-{round}-{}", n / 2);
                        json!({"op": "store", "storage": "settings", "key": key, "data": {}, "if_seq": 0})
                    });
                    let answers = conn.pipeline(lines);
                    let stored = answers.iter().filter(|answer| answer["ok"] == true).count();
                    assert_eq!(stored, 100);
                }
            })
        })
        .collect();
    let mut conn = daemon.connect();
    let mut last = Page::read(&open_metrics(&mut conn));
    while writers.iter().any(|writer| !writer.is_finished()) {
        let page = Page::read(&open_metrics(&mut conn));
        page.assert_not_below(&last);
        last = page;
    }
    for writer in writers {
        writer.join().expect("a writer");
    }
    let page = Page::read(&open_metrics(&mut conn));
    for code in ["ok", "conflict"] {
        let count = page.value("fastpersist_requests_total", &[("op", "store"), ("code", code)]);
        assert_eq!(count, 18_000.0, "{code}");
    }
}

/// Whether there is a Python with Prometheus's own parsers; says so once where there is none.
fn has_parsers() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let tried =
            Command::new("python3").args(["-c", "import prometheus_client.openmetrics.parser"]).output();
        let found = tried.is_ok_and(|output| output.status.success());
        if !found {
            eprintln!("skipped: no python3 with the package prometheus_client to read metrics with");
        }
        found
    })
}

/// The families that Prometheus's own parser finds in a file, as `name type`.
fn parsed(parser: &str, file: &std::path::Path) -> Value {
    let script = format!(
        "import json, sys\nfrom {parser} import text_string_to_metric_families as parse\n\
         print(json.dumps([f'{{f.name}} {{f.type}}' for f in parse(open(sys.argv[1]).read()) if f.samples]))"
    );
    python::run(&script, &[&file.to_string_lossy()])
}

#[test]
fn the_parser_of_open_metrics_takes_it() {
    if !has_parsers() {
        return;
    }
    let site = Site::new(&config());
    let daemon: Daemon = site.start();
    let mut conn = daemon.connect();
    busy(&mut conn);
    let file = site.path("metrics.txt");
    std::fs::write(&file, open_metrics(&mut conn)).expect("written");
    let families = parsed("prometheus_client.openmetrics.parser", &file);
    let families: Vec<_> = families.as_array().expect("families").iter().filter_map(Value::as_str).collect();
    for family in [
        "fastpersist_build info",
        "fastpersist_requests counter",
        "fastpersist_wal_fsync_duration_seconds histogram",
        "fastpersist_unflushed_records gauge",
        "fastpersist_last_flush_timestamp_seconds gauge",
        "process_start_time_seconds gauge",
    ] {
        assert!(families.contains(&family), "{family} is not in {families:?}");
    }
}
