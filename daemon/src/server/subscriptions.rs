//! Subscriptions: changes are written to a connection as they become durable, between its answers.
//!
//! Each one is a task that looks for the next changes ([`crate::storage::watch`]), makes lines of them and
//! gives them to the wire when the client has taken everything before. So at most one piece of events waits
//! in memory for a client that does not read; what it has not been told stays in the log, and is read from
//! there when the client goes on. `dropped` is told only where that is not there any more.
//!
//! Invariant: nothing of a subscription comes before the answer that it has begun, nor after the answer that
//! it has ended.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastpersist_protocol::error::{ErrorCode, WireError};
use fastpersist_protocol::request::Op;
use fastpersist_protocol::time::Date;
use fastpersist_protocol::{json, reply};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};

use super::access::Peer;
use super::dispatch::{Answer, Ask, Dispatcher, check_field};
use super::history::write_deleted;
use super::pass::Pass;
use super::wire::{Pushed, Wire};
use super::{Server, errors};
use crate::config::Role;
use crate::storage::partition::ChangesError;
use crate::storage::record::Record;
use crate::storage::schema::Model;
use crate::storage::watch::{Watch, WatchError};

/// Events are given to the wire in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;
/// Every event carries the id, so it must not be long.
const MAX_ID_BYTES: usize = 255;
/// A longer prefix than a key begins none.
const MAX_PREFIX_BYTES: usize = 1024;
/// The operation's name, for messages.
const SUBSCRIBE: &str = "subscribe";

/// The subscriptions of one connection. They end with it.
#[derive(Debug)]
pub(super) struct Subscriptions {
    pub(super) wire: Arc<Wire>,
    live: Arc<Mutex<Live>>,
    tasks: Mutex<JoinSet<()>>,
    /// Answers were given to the wire ahead of the others.
    pushed: AtomicBool,
}

/// Those that may write to the wire, by the id with which they began. Whoever writes events holds the lock.
type Live = HashMap<String, One>;

#[derive(Debug)]
struct One {
    counted: Counted,
    /// `None` until it begins.
    task: Option<AbortHandle>,
}

/// A subscription that counts as long as this lives.
#[derive(Debug)]
struct Counted {
    server: Arc<Server>,
    uid: u32,
    /// Which of all subscriptions it is: an id may be used again.
    number: u64,
}

