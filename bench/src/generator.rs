//! The clock and the sockets: one thread that keeps every connection's window full.
//!
//! Each connection sends a window in one write, waits for all of its answers, and sends the next:
//! the shape of `redis-benchmark -P`. Sockets are only watched for readability, because watching
//! for room to write would wake this thread whenever the server reads; that is asked for only
//! while a window did not fit.
//!
//! A window goes out as soon as the one before it is answered. Collecting the answers of all
//! connections first, as `redis-benchmark` does, was tried: it cost more processor time and made
//! Redis a fifth slower at 8 × 1, and changed nothing at 64 × 1.
//!
//! Invariant: a connection has at most one window under way, and after the deadline none starts.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};

use crate::error::BenchError;
use crate::load::Load;
use crate::report::{Latency, Report};
use crate::target::{SocketName, Target};
use crate::window::Window;
use crate::wire::{Answers, FastPersist, Tally, Wire};

/// Longer than any flush or disk hiccup that a server may sit through.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Holds a whole window of answers in the usual shapes, so one read empties the socket.
const READ_BYTES: usize = 64 << 10;

/// Ten minutes in nanoseconds: the largest latency that is told apart from larger ones.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// How much is written between two reads while the keys are filled.
const FILL_BYTES: usize = 64 << 10;

/// Runs a load against a storage. Where it has reads, every key is stored first, untimed.
///
/// # Errors
/// [`BenchError::BadLoad`] for parameters that cannot be used, [`BenchError::Connect`] when nobody
/// listens, and the others when the measurement broke off. Answers that are errors are counted in
/// the report instead.
pub fn run(load: &Load, target: &Target) -> Result<Report, BenchError> {
    let wire = FastPersist::new(&target.storage);
    if load.reads_percent > 0 {
        fill(load, &wire, &target.socket)?;
    }
    run_with(load, &wire, &target.socket, None)
}

/// Runs a load against any server, without filling it first; `stop` ends it before its time.
///
/// # Errors
/// As [`run`].
pub fn run_with<W: Wire>(
    load: &Load,
    wire: &W,
    socket: &SocketName,
    stop: Option<&AtomicBool>,
) -> Result<Report, BenchError> {
    load.check()?;
    let mut generator = Generator::connect(load, wire, socket)?;
    let cpu_before = thread_cpu();
    let started = Instant::now();
    generator.deadline = started + Duration::from_secs_f64(load.seconds);
    generator.drive(stop)?;
    let elapsed = generator.last_answer.duration_since(started);
    let cpu = thread_cpu().saturating_sub(cpu_before);
    Ok(Report::new(
        generator.answers,
        generator.tally,
        elapsed,
        Latency::of(&generator.latency_ns),
        load.pipeline,
        cpu,
    ))
}

/// Stores every key of the load once, in order, over one connection.
///
/// # Errors
/// As [`run`], and [`BenchError::FillRefused`] with the first error when a store failed.
pub fn fill<W: Wire>(load: &Load, wire: &W, socket: &SocketName) -> Result<(), BenchError> {
    load.check()?;
    let mut stream = socket.connect()?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    let template = wire.store(load);
    let depth = (FILL_BYTES / template.byte_count()).clamp(1, 256) as u64;
    let mut answers = W::Answers::default();
    let mut tally = Tally::default();
    let mut request = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut next = 0;
    while next < load.keys {
        let end = (next + depth).min(load.keys);
        request.clear();
        (next..end).for_each(|key| template.append_to(&mut request, key));
        stream.write_all(&request)?;
        let mut awaited = (end - next) as usize;
        while awaited > 0 {
            let bytes = read_some(&mut stream, &mut buffer)?;
            let answered = answers.count(&buffer[..bytes], &mut tally)?;
            if let Some(error) = tally.first_error {
                return Err(BenchError::FillRefused(error));
            }
            if bytes == 0 {
                return Err(closed(awaited, &tally));
            }
            awaited = awaited.checked_sub(answered).ok_or_else(too_many_answers)?;
        }
        next = end;
    }
    Ok(())
}

