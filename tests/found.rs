//! What a reading of the code found once, so that it does not come back.

use std::{
    fs,
    io::Write as _,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Config, PATIENCE, Site, files, python};

const NO_FLUSH: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

#[test]
fn cold_records_can_be_deleted_in_a_pipeline_and_in_a_batch_whatever_the_cache() {
    for cache in ["", "cache_max_bytes = 1"] {
        let site = Site::new(&Config::new().dated("jobs", cache));
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.all_ok((0..128).map(|n| json!({"op": "store", "key": format!("k{n:03}"), "data": {}})));
        conn.ok(json!({"op": "flush"}));
        daemon.stop();
        let daemon = site.start();
        let mut conn = daemon.connect();
        let deletes = (0..64).map(|n| json!({"op": "delete", "key": format!("k{n:03}"), "if_seq": n + 1}));
        for answer in conn.all_ok(deletes) {
            assert_eq!(answer["deleted"], true, "{cache}: {answer}");
        }
        let ops: Vec<Value> = (64..128).map(|n| json!({"op": "delete", "key": format!("k{n:03}")})).collect();
        let answer = conn.ok(json!({"op": "batch", "ops": ops}));
        assert_eq!(answer["seqs"], json!((193..257).collect::<Vec<u64>>()), "{cache}");
        assert_eq!(conn.ok(json!({"op": "keys"}))["keys"], json!([]), "{cache}");
    }
}

/// Empty lines have no answers to wait for, so a stop has to bound them by itself. On two processors it ended soon without that
/// too; the store's flood is what once held it up.
#[test]
fn a_client_that_never_stops_sending_does_not_hold_up_a_stop() {
    for line in ["{\"op\":\"store\",\"key\":\"k\",\"data\":{}}\n", "\n"] {
        a_flood_does_not_hold_up_a_stop(line);
    }
}

fn a_flood_does_not_hold_up_a_stop(line: &'static str) {
    let site = Site::new(&Config::new().dated("jobs", NO_FLUSH));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "ping"}));
    let mut sender = conn.stream().try_clone().unwrap();
    let (under_way, flooded) = mpsc::channel();
    let flood = thread::spawn(move || {
        let line = line.repeat(60_000 / line.len());
        for _ in 0..20 {
            sender.write_all(line.as_bytes()).expect("the daemon reads");
        }
        under_way.send(()).expect("somebody waits");
        let begun = Instant::now();
        // It ends when the daemon is gone; the bound is for a daemon that stays.
        while begun.elapsed() < Duration::from_secs(30) && sender.write_all(line.as_bytes()).is_ok() {}
        begun.elapsed()
    });
    let reader = thread::spawn(move || while conn.next().is_some() {});
    flooded.recv_timeout(PATIENCE).expect("the flood is under way");
    daemon.signal(Signal::TERM);
    daemon.ended_cleanly();
    assert!(
        flood.join().unwrap() < Duration::from_secs(20),
        "the daemon went on for as long as it was asked"
    );
    reader.join().unwrap();
}

#[test]
fn exports_at_the_same_time_leave_whole_files() {
    let site = Site::new(&Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let pad = "x".repeat(100);
    conn.all_ok(
        (0..5000).map(
            |n| json!({"op": "store", "key": format!("k{n}"), "process_name": "w", "data": {"pad": pad}}),
        ),
    );
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut conn = daemon.connect();
            scope.spawn(move || {
                let answer = conn.ok(json!({"op": "export_parquet"}));
                assert_eq!((&answer["files"], &answer["rows"]), (&json!(1), &json!(5000)));
            });
        }
    });
    daemon.stop();
    let left = files::tree(&site.path("parquet"));
    let is_whole =
        |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    assert_eq!(left.iter().filter(|path| path.is_file()).count(), 1, "{left:?}");
    assert!(left.iter().filter(|path| path.is_file()).all(is_whole), "{left:?}");
    if python::available() {
        let rows = python::parquet_rows(&site.path("parquet"), "SELECT count(*) FROM {files}");
        assert_eq!(rows, [[json!(5000)]]);
    }
}

