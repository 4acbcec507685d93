//! Restore: what a storage held at some moment, in a new directory, compared record by record.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::backup::{command_line, flip_a_byte};
use crate::harness::{Config, Conn, PATIENCE, Site, files, wait_for};

const QUIET: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

fn config() -> Config {
    Config::new().collection("settings", QUIET)
}

/// `fastpersist restore` of a site's storage into another site's, and what it said.
fn restore(from: &Site, to: &Site, storage: &str, more: &[&str]) -> (i32, String, String) {
    let (config, to) = (from.config_file(), to.path(storage));
    let (config, to) = (config.to_string_lossy(), to.to_string_lossy());
    let mut arguments = vec!["restore", "--config", &config, "-s", storage, "--to", &to];
    arguments.extend(more);
    command_line(from, &arguments)
}

/// As [`restore`], which must succeed.
pub(crate) fn restored(from: &Site, config: &Config, storage: &str, more: &[&str]) -> (Site, String) {
    let to = Site::new(config);
    let (code, out, said) = restore(from, &to, storage, more);
    assert_eq!(code, 0, "{out}{said}");
    (to, out)
}

fn put(key: &str, n: u64) -> Value {
    json!({"op": "store", "key": key, "data": {"n": n}})
}

/// Every record of the only storage, by key.
fn records(conn: &mut Conn) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut after = String::new();
    loop {
        let page = conn.ok(json!({"op": "keys", "after": after, "limit": 1000}));
        let keys: Vec<String> = serde_json::from_value(page["keys"].clone()).unwrap();
        let answers = conn.all_ok(keys.iter().map(|key| json!({"op": "get_key", "key": key})));
        for (key, mut answer) in keys.iter().zip(answers) {
            found.insert(key.clone(), answer["records"].take());
        }
        match keys.last() {
            Some(last) if page["more"] == true => after.clone_from(last),
            _ => return found,
        }
    }
}

/// What each write put where: by key, the seq and the number of each.
type Written = BTreeMap<String, Vec<(u64, u64)>>;

/// Compares every record with the last write up to `seq`.
fn compare(conn: &mut Conn, written: &Written, seq: u64) {
    let found = records(conn);
    let mut expected = 0;
    for (key, writes) in written {
        let Some((at, n)) = writes.iter().filter(|(at, _)| *at <= seq).max() else { continue };
        expected += 1;
        let record = &found.get(key).unwrap_or_else(|| panic!("{key} is not in the restored storage"))[0];
        assert_eq!((record["seq"].as_u64(), record["data"]["n"].as_u64()), (Some(*at), Some(*n)), "{key}");
    }
    assert_eq!(found.len(), expected, "the restored storage has more keys than were written");
}

/// Writes batches until told to stop, and gives what was answered.
fn write_batches(conn: &mut Conn, writer: u64, count: &AtomicU64, stop: &AtomicBool) -> (Written, Duration) {
    const BATCH: u64 = 250;
    let mut written = Written::new();
    let mut longest = Duration::ZERO;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = |n: u64| format!("w{writer}/{}", n % 5000);
        let ops: Vec<_> = (n..n + BATCH).map(|n| put(&key(n), n)).collect();
        let asked = Instant::now();
        let answer = conn.ok(json!({"op": "batch", "ops": ops}));
        longest = longest.max(asked.elapsed());
        let seqs: Vec<u64> = serde_json::from_value(answer["seqs"].clone()).unwrap();
        for (seq, n) in seqs.into_iter().zip(n..) {
            written.entry(key(n)).or_default().push((seq, n));
        }
        n += BATCH;
        count.fetch_add(BATCH, Ordering::Relaxed);
    }
    (written, longest)
}

