//! The operations `lock` and `unlock`, and the watch over those who hold a lock.
//!
//! A connection reads nothing while it waits, or while it works through what was sent before, so it does not
//! see that its client died. As soon as a connection has asked for a lock, a task of its own waits for the
//! peer's end: the kernel tells of it at once, whatever is left to read.
//!
//! Invariant: a connection's locks are freed when its peer is gone or when it ends, whichever is first. A
//! client that only half-closed is not gone.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use fastpersist_protocol::error::{ErrorCode, WireError};
use fastpersist_protocol::reply;
use fastpersist_protocol::request::Op;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::access::Peer;
use super::dispatch::{Answer, Ask, Dispatcher};
use super::pass::Pass;
use super::wire::Wire;
use super::{Server, errors};
use crate::locks::{Owner, Process, Terms};

/// The longest wait and the longest time to live, in milliseconds: a year.
const LONGEST_MS: u64 = 365 * 86_400_000;

/// What one connection holds.
#[derive(Debug)]
pub(super) struct ConnectionLocks {
    server: Weak<Server>,
    wire: Arc<Wire>,
    owner: Arc<Owner>,
    /// The task that waits for the peer's end; there is one once a lock was asked for.
    watch: OnceLock<AbortHandle>,
}

impl ConnectionLocks {
    pub(super) fn new(server: &Arc<Server>, peer: &Peer, wire: &Arc<Wire>) -> Self {
        let owner = server.locks.owner(Process { uid: peer.uid, pid: peer.pid });
        Self { server: Arc::downgrade(server), wire: Arc::clone(wire), owner, watch: OnceLock::new() }
    }

    /// Begins to watch for the peer's end.
    fn watch(&self) -> Answer<()> {
        if self.watch.get().is_some() {
            return Ok(());
        }
        let socket = self.wire.clone_socket().and_then(end_of).map_err(|error| {
            let message =
                format!("nothing is left to watch over the lock's holder with ({error}); try again");
            WireError::new(ErrorCode::Busy, message)
        })?;
        let (server, owner) = (Weak::clone(&self.server), Arc::clone(&self.owner));
        let watching = tokio::spawn(async move {
            loop {
                match socket.ready(Interest::PRIORITY).await {
                    Ok(mut ready) if !ready.ready().is_read_closed() => ready.clear_ready(),
                    _ => break,
                }
            }
            if let Some(server) = server.upgrade() {
                server.locks.leave(&owner);
            }
        });
        // The connection works on one request at a time, so nobody else has set it.
        let _ = self.watch.set(watching.abort_handle());
        Ok(())
    }
}

/// A socket that is ready when its peer is gone: no interest in anything else, and of that the kernel tells
/// in any case.
#[allow(deprecated, reason = "a file descriptor of our own is what the unsafe successor asks for")]
fn end_of(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::PRIORITY)
}

impl Drop for ConnectionLocks {
    fn drop(&mut self) {
        let Some(watch) = self.watch.get() else { return };
        watch.abort();
        if let Some(server) = self.server.upgrade() {
            server.locks.leave(&self.owner);
        }
    }
}

impl Dispatcher<'_> {
    pub(super) async fn lock_or_unlock(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        op: &Op<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        // Locks belong to no storage: whoever may write to any may take one.
        self.all_allowed(ask)?;
        pass.finish(out).await;
        self.let_go();
        match op {
            Op::Lock { name, wait_ms, ttl_ms } => {
                let locked = self.lock(name, (*wait_ms, *ttl_ms), out).await;
                // The rules may have changed while it waited, also for what stands behind it.
                self.forget_role();
                let token = locked?;
                if let Err(error) = self.all_allowed(ask) {
                    let _ = self.server.locks.unlock(&self.locks.owner, name, token);
                    return Err(error);
                }
                reply::begin_ok(out, id);
                reply::field(out, "token");
                fastpersist_protocol::json::write_u64(out, token);
            }
            Op::Unlock { name, token } => {
                let unlocked = self.server.locks.unlock(&self.locks.owner, name, *token);
                unlocked.map_err(|error| WireError::new(ErrorCode::NotFound, error.to_string()))?;
                reply::begin_ok(out, id);
            }
            _ => return Err(WireError::new(ErrorCode::UnknownOp, "neither lock nor unlock")),
        }
        reply::end(out);
        Ok(())
    }

    async fn lock(
        &self,
        name: &str,
        (wait_ms, ttl_ms): (Option<u64>, Option<u64>),
        out: &mut Vec<u8>,
    ) -> Answer<u64> {
        let wait = span("wait_ms", wait_ms, 0)?.unwrap_or_default();
        let ttl = span("ttl_ms", ttl_ms, 1)?;
        self.locks.watch()?;
        if !wait.is_zero() {
            // Whoever waits should have the answers to what was asked before.
            self.locks.wire.push_line(out);
        }
        let (table, stopping) = (&self.server.locks, self.server.stopping.clone());
        let taken = table.lock(&self.locks.owner, name, Terms { wait, ttl }, stopping).await;
        taken.map_err(|error| errors::of_lock(&error))
    }
}

fn span(field: &str, millis: Option<u64>, least: u64) -> Answer<Option<Duration>> {
    match millis {
        Some(millis) if !(least..=LONGEST_MS).contains(&millis) => {
            Err(WireError::field(field, format!("{field} must be from {least} to {LONGEST_MS} (a year)")))
        }
        millis => Ok(millis.map(Duration::from_millis)),
    }
}
