//! Backups: whole copies of a partition's database files, each with a manifest that says what is in it.
//!
//! A backup of a collection stands in the directory of its day; a date of a dated storage has one, in its
//! own directory. [`take`] makes one while writes go on, [`verify`] reads it again, [`retention`] says which
//! are old, [`manifest`] which there are. When any of this happens is for the storage to say, which also sees
//! to it that only one of them is at work.
//!
//! Invariant: a backup counts only through its manifest, and that is written when the copy was opened and
//! compared with what it was copied from.

pub mod manifest;
pub mod retention;
pub mod take;
#[cfg(test)]
mod tests;
pub mod verify;

use std::io;
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::Date;

use crate::disk;
use crate::duck::DuckError;
use crate::storage::StorageError;
use crate::storage::partition::FlushError;
use manifest::ManifestError;

/// How the name of a backup's database file ends.
pub const FILE_SUFFIX: &str = ".backup";

/// Why there is no backup, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The storage takes no backups.
    #[error(
        "storage {storage:?} takes no backups; set storage.{storage}.backup = true and restart the daemon"
    )]
    Off {
        /// The storage.
        storage: String,
    },
    /// A date without data.
    #[error("{date} has no data, so there is nothing to back up")]
    NoData {
        /// The date.
        date: Date,
    },
    /// There is none of that name.
    #[error("there is no backup {name:?}; list_backups tells which there are")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It is not what its manifest says.
    #[error("the backup {name} is damaged and is not used any more: {what}; take a new one")]
    Damaged {
        /// The backup.
        name: String,
        /// What differs.
        what: String,
    },
    /// The copy was read again and is not what was copied.
    #[error("the copy differs from its source and was thrown away: {what}")]
    Differs {
        /// What differs.
        what: String,
    },
    /// There is too little room.
    #[error(
        "only {free_bytes} bytes are free, the backup may need {needed_bytes}; make room or lower retain_days"
    )]
    NoRoom {
        /// What is free.
        free_bytes: u64,
        /// What must be.
        needed_bytes: u64,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest could not be read or written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// DuckDB failed.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// What is in memory could not be flushed first.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// A partition cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The thread failed.
    #[error("the backup's thread failed: {0}")]
    Thread(io::Error),
}

impl BackupError {
    fn io(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, source }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } | Self::Manifest(ManifestError::Io { source, .. }) => {
                disk::is_full(source)
            }
            Self::Duck(error) => error.is_full(),
            _ => false,
        }
    }
}
