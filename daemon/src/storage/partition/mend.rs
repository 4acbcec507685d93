//! Mending while the partition is open: the history from the log, the latest values from the history.
//!
//! Invariant: each changes one table in one transaction, between two flushes; writes go on meanwhile, and
//! memory never contradicts what the tables say afterwards.

use std::path::PathBuf;
use std::sync::Arc;

use fastpersist_protocol::time::Date;

use super::{FlushError, Partition};
use crate::duck::{DuckError, Files, FilledIn, Store};
use crate::storage::producers::Mark;
use crate::storage::record::Record;
use crate::wal::scan;

/// Why a table was not mended. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// The storage has no history.
    #[error("{storage:?} is a dated storage, which has no history; this is for collection storages")]
    Dated {
        /// The storage.
        storage: String,
    },
    /// The day has no log.
    #[error(
        "there is no WAL of {date}; days whose segments are kept have a directory with wal_… files in it"
    )]
    NoLog {
        /// The day.
        date: Date,
    },
    /// The day's log is damaged.
    #[error(
        "{} is damaged at byte {offset}: {reason}; nothing was changed. Stop the daemon, and `fastpersist repair` says what would be lost", file.display()
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where the damage begins.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A segment cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The segment.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is in memory could not be flushed first.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// DuckDB failed.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// The thread failed.
    #[error("the thread failed")]
    Gone,
}

impl Partition {
    fn collection_files(&self) -> Result<(&PathBuf, &PathBuf), MendError> {
        match &self.files {
            Files::Collection { history, latest } => Ok((history, latest)),
            Files::Dated { .. } => Err(MendError::Dated { storage: self.config.name.clone() }),
        }
    }

    /// Inserts into the history what the WAL of a day has and the history has not. Blocks for as long as it
    /// takes.
    ///
    /// # Errors
    /// See [`MendError`].
    pub fn rebuild_history_from_wal(&self, date: Date) -> Result<FilledIn, MendError> {
        self.collection_files()?;
        self.flush()?;
        let _turn = self.flush_turn.lock();
        let directory = self.config.base_dir.join(date.to_string());
        let mut segments = self.wal.lock().segments();
        segments.retain(|(file, _)| file.parent() == Some(&*directory));
        let (false, Some(store)) = (segments.is_empty(), self.store()) else {
            return Err(MendError::NoLog { date });
        };
        let mut segments = segments.into_iter();
        let mut marks = Vec::new();
        let filled = store.fill_history(&mut || {
            segments.next().map(|(file, length)| self.records_of(file, length, &mut marks)).transpose()
        })?;
        self.fill_producers(&store, marks)?;
        Ok(filled)
    }

    /// Writes down how far producers have come that the history knew nothing, or less, of.
    fn fill_producers(&self, store: &Store, marks: Vec<(Arc<str>, Mark)>) -> Result<(), MendError> {
        let flushed_seq = store.flushed_seq();
        let mut memtable = self.memtable.write();
        let producers = memtable.producers_mut();
        let mut changed: Vec<_> = marks
            .into_iter()
            // What is beyond comes with its rows, in the next flush.
            .filter(|(_, mark)| mark.seq <= flushed_seq)
            .filter(|(name, mark)| producers.note(Arc::clone(name), *mark))
            .collect();
        changed.retain(|(name, mark)| producers.mark(name) == Some(mark));
        drop(memtable);
        let changed: Vec<_> = changed.into_iter().map(|(name, mark)| (name, Some(mark))).collect();
        if !changed.is_empty() {
            store.write_producers(&changed)?;
        }
        Ok(())
    }

    /// The records of a segment's first `length` bytes, which are whole lines; `marks` gets their producers.
    fn records_of(
        &self,
        file: PathBuf,
        length: u64,
        marks: &mut Vec<(Arc<str>, Mark)>,
    ) -> Result<Vec<Record>, MendError> {
        let bytes = match self.shared.disk.read(&file) {
            Ok(bytes) => bytes,
            Err(source) => return Err(MendError::Io { file, source }),
        };
        // A segment that was sealed meanwhile may have been trimmed, but never below its lines.
        let bytes = &bytes[..bytes.len().min(length as usize)];
        let mut records = Vec::new();
        let scanned = scan::scan(bytes, self.config.model(), None, 0, |mut entry| {
            marks.extend(entry.mark());
            records.append(&mut entry.records);
        });
        let damaged = |offset, reason| MendError::Damaged { file: file.clone(), offset, reason };
        let end = scanned.map_err(|damage| damaged(damage.offset, damage.reason))?;
        if end.torn {
            return Err(damaged(end.valid_bytes, "this line is not readable".to_owned()));
        }
        Ok(records)
    }

    /// Makes the latest values anew from the history; answers how many there are. Memory forgets what it had
    /// from the old ones, and has to be [filled](Self::fill) again. Blocks for as long as it takes.
    ///
    /// # Errors
    /// See [`MendError`].
    pub fn rebuild_latest_from_history(&self) -> Result<u64, MendError> {
        let (_, latest) = self.collection_files()?;
        let _filling = self.fill_turn.lock();
        let flushed = match self.flush() {
            // That it cannot be written may be why it is to be made anew.
            Err(FlushError::Duck(error)) if error.is_damage() && error.file() == Some(latest) => false,
            flushed => flushed.map(|_| true)?,
        };
        let turn = self.flush_turn.lock();
        let Some(store) = self.store() else { return Ok(0) };
        let rows = store.rebuild_latest()?;
        self.memtable.write().forget_flushed(self.watermarks.flushed());
        self.note_mended(latest);
        drop(turn);
        if !flushed {
            self.flush()?;
        }
        Ok(rows)
    }

    /// Loads memory again, where it is to hold everything. Memory that stays cold is slow, not wrong.
    pub fn refill(&self) {
        if self.must_fill()
            && let Err(error) = self.fill()
        {
            tracing::warn!(storage = %self.config.name, %error, "memory could not be filled from DuckDB");
        }
    }
}
