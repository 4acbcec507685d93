//! What a partition does by itself: sync buffered writes, flush, seal by age, remove old segments.
//!
//! One task per partition; it holds the partition only while it works, so that an idle one can close.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Partition;

/// How often old segments are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// A flush that failed is tried again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// When things are due.
struct Timetable {
    flush_at: Instant,
    tidy_at: Instant,
    failures: u32,
}

impl Partition {
    /// Begins to keep the partition.
    pub(super) fn spawn_keeper(partition: &Arc<Self>) {
        let keeper = keep(Arc::downgrade(partition));
        tokio::spawn(keeper);
        tokio::spawn(keep_synced(Arc::downgrade(partition)));
        if partition.store().is_some() {
            let partition = Arc::clone(partition);
            tokio::task::spawn_blocking(move || {
                partition.settle();
                partition.refill();
            });
        }
    }

    pub(super) fn must_fill(&self) -> bool {
        self.config.cache_max_bytes == 0 && !self.memtable.read().is_complete()
    }

    fn has_unflushed(&self) -> bool {
        self.watermarks.flushed() < self.watermarks.appended()
    }

    /// Whether a flush is due by the number of records, or by what they cost in memory.
    fn is_flush_wanted(&self) -> bool {
        if !self.flush_wanted.load(Ordering::Acquire) {
            return false;
        }
        let half_full = self.unflushed_bytes() >= self.config.max_pending_bytes / 2;
        half_full || self.flush_turn.try_lock().is_some_and(|turn| Instant::now() >= turn.not_before)
    }

    /// When the keeper must look again.
    fn next_look(&self, timetable: &Timetable) -> Instant {
        let mut next = timetable.tidy_at.min(timetable.flush_at);
        if self.flush_wanted.load(Ordering::Acquire) {
            let not_before = self.flush_turn.try_lock().map(|turn| turn.not_before);
            let soon = Instant::now() + Duration::from_millis(20);
            next = next.min(not_before.unwrap_or(soon).max(soon));
        }
        next
    }

    async fn look(self: &Arc<Self>, timetable: &mut Timetable) {
        let now = Instant::now();
        if self.read_only_reason().is_some() {
            timetable.tidy_at = now + TIDY_INTERVAL;
            timetable.flush_at = now + self.config.flush_interval;
            return;
        }
        let wanted = timetable.failures == 0 && self.is_flush_wanted();
        if wanted || now >= timetable.flush_at {
            let flushed = !self.has_unflushed() || self.flush_or_tell().await;
            timetable.failures = if flushed { 0 } else { timetable.failures + 1 };
            let pause = if flushed { self.config.flush_interval } else { retry_pause(timetable.failures) };
            timetable.flush_at = Instant::now() + pause;
        }
        if now >= timetable.tidy_at {
            timetable.tidy_at = now + TIDY_INTERVAL;
            self.run("seal", |partition| {
                let sealed = partition.wal.lock().seal_if_old().map_err(Into::into);
                partition.remove_old_segments();
                sealed
            })
            .await;
        }
    }

    /// Flushes; a failure is logged here, and answered with false.
    async fn flush_or_tell(self: &Arc<Self>) -> bool {
        let flushed = self.flush_in_background().await;
        if let Err(error) = &flushed {
            tracing::error!(storage = %self.config.name, date = ?self.date.map(|d| d.to_string()), %error, "the flush failed");
        }
        flushed.is_ok()
    }

    /// Runs work that blocks; a failure is logged here, and answered with false.
    async fn run(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<(), super::FlushError> + Send + 'static,
    ) -> bool {
        let partition = Arc::clone(self);
        let result = tokio::task::spawn_blocking(move || work(&partition)).await;
        match result {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(storage = %self.config.name, date = ?self.date.map(|d| d.to_string()), %error, "{what} failed");
                false
            }
            Err(_) => {
                tracing::error!(storage = %self.config.name, "{what} panicked");
                false
            }
        }
    }
}

fn retry_pause(failures: u32) -> Duration {
    (FIRST_RETRY * 2u32.saturating_pow(failures.saturating_sub(1).min(10))).min(LAST_RETRY)
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
        strong.run("syncing the log", |partition| partition.sync_wal().map_err(Into::into)).await;
    }
}

async fn keep(partition: Weak<Partition>) {
    let mut timetable = None;
    loop {
        let Some(strong) = partition.upgrade() else { return };
        let timetable = timetable.get_or_insert_with(|| Timetable {
            flush_at: Instant::now() + strong.config.flush_interval,
            tidy_at: Instant::now() + TIDY_INTERVAL,
            failures: 0,
        });
        strong.look(timetable).await;
        let next = strong.next_look(timetable);
        let wake = Arc::clone(&strong.wake);
        drop(strong);
        let _ = tokio::time::timeout_at(next.into(), wake.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let pauses: Vec<_> = (1..=8).map(|n| retry_pause(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
