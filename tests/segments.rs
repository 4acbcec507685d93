//! WAL segments: sealed by size and age, kept as long as promised, and never deleted before they are flushed.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, PATIENCE, Site, files, wait_for};

/// One after the other: what waits together is written together, and a segment is sealed between two such groups.
fn store(conn: &mut Conn, count: u64) {
    let pad = "x".repeat(1000);
    for n in 0..count {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": format!("k{n}"), "data": {"n": n, "pad": pad}}));
    }
}

fn names(segments: &[PathBuf]) -> Vec<String> {
    segments.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

const NO_FLUSH: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\n";

#[test]
fn segments_are_sealed_by_size_and_hold_every_seq_once_in_order() {
    let site = Site::new(&Config::new().dated("jobs", &format!("{NO_FLUSH}max_wal_size = 16384")));
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, 200);
    let segments = files::segments(&site.path("jobs/2025-01-15"));
    // 200 lines of more than 1,000 bytes in segments of 16 KiB.
    assert!(segments.len() >= 10, "{segments:?}");
    let expected: Vec<_> = (1..=segments.len()).map(|n| format!("wal_{n:06}.jsonl")).collect();
    assert_eq!(names(&segments), expected);
    let seqs: Vec<u64> = segments.iter().flat_map(|segment| files::wal_seqs(segment)).collect();
    assert!(seqs.into_iter().eq(1..=200), "every seq once and in order");
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    let reads =
        (0..200).map(|n| json!({"op": "get_key_process", "date": "2025-01-15", "key": format!("k{n}")}));
    for (n, got) in conn.all_ok(reads).iter().enumerate() {
        assert_eq!(got["record"]["data"]["n"], n);
    }
}

#[test]
fn a_segment_is_sealed_by_age() {
    let site = Site::new(&Config::new().dated("jobs", &format!("{NO_FLUSH}max_wal_age_seconds = 1")));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let mut written = 0;
    wait_for("a second segment after a second", PATIENCE, || {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {"n": written}}));
        written += 1;
        (files::segments(&site.path("jobs")).len() >= 2).then_some(())
    });
    let seqs: Vec<u64> =
        files::segments(&site.path("jobs")).iter().flat_map(|segment| files::wal_seqs(segment)).collect();
    assert!(seqs.into_iter().eq(1..=written));
}

#[test]
fn a_line_holds_the_request_and_is_json() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(r#"{"op":"store","storage":"jobs","date":"2025-01-15","key":"k","process_name":"p","data":{"z":1,"a":1.0}}"#);
    conn.ok(r#"{"op":"store","storage":"settings","key":"k","collection_name":"c","item_name":"i","data":{},"value":true}"#);
    let first_line = |storage: &str| -> String {
        let segments = files::segments(&site.path(storage));
        assert_eq!(names(&segments), ["wal_000001.jsonl"]);
        let (_, line) = files::wal_lines(&segments[0]).swap_remove(0);
        String::from_utf8(line).unwrap()
    };
    let line = first_line("jobs");
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&entry["key"], &entry["process_name"], &entry["seq"]),
        (&json!("k"), &json!("p"), &json!(1)),
        "{line}"
    );
    assert!(line.contains(r#"{"z":1,"a":1.0}"#), "data is kept as it was sent: {line}");
    let line = first_line("settings");
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&entry["collection_name"], &entry["item_name"], &entry["value"]),
        (&json!("c"), &json!("i"), &json!(true))
    );
    // A batch is one line.
    let ops = json!([{"op": "store", "key": "a", "data": {}}, {"op": "store", "key": "b", "data": {}}]);
    conn.ok(json!({"op": "batch", "storage": "jobs", "date": "2025-01-15", "ops": ops}));
    let lines = files::wal_lines(&files::segments(&site.path("jobs"))[0]);
    assert_eq!(lines.len(), 2);
    let batch: Value = serde_json::from_slice(&lines[1].1).unwrap();
    assert_eq!(batch["ops"].as_array().map(Vec::len), Some(2), "{batch}");
}

#[test]
fn the_wal_of_a_collection_lies_under_the_date_of_today() {
    let site = Site::new(&Config::new().collection("settings", ""));
    let before = chrono::Utc::now().date_naive().to_string();
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "store", "key": "k", "data": {}}));
    let after = chrono::Utc::now().date_naive().to_string();
    let segments = files::segments(&site.path("settings"));
    let expected = |date: &str| site.path("settings").join(date).join("wal_000001.jsonl");
    assert!(segments == [expected(&before)] || segments == [expected(&after)], "{segments:?}");
}

#[test]
fn without_retention_flushed_segments_go_and_later_writes_stay() {
    let lines = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nmax_wal_size = 16384\nwal_retain_days = 0";
    for config in [Config::new().dated("only", lines), Config::new().collection("only", lines)] {
        let site = Site::new(&config);
        let daemon = site.start();
        let mut conn = daemon.connect();
        let pad = "x".repeat(1000);
        let stores = |range: std::ops::Range<u64>| {
            range
                .map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {"n": n, "pad": pad}}))
                .collect::<Vec<_>>()
        };
        for store in stores(0..100) {
            conn.ok(store);
        }
        assert!(files::segments(&site.path("only")).len() >= 5);
        conn.ok(json!({"op": "flush"}));
        wait_for("all sealed segments are deleted", PATIENCE, || {
            (files::segments(&site.path("only")).len() <= 1).then_some(())
        });
        conn.all_ok(stores(100..150));
        let left: BTreeSet<u64> =
            files::segments(&site.path("only")).iter().flat_map(|segment| files::wal_seqs(segment)).collect();
        assert!((101..=150).all(|seq| left.contains(&seq)), "what is not flushed is in the WAL: {left:?}");
        daemon.kill();
        let daemon = site.start();
        let mut conn = daemon.connect();
        let reads = (0..150).map(|n| json!({"op": "get_key", "key": format!("k{n}")}));
        for (n, got) in conn.all_ok(reads).iter().enumerate() {
            assert_eq!(got["records"][0]["data"]["n"], n);
        }
        assert_eq!(conn.ok(stores(150..151).remove(0))["seq"], 151);
    }
}

#[test]
fn with_retention_flushed_segments_stay() {
    let lines = format!("{NO_FLUSH}max_wal_size = 16384\nwal_retain_days = 2");
    let site = Site::new(&Config::new().dated("jobs", &lines));
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, 100);
    conn.ok(json!({"op": "flush"}));
    conn.ok(json!({"op": "flush"}));
    let seqs = || -> Vec<u64> {
        files::segments(&site.path("jobs")).iter().flat_map(|segment| files::wal_seqs(segment)).collect()
    };
    assert!(seqs().into_iter().eq(1..=100));
    drop(conn);
    daemon.stop();
    assert!(seqs().into_iter().eq(1..=100), "a clean end deletes none either");
    // What stays is not played again: a start after it changes nothing.
    let daemon = site.start();
    let got = daemon.connect().ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {}}));
    assert_eq!(got["seq"], 101);
}

#[test]
fn a_segment_that_was_closed_cleanly_has_no_empty_room() {
    let site = Site::new(&Config::new().dated("jobs", &format!("{NO_FLUSH}max_wal_size = 16384")));
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, 40);
    drop(conn);
    daemon.stop();
    for segment in files::segments(&site.path("jobs")) {
        let bytes = std::fs::read(&segment).unwrap();
        assert!(!bytes.contains(&0), "{} ends in NUL bytes", segment.display());
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{}", segment.display());
    }
}
