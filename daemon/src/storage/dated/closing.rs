//! Closing a date that nobody uses.
//!
//! Invariant: a date whose flush fails stays open. Closed, its records would be safe in the log, but nobody would
//! try the flush again or see that it fails.

use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::Date;

use super::Dated;
use super::room::Between;
use crate::storage::partition::Partition;

/// How long a date stays open without being used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What came of closing a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    Closed,
    /// Somebody holds it, or used it lately.
    InUse,
    /// It stays open, so that the flush is tried again and is seen to fail.
    NotFlushed,
}

impl Dated {
    /// Closes the dates that nobody has used for a while; answers how many.
    pub async fn close_idle(&self) -> u64 {
        let mut closed = 0;
        let dates: Vec<Date> = self.open.lock().keys().copied().collect();
        for date in dates {
            closed += u64::from(self.close_if_unused(date, IDLE_TIMEOUT).await == Closing::Closed);
        }
        closed
    }

    /// Closes a date's partition, unless somebody holds it or used it lately, or it cannot be flushed.
    pub(super) async fn close_if_unused(&self, date: Date, idle: Duration) -> Closing {
        let Some(slot) = self.slots.lock().get(&date).cloned() else { return Closing::InUse };
        // A slot that is locked is being opened, or closed already.
        let Ok(mut open) = slot.try_lock() else { return Closing::InUse };
        let partition = {
            let _map = self.open.lock();
            match &*open {
                // The slot's, the map's, and nobody else's.
                Some(partition) if is_unused(partition, 2, idle) => Arc::clone(partition),
                _ => return Closing::InUse,
            }
        };
        // Still in the map: where this fails, nobody has noticed anything.
        if partition.read_only_reason().is_none() {
            let flushing = Arc::clone(&partition);
            let flush = move || flushing.flush().map_err(|error| error.to_string());
            let flushed = tokio::task::spawn_blocking(flush).await;
            if let Err(error) = flushed.unwrap_or_else(|error| Err(error.to_string())) {
                tracing::warn!(storage = %self.config.name, %date, %error, "a date stays open: its flush failed");
                return Closing::NotFlushed;
            }
        }
        let between = {
            let mut map = self.open.lock();
            // And now ours.
            if !is_unused(&partition, 3, idle) {
                return Closing::InUse;
            }
            map.remove(&date);
            Between::enter(&self.between)
        };
        let closed = Arc::clone(&partition);
        let closing = Arc::clone(&partition);
        match tokio::task::spawn_blocking(move || closing.close()).await {
            Ok(Ok(())) => self.note_settled(&closed),
            Ok(Err(error)) => {
                // Nothing is lost: opening it again replays the log.
                tracing::warn!(storage = %self.config.name, %date, %error, "a date was closed without a flush");
            }
            Err(_) => tracing::error!(storage = %self.config.name, %date, "closing a date panicked"),
        }
        *open = None;
        // Its files are closed when nobody has it any more.
        drop(closed);
        drop(partition);
        drop(between);
        drop(open);
        self.forget_unused_slot(date, &slot);
        Closing::Closed
    }
}

/// Whether only so many hold the partition, and nobody has used it for so long.
fn is_unused(partition: &Arc<Partition>, holders: usize, idle: Duration) -> bool {
    Arc::strong_count(partition) <= holders && partition.idle_for() >= idle
}
