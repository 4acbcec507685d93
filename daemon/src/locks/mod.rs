//! Locks that processes take in turns, each with a fencing token.
//!
//! A lock is held by a connection. It is freed by its holder, by the end of the connection, or when its time
//! is over. Whoever finds it held may wait; those who wait get it in the order in which they came.
//!
//! A waiter that is first in line takes the lock by itself: whoever frees it only wakes that one. So whether
//! a waiter is still there is never a question.
//!
//! Invariants: a lock has one holder at most; of two holders of one lock the later one has the higher
//! token; a connection that is gone holds nothing and gets nothing.

mod tokens;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::disk::Disk;

pub use tokens::{TOKEN_FILE, TokenError, Tokens, carry_over};

/// A process at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its user.
    pub uid: u32,
    /// Its pid, where the kernel tells.
    pub pid: Option<i32>,
}

/// A connection, as far as locks are concerned.
#[derive(Debug)]
pub struct Owner {
    id: u64,
    process: Process,
    gone: AtomicBool,
    /// Told when it is gone.
    left: Notify,
}

/// For how long a lock is waited for and held.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// How long to wait while another one has it.
    pub wait: Duration,
    /// When it is freed, whatever happens.
    pub ttl: Option<Duration>,
}

/// Why a lock was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one has it.
    #[error("the lock {name:?} is held by {}", held_by(holder))]
    Held {
        /// The lock.
        name: String,
        /// Who has it, or is about to.
        holder: Process,
    },
    /// The same connection has it.
    #[error("this connection holds the lock {name:?} already, with the token {token}; unlock it first")]
    Yours {
        /// The lock.
        name: String,
        /// The token it was given.
        token: u64,
    },
    /// The limit is reached.
    #[error("{max} locks are held, limits.max_locks allows no more; try again when one is free")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// There is no token to give.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The daemon stops.
    #[error("the daemon is stopping, and frees all locks")]
    Stopping,
    /// The connection ended while it waited.
    #[error("the connection has ended")]
    Gone,
}

fn held_by(process: &Process) -> String {
    match process.pid {
        Some(pid) => format!("process {pid} of uid {}", process.uid),
        None => format!("a process of uid {}", process.uid),
    }
}

/// Nobody can free what they do not hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "this connection does not hold the lock {name:?} with the token {token}: it was freed already, or its ttl_ms is over"
)]
pub struct NotHeld {
    name: String,
    token: u64,
}

#[derive(Debug)]
struct Holder {
    owner: u64,
    process: Process,
    token: u64,
    /// By the clock that never goes back.
    until: Option<Duration>,
}

#[derive(Debug)]
struct Waiter {
    owner: u64,
    process: Process,
    /// Told when it may be its turn.
    turn: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Lock {
    holder: Option<Holder>,
    queue: VecDeque<Waiter>,
}

impl Lock {
    fn free_if_over(&mut self, now: Duration) {
        self.holder.take_if(|holder| holder.until.is_some_and(|until| until <= now));
    }

    /// Frees it, if this connection holds it. Whoever is first in line then takes it.
    fn free(&mut self, owner: u64) {
        if self.holder.take_if(|holder| holder.owner == owner).is_some() {
            self.wake_first();
        }
    }

    fn wake_first(&self) {
        if let Some(first) = self.queue.front() {
            first.turn.notify_one();
        }
    }

    /// Takes a connection out of the line.
    fn leave(&mut self, owner: u64) {
        let Some(at) = self.queue.iter().position(|waiter| waiter.owner == owner) else { return };
        self.queue.remove(at);
        if at == 0 {
            self.wake_first();
        }
    }

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.queue.is_empty()
    }
}

type Locks = HashMap<Box<str>, Lock>;

/// All locks of the daemon.
#[derive(Debug)]
pub struct LockTable {
    locks: Mutex<Locks>,
    tokens: Arc<Tokens>,
    clock: Arc<dyn Clock>,
    max_locks: usize,
    next_owner: AtomicU64,
}

/// What a waiter finds when it looks.
enum Look {
    Taken(u64),
    /// Tokens must be reserved.
    NoToken,
    /// It is not its turn; where it is the first in line, when the holder's time is over.
    Wait(Process, Option<Duration>),
}

