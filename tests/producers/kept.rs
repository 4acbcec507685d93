//! How far a producer has come is kept with the records: by backups, restores and whatever makes a table anew.

use std::fs;

use serde_json::{Value, json};

use super::{STORAGES, is_repeated, on_a_date, store};
use crate::harness::{
    Config, Conn, Site,
    faults::{DATABASES, Fault, health, remove_log, set_aside},
    files, python,
};
use crate::repair::{repair, said, storage_of};
use crate::restore::restored;

/// Nothing is flushed by itself, and the log stays.
const QUIET: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nwal_retain_days = 5";

fn config(backup: bool) -> Config {
    super::config(&format!("{QUIET}\nbackup = {backup}"))
}

/// Writes under these numbers, to both storages.
fn write(conn: &mut Conn, producer: &str, numbers: std::ops::RangeInclusive<u64>) {
    for storage in STORAGES {
        for number in numbers.clone() {
            let key = format!("{producer}{number}");
            assert!(!is_repeated(conn, &store(storage, &key, producer, number)), "{storage} {key}");
        }
    }
}

/// Everything up to `last` is a repetition, and the next one is none.
fn is_known(conn: &mut Conn, storage: &str, producer: &str, last: u64, what: &str) {
    for number in 1..=last {
        let request = store(storage, "repeated", producer, number);
        assert!(is_repeated(conn, &request), "{what}: {storage} stored {producer} {number} again");
    }
    let next = store(storage, "next", producer, last + 1);
    assert!(!is_repeated(conn, &next), "{what}: {storage} took {producer} {} for a repetition", last + 1);
}

fn back_up(conn: &mut Conn, storage: &str) -> u64 {
    let answer = conn.ok(json!({"op": "backup", "storage": storage}));
    answer["backups"][0]["seq"].as_u64().expect("a seq")
}

/// `p` has come to 3 before the backup and to 5 in the log, `q` to 2 before the backup. Answers the backups'
/// places too.
fn backed_up() -> (Site, [u64; 2]) {
    let site = Site::new(&config(true));
    let daemon = site.start();
    let mut conn = daemon.connect();
    write(&mut conn, "p", 1..=3);
    write(&mut conn, "q", 1..=2);
    let places = STORAGES.map(|storage| back_up(&mut conn, storage));
    assert_eq!(places, [5, 5]);
    write(&mut conn, "p", 4..=5);
    daemon.kill();
    (site, places)
}

fn one(storage: &str) -> Config {
    let lines = format!("{QUIET}\nbackup = true");
    match storage {
        "jobs" => Config::new().dated("jobs", &lines),
        _ => Config::new().collection("settings", &lines),
    }
}

#[test]
fn a_restored_storage_knows_its_producers() {
    let (site, _) = backed_up();
    // Everything; up to the backup; a place in the log behind it.
    for (seq, p) in [(None, 5), (Some("5"), 3), (Some("6"), 4)] {
        for storage in STORAGES {
            let mut more = Vec::new();
            if let Some(seq) = seq {
                more.extend(["--seq", seq]);
                if storage == "jobs" {
                    more.extend(["--date", "2025-01-15"]);
                }
            }
            let (to, _) = restored(&site, &one(storage), storage, &more);
            let what = format!("restored to {seq:?}");
            let daemon = to.start();
            let mut conn = daemon.connect();
            is_known(&mut conn, storage, "p", p, &what);
            is_known(&mut conn, storage, "q", 2, &what);
            conn.ok(json!({"op": "flush"}));
            daemon.kill();
            is_known(&mut to.start().connect(), storage, "p", p + 1, &what);
        }
    }
}

#[test]
fn a_backup_that_is_cut_back_forgets_whom_it_cannot_tell_of() {
    let (site, _) = backed_up();
    remove_log(&site.path("settings"), 7);
    // q's last place is 5, p's is 3.
    let (to, said) = restored(&site, &one("settings"), "settings", &["--seq", "4"]);
    assert!(said.contains("producers whose last write is later") && said.contains(": 1;"), "{said}");
    let daemon = to.start();
    let mut conn = daemon.connect();
    is_known(&mut conn, "settings", "p", 3, "cut back");
    assert!(!is_repeated(&mut conn, &store("settings", "k", "q", 2)), "what was cut away is stored again");
    daemon.stop();
}

#[test]
fn tokens_of_locks_go_on_growing_in_a_restored_directory() {
    let (site, _) = backed_up();
    let daemon = site.start();
    let mut conn = daemon.connect();
    let take = |conn: &mut Conn, name: &str| {
        conn.ok(json!({"op": "lock", "name": name}))["token"].as_u64().expect("a token")
    };
    take(&mut conn, "before");
    let (to, _) = restored(&site, &one("settings"), "settings", &[]);
    // More than are reserved at a time, while the restored directory is not in its place yet.
    let newest = (0..1_500).map(|n| {
        let name = format!("n{n}");
        let token = take(&mut conn, &name);
        conn.ok(json!({"op": "unlock", "name": name, "token": token}));
        token
    });
    let newest = newest.max().expect("a token");
    daemon.stop();
    let token = take(&mut to.start().connect(), "after");
    assert!(token > newest, "{token} after {newest}");
}

