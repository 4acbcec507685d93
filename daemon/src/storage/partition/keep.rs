//! What a partition does by itself: sync buffered writes, flush, seal by age, remove old segments.
//!
//! Flush and seal are jobs of the scheduler. They hold the partition only while they work, so that an idle
//! one can close.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::Partition;
use crate::schedule::{Job, JobKind, RetryPauses, Rule, Running, Work};

/// How often the active segment is looked at, and old ones are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// How a flush is tried again: what waits for it is in the log, but it fills memory too.
const PAUSES: RetryPauses = RetryPauses { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// When to look again for a flush that is wanted while another one runs.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Partition {
    /// Begins to keep the partition.
    pub(super) fn spawn_keeper(partition: &Arc<Self>) {
        let (scheduler, board) = (&partition.shared.scheduler, &partition.stats.jobs);
        let job = |kind, interval| Job { kind, rule: Rule::Every(interval), pauses: PAUSES, soon: None };
        let flushing = Flushing {
            partition: Arc::downgrade(partition),
            wake: Arc::clone(&partition.wake),
            fails: Arc::clone(&partition.flush_fails),
        };
        scheduler.start(board, job(JobKind::Flush, partition.config.flush_interval), flushing);
        scheduler.start(board, job(JobKind::Seal, TIDY_INTERVAL), Sealing(Arc::downgrade(partition)));
        tokio::spawn(keep_synced(Arc::downgrade(partition)));
        if partition.store().is_some() {
            #[cfg(test)]
            let copies_at_a_crash = partition.shared.disk.copies_at_a_crash();
            let partition = Arc::clone(partition);
            let settle_and_refill = move || {
                partition.settle();
                partition.refill();
            };
            #[cfg(test)]
            if copies_at_a_crash {
                return settle_and_refill();
            }
            tokio::task::spawn_blocking(settle_and_refill);
        }
    }

    /// Seals the log now, whatever its age, and removes what is not needed any more.
    #[cfg(test)]
    pub(in crate::storage) fn tidy(&self) -> Result<(), super::FlushError> {
        let sealed = self.wal.lock().seal().map_err(Into::into);
        self.remove_old_segments();
        sealed
    }

    /// The last record that is on stable storage.
    #[cfg(test)]
    pub(in crate::storage) fn durable_seq(&self) -> u64 {
        self.watermarks.durable()
    }

    pub(super) fn must_fill(&self) -> bool {
        self.config.cache_max_bytes == 0 && !self.memtable.read().is_complete()
    }

    fn has_unflushed(&self) -> bool {
        self.watermarks.flushed() < self.watermarks.appended()
    }

    /// How soon a flush is due by the number of records, or by what they cost in memory.
    fn flush_wanted_in(&self) -> Option<Duration> {
        if !self.flush_wanted.load(Ordering::Acquire) || self.read_only_reason().is_some() {
            return None;
        }
        if self.unflushed_bytes() >= self.config.max_pending_bytes / 2 {
            return Some(Duration::ZERO);
        }
        let not_before = self.flush_turn.try_lock().map(|turn| turn.not_before);
        Some(not_before.map_or(LOOK_AGAIN, |at| at.saturating_sub(self.shared.clock.elapsed())))
    }

    /// Flushes what there is; a failure is logged here.
    async fn flush_if_needed(self: &Arc<Self>) -> Result<u64, String> {
        if self.read_only_reason().is_some() {
            // What is in memory may not be in the log.
            return Ok(0);
        }
        if !self.has_unflushed() {
            self.flush_wanted.store(false, Ordering::Release);
            return Ok(0);
        }
        self.flush_in_background().await.map_err(|error| {
            // Also where it could not even begin.
            self.flush_fails.store(true, Ordering::Release);
            tracing::error!(storage = %self.config.name, date = ?self.date.map(|d| d.to_string()), %error, "the flush failed");
            error.to_string()
        })
    }

    /// Runs work that blocks; a failure is logged here.
    async fn run(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<(), super::FlushError> + Send + 'static,
    ) -> Result<u64, String> {
        let partition = Arc::clone(self);
        let result = tokio::task::spawn_blocking(move || work(&partition)).await;
        let failed = match result {
            Ok(Ok(())) => return Ok(0),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::error!(storage = %self.config.name, date = ?self.date.map(|d| d.to_string()), error = %failed, "{what} failed");
        Err(failed)
    }
}

struct Flushing {
    partition: Weak<Partition>,
    wake: Arc<Notify>,
    fails: Arc<AtomicBool>,
}

impl Work for Flushing {
    fn run(&self) -> Running<'_> {
        Box::pin(async { Some(self.partition.upgrade()?.flush_if_needed().await) })
    }

    fn wanted_in(&self) -> Option<Duration> {
        // What is gone wants to run at once: then its job ends.
        self.partition.upgrade().map_or(Some(Duration::ZERO), |partition| partition.flush_wanted_in())
    }

    fn still_fails(&self) -> Option<Arc<AtomicBool>> {
        Some(Arc::clone(&self.fails))
    }

    fn wake(&self) -> Option<Arc<Notify>> {
        Some(Arc::clone(&self.wake))
    }
}

struct Sealing(Weak<Partition>);

impl Work for Sealing {
    fn run(&self) -> Running<'_> {
        Box::pin(async {
            let partition = self.0.upgrade()?;
            if partition.look_at_directory().is_err() || partition.read_only_reason().is_some() {
                return Some(Ok(0));
            }
            let seal = |partition: &Partition| {
                let sealed = partition.wal.lock().seal_if_old().map_err(Into::into);
                partition.remove_old_segments();
                sealed
            };
            Some(partition.run("sealing the log", seal).await)
        })
    }
}

/// Syncs buffered writes in time, also while a flush is under way.
async fn keep_synced(partition: Weak<Partition>) {
    loop {
        let Some(strong) = partition.upgrade() else { return };
        let (unsynced, interval) = (Arc::clone(&strong.unsynced), strong.config.wal_sync_interval);
        drop(strong);
        // Looks now and then whether the partition is still there.
        if tokio::time::timeout(TIDY_INTERVAL, unsynced.notified()).await.is_err() {
            continue;
        }
        tokio::time::sleep(interval).await;
        let Some(strong) = partition.upgrade() else { return };
        // Logged where it failed; the log takes no more writes then.
        let _ = strong.run("syncing the log", |partition| partition.sync_wal().map_err(Into::into)).await;
    }
}
