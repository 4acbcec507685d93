//! The storages: what the configuration names, and the partitions in which their records live.
//!
//! A request's way through this directory: [`rules`] makes a checked [`record::Record`] of it,
//! [`partition`] puts it into the log and into [`memtable`]. [`dated`] and [`collection`] say which
//! partition that is.

pub mod backups;
pub mod collection;
pub mod dated;
pub mod exported;
pub mod exporting;
#[cfg(test)]
pub(crate) mod faults;
pub mod feed;
mod group;
pub mod health;
mod keeping;
pub mod memtable;
pub mod partition;
pub mod producers;
pub mod querying;
pub mod record;
pub mod rules;
pub mod schema;
pub mod settled;
pub mod vital;
pub mod watch;
#[cfg(test)]
mod week;

use std::sync::Arc;

use fastpersist_protocol::time::Date;

use crate::config::StorageConfig;
use crate::duck::FilledIn;
use crate::schedule;
use crate::stats::StorageStats;
use collection::Collection;
use dated::Dated;
use partition::{FlushError, Gauges, MendError, OpenError, Partition, Shared};

/// Why a partition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It does not open.
    #[error("the partition cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// Too many dates are in use.
    #[error("{open} dates are in use and limits.max_open_dates is {max}; try again later")]
    TooManyDates {
        /// Dates in use.
        open: usize,
        /// The limit.
        max: usize,
    },
    /// Opening panicked.
    #[error("the partition cannot be opened: the thread failed")]
    Gone,
}

/// One storage.
#[derive(Debug)]
pub struct Storage {
    config: Arc<StorageConfig>,
    shared: Arc<Shared>,
    stats: Arc<StorageStats>,
    kind: Kind,
    /// Held for the whole of an export, so that there is one at a time.
    export_turn: tokio::sync::Mutex<()>,
    /// Held for the whole of a backup, so that there is one at a time.
    backup_turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
enum Kind {
    Dated(Arc<Dated>),
    Collection(Collection),
}

impl Storage {
    /// Opens a storage and recovers whatever its last run left unflushed.
    ///
    /// Blocks for as long as recovery takes. Must run inside the runtime.
    ///
    /// # Errors
    /// When a partition needs a person: see [`OpenError`].
    pub fn open(config: StorageConfig, shared: &Arc<Shared>) -> Result<Self, OpenError> {
        let config = Arc::new(config);
        let stats = Arc::new(StorageStats::default());
        let kind = match config.model() {
            schema::Model::Dated => Kind::Dated(Arc::new(Dated::open(&config, shared, &stats)?)),
            schema::Model::Collection => Kind::Collection(Collection::open(&config, shared, &stats)?),
        };
        Ok(Self {
            config,
            stats,
            kind,
            export_turn: tokio::sync::Mutex::default(),
            backup_turn: Arc::default(),
            shared: Arc::clone(shared),
        })
    }

    /// The storage's configuration.
    pub fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// The storage's counters.
    pub fn stats(&self) -> &StorageStats {
        &self.stats
    }

    /// Today, by the storage's clock.
    pub fn today(&self) -> Date {
        schedule::day_of(self.shared.clock.now(), self.config.timezone)
    }

    /// The partition for a write. `date` is given for a dated storage only.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn partition_for_write(&self, date: Option<Date>) -> Result<Arc<Partition>, StorageError> {
        match &self.kind {
            Kind::Dated(dated) => dated.partition(date.unwrap_or_else(|| self.today())).await,
            Kind::Collection(collection) => Ok(Arc::clone(collection.partition())),
        }
    }

