//! The blocking client: no runtime, no threads.
//!
//! Invariant: between two calls the connection owes nothing. A call that gives up in the middle drops
//! the connection, so no later call can take its reply.

mod changes;

pub use changes::Changes;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastpersist_protocol::request::Request;

use crate::call::{self, Call, Caller, sealed};
use crate::changes::Subscribe;
use crate::connection::{Outcome, is_shutting_down};
use crate::error::Error;
use crate::lock::LockRequest;
use crate::options::ConnectOptions;
use crate::outcome::Info;
use crate::reply::Reply;
use crate::resend::{Delivery, FIRST_PAUSE, Numbers, next_pause, of_repetition};
use crate::socket::Socket;
use crate::storage::{CollectionStorage, DatedStorage};
use wire::{Broken, Deadline, UNANSWERED_REQUESTS, Wire};

pub(crate) use wire::OwnConnection;

mod wire;

/// A client without a runtime: one request at a time, and pipelines for bulk.
///
/// Clones are cheap and share one connection; calls from several threads take turns. Threads that are to
/// write at the same time take a connection each, or the async [`Client`](crate::Client).
///
/// When the connection breaks in the middle of a read, that fails with [`Error::Disconnected`], and the next
/// request connects again. A write is sent again by itself and stored once, also over a restart of the
/// daemon: see [`ConnectOptions::retry_writes_for`].
///
/// ```no_run
/// # fn example() -> Result<(), fastpersist_client::Error> {
/// use fastpersist_client::blocking::Client;
///
/// let client = Client::connect_default()?;
/// let jobs = client.dated("jobs");
/// jobs.store("task_1", &serde_json::json!({"value": 100})).process_name("worker1").send()?;
///
/// let mut batch = jobs.batch();
/// for n in 2..100 {
///     batch.add(jobs.store(format!("task_{n}"), &serde_json::json!({"value": n})));
/// }
/// batch.send()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ConnectOptions,
    wire: Mutex<Option<Wire>>,
    numbers: Numbers,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody listens or the socket may not be opened.
    pub fn connect(options: ConnectOptions) -> Result<Self, Error> {
        let wire = Wire::open(&options, Deadline::after(None))?;
        let inner = Inner { options, wire: Mutex::new(Some(wire)), numbers: Numbers::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Connects with default options: to the socket of `FASTPERSIST_SOCKET`, else to that of the host's
    /// daemon, else to that of the user's own.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_default() -> Result<Self, Error> {
        Self::connect(ConnectOptions::default())
    }

    /// A handle of a dated storage.
    pub fn dated(&self, storage: &str) -> DatedStorage<Self> {
        DatedStorage::new(self.clone(), storage)
    }

    /// A handle of a collection storage.
    pub fn collection(&self, storage: &str) -> CollectionStorage<Self> {
        CollectionStorage::new(self.clone(), storage)
    }

    /// A sign of life.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    pub fn ping(&self) -> Result<(), Error> {
        self.call(call::ping())
    }

    /// Returns who the daemon is and which storages it has.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    pub fn info(&self) -> Result<Info, Error> {
        self.call(call::info())
    }

    /// Returns the daemon's counters and gauges: `daemon` for itself, `storages` by name.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    pub fn stats(&self) -> Result<serde_json::Value, Error> {
        self.call(call::stats())
    }

    /// Brings everything that was answered, in all storages, into DuckDB. Returns how many records that
    /// were. Waits as long as it takes.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    pub fn flush(&self) -> Result<u64, Error> {
        self.call(call::flush(None))
    }

    /// Sends any request of the protocol and returns the whole reply.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    pub fn request(&self, request: &Request<'_>) -> Result<Reply, Error> {
        self.call(call::request(request))
    }

    /// Sends a query whose request says [`ResultKind::Fd`](fastpersist_protocol::request::ResultKind::Fd) and
    /// takes its result over. [`Query::batches`](crate::Query::batches) makes such a request.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    #[cfg(feature = "arrow")]
    pub fn request_batches(&self, request: &Request<'_>) -> Result<crate::Batches, Error> {
        let mut line = Vec::new();
        request.write_line(None, &mut line);
        self.hand_over(Ok(line))
    }

    /// The changes of a storage, as they become durable or from any place on. The storage's name may be
    /// left out (`None`) where exactly one is configured.
    pub fn subscribe<'s>(&self, storage: impl Into<Option<&'s str>>) -> Subscribe<Self> {
        Subscribe::new(self.clone(), storage.into())
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        self.inner.options.clone()
    }

    /// Begins a request for a lock. See [`LockRequest`] for its options; nothing happens before its
    /// `acquire`.
    pub fn lock(&self, name: impl Into<String>) -> LockRequest<Self> {
        LockRequest::new(self.clone(), name.into())
    }

    /// A connection that is used for nothing else.
    pub(crate) fn own_connection(&self) -> Result<OwnConnection, Error> {
        let wire = Wire::open(&self.inner.options, Deadline::after(None))?;
        Ok(OwnConnection { wire, limit: self.inner.options.request_timeout })
    }

    /// The socket of the present connection.
    pub fn socket(&self) -> Option<Socket> {
        let wire = self.inner.wire.lock().unwrap_or_else(PoisonError::into_inner);
        wire.as_ref().map(|wire| wire.socket.clone())
    }
}

