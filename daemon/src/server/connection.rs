//! One connection: bounded lines in, answers in order, bounded answers out.
//!
//! The task reads what there is, works on every complete line ([`super::pass`]), writes the answers, and
//! waits. A client that sends without reading is served until `max_output_bytes` of answers wait for it;
//! then nothing more is read from it, and when it takes nothing for `output_stall_timeout_ms` it is
//! disconnected. Subscriptions write their events between the answers ([`super::subscriptions`]).
//!
//! Invariant: every complete line that was read is answered, in order, unless the client is gone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::frame::{Line, LineBuffer};
use fastpersist_protocol::reply;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::access::Peer;
use super::dispatch::Dispatcher;
use super::locks::ConnectionLocks;
use super::pass::Pass;
use super::subscriptions::Subscriptions;
use super::wire::Wire;
use super::{Server, errors};

/// How long a stopping daemon waits for a client to take its last answers.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether a client that sends no more, but has subscriptions, is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the connection waits for.
enum Event {
    Ready,
    Stopping,
    Stalled,
    HungUp,
}

/// One connection; see the module.
#[derive(Debug)]
pub struct Connection {
    wire: Arc<Wire>,
    /// Freed when the connection is dropped.
    locks: ConnectionLocks,
    peer: Peer,
    server: Arc<Server>,
    stopping: watch::Receiver<bool>,
    subscriptions: Subscriptions,
    input: LineBuffer,
    /// Answers that are not yet given to the wire.
    answers: Vec<u8>,
    ended: bool,
}

impl Connection {
    /// A connection that was accepted and counted.
    pub fn new(stream: UnixStream, peer: Peer, server: Arc<Server>) -> Self {
        let input = LineBuffer::new(server.config.limits.max_line_bytes);
        let stopping = server.stopping.clone();
        let wire = Arc::new(Wire::new(stream));
        let subscriptions = Subscriptions::new(&wire);
        let locks = ConnectionLocks::new(&server, &peer, &wire);
        Self { wire, locks, peer, server, stopping, subscriptions, input, answers: Vec::new(), ended: false }
    }