fn read_some(stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize, BenchError> {
    loop {
        match stream.read(buffer) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(stalled()),
            Err(error) if hung_up(&error) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

struct Connection<A> {
    stream: UnixStream,
    window: Window,
    answers: A,
    /// How much of the window is written.
    sent: usize,
    /// How many answers of the window have not come yet.
    awaited: usize,
    started: Instant,
    watches_writes: bool,
}

struct Generator<A> {
    poll: Poll,
    connections: Vec<Connection<A>>,
    buffer: Vec<u8>,
    pipeline: usize,
    deadline: Instant,
    /// Connections with a window under way.
    busy: usize,
    answers: u64,
    last_answer: Instant,
    tally: Tally,
    latency_ns: Histogram<u64>,
}

/// What a turn on one connection came to.
enum Turn {
    /// Answers are still owed.
    Waits,
    /// The last answer is there.
    Complete,
}

impl<A: Answers> Generator<A> {
    fn connect<W: Wire<Answers = A>>(load: &Load, wire: &W, socket: &SocketName) -> Result<Self, BenchError> {
        let poll = Poll::new()?;
        let now = Instant::now();
        let mut connections = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let stream = socket.connect()?;
            stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(stream);
            poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
            connections.push(Connection {
                stream,
                window: Window::new(load, wire, number),
                answers: A::default(),
                sent: 0,
                awaited: 0,
                started: now,
                watches_writes: false,
            });
        }
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .map_err(|error| BenchError::BadLoad(error.to_string()))?;
        Ok(Self {
            poll,
            connections,
            buffer: vec![0; READ_BYTES],
            pipeline: load.pipeline,
            deadline: now,
            busy: 0,
            answers: 0,
            last_answer: now,
            tally: Tally::default(),
            latency_ns,
        })
    }

    fn drive(&mut self, stop: Option<&AtomicBool>) -> Result<(), BenchError> {
        for number in 0..self.connections.len() {
            self.start_window(number, Instant::now())?;
        }
        self.busy = self.connections.len();
        let mut events = Events::with_capacity(1024);
        while self.busy > 0 {
            match self.poll.poll(&mut events, Some(STALL_LIMIT)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            if events.is_empty() {
                return Err(stalled());
            }
            for event in &events {
                let number = event.token().0;
                if event.is_writable() {
                    self.send(number)?;
                }
                if let Turn::Complete = self.receive(number, event.is_read_closed())? {
                    let now = self.finish_window(number);
                    if now < self.deadline && !stop.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                        self.start_window(number, now)?;
                    } else {
                        self.busy -= 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the time at which the connection's last answer was there.
    #[inline]
    fn finish_window(&mut self, number: usize) -> Instant {
        let now = Instant::now();
        self.last_answer = now;
        let taken = now.duration_since(self.connections[number].started);
        self.latency_ns.saturating_record(taken.as_nanos() as u64);
        now
    }

    #[inline]
    fn start_window(&mut self, number: usize, now: Instant) -> Result<(), BenchError> {
        let connection = &mut self.connections[number];
        connection.window.next();
        connection.sent = 0;
        connection.awaited = self.pipeline;
        connection.started = now;
        self.send(number)
    }

    /// Writes what is left of the window, as far as the socket takes it.
    #[inline]
    fn send(&mut self, number: usize) -> Result<(), BenchError> {
        let connection = &mut self.connections[number];
        let bytes = connection.window.bytes();
        while connection.sent < bytes.len() {
            match connection.stream.write(&bytes[connection.sent..]) {
                Ok(written) => connection.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if hung_up(&error) => {
                    return Err(self.last_words(number));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let unfinished = connection.sent < bytes.len();
        if unfinished != connection.watches_writes {
            connection.watches_writes = unfinished;
            let interest =
                if unfinished { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.poll.registry().reregister(&mut connection.stream, Token(number), interest)?;
        }
        Ok(())
    }

    /// Reads until the window is answered or the socket is empty. Readiness is reported once for
    /// each arrival, so stopping earlier would lose it. A read that did not fill the buffer has
    /// emptied the socket, unless the server has closed it (`to_the_end`): the end was reported
    /// together with the bytes before it.
    #[inline]
    fn receive(&mut self, number: usize, to_the_end: bool) -> Result<Turn, BenchError> {
        let connection = &mut self.connections[number];
        loop {
            let bytes = match connection.stream.read(&mut self.buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if hung_up(&error) => 0,
                Err(error) => return Err(error.into()),
            };
            if bytes == 0 {
                return match connection.awaited {
                    0 => Ok(Turn::Waits),
                    awaited => Err(closed(awaited, &self.tally)),
                };
            }
            let answered = connection.answers.count(&self.buffer[..bytes], &mut self.tally)?;
            self.answers += answered as u64;
            connection.awaited = connection.awaited.checked_sub(answered).ok_or_else(too_many_answers)?;
            if connection.awaited == 0 && answered > 0 {
                return Ok(Turn::Complete);
            }
            if bytes < self.buffer.len() && !to_the_end {
                return Ok(Turn::Waits);
            }
        }
    }

    /// A server that refuses a connection says why before it hangs up.
    #[cold]
    fn last_words(&mut self, number: usize) -> BenchError {
        let awaited = self.connections[number].awaited;
        match self.receive(number, true) {
            Err(error) => error,
            Ok(_) => closed(awaited, &self.tally),
        }
    }
}

/// The server closed the connection; which of the two comes depends on what it left unread.
fn hung_up(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cold]
fn closed(awaited: usize, tally: &Tally) -> BenchError {
    let said = tally.first_error.as_deref().unwrap_or("it said nothing");
    BenchError::Closed { awaited, said: said.to_owned() }
}

#[cold]
fn stalled() -> BenchError {
    BenchError::Stalled { seconds: STALL_LIMIT.as_secs() }
}

#[cold]
fn too_many_answers() -> BenchError {
    BenchError::BadAnswer("more answers came than requests were sent".to_owned())
}

/// The processor time of this thread so far, as the kernel's scheduler counts it.
fn thread_cpu() -> Duration {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_nanos)
}