impl Counted {
    fn new(server: &Arc<Server>, uid: u32) -> Answer<Self> {
        let (limits, stats) = (&server.config.limits, &server.stats);
        let mut by_uid = stats.subscriptions_by_uid.lock();
        let own = by_uid.get(&uid).copied().unwrap_or(0);
        let (max, max_own) = (limits.max_subscriptions, limits.max_subscriptions_per_uid);
        let message = if stats.subscriptions.load(Ordering::Acquire) >= max {
            format!("there are {max} subscriptions, limits.max_subscriptions allows no more; try again later")
        } else if own >= max_own {
            format!("uid {uid} has {max_own} subscriptions, limits.max_subscriptions_per_uid allows no more")
        } else {
            by_uid.insert(uid, own + 1);
            stats.subscriptions.fetch_add(1, Ordering::AcqRel);
            let number = stats.subscriptions_total.fetch_add(1, Ordering::Relaxed);
            return Ok(Self { server: Arc::clone(server), uid, number });
        };
        Err(WireError::new(ErrorCode::Busy, message))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = &self.server.stats;
        let mut by_uid = stats.subscriptions_by_uid.lock();
        stats.subscriptions.fetch_sub(1, Ordering::AcqRel);
        if let Entry::Occupied(mut own) = by_uid.entry(self.uid) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl Subscriptions {
    pub(super) fn new(wire: &Arc<Wire>) -> Self {
        Self {
            wire: Arc::clone(wire),
            live: Arc::default(),
            tasks: Mutex::default(),
            pushed: AtomicBool::default(),
        }
    }

    /// Whether answers were given to the wire since this was asked the last time.
    pub(super) fn has_pushed(&self) -> bool {
        self.pushed.load(Ordering::Relaxed) && self.pushed.swap(false, Ordering::Relaxed)
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        !self.live.lock().is_empty()
    }

    /// Ends all of them: none writes to the wire any more.
    pub(super) fn end_all(&self) {
        self.live.lock().clear();
        self.tasks.lock().abort_all();
    }

    /// Takes an id.
    fn reserve(&self, id: &str, server: &Arc<Server>, uid: u32) -> Answer<u64> {
        let mut live = self.live.lock();
        if live.contains_key(id) {
            let message = format!("the subscription {id} goes on; a second one needs an id of its own");
            return Err(WireError::field("id", message));
        }
        let counted = Counted::new(server, uid)?;
        let number = counted.number;
        live.insert(id.to_owned(), One { counted, task: None });
        Ok(number)
    }

    fn start(&self, pump: Pump) {
        let mut tasks = self.tasks.lock();
        // Those that have ended by themselves.
        while tasks.try_join_next().is_some() {}
        let id = pump.id.clone();
        let task = tasks.spawn(pump.run());
        if let Some(one) = self.live.lock().get_mut(&id) {
            one.task = Some(task);
        }
    }

    /// Ends one; answers whether there was one.
    fn end(&self, id: &str) -> bool {
        let one = self.live.lock().remove(id);
        if let Some(task) = one.as_ref().and_then(|one| one.task.as_ref()) {
            task.abort();
        }
        one.is_some()
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.end_all();
    }
}

impl Dispatcher<'_> {
    pub(super) async fn changes(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        op: &Op<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        match op {
            Op::Subscribe { date, prefix, from_seq } => {
                self.subscribe(id, ask, (*date, *from_seq), prefix, pass, out).await
            }
            Op::Unsubscribe { subscription } => self.unsubscribe(id, ask, subscription.text, pass, out).await,
            // Whoever calls this asks for one of the two.
            _ => Err(WireError::field("op", "neither \"subscribe\" nor \"unsubscribe\"")),
        }
    }

    async fn subscribe(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        (date, from_seq): (Option<Date>, Option<u64>),
        prefix: &str,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (_, storage) = self.allowed(ask)?;
        check_field(storage, Model::Dated, date.is_some(), "date")?;
        let Some(id) = id else {
            let message = "a subscription needs an id, which all of its events carry";
            return Err(WireError::field("id", message));
        };
        if id.len() > MAX_ID_BYTES {
            let message = format!("the id of a subscription has at most {MAX_ID_BYTES} bytes");
            return Err(WireError::field("id", message));
        }
        if prefix.len() > MAX_PREFIX_BYTES {
            let message = format!("prefix is longer than a key may be: {MAX_PREFIX_BYTES} bytes");
            return Err(WireError::field("prefix", message));
        }
        pass.finish(out).await;
        self.let_go();
        if *self.server.stopping.borrow() {
            return Err(errors::shutting_down());
        }
        let number = self.subscriptions.reserve(id, self.server, self.peer.uid)?;
        let watch = match storage.watch(date, from_seq).await {
            Ok(watch) => watch,
            Err(error) => {
                self.subscriptions.end(id);
                return Err(errors::of_watch(&error));
            }
        };
        reply::begin_ok(out, Some(id));
        reply::field(out, "seq");
        json::write_u64(out, watch.begun_at());
        if let (None, Some(today)) = (date, watch.date()) {
            reply::field(out, "date");
            json::write_string(out, &today.to_string());
        }
        reply::end(out);
        // On its way before the first event.
        self.subscriptions.wire.push_line(out);
        self.subscriptions.pushed.store(true, Ordering::Relaxed);
        self.subscriptions.start(Pump {
            id: id.to_owned(),
            number,
            prefix: prefix.to_owned(),
            last_seq: from_seq.map_or_else(|| watch.begun_at(), |from_seq| from_seq.saturating_sub(1)),
            watch,
            peer: self.peer.clone(),
            server: Arc::clone(self.server),
            wire: Arc::clone(&self.subscriptions.wire),
            live: Arc::clone(&self.subscriptions.live),
        });
        Ok(())
    }

    async fn unsubscribe(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        subscription: &str,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        self.permit(None, ask)?;
        pass.finish(out).await;
        if !self.subscriptions.end(subscription) {
            let message = format!("there is no subscription {subscription} on this connection");
            return Err(WireError::new(ErrorCode::NotFound, message));
        }
        reply::begin_ok(out, id);
        reply::end(out);
        Ok(())
    }
}

/// The task of one subscription.
struct Pump {
    id: String,
    number: u64,
    prefix: String,
    /// The last change that was told, or passed over because of the prefix.
    last_seq: u64,
    watch: Watch,
    peer: Peer,
    server: Arc<Server>,
    wire: Arc<Wire>,
    live: Arc<Mutex<Live>>,
}

/// Why a subscription ends by itself.
enum End {
    /// Nobody is there to be told, or it was ended.
    Silent,
    /// What comes next is not kept any more.
    Behind,
    /// It cannot go on.
    Failed(WireError),
}

impl Pump {
    async fn run(mut self) {
        let error = match self.follow().await {
            End::Silent => return,
            End::Behind => None,
            End::Failed(error) => Some(error),
        };
        let mut event = Vec::new();
        self.begin_event("dropped", &mut event);
        reply::field(&mut event, "last_seq");
        json::write_u64(&mut event, self.last_seq);
        if let Some(error) = error {
            reply::field(&mut event, "error");
            error.write_json(&mut event);
        }
        reply::end(&mut event);
        // With this event the id is free again.
        self.send(&mut event, true).await;
        self.wire.drained().await;
        // Where the client has said that it sends no more, this may have been the last.
        self.wire.wake();
    }

