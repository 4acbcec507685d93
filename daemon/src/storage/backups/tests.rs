//! Days that pass in a moment: what is backed up, and what goes.

use std::fs;
use std::sync::atomic::AtomicBool;

use fastpersist_protocol::time::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::clock::simulated::SimulatedClock;
use crate::config::{self, Overrides};
use crate::disk::{Disk, RealDisk};
use crate::duck::{
    Engine, EngineSettings, Files, FlushBatch, FlushRow, FlushRows, FlushWrite, Present, Store,
};
use crate::schedule::Scheduler;
use crate::storage::record::{Columns, Names, Record};
use crate::wal::commit::InlineSlots;

const DAY_MICROS: i64 = 86_400_000_000;

/// A storage in a directory, with a clock that is set by hand.
pub(in crate::storage) struct Place {
    dir: TempDir,
    clock: Arc<SimulatedClock>,
    pub(in crate::storage) engine: Arc<Engine>,
    pub(in crate::storage) config: config::Config,
}

impl Place {
    pub(in crate::storage) fn new(model: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let base = dir.path().join("s");
        fs::create_dir(&base).expect("made");
        let text = format!(
            "[storage.s]\nmodel = \"{model}\"\nbase_dir = \"{}\"\nbackup = true\nretain_days = 5\n",
            base.display()
        );
        let file = dir.path().join("config.toml");
        fs::write(&file, text).expect("written");
        let overrides =
            Overrides { config: Some(file), base_dir: Some(dir.path().to_owned()), ..Overrides::default() };
        let config = config::load(&overrides).expect("a configuration");
        let settings = EngineSettings {
            memory_limit_bytes: 128 << 20,
            threads: 1,
            temp_directory: dir.path().join("temporary"),
        };
        let engine = Engine::open(&settings).expect("an engine");
        let clock = Arc::new(SimulatedClock::new(Timestamp::EPOCH));
        clock.show("2025-01-10T12:00:00Z");
        Self { dir, clock, engine, config }
    }

    /// Brings records into the database files, as an earlier run of the daemon would have left them.
    pub(in crate::storage) fn fill(&self, files: Files, through_seq: u64) {
        for file in files.paths() {
            fs::create_dir_all(file.parent().expect("a directory")).expect("made");
        }
        let schema = Arc::new(self.config.storages[0].schema.clone());
        let is_dated = matches!(files, Files::Dated { .. });
        let store = Store::open(Arc::clone(&self.engine), schema, files).expect("a store");
        let first = store.flushed_seq() + 1;
        let records = (first..=through_seq).map(|seq| record(seq, is_dated));
        let present = Present::Unknown;
        let rows = if is_dated {
            let row = |record| FlushRow { record, writes: 1, reset: false, present };
            FlushRows::Latest(records.map(row).collect())
        } else {
            FlushRows::History(records.map(|record| FlushWrite { record, present }).collect())
        };
        store.flush(&FlushBatch { through_seq, rows, producers: Vec::new() }).expect("a flush");
        store.close().expect("closed");
    }

    pub(in crate::storage) fn collection(&self) -> Files {
        let base = self.dir.path().join("s");
        Files::Collection {
            history: base.join("storage_history.duckdb"),
            latest: base.join("storage_latest.duckdb"),
        }
    }

    pub(in crate::storage) fn date(&self, date: &str) -> Files {
        Files::Dated { data: self.dir.path().join("s").join(date).join("data.duckdb") }
    }

    pub(in crate::storage) fn open(&self) -> Storage {
        self.open_on(RealDisk::shared())
    }

    pub(in crate::storage) fn open_on(&self, disk: Arc<dyn Disk>) -> Storage {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let shared = Arc::new(Shared {
            disk,
            scheduler: Scheduler::new(Arc::clone(&clock)),
            clock,
            engine: Arc::clone(&self.engine),
            inline_slots: InlineSlots::new(1),
            limits: self.config.limits.clone(),
            stopping: AtomicBool::new(false),
        });
        Storage::open(self.config.storages[0].clone(), &shared).expect("a storage")
    }
}

