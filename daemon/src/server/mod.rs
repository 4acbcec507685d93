//! The daemon's edge: the only room that knows sockets, JSON lines and error codes.
//!
//! A connection is accepted ([`listener`]), gets its role ([`access`]), and from then on is one task that
//! reads lines and writes answers ([`connection`]); [`dispatch`] is the one match over the requests.
//!
//! Invariant: a client can slow down itself, never another client and never the flush. Whatever a
//! client can make grow is bounded by a name in [`crate::config::Limits`].

pub mod access;
mod answers;
mod backups;
pub mod connection;
pub mod dispatch;
mod errors;
mod health;
mod history;
pub mod listener;
mod locks;
mod pass;
mod reads;
mod report;
mod wire;

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::config::Config;
use crate::locks::LockTable;
use crate::stats::DaemonStats;
use crate::storage::Storage;
use access::AccessTable;

/// What all connections share.
#[derive(Debug)]
pub struct Server {
    /// The configuration.
    pub config: Config,
    /// The storages, sorted by name.
    pub storages: Vec<Arc<Storage>>,
    /// Who may do what.
    pub access: RwLock<AccessTable>,
    /// The daemon's counters.
    pub stats: DaemonStats,
    /// Whose turn it is.
    pub locks: LockTable,
    /// Turns true when the daemon stops.
    pub stopping: watch::Receiver<bool>,
}

pub use report::stats as write_stats;
