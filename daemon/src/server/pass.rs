//! One pass over what a connection has read: writes are gathered, so that they share a commit group.
//!
//! Answers go out in the order of the requests, so while writes are gathered, everything answered at
//! once waits behind them in `staged`. A read may be answered before writes that stand in front of it,
//! as long as it asks for another key: nobody can tell the difference, for neither was answered yet.
//!
//! Invariant: a request sees every write that stands before it on its own connection and touches the
//! same key.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fastpersist_protocol::error::WireError;
use fastpersist_protocol::reply;
use fastpersist_protocol::request::{Durability, Producer};

use super::answers::{Answers, DirectAnswers, WriteMeta};
use super::wire::Wire;
use super::{Server, errors};
use crate::storage::Storage;
use crate::storage::memtable::Known;
use crate::storage::partition::Partition;
use crate::wal::commit::{self, Reply, Submission, UnitResult, Write};

/// Up to so many answers are written by the commit leader. With more it takes longer to write them than to
/// wake the connection's task, which does it while the leader goes on: at 8 connections, 64 deep, that made
/// a fifth more writes in two of three runs.
const DIRECT_UNITS: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    server: &'a Arc<Server>,
    target: Option<(Arc<Storage>, Arc<Partition>)>,
    submission: Submission,
    answers: Answers<'a>,
    begun: Instant,
}

impl<'a> Pass<'a> {
    pub(super) fn new(server: &'a Arc<Server>) -> Self {
        Self {
            server,
            target: None,
            submission: Submission::default(),
            answers: Answers::default(),
            begun: Instant::now(),
        }
    }

    /// Writes gathered so far.
    pub(super) fn len(&self) -> usize {
        self.submission.writes.len()
    }

    /// Bytes of answers that wait for the writes before them.
    pub(super) fn staged_bytes(&self) -> usize {
        self.answers.staged_bytes()
    }

    /// Whether writes to some partition are gathered.
    pub(super) fn has_target(&self) -> bool {
        self.target.is_some()
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
        if self.answers.is_empty() {
            write(out);
        } else {
            self.answers.stage(|staged| {
                write(staged);
                Some(())
            });
        }
    }

    /// Like [`answer`](Self::answer), where `write` may find that it has nothing to write.
    pub(super) fn try_answer<T>(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Known<T>,
    ) -> Known<T> {
        if self.answers.is_empty() {
            return write(out);
        }
        let mut unknown = Known::Cold;
        let live = self.answers.stage(|staged| match write(staged) {
            Known::Live(live) => Some(live),
            Known::Absent => {
                unknown = Known::Absent;
                None
            }
            Known::Cold => None,
        });
        live.map_or(unknown, Known::Live)
    }

    /// Answers with an error. `op` is the operation's index, where the line named one.
    pub(super) fn refuse(
        &mut self,
        out: &mut Vec<u8>,
        id: Option<&str>,
        op: Option<usize>,
        error: &WireError,
    ) {
        self.server.stats.requests.note_error(op, error.code);
        self.answer(out, |out| reply::error(out, id, error));
    }

    /// Gathers one request's writes, which `add` puts into the submission, under the number of who writes.
    pub(super) fn add(
        &mut self,
        storage: &Arc<Storage>,
        partition: &Arc<Partition>,
        meta: WriteMeta<'a>,
        producer: Option<&Producer<'_>>,
        add: impl FnOnce(&mut Submission),
    ) {
        if self.target.is_none() {
            self.target = Some((Arc::clone(storage), Arc::clone(partition)));
        }
        let first = self.submission.writes.len();
        let producer =
            producer.map(|Producer { name, seq }| commit::Producer { name: (&**name).into(), seq: *seq });
        self.submission.producer = producer.map(Box::new);
        add(&mut self.submission);
        self.submission.end_unit(first, meta.kind.is_batch());
        self.submission.sync |= meta.durability == Durability::Sync;
        self.answers.owe(meta);
    }

    /// Commits what is gathered and writes every answer that is owed.
    pub(super) async fn finish(&mut self, out: &mut Vec<u8>) {
        if self.answers.is_empty() {
            return;
        }
        let answers = std::mem::take(&mut self.answers);
        let submission = std::mem::take(&mut self.submission);
        let units = submission.units.len() as u64;
        let results = match self.target.take() {
            Some((storage, partition)) => {
                let results = commit(&partition, submission).await;
                storage.stats().requests.note(self.begun.elapsed(), units);
                results
            }
            None => Ok(Vec::new()),
        };
        self.begun = Instant::now();
        answers.write(results, self.server, out);
    }

    /// Ends the pass. Where nothing stands in the way, the commit leader writes the answers straight to the
    /// client, behind those in `out`; else they are in `out` when this returns.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn end(mut self, wire: &Arc<Wire>, out: &mut Vec<u8>) -> std::io::Result<()> {
        let simple = |partition: &Arc<Partition>| {
            self.submission.units.len() <= DIRECT_UNITS
                && partition.has_room()
                && (!is_conditional(&self.submission) || !partition.may_be_cold())
        };
        let target = self.target.take_if(|(_, partition)| simple(partition));
        let Some((storage, partition)) = target else {
            self.finish(out).await;
            return Ok(());
        };
        wire.push(out)?;
        wire.begin_commit();
        let direct = DirectAnswers {
            answers: self.answers.into_owned(),
            wire: Arc::clone(wire),
            server: Arc::clone(self.server),
            storage,
            begun: self.begun,
            units: self.submission.units.len() as u64,
        };
        let reply = Reply::new(move |results| direct.write(results));
        partition.submit_with(self.submission, reply).await;
        Ok(())
    }
}

/// Whether what is done depends on what memory knows.
fn is_conditional(submission: &Submission) -> bool {
    submission.writes.iter().any(Write::is_conditional)
}

/// Commits a submission. Where it depends on records that memory may not know, their keys are loaded
/// first, and kept until it is done.
async fn commit(partition: &Arc<Partition>, submission: Submission) -> Result<Vec<UnitResult>, WireError> {
    partition.admit().await.map_err(|error| errors::of_busy(&error))?;
    if !is_conditional(&submission) || !partition.may_be_cold() {
        return partition.submit(submission).await.map_err(|error| errors::of_gone(&error));
    }
    let conditional = submission.writes.iter().filter(|write| write.is_conditional());
    let keys: BTreeSet<String> = conditional.map(|write| write.record.key().to_owned()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    partition.pin(&keys).await.map_err(|error| errors::of_read(&error))?;
    let results = partition.submit(submission).await;
    partition.unpin(&keys);
    results.map_err(|error| errors::of_gone(&error))
}
