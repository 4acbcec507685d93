//! How many dates are open at once, and which one has to go for another.
//!
//! Invariant: those that are open, and those that are being opened or closed, are together never more than
//! `max_open_dates`, but for the dates that the start had to open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastpersist_protocol::time::Date;

use super::Dated;
use super::closing::Closing;
use crate::storage::StorageError;

/// How soon to look again for a date that can be closed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long whoever opens a date waits before queries that hold others are made to begin again.
const QUERY_PATIENCE: Duration = Duration::from_millis(50);

/// How soon to try again to close a date whose flush failed.
const FLUSH_AGAIN: Duration = Duration::from_secs(1);

/// A date that is being opened or closed: it takes a place, although it is not among those that are open.
#[derive(Debug)]
pub(super) struct Between(Arc<AtomicUsize>);

impl Between {
    pub(super) fn enter(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dated {
    /// Closes the date that was not used for the longest time, where the limit is reached; waits for one as
    /// long as a writer waits for room in memory.
    pub(super) async fn make_room(&self) -> Result<Between, StorageError> {
        let max = self.shared.limits.max_open_dates;
        let begun = Instant::now();
        let mut failed: HashMap<Date, Instant> = HashMap::new();
        loop {
            let mut open: Vec<_> = {
                let open = self.open.lock();
                if open.len() + self.between.load(Ordering::Relaxed) < max {
                    return Ok(Between::enter(&self.between));
                }
                open.iter().map(|(date, partition)| (partition.idle_for(), *date)).collect()
            };
            open.sort_unstable();
            let mut closed = false;
            for (_, date) in open.iter().rev() {
                if failed.get(date).is_some_and(|at| at.elapsed() < FLUSH_AGAIN) {
                    continue;
                }
                match self.close_if_unused(*date, Duration::ZERO).await {
                    Closing::Closed => closed = true,
                    Closing::InUse => {}
                    Closing::NotFlushed => drop(failed.insert(*date, Instant::now())),
                }
                if closed {
                    break;
                }
            }
            if !closed && begun.elapsed() >= self.shared.limits.busy_wait {
                return Err(StorageError::TooManyDates {
                    open: open.len() + self.between.load(Ordering::Relaxed),
                    max,
                });
            }
            if !closed && begun.elapsed() >= QUERY_PATIENCE {
                self.shared.engine.runnings().preempt(&self.config.name);
            }
            if !closed {
                // Those in use are so for a moment, mostly: a commit, a look of the keeper.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}
