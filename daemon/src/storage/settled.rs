//! The note that a date was closed with everything in its database file, so that a start need not open it.
//!
//! Invariant: the note is removed before the date is opened, so it is never there wrongly.

use std::io;
use std::path::Path;

use crate::disk::{self, Disk};
use crate::wal::horizon::record_in;

/// A file in a date's directory that tells the last record, and that everything up to it is in the
/// database file. It is removed before the date is opened, so it is never there wrongly; without it the
/// date is opened at the start, to find out.
pub(super) const SETTLED_FILE: &str = "settled";

/// What a settled date's note tells: its last record. One that tells none is logged: opening the date finds
/// out what there is, but not whether that is all.
///
/// # Errors
/// When there is one that cannot be read.
pub fn read_settled(disk: &dyn Disk, directory: &Path) -> io::Result<Option<u64>> {
    match disk.read(&directory.join(SETTLED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk::naming(&directory.join(SETTLED_FILE))(error)),
        Ok(noted) => {
            let seq = record_in(&noted);
            if seq.is_none() {
                let file = directory.join(SETTLED_FILE);
                tracing::warn!(file = %file.display(), "the note tells no record: whether the date's files have all of it is not known");
            }
            Ok(seq)
        }
    }
}

/// Takes a date's note away, so that the next start opens the date; that there is none is no error.
///
/// # Errors
/// When it cannot be removed.
pub fn forget_settled(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    match disk.remove(&directory.join(SETTLED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => disk.sync_dir(directory),
    }
}
