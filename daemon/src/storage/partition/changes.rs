//! A partition's changes, one behind the other: where they are read when they are not in the feed any more.
//!
//! The log first; behind it, for a collection, the history in DuckDB. A dated storage keeps only the latest
//! value of what is flushed, so there the log's oldest segment is where its changes begin.
//!
//! Invariant: a record that the log no longer has is flushed, so between the two there is no gap. What a
//! repair gave up is in neither, and is told as what is not kept.

use std::io;

use super::{Partition, ReadError};
use crate::storage::feed::Watching;
use crate::storage::record::Record;
use crate::storage::schema::Model;
use crate::wal::follow::{FollowError, Lines, Tail};

/// How many places of the history are read at a time: at first, and between these bounds, so that large
/// documents do not fill memory.
const FIRST_WINDOW: u64 = 64;
const MAX_WINDOW: u64 = 8192;
/// A window of so many bytes is large enough; of one of more only the beginning is read.
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

/// What is kept from a place on.
enum Kept {
    /// The records from there on, at least one.
    Records(Vec<Record>),
    /// Not that record; none before this place.
    Behind(u64),
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
        let mut oldest_seq = match self.kept_changes(from, through, cursor)? {
            Kept::Records(records) => return Ok(records),
            Kept::Behind(seq) => seq,
        };
        // What is told must be there: one gap may stand behind another.
        while oldest_seq <= through
            && let Kept::Behind(seq) = self.kept_changes(oldest_seq, through, &mut Cursor::default())?
        {
            oldest_seq = seq;
        }
        Err(ChangesError::Compacted { oldest_seq })
    }

    fn kept_changes(&self, from: u64, through: u64, cursor: &mut Cursor) -> Result<Kept, ChangesError> {
        let in_log = match self.changes_in_log(from, through, cursor)? {
            Kept::Behind(seq) => seq,
            records @ Kept::Records(_) => return Ok(records),
        };
        Ok(match self.changes_in_history(from, through, cursor)? {
            Kept::Behind(seq) => Kept::Behind(seq.min(in_log)),
            records @ Kept::Records(_) => records,
        })
    }

    fn changes_in_log(&self, from: u64, through: u64, cursor: &mut Cursor) -> Result<Kept, ChangesError> {
        loop {
            let (mut tail, looked_up) = match cursor.tail.take() {
                Some(tail) => (tail, false),
                None => match self.tail_at(from)? {
                    Some(tail) => (tail, true),
                    None => return Ok(Kept::Behind(through + 1)),
                },
            };
            match tail.read(self.config.model(), from, through)? {
                Lines::Records(records) => {
                    let first = records.first().map_or(through + 1, Record::seq);
                    if first > from {
                        // The log has none of those before.
                        return Ok(Kept::Behind(first));
                    }
                    cursor.tail = Some(tail);
                    return Ok(Kept::Records(records));
                }
                Lines::Gap(behind) => return Ok(Kept::Behind(behind)),
                Lines::End if looked_up => {
                    return Err(tail.damaged(&format!("record {from} should be in it")).into());
                }
                // The segment is over, or was written anew under the same name.
                Lines::End => {}
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

    fn changes_in_history(&self, from: u64, through: u64, cursor: &mut Cursor) -> Result<Kept, ReadError> {
        let nothing = Kept::Behind(through + 1);
        let flushed = through.min(self.watermarks.flushed());
        if self.config.model() == Model::Dated || from > flushed {
            return Ok(nothing);
        }
        let until = flushed.min(from + cursor.window - 1);
        let Some(reader) = self.take_reader()? else { return Ok(nothing) };
        let mut records = self.noting_failure(reader.changes(from, until, MAX_WINDOW_BYTES))?;
        let bytes: usize = records.iter().map(Record::size_bytes).sum();
        if records.last().is_some_and(|last| last.seq() < until) || bytes > MAX_WINDOW_BYTES {
            cursor.window = (cursor.window / 4).max(1);
        } else if bytes < ENOUGH_WINDOW_BYTES {
            cursor.window = (cursor.window * 2).min(MAX_WINDOW);
        }
        // Where one is missing, what is behind it must not follow what is before.
        let whole = records.iter().zip(from..).take_while(|(record, seq)| record.seq() == *seq).count();
        records.truncate(whole);
        let kept = if whole > 0 {
            Kept::Records(records)
        } else {
            let behind = self.noting_failure(reader.oldest_change(from))?;
            Kept::Behind(behind.unwrap_or(through + 1))
        };
        self.readers.lock().push(reader);
        Ok(kept)
    }

    fn noting_failure<T>(&self, read: Result<T, crate::duck::DuckError>) -> Result<T, ReadError> {
        if let Err(error) = &read {
            self.note_trouble(error);
        }
        Ok(read?)
    }
}
