//! A connection's sending side, shared with whoever commits its writes.
//!
//! The commit leader writes the answers of a group straight to the sockets: to wake each connection's task
//! for that cost more than the answer itself, and on two processors it took the client's place on the
//! other one. While a commit owes answers, the connection reads on but works on nothing new.
//!
//! Invariant: answers go out in the order of the requests. They are appended by one side at a time: by
//! the leader while a commit is under way, else by the connection. Events of subscriptions come between
//! them; everybody appends whole lines, so each of them stays whole. A descriptor goes with the first byte of
//! its line, so a client gets descriptors in the order of the answers that tell of them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// An output buffer is kept allocated up to this size.
const KEPT_OUTPUT_BYTES: usize = 256 * 1024;

/// So many descriptors may wait for a client before nothing more is done for it.
const MAX_WAITING_HANDOVERS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    state: Mutex<State>,
    /// Told when the connection's task has something to do that its socket does not tell.
    attention: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    sent: usize,
    /// Descriptors, each with the place in `bytes` with which it goes.
    handovers: VecDeque<(usize, OwnedFd)>,
    stalled_since: Option<Instant>,
    /// A commit owes answers.
    under_way: bool,
    /// The connection's task waits until it does not.
    awaited: bool,
    error: Option<io::Error>,
}

impl State {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Sends what the socket takes now.
    fn send(&mut self, stream: &UnixStream) {
        while self.waiting() > 0 && self.error.is_none() {
            let next = self.handovers.front();
            let sending = match next {
                None => stream.try_write(&self.bytes[self.sent..]),
                Some((at, _)) if *at > self.sent => stream.try_write(&self.bytes[self.sent..*at]),
                Some((_, fd)) => send_with(stream, &self.bytes[self.sent..=self.sent], fd),
            };
            match sending {
                Ok(count) => {
                    self.sent += count;
                    if self.handovers.front().is_some_and(|(at, _)| *at < self.sent) {
                        self.handovers.pop_front();
                    }
                    self.stalled_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.error = Some(error),
            }
        }
        if self.waiting() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_OUTPUT_BYTES);
            self.sent = 0;
        } else if self.sent > KEPT_OUTPUT_BYTES {
            self.bytes.drain(..self.sent);
            self.handovers.iter_mut().for_each(|(at, _)| *at -= self.sent);
            self.sent = 0;
        }
    }
}

/// Sends bytes and a descriptor with the first of them.
fn send_with(stream: &UnixStream, bytes: &[u8], fd: &OwnedFd) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("there is no space for a descriptor"));
        }
        Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    })
}

/// What became of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// They are on their way.
    Taken,
    /// The client has not taken what was before them.
    Full,
    /// The client is gone.
    Broken,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, state: Mutex::default(), attention: Notify::new() }
    }

    /// The socket itself, for whoever must know when the peer is gone.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub(super) fn clone_socket(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    /// Appends answers and sends what the socket takes now; `answers` is empty afterwards.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) fn push(&self, answers: &mut Vec<u8>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() {
            std::mem::swap(&mut state.bytes, answers);
        } else {
            state.bytes.extend_from_slice(answers);
        }
        answers.clear();
        state.send(&self.stream);
        state.error.take().map_or(Ok(()), Err)
    }

    /// Appends answers that must be on their way before something else is; `answers` is empty afterwards.
    /// That the client is gone shows at the next push.
    pub(super) fn push_line(&self, answers: &mut Vec<u8>) {
        let mut state = self.state.lock();
        state.bytes.extend_from_slice(answers);
        state.send(&self.stream);
        answers.clear();
    }

    /// Like [`push_line`](Self::push_line), with a descriptor that goes with `line`, which comes behind `answers`.
    pub(super) fn push_handover(&self, answers: &mut Vec<u8>, line: &[u8], fd: OwnedFd) {
        let mut state = self.state.lock();
        state.bytes.extend_from_slice(answers);
        let at = state.bytes.len();
        state.handovers.push_back((at, fd));
        state.bytes.extend_from_slice(line);
        state.send(&self.stream);
        answers.clear();
    }

    /// Appends events, unless something waits for the client; they are gone from `events` when they are taken.
    pub(super) fn push_events(&self, events: &mut Vec<u8>) -> Pushed {
        let mut state = self.state.lock();
        if state.error.is_some() {
            return Pushed::Broken;
        }
        if state.waiting() > 0 {
            return Pushed::Full;
        }
        state.bytes.extend_from_slice(events);
        events.clear();
        state.send(&self.stream);
        Pushed::Taken
    }

    /// Waits until the client has taken everything; answers false when it is gone. The connection's task
    /// may be busy with a request meanwhile.
    pub(super) async fn drained(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                state.send(&self.stream);
                if state.error.is_some() {
                    break;
                }
                if state.waiting() == 0 {
                    return true;
                }
            }
            if self.stream.ready(Interest::WRITABLE).await.is_err() {
                break;
            }
        }
        self.wake();
        false
    }

    /// Lets the connection's task look at how things are.
    pub(super) fn wake(&self) {
        self.attention.notify_one();
    }

    /// Whether the client has closed both directions. May only be asked while nothing waits for it.
    pub(super) async fn is_hung_up(&self) -> bool {
        self.stream.ready(Interest::WRITABLE).await.is_ok_and(Ready::is_write_closed)
    }

    /// Whether the client has closed both directions, or is no more. One that only sends no more still waits for
    /// its answers.
    pub(super) fn is_gone(&self) -> bool {
        let mut socket = [PollFd::new(&self.stream, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut socket, Some(&at_once)).is_ok()
            && socket[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Bytes that the client has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting()
    }

    /// Whether so many descriptors wait for the client that it must take some first: each is one of this
    /// process's own.
    pub(super) fn holds_many_handovers(&self) -> bool {
        self.state.lock().handovers.len() >= MAX_WAITING_HANDOVERS
    }

    /// Since when the client has taken nothing, while something waits for it.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.state.lock().stalled_since
    }

    /// A commit owes answers from now on.
    pub(super) fn begin_commit(&self) {
        self.state.lock().under_way = true;
    }

    /// The commit's answers. The connection's task is only woken when it must do something about them.
    pub(super) fn end_commit(&self, answers: &[u8]) {
        let mut state = self.state.lock();
        state.bytes.extend_from_slice(answers);
        state.send(&self.stream);
        state.under_way = false;
        let awaited = std::mem::take(&mut state.awaited);
        if awaited || state.waiting() > 0 || state.error.is_some() {
            self.attention.notify_one();
        }
    }

    /// Waits until no commit owes answers.
    pub(super) async fn committed(&self) {
        loop {
            {
                let mut state = self.state.lock();
                if !state.under_way {
                    return;
                }
                state.awaited = true;
            }
            self.attention.notified().await;
        }
    }

    /// Reads what there is; `None` when there is nothing now.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) fn read(&self, space: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.try_read(space) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the socket is ready for what is of interest, or the task has something else to do.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub(super) async fn ready(&self, interest: Option<Interest>) -> io::Result<()> {
        let Some(interest) = interest else {
            self.attention.notified().await;
            return Ok(());
        };
        tokio::select! {
            biased;
            ready = self.stream.ready(interest) => ready.map(|_: Ready| ()),
            () = self.attention.notified() => Ok(()),
        }
    }
}