#[test]
fn the_first_group_of_a_partition_may_be_torn_like_any_other() {
    // Sent at once, the records share one group; should they not, that is no case of this test.
    for _ in 0..20 {
        let site = Site::new(&Config::new().dated("jobs", NO_FLUSH));
        let daemon = site.start();
        daemon.connect().all_ok((0..20).map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {}})));
        daemon.kill();
        let segment = files::segments(&site.path("jobs"))[0].clone();
        let lines = files::wal_lines(&segment);
        let first_group = |line: &[u8]| {
            let line: Value = serde_json::from_slice(line).unwrap();
            line["durable_seq"] == 0
        };
        if !lines.iter().all(|(_, line)| first_group(line)) {
            continue;
        }
        // The first sector never reached the disk; nothing of the group can have been answered.
        let mut bytes = fs::read(&segment).unwrap();
        bytes[..512].fill(0);
        fs::write(&segment, bytes).unwrap();
        let daemon = site.start();
        let mut conn = daemon.connect();
        assert_eq!(conn.ok(json!({"op": "keys"}))["keys"], json!([]));
        assert_eq!(conn.ok(json!({"op": "store", "key": "k", "data": {}}))["seq"], 1);
        let kept = files::tree(&site.path("jobs"));
        assert!(kept.iter().any(|path| path.to_string_lossy().contains("torn-")), "{kept:?}");
        return;
    }
    panic!("twenty records that were sent at once never shared a group");
}

#[test]
fn dates_that_were_closed_meanwhile_are_exported_on_shutdown_too() {
    let config = Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\"").limits("max_open_dates = 1");
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    for day in 1..=3 {
        conn.ok(json!({"op": "store", "date": format!("2025-01-0{day}"), "key": "k", "process_name": "w", "data": {}}));
    }
    // Two dates in one send, although only one can be open.
    let both = (1..=2).map(|day| json!({"op": "store", "date": format!("2025-01-0{day}"), "key": "k", "process_name": "w", "data": {}}));
    conn.all_ok(both);
    daemon.stop();
    for day in 1..=3 {
        let file = site.path(&format!("parquet/process_name=w/date=2025-01-0{day}/data.parquet"));
        assert!(file.exists(), "{} is missing", file.display());
    }
}

#[test]
fn answers_that_wait_behind_a_write_count_as_output() {
    let site = Site::new(&Config::new().dated("jobs", NO_FLUSH));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let big = "x".repeat(300_000);
    conn.ok(json!({"op": "store", "key": "big", "data": {"big": big}}));
    let before = daemon.resident_bytes();
    let mut sender = conn.stream().try_clone().unwrap();
    sender.write_all(b"{\"op\":\"store\",\"key\":\"k\",\"data\":{}}\n").unwrap();
    sender.write_all("{\"op\":\"get_key_process\",\"key\":\"big\"}\n".repeat(1000).as_bytes()).unwrap();
    assert_eq!(conn.answer()["ok"], true);
    let mut most = 0;
    for _ in 0..1000 {
        let answer = conn.answer();
        assert_eq!(answer["record"]["data"]["big"].as_str().map(str::len), Some(big.len()));
        most = most.max(daemon.resident_bytes());
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 150_000_000, "300 MB of answers cost {grown} bytes at a limit of 8 MiB");
}

/// The system ends a process that writes beyond its limit for file sizes, unless that listens to SIGXFSZ.
#[test]
fn a_limit_for_file_sizes_is_a_full_disk_and_no_end() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let site = Site::new(&Config::both());
    let mut daemon = site.start();
    let limit = |current| {
        let pid = Pid::from_raw(daemon.pid() as i32).unwrap();
        prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    };
    let mut conn = daemon.connect();
    let store = |storage| json!({"op": "store", "storage": storage, "key": "k", "data": {}});
    conn.ok(store("jobs"));
    limit(Some(4096));
    conn.refused(store("settings"), "disk_full");
    conn.ok(json!({"op": "get_key", "storage": "jobs", "key": "k"}));
    conn.refused(json!({"op": "flush"}), "disk_full");
    limit(None);
    crate::harness::wait_for("writes go on", crate::harness::PATIENCE, || {
        (conn.ask(store("settings"))["ok"] == true).then_some(())
    });
    conn.ok(json!({"op": "flush"}));
    daemon.assert_running();
    daemon.stop();
}

/// An opened date's stores got `busy`, and everything else `internal`, which is not retried.
#[test]
fn while_the_directory_is_away_every_request_that_needs_it_is_busy() {
    let site = Site::new(&Config::new().dated("jobs", NO_FLUSH));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let store = |date: &str| {
        json!({"op": "store", "storage": "jobs", "date": date, "key": "k", "data": {}}).to_string()
    };
    conn.ok(store("2025-01-15"));
    fs::rename(site.path("jobs"), site.path("away")).unwrap();
    for asked in [store("2025-01-16"), json!({"op": "flush"}).to_string()] {
        conn.refused(asked, "busy");
    }
    fs::rename(site.path("away"), site.path("jobs")).unwrap();
    conn.ok(store("2025-01-16"));
    assert_eq!(conn.ok(json!({"op": "flush"}))["flushed"], 2);
    daemon.stop();
}
