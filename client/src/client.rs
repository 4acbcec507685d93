//! The async client.
//!
//! Invariant: a read is sent at most once. Where it is certain that nothing of it was sent, because the
//! connection had ended before, it goes over a new one; in every other case the caller decides. A write is
//! sent until it is answered, under a number by which the daemon recognises a repetition.

use std::fmt;
use std::future::{Future, poll_fn};
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fastpersist_protocol::request::Request;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::call::{self, Call, Caller, sealed};
use crate::changes::Subscribe;
use crate::connection::{Connection, Outcome, Sending};
use crate::error::Error;
use crate::lock::LockRequest;
use crate::options::ConnectOptions;
use crate::outcome::Info;
use crate::reply::Reply;
use crate::resend::{Delivery, FIRST_PAUSE, Resender, next_pause};
use crate::socket::{RETRY_PAUSE, Socket, open_first, too_busy};
use crate::storage::{CollectionStorage, DatedStorage};

/// An async client: many requests at the same time on one connection.
///
/// It needs a tokio runtime with I/O and time. Clones are cheap and share the connection; a program
/// needs one client, however many tasks it has. Requests that are under way together travel together,
/// and the daemon makes them durable together, so many tasks with a client each in common are fast.
///
/// When the connection breaks, reads that are under way fail with [`Error::Disconnected`], and the next
/// request connects again. Writes are sent again by themselves and stored once, also over a restart of the
/// daemon: see [`ConnectOptions::retry_writes_for`]. Dropping an answer's future does not take back a request that is sent.
///
/// ```no_run
/// # async fn example() -> Result<(), fastpersist_client::Error> {
/// use fastpersist_client::Client;
///
/// let client = Client::connect_default().await?;
/// let jobs = client.dated("jobs");
/// let stored = jobs
///     .store("task_1", &serde_json::json!({"value": 100, "status": "running"}))
///     .process_name("worker1")
///     .send()
///     .await?;
/// println!("stored as {}", stored.seq);
///
/// if let Some(record) = jobs.get_key_process("task_1", Some("worker1")).await? {
///     println!("{} is {:?}: {}", record.key, record.status, record.data_json());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: ConnectOptions,
    permits: Arc<Semaphore>,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that many requests after a break make one connection.
    connecting: AsyncMutex<()>,
    /// Held by the one who sees to a connection of all that wait for a permit.
    turn: AsyncMutex<()>,
    socket: Mutex<Option<Socket>>,
    /// `None` where writes are sent at most once.
    resender: Option<Arc<Resender>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

/// The future of an answer. Nothing is sent before it is first polled.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Answer<T> {
    future: Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>,
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(context)
    }
}

impl Client {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody listens or the socket may not be opened.
    pub async fn connect(options: ConnectOptions) -> Result<Self, Error> {
        let inner = Inner {
            permits: Arc::new(Semaphore::new(options.max_in_flight)),
            resender: (!options.retry_writes_for.is_zero()).then(|| Arc::new(Resender::new())),
            options,
            current: Mutex::new(None),
            connecting: AsyncMutex::new(()),
            turn: AsyncMutex::new(()),
            socket: Mutex::new(None),
        };
        inner.connection().await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Connects with default options: to the socket of `FASTPERSIST_SOCKET`, else to that of the host's
    /// daemon, else to that of the user's own.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_default() -> Result<Self, Error> {
        Self::connect(ConnectOptions::default()).await
    }

    /// A handle of a dated storage.
    pub fn dated(&self, storage: &str) -> DatedStorage<Self> {
        DatedStorage::new(self.clone(), storage)
    }

    /// A handle of a collection storage.
    pub fn collection(&self, storage: &str) -> CollectionStorage<Self> {
        CollectionStorage::new(self.clone(), storage)
    }

    /// A sign of life. Errors as every request; see [`Caller`].
    pub fn ping(&self) -> Answer<()> {
        self.call(call::ping())
    }

    /// Returns who the daemon is and which storages it has.
    pub fn info(&self) -> Answer<Info> {
        self.call(call::info())
    }

    /// Returns the daemon's counters and gauges: `daemon` for itself, `storages` by name.
    pub fn stats(&self) -> Answer<serde_json::Value> {
        self.call(call::stats())
    }

    /// Brings everything that was answered, in all storages, into DuckDB. Returns how many records that
    /// were. Waits as long as it takes.
    pub fn flush(&self) -> Answer<u64> {
        self.call(call::flush(None))
    }

    /// Sends any request of the protocol and returns the whole reply.
    pub fn request(&self, request: &Request<'_>) -> Answer<Reply> {
        self.call(call::request(request))
    }

