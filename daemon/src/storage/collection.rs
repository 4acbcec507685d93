//! A collection storage: one partition; its log has a directory per day.

use std::path::PathBuf;
use std::sync::Arc;

use fastpersist_protocol::time::Date;

use super::partition::{Layout, OpenError, Partition, Shared};
use crate::config::StorageConfig;
use crate::duck::Files;
use crate::latch::Latch;
use crate::stats::StorageStats;
use crate::wal::Place;
use crate::wal::recover::RecoverError;

/// The one partition of a collection storage.
#[derive(Debug)]
pub struct Collection {
    partition: Arc<Partition>,
}

impl Collection {
    /// Opens and recovers it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn open(
        config: &Arc<StorageConfig>,
        shared: &Arc<Shared>,
        stats: &Arc<StorageStats>,
    ) -> Result<Self, OpenError> {
        let layout = layout(config, shared)?;
        let partition = Partition::open(
            layout,
            Arc::clone(config),
            Arc::clone(shared),
            Arc::clone(stats),
            Arc::new(Latch::of(config.base_dir.clone())),
        )?;
        Ok(Self { partition })
    }

    /// The partition.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }
}

/// Where a collection's files are.
///
/// # Errors
/// When its directory cannot be listed.
pub fn layout(config: &StorageConfig, shared: &Shared) -> Result<Layout, OpenError> {
    let base = &config.base_dir;
    Ok(Layout {
        date: None,
        place: Place::Daily(base.clone()),
        wal_directories: day_directories(config, shared)?,
        files: Files::Collection {
            history: base.join("storage_history.duckdb"),
            latest: base.join("storage_latest.duckdb"),
        },
        settled_seq: None,
        feed: Arc::default(),
    })
}

/// The directories of days below a `base_dir`, in order.
fn day_directories(config: &StorageConfig, shared: &Shared) -> Result<Vec<PathBuf>, OpenError> {
    let base = &config.base_dir;
    let io_error = |source| RecoverError::Io { file: base.display().to_string(), source };
    let names = shared.disk.list(base).map_err(|source| OpenError::Wal(io_error(source)))?;
    Ok(names.iter().filter(|name| Date::parse(name).is_some()).map(|name| base.join(name)).collect())
}
