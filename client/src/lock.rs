//! Locks: one process at a time, whichever asks.
//!
//! Invariant: a lock that was given lives on a connection of its own, which carries nothing else. So the lock
//! ends with what holds it, and waiting for one holds up no other request.

use std::borrow::Cow;
use std::fmt;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::request::{Op, Request};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::blocking::{self, OwnConnection};
use crate::client::{Client, within};
use crate::connection::{Connection, Sending};
use crate::error::Error;
use crate::options::LONGEST;
use crate::reply;

/// A request for a lock. It comes from [`Client::lock`] or
/// [`blocking::Client::lock`](crate::blocking::Client::lock), and does nothing before `acquire`.
#[must_use = "nothing is locked before `acquire`"]
pub struct LockRequest<C> {
    client: C,
    name: String,
    wait: Duration,
    ttl: Option<Duration>,
}

impl<C> fmt::Debug for LockRequest<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, wait, ttl, .. } = self;
        let mut debug = f.debug_struct("LockRequest");
        debug.field("name", name).field("wait", wait).field("ttl", ttl).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Given {
    token: u64,
}

impl<C> LockRequest<C> {
    pub(crate) fn new(client: C, name: String) -> Self {
        Self { client, name, wait: Duration::ZERO, ttl: None }
    }

    /// How long to wait while another one has it, a year at most; those who wait get it in the order in which they came.
    /// Without it nobody is waited for.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait.min(LONGEST);
        self
    }

    /// When the daemon frees it, whatever happens; after a year at most. Without it the lock lasts until it is released, or until
    /// the process ends.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl.min(LONGEST));
        self
    }

    fn line(&self) -> Vec<u8> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let name = Cow::Borrowed(self.name.as_str());
        // A part of a millisecond is not worth less than one: 0 would mean something else.
        let ttl_ms = self.ttl.map(|ttl| millis(ttl).max(1));
        line(Op::Lock { name, wait_ms: Some(millis(self.wait)), ttl_ms })
    }
}

fn line(op: Op<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    Request { storage: None, op }.write_line(None, &mut line);
    line
}

fn unlock_line(name: &str, token: u64) -> Vec<u8> {
    line(Op::Unlock { name: Cow::Borrowed(name), token })
}

impl LockRequest<Client> {
    /// Takes the lock.
    ///
    /// ```no_run
    /// # async fn example(client: fastpersist_client::Client) -> Result<(), fastpersist_client::Error> {
    /// use std::time::Duration;
    ///
    /// let lock = client.lock("nightly").wait(Duration::from_secs(5)).acquire().await?;
    /// println!("it is our turn; whoever we write to can tell by the token {}", lock.token());
    /// lock.release().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The daemon's `locked` with the holder's `pid` and `uid` when the wait is over, `busy` when too many
    /// locks are held; otherwise as every request.
    pub async fn acquire(self) -> Result<Lock, Error> {
        let (connection, limit) = self.client.own_connection().await?;
        let limit_with_wait = limit.map(|limit| limit.saturating_add(self.wait));
        let reply = within(limit_with_wait, ask(&connection, &self.line())).await?;
        let Given { token } = reply::decode(&reply)?;
        Ok(Lock { connection, name: self.name, token, limit })
    }
}

async fn ask(connection: &Connection, line: &[u8]) -> Result<Vec<u8>, Error> {
    let gone = || Error::disconnected("the client's runtime stopped");
    // One request at a time, and nobody closes the semaphore.
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.map_err(|_| gone())?;
    let answer = connection.submit(&Sending::once(line), permit).map_err(|(error, _)| error)?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

/// A lock that is held. Dropping it frees it; so does the end of the process, however it ends.
#[must_use = "dropping it frees the lock"]
pub struct Lock {
    connection: Arc<Connection>,
    name: String,
    token: u64,
    limit: Option<Duration>,
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", &self.name).field("token", &self.token).finish_non_exhaustive()
    }
}

impl Lock {
    /// The fencing token: higher than that of everyone who held a lock of this daemon before. Whoever keeps
    /// the highest one seen can refuse a holder that is too late.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Frees the lock, and waits until that is done.
    ///
    /// # Errors
    /// The daemon's `not_found` when it was freed already, because its `ttl` is over;
    /// [`Error::Disconnected`] when the daemon has gone, and the lock with it.
    pub async fn release(self) -> Result<(), Error> {
        let line = unlock_line(&self.name, self.token);
        let reply = within(self.limit, ask(&self.connection, &line)).await?;
        reply::check(&reply)
    }

    /// Waits until the lock is lost because the daemon has gone. It does not tell when a `ttl` is over.
    pub async fn lost(&self) {
        self.connection.ended().await;
    }
}

impl LockRequest<blocking::Client> {
    /// Takes the lock.
    ///
    /// ```no_run
    /// # fn example(client: fastpersist_client::blocking::Client) -> Result<(), fastpersist_client::Error> {
    /// use std::time::Duration;
    ///
    /// let lock = client.lock("nightly").wait(Duration::from_secs(5)).acquire()?;
    /// println!("it is our turn; whoever we write to can tell by the token {}", lock.token());
    /// lock.release()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The daemon's `locked` with the holder's `pid` and `uid` when the wait is over, `busy` when too many
    /// locks are held; otherwise as every request.
    pub fn acquire(self) -> Result<BlockingLock, Error> {
        let mut connection = self.client.own_connection()?;
        let Given { token } = reply::decode(&connection.ask(&self.line(), self.wait)?)?;
        Ok(BlockingLock { connection, name: self.name, token })
    }
}

/// A lock that is held, of the blocking client. Dropping it frees it; so does the end of the process,
/// however it ends.
///
/// Its file descriptor becomes readable when the lock is lost because the daemon has gone.
#[must_use = "dropping it frees the lock"]
pub struct BlockingLock {
    connection: OwnConnection,
    name: String,
    token: u64,
}

impl fmt::Debug for BlockingLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("BlockingLock");
        debug.field("name", &self.name).field("token", &self.token).finish_non_exhaustive()
    }
}

impl AsFd for BlockingLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream().as_fd()
    }
}

impl BlockingLock {
    /// The fencing token; see [`Lock::token`].
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether the daemon is still there, and the lock with it. It does not tell when a `ttl` is over.
    pub fn is_held(&self) -> bool {
        let mut stream = self.connection.stream();
        if stream.set_nonblocking(true).is_err() {
            return false;
        }
        // Nothing is asked, so nothing can come but the end.
        let ended =
            !matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        !ended && stream.set_nonblocking(false).is_ok()
    }

    /// Frees the lock, and waits until that is done.
    ///
    /// # Errors
    /// As [`Lock::release`].
    pub fn release(mut self) -> Result<(), Error> {
        let line = unlock_line(&self.name, self.token);
        reply::check(&self.connection.ask(&line, Duration::ZERO)?)
    }
}
