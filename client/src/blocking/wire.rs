//! The blocking client's connection: lines out, lines in, every wait bounded.
//!
//! Invariant: once a reply may come that nobody waits for, the connection counts as broken.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fastpersist_protocol::frame::{Line, LineBuffer};

use crate::connection::Outcome;
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::reply;
use crate::socket::{Socket, open_blocking};

/// How much of a pipeline is written before replies are read. Replies to writes are small, so those of
/// two windows fit the daemon's and the socket's buffers, and neither side waits for the other.
const WINDOW_REQUESTS: usize = 256;
/// So many requests of a pipeline have no answer yet at most: those of two windows.
pub(super) const UNANSWERED_REQUESTS: u32 = 2 * WINDOW_REQUESTS as u32;
const WINDOW_BYTES: usize = 64 << 10;
/// How long an error line is waited for after the daemon has hung up.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A conversation that did not come to its end.
pub(super) enum Broken {
    /// Not a byte was taken from us: the same may be tried on a new connection.
    NothingSent(Error),
    Midway(Error),
}

/// How far a pipeline has come.
pub(super) struct Piped {
    /// The replies that came, those of the first lines.
    pub(super) replies: Vec<Outcome>,
    /// So many lines may have been taken from us.
    pub(super) begun: usize,
    /// What broke the connection. None of the lines is tried again here, because that could change their order.
    pub(super) end: Option<Error>,
}

/// The end of the time allowed.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    end: Option<(Instant, Duration)>,
}

impl Deadline {
    /// A time that no clock can show is none.
    pub(super) fn after(limit: Option<Duration>) -> Self {
        Self { end: limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit))) }
    }

    /// What is left, `None` for all the time in the world.
    pub(super) fn left(self) -> Result<Option<Duration>, Error> {
        let Some((at, after)) = self.end else { return Ok(None) };
        let left = at.saturating_duration_since(Instant::now());
        // A socket takes a timeout of zero for none at all.
        if left.is_zero() { Err(Error::Timeout { after }) } else { Ok(Some(left)) }
    }

    fn error(self, error: &io::Error) -> Error {
        match (error.kind(), self.end) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some((_, after))) => {
                Error::Timeout { after }
            }
            _ => Error::disconnected(error),
        }
    }
}

/// A connection that is used for one thing only, and how long a request on it may take.
pub(crate) struct OwnConnection {
    pub(super) wire: Wire,
    pub(super) limit: Option<Duration>,
}

impl OwnConnection {
    /// One request and its reply; `wait` is the time that it may take beyond the usual.
    pub(crate) fn ask(&mut self, line: &[u8], wait: Duration) -> Result<Vec<u8>, Error> {
        let deadline = Deadline::after(self.limit.map(|limit| limit.saturating_add(wait)));
        let sent = self.wire.send(line, deadline);
        sent.map_err(|(Broken::NothingSent(error) | Broken::Midway(error))| error)?;
        self.wire.receive(deadline)
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.wire.stream
    }
}

/// One connection.
pub(super) struct Wire {
    stream: UnixStream,
    pub(super) socket: Socket,
    lines: LineBuffer,
    /// A reply may still come for a request that was given up, or none will come any more.
    pub(super) broken: bool,
}

impl Wire {
    pub(super) fn open(options: &ConnectOptions, deadline: Deadline) -> Result<Self, Error> {
        let (stream, socket) = open_blocking(options, deadline.left()?)?;
        let lines = LineBuffer::new(options.max_reply_bytes);
        Ok(Self { stream, socket, lines, broken: false })
    }

    /// Sends a request where no answer is owed.
    pub(super) fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Broken> {
        self.write_all(bytes, deadline).map_err(|broken| match (self.last_words(), broken) {
            (Some(words), _) => Broken::Midway(words),
            (None, broken) => broken,
        })
    }

