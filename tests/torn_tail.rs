//! A torn last record, at every byte: it is cut off and kept beside, all others are there, and the daemon goes on.

use std::{
    fs,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Site, files};

/// What a crash may have left of the bytes from `cut` on.
#[derive(Clone, Copy, Debug)]
enum Tear {
    /// The file ends there.
    End,
    /// The room is there, but empty: it had been made ready before.
    Empty,
    /// A hole, and then the rest of the record: blocks reach the disk in any order.
    Hole,
}

fn config() -> Config {
    let lines = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";
    Config::new().dated("jobs", lines).collection("settings", lines)
}

/// A crashed site with five answered writes in each storage, the last of them at these bytes of its segment.
struct Crashed {
    site: Site,
    storage: &'static str,
    segment: String,
    last: Range<usize>,
}

impl Crashed {
    fn new(storage: &'static str, last_write: &Value) -> Self {
        let site = Site::new(&config());
        let daemon = site.start();
        let mut conn = daemon.connect();
        for n in 0..4 {
            let mut store =
                json!({"op": "store", "storage": storage, "key": format!("k{n}"), "data": {"n": n}});
            if storage == "jobs" {
                store["date"] = json!("2025-01-15");
            }
            conn.ok(store);
        }
        conn.ok(last_write);
        daemon.kill();
        let segments = files::segments(&site.path(storage));
        assert_eq!(segments.len(), 1);
        let (offset, line) = files::wal_lines(&segments[0]).pop().unwrap();
        let segment = segments[0].strip_prefix(site.path("")).unwrap().to_string_lossy().into_owned();
        Self { site, storage, segment, last: offset..offset + line.len() }
    }

    fn request(&self, op: &str, key: Option<&str>) -> Value {
        let mut request = json!({"op": op, "storage": self.storage});
        if self.storage == "jobs" {
            request["date"] = json!("2025-01-15");
        }
        if let Some(key) = key {
            request["key"] = json!(key);
        }
        request
    }

    /// The keys that are there, after it has been checked that each holds what was written.
    fn keys(&self, conn: &mut Conn) -> Vec<String> {
        let keys = conn.ok(self.request("keys", None))["keys"].clone();
        let keys: Vec<_> =
            keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
        for key in &keys {
            let got = conn.ok(self.request("get_key", Some(key)));
            assert_eq!(format!("k{}", got["records"][0]["data"]["n"]), *key);
        }
        keys
    }

    /// Tears the last record of a copy, starts a daemon on it and looks.
    fn check(&self, tear: Tear, cut: usize, last_keys: &[&str]) {
        let copy = self.site.copy_of(self.storage, &config());
        tear_file(&copy.path(&self.segment), tear, cut, &self.last);
        let what = format!("{tear:?} at byte {} of {}", cut - self.last.start, self.last.len());
        let daemon = copy.start();
        let mut conn = daemon.connect();
        let found = self.keys(&mut conn);
        let (before, after) = found.split_at(4.min(found.len()));
        assert_eq!(before, ["k0", "k1", "k2", "k3"], "{what}");
        // Only the line's end is missing: everything that was to be said is there.
        let complete = cut + 1 == self.last.end;
        assert!(after.is_empty() || (complete && after == last_keys), "{what}: {after:?}");
        if cut > self.last.start && after.is_empty() {
            let kept = files::tree(&copy.path(self.storage));
            let is_torn =
                |path: &&std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("torn-");
            assert_eq!(kept.iter().filter(is_torn).count(), 1, "{what}: kept beside in {kept:?}");
        }
        let mut store = self.request("store", Some("k9"));
        store["data"] = json!({"n": 9});
        conn.ok(store);
        // What comes after the cut must be readable for the next start.
        if cut.is_multiple_of(5) {
            daemon.kill();
            let daemon = copy.start();
            let expected: Vec<_> = found.iter().cloned().chain(["k9".to_owned()]).collect();
            assert_eq!(self.keys(&mut daemon.connect()), expected, "{what}, started again");
        }
    }

    /// Checks all cuts, four daemons at a time.
    fn check_all(&self, cuts: &[(Tear, usize)], last_keys: &[&str]) {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some((tear, cut)) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.check(*tear, *cut, last_keys);
                    }
                });
            }
        });
    }
}

fn tear_file(segment: &Path, tear: Tear, cut: usize, last: &Range<usize>) {
    let mut bytes = fs::read(segment).unwrap();
    match tear {
        Tear::End => bytes.truncate(cut),
        Tear::Empty => bytes[cut..].fill(0),
        Tear::Hole => bytes[cut..last.end.min(cut + 8)].fill(0),
    }
    fs::write(segment, bytes).unwrap();
}

#[test]
fn a_record_torn_at_every_byte() {
    let store =
        json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "k4", "data": {"n": 4}});
    let crashed = Crashed::new("jobs", &store);
    let cuts: Vec<_> = crashed.last.clone().map(|cut| (Tear::End, cut)).collect();
    crashed.check_all(&cuts, &["k4"]);
}

#[test]
fn a_record_whose_end_stayed_empty_or_has_a_hole() {
    let store = json!({"op": "store", "storage": "settings", "key": "k4", "data": {"n": 4}, "value": 4});
    let crashed = Crashed::new("settings", &store);
    let empty = crashed.last.clone().step_by(4).map(|cut| (Tear::Empty, cut));
    let hole = crashed.last.clone().step_by(13).map(|cut| (Tear::Hole, cut));
    let cuts: Vec<_> = empty.chain(hole).collect();
    crashed.check_all(&cuts, &["k4"]);
}

#[test]
fn a_torn_batch_goes_as_a_whole() {
    let ops = json!([{"op": "store", "key": "k4", "data": {"n": 4}}, {"op": "store", "key": "k5", "data": {"n": 5}}]);
    let crashed = Crashed::new("settings", &json!({"op": "batch", "storage": "settings", "ops": ops}));
    let cuts: Vec<_> = crashed.last.clone().step_by(7).map(|cut| (Tear::End, cut)).collect();
    crashed.check_all(&cuts, &["k4", "k5"]);
}

#[test]
fn an_empty_last_segment_is_no_damage() {
    let store =
        json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "k4", "data": {"n": 4}});
    let crashed = Crashed::new("jobs", &store);
    // Killed between making the next segment and its first record: nothing in it, or only room.
    for room in [0, 65_536] {
        let copy = crashed.site.copy_of("jobs", &config());
        fs::write(copy.path("jobs/2025-01-15/wal_000002.jsonl"), vec![0; room]).unwrap();
        let daemon = copy.start();
        let mut conn = daemon.connect();
        assert_eq!(crashed.keys(&mut conn).len(), 5, "{room} bytes of room");
        conn.ok(
            json!({"op": "store", "storage": "jobs", "date": "2025-01-15", "key": "k6", "data": {"n": 6}}),
        );
        daemon.kill();
        let daemon = copy.start();
        assert_eq!(crashed.keys(&mut daemon.connect()).len(), 6, "{room} bytes of room");
    }
}
