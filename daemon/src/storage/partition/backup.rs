//! The partition's part in backups: flush, copy, and know how far the newest backup reaches.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use fastpersist_protocol::time::Date;

use super::{Layout, Partition, Shared};
use crate::backup::BackupError;
use crate::backup::manifest::{self, Manifest, ManifestError};
use crate::backup::take::Job;
use crate::config::StorageConfig;

/// How far the newest verified backup reaches, as far as the log has to know.
///
/// While backups are taken and the log is kept for a while, segments with records that no backup has stay
/// whatever their age: then a damaged database can always be made from backup and log.
#[derive(Debug)]
pub(super) struct BackedUp {
    /// Whether the log waits for backups at all.
    binding: bool,
    seq: std::sync::atomic::AtomicU64,
}

impl BackedUp {
    /// As the directories tell it. What an interrupted backup left is tidied up on the way.
    pub(super) fn find(layout: &Layout, config: &StorageConfig, shared: &Shared) -> Self {
        let directories = layout.wal_directories.iter();
        for directory in directories {
            if let Err(error) = manifest::roll_forward(&*shared.disk, directory) {
                tracing::warn!(storage = %config.name, %error, "what an interrupted backup left could not be tidied up");
            }
        }
        let binding = waits_for_backups(config);
        let seq = if binding { backed_up_seq(layout.date, config, shared) } else { 0 };
        Self { binding, seq: seq.into() }
    }

    /// The last record of which the log may let go, as far as backups are concerned.
    pub(super) fn bound(&self) -> u64 {
        if self.binding { self.seq.load(Ordering::Acquire) } else { u64::MAX }
    }
}

/// Whether segments wait for a backup before they may go.
pub(in crate::storage) fn waits_for_backups(config: &StorageConfig) -> bool {
    config.backup && !config.wal_retain.is_zero()
}

/// Up to where the newest verified backup reaches; for a date also one that the retention took away.
pub(in crate::storage) fn backed_up_seq(date: Option<Date>, config: &StorageConfig, shared: &Shared) -> u64 {
    let seq = |found: manifest::Found| found.manifest.seq;
    let found = match date {
        None => manifest::newest_verified(&*shared.disk, &config.base_dir).map(|found| found.map(seq)),
        Some(date) => {
            let found = manifest::find(&*shared.disk, &config.base_dir.join(date.to_string()));
            found.map(|found| found.filter(|found| found.state != manifest::State::Damaged).map(seq))
        }
    };
    found.unwrap_or_else(|error: ManifestError| {
        tracing::warn!(storage = %config.name, %error, "a backup's manifest cannot be used; the log is kept");
        None
    })
    .unwrap_or(0)
}

impl Partition {
    /// Flushes, and takes a backup of all that is in DuckDB then, of a collection under the name of `day`; `None` where nothing was ever written. Writes,
    /// reads and flushes go on meanwhile. Blocks for as long as it takes; the caller sees to it that only one
    /// runs.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub(in crate::storage) fn back_up(&self, day: Date) -> Result<Option<Manifest>, BackupError> {
        self.flush()?;
        let Some(store) = self.store() else { return Ok(None) };
        let job = Job {
            disk: &*self.shared.disk,
            clock: &*self.shared.clock,
            engine: &self.shared.engine,
            config: &self.config,
            name: self.date.unwrap_or(day),
            files: &self.files,
        };
        self.backing_up.store(true, Ordering::Release);
        // Between two halves of a flush there is a state that never was.
        let snapshot = |copies: &[PathBuf]| {
            let _turn = self.flush_turn.lock();
            store.snapshot(copies)
        };
        let run = std::panic::AssertUnwindSafe(|| job.run(snapshot));
        let panicked = |_| Err(BackupError::Thread(std::io::Error::other("it panicked")));
        let taken = std::panic::catch_unwind(run).unwrap_or_else(panicked);
        self.backing_up.store(false, Ordering::Release);
        self.settle();
        let manifest = taken?;
        self.look_for_backups();
        Ok(Some(manifest))
    }

    /// Looks again how far the newest verified backup reaches.
    pub(in crate::storage) fn look_for_backups(&self) {
        if self.backed_up.binding {
            let seq = backed_up_seq(self.date, &self.config, &self.shared);
            self.backed_up.seq.store(seq, Ordering::Release);
        }
    }

    /// The last record that was written, flushed or not.
    pub(in crate::storage) fn appended_seq(&self) -> u64 {
        self.watermarks.appended()
    }

    /// The last record up to which the log's segments may go: none while a database file may be damaged, for
    /// then the log is what it is rebuilt from.
    pub(super) fn unneeded_seq(&self) -> u64 {
        if self.is_suspect() {
            return 0;
        }
        self.checkpointed_seq.load(Ordering::Acquire).min(self.backed_up.bound())
    }
}

/// Whether a directory's backup reaches as far as `seq`.
pub(in crate::storage) fn is_covered(shared: &Shared, directory: &Path, seq: u64) -> bool {
    let found = manifest::find(&*shared.disk, directory).ok().flatten();
    found.is_some_and(|found| found.state != manifest::State::Damaged && found.manifest.seq >= seq)
}
