//! One connection of the async client: many requests on it at the same time.
//!
//! A request appends its line to a shared buffer and its answer's slot to a queue, both under one lock,
//! so lines and slots have the same order. One task writes the buffer, whatever has gathered in it, with
//! as few system calls as possible; one task reads replies and hands each to the first slot.
//!
//! Invariant: every slot is filled exactly once, by its reply or by the end of the connection.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastpersist_protocol::frame::{Line, LineBuffer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::reply;

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
}

struct Queue {
    bytes: Vec<u8>,
    slots: VecDeque<Slot>,
    /// Why the connection has ended, once it has.
    end: Option<Error>,
}

struct Slot {
    answer: oneshot::Sender<Outcome>,
    /// Counts towards `max_in_flight` until the reply is here, even if nobody waits for it any more.
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Starts the two tasks on the current runtime.
    pub(crate) fn start(stream: StdUnixStream, max_reply_bytes: usize) -> std::io::Result<Self> {
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        let queue = Queue { bytes: Vec::new(), slots: VecDeque::new(), end: None };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake: Notify::new(), ended: Notify::new() });
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
        line: &[u8],
        permit: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Outcome>, (Error, OwnedSemaphorePermit)> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.lock();
        if let Some(end) = &queue.end {
            return Err((end.clone(), permit));
        }
        let idle = queue.bytes.is_empty();
        queue.bytes.extend_from_slice(line);
        queue.slots.push_back(Slot { answer, _permit: permit });
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

    /// Ends the connection for everyone who waits and everyone who comes. The first reason counts.
    fn end(&self, reason: Error) {
        let mut queue = self.lock();
        let reason = queue.end.get_or_insert(reason).clone();
        queue.bytes.clear();
        let slots = std::mem::take(&mut queue.slots);
        drop(queue);
        self.ended.notify_waiters();
        for slot in slots {
            // Whoever gave up waiting is gone; that is their right.
            let _ = slot.answer.send(Err(reason.clone()));
        }
    }
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
            shared.end(Error::disconnected(format_args!("sending failed: {error}")));
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
        self.shared.end(Error::disconnected("the client's runtime stopped"));
    }
}

impl Reader {
    async fn run(mut self, mut stream: OwnedReadHalf) {
        let end = loop {
            match stream.read(self.lines.space()).await {
                Ok(0) => break Error::disconnected("the daemon closed it"),
                Ok(count) => self.lines.fill(count),
                Err(error) => break Error::disconnected(error),
            }
            if let Err(end) = self.deliver() {
                break end;
            }
        };
        self.shared.end(end);
    }

    /// Hands out every whole line. An error ends the connection.
    fn deliver(&mut self) -> Result<(), Error> {
        let mut at = 0;
        while let Some((line, next)) = self.lines.peek(at) {
            at = next;
            let outcome = match line {
                Line::TooLong => Err(Error::Protocol("it is longer than max_reply_bytes".to_owned())),
                Line::Bytes(line) if reply::closes_connection(line) => {
                    return Err(reply::check(line).err().unwrap_or_else(|| Error::disconnected("refused")));
                }
                Line::Bytes(line) => Ok(line.to_vec()),
            };
            let slot = self.shared.lock().slots.pop_front();
            let Some(slot) = slot else {
                return Err(Error::Protocol("a reply came that nobody asked for".to_owned()));
            };
            let _ = slot.answer.send(outcome);
        }
        self.lines.consume(at);
        Ok(())
    }
}
