//! What DuckDB says when it reads or writes, and whether it means that a file is damaged.
//!
//! Invariant: while anything is suspect, the log is kept whatever its age. Damage is noted beside the file, so
//! that the next start rebuilds it although it opens.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::{Partition, notes};
use crate::duck::DuckError;

impl Partition {
    /// DuckDB could not read or write what it should have.
    pub(in crate::storage) fn note_trouble(&self, error: &DuckError) {
        if says_something(error) {
            self.suspect.store(true, Ordering::Relaxed);
        }
        notes::note_damage(&self.shared, error);
    }

    /// Whether DuckDB could not read something, since the start or before it.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// A file was made anew while the partition is open. What was said of it is no longer true.
    pub(super) fn note_mended(&self, file: &Path) {
        let disk = &*self.shared.disk;
        notes::forget(disk, file);
        if self.files.paths().all(|file| notes::why_suspect(disk, file).is_none()) {
            self.suspect.store(false, Ordering::Relaxed);
        }
    }
}

fn says_something(error: &DuckError) -> bool {
    // A store that was closed or detached meanwhile says nothing about its file.
    !matches!(error, DuckError::Closed { .. } | DuckError::Start { .. }) && !error.is_detached()
}
