//! The one match over the requests: role, storage, partition, answer.
//!
//! Writes go into the connection's [`Pass`]; reads are in [`super::reads`].

use std::sync::Arc;

use fastpersist_protocol::error::{ErrorCode, WireError};
use fastpersist_protocol::request::{
    DEFAULT_KEYS_LIMIT, Delete, Op, Parsed, Placed, Request, Store, Write, parse,
};
use fastpersist_protocol::time::{Date, Timestamp};
use fastpersist_protocol::{json, reply};

use super::access::{Peer, needed_role};
use super::answers::{WriteKind, WriteMeta};
use super::locks::ConnectionLocks;
use super::pass::Pass;
use super::subscriptions::Subscriptions;
use super::{Server, errors, report};
use crate::config::Role;
use crate::storage::Storage;
use crate::storage::partition::Partition;
use crate::storage::record::Names;
use crate::storage::rules::{self, RuleError, Taken};
use crate::storage::schema::Model;
use crate::wal::commit::Submission;

/// What a connection needs to answer requests.
#[derive(Debug)]
pub struct Dispatcher<'s> {
    pub(super) server: &'s Arc<Server>,
    pub(super) peer: &'s Peer,
    pub(super) subscriptions: &'s Subscriptions,
    pub(super) locks: &'s ConnectionLocks,
    /// The role that was last looked up, and for which storage.
    role: Option<(Option<usize>, Role)>,
    /// The partition that was last used, and how it was asked for.
    partition: Option<(usize, Option<Date>, Arc<Partition>)>,
    pub(super) now: Timestamp,
    /// Where records are put together.
    pub(super) scratch: Vec<u8>,
    /// Requests that were done at once, by operation; counted for all connections when the pass is over.
    /// Writes are counted when they are committed.
    done: [u32; Op::NAMES.len()],
}

impl Drop for Dispatcher<'_> {
    fn drop(&mut self) {
        self.server.stats.requests.note_done(&self.done);
    }
}

pub(super) type Answer<T> = Result<T, WireError>;

/// What a request asks for, as far as access is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) storage: Option<&'a str>,
    op: &'static str,
    needed: Role,
}

impl<'s> Dispatcher<'s> {
    /// A dispatcher for one pass over a connection's lines.
    pub(super) fn new(
        server: &'s Arc<Server>,
        peer: &'s Peer,
        (subscriptions, locks): (&'s Subscriptions, &'s ConnectionLocks),
    ) -> Self {
        Self {
            server,
            peer,
            subscriptions,
            locks,
            role: None,
            partition: None,
            now: Timestamp::now(),
            scratch: Vec::new(),
            done: [0; Op::NAMES.len()],
        }
    }

