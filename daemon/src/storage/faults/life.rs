//! One life of the storages on a disk that may fail: from the start to the crash.
//!
//! Invariant: an answer counts only when it was given before the crash.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastpersist_protocol::time::{Date, Timestamp};
use parking_lot::Mutex;
use tokio::task::block_in_place;

use super::answers::{brief, note, shows, shows_undurable};
use super::chance::Chance;
use super::disk::FaultyDisk;
use super::ledger::{Ledger, Place, Records};
use super::script::{Knobs, Step};
use crate::clock::Clock;
use crate::clock::simulated::SimulatedClock;
use crate::config::{self, Overrides};
use crate::duck::Engine;
use crate::planted;
use crate::schedule::Scheduler;
use crate::storage::Storage;
use crate::storage::partition::{Partition, Shared};
use crate::storage::record::{Columns, Names, Record};
use crate::wal::commit::{InlineSlots, Reply, Submission, UnitResult};

const DAY_MICROS: i64 = 86_400_000_000;
/// For what must happen soon.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Life {
    pub(super) disk: FaultyDisk,
    clock: Arc<SimulatedClock>,
    shared: Arc<Shared>,
    jobs: Arc<Storage>,
    settings: Arc<Storage>,
    ledger: Arc<Mutex<Ledger>>,
    in_flight: Arc<Mutex<InFlight>>,
    knobs: Knobs,
    /// Nothing is written any more.
    is_closed: bool,
    /// Whether files of the last export must be there; `None` without an export.
    pub(super) exported: Option<bool>,
    /// What was answered of backups, by storage.
    pub(super) backed_up: [Backups; 2],
}

/// The backups that a storage was answered: up to which record, by name.
pub(super) type Backups = BTreeMap<Date, u64>;

/// Writes that are being synced: nobody may see them yet.
#[derive(Default)]
struct InFlight(Option<(Arc<Partition>, Numbered)>);

/// Writes with their numbers in the ledger.
type Numbered = Vec<(usize, Record)>;

pub(super) fn dates() -> [Date; 2] {
    ["2025-01-15", "2025-01-16"].map(|date| Date::parse(date).expect("a date"))
}

/// Makes the directories that must be there, and writes the configuration beside them.
fn configure(root: &Path, knobs: Knobs) -> config::Config {
    let lines = format!(
        "backup = true\nbatch_size = 1000000\nduckdb_flush_interval_seconds = 1000000\n\
         wal_sync_interval_ms = 100000000\nmax_wal_size = {}\nwal_retain_days = {}\n",
        knobs.max_wal_bytes, knobs.wal_retain_days
    );
    let db_path = if knobs.elsewhere { "db_path = \"DIR/elsewhere/{date}/data.duckdb\"\n" } else { "" };
    let text = format!(
        "[storage.jobs]\nmodel = \"dated\"\nbase_dir = \"DIR/jobs\"\nparquet_path = \"DIR/parquet/jobs\"\n{lines}{db_path}\
         [storage.settings]\nmodel = \"collection\"\nbase_dir = \"DIR/settings\"\nparquet_path = \"DIR/parquet/settings\"\n{lines}"
    );
    for below in ["jobs", "settings", "parquet", "elsewhere"] {
        std::fs::create_dir_all(root.join(below)).expect("made");
    }
    let file = root.with_extension("toml");
    std::fs::write(&file, text.replace("DIR", root.to_str().expect("UTF-8"))).expect("written");
    config::load(&Overrides { config: Some(file), ..Overrides::default() }).expect("valid")
}

impl Life {
    /// Starts on the files below `root`; `make_disk` is called when they are ready.
    pub(super) async fn begin(
        root: &Path,
        knobs: Knobs,
        engine: &Arc<Engine>,
        ledger: &Arc<Mutex<Ledger>>,
        make_disk: impl FnOnce() -> FaultyDisk,
    ) -> (FaultyDisk, Result<Self, String>) {
        let config = configure(root, knobs);
        let disk = make_disk();
        let clock = Arc::new(SimulatedClock::new(Timestamp::now()));
        let shared_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let shared = Arc::new(Shared {
            disk: Arc::new(disk.clone()),
            scheduler: Scheduler::new(Arc::clone(&shared_clock)),
            clock: shared_clock,
            engine: Arc::clone(engine),
            inline_slots: InlineSlots::new(1),
            limits: config.limits.clone(),
            stopping: AtomicBool::new(false),
        });
        // No job runs by itself: whoever flushes beside the script writes DuckDB's files while the crash copies them.
        shared.scheduler.stop().await;
        disk.set_duckdb_busy(true);
        let mut storages = config.storages.into_iter().map(|config| {
            block_in_place(|| Storage::open(config, &shared)).map(Arc::new).map_err(|error| error.to_string())
        });
        let opened = storages.next().zip(storages.next()).map(|(jobs, settings)| Ok((jobs?, settings?)));
        drop(storages);
        let life = match opened.expect("two storages") {
            Ok((jobs, settings)) => Self {
                disk: disk.clone(),
                clock,
                shared,
                jobs,
                settings,
                ledger: Arc::clone(ledger),
                in_flight: Arc::default(),
                knobs,
                is_closed: false,
                exported: None,
                backed_up: Default::default(),
            },
            Err(error) => {
                shared.stopping.store(true, Ordering::Relaxed);
                return (disk, Err(error));
            }
        };
        life.watch_syncs();
        let settled = life.settled().await;
        disk.set_duckdb_busy(false);
        (disk, settled.map(|()| life))
    }