    fn write_all(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Broken> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.write_some(rest, deadline) {
                Ok(count) => rest = &rest[count..],
                Err(error) => {
                    self.broken = true;
                    let untouched = rest.len() == bytes.len();
                    return Err(if untouched { Broken::NothingSent(error) } else { Broken::Midway(error) });
                }
            }
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8], deadline: Deadline) -> Result<usize, Error> {
        self.stream.set_write_timeout(deadline.left()?).map_err(Error::disconnected)?;
        loop {
            match self.stream.write(bytes) {
                Ok(0) => return Err(Error::disconnected("the daemon takes no more")),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(deadline.error(&error)),
            }
        }
    }

    /// Whether everything that came was asked for.
    pub(super) fn is_read(&self) -> bool {
        self.lines.is_empty()
    }

    /// Why the daemon hung up, where it said so before.
    fn last_words(&mut self) -> Option<Error> {
        let line = self.receive(Deadline::after(Some(LAST_WORDS)));
        line.err().filter(|error| matches!(error, Error::Daemon(_)))
    }

    /// The next reply line.
    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let received = self.receive_line(deadline);
        if !matches!(received, Ok(_) | Err(Error::Protocol(_))) {
            self.broken = true;
        }
        received
    }

    fn receive_line(&mut self, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let line = self.line(deadline)?;
        if reply::closes_connection(&line) {
            return Err(reply::check(&line).err().unwrap_or_else(|| Error::disconnected("refused")));
        }
        Ok(line)
    }

    /// The next line, whatever it is.
    pub(super) fn line(&mut self, deadline: Deadline) -> Result<Vec<u8>, Error> {
        loop {
            if let Some((line, next)) = self.lines.peek(0) {
                let received = match line {
                    Line::TooLong => Err(Error::Protocol("it is longer than max_reply_bytes".to_owned())),
                    Line::Bytes(line) => Ok(line.to_vec()),
                };
                self.lines.consume(next);
                return received;
            }
            // Tells the buffer that everything in it has been looked at.
            self.lines.consume(0);
            self.stream.set_read_timeout(deadline.left()?).map_err(Error::disconnected)?;
            match self.stream.read(self.lines.space()) {
                Ok(0) => return Err(Error::disconnected("the daemon closed it")),
                Ok(count) => self.lines.fill(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(deadline.error(&error)),
            }
        }
    }

    /// Sends all lines, reading replies on the way, until the connection breaks. `first` is the end of the time for the
    /// first of them, and `limit` what those behind have.
    pub(super) fn pipeline(
        &mut self,
        lines: &[&[u8]],
        first: Deadline,
        limit: Option<Duration>,
    ) -> Result<Piped, Broken> {
        let mut replies = Vec::with_capacity(lines.len());
        let mut sent = 0;
        let (mut deadline, mut due) = (first, first);
        loop {
            let window = window(&lines[sent..]);
            let mut begun = sent + window.len();
            let step = match self.write_all(&window.concat(), deadline) {
                // The replies of the window before; this one's are on their way meanwhile.
                Ok(()) => self.receive_until(sent, &mut replies, due),
                Err(Broken::NothingSent(error)) if sent == 0 => {
                    return Err(self.last_words().map_or(Broken::NothingSent(error), Broken::Midway));
                }
                Err(broken) => {
                    let words = self.last_replies(begun, &mut replies);
                    if matches!(broken, Broken::NothingSent(_)) {
                        begun = sent;
                    }
                    let (Broken::NothingSent(error) | Broken::Midway(error)) = broken;
                    Err(words.unwrap_or(error))
                }
            };
            if step.is_err() || window.is_empty() {
                return Ok(Piped { replies, begun, end: step.err() });
            }
            sent = begun;
            due = deadline;
            deadline = Deadline::after(limit);
        }
    }

    /// Adds replies until there are `count`, or the connection breaks.
    fn receive_until(
        &mut self,
        count: usize,
        replies: &mut Vec<Outcome>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        while replies.len() < count {
            match self.receive(deadline) {
                Err(error) if !matches!(error, Error::Protocol(_)) => return Err(error),
                reply => replies.push(reply),
            }
        }
        Ok(())
    }

    /// When nothing more can be sent: adds the replies, at most until there are `count`, that the daemon gave before it hung
    /// up. What it refused would look like a repetition when it came again behind what it stored. Answers why it hung up,
    /// where it said so.
    fn last_replies(&mut self, count: usize, replies: &mut Vec<Outcome>) -> Option<Error> {
        match self.receive_until(count, replies, Deadline::after(Some(LAST_WORDS))) {
            Ok(()) => self.last_words(),
            Err(error) => Some(error).filter(|error| matches!(error, Error::Daemon(_))),
        }
    }
}

/// As many of the lines as are written at once.
fn window<'l, 'b>(lines: &'l [&'b [u8]]) -> &'l [&'b [u8]] {
    let mut bytes = 0;
    let fitting = lines.iter().take(WINDOW_REQUESTS).take_while(|line| {
        let fits = bytes == 0 || bytes + line.len() <= WINDOW_BYTES;
        bytes += line.len();
        fits
    });
    &lines[..fitting.count()]
}