    /// What the records of this pass get that their requests do not say.
    pub(super) fn taken(&self) -> Taken<'s> {
        Taken { at: self.now, from: self.peer.writer() }
    }

    /// Answers one line, or gathers its writes.
    pub(super) async fn line<'a>(&mut self, line: &'a [u8], pass: &mut Pass<'a>, out: &mut Vec<u8>) {
        let limits = parse::ParseLimits {
            max_json_depth: self.server.config.limits.max_json_depth,
            max_batch_ops: self.server.config.limits.max_batch_ops,
        };
        let Parsed { id, request } = parse::parse(line, limits);
        let request = match request {
            Ok(request) => request,
            Err(error) => return pass.refuse(out, id, None, &error),
        };
        let op = request.op.index();
        let is_write = WriteKind::ALL.iter().any(|kind| *kind as usize == op);
        let result = match self.store_at_once(id, &request, pass) {
            Some(done) => done,
            None => self.request(id, request, pass, out).await,
        };
        if !is_write {
            // It may have waited, and what stands behind it is taken now.
            self.now = Timestamp::now();
        }
        match result {
            // Counted with its answer.
            Ok(()) if is_write => {}
            Ok(()) => self.done[op] += 1,
            Err(error) => pass.refuse(out, id, Some(op), &error),
        }
    }

    /// Answers a line that was too long to be kept.
    pub(super) fn too_long(&self, pass: &mut Pass<'_>, out: &mut Vec<u8>) {
        let max = self.server.config.limits.max_line_bytes;
        let message = format!("the line is longer than {max} bytes; it was skipped to its end");
        pass.refuse(out, None, None, &WireError::new(ErrorCode::LineTooLong, message));
    }

    async fn request<'a>(
        &mut self,
        id: Option<&'a str>,
        request: Request<'a>,
        pass: &mut Pass<'a>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let Request { storage, op } = request;
        let ask = Ask { storage: storage.as_deref(), op: op.name(), needed: needed_role(&op) };
        match op {
            Op::Store(ref placed) => self.store(id, ask, placed, pass, out).await,
            Op::Delete(placed) => self.delete(id, ask, placed, pass, out).await,
            Op::Batch(placed) => self.batch(id, ask, placed, pass, out).await,
            Op::Import(placed) => self.import(id, ask, placed, pass, out).await,
            Op::GetKeyProcess { date, ref key, ref process_name } => {
                let (index, storage) = self.allowed(ask)?;
                expect_model(storage, Model::Dated, "get_key_process", "get_item")?;
                let names = Names::Dated { process_name: process_name.as_deref() };
                self.get_one(id, (index, date), key, names, pass, out).await
            }
            Op::GetItem { ref key, ref collection_name, ref item_name } => {
                let (index, storage) = self.allowed(ask)?;
                expect_model(storage, Model::Collection, "get_item", "get_key_process")?;
                let names = Names::Collection { collection_name, item_name };
                self.get_one(id, (index, None), key, names, pass, out).await
            }
            Op::GetKey { date, ref key, ref collection_name } => {
                let (index, storage) = self.allowed(ask)?;
                check_field(storage, Model::Collection, collection_name.is_some(), "collection_name")?;
                check_field(storage, Model::Dated, date.is_some(), "date")?;
                self.get_key(id, (index, date), key, collection_name.as_deref(), pass, out).await
            }
            Op::Keys { date, ref prefix, ref after, limit } => {
                let (index, storage) = self.allowed(ask)?;
                check_field(storage, Model::Dated, date.is_some(), "date")?;
                pass.finish(out).await;
                let limit = limit.unwrap_or(DEFAULT_KEYS_LIMIT) as usize;
                self.keys(id, index, date, (prefix, after.as_deref(), limit), out).await
            }
            Op::Collections { ref key } => {
                let (index, storage) = self.allowed(ask)?;
                expect_model(storage, Model::Collection, "collections", "dates")?;
                pass.finish(out).await;
                self.collections(id, index, key, out).await
            }
            Op::Dates => self.dates(id, ask, pass, out).await,
            Op::History(ref asked) => self.history(id, ask, asked, pass, out).await,
            Op::Subscribe { .. } | Op::Unsubscribe { .. } => self.changes(id, ask, &op, pass, out).await,
            Op::Lock { .. } | Op::Unlock { .. } => self.lock_or_unlock(id, ask, &op, pass, out).await,
            Op::Flush => self.flush(id, ask, pass, out).await,
            Op::ExportParquet { path } => self.export(id, ask, path.as_deref(), pass, out).await,
            Op::Backup { .. } | Op::ListBackups | Op::VerifyBackup { .. } => {
                self.backups(id, ask, &op, pass, out).await
            }
            Op::CheckHealth { .. } | Op::RebuildHistoryFromWal { .. } | Op::RebuildLatestFromHistory => {
                self.health(id, ask, &op, pass, out).await
            }
            Op::Stats { .. } | Op::Info | Op::Ping => self.about(id, ask, &op, pass, out).await,
            Op::Query(ref query) => self.query(id, ask, query, pass, out).await,
            _ => {
                self.permit(None, ask)?;
                Err(WireError::new(ErrorCode::UnknownOp, "this daemon does not know the operation"))
            }
        }
    }

    /// The storage that a request means, when the peer may do there what it asks for.
    pub(super) fn allowed(&mut self, ask: Ask<'_>) -> Answer<(usize, &'s Arc<Storage>)> {
        let storages = &self.server.storages;
        let found = match ask.storage {
            None if storages.len() == 1 => Some(0),
            None => None,
            Some(name) => storages.binary_search_by(|storage| storage.config().name.as_str().cmp(name)).ok(),
        };
        self.permit(found, ask)?;
        let Some(index) = found else {
            let names: Vec<_> = storages.iter().map(|storage| storage.config().name.as_str()).collect();
            return Err(errors::unknown_storage(ask.storage, &names));
        };
        Ok((index, &storages[index]))
    }

    /// The storage that a request means; where it names none, all in which the peer may do what it asks for.
    pub(super) fn all_allowed(&mut self, ask: Ask<'_>) -> Answer<Vec<&'s Arc<Storage>>> {
        let server = self.server;
        if ask.storage.is_some() || server.storages.len() == 1 {
            return Ok(vec![self.allowed(ask)?.1]);
        }
        let all = 0..server.storages.len();
        let may: Vec<_> = all.filter(|index| self.permit(Some(*index), ask).is_ok()).collect();
        if may.is_empty() {
            self.permit(None, ask)?;
        }
        Ok(may.into_iter().map(|index| &server.storages[index]).collect())
    }

    pub(super) fn permit(&mut self, storage: Option<usize>, ask: Ask<'_>) -> Answer<()> {
        let role = match self.role {
            Some((cached, role)) if cached == storage => role,
            _ => {
                let name = storage.map(|index| self.server.storages[index].config().name.as_str());
                let role = self.server.access.read().role(self.peer, name);
                self.role = Some((storage, role));
                role
            }
        };
        if role >= ask.needed { Ok(()) } else { Err(errors::forbidden(ask.op, role, ask.needed)) }
    }

    /// Looks the role up again when it is next needed.
    pub(super) fn forget_role(&mut self) {
        self.role = None;
    }

    /// Lets go of the partition that is held: what comes may have to make room.
    pub(super) fn release(&mut self) {
        self.partition = None;
    }

    /// Makes sure that the partition for a write is the one that is held.
    async fn hold_for_write(&mut self, index: usize, date: Option<Date>) -> Answer<()> {
        if self.held(index, date).is_some() {
            return Ok(());
        }
        let storage = &self.server.storages[index];
        // The one that is held may be the one that has to make room.
        self.partition = None;
        let partition =
            storage.partition_for_write(date).await.map_err(|error| errors::of_storage(&error))?;
        self.partition = Some((index, date, partition));
        Ok(())
    }

    /// Lets go of the partition that is held.
    pub(super) fn let_go(&mut self) {
        self.partition = None;
    }

    /// The partition that is held, where it is the one that is asked for.
    pub(super) fn held(&self, index: usize, date: Option<Date>) -> Option<&Arc<Partition>> {
        let (held_index, held_date, partition) = self.partition.as_ref()?;
        ((*held_index, *held_date) == (index, date)).then_some(partition)
    }

    pub(super) async fn partition_for_read(
        &mut self,
        index: usize,
        date: Option<Date>,
    ) -> Answer<Option<Arc<Partition>>> {
        if let Some(partition) = self.held(index, date) {
            return Ok(Some(Arc::clone(partition)));
        }
        self.partition = None;
        let storage = &self.server.storages[index];
        let partition = storage.partition_for_read(date).await.map_err(|error| errors::of_storage(&error))?;
        self.partition = partition.clone().map(|partition| (index, date, partition));
        Ok(partition)
    }

    /// Holds the partition for a write, and commits what is gathered for another one.
    pub(super) async fn target<'a>(
        &mut self,
        (index, storage): (usize, &'s Arc<Storage>),
        date: Option<Date>,
        pass: &mut Pass<'a>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        check_field(storage, Model::Dated, date.is_some(), "date")?;
        if pass.has_target() && self.held(index, date).is_none() {
            // What is gathered holds its partition, which may be the one that has to make room.
            pass.finish(out).await;
        }
        self.hold_for_write(index, date).await?;
        if self.held(index, date).is_some_and(|partition| pass.is_elsewhere(partition)) {
            pass.finish(out).await;
        }
        Ok(())
    }

    async fn store<'a>(
        &mut self,
        id: Option<&'a str>,
        ask: Ask<'_>,
        placed: &Placed<'a, Store<'a>>,
        pass: &mut Pass<'a>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (index, storage) = self.allowed(ask)?;
        self.target((index, storage), placed.date, pass, out).await?;
        self.gather_store((index, storage), id, placed, pass)
    }

    /// The usual case, without waiting for anything: a store to the partition that is held. `None` when it
    /// is not that case.
    fn store_at_once<'a>(
        &mut self,
        id: Option<&'a str>,
        request: &Request<'a>,
        pass: &mut Pass<'a>,
    ) -> Option<Answer<()>> {
        let Op::Store(placed) = &request.op else { return None };
        let ask = Ask { storage: request.storage.as_deref(), op: "store", needed: Role::Writer };
        let target = match self.allowed(ask) {
            Ok(target) => target,
            Err(error) => return Some(Err(error)),
        };
        let partition = self.held(target.0, placed.date)?;
        if pass.is_elsewhere(partition) {
            return None;
        }
        Some(self.gather_store(target, id, placed, pass))
    }

    /// Gathers a store for the partition that is held.
    fn gather_store<'a>(
        &mut self,
        (index, storage): (usize, &'s Arc<Storage>),
        id: Option<&'a str>,
        placed: &Placed<'a, Store<'a>>,
        pass: &mut Pass<'a>,
    ) -> Answer<()> {
        let Placed { date, durability, producer, write } = placed;
        let mut warnings = Vec::new();
        let schema = &storage.config().schema;
        let record = rules::record_of_store(schema, write, self.taken(), &mut warnings, &mut self.scratch)
            .map_err(|error| errors::of_rule(&error))?;
        let meta =
            WriteMeta { id: id.map(Into::into), kind: WriteKind::Store, durability: *durability, warnings };
        if let Some(partition) = self.held(index, *date) {
            let add = |submission: &mut Submission| submission.push(record, write.if_seq);
            pass.add(storage, partition, meta, producer.as_ref(), add);
        }
        Ok(())
    }

    async fn delete<'a>(
        &mut self,
        id: Option<&'a str>,
        ask: Ask<'_>,
        placed: Placed<'a, Delete<'a>>,
        pass: &mut Pass<'a>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let Placed { date, durability, producer, write } = placed;
        let (index, storage) = self.allowed(ask)?;
        let record = rules::record_of_delete(&storage.config().schema, &write, self.taken())
            .map_err(|error| errors::of_rule(&error))?;
        self.target((index, storage), date, pass, out).await?;
        let meta =
            WriteMeta { id: id.map(Into::into), kind: WriteKind::Delete, durability, warnings: Vec::new() };
        if let Some(partition) = self.held(index, date) {
            let add = |submission: &mut Submission| submission.push(record, write.if_seq);
            pass.add(storage, partition, meta, producer.as_ref(), add);
        }
        Ok(())
    }

    async fn batch<'a>(
        &mut self,
        id: Option<&'a str>,
        ask: Ask<'_>,
        placed: Placed<'a, Vec<Write<'a>>>,
        pass: &mut Pass<'a>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let Placed { date, durability, producer, write: writes } = placed;
        let (index, storage) = self.allowed(ask)?;
        let (schema, taken) = (&storage.config().schema, self.taken());
        let mut warnings = Vec::new();
        let mut records = Vec::with_capacity(writes.len());
        for (position, write) in writes.iter().enumerate() {
            let mut own_warnings = Vec::new();
            let (record, if_seq) = match write {
                Write::Store(store) => {
                    let scratch = &mut self.scratch;
                    let record = rules::record_of_store(schema, store, taken, &mut own_warnings, scratch);
                    (record, store.if_seq)
                }
                Write::Delete(delete) => (rules::record_of_delete(schema, delete, taken), delete.if_seq),
            };
            let record = record.map_err(|error| in_batch(&error, position))?;
            warnings.extend(own_warnings.into_iter().map(|warning| format!("op {position}: {warning}")));
            records.push((record, if_seq));
        }
        self.target((index, storage), date, pass, out).await?;
        let meta = WriteMeta { id: id.map(Into::into), kind: WriteKind::Batch, durability, warnings };
        if let Some(partition) = self.held(index, date) {
            pass.add(storage, partition, meta, producer.as_ref(), |submission| {
                for (record, if_seq) in records {
                    submission.push(record, if_seq);
                }
            });
        }
        Ok(())
    }

    async fn about(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        op: &Op<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        self.permit(None, ask)?;
        if !matches!(op, Op::Ping) {
            pass.finish(out).await;
        }
        if let Op::Stats { format } = op {
            return self.stats(id, *format, out).await;
        }
        let server = self.server;
        pass.answer(out, |out| {
            reply::begin_ok(out, id);
            if matches!(op, Op::Info) {
                report::info(server, out);
            } else {
                reply::field(out, "pong");
                json::write_bool(out, true);
            }
            reply::end(out);
        });
        Ok(())
    }
}

pub(super) fn in_batch(error: &RuleError, position: usize) -> WireError {
    let error = errors::of_rule(error);
    let message = format!("op {position} of the batch: {}", error.message);
    WireError { message, ..error }.with_number("index", position as u64)
}

/// An operation of the other model.
pub(super) fn expect_model(storage: &Storage, model: Model, op: &str, other: &str) -> Answer<()> {
    let config = storage.config();
    if config.model() == model {
        return Ok(());
    }
    let message = format!(
        "{op:?} is for {model} storages, and {:?} is a {} one; there it is {other:?}",
        config.name,
        config.model()
    );
    Err(WireError::field("op", message))
}

/// A field of the other model.
pub(super) fn check_field(storage: &Storage, model: Model, present: bool, field: &'static str) -> Answer<()> {
    let own = storage.config().model();
    if present && own != model {
        return Err(errors::of_rule(&rules::wrong_field(own, field)));
    }
    Ok(())
}