    /// Whoever reads while a file is being synced must not see what it is synced for. A flush syncs files too, also
    /// between the moment when a write is there for readers and its answer.
    fn watch_syncs(&self) {
        let (in_flight, ledger) = (Arc::clone(&self.in_flight), Arc::clone(&self.ledger));
        self.disk.set_on_sync(Arc::new(move || {
            let in_flight = in_flight.lock();
            let Some((partition, writes)) = &in_flight.0 else { return };
            for (_, record) in writes {
                if !record.is_deleted() && shows_undurable(partition, record) {
                    ledger.lock().problem(format!("WRONG: {} is read before it is durable", brief(record)));
                }
            }
        }));
    }

    /// Waits for what a start leaves to be done in the background: it writes DuckDB's files.
    async fn settled(&self) -> Result<(), String> {
        let begun = Instant::now();
        for storage in [&self.jobs, &self.settings] {
            while storage.open_partitions().iter().any(|partition| !partition.gauges().complete) {
                if begun.elapsed() > PATIENCE {
                    return Err("memory is not filled".to_owned());
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        Ok(())
    }

    async fn partition(&self, place: Place, for_write: bool) -> Result<Option<Arc<Partition>>, String> {
        let storage = if place.is_some() { &self.jobs } else { &self.settings };
        self.disk.set_duckdb_busy(true);
        let partition = if for_write {
            storage.partition_for_write(place).await.map(Some)
        } else {
            storage.partition_for_read(place).await
        };
        let settled = self.settled().await;
        self.disk.set_duckdb_busy(false);
        settled?;
        partition.map_err(|error| error.to_string())
    }

    /// Everything that is read of a partition.
    async fn records(&self, place: Place) -> Result<Records, String> {
        let mut records = Records::new();
        let Some(partition) = self.partition(place, false).await? else { return Ok(records) };
        let page = partition.keys("", None, 100_000, usize::MAX).await.map_err(|error| error.to_string())?;
        for key in page.keys {
            for record in partition.load_key(&key, false).await.map_err(|error| error.to_string())? {
                let columns = record.columns();
                let name = match columns.names {
                    Names::Dated { process_name } => process_name,
                    Names::Collection { collection_name, .. } => {
                        Some(collection_name).filter(|name| !name.is_empty())
                    }
                };
                let address = (key.clone(), name.map(str::to_owned));
                records.insert(address, (columns.data.to_owned(), columns.seq));
            }
        }
        Ok(records)
    }

    /// Reads everything back and compares it with what was answered.
    pub(super) async fn observe(&self, when: &str) -> Result<(), String> {
        let places = self.ledger.lock().places();
        for place in places {
            let records = self.records(place).await?;
            if self.disk.is_off() {
                return Ok(());
            }
            self.ledger.lock().observe(place, &records, when);
        }
        Ok(())
    }

    pub(super) async fn perform(&mut self, step: Step) {
        if self.disk.is_off() {
            return;
        }
        if let Step::Write(seed) = step {
            return self.write(&mut Chance::new(seed)).await;
        }
        self.disk.set_duckdb_busy(true);
        match step {
            Step::Write(_) => {}
            Step::Flush => self.for_each_partition("a flush", |partition| partition.flush().map(drop)),
            Step::Tidy => self.for_each_partition("sealing", Partition::tidy),
            Step::NextDay => self.clock.set_wall(DAY_MICROS),
            Step::Export => {
                // One that does not end may have removed what the one before wrote.
                self.exported = Some(false);
                let jobs = self.jobs.export(self.jobs.parquet_root(None).expect("a root")).await;
                let settings = self.settings.export(self.settings.parquet_root(None).expect("a root")).await;
                let (jobs, settings) =
                    (self.expected("an export", jobs), self.expected("an export", settings));
                if let (Some(jobs), Some(settings), false) = (jobs, settings, self.disk.is_off()) {
                    self.exported = Some(jobs.files + settings.files > 0);
                }
            }
            Step::Backup => {
                for (index, storage) in [&self.jobs, &self.settings].into_iter().enumerate() {
                    let taken = self.expected("a backup", storage.backup(None).await).unwrap_or_default();
                    if !self.disk.is_off() {
                        let taken = taken.iter().map(|manifest| (manifest.backup, manifest.seq));
                        self.backed_up[index].extend(taken);
                    }
                }
            }
            Step::Close => {
                self.is_closed = true;
                self.expected("closing", self.close().await);
            }
        }
        self.disk.set_duckdb_busy(false);
    }

    /// What came of something that must not fail as long as nothing went wrong.
    fn expected<T, E: std::fmt::Display>(&self, what: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| {
                if self.disk.is_sound() {
                    self.ledger.lock().problem(format!("WRONG: {what} failed on a sound disk: {error}"));
                }
            })
            .ok()
    }

    fn for_each_partition<E: std::fmt::Display>(
        &self,
        what: &str,
        work: impl Fn(&Partition) -> Result<(), E>,
    ) {
        for storage in [&self.jobs, &self.settings] {
            let mut partitions = storage.open_partitions();
            partitions.sort_by_key(|partition| partition.date());
            for partition in partitions {
                let disk = self.disk.clone();
                let done = block_in_place(|| {
                    planted::with_steps(move || disk.step_of_duckdb(), || work(&partition))
                });
                self.expected(what, done);
            }
        }
    }

    /// Closes both storages as the daemon does when it stops.
    pub(super) async fn close(&self) -> Result<(), String> {
        let jobs = self.jobs.close().await;
        let settings = self.settings.close().await;
        jobs.and(settings).map_err(|error| error.to_string())
    }

    /// A submission of one to four requests to one partition.
    async fn write(&self, chance: &mut Chance) {
        let [first, second] = dates();
        let place = chance.one_of(&[Some(first), Some(first), Some(second), None, None, None]);
        let partition = match self.partition(place, true).await {
            Ok(partition) => partition.expect("one for a write"),
            Err(error) => {
                self.expected::<(), _>("opening a partition", Err(error));
                return;
            }
        };
        let mut submission = Submission { sync: chance.percent(85), ..Submission::default() };
        let mut numbers = Vec::new();
        let mut units = 1 + chance.below(4);
        if partition.is_empty() {
            // It stays, so that no table is ever empty again.
            units -= 1;
            numbers.push(self.unit(&mut submission, place, &[("keep", None, Some(0))], false));
        }
        for _ in 0..units {
            let pad = chance.one_of(&[0, 0, 20, 20, 100, 700, 2500]) * self.knobs.length;
            let key = format!("k{}", chance.below(6));
            let name = chance.one_of(&[None, Some("c")]);
            match chance.below(10) {
                0 | 1 => numbers.push(self.unit(&mut submission, place, &[(&key, name, None)], false)),
                2 => {
                    let count = self.ledger.lock().count();
                    let keys: Vec<_> = (0..2 + chance.below(4)).map(|n| format!("b{count}-{n}")).collect();
                    let ops: Vec<_> = keys.iter().map(|key| (key.as_str(), name, Some(pad))).collect();
                    numbers.push(self.unit(&mut submission, place, &ops, true));
                }
                _ => numbers.push(self.unit(&mut submission, place, &[(&key, name, Some(pad))], false)),
            }
        }
        self.submit(&partition, submission, numbers).await;
    }

    /// Adds a request; answers the numbers of its writes.
    fn unit(
        &self,
        submission: &mut Submission,
        place: Place,
        ops: &[(&str, Option<&str>, Option<usize>)],
        is_batch: bool,
    ) -> Vec<usize> {
        let mut ledger = self.ledger.lock();
        ledger.begin_unit(is_batch);
        let first = submission.writes.len();
        let mut numbers = Vec::new();
        for (key, name, pad) in ops {
            let n = ledger.count();
            let text = |length: usize| -> String {
                (0..length).map(|i| char::from(b'a' + ((n + i) % 26) as u8)).collect()
            };
            let data = pad.map(|pad| format!("{{\"n\":{n},\"pad\":\"{}\"}}", text(pad)));
            numbers.push(ledger.send(place, key, *name, data.as_deref()));
            let names = match place {
                Some(_) => Names::Dated { process_name: *name },
                None => Names::Collection { collection_name: name.unwrap_or(""), item_name: "" },
            };
            let now = self.clock.now();
            let record = Record::new(&Columns {
                key,
                names,
                data: data.as_deref().unwrap_or(""),
                value: None,
                timestamp: Some(now),
                status: None,
                status_int: None,
                username: None,
                updated_at: now,
                seq: 0,
                deleted: data.is_none(),
                writer: None,
            });
            submission.push(record, None);
        }
        submission.end_unit(first, is_batch);
        numbers
    }

    async fn submit(&self, partition: &Arc<Partition>, submission: Submission, numbers: Vec<Vec<usize>>) {
        let sync = submission.sync;
        let flat = numbers.iter().flatten().copied();
        let writes: Vec<_> = flat.zip(submission.writes.iter().map(|write| write.record.clone())).collect();
        if sync {
            self.in_flight.lock().0 = Some((Arc::clone(partition), writes.clone()));
        }
        let (disk, in_flight, ledger) =
            (self.disk.clone(), Arc::clone(&self.in_flight), Arc::clone(&self.ledger));
        let of_reply = Arc::clone(partition);
        let reply = Reply::new(move |results| {
            in_flight.lock().0 = None;
            // After the crash nobody is answered.
            if disk.is_off() {
                return;
            }
            let results: Vec<UnitResult> = results.unwrap_or_default();
            let mut ledger = ledger.lock();
            let all_done = results.len() == numbers.len()
                && results.iter().all(|result| matches!(result, UnitResult::Done(_)));
            if !all_done && disk.is_sound() {
                ledger.problem(format!("WRONG: refused on a sound disk: {results:?}"));
            }
            for (numbers, result) in numbers.iter().zip(&results) {
                note(&mut ledger, numbers, result, sync);
            }
            let newest = |record: &Record| {
                writes
                    .iter()
                    .rev()
                    .find(|(_, other)| other.key() == record.key() && other.has_names_of(record))
            };
            for (number, record) in &writes {
                let is_newest = newest(record).is_some_and(|(other, _)| other == number);
                if is_newest && ledger.is_there(*number) && !shows(&of_reply, record) {
                    ledger.problem(format!("WRONG: {} is answered and not read", brief(record)));
                }
            }
        });
        partition.submit_with(submission, reply).await;
    }

    /// After a fault: a storage takes writes again by itself, unless its log `may_be_closed`.
    pub(super) async fn check_resumes(&self, may_be_closed: bool) {
        if self.is_closed {
            return;
        }
        let begun = Instant::now();
        for place in [Some(dates()[0]), None] {
            loop {
                let opened = self.partition(place, true).await;
                if let Ok(Some(partition)) = opened {
                    if let Some(reason) = partition.read_only_reason() {
                        if !may_be_closed {
                            let problem = format!("WRONG: {place:?} is read-only: {reason}");
                            self.ledger.lock().problem(problem);
                        }
                        break;
                    }
                    let mut submission = Submission { sync: true, ..Submission::default() };
                    let numbers = self.unit(&mut submission, place, &[("again", None, Some(10))], false);
                    let number = numbers[0];
                    self.submit(&partition, submission, vec![numbers]).await;
                    if self.ledger.lock().is_there(number) {
                        break;
                    }
                }
                if begun.elapsed() > PATIENCE {
                    return self.ledger.lock().problem(format!("WRONG: {place:?} takes no writes any more"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Backups that were answered are there and whole.
    pub(super) async fn check_backups(&self, answered: &[Backups; 2]) {
        for (storage, answered) in [&self.jobs, &self.settings].into_iter().zip(answered) {
            let found = storage.list_backups().unwrap_or_default();
            let found: Backups = found.iter().map(|one| (one.manifest.backup, one.manifest.seq)).collect();
            for (name, seq) in answered {
                // A later one of the same name takes its place.
                if found.get(name).is_none_or(|found| found < seq) {
                    let problem = format!("LOST: the backup {name} of {}", storage.config().name);
                    self.ledger.lock().problem(format!("{problem} up to {seq}; there is {found:?}"));
                }
            }
            for name in found.keys() {
                if let Err(error) = storage.verify_backup(&name.to_string()).await {
                    self.ledger.lock().problem(format!("WRONG: the backup {name}: {error}"));
                }
            }
        }
    }

    /// Ends the process, so to speak: nothing is flushed any more.
    pub(super) fn end(self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }
}