impl LockTable {
    /// No locks yet; tokens go on from where the files in `directories` say.
    ///
    /// # Errors
    /// When such a file cannot be read.
    pub fn open<'d>(
        disk: &Arc<dyn Disk>,
        directories: impl IntoIterator<Item = &'d Path>,
        clock: Arc<dyn Clock>,
        max_locks: usize,
    ) -> Result<Self, TokenError> {
        let tokens = Tokens::open(disk, directories)?;
        Ok(Self { locks: Mutex::default(), tokens, clock, max_locks, next_owner: AtomicU64::new(1) })
    }

    /// A new connection.
    pub fn owner(&self, process: Process) -> Arc<Owner> {
        let id = self.next_owner.fetch_add(1, Ordering::Relaxed);
        Arc::new(Owner { id, process, gone: AtomicBool::new(false), left: Notify::new() })
    }

    /// Takes a lock, after waiting for it where it is held; answers the token. A connection asks for one lock
    /// at a time.
    ///
    /// # Errors
    /// See [`LockError`].
    pub async fn lock(
        &self,
        owner: &Owner,
        name: &str,
        terms: Terms,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<u64, LockError> {
        let deadline = self.clock.elapsed() + terms.wait;
        let place = self.line_up(owner, name)?;
        loop {
            // Those who end first must not hand their locks on to those who end next.
            if *stopping.borrow() {
                return Err(LockError::Stopping);
            }
            let (holder, until) = match self.look(&place, terms.ttl)? {
                Look::Taken(token) => return Ok(token),
                Look::NoToken => {
                    self.tokens.reserve().await?;
                    continue;
                }
                Look::Wait(holder, until) => (holder, until),
            };
            if self.clock.elapsed() >= deadline {
                return Err(LockError::Held { name: name.to_owned(), holder });
            }
            let next_look = until.map_or(deadline, |until| until.min(deadline));
            tokio::select! {
                () = place.turn.notified() => {}
                () = self.clock.sleep_until(next_look) => {}
                () = owner.left.notified() => return Err(LockError::Gone),
                _ = stopping.wait_for(|stopping| *stopping) => return Err(LockError::Stopping),
            }
        }
    }

    /// Puts a connection at the end of the line; it leaves when the answer is dropped.
    fn line_up<'t>(&'t self, owner: &'t Owner, name: &'t str) -> Result<Place<'t>, LockError> {
        let now = self.clock.elapsed();
        let mut locks = self.locks.lock();
        if !locks.contains_key(name) && locks.len() >= self.max_locks {
            locks.retain(|_, lock| {
                lock.free_if_over(now);
                !lock.is_unused()
            });
            if locks.len() >= self.max_locks {
                return Err(LockError::TooMany { max: self.max_locks });
            }
        }
        let lock = locks.entry(name.into()).or_default();
        lock.free_if_over(now);
        if let Some(holder) = lock.holder.as_ref().filter(|holder| holder.owner == owner.id) {
            return Err(LockError::Yours { name: name.to_owned(), token: holder.token });
        }
        let turn = Arc::new(Notify::new());
        lock.queue.push_back(Waiter { owner: owner.id, process: owner.process, turn: Arc::clone(&turn) });
        Ok(Place { table: self, owner, name, turn })
    }

    /// Takes the lock, if it is this connection's turn.
    fn look(&self, place: &Place<'_>, ttl: Option<Duration>) -> Result<Look, LockError> {
        let now = self.clock.elapsed();
        let owner = place.owner;
        let mut locks = self.locks.lock();
        // Under the lock of the table: whoever frees what this one has, has said before that it is gone.
        if owner.gone.load(Ordering::Acquire) {
            return Err(LockError::Gone);
        }
        let Some(lock) = locks.get_mut(place.name) else { return Err(LockError::Gone) };
        lock.free_if_over(now);
        let is_first = lock.queue.front().is_some_and(|first| first.owner == owner.id);
        match (&lock.holder, lock.queue.front()) {
            (Some(holder), _) => Ok(Look::Wait(holder.process, holder.until.filter(|_| is_first))),
            (None, Some(first)) if !is_first => Ok(Look::Wait(first.process, None)),
            (None, _) => {
                let Some(token) = self.tokens.take() else { return Ok(Look::NoToken) };
                lock.queue.pop_front();
                let until = ttl.map(|ttl| now + ttl);
                lock.holder = Some(Holder { owner: owner.id, process: owner.process, token, until });
                // The next one has to know until when.
                lock.wake_first();
                Ok(Look::Taken(token))
            }
        }
    }

    /// Frees a lock.
    ///
    /// # Errors
    /// [`NotHeld`] unless this connection holds it with this token.
    pub fn unlock(&self, owner: &Owner, name: &str, token: u64) -> Result<(), NotHeld> {
        let mut locks = self.locks.lock();
        let not_held = || NotHeld { name: name.to_owned(), token };
        let lock = locks.get_mut(name).ok_or_else(not_held)?;
        lock.free_if_over(self.clock.elapsed());
        let holds = lock.holder.as_ref().is_some_and(|held| held.owner == owner.id && held.token == token);
        if holds {
            lock.free(owner.id);
        }
        Self::drop_if_unused(&mut locks, name);
        if holds { Ok(()) } else { Err(not_held()) }
    }

    /// Frees everything that a connection holds; it gets nothing any more.
    pub fn leave(&self, owner: &Owner) {
        owner.gone.store(true, Ordering::Release);
        self.locks.lock().retain(|_, lock| {
            lock.free(owner.id);
            !lock.is_unused()
        });
        owner.left.notify_one();
    }

    /// How many locks are held, and how many connections wait for one.
    pub fn counts(&self) -> (usize, usize) {
        let now = self.clock.elapsed();
        let locks = self.locks.lock();
        let is_held = |lock: &&Lock| {
            lock.holder.as_ref().is_some_and(|holder| holder.until.is_none_or(|until| until > now))
        };
        (locks.values().filter(is_held).count(), locks.values().map(|lock| lock.queue.len()).sum())
    }

    fn drop_if_unused(locks: &mut Locks, name: &str) {
        if locks.get(name).is_some_and(Lock::is_unused) {
            locks.remove(name);
        }
    }
}

/// A place in a lock's line.
struct Place<'t> {
    table: &'t LockTable,
    owner: &'t Owner,
    name: &'t str,
    turn: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut locks = self.table.locks.lock();
        if let Some(lock) = locks.get_mut(self.name) {
            lock.leave(self.owner.id);
        }
        LockTable::drop_if_unused(&mut locks, self.name);
    }
}

#[cfg(test)]
mod tests;
