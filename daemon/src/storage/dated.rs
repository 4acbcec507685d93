//! A dated storage: a partition per date, opened when first used and closed again when idle.
//!
//! Invariant: at most one open [`Partition`] per date. A date's slot is locked while its partition is
//! opened or closed, so whoever comes meanwhile waits for the outcome.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpersist_protocol::time::Date;
use parking_lot::Mutex;

use super::StorageError;
use super::partition::{FlushError, Layout, OpenError, Partition, Shared};
use super::querying::Held;
use crate::config::StorageConfig;
use crate::disk;
use crate::duck::Files;
use crate::duck::query::{Borrowed, Running};
use crate::latch::Latch;
use crate::stats::StorageStats;
use crate::wal::recover::RecoverError;
use crate::wal::{Place, segment};

/// How long a date stays open without being used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How soon to look again for a date that can be closed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long whoever opens a date waits before queries that hold others are made to begin again.
const QUERY_PATIENCE: Duration = Duration::from_millis(50);

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Partition>>>>;

/// The partitions of a dated storage.
#[derive(Debug)]
pub struct Dated {
    config: Arc<StorageConfig>,
    shared: Arc<Shared>,
    stats: Arc<StorageStats>,
    slots: Mutex<HashMap<Date, Slot>>,
    /// The same partitions, for whoever must not wait for a slot.
    open: Mutex<HashMap<Date, Arc<Partition>>>,
    /// Dates that were closed and not exported since.
    unexported: Mutex<BTreeSet<Date>>,
    /// One for all dates: when one log fails, the storage takes no more writes.
    latch: Arc<Latch>,
}

/// A file in a date's directory that tells the last record, and that everything up to it is in the
/// database file. It is removed before the date is opened, so it is never there wrongly; without it the
/// date is opened at the start, to find out.
const SETTLED_FILE: &str = "settled";

