//! One pass over what a connection has read: writes are gathered, so that they share a commit group.
//!
//! Answers go out in the order of the requests, so while writes are gathered, everything answered at
//! once waits behind them in `staged`. A read may be answered before writes that stand in front of it,
//! as long as it asks for another key: nobody can tell the difference, for neither was answered yet.
//!
//! Invariant: a request sees every write that stands before it on its own connection and touches the
//! same key.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use fastpersist_protocol::error::WireError;
use fastpersist_protocol::json;
use fastpersist_protocol::reply;
use fastpersist_protocol::request::Durability;

use super::errors;
use crate::server::Server;
use crate::storage::Storage;
use crate::storage::memtable::Known;
use crate::storage::partition::{Gone, Partition};
use crate::wal::commit::{Refusal, Seqs, Submission, UnitResult};

/// An answer that is owed.
#[derive(Debug)]
enum Owed<'a> {
    /// Already written, in `staged`.
    Written(Range<usize>),
    /// A write's, when its group is committed.
    Write { id: Option<&'a str>, kind: WriteKind, durability: Durability, warnings: Vec<String> },
}

/// Which of the writes was asked for: their answers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteKind {
    Store,
    Delete,
    Batch,
}

/// What a write's answer needs beside its places.
#[derive(Debug)]
pub(super) struct WriteMeta<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) kind: WriteKind,
    pub(super) durability: Durability,
    pub(super) warnings: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    server: &'a Server,
    target: Option<(Arc<Storage>, Arc<Partition>)>,
    submission: Submission,
    owed: Vec<Owed<'a>>,
    staged: Vec<u8>,
    begun: Instant,
}

