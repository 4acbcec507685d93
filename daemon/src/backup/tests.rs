//! What backups promise, with a clock that is set and a disk that fails.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono_tz::Tz;
use fastpersist_protocol::time::{Date, Timestamp};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::manifest::{self, Found, Manifest, State};
use super::retention::{self, Rule};
use super::take::Job;
use super::{BackupError, verify};
use crate::clock::Clock;
use crate::clock::simulated::SimulatedClock;
use crate::config::{self, Overrides, StorageConfig};
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::duck::{Engine, EngineSettings, Files, FlushBatch, FlushRows, FlushWrite, Present, Store};
use crate::storage::record::{Columns, Names, Record};
use crate::storage::schema::Model;

/// The real disk, but the n-th change of a name fails, and with it all that come after.
#[derive(Debug)]
struct StoppingDisk {
    left: AtomicUsize,
    free_bytes: u64,
    /// Removed, and a power cut may bring it back.
    may_come_back: Mutex<Vec<PathBuf>>,
}

impl StoppingDisk {
    fn after(changes: usize) -> Self {
        Self { left: AtomicUsize::new(changes), free_bytes: u64::MAX, may_come_back: Mutex::default() }
    }

    fn step(&self) -> io::Result<()> {
        let take = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        take.map(drop).map_err(|_| io::Error::other("stopped here"))
    }
}

impl Disk for StoppingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.step()?;
        RealDisk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }
    fn read_head(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        RealDisk.read_head(path, limit)
    }
    fn read_tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        RealDisk.read_tail(path, limit)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.may_come_back.lock().push(path.to_owned());
        RealDisk.remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.may_come_back.lock().clear();
        RealDisk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.free_bytes)
    }
}

/// A collection's store in a directory, ready to be backed up.
struct Place {
    dir: TempDir,
    engine: Arc<Engine>,
    config: StorageConfig,
    files: Files,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let settings = EngineSettings {
            memory_limit_bytes: 128 << 20,
            threads: 1,
            temp_directory: dir.path().join("temporary"),
        };
        let engine = Engine::open(&settings).expect("an engine");
        let file = dir.path().join("config.toml");
        let text = format!("[storage.s]\nmodel = \"collection\"\nbase_dir = \"{}\"\n", dir.path().display());
        fs::write(&file, text).expect("written");
        let overrides =
            Overrides { config: Some(file), base_dir: Some(dir.path().to_owned()), ..Overrides::default() };
        let config = config::load(&overrides).expect("a configuration").storages.remove(0);
        let files = Files::Collection {
            history: dir.path().join("storage_history.duckdb"),
            latest: dir.path().join("storage_latest.duckdb"),
        };
        let schema = Arc::new(config.schema.clone());
        let store = Store::open(Arc::clone(&engine), schema, files.clone()).expect("a store");
        Self { dir, engine, config, files, store }
    }

    fn write(&self, seqs: std::ops::RangeInclusive<u64>) {
        let through_seq = *seqs.end();
        let writes = seqs.map(|seq| FlushWrite { record: record(seq), present: Present::Unknown });
        let rows = FlushRows::History(writes.collect());
        self.store.flush(&FlushBatch { through_seq, rows, producers: Vec::new() }).expect("a flush");
    }

    fn back_up(&self, disk: &dyn Disk, at: &str) -> Result<Manifest, BackupError> {
        let clock = SimulatedClock::new(stamp(at));
        let name = crate::schedule::day_of(clock.now(), self.config.timezone);
        let (engine, config, files) = (&self.engine, &self.config, &self.files);
        Job { disk, clock: &clock, engine, config, name, files }.run(|copies| self.store.snapshot(copies))
    }

    fn newest(&self) -> Option<Found> {
        manifest::newest_verified(&RealDisk, self.dir.path()).expect("listed")
    }

    fn names(&self, day: &str) -> BTreeSet<String> {
        RealDisk.list(&self.dir.path().join(day)).expect("listed").into_iter().collect()
    }
}

fn record(seq: u64) -> Record {
    Record::new(&Columns {
        key: &format!("k{}", seq % 10),
        names: Names::Collection { collection_name: "", item_name: "" },
        data: "{}",
        value: None,
        timestamp: None,
        status: None,
        status_int: None,
        username: None,
        updated_at: Timestamp::from_micros(seq as i64).expect("in range"),
        seq,
        deleted: false,
        writer: None,
    })
}

