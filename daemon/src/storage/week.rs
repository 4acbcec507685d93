//! Seven days of a daemon's life on a clock that the test moves: writes, rollovers, flushes, exports, backups,
//! retention, idle dates, and a wall clock that somebody sets a day wrong. In the end everything that was
//! answered is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fastpersist_protocol::request::{Op, parse};
use fastpersist_protocol::time::{Date, Timestamp};

use super::Storage;
use super::partition::Shared;
use super::record::Writer;
use super::rules;
use crate::clock::Clock;
use crate::clock::simulated::SimulatedClock;
use crate::config::{self, Overrides};
use crate::disk::RealDisk;
use crate::duck::{Engine, EngineSettings};
use crate::schedule::{JobKind, Scheduler};
use crate::wal::commit::{InlineSlots, Submission, UnitResult};

const STEP: Duration = Duration::from_secs(3600);
const DAY_MICROS: i64 = 86_400_000_000;

const CONFIG: &str = r#"
[limits]
max_open_dates = 2

[storage.jobs]
model = "dated"
base_dir = "DIR/jobs"
timezone = "Europe/Berlin"
parquet_path = "DIR/parquet"
export_at = "02:15"
wal_retain_days = 1
backup = true
retain_days = 3

[storage.settings]
model = "collection"
base_dir = "DIR/settings"
backup_at = "12:30"
health_check_at = "13:00"
retain_days = 3
"#;

/// What was answered: the data at each date, key and name.
type Answered = BTreeMap<(Option<Date>, String, String), String>;

struct Week {
    dir: tempfile::TempDir,
    clock: Arc<SimulatedClock>,
    shared: Arc<Shared>,
    jobs: Arc<Storage>,
    settings: Arc<Storage>,
    answered: Answered,
    writes: u64,
}