impl<'a> Pass<'a> {
    pub(super) fn new(server: &'a Server) -> Self {
        Self {
            server,
            target: None,
            submission: Submission::default(),
            owed: Vec::new(),
            staged: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// Writes gathered so far.
    pub(super) fn len(&self) -> usize {
        self.submission.writes.len()
    }

    /// Whether a write to another partition stands before.
    pub(super) fn is_elsewhere(&self, partition: &Arc<Partition>) -> bool {
        self.target.as_ref().is_some_and(|(_, target)| !Arc::ptr_eq(target, partition))
    }

    /// Whether a write before may touch this key.
    pub(super) fn touches(&self, key: &str) -> bool {
        self.submission.writes.iter().any(|write| write.record.key_bytes() == key.as_bytes())
    }

    /// Answers something at once; it goes out when its turn comes.
    pub(super) fn answer(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.owed.is_empty() {
            write(out);
            return;
        }
        let start = self.staged.len();
        write(&mut self.staged);
        self.owed.push(Owed::Written(start..self.staged.len()));
    }

    /// Like [`answer`](Self::answer), where `write` may find that it has nothing to write.
    pub(super) fn try_answer<T>(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Known<T>,
    ) -> Known<T> {
        if self.owed.is_empty() {
            return write(out);
        }
        let start = self.staged.len();
        let known = write(&mut self.staged);
        if matches!(known, Known::Live(_)) {
            self.owed.push(Owed::Written(start..self.staged.len()));
        }
        known
    }

    /// Answers with an error.
    pub(super) fn refuse(&mut self, out: &mut Vec<u8>, id: Option<&str>, error: &WireError) {
        self.server.stats.note_error(error.code);
        self.answer(out, |out| reply::error(out, id, error));
    }

    /// Gathers one request's writes, which `add` puts into the submission.
    pub(super) fn add(
        &mut self,
        storage: &Arc<Storage>,
        partition: &Arc<Partition>,
        meta: WriteMeta<'a>,
        add: impl FnOnce(&mut Submission),
    ) {
        if self.target.is_none() {
            self.target = Some((Arc::clone(storage), Arc::clone(partition)));
        }
        let first = self.submission.writes.len();
        add(&mut self.submission);
        self.submission.end_unit(first, meta.kind == WriteKind::Batch);
        self.submission.sync |= meta.durability == Durability::Sync;
        let WriteMeta { id, kind, durability, warnings } = meta;
        self.owed.push(Owed::Write { id, kind, durability, warnings });
    }

    /// Commits what is gathered and writes every answer that is owed.
    pub(super) async fn finish(&mut self, out: &mut Vec<u8>) {
        if self.owed.is_empty() {
            return;
        }
        let owed = std::mem::take(&mut self.owed);
        let staged = std::mem::take(&mut self.staged);
        let submission = std::mem::take(&mut self.submission);
        let count = submission.units.len() as u64;
        let results = match self.target.take() {
            Some((storage, partition)) => {
                let results = commit(&partition, submission).await;
                storage.stats().requests.note(self.begun.elapsed(), count);
                results
            }
            None => Ok(Vec::new()),
        };
        self.begun = Instant::now();
        let mut results = results.map(Vec::into_iter);
        for owed in owed {
            match owed {
                Owed::Written(range) => out.extend_from_slice(&staged[range]),
                Owed::Write { id, kind, durability, warnings } => {
                    let result = match &mut results {
                        Ok(results) => results.next().ok_or_else(|| errors::of_gone(&Gone)),
                        Err(error) => Err(error.clone()),
                    };
                    match result.and_then(|result| seqs_of(result, kind)) {
                        Ok(seqs) => write_done(out, id, kind, durability, &seqs, &warnings),
                        Err(error) => {
                            self.server.stats.note_error(error.code);
                            reply::error(out, id, &error);
                        }
                    }
                }
            }
        }
    }
}

fn seqs_of(result: UnitResult, kind: WriteKind) -> Result<Seqs, WireError> {
    match result {
        UnitResult::Done(seqs) => Ok(seqs),
        UnitResult::Refused(refusal) => Err(errors::of_refusal(&refusal, kind == WriteKind::Batch)),
        UnitResult::Cold { .. } => Err(errors::of_busy_key()),
    }
}

/// How often a submission is repeated because memory gave a key back before it was used.
const COLD_TRIES: usize = 16;

/// Commits a submission; where memory does not know a record on which a write depends, it is loaded and
/// the rest is submitted again. What is cold even then stays so in the answer.
async fn commit(
    partition: &Arc<Partition>,
    mut submission: Submission,
) -> Result<Vec<UnitResult>, WireError> {
    partition.admit().await.map_err(|error| errors::of_busy(&error))?;
    let conditional = submission.writes.iter().any(|w| w.if_seq.is_some() || w.record.is_deleted());
    if !conditional || !partition.may_be_cold() {
        return partition.submit(submission).await.map_err(|error| errors::of_gone(&error));
    }
    let mut done = Vec::with_capacity(submission.units.len());
    for tries in 1.. {
        let retry = submission.clone_for_retry();
        let mut results = partition.submit(submission).await.map_err(|error| errors::of_gone(&error))?;
        let cold = results.iter().position(|result| matches!(result, UnitResult::Cold { .. }));
        let Some((cold, UnitResult::Cold { key })) = cold.map(|cold| (cold, results[cold].clone())) else {
            done.append(&mut results);
            break;
        };
        let loaded = partition.load_key(&key, true).await;
        if loaded.is_err() || tries == COLD_TRIES {
            if let Err(error) = loaded {
                let refusal = Refusal::Unavailable(errors::of_read(&error).message);
                results[cold..].fill(UnitResult::Refused(refusal));
            }
            done.append(&mut results);
            break;
        }
        done.extend(results.drain(..cold));
        submission = retry.without_first(cold);
    }
    Ok(done)
}

fn write_done(
    out: &mut Vec<u8>,
    id: Option<&str>,
    kind: WriteKind,
    durability: Durability,
    seqs: &Seqs,
    warnings: &[String],
) {
    reply::begin_ok(out, id);
    match seqs {
        Seqs::One(seq) => {
            reply::field(out, "seq");
            write_seq(out, *seq);
            if kind == WriteKind::Delete {
                reply::field(out, "deleted");
                json::write_bool(out, seq.is_some());
            }
        }
        Seqs::Many(seqs) => {
            reply::field(out, "seqs");
            reply::array(out, seqs, |out, seq| write_seq(out, *seq));
        }
    }
    reply::field(out, "durable");
    json::write_bool(out, durability == Durability::Sync);
    reply::warnings(out, warnings);
    reply::end(out);
}

fn write_seq(out: &mut Vec<u8>, seq: Option<u64>) {
    match seq {
        Some(seq) => json::write_u64(out, seq),
        None => out.extend_from_slice(b"null"),
    }
}
