//! One connection: bounded lines in, answers in order, bounded answers out.
//!
//! The task reads what there is, works on every complete line ([`super::pass`]), writes the answers, and
//! waits. A client that sends without reading is served until `max_output_bytes` of answers wait for it;
//! then nothing more is read from it, and when it takes nothing for `output_stall_timeout_ms` it is
//! disconnected.
//!
//! Invariant: every complete line that was read is answered, in order, unless the client is gone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpersist_protocol::frame::{Line, LineBuffer};
use fastpersist_protocol::reply;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::access::Peer;
use super::dispatch::Dispatcher;
use super::pass::Pass;
use super::{Server, errors};

/// How long a stopping daemon waits for a client to take its last answers.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// An output buffer is kept allocated up to this size.
const KEPT_OUTPUT_BYTES: usize = 256 * 1024;

/// Answers that wait for the client to read them.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
    stalled_since: Option<Instant>,
}

impl Output {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Sends what the socket takes now.
    fn send(&mut self, stream: &UnixStream) -> io::Result<()> {
        while self.waiting() > 0 {
            match stream.try_write(&self.bytes[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.stalled_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.waiting() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_OUTPUT_BYTES);
            self.sent = 0;
        } else if self.sent > KEPT_OUTPUT_BYTES {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

/// What the connection waits for.
enum Event {
    Ready,
    Stopping,
    Stalled,
}

/// One connection; see the module.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    peer: Peer,
    server: Arc<Server>,
    stopping: watch::Receiver<bool>,
    input: LineBuffer,
    output: Output,
    ended: bool,
}

impl Connection {
    /// A connection that was accepted and counted.
    pub fn new(stream: UnixStream, peer: Peer, server: Arc<Server>) -> Self {
        let input = LineBuffer::new(server.config.limits.max_line_bytes);
        let stopping = server.stopping.clone();
        Self { stream, peer, server, stopping, input, output: Output::default(), ended: false }
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
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            self.output.send(&self.stream)?;
            if self.ended && self.output.waiting() == 0 {
                return Ok(());
            }
            if self.wants_input() && self.read()? {
                self.process().await;
                continue;
            }
            match self.wait().await? {
                Event::Ready => {}
                Event::Stopping => return self.drain().await,
                Event::Stalled => {
                    let message =
                        format!("{} bytes of answers wait and the client reads none", self.output.waiting());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.output.waiting() > self.server.config.limits.max_output_bytes
    }

    fn wants_input(&self) -> bool {
        !self.ended && !self.is_full()
    }

    /// Reads what there is; answers whether there may be complete lines now.
    fn read(&mut self) -> io::Result<bool> {
        match self.stream.try_read(self.input.space()) {
            Ok(0) => {
                // Half-closed: what was asked is answered, half a line is nobody's.
                self.ended = true;
                Ok(false)
            }
            Ok(count) => {
                self.input.fill(count);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn wait(&mut self) -> io::Result<Event> {
        let interest = match (self.wants_input(), self.output.waiting() > 0) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, _) => Interest::WRITABLE,
        };
        let stalled_at = match self.output.stalled_since {
            Some(since) if self.is_full() || self.ended => {
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
        tokio::select! {
            biased;
            ready = self.stream.ready(interest) => ready.map(|_| Event::Ready),
            _ = self.stopping.wait_for(|stopping| *stopping) => Ok(Event::Stopping),
            () = stalled => Ok(Event::Stalled),
        }
    }

    /// Works on every complete line that was read.
    async fn process(&mut self) {
        let limits = &self.server.config.limits;
        let out = &mut self.output.bytes;
        let sent = self.output.sent;
        let mut at = 0;
        let mut dispatcher = Dispatcher::new(&self.server, &self.peer);
        let mut pass = Pass::new(&self.server);
        let mut pass_from = 0;
        while let Some((line, next)) = self.input.peek(at) {
            match line {
                Line::Bytes([]) => {}
                Line::Bytes(line) => dispatcher.line(line, &mut pass, out).await,
                Line::TooLong => dispatcher.too_long(&mut pass, out),
            }
            at = next;
            let in_flight = at - pass_from;
            if pass.len() >= limits.max_inflight_requests || in_flight >= limits.max_inflight_bytes {
                pass.finish(out).await;
                pass_from = at;
            }
            if out.len() - sent > limits.max_output_bytes {
                break;
            }
        }
        pass.finish(out).await;
        drop(dispatcher);
        self.input.consume(at);
    }

    /// The daemon stops: what was read is answered, what comes now is refused, and the client gets the
    /// time to take it.
    async fn drain(&mut self) -> io::Result<()> {
        while self.read()? {
            let mut at = 0;
            while let Some((line, next)) = self.input.peek(at) {
                if line != Line::Bytes(&[]) {
                    reply::error(&mut self.output.bytes, id_of(line), &errors::shutting_down());
                }
                at = next;
            }
            self.input.consume(at);
            if self.is_full() {
                break;
            }
        }
        let taken = async {
            while self.output.waiting() > 0 {
                self.output.send(&self.stream)?;
                if self.output.waiting() > 0 {
                    self.stream.writable().await?;
                }
            }
            Ok(())
        };
        tokio::time::timeout(DRAIN_TIMEOUT, taken).await.unwrap_or(Ok(()))
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