#[test]
fn the_drill_a_backup_taken_while_many_write_restores_to_exactly_its_seq() {
    // Flushes go on all the time, also while the backup is taken.
    let site = Site::new(&Config::new().collection("settings", "batch_size = 5000"));
    let daemon = site.start();
    let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut written, mut longest) = (Written::new(), Duration::ZERO);
    let (mut seq, mut meanwhile) = (0, 0);
    let begun = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|writer| {
                let (mut conn, count, stop) = (daemon.connect(), &count, &stop);
                scope.spawn(move || write_batches(&mut conn, writer, count, stop))
            })
            .collect();
        let enough = |wanted: u64| {
            wait_for("writes", PATIENCE, || (count.load(Ordering::Relaxed) >= wanted).then_some(()));
        };
        enough(100_000);
        let before = count.load(Ordering::Relaxed);
        let answer = daemon.connect().ok(json!({"op": "backup"}));
        seq = answer["backups"][0]["seq"].as_u64().unwrap();
        meanwhile = count.load(Ordering::Relaxed) - before;
        enough(before + meanwhile + 50_000);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            let (own, wait) = thread.join().unwrap();
            written.extend(own);
            longest = longest.max(wait);
        }
    });
    let last = count.load(Ordering::Relaxed);
    let rate = last as f64 / begun.elapsed().as_secs_f64();
    eprintln!(
        "{last} writes, {rate:.0}/s, {meanwhile} of them during the backup; the longest batch took {longest:?}"
    );
    assert!(100_000 <= seq && seq < last && meanwhile > 0, "seq {seq} of {last}, {meanwhile} meanwhile");
    assert!(
        !daemon.log().contains("checkpoint failed"),
        "checkpoints wait for the backup:\n{}",
        daemon.log()
    );
    // The daemon runs on. First to the backup, then beyond it through the log, then before it.
    let plain = Config::new().collection("settings", "");
    let later = seq + (last - seq) / 2;
    let later = later - later % 250;
    for (target, from_log) in [(seq, false), (later, true), (last, true)] {
        let (copy, out) = restored(&site, &plain, "settings", &["--seq", &target.to_string()]);
        assert_eq!(out.contains("records from"), from_log, "{out}");
        assert!(out.contains(&format!("up to record {target}, ")), "{out}");
        let restored = copy.start();
        compare(&mut restored.connect(), &written, target);
        let next = restored.connect().ok(put("next", 0));
        assert_eq!(next["seq"], target + 1, "the sequence goes on where it was");
        restored.kill();
    }
}

#[test]
fn to_a_seq_and_to_a_time_before_and_after_the_backup() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let mut written = Written::new();
    let mut stamps = vec![String::new()];
    for n in 1..=60 {
        let key = format!("k{}", n % 7);
        conn.ok(put(&key, n));
        written.entry(key.clone()).or_default().push((n, n));
        let got = conn.ok(json!({"op": "get_item", "key": key}));
        stamps.push(got["record"]["updated_at"].as_str().unwrap().to_owned());
        if n == 30 {
            assert_eq!(conn.ok(json!({"op": "backup"}))["backups"][0]["seq"], 30);
        }
    }
    daemon.kill();
    let before = files::snapshot(&site.path("settings"));
    for n in [1_usize, 29, 30, 31, 60] {
        let (seq, stamp) = (n.to_string(), stamps[n].as_str());
        for how in [["--seq", &seq], ["--at", stamp]] {
            let (copy, out) = restored(&site, &config(), "settings", &how);
            assert!(out.contains(&format!("up to record {n}, written {stamp}")), "{how:?}: {out}");
            compare(&mut copy.start().connect(), &written, n as u64);
        }
    }
    let (copy, out) = restored(&site, &config(), "settings", &["--at", "2001-01-01"]);
    assert!(out.contains("nothing was stored yet") && copy.path("settings").is_dir(), "{out}");
    let (copy, _) = restored(&site, &config(), "settings", &[]);
    compare(&mut copy.start().connect(), &written, 60);
    let to = Site::new(&config());
    let (code, out, _) = restore(&site, &to, "settings", &["--seq", "31", "--dry-run"]);
    assert!(code == 0 && out.contains("(record 30, taken ") && out.contains("WAL: 1 record from"), "{out}");
    assert!(!to.path("settings").exists(), "a dry run writes nothing");
    let changed = files::changed(&before, &files::snapshot(&site.path("settings")));
    assert!(changed.is_empty(), "the original was touched: {changed:?}");
}

#[test]
fn what_is_not_covered_is_said_and_only_built_when_asked_for() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.all_ok((1..=20).map(|n| put(&format!("k{n}"), n)));
    daemon.kill();
    let to = Site::new(&config());
    let (code, out, said) = restore(&site, &to, "settings", &["--seq", "100"]);
    assert_eq!(code, 1, "{out}{said}");
    assert!(out.contains("not covered: record 100") && out.contains("ends with record 20"), "{out}");
    assert!(said.contains("--partial") && !to.path("settings").exists(), "{said}");
    let (code, ..) = restore(&site, &to, "settings", &["--seq", "100", "--partial"]);
    assert_eq!(code, 0);
    assert_eq!(records(&mut to.start().connect()).len(), 20);
    // Damage in the log stops it there, by name.
    let segment = files::segments(&site.path("settings")).remove(0);
    let lines = files::wal_lines(&segment);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[lines[10].0 + 20] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let to = Site::new(&config());
    let (code, out, _) = restore(&site, &to, "settings", &[]);
    let place = format!("is damaged at byte {}", lines[10].0);
    assert!(code == 1 && out.contains(&place) && out.contains("wal_000001.jsonl"), "{out}");
    let (code, ..) = restore(&site, &to, "settings", &["--seq", "10"]);
    assert_eq!(code, 0, "what lies before the damage is covered");
}