    /// The partition for a read; `None` for a date without data, which is not created.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub async fn partition_for_read(
        &self,
        date: Option<Date>,
    ) -> Result<Option<Arc<Partition>>, StorageError> {
        match &self.kind {
            Kind::Dated(dated) => dated.existing_partition(date.unwrap_or_else(|| self.today())).await,
            Kind::Collection(collection) => Ok(Some(Arc::clone(collection.partition()))),
        }
    }

    /// The dates that have data, in order; none for a collection storage.
    ///
    /// # Errors
    /// When the storage's directory cannot be listed.
    pub fn dates(&self) -> std::io::Result<Vec<Date>> {
        match &self.kind {
            Kind::Dated(dated) => dated.dates(),
            Kind::Collection(_) => Ok(Vec::new()),
        }
    }

    /// The partitions that are open now.
    pub fn open_partitions(&self) -> Vec<Arc<Partition>> {
        match &self.kind {
            Kind::Dated(dated) => dated.open_partitions(),
            Kind::Collection(collection) => vec![Arc::clone(collection.partition())],
        }
    }

    /// The gauges of all open partitions, added up.
    pub fn gauges(&self) -> Gauges {
        self.open_partitions()
            .iter()
            .map(|partition| partition.gauges())
            .fold(Gauges::default(), Gauges::plus)
    }

    fn only_partition(&self) -> Result<Arc<Partition>, MendError> {
        match &self.kind {
            Kind::Collection(collection) => Ok(Arc::clone(collection.partition())),
            Kind::Dated(_) => Err(MendError::Dated { storage: self.config.name.clone() }),
        }
    }

    /// Puts back into a collection's history what the WAL of a day has and the history has not.
    ///
    /// # Errors
    /// See [`MendError`]; nothing has changed then.
    pub async fn rebuild_history_from_wal(&self, date: Date) -> Result<FilledIn, MendError> {
        let partition = self.only_partition()?;
        let work = move || partition.rebuild_history_from_wal(date);
        tokio::task::spawn_blocking(work).await.map_err(|_| MendError::Gone)?
    }

    /// Makes a collection's latest values anew from its history; answers how many there are.
    ///
    /// # Errors
    /// See [`MendError`]; nothing has changed then.
    pub async fn rebuild_latest_from_history(&self) -> Result<u64, MendError> {
        let partition = self.only_partition()?;
        let of_work = Arc::clone(&partition);
        let work = move || of_work.rebuild_latest_from_history();
        let rows = tokio::task::spawn_blocking(work).await.map_err(|_| MendError::Gone)??;
        // Reads find what they need meanwhile; nobody has to wait for it.
        tokio::task::spawn_blocking(move || partition.refill());
        Ok(rows)
    }

    /// Removes old segments of what is closed; open partitions do that themselves.
    ///
    /// # Errors
    /// When a directory cannot be listed or a file cannot be removed.
    async fn remove_old_segments(&self) -> std::io::Result<u64> {
        let Kind::Dated(dated) = &self.kind else { return Ok(0) };
        let dated = Arc::clone(dated);
        let removing = tokio::task::spawn_blocking(move || dated.remove_old_segments());
        removing.await.unwrap_or_else(|_| Err(std::io::Error::other("removing old WAL segments panicked")))
    }

    /// Closes partitions that nobody has used for a while; answers how many.
    async fn close_idle(&self) -> u64 {
        match &self.kind {
            Kind::Dated(dated) => dated.close_idle().await,
            Kind::Collection(_) => 0,
        }
    }

    /// Flushes and closes everything, on shutdown. Every partition is closed, also after an error.
    ///
    /// # Errors
    /// The first flush that failed; its records are still in the log.
    pub async fn close(&self) -> Result<(), FlushError> {
        let mut result = Ok(());
        // A backup that is being taken still reads the files.
        let _turn = self.backup_turn.lock().await;
        for partition in self.open_partitions() {
            let closing = match &self.kind {
                // Noting that the date is settled is two small file operations.
                Kind::Dated(dated) => {
                    let dated = Arc::clone(dated);
                    tokio::task::spawn_blocking(move || dated.close(&partition))
                }
                Kind::Collection(_) => tokio::task::spawn_blocking(move || partition.close()),
            };
            let panicked = |_| Err(FlushError::Thread(std::io::Error::other("closing panicked")));
            let closed = closing.await.unwrap_or_else(panicked);
            if result.is_ok() {
                result = closed;
            }
        }
        result
    }
}