impl sealed::Sealed for Client {}

impl Caller for Client {
    type Answer<T: Send + 'static> = Result<T, Error>;

    fn call<T: Send + 'static>(&self, call: Call<T>) -> Result<T, Error> {
        let line = call.line?;
        let limit = self.inner.options.request_timeout.filter(|_| call.bounded);
        let reply = match self.inner.delivery(call.delivery) {
            Delivery::Once => self.inner.talk(limit, |wire, deadline| {
                wire.send(&line, deadline)?;
                wire.receive(deadline).map_err(Broken::Midway)
            })?,
            delivery => {
                let replies = self.inner.deliver(vec![(line, delivery)], limit);
                replies.into_iter().next().unwrap_or_else(|| Err(missing()))?
            }
        };
        (call.decode)(&reply)
    }

    #[cfg(feature = "arrow")]
    fn hand_over(&self, line: Result<Vec<u8>, Error>) -> Result<crate::Batches, Error> {
        crate::batches::fetch_blocking(&self.inner.options, &line?)
    }

    fn call_each<T: Send + 'static>(&self, calls: Vec<Call<T>>) -> Result<Vec<Result<T, Error>>, Error> {
        let limit = self.inner.options.request_timeout;
        let mut sent = calls.iter().filter(|call| call.line.is_ok());
        let again = sent.all(|call| self.inner.delivery(call.delivery) != Delivery::Once);
        let lines = calls.iter().filter_map(|call| Some((call.line.as_ref().ok()?, call.delivery)));
        let replies = if again {
            self.inner.deliver(lines.map(|(line, delivery)| (line.clone(), delivery)).collect(), limit)
        } else {
            let lines: Vec<&[u8]> = lines.map(|(line, _)| line.as_slice()).collect();
            let piped = self.inner.talk(limit, |wire, first| wire.pipeline(&lines, first, limit))?;
            let end = piped.end.unwrap_or_else(missing);
            let mut replies = piped.replies;
            replies.resize_with(lines.len(), || Err(end.clone()));
            replies
        };
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_else(|| Err(missing()));
        Ok(calls
            .into_iter()
            .map(|call| match call.line {
                Ok(_) => next().and_then(|reply| (call.decode)(&reply)),
                Err(error) => Err(error),
            })
            .collect())
    }
}

fn missing() -> Error {
    Error::disconnected("a reply is missing")
}

impl Inner {
    /// Talks on the present connection, or on a new one where there is none, or where the old one turns
    /// out to be dead before it took anything.
    fn talk<R>(
        &self,
        limit: Option<Duration>,
        mut say: impl FnMut(&mut Wire, Deadline) -> Result<R, Broken>,
    ) -> Result<R, Error> {
        let mut slot = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Deadline::after(limit);
        let old = slot.take();
        let reused = old.is_some();
        let mut wire = match old {
            Some(wire) => wire,
            None => Wire::open(&self.options, deadline)?,
        };
        let mut outcome = say(&mut wire, deadline);
        if let (true, Err(Broken::NothingSent(_))) = (reused, &outcome) {
            wire = Wire::open(&self.options, deadline)?;
            outcome = say(&mut wire, deadline);
        }
        keep(&mut slot, wire);
        outcome.map_err(|(Broken::NothingSent(error) | Broken::Midway(error))| error)
    }
}

/// Keeps a connection for the next call, if it owes nothing.
fn keep(slot: &mut Option<Wire>, wire: Wire) {
    if !wire.broken && wire.is_read() {
        *slot = Some(wire);
    }
}

impl Inner {
    /// How often a request may be sent, by the options too.
    fn delivery(&self, asked: Delivery) -> Delivery {
        if self.options.retry_writes_for.is_zero() { Delivery::Once } else { asked }
    }