    /// Serves the client until it is gone or the daemon stops.
    pub async fn serve(mut self) {
        match self.run().await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tracing::info!(uid = self.peer.uid, pid = ?self.peer.pid, %error, "a client was disconnected");
            }
            Err(error) => tracing::debug!(uid = self.peer.uid, %error, "a connection broke"),
        }
        self.subscriptions.end_all();
        // A leader may still hold the wire; the client learns of the end when that is over.
        self.wire.committed().await;
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            // Empty lines have no answer that could be waited for: who sends nothing else would keep the thread.
            tokio::task::coop::consume_budget().await;
            self.wire.push(&mut self.answers)?;
            if *self.stopping.borrow() {
                return self.drain().await;
            }
            if !self.is_full() && self.input.peek(0).is_some() {
                self.process().await?;
                continue;
            }
            if self.ended {
                self.wire.committed().await;
                // Those first: with the last event they are gone.
                if !self.subscriptions.any() && self.wire.waiting() == 0 {
                    return Ok(());
                }
            }
            // Also when the client has just said that it sends no more.
            if self.wants_input() && (self.read()? || self.ended) {
                continue;
            }
            match self.wait().await? {
                Event::Ready => {}
                Event::Stopping => return self.drain().await,
                Event::HungUp => return Ok(()),
                Event::Stalled => {
                    let waiting = self.wire.waiting();
                    let message = format!("{waiting} bytes of answers wait and the client reads none");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.wire.waiting() > self.server.config.limits.max_output_bytes || self.wire.holds_many_handovers()
    }

    fn wants_input(&self) -> bool {
        !self.ended && !self.is_full()
    }

    /// Reads what there is; answers whether there was anything.
    fn read(&mut self) -> io::Result<bool> {
        match self.wire.read(self.input.space())? {
            None => Ok(false),
            Some(0) => {
                // Half-closed: what was asked is answered, half a line is nobody's.
                self.ended = true;
                Ok(false)
            }
            Some(count) => {
                self.input.fill(count);
                // Half a line may be over its limit already.
                if self.input.peek(0).is_none() {
                    self.input.consume(0);
                }
                Ok(true)
            }
        }
    }

    async fn wait(&mut self) -> io::Result<Event> {
        let waiting = self.wire.waiting() > 0;
        let interest = match (self.wants_input(), waiting) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        let only_told = self.ended && self.subscriptions.any();
        let stalled_at = match self.wire.stalled_since() {
            Some(since) if self.is_full() || (self.ended && !only_told) => {
                Some(since + self.server.config.limits.output_stall_timeout)
            }
            _ => None,
        };
        let stalled = async {
            match stalled_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let hung_up = async {
            if !only_told || waiting {
                return std::future::pending().await;
            }
            while !self.wire.is_hung_up().await {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            ready = self.wire.ready(interest) => ready.map(|()| Event::Ready),
            () = hung_up => Ok(Event::HungUp),
            _ = self.stopping.wait_for(|stopping| *stopping) => Ok(Event::Stopping),
            () = stalled => Ok(Event::Stalled),
        }
    }

    /// Works on every complete line that was read, once the answers before are on their way.
    async fn process(&mut self) -> io::Result<()> {
        self.wire.committed().await;
        let limits = &self.server.config.limits;
        let out = &mut self.answers;
        let mut waiting = self.wire.waiting();
        let mut at = 0;
        let held = (&self.subscriptions, &self.locks);
        let mut dispatcher = Dispatcher::new(&self.server, &self.peer, held);
        let mut pass = Pass::new(&self.server);
        let mut pass_from = 0;
        while let Some((line, next)) = self.input.peek(at) {
            match line {
                Line::Bytes([]) => {}
                Line::Bytes(line) => dispatcher.line(line, &mut pass, out).await,
                Line::TooLong => dispatcher.too_long(&mut pass, out),
            }
            at = next;
            if self.subscriptions.has_pushed() {
                waiting = self.wire.waiting();
            }
            let in_flight = at - pass_from;
            if pass.len() >= limits.max_inflight_requests || in_flight >= limits.max_inflight_bytes {
                pass.finish(out).await;
                pass_from = at;
            }
            if out.len() + waiting + pass.staged_bytes() > limits.max_output_bytes
                || self.wire.holds_many_handovers()
            {
                break;
            }
        }
        drop(dispatcher);
        pass.end(&self.wire, out).await?;
        self.input.consume(at);
        Ok(())
    }

    /// The daemon stops: what was read is answered, what comes now is refused, and the client gets some
    /// time to take it.
    async fn drain(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        self.subscriptions.end_all();
        while self.input.peek(0).is_some() {
            // Not under the timeout: whoever commits has to come to the end.
            self.process().await?;
            if !self.send_all(deadline).await? {
                return Ok(());
            }
        }
        while !self.ended && Instant::now() < deadline && self.read()? {
            tokio::task::coop::consume_budget().await;
            let mut at = 0;
            while let Some((line, next)) = self.input.peek(at) {
                if line != Line::Bytes(&[]) {
                    self.server.stats.requests.note_error(None, ErrorCode::ShuttingDown);
                    reply::error(&mut self.answers, id_of(line), &errors::shutting_down());
                }
                at = next;
            }
            self.input.consume(at);
            if !self.send_all(deadline).await? {
                return Ok(());
            }
        }
        self.send_all(deadline).await.map(drop)
    }

    /// Waits until the client has taken every answer; answers false when it did not in time.
    async fn send_all(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            self.wire.committed().await;
            self.wire.push(&mut self.answers)?;
            if self.wire.waiting() == 0 {
                return Ok(true);
            }
            let writable = self.wire.ready(Some(Interest::WRITABLE));
            match tokio::time::timeout_at(deadline.into(), writable).await {
                Ok(ready) => ready?,
                Err(_) => return Ok(false),
            }
        }
    }
}

/// The id of a request that is not worked on.
fn id_of(line: Line<'_>) -> Option<&str> {
    match line {
        Line::Bytes(line) => {
            fastpersist_protocol::request::parse(line, fastpersist_protocol::request::ParseLimits::default())
                .id
        }
        Line::TooLong => None,
    }
}