    /// Sends a query whose request says [`ResultKind::Fd`](fastpersist_protocol::request::ResultKind::Fd) and
    /// takes its result over. [`Query::batches`](crate::Query::batches) makes such a request.
    ///
    /// # Errors
    /// As every request; see [`Caller`].
    #[cfg(feature = "arrow")]
    pub fn request_batches(&self, request: &Request<'_>) -> Answer<crate::Batches> {
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

    /// A connection that is used for nothing else, and how long a request on it may take.
    pub(crate) async fn own_connection(&self) -> Result<(Arc<Connection>, Option<Duration>), Error> {
        let (stream, socket) = open(&self.inner.options).await?;
        let started = Connection::start(stream, self.inner.options.max_reply_bytes, None);
        let connection = started.map_err(|error| Error::connect(socket, error))?;
        Ok((Arc::new(connection), self.inner.options.request_timeout))
    }

    /// The socket of the last connection.
    pub fn socket(&self) -> Option<Socket> {
        self.inner.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl sealed::Sealed for Client {}

impl Caller for Client {
    type Answer<T: Send + 'static> = Answer<T>;

    fn call<T: Send + 'static>(&self, call: Call<T>) -> Answer<T> {
        let inner = Arc::clone(&self.inner);
        Answer { future: Box::pin(async move { inner.run(call).await }) }
    }

    #[cfg(feature = "arrow")]
    fn hand_over(&self, line: Result<Vec<u8>, Error>) -> Answer<crate::Batches> {
        let inner = Arc::clone(&self.inner);
        Answer { future: Box::pin(async move { crate::batches::fetch(&inner.options, &line?).await }) }
    }

    fn call_each<T: Send + 'static>(&self, calls: Vec<Call<T>>) -> Answer<Vec<Result<T, Error>>> {
        let inner = Arc::clone(&self.inner);
        Answer { future: Box::pin(async move { Ok(inner.run_each(calls).await) }) }
    }
}

impl Inner {
    async fn run<T>(&self, call: Call<T>) -> Result<T, Error> {
        let line = call.line?;
        let limit = self.options.request_timeout.filter(|_| call.bounded);
        let reply = within(limit, self.exchange(&line, call.delivery)).await?;
        (call.decode)(&reply)
    }

    async fn exchange(&self, line: &[u8], delivery: Delivery) -> Outcome {
        let pending = self.submit(line, delivery, self.options.retry_writes_for).await?;
        self.answer(pending).await
    }

    /// Sends all before it waits for the first, so that they travel together.
    async fn run_each<T>(&self, calls: Vec<Call<T>>) -> Vec<Result<T, Error>> {
        let limit = self.options.request_timeout;
        let mut sent = Vec::with_capacity(calls.len());
        // Why the one before could not be sent.
        let mut before = None;
        for call in calls {
            let begun = Instant::now();
            let submitted = match (call.line, &before) {
                (Ok(line), None) => self.submit_within(limit, &line, call.delivery).await,
                (Ok(line), Some(before)) => self.submit_behind(before, &line, call.delivery).await,
                (Err(error), _) => {
                    sent.push((Err(error), begun, call.decode));
                    continue;
                }
            };
            before = submitted.as_ref().err().cloned();
            sent.push((submitted, begun, call.decode));
        }
        let mut results = Vec::with_capacity(sent.len());
        for (submitted, begun, decode) in sent {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            let reply = match submitted {
                Ok(pending) => {
                    within(left, self.answer(pending)).await.map_err(|error| error.allowing(limit))
                }
                Err(error) => Err(error),
            };
            results.push(reply.and_then(|reply| decode(&reply)));
        }
        results
    }

    async fn submit_within(
        &self,
        limit: Option<Duration>,
        line: &[u8],
        delivery: Delivery,
    ) -> Result<Pending, Error> {
        within(limit, self.submit(line, delivery, self.options.retry_writes_for)).await
    }

    /// Submits a request behind one that could not be submitted in all the time that it had. This one had the same time:
    /// if each were given its own, many would take as long as all of theirs together.
    async fn submit_behind(&self, before: &Error, line: &[u8], delivery: Delivery) -> Result<Pending, Error> {
        // Lets the connection's tasks take in what has come.
        tokio::task::yield_now().await;
        let at_once = {
            let mut submitted = pin!(self.submit(line, delivery, Duration::ZERO));
            poll_fn(|context| Poll::Ready(submitted.as_mut().poll(context))).await
        };
        match (at_once, before) {
            (Poll::Ready(submitted), _) => submitted,
            (Poll::Pending, Error::Timeout { .. }) => Err(before.clone()),
            (Poll::Pending, _) if self.living().is_none() => Err(before.clone()),
            // The daemon is back, and has yet to answer what goes before.
            (Poll::Pending, _) => self.submit_within(self.options.request_timeout, line, delivery).await,
        }
    }

