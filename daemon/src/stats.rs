//! What the daemon counts and measures. `stats` on the wire shows it; nothing here decides anything.
//!
//! Counters are atomics; latencies go into histograms, one short lock per commit or per group of
//! requests, not per record.

mod latency;
mod requests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastpersist_protocol::time::Timestamp;
use parking_lot::Mutex;

use crate::schedule::{Board, JobKind};

pub use latency::{BUCKET_BOUNDS_US, Latency, LatencyFigures, LatencyHistogram};
pub use requests::RequestCounts;

/// How the last run of something that happens by itself ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When it ended.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What it came to: rows, or what went wrong.
    pub result: Result<u64, String>,
}

/// One storage's counters.
#[derive(Debug, Default)]
pub struct StorageStats {
    commits: AtomicU64,
    records: AtomicU64,
    /// Time of one fdatasync.
    pub fsync: Latency,
    /// Time from a request's last byte to its answer.
    pub requests: Latency,
    flushes: AtomicU64,
    flushed_rows: AtomicU64,
    /// Time of one flush that brought something into DuckDB.
    pub flush: Latency,
    torn: AtomicU64,
    /// What happens by itself, and how it ended.
    pub jobs: Board,
    verified_backup: Mutex<Option<VerifiedBackup>>,
}

/// The newest backup that was opened and compared with its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedBackup {
    /// The last record in it.
    pub seq: u64,
    /// When it was taken.
    pub at: Timestamp,
}

impl StorageStats {
    /// A group of `records` was committed.
    pub fn note_commit(&self, records: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    /// An fdatasync succeeded.
    pub fn note_fsync(&self, took: Duration) {
        self.fsync.note(took, 1);
    }

    /// A flush ended. One that found nothing to do is not worth remembering.
    pub fn note_flush(&self, at: Timestamp, took: Duration, result: Result<u64, String>) {
        if let Ok(rows) = result {
            if rows == 0 {
                return;
            }
            self.flushes.fetch_add(1, Ordering::Relaxed);
            self.flushed_rows.fetch_add(rows, Ordering::Relaxed);
            self.flush.note(took, 1);
        }
        self.jobs.note(JobKind::Flush, at, took, result);
    }

    /// This is the newest backup that is known to be good; at the start, and whenever one is made, verified or
    /// removed.
    pub fn note_verified_backup(&self, newest: Option<VerifiedBackup>) {
        *self.verified_backup.lock() = newest;
    }

    /// So many torn ends were cut off a log.
    pub fn note_torn(&self, count: usize) {
        self.torn.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Commit groups and the records in them.
    pub fn commits(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.records.load(Ordering::Relaxed))
    }

    /// Flushes and the rows they wrote.
    pub fn flushes(&self) -> (u64, u64) {
        (self.flushes.load(Ordering::Relaxed), self.flushed_rows.load(Ordering::Relaxed))
    }

    /// The newest backup that is known to be good.
    pub fn verified_backup(&self) -> Option<VerifiedBackup> {
        *self.verified_backup.lock()
    }

    /// Torn ends that were cut off since the start.
    pub fn torn(&self) -> u64 {
        self.torn.load(Ordering::Relaxed)
    }
}

/// The daemon's own counters.
#[derive(Debug)]
pub struct DaemonStats {
    started: Instant,
    started_at: Timestamp,
    /// Connections now.
    pub connections: AtomicUsize,
    /// Connections since the start.
    pub connections_total: AtomicU64,
    /// Answers, by operation and outcome.
    pub requests: RequestCounts,
    /// Subscriptions now.
    pub subscriptions: AtomicUsize,
    /// Of each user that has any; `subscriptions` changes only while this is locked.
    pub subscriptions_by_uid: Mutex<HashMap<u32, usize>>,
    /// Subscriptions since the start.
    pub subscriptions_total: AtomicU64,
}

impl Default for DaemonStats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            started_at: Timestamp::now(),
            connections: AtomicUsize::new(0),
            connections_total: AtomicU64::new(0),
            requests: RequestCounts::default(),
            subscriptions: AtomicUsize::new(0),
            subscriptions_by_uid: Mutex::default(),
            subscriptions_total: AtomicU64::new(0),
        }
    }
}

impl DaemonStats {
    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the daemon started.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }
}

/// The process's resident memory in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Open file descriptors of the process; 0 where the system does not tell.
pub fn open_fds() -> u64 {
    let entries = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // One of them was opened to count them.
    entries.saturating_sub(1) as u64
}

/// Processor time that the process has used.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
