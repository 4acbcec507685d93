//! One connection of the async client: many requests on it at the same time.
//!
//! A request appends its line to a shared buffer and its answer's slot to a queue, both under one lock,
//! so lines and slots have the same order. One task writes the buffer, whatever has gathered in it, with
//! as few system calls as possible; one task reads replies and hands each to the first slot.
//!
//! Invariant: every slot is filled exactly once, by its reply or by the end of the connection, or goes over to
//! the next connection, where it may be sent again.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::frame::{Line, LineBuffer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::reply;
use crate::resend::{Delivery, Lane, Resender, of_repetition};

/// How long replies that the daemon still owes are waited for when nothing more can be sent to it.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A send buffer larger than this is given back after it was written.
const KEEP_BYTES: usize = 1 << 20;

/// What a request gets: its reply line, or why there will be none.
pub(crate) type Outcome = Result<Vec<u8>, Error>;

pub(crate) struct Connection {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

struct Shared {
    queue: Mutex<Queue>,
    /// Told when there are bytes to write.
    wake: Notify,
    /// Told when the connection has ended.
    ended: Notify,
    /// Takes over what may be sent again.
    resender: Option<Arc<Resender>>,
}

struct Queue {
    bytes: Vec<u8>,
    slots: VecDeque<Slot>,
    /// Why the connection has ended, once it has.
    end: Option<Error>,
}

/// Where an answer goes.
pub(crate) struct Slot {
    answer: oneshot::Sender<Outcome>,
    /// The line and until when it may be sent again, where it may.
    again: Option<(Vec<u8>, Instant)>,
    /// On how many connections it was put before.
    tries: u32,
    /// Whether it may have been done on one of those.
    may_be_done: bool,
    /// Nobody else has it until this is answered.
    _lane: Option<Lane>,
    /// Counts towards `max_in_flight` until the reply is here, even if nobody waits for it any more.
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }

    /// Whether it may be sent again after a connection that ended for this reason.
    fn may_go_again(&self, reason: &Error) -> bool {
        // A daemon that refuses the connection has taken nothing from it.
        let is_refused = matches!(reason, Error::Daemon(_)) && self.tries == 0;
        let in_time = self.again.as_ref().is_some_and(|(_, until)| Instant::now() < *until);
        in_time && !is_refused && !self.is_given_up()
    }
}

/// A request that is put on a connection.
pub(crate) struct Sending<'l> {
    pub(crate) line: &'l [u8],
    pub(crate) delivery: Delivery,
    /// Until when it may be sent again.
    pub(crate) until: Instant,
}

impl<'l> Sending<'l> {
    pub(crate) fn once(line: &'l [u8]) -> Self {
        Self { line, delivery: Delivery::Once, until: Instant::now() }
    }
}

impl Connection {
    /// Starts the two tasks on the current runtime. What the resender has goes first.
    pub(crate) fn start(
        stream: StdUnixStream,
        max_reply_bytes: usize,
        resender: Option<Arc<Resender>>,
    ) -> std::io::Result<Self> {
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        let mut queue = Queue { bytes: Vec::new(), slots: VecDeque::new(), end: None };
        if let Some(resender) = &resender {
            queue.slots = resender.take();
            for slot in &mut queue.slots {
                slot.tries += 1;
                queue.bytes.extend(slot.again.iter().flat_map(|(line, _)| line));
            }
        }
        let queue = Mutex::new(queue);
        let shared = Shared { queue, wake: Notify::new(), ended: Notify::new(), resender };
        let shared = Arc::new(shared);
        shared.wake.notify_one();
        let reader = Reader { shared: Arc::clone(&shared), lines: LineBuffer::new(max_reply_bytes) };
        let tasks = [
            tokio::spawn(reader.run(read)).abort_handle(),
            tokio::spawn(write_all(Arc::clone(&shared), write)).abort_handle(),
        ];
        Ok(Self { shared, tasks })
    }

    /// Puts a request in line. The error is the connection's end, and then nothing was sent.
    pub(crate) fn submit(
        &self,
        sending: &Sending<'_>,
        permit: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Outcome>, (Error, OwnedSemaphorePermit)> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.lock();
        if let Some(end) = &queue.end {
            return Err((end.clone(), permit));
        }
        let idle = queue.bytes.is_empty();
        let lane = match (&self.shared.resender, sending.delivery) {
            (Some(resender), Delivery::NumberAlone) => Some(Lane::take(resender)),
            _ => None,
        };
        let again = match (&self.shared.resender, sending.delivery) {
            (None, _) | (_, Delivery::Once) => None,
            // In here, so that the numbers have the order of the lines.
            (Some(resender), Delivery::Number) => Some(resender.numbers.number(sending.line)),
            (Some(_), Delivery::NumberAlone) => lane.as_ref().map(|lane| lane.number(sending.line)),
            (Some(_), Delivery::Numbered) => Some(sending.line.to_vec()),
        };
        queue.bytes.extend_from_slice(again.as_deref().unwrap_or(sending.line));
        let again = again.map(|line| (line, sending.until));
        queue.slots.push_back(Slot {
            answer,
            again,
            tries: 0,
            may_be_done: false,
            _lane: lane,
            _permit: permit,
        });
        drop(queue);
        if idle {
            self.shared.wake.notify_one();
        }
        Ok(receiver)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.shared.lock().end.is_some()
    }