fn stamp(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

const WHOLE: [&str; 3] = ["backup.json", "storage_history.duckdb.backup", "storage_latest.duckdb.backup"];

#[test]
fn stopped_at_any_step_the_old_backup_or_the_new_one_is_there_whole() {
    let mut outcomes = BTreeSet::new();
    for steps in 0.. {
        let place = Place::new();
        place.write(1..=50);
        place.back_up(&RealDisk, "2025-01-15").expect("the old one");
        place.write(51..=80);
        let disk = StoppingDisk::after(steps);
        let taken = place.back_up(&disk, "2025-01-15");
        // Whoever only reads finds one that is whole, before anybody tidies up.
        let found = place.newest().expect("a backup");
        verify::verify(&place.engine, &found).expect("whole, as it was left");
        let directory = place.dir.path().join("2025-01-15");
        manifest::roll_forward(&RealDisk, &directory).expect("tidied up");
        let found = place.newest().expect("a backup");
        verify::verify(&place.engine, &found).expect("whole, tidied up");
        assert!(place.names("2025-01-15").iter().map(String::as_str).eq(WHOLE), "after {steps} steps");
        assert!([50, 80].contains(&found.manifest.seq), "after {steps} steps");
        outcomes.insert((found.manifest.seq, taken.is_ok()));
        if taken.is_ok() {
            break;
        }
    }
    assert_eq!(outcomes, BTreeSet::from([(50, false), (80, false), (80, true)]));
}

#[test]
fn a_damaged_backup_is_passed_over_and_the_one_before_it_counts() {
    let place = Place::new();
    place.write(1..=50);
    place.back_up(&RealDisk, "2025-01-14").expect("a backup");
    place.write(51..=60);
    place.back_up(&RealDisk, "2025-01-15").expect("a backup");
    let newest = place.newest().expect("a backup");
    assert_eq!(newest.manifest.seq, 60);
    let mut bytes = fs::read(&newest.paths[0]).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest.paths[0], bytes).expect("written");
    let error = verify::verify(&place.engine, &newest).expect_err("damage");
    assert!(matches!(&error, BackupError::Damaged { what, .. } if what.contains("SHA-256")), "{error}");
    manifest::mark_damaged(&RealDisk, &newest.directory).expect("marked");
    assert_eq!(place.newest().map(|found| found.manifest.seq), Some(50));
    manifest::mark_sound(&RealDisk, &newest.directory).expect("marked");
    assert_eq!(place.newest().map(|found| found.manifest.seq), Some(60));
    fs::remove_file(&newest.paths[1]).expect("removed");
    assert_eq!(place.newest().map(|found| found.manifest.seq), Some(50), "a file is missing");
}

#[test]
fn a_manifest_that_lies_about_its_rows_is_found_out() {
    let place = Place::new();
    place.write(1..=50);
    place.back_up(&RealDisk, "2025-01-15").expect("a backup");
    let mut found = place.newest().expect("a backup");
    found.manifest.files[0].rows_checksum.push('0');
    found.manifest.seq = 51;
    let error = verify::verify(&place.engine, &found).expect_err("a difference").to_string();
    assert!(error.contains("rows_checksum") && error.contains("seq 50"), "{error}");
}

#[test]
fn without_room_nothing_is_begun() {
    let place = Place::new();
    place.write(1..=50);
    let disk = StoppingDisk { free_bytes: 1 << 20, ..StoppingDisk::after(usize::MAX) };
    let error = place.back_up(&disk, "2025-01-15").expect_err("no room");
    assert!(error.is_full() && matches!(error, BackupError::NoRoom { .. }), "{error}");
    assert!(place.names("2025-01-15").is_empty());
}

#[test]
fn the_manifest_reads_back_as_it_was_written_and_refuses_what_is_none() {
    let place = Place::new();
    place.write(1..=50);
    let written = place.back_up(&RealDisk, "2025-01-15T10:30:00Z").expect("a backup");
    assert_eq!(
        (written.seq, written.rows(), written.last_updated_at),
        (50, 10, record(50).columns().updated_at)
    );
    assert_eq!(place.newest().map(|found| found.manifest), Some(written.clone()));
    let file = place.dir.path().join("2025-01-15/backup.json");
    let escape = String::from_utf8(written.to_bytes()).expect("text").replace("storage_latest", "../x");
    for text in ["", "{}", "not json", &escape] {
        fs::write(&file, text).expect("written");
        assert!(manifest::read(&RealDisk, manifest_dir(&file), "backup.json").is_err(), "{text}");
        assert_eq!(place.newest(), None);
    }
}

