//! A dated storage: a partition per date, opened when first used and closed again when idle.
//!
//! Invariant: at most one open [`Partition`] per date. A date's slot is locked while its partition is
//! opened or closed, so whoever comes meanwhile waits for the outcome.

mod closing;
mod room;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use fastpersist_protocol::time::Date;
use parking_lot::Mutex;

use super::StorageError;
use super::feed::{Feed, Watching};
use super::partition::backup::{is_covered, waits_for_backups};
use super::partition::rebuild::Case;
use super::partition::{FlushError, Layout, OpenError, Partition, Shared, notes};
use super::querying::Held;
use super::settled::{SETTLED_FILE, forget_settled, read_settled};
use crate::config::StorageConfig;
use crate::disk;
use crate::duck::Files;
use crate::duck::query::{Borrowed, Running};
use crate::latch::{Astray, Latch};
use crate::stats::StorageStats;
use crate::wal::recover::{self, RecoverError, Told};
use crate::wal::{Place, horizon, segment};

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
    /// How many are being opened or closed; changed while `open` is locked.
    between: Arc<AtomicUsize>,
    /// The feeds of dates that are open or followed.
    feeds: Mutex<HashMap<Date, Weak<Feed>>>,
    /// One for all dates: when one log fails, the storage takes no more writes.
    latch: Arc<Latch>,
}

/// Where a date's files are.
pub fn layout(config: &StorageConfig, date: Date, settled_seq: Option<u64>) -> Layout {
    let directory = config.base_dir.join(date.to_string());
    Layout {
        date: Some(date),
        place: Place::Fixed(directory.clone()),
        wal_directories: vec![directory],
        files: Files::Dated { data: config.database_path(&date.to_string()) },
        settled_seq,
        feed: Arc::default(),
    }
}

fn write_settled_of(config: &StorageConfig, shared: &Shared, partition: &Partition) {
    if let (Some(date), Some(seq)) = (partition.date(), partition.settled_seq()) {
        write_settled(config, shared, date, seq);
    }
}