    /// Waits until the connection has ended.
    pub(crate) async fn ended(&self) {
        let ended = self.shared.ended.notified();
        if !self.has_ended() {
            ended.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Shared {
    /// Nothing that holds the lock can leave the queue half-changed, so a poisoned lock is a good one.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for everyone who waits and everyone who comes. The first reason counts. `may_be_done`: whether
    /// the daemon may have done what it has not answered.
    fn end(&self, reason: Error, may_be_done: bool) {
        let mut queue = self.lock();
        let reason = queue.end.get_or_insert(reason).clone();
        queue.bytes.clear();
        let mut slots = std::mem::take(&mut queue.slots);
        for slot in &mut slots {
            slot.may_be_done |= may_be_done;
        }
        let (again, slots): (VecDeque<_>, VecDeque<_>) = match self.resender {
            Some(_) => slots.into_iter().partition(|slot| slot.may_go_again(&reason)),
            None => (VecDeque::new(), slots),
        };
        if let Some(resender) = self.resender.as_ref().filter(|_| !again.is_empty()) {
            // Before anybody can know of the end, and go on to the next connection.
            resender.add(again);
            resender.broken.notify_waiters();
        }
        drop(queue);
        self.ended.notify_waiters();
        for slot in slots {
            let reason = reason.clone();
            // Whoever gave up waiting is gone; that is their right.
            let _ = slot.answer.send(Err(if slot.may_be_done { reason.unanswered() } else { reason }));
        }
    }
}

/// Whether the daemon has not done it, because it is stopping.
pub(crate) fn is_shutting_down(outcome: &Outcome) -> bool {
    let error = outcome.as_ref().ok().and_then(|line| reply::check(line).err());
    error.is_some_and(|error| error.code() == Some(ErrorCode::ShuttingDown))
}

async fn write_all(shared: Arc<Shared>, mut stream: OwnedWriteHalf) {
    let mut writing = Vec::new();
    loop {
        shared.wake.notified().await;
        // Tasks that are ready to send now get to append to the same write.
        tokio::task::yield_now().await;
        std::mem::swap(&mut shared.lock().bytes, &mut writing);
        if let Err(error) = stream.write_all(&writing).await {
            // The daemon may have said why before it hung up, and the reader is about to hear it.
            tokio::time::sleep(LAST_WORDS).await;
            shared.end(Error::disconnected(format_args!("sending failed: {error}")), true);
            return;
        }
        writing.clear();
        if writing.capacity() > KEEP_BYTES {
            writing = Vec::new();
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    lines: LineBuffer,
}

impl Drop for Reader {
    /// Also when the runtime drops the task: nobody may wait for a connection that nobody reads.
    fn drop(&mut self) {
        self.shared.end(Error::disconnected("the client's runtime stopped"), true);
    }
}

impl Reader {
    async fn run(mut self, mut stream: OwnedReadHalf) {
        let (end, may_be_done) = loop {
            match stream.read(self.lines.space()).await {
                Ok(0) => break (Error::disconnected("the daemon closed it"), true),
                Ok(count) => self.lines.fill(count),
                Err(error) => break (Error::disconnected(error), true),
            }
            if let Err(end) = self.deliver() {
                break end;
            }
        };
        self.shared.end(end, may_be_done);
    }

    /// Hands out every whole line. An error ends the connection, and says whether the daemon may have done what it has not
    /// answered.
    fn deliver(&mut self) -> Result<(), (Error, bool)> {
        let mut at = 0;
        while let Some((line, next)) = self.lines.peek(at) {
            at = next;
            let outcome = match line {
                Line::TooLong => Err(Error::Protocol("it is longer than max_reply_bytes".to_owned())),
                Line::Bytes(line) if reply::closes_connection(line) => {
                    let refused = reply::check(line).err();
                    return Err((refused.unwrap_or_else(|| Error::disconnected("refused")), false));
                }
                Line::Bytes(line) => Ok(line.to_vec()),
            };
            let slot = self.shared.lock().slots.pop_front();
            let Some(slot) = slot else {
                return Err((Error::Protocol("a reply came that nobody asked for".to_owned()), true));
            };
            if slot.again.is_some() && is_shutting_down(&outcome) {
                // It refuses whatever comes behind this one too. To keep the order, all of it goes to the next.
                self.shared.lock().slots.push_front(slot);
                return Err((Error::disconnected("the daemon is stopping"), false));
            }
            let _ = slot.answer.send(if slot.may_be_done { of_repetition(outcome) } else { outcome });
        }
        self.lines.consume(at);
        Ok(())
    }
}
