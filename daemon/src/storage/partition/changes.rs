//! A partition's changes, one behind the other: where they are read when they are not in the feed any more.
//!
//! The log first; behind it, for a collection, the history in DuckDB. A dated storage keeps only the latest
//! value of what is flushed, so there the log's oldest segment is where its changes begin.
//!
//! Invariant: a record that the log no longer has is flushed, so between the two there is no gap.

use std::io;

use super::{Partition, ReadError};
use crate::storage::feed::Watching;
use crate::storage::record::Record;
use crate::storage::schema::Model;
use crate::wal::follow::{FollowError, Tail};
use crate::wal::recover;

/// How many places of the history are read at a time: at first, and between these bounds, so that large
/// documents do not fill memory.
const FIRST_WINDOW: u64 = 64;
const MAX_WINDOW: u64 = 8192;
/// A window of so many bytes is large enough; one of more is too large.
const ENOUGH_WINDOW_BYTES: usize = 256 << 10;
const MAX_WINDOW_BYTES: usize = 1 << 20;
/// How often a segment is looked up again that went away meanwhile.
const LOOK_UPS: usize = 5;

/// Why changes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// They are not kept any more.
    #[error(
        "changes are kept from {oldest_seq} on; read the records as they are now, and subscribe from there or without from_seq"
    )]
    Compacted {
        /// The oldest that is kept.
        oldest_seq: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] FollowError),
    /// The log's oldest segment cannot be looked at.
    #[error("the log cannot be read: {0}")]
    Oldest(io::Error),
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] ReadError),
}

/// Where one follower reads; it may be dropped and begun anew at any place.
#[derive(Debug)]
pub struct Cursor {
    tail: Option<Tail>,
    window: u64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { tail: None, window: FIRST_WINDOW }
    }
}

/// What the log has from a place on.
enum InLog {
    Records(Vec<Record>),
    /// It does not have that record; this is the next that it has, where that is known.
    Behind(Option<u64>),
}

impl Partition {
    /// Begins to follow the partition. May wait for a sync to be over.
    pub fn watch(&self) -> Watching {
        let _wal = self.wal.lock();
        let memtable = self.memtable.write();
        // What was flushed before this start was never published in it.
        let published = memtable.published_seq().max(self.watermarks.flushed());
        self.feed.watch(published, self.watermarks.durable())
    }

    /// The records from `from` on, some at a time and at least one; `through` is durable, and not before
    /// `from`. Blocks.
    ///
    /// # Errors
    /// See [`ChangesError`].
    pub fn stored_changes(
        &self,
        from: u64,
        through: u64,
        cursor: &mut Cursor,
    ) -> Result<Vec<Record>, ChangesError> {
        let behind = match self.changes_in_log(from, through, cursor)? {
            InLog::Records(records) => return Ok(records),
            InLog::Behind(seq) => seq,
        };
        let records = self.changes_in_history(from, through, cursor)?;
        match (records.first(), behind) {
            (Some(first), _) if first.seq() == from => Ok(records),
            // What lies between was given up in a repair.
            (_, Some(oldest_seq)) => Err(ChangesError::Compacted { oldest_seq }),
            _ => Err(ChangesError::Compacted { oldest_seq: self.oldest_change(from)? }),
        }
    }

    fn changes_in_log(&self, from: u64, through: u64, cursor: &mut Cursor) -> Result<InLog, ChangesError> {
        loop {
            let (mut tail, looked_up) = match cursor.tail.take() {
                Some(tail) => (tail, false),
                None => match self.tail_at(from)? {
                    Some(tail) => (tail, true),
                    None => return Ok(InLog::Behind(None)),
                },
            };
            let records = tail.read(self.config.model(), from, through)?;
            match records.first() {
                Some(first) if first.seq() == from => {
                    cursor.tail = Some(tail);
                    return Ok(InLog::Records(records));
                }
                // The log has none of those before.
                Some(first) => return Ok(InLog::Behind(Some(first.seq()))),
                None if looked_up => {
                    return Err(tail.damaged(&format!("record {from} should be in it")).into());
                }
                // The segment is over, or was written anew under the same name.
                None => {}
            }
        }
    }

    /// The segment in which a record is; `None` where the log does not reach back to it.
    fn tail_at(&self, seq: u64) -> Result<Option<Tail>, ChangesError> {
        for _ in 0..LOOK_UPS {
            let Some(path) = self.wal.lock().segment_of(seq) else { break };
            match Tail::open(&path) {
                Ok(tail) => return Ok(Some(tail)),
                // Removed since; then another one begins the log now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let file = path.display().to_string();
                    return Err(FollowError::Io { file, source }.into());
                }
            }
        }
        Ok(None)
    }

    fn changes_in_history(
        &self,
        from: u64,
        through: u64,
        cursor: &mut Cursor,
    ) -> Result<Vec<Record>, ReadError> {
        let through = through.min(self.watermarks.flushed());
        if self.config.model() == Model::Dated || from > through {
            return Ok(Vec::new());
        }
        let until = through.min(from + cursor.window - 1);
        let Some(reader) = self.take_reader()? else { return Ok(Vec::new()) };
        let mut records = self.noting_failure(reader.changes(from, until))?;
        self.readers.lock().push(reader);
        let bytes: usize = records.iter().map(Record::size_bytes).sum();
        if bytes > MAX_WINDOW_BYTES {
            cursor.window = (cursor.window / 4).max(1);
        } else if bytes < ENOUGH_WINDOW_BYTES {
            cursor.window = (cursor.window * 2).min(MAX_WINDOW);
        }
        // Where one is missing, what is behind it must not follow what is before.
        let whole = records.iter().zip(from..).take_while(|(record, seq)| record.seq() == *seq).count();
        if whole > 0 {
            records.truncate(whole);
        }
        Ok(records)
    }

    /// The oldest change at or behind `from` from which on all are kept. Blocks.
    ///
    /// # Errors
    /// See [`ChangesError`].
    pub fn oldest_change(&self, from: u64) -> Result<u64, ChangesError> {
        let log = self.oldest_in_log()?;
        let flushed = self.watermarks.flushed();
        if log <= from || self.config.model() == Model::Dated || flushed < from {
            return Ok(log.max(from));
        }
        let Some(reader) = self.take_reader()? else { return Ok(log) };
        let history = self.noting_failure(reader.oldest_change(from))?;
        self.readers.lock().push(reader);
        Ok(history.map_or(log, |history| history.min(log)))
    }

    fn oldest_in_log(&self) -> Result<u64, ChangesError> {
        for _ in 0..LOOK_UPS {
            let Some(path) = self.wal.lock().oldest_segment() else { break };
            match recover::first_seq(&*self.shared.disk, &path) {
                Ok(Some(seq)) => return Ok(seq),
                Ok(None) => {
                    let reason = "its first line is not readable".to_owned();
                    let file = path.display().to_string();
                    return Err(FollowError::Damaged { file, offset: 0, reason }.into());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ChangesError::Oldest(error)),
            }
        }
        Ok(self.watermarks.durable() + 1)
    }

    fn noting_failure<T>(&self, read: Result<T, crate::duck::DuckError>) -> Result<T, ReadError> {
        if let Err(error) = &read {
            self.note_trouble(error);
        }
        Ok(read?)
    }
}