#[test]
fn a_damaged_database_comes_back_with_its_producers() {
    for file in DATABASES {
        for fault in [Fault::Header, Fault::Gone] {
            // From the log or the history.
            let what = format!("{file}, {fault:?}, without a backup");
            let site = Site::new(&config(false));
            let daemon = site.start();
            write(&mut daemon.connect(), "p", 1..=3);
            write(&mut daemon.connect(), "q", 1..=2);
            daemon.connect().ok(json!({"op": "flush"}));
            write(&mut daemon.connect(), "p", 4..=5);
            daemon.kill();
            rebuilt(&site, file, fault, &what);
            // From backup and log, where the log does not reach back to the beginning.
            let what = format!("{file}, {fault:?}, with a backup");
            let (site, places) = backed_up();
            for (storage, place) in STORAGES.iter().zip(places) {
                keep_log_behind(&site, storage, place);
            }
            rebuilt(&site, file, fault, &what);
        }
    }
}

/// Damages a file, starts, and asks for both producers; again after a flush and a kill.
fn rebuilt(site: &Site, file: &str, fault: Fault, what: &str) {
    let path = site.path(file);
    fault.apply(&path);
    let daemon = site.start();
    assert_eq!(set_aside(&path).is_empty(), fault == Fault::Gone, "{what}: it was set aside");
    let mut conn = daemon.connect();
    for storage in STORAGES {
        is_known(&mut conn, storage, "p", 5, what);
        is_known(&mut conn, storage, "q", 2, what);
    }
    conn.ok(json!({"op": "flush"}));
    health(&mut conn, true, &[]);
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    is_known(&mut conn, storage_of(file), "p", 6, what);
    is_known(&mut conn, storage_of(file), "q", 3, what);
}

/// Leaves of the log what is behind a place, as a segment that begins there would.
fn keep_log_behind(site: &Site, storage: &str, place: u64) {
    let directory = site.path(storage);
    let mut kept = Vec::new();
    let segments = files::segments(&directory);
    for segment in &segments {
        for (_, line) in files::wal_lines(segment) {
            let parsed: Value = serde_json::from_slice(&line).expect("a line of JSON");
            if parsed["seq"].as_u64().expect("a seq") > place {
                kept.extend(line);
            }
        }
    }
    let last = segments.last().expect("a segment").clone();
    remove_log(&directory, place);
    fs::write(last, kept).expect("write the segment");
}

/// The day of a collection's log.
fn day_of_log(site: &Site) -> String {
    let segment = files::segments(&site.path("settings")).pop().expect("a segment");
    segment.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn tables_that_are_made_anew_leave_the_producers_alone() {
    let site = Site::new(&config(false));
    let daemon = site.start();
    let mut conn = daemon.connect();
    write(&mut conn, "p", 1..=3);
    conn.ok(json!({"op": "flush"}));
    write(&mut conn, "p", 4..=5);
    let day = day_of_log(&site);
    conn.ok(json!({"op": "rebuild_history_from_wal", "storage": "settings", "date": day}));
    conn.ok(json!({"op": "rebuild_latest_from_history", "storage": "settings"}));
    is_known(&mut conn, "settings", "p", 5, "while it runs");
    daemon.kill();
    is_known(&mut site.start().connect(), "settings", "p", 6, "after a kill");
}

#[test]
fn the_log_of_a_day_tells_how_far_producers_were_that_the_history_lost() {
    if !python::available() {
        return;
    }
    let site = Site::new(&config(false));
    let daemon = site.start();
    write(&mut daemon.connect(), "p", 1..=4);
    daemon.stop();
    let history = site.path("settings/storage_history.duckdb");
    let script = "import duckdb, json, sys\n\
        with duckdb.connect(sys.argv[1]) as db:\n    \
        db.execute('DELETE FROM fastpersist_producers')\n    \
        db.execute('DELETE FROM storage_history WHERE seq IN (2, 4)')\n\
        print(json.dumps(None))";
    python::run(script, &[&history.to_string_lossy()]);
    let daemon = site.start();
    let mut conn = daemon.connect();
    let request = json!({"op": "rebuild_history_from_wal", "storage": "settings", "date": day_of_log(&site)});
    let answer = conn.ok(&request);
    assert_eq!((&answer["records"], &answer["inserted"]), (&json!(4), &json!(2)), "{answer}");
    // With no record in between that would have been flushed.
    daemon.kill();
    is_known(&mut site.start().connect(), "settings", "p", 4, "put back from the log");
}

#[test]
fn a_history_from_the_latest_values_has_the_producers_that_the_log_still_tells() {
    let site = Site::new(&config(false));
    let daemon = site.start();
    let mut conn = daemon.connect();
    write(&mut conn, "gone", 1..=2);
    write(&mut conn, "p", 1..=3);
    conn.ok(json!({"op": "flush"}));
    daemon.kill();
    // The log no longer reaches back to the first record, and there is no backup.
    keep_log_behind(&site, "settings", 2);
    let history = site.path("settings/storage_history.duckdb");
    fs::write(&history, vec![0; 4096]).expect("damage it");
    said(&repair(&site, "settings", &["--accept-loss"]), 0);
    let daemon = site.start();
    let mut conn = daemon.connect();
    is_known(&mut conn, "settings", "p", 3, "from the log");
    let request = on_a_date(store("settings", "k", "gone", 2));
    assert!(!is_repeated(&mut conn, &request), "nothing told of it any more");
    daemon.stop();
}