fn write_settled(config: &StorageConfig, shared: &Shared, date: Date, seq: u64) {
    let file = config.base_dir.join(date.to_string()).join(SETTLED_FILE);
    if let Err(error) = disk::write_durably(&*shared.disk, &file, horizon::note_of(seq).as_bytes()) {
        tracing::debug!(storage = %config.name, %date, %error, "a date could not be noted as settled");
    }
}

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
            between: Arc::default(),
            feeds: Mutex::default(),
            latch: Arc::new(Latch::of(config.base_dir.clone())),
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

    /// A settled date had data, also where its files are gone: that is for opening it to tell.
    fn has_data(&self, date: Date) -> io::Result<bool> {
        Ok(self.has_database(date) || self.is_settled(date) || self.has_log(date)?)
    }

    fn is_settled(&self, date: Date) -> bool {
        self.directory(date).join(SETTLED_FILE).exists()
    }

    /// Notes that a date was closed with everything in its database file. Without the note the next start
    /// only takes longer.
    fn note_settled(&self, partition: &Partition) {
        write_settled_of(&self.config, &self.shared, partition);
    }

    /// The last record that the note tells; `None` where there is none that can be read.
    fn noted_seq(&self, date: Date) -> io::Result<Option<u64>> {
        read_settled(&*self.shared.disk, &self.directory(date))
    }

    /// The dates that go beyond what `is_covered` says of their directory and last record, in order. A date that
    /// is closed is not opened for that: its note tells. One without a note may have anything.
    ///
    /// # Errors
    /// When a directory cannot be listed or a note cannot be read.
    pub(super) fn touched_dates(&self, is_covered: impl Fn(&Path, u64) -> bool) -> io::Result<Vec<Date>> {
        let mut touched = Vec::new();
        for date in self.dates()? {
            let open = self.open.lock().get(&date).cloned();
            let seq = match open {
                Some(partition) => Some(partition.appended_seq()),
                None => self.noted_seq(date)?,
            };
            if seq.is_none_or(|seq| !is_covered(&self.directory(date), seq)) {
                touched.push(date);
            }
        }
        Ok(touched)
    }

    /// Takes the note away; answers the last record that it told.
    fn forget_settled(&self, date: Date) -> io::Result<Option<u64>> {
        let (disk, directory) = (&*self.shared.disk, self.directory(date));
        let settled_seq = read_settled(disk, &directory)?;
        forget_settled(disk, &directory)?;
        Ok(settled_seq)
    }

    /// Removes the log's old segments of dates that are closed and settled; answers how many.
    ///
    /// # Errors
    /// When a directory cannot be listed or a file cannot be removed.
    pub fn remove_old_segments(&self) -> io::Result<u64> {
        self.latch.look_at_directory()?;
        let mut removed = 0;
        for name in self.shared.disk.list(&self.config.base_dir)? {
            let Some(date) = Date::parse(&name) else { continue };
            if !self.is_settled(date) {
                continue;
            }
            // It may have been opened since, which takes the note away.
            let remove = |_: &dyn Fn() -> bool| {
                if self.is_settled(date) { self.remove_segments_of(date) } else { Ok(0) }
            };
            removed += self.while_closed(date, remove).unwrap_or(Ok(0))?;
        }
        Ok(removed)
    }

    fn remove_segments_of(&self, date: Date) -> io::Result<u64> {
        let directory = self.directory(date);
        // The note says how far the database reaches, and so the log; until a backup has that, all of it stays.
        let Some(settled_seq) = self.noted_seq(date)? else { return Ok(0) };
        if waits_for_backups(&self.config) && !is_covered(&self.shared, &directory, settled_seq) {
            return Ok(0);
        }
        let disk = &self.shared.disk;
        // What is gone or damaged is made anew from the log.
        let is_suspect = notes::why_suspect(&**disk, &self.config.database_path(&date.to_string())).is_some();
        if is_suspect || !self.has_database(date) {
            return Ok(0);
        }
        let told = Told { flushed_seq: settled_seq, settled_seq: Some(settled_seq), ..Told::default() };
        let found =
            recover::recover(disk, std::slice::from_ref(&directory), self.config.model(), told, |_| {})
                .map_err(|error| match error {
                    RecoverError::Io { source, .. } => source,
                    damaged @ RecoverError::Damaged { .. } => io::Error::other(damaged.to_string()),
                })?;
        let now = self.shared.clock.system_time();
        let count = horizon::removable(&found.sealed, settled_seq, self.config.wal_retain, now);
        let Some(last) = found.sealed[..count].last() else { return Ok(0) };
        // The note tells how far the file was. Another one may be in its place: `db_path` may be a mount.
        let layout = layout(&self.config, date, Some(settled_seq));
        let case = Case { layout: &layout, config: &self.config, shared: &self.shared };
        if layout.files.paths().any(|file| self.shared.engine.borrowing().has(file)) {
            // To ask it would end the queries that read it. There is time.
            return Ok(0);
        }
        match layout.files.paths().map(|file| case.told_by_file(file)).min().flatten() {
            Some(seq) if seq >= settled_seq => {}
            // That it cannot be read is for others to tell.
            None => return Ok(0),
            Some(seq) => {
                tracing::warn!(storage = %self.config.name, %date, seq, settled_seq,
                    "the log is kept: the date was closed with more records than its database file has");
                return Ok(0);
            }
        }
        horizon::note_removed(&**disk, &directory, last.last_seq)?;
        for segment in &found.sealed[..count] {
            disk.remove(&segment.path)?;
        }
        Ok(count as u64)
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
        let io_error = |source| {
            let file = self.directory(date).display().to_string();
            OpenError::Wal(RecoverError::Io { file, source })
        };
        self.latch.look_at_directory().map_err(|astray| io_error(astray.into()))?;
        let settled_seq = self.forget_settled(date).map_err(io_error)?;
        let opened = Partition::open(
            Layout { feed: self.feed(date), ..layout(&self.config, date, settled_seq) },
            Arc::clone(&self.config),
            Arc::clone(&self.shared),
            Arc::clone(&self.stats),
            Arc::clone(&self.latch),
        );
        if let (Err(_), Some(seq)) = (&opened, settled_seq) {
            // It is as it was. Without the note the next start would have to open it, and could not.
            write_settled(&self.config, &self.shared, date, seq);
        }
        opened
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
        let opened = self.open_in_room(date).await;
        *open = opened.as_ref().ok().cloned();
        drop(open);
        if opened.is_err() {
            self.forget_unused_slot(date, &slot);
        }
        opened
    }

    async fn open_in_room(&self, date: Date) -> Result<Arc<Partition>, StorageError> {
        let _place = self.make_room().await?;
        let partition = tokio::task::block_in_place(|| self.open_blocking(date))?;
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
        // A directory that cannot be listed, or is not there any more, is treated as one that may have data: opening
        // it will tell.
        if self.latch.look_at_directory().is_ok() && !self.has_data(date).unwrap_or(true) {
            return Ok(None);
        }
        self.partition(date).await.map(Some)
    }

    /// Whether the storage's directory is in place.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn look_at_directory(&self) -> Result<(), Astray> {
        self.latch.look_at_directory()
    }

    /// Why the storage takes no writes; `None` while it does.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.latch.reason()
    }

    /// What all partitions share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The date's partition, where it is open.
    pub(super) fn open_partition(&self, date: Date) -> Option<Arc<Partition>> {
        self.open.lock().get(&date).cloned()
    }

    /// Does something while nobody opens the date; `None` where it is open already. Whoever comes to open it
    /// has to wait, so `work` is given a question: whether to go on, which is when nobody has come.
    pub(super) fn while_closed<T>(&self, date: Date, work: impl FnOnce(&dyn Fn() -> bool) -> T) -> Option<T> {
        let slot = Arc::clone(self.slots.lock().entry(date).or_default());
        let open = slot.try_lock().ok()?;
        if open.is_some() {
            return None;
        }
        // The map's and ours; whoever waits holds another one.
        let done = work(&|| Arc::strong_count(&slot) <= 2);
        drop(open);
        self.forget_unused_slot(date, &slot);
        Some(done)
    }

    /// The date's feed. It lives as long as the partition is open or somebody follows it.
    fn feed(&self, date: Date) -> Arc<Feed> {
        let mut feeds = self.feeds.lock();
        if let Some(feed) = feeds.get(&date).and_then(Weak::upgrade) {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed::default());
        feeds.insert(date, Arc::downgrade(&feed));
        feed
    }

    /// Begins to follow a date, with its partition; `None` where the date has no data yet, which then is
    /// not created.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn watch(&self, date: Date) -> Result<(Watching, Option<Arc<Partition>>), StorageError> {
        loop {
            if let Some(partition) = self.existing_partition(date).await? {
                return Ok((super::watch::begin(&partition).await, Some(partition)));
            }
            let slot = Arc::clone(self.slots.lock().entry(date).or_default());
            let open = slot.lock().await;
            if open.is_some() || self.has_database(date) || self.has_log(date).unwrap_or(true) {
                continue;
            }
            // Nobody opens the date while its slot is held.
            let watching = self.feed(date).watch(0, 0);
            drop(open);
            self.forget_unused_slot(date, &slot);
            return Ok((watching, None));
        }
    }

    /// Takes the slot of a date away that nobody opened, so that asking for dates costs no memory.
    fn forget_unused_slot(&self, date: Date, slot: &Slot) {
        let mut slots = self.slots.lock();
        // The map's and ours: nobody is about to open it.
        if Arc::strong_count(slot) == 2 && slot.try_lock().is_ok_and(|open| open.is_none()) {
            slots.remove(&date);
        }
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
                let borrowed = tokio::task::block_in_place(borrow).map_err(OpenError::Duck);
                drop(open);
                self.forget_unused_slot(date, &slot);
                let borrowed = borrowed?;
                return Ok(Some(Held::Attached(borrowed)));
            }
            drop(open);
            self.forget_unused_slot(date, &slot);
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
        self.latch.look_at_directory()?;
        let mut dates = Vec::new();
        for name in self.shared.disk.list(&self.config.base_dir)? {
            let Some(date) = Date::parse(&name) else { continue };
            let open = self.open.lock().get(&date).cloned();
            let has_data = match open {
                Some(partition) => !partition.is_empty(),
                None => self.has_data(date)?,
            };
            if has_data {
                dates.push(date);
            }
        }
        Ok(dates)
    }
}

#[cfg(test)]
mod tests;