fn manifest_dir(file: &Path) -> &Path {
    file.parent().expect("a directory")
}

/// A backup as it would be found, without files.
fn found(day: &str, seq: u64, state: State) -> Found {
    let manifest = Manifest {
        format: manifest::FORMAT,
        backup: Date::parse(day).expect("a date"),
        storage: "s".to_owned(),
        model: "collection".to_owned(),
        seq,
        created_at: stamp(day),
        last_updated_at: stamp(day),
        fastpersistd_version: String::new(),
        duckdb_version: String::new(),
        files: Vec::new(),
    };
    Found { directory: PathBuf::from(day), manifest, state, paths: Vec::new() }
}

#[test]
fn retention_spares_the_newest_verified_backup_whatever_the_clock_says() {
    let verified = |day, seq| found(day, seq, State::Verified);
    let some = vec![
        verified("2025-01-09", 10),
        verified("2025-01-10", 20),
        verified("2025-01-11", 30),
        found("2025-01-12", 40, State::Damaged),
    ];
    for (model, today, expected) in [
        (Model::Collection, "2025-01-14", &[][..]),
        (Model::Collection, "2025-01-15", &["2025-01-09"]),
        (Model::Collection, "2025-01-16", &["2025-01-09", "2025-01-10"]),
        // A clock far ahead: the damaged one goes, the newest that is verified does not.
        (Model::Collection, "2030-01-01", &["2025-01-09", "2025-01-10", "2025-01-12"]),
        (Model::Dated, "2030-01-01", &["2025-01-09", "2025-01-10", "2025-01-12"]),
        // A clock that went back.
        (Model::Collection, "2001-01-01", &[]),
    ] {
        let rule =
            Rule { model, timezone: Tz::UTC, today: Date::parse(today).expect("a date"), retain_days: 5 };
        let gone = retention::expired(some.clone(), rule);
        let gone: Vec<_> = gone.iter().map(|one| one.manifest.backup.to_string()).collect();
        assert_eq!(gone, expected, "{today}");
    }
    // The clock was ahead for a day, and is right again: what is newest is told by seq.
    let jumped = vec![verified("2025-02-01", 10), verified("2025-01-10", 20)];
    let today = Date::parse("2025-03-01").expect("a date");
    let rule = Rule { model: Model::Collection, timezone: Tz::UTC, today, retain_days: 5 };
    let gone = retention::expired(jumped, rule);
    assert_eq!(gone.iter().map(|one| one.manifest.seq).collect::<Vec<_>>(), [10]);
}

#[test]
fn a_removal_that_was_stopped_counts_at_once_and_is_finished_later() {
    for model in [Model::Collection, Model::Dated] {
        for steps in 0.. {
            let place = Place::new();
            place.write(1..=50);
            place.back_up(&RealDisk, "2025-01-15").expect("a backup");
            let directory = place.dir.path().join("2025-01-15");
            let found = place.newest().expect("a backup");
            let disk = StoppingDisk::after(steps);
            let removed = retention::remove(&disk, &found, model);
            match manifest::find(&RealDisk, &directory).expect("readable") {
                Some(left) if left.is_verified() => {
                    verify::verify(&place.engine, &left).expect("not begun, so it is whole");
                }
                Some(left) => {
                    assert_eq!((left.state, left.manifest.seq), (State::Removed, 50));
                    retention::finish(&RealDisk, &left, model).expect("finished");
                    let left: &[&str] = if model == Model::Dated { &["backup.json.removed"] } else { &[] };
                    assert!(place.names("2025-01-15").iter().map(String::as_str).eq(left.iter().copied()));
                }
                None => {
                    assert!(place.names("2025-01-15").is_empty());
                    // Without its manifest a file that came back was told as a damaged backup for ever.
                    let back = disk.may_come_back.lock();
                    assert!(back.iter().all(|file| file.ends_with("backup.json.removed")), "{back:?}");
                }
            }
            if removed.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn a_day_begins_by_the_storages_clock() {
    let moment = stamp("2025-01-15T23:30:00Z");
    let day = |zone: Tz| crate::schedule::day_of(moment, zone).to_string();
    assert_eq!((day(Tz::UTC), day(Tz::Europe__Berlin)), ("2025-01-15".to_owned(), "2025-01-16".to_owned()));
}