    /// Puts a line on a connection, a new one where the present one has ended. A write is tried as long as
    /// nobody listens, for `time`.
    async fn submit(&self, line: &[u8], delivery: Delivery, time: Duration) -> Result<Pending, Error> {
        let begun = Instant::now();
        let again = begun + self.options.retry_writes_for;
        let sending = Sending { line, delivery, until: again.into_std() };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.submit_once(&sending, begun + time).await {
                // Nothing of it was sent: nobody listens, or what was connected to was gone at once.
                Err(Error::Connect { .. } | Error::Disconnected { .. })
                    if delivery != Delivery::Once && begun.elapsed() < time =>
                {
                    sleep(pause).await;
                    pause = next_pause(pause);
                }
                submitted => return submitted,
            }
        }
    }

    async fn submit_once(&self, sending: &Sending<'_>, until: Instant) -> Result<Pending, Error> {
        let permit = self.permit(until).await?;
        let until = sending.until.into();
        let connection = self.connection().await?;
        let (ended, permit) = match connection.submit(sending, permit) {
            Ok(answer) => return Ok(Pending { answer, until, _connection: connection }),
            Err((_, permit)) => (connection, permit),
        };
        // It ended between the two lines above. A second time it is the daemon that refuses.
        drop(ended);
        let connection = self.connection().await?;
        match connection.submit(sending, permit) {
            Ok(answer) => Ok(Pending { answer, until, _connection: connection }),
            Err((end, _)) => Err(end),
        }
    }

    /// A request's place among those under way. What goes over to the next connection keeps its own, and where that is all
    /// of them, somebody has to make that connection; of those who wait, one is enough.
    async fn permit(&self, until: Instant) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let mut permit = pin!(Arc::clone(&self.permits).acquire_owned());
        let permit = tokio::select! {
            biased;
            permit = &mut permit => permit,
            _turn = self.turn.lock() => self.connected_until(&mut permit, until).await?,
        };
        // The semaphore is never closed.
        permit.map_err(|_| lost())
    }

    async fn answer(&self, mut pending: Pending) -> Outcome {
        match self.connected_until(&mut pending.answer, pending.until).await {
            Ok(outcome) => outcome.unwrap_or_else(|_| Err(lost())),
            Err(error) => Err(error.unanswered()),
        }
    }

    /// Waits for `done`. When a connection breaks under writes, whoever waits makes the next connection, over which
    /// all of them go; an error is why there was none when the time was over.
    async fn connected_until<T>(
        &self,
        mut done: impl Future<Output = T> + Unpin,
        until: Instant,
    ) -> Result<T, Error> {
        let Some(resender) = &self.resender else { return Ok(done.await) };
        let mut pause = Duration::ZERO;
        loop {
            let broken = resender.broken.notified();
            if !resender.is_waiting() {
                tokio::select! {
                    biased;
                    done = &mut done => return Ok(done),
                    () = broken => {}
                }
            }
            let connected = async {
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                self.connection().await
            };
            tokio::select! {
                // What is there already counts, whatever the time is.
                biased;
                done = &mut done => return Ok(done),
                connected = connected => match connected {
                    Err(error) if Instant::now() >= until => return Err(error),
                    _ => pause = next_pause(pause.max(FIRST_PAUSE)),
                },
            }
        }
    }

    fn living(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| !connection.has_ended()).cloned()
    }

    async fn connection(&self) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.living() {
            return Ok(connection);
        }
        let _guard = self.connecting.lock().await;
        if let Some(connection) = self.living() {
            return Ok(connection);
        }
        let (stream, socket) = open(&self.options).await?;
        let started = Connection::start(stream, self.options.max_reply_bytes, self.resender.clone());
        let connection = Arc::new(started.map_err(|error| Error::connect(&socket, error))?);
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

/// Connects to the first of the sockets where somebody listens.
pub(crate) async fn open(options: &ConnectOptions) -> Result<(UnixStream, Socket), Error> {
    let sockets = options.sockets();
    let deadline = Instant::now() + options.connect_timeout;
    loop {
        match open_first(&sockets)? {
            Some((stream, socket)) => return Ok((stream, socket.clone())),
            None if Instant::now() >= deadline => return Err(too_busy(&sockets)),
            None => sleep(RETRY_PAUSE).await,
        }
    }
}

/// An answer that is to come.
struct Pending {
    answer: oneshot::Receiver<Outcome>,
    /// Until when the request may be sent again.
    until: Instant,
    /// A connection lives as long as somebody holds it.
    _connection: Arc<Connection>,
}

fn lost() -> Error {
    Error::disconnected("the client's runtime stopped")
}

pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match limit {
        None => work.await,
        Some(after) => timeout(after, work).await.unwrap_or(Err(Error::Timeout { after })),
    }
}