pub(in crate::storage) fn record(seq: u64, is_dated: bool) -> Record {
    let names = if is_dated {
        Names::Dated { process_name: None }
    } else {
        Names::Collection { collection_name: "", item_name: "" }
    };
    Record::new(&Columns {
        key: &format!("k{seq}"),
        names,
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

fn names(found: &[Found]) -> Vec<String> {
    found.iter().map(|one| one.manifest.backup.to_string()).collect()
}

fn taken(manifests: &[Manifest]) -> Vec<String> {
    manifests.iter().map(|one| one.backup.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_has_a_backup_a_day_and_those_of_the_last_days_stay() {
    let place = Place::new("collection");
    place.fill(place.collection(), 20);
    let storage = place.open();
    for _ in 0..8 {
        assert_eq!(storage.backup_touched(Some(storage.today())).await.expect("a backup").len(), 1);
        assert!(storage.backup_touched(Some(storage.today())).await.expect("nothing to do").is_empty());
        storage.apply_retention().await.expect("retention");
        place.clock.set_wall(DAY_MICROS);
    }
    let left = storage.list_backups().expect("listed");
    let kept = ["2025-01-12", "2025-01-13", "2025-01-14", "2025-01-15", "2025-01-16", "2025-01-17"];
    assert_eq!(names(&left), kept);
    let base = place.dir.path().join("s");
    assert!(!base.join("2025-01-10").exists(), "a day in which nothing is left goes too");
    // The clock is a month ahead, then a year back.
    place.clock.set_wall(30 * DAY_MICROS);
    storage.apply_retention().await.expect("retention");
    assert_eq!(names(&storage.list_backups().expect("listed")), ["2025-01-17"]);
    place.clock.show("2024-01-01");
    assert_eq!(storage.apply_retention().await.expect("retention").backups, []);
    assert_eq!(
        taken(&storage.backup_touched(Some(storage.today())).await.expect("a backup")),
        ["2024-01-01"]
    );
    storage.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_whose_backup_went_is_not_backed_up_again_until_it_changes() {
    let place = Place::new("dated");
    let dates = ["2025-01-05", "2025-01-06"];
    for date in dates {
        place.fill(place.date(date), 10);
    }
    let storage = place.open();
    assert_eq!(taken(&storage.backup_touched(Some(storage.today())).await.expect("backups")), dates);
    place.clock.set_wall(6 * DAY_MICROS);
    let removed = storage.apply_retention().await.expect("retention").backups;
    assert_eq!(removed.len(), 1, "the newest of the storage stays: {removed:?}");
    assert!(storage.backup_touched(Some(storage.today())).await.expect("nothing to do").is_empty());
    storage.close().await.expect("closed");
    drop(storage);
    let gone = removed[0].to_string();
    for date in dates {
        assert!(place.dir.path().join("s").join(date).join("data.duckdb").is_file(), "data never goes");
    }
    place.fill(place.date(&gone), 11);
    fs::remove_file(place.dir.path().join("s").join(&gone).join("settled")).expect("no longer true");
    let storage = place.open();
    assert_eq!(taken(&storage.backup_touched(Some(storage.today())).await.expect("a backup")), [gone]);
    assert_eq!(storage.list_backups().expect("listed").len(), 2);
    storage.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_found_damaged_does_not_count_until_it_is_sound_again() {
    let place = Place::new("collection");
    place.fill(place.collection(), 20);
    let storage = place.open();
    let mut days = Vec::new();
    for _ in 0..2 {
        days.push(storage.backup(None).await.expect("a backup").remove(0));
        place.clock.set_wall(DAY_MICROS);
    }
    let counts = || storage.stats().verified_backup().map(|newest| newest.at);
    let flip = |day: &Manifest| {
        let directory = place.dir.path().join("s").join(day.backup.to_string());
        let file = directory.join("storage_history.duckdb.backup");
        let mut bytes = fs::read(&file).expect("read");
        bytes[5000] ^= 0xff;
        fs::write(&file, bytes).expect("written");
    };
    assert_eq!(counts(), Some(days[1].created_at));
    for (day, left) in [(&days[1], Some(days[0].created_at)), (&days[0], None)] {
        flip(day);
        let verified = storage.verify_backup(&day.backup.to_string()).await;
        assert!(matches!(verified, Err(BackupError::Damaged { .. })), "{verified:?}");
        assert_eq!(counts(), left);
    }
    flip(&days[1]);
    storage.verify_backup(&days[1].backup.to_string()).await.expect("sound");
    assert_eq!(counts(), Some(days[1].created_at));
    storage.close().await.expect("closed");
}