impl Dated {
    /// Opens the storage, and every date whose log may have something unflushed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn open(
        config: &Arc<StorageConfig>,
        shared: &Arc<Shared>,
        stats: &Arc<StorageStats>,
    ) -> Result<Self, OpenError> {
        let dated = Self {
            config: Arc::clone(config),
            shared: Arc::clone(shared),
            stats: Arc::clone(stats),
            slots: Mutex::default(),
            open: Mutex::default(),
            unexported: Mutex::default(),
            latch: Arc::default(),
        };
        let io_error = |source| {
            let file = config.base_dir.display().to_string();
            OpenError::Wal(RecoverError::Io { file, source })
        };
        for name in shared.disk.list(&config.base_dir).map_err(io_error)? {
            let Some(date) = Date::parse(&name) else { continue };
            if dated.has_log(date).map_err(io_error)? && !dated.is_settled(date) {
                let partition = match dated.open_blocking(date) {
                    Ok(partition) => partition,
                    Err(error) if error.is_in_use() => {
                        // Somebody reads the file; the date is opened when it is needed.
                        tracing::warn!(storage = %config.name, %date, %error, "a date stays closed for now");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let slot = Arc::new(tokio::sync::Mutex::new(Some(Arc::clone(&partition))));
                dated.slots.lock().insert(date, slot);
                dated.open.lock().insert(date, partition);
            }
        }
        Ok(dated)
    }

    fn directory(&self, date: Date) -> PathBuf {
        self.config.base_dir.join(date.to_string())
    }

    fn has_log(&self, date: Date) -> io::Result<bool> {
        let names = self.shared.disk.list(&self.directory(date))?;
        Ok(names.iter().any(|name| segment::number_of(name).is_some()))
    }

    fn has_database(&self, date: Date) -> bool {
        self.config.database_path(&date.to_string()).exists()
    }

    fn is_settled(&self, date: Date) -> bool {
        self.directory(date).join(SETTLED_FILE).exists()
    }

    /// Notes that a date was closed with everything in its database file. Without the note the next start
    /// only takes longer.
    fn note_settled(&self, partition: &Partition) {
        let (Some(date), Some(seq)) = (partition.date(), partition.settled_seq()) else { return };
        let file = self.directory(date).join(SETTLED_FILE);
        if let Err(error) = disk::write_durably(&*self.shared.disk, &file, format!("{seq}\n").as_bytes()) {
            tracing::debug!(storage = %self.config.name, %date, %error, "a date could not be noted as settled");
        }
    }

    /// Takes the note away; answers the last record that it told.
    fn forget_settled(&self, date: Date) -> io::Result<Option<u64>> {
        let directory = self.directory(date);
        let file = directory.join(SETTLED_FILE);
        let noted = match self.shared.disk.read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            noted => noted?,
        };
        self.shared.disk.remove(&file)?;
        self.shared.disk.sync_dir(&directory)?;
        Ok(std::str::from_utf8(&noted).ok().and_then(|text| text.trim().parse().ok()))
    }

    /// Removes the log's old segments of dates that are closed and settled; answers how many.
    ///
    /// # Errors
    /// When a directory cannot be listed or a file cannot be removed.
    pub fn remove_old_segments(&self) -> io::Result<u64> {
        let mut removed = 0;
        for name in self.shared.disk.list(&self.config.base_dir)? {
            let Some(date) = Date::parse(&name) else { continue };
            let slot = self.slots.lock().get(&date).cloned();
            // Nobody opens it meanwhile.
            let held = slot.as_ref().map(|slot| slot.try_lock());
            let is_closed = held.as_ref().is_none_or(|held| held.as_ref().is_ok_and(|open| open.is_none()));
            if is_closed && self.is_settled(date) {
                removed += self.remove_segments_of(date)?;
            }
        }
        Ok(removed)
    }

    fn remove_segments_of(&self, date: Date) -> io::Result<u64> {
        let mut removed = 0;
        let now = self.shared.clock.system_time();
        let directory = self.directory(date);
        for name in self.shared.disk.list(&directory)? {
            let path = directory.join(&name);
            if segment::number_of(&name).is_none() {
                continue;
            }
            let modified = std::fs::metadata(&path)?.modified()?;
            if now.duration_since(modified).is_ok_and(|age| age >= self.config.wal_retain) {
                self.shared.disk.remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Dates that were closed since they were last exported; they count as exported from now on.
    pub fn take_unexported(&self) -> Vec<Date> {
        std::mem::take(&mut *self.unexported.lock()).into_iter().collect()
    }

    /// A date is exported.
    pub fn note_exported(&self, date: Date) {
        self.unexported.lock().remove(&date);
    }

    /// Closes a partition when the daemon stops.
    ///
    /// # Errors
    /// When the last flush fails; the records are still in the log.
    pub fn close(&self, partition: &Partition) -> Result<(), FlushError> {
        partition.close()?;
        self.note_settled(partition);
        Ok(())
    }

    fn open_blocking(&self, date: Date) -> Result<Arc<Partition>, OpenError> {
        let directory = self.directory(date);
        let settled_seq = self
            .forget_settled(date)
            .map_err(|source| RecoverError::Io { file: directory.display().to_string(), source })?;
        let layout = Layout {
            date: Some(date),
            place: Place::Fixed(directory.clone()),
            wal_directories: vec![directory],
            files: Files::Dated { data: self.config.database_path(&date.to_string()) },
            settled_seq,
        };
        let (config, shared, stats) = (&self.config, &self.shared, &self.stats);
        Partition::open(
            layout,
            Arc::clone(config),
            Arc::clone(shared),
            Arc::clone(stats),
            Arc::clone(&self.latch),
        )
    }

    /// The date's partition, opened where it is not open.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn partition(&self, date: Date) -> Result<Arc<Partition>, StorageError> {
        if let Some(partition) = self.open.lock().get(&date) {
            partition.touch();
            return Ok(Arc::clone(partition));
        }
        let slot = Arc::clone(self.slots.lock().entry(date).or_default());
        let mut open = slot.lock().await;
        if let Some(partition) = &*open {
            partition.touch();
            return Ok(Arc::clone(partition));
        }
        self.make_room().await?;
        let partition = tokio::task::block_in_place(|| self.open_blocking(date))?;
        *open = Some(Arc::clone(&partition));
        self.open.lock().insert(date, Arc::clone(&partition));
        Ok(partition)
    }

    /// The date's partition, `None` where the date has no data: it is not created for a reader.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn existing_partition(&self, date: Date) -> Result<Option<Arc<Partition>>, StorageError> {
        let open = self.open.lock().get(&date).cloned();
        if let Some(partition) = open {
            partition.touch();
            return Ok(Some(partition));
        }
        // A directory that cannot be listed is treated as one that may have data: opening it will tell.
        if !self.has_database(date) && !self.has_log(date).unwrap_or(true) {
            return Ok(None);
        }
        self.partition(date).await.map(Some)
    }

    /// Whether the date is open now.
    pub(super) fn is_open(&self, date: Date) -> bool {
        self.open.lock().contains_key(&date)
    }

    /// Holds a date for a query: its partition where it is open, or has to be because its log may hold what
    /// DuckDB does not; else its database file, attached for the query alone. `None` where it has no data.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub(super) async fn hold(
        &self,
        date: Date,
        running: &Arc<Running>,
    ) -> Result<Option<Held>, StorageError> {
        if !self.is_open(date) && self.is_settled(date) && self.has_database(date) {
            let slot = Arc::clone(self.slots.lock().entry(date).or_default());
            // Nobody opens or closes it meanwhile.
            let open = slot.lock().await;
            if open.is_none() && self.is_settled(date) {
                let path = self.config.database_path(&date.to_string());
                let borrow = || Borrowed::new(&self.shared.engine, path, running);
                let borrowed = tokio::task::block_in_place(borrow).map_err(OpenError::Duck)?;
                return Ok(Some(Held::Attached(borrowed)));
            }
        }
        Ok(self.existing_partition(date).await?.map(Held::Open))
    }

    /// The partitions that are open now.
    pub fn open_partitions(&self) -> Vec<Arc<Partition>> {
        self.open.lock().values().cloned().collect()
    }

    /// The dates that have data, in order.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn dates(&self) -> io::Result<Vec<Date>> {
        let mut dates = Vec::new();
        for name in self.shared.disk.list(&self.config.base_dir)? {
            let Some(date) = Date::parse(&name) else { continue };
            let open = self.open.lock().get(&date).cloned();
            let has_data = match open {
                Some(partition) => !partition.is_empty(),
                None => self.has_database(date) || self.has_log(date)?,
            };
            if has_data {
                dates.push(date);
            }
        }
        Ok(dates)
    }

    /// Closes the date that was not used for the longest time, where the limit is reached; waits for one as
    /// long as a writer waits for room in memory.
    async fn make_room(&self) -> Result<(), StorageError> {
        let max = self.shared.limits.max_open_dates;
        let begun = Instant::now();
        loop {
            let mut open: Vec<_> = {
                let open = self.open.lock();
                open.iter().map(|(date, partition)| (partition.idle_for(), *date)).collect()
            };
            if open.len() < max {
                return Ok(());
            }
            open.sort_unstable();
            let mut closed = false;
            for (_, date) in open.iter().rev() {
                closed = self.close_if_unused(*date, Duration::ZERO).await;
                if closed {
                    break;
                }
            }
            if !closed && begun.elapsed() >= self.shared.limits.busy_wait {
                return Err(StorageError::TooManyDates { open: open.len(), max });
            }
            if !closed && begun.elapsed() >= QUERY_PATIENCE {
                self.shared.engine.runnings().preempt(&self.config.name);
            }
            if !closed {
                // Those in use are so for a moment, mostly: a commit, a look of the keeper.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Closes the dates that nobody has used for a while; answers how many.
    pub async fn close_idle(&self) -> u64 {
        let mut closed = 0;
        let dates: Vec<Date> = self.open.lock().keys().copied().collect();
        for date in dates {
            closed += u64::from(self.close_if_unused(date, IDLE_TIMEOUT).await);
        }
        closed
    }

    /// Closes a date's partition, unless somebody holds it or used it lately; answers whether it did.
    async fn close_if_unused(&self, date: Date, idle: Duration) -> bool {
        let Some(slot) = self.slots.lock().get(&date).cloned() else { return false };
        // A slot that is locked is being opened, or closed already.
        let Ok(mut open) = slot.try_lock() else { return false };
        let Some(partition) = &*open else { return false };
        let partition = {
            let mut map = self.open.lock();
            // The slot's, the map's, and nobody else's.
            if Arc::strong_count(partition) > 2 || partition.idle_for() < idle {
                return false;
            }
            map.remove(&date);
            Arc::clone(partition)
        };
        let closed = Arc::clone(&partition);
        let closing = tokio::task::spawn_blocking(move || partition.close());
        match closing.await {
            Ok(Ok(())) => self.note_settled(&closed),
            Ok(Err(error)) => {
                // Nothing is lost: opening it again replays the log.
                tracing::warn!(storage = %self.config.name, %date, %error, "a date was closed without a flush");
            }
            Err(_) => tracing::error!(storage = %self.config.name, %date, "closing a date panicked"),
        }
        self.unexported.lock().insert(date);
        *open = None;
        true
    }
}
