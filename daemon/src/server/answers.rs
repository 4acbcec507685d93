//! The answers that a pass owes, and how they are written once its writes are committed.
//!
//! Invariant: they are written in the order of the requests, one for each.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use fastpersist_protocol::error::WireError;
use fastpersist_protocol::json;
use fastpersist_protocol::reply;
use fastpersist_protocol::request::{Durability, Op};

use super::wire::Wire;
use super::{Server, errors};
use crate::storage::Storage;
use crate::storage::partition::Gone;
use crate::wal::commit::{Seqs, UnitResult};

/// Which of the writes was asked for: their answers differ. Its number is that of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteKind {
    Store = 0,
    Delete = 1,
    Batch = 2,
    Import = 26,
}

impl WriteKind {
    pub(super) const ALL: [Self; 4] = [Self::Store, Self::Delete, Self::Batch, Self::Import];

    /// Whether it is several writes in one, all of them or none.
    pub(super) fn is_batch(self) -> bool {
        matches!(self, Self::Batch | Self::Import)
    }
}

/// What a write's answer needs beside its places.
#[derive(Debug)]
pub(super) struct WriteMeta<'a> {
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) kind: WriteKind,
    pub(super) durability: Durability,
    pub(super) warnings: Vec<String>,
}

/// An answer that is owed.
#[derive(Debug)]
enum Owed<'a> {
    /// Already written, in `staged`.
    Written(Range<usize>),
    /// A write's, when its group is committed.
    Write(WriteMeta<'a>),
}

/// All answers that are owed, in order.
#[derive(Debug, Default)]
pub(super) struct Answers<'a> {
    owed: Vec<Owed<'a>>,
    staged: Vec<u8>,
}

impl<'a> Answers<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Bytes of answers that wait for those before them.
    pub(super) fn staged_bytes(&self) -> usize {
        self.staged.len()
    }

    /// Owes what a commit will say.
    pub(super) fn owe(&mut self, meta: WriteMeta<'a>) {
        self.owed.push(Owed::Write(meta));
    }

    /// Takes an answer that is known already, unless `write` finds that it is not.
    pub(super) fn stage<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<T>) -> Option<T> {
        let start = self.staged.len();
        let written = write(&mut self.staged);
        if written.is_some() {
            self.owed.push(Owed::Written(start..self.staged.len()));
        }
        written
    }

    /// The same answers, borrowing nothing.
    pub(super) fn into_owned(self) -> Answers<'static> {
        let owed = self.owed.into_iter().map(|owed| match owed {
            Owed::Written(range) => Owed::Written(range),
            Owed::Write(WriteMeta { id, kind, durability, warnings }) => {
                let id = id.map(|id| Cow::Owned(id.into_owned()));
                Owed::Write(WriteMeta { id, kind, durability, warnings })
            }
        });
        Answers { owed: owed.collect(), staged: self.staged }
    }

    /// Writes every answer, with what the commit said.
    pub(super) fn write(
        self,
        results: Result<Vec<UnitResult>, WireError>,
        server: &Server,
        out: &mut Vec<u8>,
    ) {
        let mut results = results.map(Vec::into_iter);
        let mut done = [0; Op::NAMES.len()];
        for owed in self.owed {
            let meta = match owed {
                Owed::Written(range) => {
                    out.extend_from_slice(&self.staged[range]);
                    continue;
                }
                Owed::Write(meta) => meta,
            };
            let result = match &mut results {
                Ok(results) => results.next().ok_or_else(|| errors::of_gone(&Gone)),
                Err(error) => Err(error.clone()),
            };
            match result.and_then(|result| done_of(result, meta.kind)) {
                Ok(came_to) => {
                    done[meta.kind as usize] += 1;
                    write_done(out, &meta, &came_to);
                }
                Err(error) => {
                    server.stats.requests.note_error(Some(meta.kind as usize), error.code);
                    reply::error(out, meta.id.as_deref(), &error);
                }
            }
        }
        server.stats.requests.note_done(&done);
    }
}

/// What a write came to that is done, now or before.
enum Done {
    Now(Seqs),
    /// With the write's last place, where that is still known.
    Before(Option<u64>),
}

fn done_of(result: UnitResult, kind: WriteKind) -> Result<Done, WireError> {
    match result {
        UnitResult::Done(seqs) => Ok(Done::Now(seqs)),
        UnitResult::Duplicate { seq } => Ok(Done::Before(seq)),
        UnitResult::Refused(refusal) => Err(errors::of_refusal(&refusal, kind.is_batch())),
        UnitResult::Cold { .. } => Err(errors::of_busy_key()),
    }
}

fn write_done(out: &mut Vec<u8>, meta: &WriteMeta<'_>, done: &Done) {
    reply::begin_ok(out, meta.id.as_deref());
    match done {
        Done::Before(seq) => write_repeated(out, meta.kind, *seq),
        Done::Now(Seqs::One(seq)) => {
            reply::field(out, "seq");
            write_seq(out, *seq);
            if meta.kind == WriteKind::Delete {
                reply::field(out, "deleted");
                json::write_bool(out, seq.is_some());
            }
        }
        Done::Now(Seqs::Many(seqs)) => {
            reply::field(out, "seqs");
            reply::array(out, seqs, |out, seq| write_seq(out, *seq));
        }
    }
    reply::field(out, "durable");
    json::write_bool(out, meta.durability == Durability::Sync);
    reply::warnings(out, &meta.warnings);
    reply::end(out);
}

fn write_repeated(out: &mut Vec<u8>, kind: WriteKind, seq: Option<u64>) {
    reply::field(out, "duplicate");
    json::write_bool(out, true);
    match kind {
        WriteKind::Store | WriteKind::Delete => {
            reply::field(out, "seq");
            write_seq(out, seq);
        }
        // Only the last of them could be told.
        WriteKind::Batch | WriteKind::Import => {
            reply::field(out, "seqs");
            out.extend_from_slice(b"null");
        }
    }
    if kind == WriteKind::Delete {
        reply::field(out, "deleted");
        match seq {
            Some(_) => json::write_bool(out, true),
            None => out.extend_from_slice(b"null"),
        }
    }
}

fn write_seq(out: &mut Vec<u8>, seq: Option<u64>) {
    match seq {
        Some(seq) => json::write_u64(out, seq),
        None => out.extend_from_slice(b"null"),
    }
}

/// Answers that the commit leader writes by itself.
#[derive(Debug)]
pub(super) struct DirectAnswers {
    pub(super) answers: Answers<'static>,
    pub(super) wire: Arc<Wire>,
    pub(super) server: Arc<Server>,
    pub(super) storage: Arc<Storage>,
    pub(super) begun: Instant,
    pub(super) units: u64,
}

impl DirectAnswers {
    /// Writes them, with what the commit said, and lets the connection go on.
    pub(super) fn write(self, results: Result<Vec<UnitResult>, Gone>) {
        let mut out = Vec::with_capacity(64 * self.units as usize);
        let results = results.map_err(|error| errors::of_gone(&error));
        self.answers.write(results, &self.server, &mut out);
        self.storage.stats().requests.note(self.begun.elapsed(), self.units);
        self.wire.end_commit(&out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_numbered_as_the_operations_are() {
        let names = WriteKind::ALL.map(|kind| Op::NAMES[kind as usize]);
        assert_eq!(names, ["store", "delete", "batch", "import"]);
    }
}
