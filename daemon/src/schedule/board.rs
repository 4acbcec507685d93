//! What the jobs of one storage are doing: written by those who run them, read by `stats`, metrics and the
//! health check.
//!
//! Invariant: the outcome of a job survives what it worked on. A date that is closed takes its jobs with it,
//! not the news of how they ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fastpersist_protocol::time::Timestamp;
use parking_lot::Mutex;

use super::{JobKind, JobReport, Moment};
use crate::stats::Outcome;

/// The jobs of one storage.
#[derive(Debug, Default)]
pub struct Board {
    entries: Mutex<Vec<Weak<Entry>>>,
    last: Mutex<BTreeMap<JobKind, Outcome>>,
    succeeded: Mutex<BTreeMap<JobKind, Timestamp>>,
}

/// One job: a storage's own, or that of one of its partitions.
#[derive(Debug)]
pub(super) struct Entry {
    kind: JobKind,
    still_fails: Option<Arc<AtomicBool>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    failures: u32,
    error: Option<String>,
    /// When it is due, by the clock that never goes back.
    due: Option<Duration>,
}

impl Entry {
    pub(super) fn set_due(&self, due: Duration) {
        self.state.lock().due = Some(due);
    }

    pub(super) fn set_running(&self, running: bool) {
        self.state.lock().running = running;
    }

    pub(super) fn set_failures(&self, failures: u32, error: Option<String>) {
        let mut state = self.state.lock();
        (state.failures, state.error) = (failures, error);
    }

    fn is_mended(&self) -> bool {
        self.still_fails.as_ref().is_some_and(|fails| !fails.load(Ordering::Acquire))
    }
}

impl Board {
    /// Puts a job on the board, for as long as the entry lives.
    pub(super) fn enter(&self, kind: JobKind, still_fails: Option<Arc<AtomicBool>>) -> Arc<Entry> {
        let entry = Arc::new(Entry { kind, still_fails, state: Mutex::default() });
        let mut entries = self.entries.lock();
        entries.retain(|entry| entry.strong_count() > 0);
        entries.push(Arc::downgrade(&entry));
        entry
    }

    /// Notes how a run ended, whoever had asked for it.
    pub fn note(&self, kind: JobKind, at: Timestamp, took: Duration, result: Result<u64, String>) {
        if result.is_ok() {
            self.succeeded.lock().insert(kind, at);
        }
        self.last.lock().insert(kind, Outcome { at, took, result });
    }

    /// When a run last went well.
    pub fn succeeded_at(&self, kind: JobKind) -> Option<Timestamp> {
        self.succeeded.lock().get(&kind).copied()
    }

    /// How the last run ended.
    pub fn last(&self, kind: JobKind) -> Option<Outcome> {
        self.last.lock().get(&kind).cloned()
    }

    /// The jobs, one report for each kind: the earliest due and the most failures of all partitions.
    pub fn reports(&self, now: Moment) -> Vec<JobReport> {
        let mut reports: BTreeMap<JobKind, JobReport> = BTreeMap::new();
        for entry in self.entries.lock().iter().filter_map(Weak::upgrade) {
            let state = entry.state.lock();
            let report = reports.entry(entry.kind).or_insert_with(|| JobReport {
                kind: entry.kind,
                running: false,
                last: self.last(entry.kind),
                next_at: None,
                failures: 0,
                error: None,
                overdue: Duration::ZERO,
            });
            report.running |= state.running;
            if state.failures > report.failures && !entry.is_mended() {
                report.failures = state.failures;
                report.error.clone_from(&state.error);
            }
            let Some(due) = state.due.filter(|_| !state.running) else { continue };
            report.overdue = report.overdue.max(now.elapsed.saturating_sub(due));
            let next_at = later(now.wall, due.saturating_sub(now.elapsed));
            report.next_at = Some(report.next_at.map_or(next_at, |earlier| earlier.min(next_at)));
        }
        reports.into_values().collect()
    }

    /// Whether a job is due or runs: for tests that let time pass.
    pub fn is_busy(&self, now: Moment) -> bool {
        self.entries.lock().iter().filter_map(Weak::upgrade).any(|entry| {
            let state = entry.state.lock();
            state.running || state.due.is_none_or(|due| due <= now.elapsed)
        })
    }
}

/// To the millisecond: the two clocks were not read at the same moment.
fn later(wall: Timestamp, span: Duration) -> Timestamp {
    let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX).saturating_add(wall.as_micros());
    let rounded = micros.saturating_add(500).div_euclid(1000).saturating_mul(1000);
    Timestamp::from_micros(rounded).unwrap_or(wall)
}