    async fn follow(&mut self) -> End {
        let mut events = Vec::new();
        while self.wire.drained().await {
            let records = match self.watch.next().await {
                Ok(records) => records,
                Err(WatchError::Changes(ChangesError::Compacted { .. })) => return End::Behind,
                Err(error) => return End::Failed(errors::of_watch(&error)),
            };
            if let Some(error) = self.refusal() {
                return End::Failed(error);
            }
            for record in records {
                if record.key_bytes().starts_with(self.prefix.as_bytes()) {
                    self.write_event(&record, &mut events);
                }
                let full = events.len() >= PIECE_BYTES;
                if full && !self.send(&mut events, false).await {
                    return End::Silent;
                }
                self.last_seq = record.seq();
            }
            if !events.is_empty() && !self.send(&mut events, false).await {
                return End::Silent;
            }
            // Others want their turn too.
            tokio::task::yield_now().await;
        }
        End::Silent
    }

    /// Whoever may not read any more is told nothing more.
    fn refusal(&self) -> Option<WireError> {
        let name = self.watch.storage().config().name.as_str();
        let role = self.server.access.read().role(&self.peer, Some(name));
        (role < Role::Reader).then(|| errors::forbidden(SUBSCRIBE, role, Role::Reader))
    }

    /// Gives events to the wire when it is empty; answers false when there is nobody to take them.
    async fn send(&self, events: &mut Vec<u8>, last: bool) -> bool {
        loop {
            {
                let mut live = self.live.lock();
                if live.get(&self.id).is_none_or(|one| one.counted.number != self.number) {
                    return false;
                }
                match self.wire.push_events(events) {
                    Pushed::Taken => {
                        if last {
                            live.remove(&self.id);
                        }
                        return true;
                    }
                    Pushed::Broken => return false,
                    Pushed::Full => {}
                }
            }
            if !self.wire.drained().await {
                return false;
            }
        }
    }

    fn begin_event(&self, event: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        out.extend_from_slice(self.id.as_bytes());
        reply::field(out, "event");
        json::write_string(out, event);
    }

    fn write_event(&self, record: &Record, out: &mut Vec<u8>) {
        if !record.is_deleted() {
            self.begin_event("store", out);
            reply::field(out, "record");
            record.write_json(self.watch.date(), out);
            reply::end(out);
            return;
        }
        let columns = record.columns();
        self.begin_event("delete", out);
        write_deleted(self.watch.date(), &columns, out);
        reply::field(out, "seq");
        json::write_u64(out, columns.seq);
        reply::end(out);
    }
}
