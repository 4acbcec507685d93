//! What goes wrong with files: bytes that change, ends that are missing, files that are gone.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Config, Conn, Site};

/// A day that is over.
pub(crate) const DAY: &str = "2025-01-15";

/// `jobs` (dated) and `settings` (collection), flushed only when asked, in small segments.
pub(crate) fn config() -> Config {
    let lines = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nmax_wal_size = 65536";
    // A backup on shutdown would be one source more from which everything comes back.
    Config::new().dated("jobs", lines).collection("settings", &format!("{lines}\nbackup = false"))
}

/// Records that do not compress away: their blocks are there to be damaged.
pub(crate) fn data(n: u64) -> Value {
    let pad = (0..60u64).fold(String::new(), |text, i| {
        text + &format!("{:016x}", (n * 60 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    });
    json!({"n": n, "pad": pad})
}

/// Stores the records `range` in both storages: every third item of `settings` is written a second time, every
/// seventh deleted.
pub(crate) fn write(conn: &mut Conn, range: std::ops::RangeInclusive<u64>) {
    for n in range {
        let key = format!("k{n:04}");
        conn.ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": key, "data": data(n)}));
        let item = |data: Value| json!({"op": "store", "storage": "settings", "key": key, "item_name": "i", "data": data, "value": n});
        let ops = match n {
            n if n % 7 == 0 => vec![
                item(data(n)),
                json!({"op": "delete", "storage": "settings", "key": key, "item_name": "i"}),
            ],
            n if n % 3 == 0 => vec![item(json!({"old": n})), item(data(n))],
            n => vec![item(data(n))],
        };
        for op in ops {
            conn.ok(op);
        }
    }
}

/// How many records of `settings` [`write`] makes of `range`.
pub(crate) fn settings_seqs(range: std::ops::RangeInclusive<u64>) -> u64 {
    range.map(|n| if n % 7 == 0 || n % 3 == 0 { 2 } else { 1 }).sum()
}

/// Every record of both storages is as [`write`] left it.
pub(crate) fn all_there(conn: &mut Conn, range: std::ops::RangeInclusive<u64>, what: &str) {
    let count = *range.end() as usize;
    for (storage, date) in [("jobs", Some(DAY)), ("settings", None)] {
        let keys = conn.ok(json!({"op": "keys", "storage": storage, "limit": 100_000}).with("date", date));
        let expected = if date.is_some() { count } else { range.clone().filter(|n| n % 7 != 0).count() };
        assert_eq!(keys["keys"].as_array().unwrap().len(), expected, "{what}: {storage}");
    }
    for n in range {
        let key = format!("k{n:04}");
        let job = conn.ok(json!({"op": "get_key_process", "storage": "jobs", "date": DAY, "key": key}));
        assert_eq!(job["record"]["data"], data(n), "{what}: {key}");
        let item = conn.ok(json!({"op": "get_item", "storage": "settings", "key": key, "item_name": "i"}));
        let expected = if n % 7 == 0 { Value::Null } else { data(n) };
        assert_eq!(item["record"]["data"], expected, "{what}: {key}");
    }
}

trait With {
    fn with(self, name: &str, value: Option<&str>) -> Value;
}

impl With for Value {
    fn with(mut self, name: &str, value: Option<&str>) -> Value {
        if let Some(value) = value {
            self[name] = value.into();
        }
        self
    }
}

/// The database files: those of `jobs` and `settings`.
pub(crate) const DATABASES: [&str; 3] =
    ["jobs/2025-01-15/data.duckdb", "settings/storage_latest.duckdb", "settings/storage_history.duckdb"];

/// A way to damage a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Bytes at the file's beginning changed.
    Header,
    /// Its second half is missing.
    Half,
    /// It is gone.
    Gone,
    /// It is all zero.
    Zeros,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [Self::Header, Self::Half, Self::Gone, Self::Zeros];

    pub(crate) fn apply(self, file: &Path) {
        let length = fs::metadata(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).len();
        match self {
            Self::Header => flip(file, 8, 4096),
            Self::Half => fs::File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap(),
            Self::Gone => fs::remove_file(file).unwrap(),
            Self::Zeros => fs::write(file, vec![0; length as usize]).unwrap(),
        }
    }
}

/// Changes every bit of some bytes.
pub(crate) fn flip(file: &Path, at: u64, count: usize) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, at).unwrap();
    for byte in &mut bytes {
        *byte = !*byte;
    }
    file.write_all_at(&bytes, at).unwrap();
}

/// Damages every block of a DuckDB file behind its headers. Whoever has it open finds out when it reads a row.
pub(crate) fn flip_blocks(file: &Path) {
    const HEADERS: u64 = 3 * 4096;
    const BLOCK: u64 = 256 * 1024;
    let length = fs::metadata(file).unwrap().len();
    for block in 0..(length - HEADERS) / BLOCK {
        flip(file, HEADERS + block * BLOCK + 1000, 16);
    }
}

/// Names in a file's directory that say that the file was set aside.
pub(crate) fn set_aside(file: &Path) -> Vec<PathBuf> {
    let start = format!("{}.damaged-", file.file_name().unwrap().to_string_lossy());
    let mut found: Vec<_> = fs::read_dir(file.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&start))
        .collect();
    found.sort();
    found
}

/// Removes every segment of the WAL, as retention does, and says so as it does.
pub(crate) fn remove_log(directory: &Path, through_seq: u64) {
    for segment in super::files::segments(directory) {
        fs::remove_file(segment).unwrap();
    }
    let base = if directory.ends_with("settings") { directory.to_owned() } else { directory.join(DAY) };
    fs::write(base.join("log_removed_through"), format!("{through_seq}\n")).unwrap();
}

/// Asks for health and expects exactly these kinds of problems.
pub(crate) fn health(conn: &mut Conn, deep: bool, kinds: &[&str]) -> Value {
    let answer = conn.ok(json!({"op": "check_health", "deep": deep}));
    let mut found: Vec<_> =
        answer["problems"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, kinds, "{answer}");
    assert_eq!(answer["status"], if kinds.is_empty() { "ok" } else { "degraded" });
    answer
}

/// A site whose daemon has written `count` records, flushed them and stopped.
pub(crate) fn stopped(count: u64) -> Site {
    let site = Site::new(&config());
    let daemon = site.start();
    write(&mut daemon.connect(), 1..=count);
    daemon.stop();
    site
}