#[test]
fn a_moment_before_the_only_backup_is_had_from_its_history() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let mut written = Written::new();
    for n in 1..=40 {
        let key = format!("k{}", n % 5);
        conn.ok(put(&key, n));
        written.entry(key).or_default().push((n, n));
    }
    conn.ok(json!({"op": "backup"}));
    daemon.kill();
    for segment in files::segments(&site.path("settings")) {
        fs::remove_file(segment).unwrap();
    }
    let (copy, out) = restored(&site, &config(), "settings", &["--seq", "23"]);
    assert!(out.contains("cut back by its history"), "{out}");
    compare(&mut copy.start().connect(), &written, 23);
}

#[test]
fn a_backup_that_turns_out_to_be_damaged_is_passed_over() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.all_ok((1..=100).map(|n| put(&format!("k{n}"), n)));
    let backup = conn.ok(json!({"op": "backup"}));
    conn.ok(put("last", 101));
    daemon.kill();
    let directory = site.path("settings").join(backup["backups"][0]["backup"].as_str().unwrap());
    // Its length is right, so only reading it tells.
    flip_a_byte(&directory.join("storage_latest.duckdb.backup"));
    let (copy, out) = restored(&site, &config(), "settings", &[]);
    assert!(out.contains("damaged and is passed over") && out.contains("up to record 101"), "{out}");
    assert_eq!(records(&mut copy.start().connect()).len(), 101);
    for segment in files::segments(&site.path("settings")) {
        fs::remove_file(segment).unwrap();
    }
    let to = Site::new(&config());
    let (code, _, said) = restore(&site, &to, "settings", &["--seq", "100"]);
    assert!(code == 1 && said.contains("without it, record 100"), "{code} {said}");
    assert!(!to.path("settings").exists() && !to.path("settings.incomplete").exists());
}

#[test]
fn a_batch_is_restored_whole_or_not_at_all() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(put("before", 1));
    let ops: Vec<_> = (2..=6).map(|n| put(&format!("k{n}"), n)).collect();
    conn.ok(json!({"op": "batch", "ops": ops}));
    let (copy, out) = restored(&site, &config(), "settings", &["--seq", "4"]);
    assert!(out.contains("records 2 to 6 are one batch") && out.contains("up to record 1"), "{out}");
    assert_eq!(records(&mut copy.start().connect()).len(), 1);
}

#[test]
fn a_dated_storage_is_restored_by_date_with_versions_and_deletions() {
    let config = Config::new().dated("jobs", &format!("backup = true\n{QUIET}"));
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    let day = |date: &str, mut request: Value| {
        request["date"] = json!(date);
        request
    };
    conn.all_ok((1..=4).map(|n| day("2025-01-15", put("often", n))));
    conn.ok(day("2025-01-15", put("gone", 5)));
    conn.ok(json!({"op": "backup"}));
    conn.ok(day("2025-01-15", put("often", 6)));
    conn.ok(day("2025-01-15", json!({"op": "delete", "key": "gone"})));
    conn.ok(day("2025-01-16", put("other", 1)));
    let all = |site: &Site| {
        let daemon = site.start();
        let mut conn = daemon.connect();
        let get = |date: &str, key: &str| json!({"op": "get_key", "date": date, "key": key});
        let asked = [("2025-01-15", "often"), ("2025-01-15", "gone"), ("2025-01-16", "other")];
        let answers = asked.map(|(date, key)| conn.ok(get(date, key))["records"][0]["data"]["n"].clone());
        daemon.kill();
        answers
    };
    let (copy, out) = restored(&site, &config, "jobs", &[]);
    assert!(out.contains("2025-01-15") && out.contains("2025-01-16"), "{out}");
    assert_eq!(all(&copy), [json!(6), Value::Null, json!(1)]);
    let (copy, _) = restored(&site, &config, "jobs", &["--date", "2025-01-15", "--seq", "6"]);
    assert_eq!(all(&copy), [json!(6), json!(5), Value::Null]);
    for (more, what) in
        [(&["--seq", "6"][..], "--date"), (&["--date", "2025-01-15", "--seq", "9"], "record 9")]
    {
        let to = Site::new(&config);
        let (code, out, said) = restore(&site, &to, "jobs", more);
        assert!(code != 0 && (out.contains(what) || said.contains(what)), "{code} {out}{said}");
    }
}

#[test]
fn a_place_that_is_not_free_is_refused() {
    let site = Site::new(&config());
    let daemon = site.start();
    daemon.connect().ok(put("k", 1));
    let file = site.config_file();
    let config = file.to_string_lossy();
    let own = site.path("settings/copy");
    let full = site.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "").unwrap();
    let left = site.path("left.incomplete");
    fs::create_dir(&left).unwrap();
    for (to, what) in [(own, "own directory"), (full, "not empty"), (site.path("left"), "interrupted")] {
        let (code, _, said) =
            command_line(&site, &["restore", "--config", &config, "--to", &to.to_string_lossy()]);
        assert!(code == 2 && said.contains(what), "{code} {said}");
    }
    let (code, _, said) = command_line(&site, &["restore", "--config", &config, "--to", "/x", "-s", "no"]);
    assert!(code == 2 && said.contains("settings"), "{said}");
}
