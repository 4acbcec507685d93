//! Holding a storage's directory while no daemon runs on it.
//!
//! Invariant: nothing in the directory is touched before its lock is held.

use std::sync::Arc;

use crate::config::{self, Config, Overrides, StorageConfig};
use crate::daemon::{self, DaemonError};
use crate::dir_lock::{DirLock, LockError};
use crate::disk;
use crate::storage::partition::Shared;

/// Why offline work ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The configuration is wrong, or has no such storage.
    #[error("{0}")]
    Config(String),
    /// A daemon runs, or the directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// DuckDB does not start.
    #[error(transparent)]
    Start(#[from] DaemonError),
    /// A person must decide.
    #[error("{0}")]
    Person(String),
    /// A file or stream cannot be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, or with which file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The work itself failed.
    #[error("{0}")]
    Failed(String),
}

impl OfflineError {
    /// For `map_err`: a file that cannot be read or written.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }

    /// The exit code that the protocol promises.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Lock(LockError::Held { .. }) | Self::Person(_) => 78,
            Self::Lock(LockError::Io { .. }) | Self::Io { .. } => 74,
            Self::Start(error) => error.exit_code(),
            Self::Failed(_) => 1,
        }
    }
}

/// A storage that nobody else uses as long as this is held.
pub struct Held {
    /// The storage's configuration.
    pub config: StorageConfig,
    /// Disk, clock and DuckDB.
    pub shared: Arc<Shared>,
    _lock: DirLock,
}

/// Finds the storage, locks its directory and starts DuckDB.
///
/// # Errors
/// See [`OfflineError`].
pub fn hold(overrides: &Overrides, storage: Option<&str>) -> Result<Held, OfflineError> {
    let config = config::load(overrides).map_err(|error| OfflineError::Config(error.to_string()))?;
    let storage = find(&config, storage)?;
    if !storage.base_dir.is_dir() {
        let message = format!("{} is not there; nothing was ever stored", storage.base_dir.display());
        return Err(OfflineError::Config(message));
    }
    disk::set_file_mode_mask();
    let lock = DirLock::acquire(&storage.base_dir)?;
    let shared = daemon::shared(&config.limits, std::slice::from_ref(&lock))?;
    Ok(Held { config: storage, shared, _lock: lock })
}

fn find(config: &Config, name: Option<&str>) -> Result<StorageConfig, OfflineError> {
    let found = match (name, config.storages.as_slice()) {
        (Some(name), storages) => storages.iter().find(|storage| storage.name == name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = config.storages.iter().map(|storage| storage.name.as_str()).collect();
        let names = names.join(", ");
        OfflineError::Config(match name {
            Some(name) => format!("there is no storage {name:?}; there is {names}"),
            None => format!("several storages are configured; --storage names one of {names}"),
        })
    })
}