impl Week {
    fn begin() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config.toml");
        fs::write(&file, CONFIG.replace("DIR", dir.path().to_str().expect("UTF-8"))).expect("write it");
        let config = config::load(&Overrides { config: Some(file), ..Overrides::default() }).expect("valid");
        let clock = Arc::new(SimulatedClock::new(Timestamp::now()));
        let shared_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let engine = Engine::open(&EngineSettings {
            memory_limit_bytes: config.limits.duckdb_memory_bytes,
            threads: 1,
            temp_directory: dir.path().join("temp"),
        });
        let shared = Arc::new(Shared {
            disk: RealDisk::shared(),
            scheduler: Scheduler::new(Arc::clone(&shared_clock)),
            clock: shared_clock,
            engine: engine.expect("DuckDB"),
            inline_slots: InlineSlots::new(1),
            limits: config.limits.clone(),
            stopping: AtomicBool::new(false),
        });
        let mut storages = config.storages.into_iter().map(|config| {
            let storage = Arc::new(Storage::open(config, &shared).expect("it opens"));
            storage.start_jobs();
            storage
        });
        let (jobs, settings) = (storages.next().expect("jobs"), storages.next().expect("settings"));
        drop(storages);
        Self { dir, clock, shared, jobs, settings, answered: BTreeMap::new(), writes: 0 }
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below)
    }

    /// One hour: a few writes, then whatever is due.
    async fn hour(&mut self) {
        for _ in 0..5 {
            self.writes += 1;
            let n = self.writes;
            let (key, name, data) =
                (format!("key_{}", n % 17), format!("name_{}", n % 3), format!("{{\"n\":{n}}}"));
            let today = self.jobs.today();
            let job = format!(r#"{{"op":"store","key":"{key}","process_name":"{name}","data":{data}}}"#);
            self.store(&Arc::clone(&self.jobs), Some(today), &job).await;
            self.answered.insert((Some(today), key.clone(), name.clone()), data.clone());
            let setting = format!(
                r#"{{"op":"store","key":"{key}","collection_name":"{name}","data":{data},"value":{n}}}"#
            );
            self.store(&Arc::clone(&self.settings), None, &setting).await;
            self.answered.insert((None, key, name), data);
        }
        self.clock.advance(STEP);
        self.settle().await;
    }

    async fn store(&self, storage: &Arc<Storage>, date: Option<Date>, line: &str) {
        let limits = parse::ParseLimits { max_json_depth: 64, max_batch_ops: 1 };
        let request = parse::parse(line.as_bytes(), limits).request.expect("a valid request");
        let Op::Store(placed) = &request.op else { panic!("it is a store") };
        let (mut warnings, mut scratch) = (Vec::new(), Vec::new());
        let schema = &storage.config().schema;
        let from = Writer { uid: 0, pid: None, unit: None };
        let taken = rules::Taken { at: self.clock.now(), from };
        let record = rules::record_of_store(schema, &placed.write, taken, &mut warnings, &mut scratch);
        let mut submission = Submission { sync: true, ..Submission::default() };
        submission.push(record.expect("it fits"), None);
        submission.end_unit(0, false);
        let partition = storage.partition_for_write(date).await.expect("the partition opens");
        let results = partition.submit(submission).await.expect("it is committed");
        assert!(matches!(results[..], [UnitResult::Done(_)]), "{results:?}");
    }

    /// Waits until every job that is due has run.
    async fn settle(&self) {
        let begun = Instant::now();
        let busy = |storage: &Storage| storage.stats().jobs.is_busy(self.shared.scheduler.now());
        while busy(&self.jobs) || busy(&self.settings) {
            let reports = || self.settings.stats().jobs.reports(self.shared.scheduler.now());
            assert!(begun.elapsed() < Duration::from_secs(20), "a job does not end: {:?}", reports());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for storage in [&self.jobs, &self.settings] {
            for report in storage.stats().jobs.reports(self.shared.scheduler.now()) {
                assert_eq!(report.failures, 0, "{report:?}");
                assert!(report.next_at.is_some(), "{report:?}");
            }
        }
    }

    /// Every record that was answered, read back.
    async fn check_records(&self) {
        for ((date, key, name), data) in &self.answered {
            let storage = if date.is_some() { &self.jobs } else { &self.settings };
            let partition = storage.partition_for_read(*date).await.expect("it opens").expect("it is there");
            let records = partition.load_key(key, false).await.expect("it is read");
            let found = records.iter().find(|record| match record.columns().names {
                super::record::Names::Dated { process_name } => process_name == Some(name),
                super::record::Names::Collection { collection_name, .. } => collection_name == name,
            });
            assert_eq!(
                found.map(|record| record.columns().data),
                Some(data.as_str()),
                "{date:?} {key} {name}"
            );
        }
    }

    fn dates(&self) -> BTreeSet<Date> {
        self.answered.keys().filter_map(|(date, ..)| *date).collect()
    }

    /// Yesterday's log is sealed and old dates have none; every date but the last is exported.
    fn check_files(&self) {
        let today = self.jobs.today();
        for date in self.dates() {
            let days = today.epoch_days() - date.epoch_days();
            let logs = count(&self.path(&format!("jobs/{date}")), ".jsonl");
            if (3..10).contains(&days) {
                assert_eq!(logs, 0, "the log of {date} is past its retention");
            }
            let exported = ["name_0", "name_1", "name_2"].iter().any(|name| {
                self.path(&format!("parquet/process_name={name}/date={date}/data.parquet")).exists()
            });
            assert!(exported || days < 1, "{date} was exported in the night after it");
        }
    }
}

impl Week {
    /// There is a backup of each day that has not passed its retention, and of no other.
    async fn check_backups(&self) {
        let today = self.settings.today();
        let days = self.settings.list_backups().expect("listed");
        let ages: Vec<i32> =
            days.iter().map(|found| today.epoch_days() - found.manifest.backup.epoch_days()).collect();
        for age in 1..=3 {
            assert!(ages.contains(&age), "the backup of {age} days ago is there: {ages:?}");
        }
        assert!(ages.iter().all(|age| (-1..=4).contains(age)), "older ones are gone: {ages:?}");
        let newest = days.iter().max_by_key(|found| found.manifest.seq).expect("there is one");
        assert!(newest.is_verified());
        assert!(newest.manifest.seq > self.writes - 5 * 13, "the newest is not older than half a day");
        let verified = self.settings.verify_backup(&newest.manifest.backup.to_string()).await;
        assert_eq!(verified.expect("it is sound").seq, newest.manifest.seq);
        for found in self.jobs.list_backups().expect("listed") {
            let age = today.epoch_days() - found.manifest.backup.epoch_days();
            assert!((-1..=5).contains(&age), "the backup of {age} days ago is gone: {:?}", found.manifest);
        }
    }
}

fn count(directory: &Path, suffix: &str) -> usize {
    let entries = fs::read_dir(directory).expect("list it");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    names.filter(|name| name.ends_with(suffix)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_days_pass_and_nothing_is_lost_late_or_left_behind() {
    let mut week = Week::begin();
    for hour in 0..7 * 24 {
        match hour {
            80 | 124 => week.clock.set_wall(DAY_MICROS),
            83 | 120 => week.clock.set_wall(-DAY_MICROS),
            _ => {}
        }
        week.hour().await;
        assert!(week.jobs.open_partitions().len() <= 2, "idle dates are closed");
    }
    week.check_records().await;
    week.check_files();
    week.check_backups().await;
    for (storage, kind) in [
        (&week.jobs, JobKind::Flush),
        (&week.jobs, JobKind::Export),
        (&week.jobs, JobKind::Retention),
        (&week.jobs, JobKind::CloseIdle),
        (&week.jobs, JobKind::Backup),
        (&week.settings, JobKind::Backup),
        (&week.settings, JobKind::HealthCheck),
        (&week.settings, JobKind::Flush),
        (&week.settings, JobKind::Retention),
    ] {
        let last = storage.stats().jobs.last(kind).expect("it ran");
        assert!(last.result.is_ok(), "{kind:?}: {last:?}");
        let age = week.clock.now().as_micros() - last.at.as_micros();
        assert!(age <= DAY_MICROS + STEP.as_micros() as i64, "{kind:?} ran within the last day: {last:?}");
    }
    week.shared.scheduler.stop().await;
    week.jobs.close().await.expect("it closes");
    week.settings.close().await.expect("it closes");
}
