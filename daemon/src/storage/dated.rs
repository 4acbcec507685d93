//! A dated storage: a partition per date, opened when first used and closed again when idle.
//!
//! Invariant: at most one open [`Partition`] per date. A date's slot is locked while its partition is
//! opened or closed, so whoever comes meanwhile waits for the outcome.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::Date;
use parking_lot::Mutex;

use super::StorageError;
use super::partition::{Layout, OpenError, Partition, Shared};
use crate::config::StorageConfig;
use crate::duck::Files;
use crate::stats::StorageStats;
use crate::wal::{Place, segment};

/// How long a date stays open without being used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

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
        };
        let io_error = |source| {
            let file = config.base_dir.display().to_string();
            OpenError::Wal(crate::wal::recover::RecoverError::Io { file, source })
        };
        for name in shared.disk.list(&config.base_dir).map_err(io_error)? {
            let Some(date) = Date::parse(&name) else { continue };
            if dated.has_log(date).map_err(io_error)? {
                let partition = dated.open_blocking(date)?;
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

    fn open_blocking(&self, date: Date) -> Result<Arc<Partition>, OpenError> {
        let directory = self.directory(date);
        let layout = Layout {
            date: Some(date),
            place: Place::Fixed(directory.clone()),
            wal_directories: vec![directory],
            files: Files::Dated { data: self.config.database_path(&date.to_string()) },
        };
        let (config, shared, stats) = (&self.config, &self.shared, &self.stats);
        Partition::open(layout, Arc::clone(config), Arc::clone(shared), Arc::clone(stats))
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

    /// Closes the date that was not used for the longest time, where the limit is reached.
    async fn make_room(&self) -> Result<(), StorageError> {
        let max = self.shared.limits.max_open_dates;
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
            if !closed {
                return Err(StorageError::TooManyDates { open: open.len(), max });
            }
        }
    }

    /// Closes the dates that nobody has used for a while.
    pub async fn close_idle(&self) {
        let dates: Vec<Date> = self.open.lock().keys().copied().collect();
        for date in dates {
            self.close_if_unused(date, IDLE_TIMEOUT).await;
        }
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
        let closing = tokio::task::spawn_blocking(move || partition.close());
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // Nothing is lost: opening it again replays the log.
                tracing::warn!(storage = %self.config.name, %date, %error, "a date was closed without a flush");
            }
            Err(_) => tracing::error!(storage = %self.config.name, %date, "closing a date panicked"),
        }
        *open = None;
        true
    }
}
