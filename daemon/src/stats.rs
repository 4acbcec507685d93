//! What the daemon counts and measures. `stats` on the wire shows it; nothing here decides anything.
//!
//! Counters are atomics; latencies go into histograms, one short lock per commit or per group of
//! requests, not per record.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::request::Op;
use fastpersist_protocol::time::Timestamp;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::schedule::{Board, JobKind};

/// A latency distribution in microseconds.
#[derive(Debug)]
pub struct Latency(Mutex<Histogram<u64>>);

/// The figures of a [`Latency`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LatencyFigures {
    /// Measurements.
    pub count: u64,
    /// Half of them took at most this, in microseconds.
    pub p50_us: u64,
    /// All but one in a hundred took at most this, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self(Mutex::new(new_histogram()))
    }
}

/// Two significant digits, up to a minute.
fn new_histogram() -> Histogram<u64> {
    let bounded = Histogram::new_with_bounds(1, 60_000_000, 2);
    let mut histogram = bounded.unwrap_or_else(|_| {
        // The bounds are constants that the library accepts; an automatic one serves as well.
        Histogram::new(1).unwrap_or_else(|_| unreachable!("one significant digit is valid"))
    });
    histogram.auto(true);
    histogram
}

impl Latency {
    /// Notes that `count` things took so long each.
    pub fn note(&self, took: Duration, count: u64) {
        self.0.lock().saturating_record_n(took.as_micros() as u64, count);
    }

    /// The distribution's figures.
    pub fn figures(&self) -> LatencyFigures {
        let histogram = self.0.lock();
        LatencyFigures {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }
}

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
    /// What happens by itself, and how it ended.
    pub jobs: Board,
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
        }
        self.jobs.note(JobKind::Flush, at, took, result);
    }

    /// Commit groups and the records in them.
    pub fn commits(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.records.load(Ordering::Relaxed))
    }

    /// Flushes and the rows they wrote.
    pub fn flushes(&self) -> (u64, u64) {
        (self.flushes.load(Ordering::Relaxed), self.flushed_rows.load(Ordering::Relaxed))
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
    /// Subscriptions now.
    pub subscriptions: AtomicUsize,
    /// Subscriptions since the start.
    pub subscriptions_total: AtomicU64,
    requests: Vec<AtomicU64>,
    errors: Vec<AtomicU64>,
}

impl Default for DaemonStats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            started_at: Timestamp::now(),
            connections: AtomicUsize::new(0),
            connections_total: AtomicU64::new(0),
            subscriptions: AtomicUsize::new(0),
            subscriptions_total: AtomicU64::new(0),
            requests: Op::NAMES.iter().map(|_| AtomicU64::new(0)).collect(),
            errors: ErrorCode::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl DaemonStats {
    /// So many requests were read, by operation.
    pub fn note_requests(&self, counts: &[u32]) {
        for (total, count) in self.requests.iter().zip(counts).filter(|(_, count)| **count > 0) {
            total.fetch_add(u64::from(*count), Ordering::Relaxed);
        }
    }

    /// A request was answered with an error.
    pub fn note_error(&self, code: ErrorCode) {
        if let Some(index) = ErrorCode::ALL.iter().position(|other| *other == code) {
            self.errors[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the daemon started.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Requests by operation, without those that never came.
    pub fn requests(&self) -> Vec<(&'static str, u64)> {
        let counts = self.requests.iter().map(|count| count.load(Ordering::Relaxed));
        Op::NAMES.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Errors by code, without those that never came.
    pub fn errors(&self) -> Vec<(&'static str, u64)> {
        let counts = self.errors.iter().map(|count| count.load(Ordering::Relaxed));
        let names = ErrorCode::ALL.iter().map(|code| code.as_str());
        names.zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// The process's resident memory in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
