//! How many dates are open at once, and which one has to go for another.
//!
//! Invariant: those that are open, and those that are being opened or closed, are together never more than
//! `max_open_dates`, but for the dates that the start had to open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastpersist_protocol::time::Date;

use super::Dated;
use crate::storage::StorageError;

/// How long a date stays open without being used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How soon to look again for a date that can be closed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A date that is being opened or closed: it takes a place, although it is not among those that are open.
#[derive(Debug)]
pub(super) struct Between<'d>(&'d AtomicUsize);

impl<'d> Between<'d> {
    fn enter(count: &'d AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Between<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dated {
    /// Closes the date that was not used for the longest time, where the limit is reached; waits for one as
    /// long as a writer waits for room in memory.
    pub(super) async fn make_room(&self) -> Result<Between<'_>, StorageError> {
        let max = self.shared.limits.max_open_dates;
        let begun = Instant::now();
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
                closed = self.close_if_unused(*date, Duration::ZERO).await;
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
            if !closed {
                // Those in use are so for a moment, mostly: a commit, a look of the keeper.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Closes the dates that nobody has used for a while; answers how many.
    pub async fn close_idle(&self) -> u64 {
        let mut closed = 0;
        let dates: Vec<Date> = self.open.lock().keys().copied().collect();
        for date in dates {
            closed += u64::from(self.close_if_unused(date, IDLE_TIMEOUT).await);
        }
        closed
    }

    /// Closes a date's partition, unless somebody holds it or used it lately; answers whether it did.
    async fn close_if_unused(&self, date: Date, idle: Duration) -> bool {
        let Some(slot) = self.slots.lock().get(&date).cloned() else { return false };
        // A slot that is locked is being opened, or closed already.
        let Ok(mut open) = slot.try_lock() else { return false };
        let Some(partition) = &*open else { return false };
        let (partition, closing) = {
            let mut map = self.open.lock();
            // The slot's, the map's, and nobody else's.
            if Arc::strong_count(partition) > 2 || partition.idle_for() < idle {
                return false;
            }
            map.remove(&date);
            (Arc::clone(partition), Between::enter(&self.between))
        };
        let closed = Arc::clone(&partition);
        match tokio::task::spawn_blocking(move || partition.close()).await {
            Ok(Ok(())) => self.note_settled(&closed),
            Ok(Err(error)) => {
                // Nothing is lost: opening it again replays the log.
                tracing::warn!(storage = %self.config.name, %date, %error, "a date was closed without a flush");
            }
            Err(_) => tracing::error!(storage = %self.config.name, %date, "closing a date panicked"),
        }
        if closed.is_unexported() {
            self.unexported.lock().insert(date);
        }
        *open = None;
        // Its files are closed when nobody has it any more.
        drop(closed);
        drop(closing);
        drop(open);
        self.forget_unused_slot(date, &slot);
        true
    }
}