    /// Sends writes until all are answered, each under its number; over new connections too, where the old
    /// one breaks. Nobody else sends meanwhile, so their order is that of the numbers.
    fn deliver(&self, lines: Vec<(Vec<u8>, Delivery)>, limit: Option<Duration>) -> Vec<Outcome> {
        let mut slot = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have a lane in common are so far from each other that only one is under way.
        let number = |((line, delivery), lane): ((Vec<u8>, Delivery), u32)| match delivery {
            Delivery::Number => self.numbers.number(&line),
            Delivery::NumberAlone => self.numbers.number_alone(&line, lane),
            Delivery::Numbered | Delivery::Once => line,
        };
        let numbers = (0..UNANSWERED_REQUESTS).cycle();
        let lines: Vec<Vec<u8>> = lines.into_iter().zip(numbers).map(number).collect();
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let mut tries = Tries { replies: Vec::with_capacity(lines.len()), repeated: 0 };
        let time = limit.unwrap_or(Duration::MAX).min(self.options.retry_writes_for);
        let mut begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut is_first = true;
        let mut nobody = None;
        while tries.replies.len() < lines.len() {
            let known = tries.replies.len();
            let was_open = slot.is_some();
            let deadline = Deadline::after(limit.map(|limit| limit.saturating_sub(begun.elapsed())));
            let Err(broken) = self.try_deliver(&mut slot, &lines, deadline, limit, &mut tries) else { break };
            let is_untouched = matches!(broken, Broken::NothingSent(_));
            let (Broken::NothingSent(error) | Broken::Midway(error)) = broken;
            // A daemon that goes on answering gets time anew.
            if tries.replies.len() > known {
                begun = Instant::now();
                pause = FIRST_PAUSE;
            }
            // A connection that ended while nobody used it says nothing of the daemon.
            if is_untouched && was_open {
                continue;
            }
            let is_refused = std::mem::take(&mut is_first) && matches!(error, Error::Daemon(_));
            // That no time is left is no news behind why it is used up.
            let error = match (error, nobody.take()) {
                (Error::Timeout { .. }, Some(before)) if is_untouched => before,
                (error, _) => error,
            };
            nobody = is_untouched.then(|| error.clone());
            thread::sleep(pause.min(time.saturating_sub(begun.elapsed())));
            pause = next_pause(pause);
            if is_refused || matches!(error, Error::Timeout { .. }) || begun.elapsed() >= time {
                tries.end(lines.len(), &error.allowing(limit));
            }
        }
        tries.replies
    }

    /// Sends the lines that have no reply yet on the present connection, or on a new one, and adds the replies that
    /// come. An error is why there are no more.
    fn try_deliver(
        &self,
        slot: &mut Option<Wire>,
        lines: &[&[u8]],
        deadline: Deadline,
        limit: Option<Duration>,
        tries: &mut Tries,
    ) -> Result<(), Broken> {
        let known = tries.replies.len();
        let opened = slot.take().map_or_else(|| Wire::open(&self.options, deadline), Ok);
        let mut wire = opened.map_err(Broken::NothingSent)?;
        let piped = wire.pipeline(&lines[known..], deadline, limit)?;
        for outcome in piped.replies {
            // It refuses whatever comes behind this one too.
            if is_shutting_down(&outcome) {
                return Err(Broken::NothingSent(Error::disconnected("the daemon is stopping")));
            }
            tries.add(outcome);
        }
        match piped.end {
            None => {
                keep(slot, wire);
                Ok(())
            }
            Some(error) => {
                // A daemon that refuses the connection has taken nothing from it, but an earlier one may have.
                if !matches!(error, Error::Daemon(_)) {
                    tries.repeated = tries.repeated.max(known + piped.begun);
                }
                Err(Broken::Midway(error))
            }
        }
    }
}

/// What became of writes over one connection and the next.
struct Tries {
    replies: Vec<Outcome>,
    /// The writes before this one may have been done on an earlier connection.
    repeated: usize,
}

impl Tries {
    fn add(&mut self, outcome: Outcome) {
        let is_repeated = self.replies.len() < self.repeated;
        self.replies.push(if is_repeated { of_repetition(outcome) } else { outcome });
    }

    /// Gives all of `count` writes that have no reply this error.
    fn end(&mut self, count: usize, error: &Error) {
        self.replies.resize_with(self.repeated.max(self.replies.len()), || Err(error.clone().unanswered()));
        self.replies.resize_with(count, || Err(error.clone()));
    }
}
