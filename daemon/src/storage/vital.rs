//! Whether a storage can commit right now: what the watchdog asks before each of its beats.
//!
//! Invariant: answering takes no lock that is held during disk work, so it never hangs together with the
//! commit that it looks at. A full disk is no obstacle: deletions and reads go on, and a restart frees nothing.

use std::time::Duration;

use super::{Kind, Storage};
use crate::latch::Astray;

/// Why a storage cannot commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The disk does not answer.
    #[error("storage {storage:?}: a commit has been waiting for the disk for {} s", elapsed.as_secs())]
    Hanging {
        /// The storage.
        storage: String,
        /// For how long.
        elapsed: Duration,
    },
    /// The log failed.
    #[error("storage {storage:?} takes no writes until a restart: {reason}")]
    ReadOnly {
        /// The storage.
        storage: String,
        /// What failed.
        reason: String,
    },
}

impl Storage {
    /// Why the storage takes no writes, also when none of its dates is open; `None` while it does.
    pub fn read_only_reason(&self) -> Option<String> {
        match &self.kind {
            Kind::Dated(dated) => dated.read_only_reason().map(str::to_owned),
            Kind::Collection(collection) => collection.partition().read_only_reason().map(str::to_owned),
        }
    }

    /// Whether the storage's directory is in place.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn look_at_directory(&self) -> Result<(), Astray> {
        match &self.kind {
            Kind::Dated(dated) => dated.look_at_directory(),
            Kind::Collection(collection) => collection.partition().look_at_directory(),
        }
    }

    /// What keeps the storage from committing: a log that failed, or a commit or sync that has been under way for
    /// longer than `patience`.
    pub fn commit_obstacle(&self, patience: Duration) -> Option<Obstacle> {
        let storage = || self.config.name.clone();
        if let Some(reason) = self.read_only_reason() {
            return Some(Obstacle::ReadOnly { storage: storage(), reason });
        }
        let partitions = self.open_partitions();
        let longest = partitions.iter().filter_map(|partition| partition.committing_for()).max();
        longest
            .filter(|elapsed| *elapsed > patience)
            .map(|elapsed| Obstacle::Hanging { storage: storage(), elapsed })
    }
}
