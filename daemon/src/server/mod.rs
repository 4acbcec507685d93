//! The daemon's edge: the only room that knows sockets, JSON lines and error codes.
//!
//! A connection is accepted ([`listener`], on a socket that may come from [`activation`]), gets its role ([`access`]), and from then on is one task that
//! reads lines and writes answers ([`connection`]); [`dispatch`] is the one match over the requests.
//!
//! Invariant: a client can slow down itself, never another client and never the flush. Whatever a
//! client can make grow is bounded by a name in [`crate::config::Limits`].

pub mod access;
pub mod activation;
mod answers;
mod backups;
pub mod connection;
pub mod dispatch;
mod errors;
mod health;
mod history;
mod imports;
mod keeping;
pub mod listener;
mod locks;
mod pass;
mod query;
mod reads;
mod report;
mod subscriptions;
mod unit;
mod wire;

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::config::Config;
use crate::locks::LockTable;
use crate::schedule::JobReport;
use crate::stats::DaemonStats;
use crate::storage::Storage;
use crate::storage::querying::Queries;
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
    /// How many queries may run.
    pub queries: Arc<Queries>,
    /// The daemon's counters.
    pub stats: DaemonStats,
    /// Whose turn it is.
    pub locks: LockTable,
    /// Turns true when the daemon stops.
    pub stopping: watch::Receiver<bool>,
}

impl Server {
    /// How the jobs of a storage stand that happen by themselves.
    pub fn jobs(&self, storage: &Storage) -> Vec<JobReport> {
        storage.jobs()
    }
}

pub use report::stats as write_stats;
