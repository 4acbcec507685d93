//! Closing a date that nobody uses.
//!
//! Invariant: a date whose flush fails stays open. Closed, its records would be safe in the log, but nobody would
//! try the flush again or see that it fails. And a date that has begun to close is closed to the end before it can be
//! opened again.

use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::Date;
use tokio::sync::OwnedMutexGuard;

use super::Dated;
use super::room::Between;
use crate::config::StorageConfig;
use crate::storage::partition::{Partition, Shared};

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

    /// Closes a date's partition, unless somebody holds it or used it lately, or it cannot be flushed. Whoever asks
    /// may give up waiting at any time, as a query does whose time is over.
    pub(super) async fn close_if_unused(&self, date: Date, idle: Duration) -> Closing {
        let Some(slot) = self.slots.lock().get(&date).cloned() else { return Closing::InUse };
        // A slot that is locked is being opened, or closed already.
        let Ok(open) = Arc::clone(&slot).try_lock_owned() else { return Closing::InUse };
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
        let (config, shared) = (Arc::clone(&self.config), Arc::clone(&self.shared));
        let leaving = Leaving { config, shared, partition, open, _between: between };
        let left = tokio::task::spawn_blocking(move || leaving.close()).await;
        if left.is_err() {
            tracing::error!(storage = %self.config.name, %date, "closing a date panicked");
        }
        self.forget_unused_slot(date, &slot);
        Closing::Closed
    }
}

/// A date that nobody can find any more, and all that it takes to close it: its slot stays locked until it is
/// closed, whether or not anybody waits for that.
struct Leaving {
    config: Arc<StorageConfig>,
    shared: Arc<Shared>,
    partition: Arc<Partition>,
    open: OwnedMutexGuard<Option<Arc<Partition>>>,
    _between: Between,
}

impl Leaving {
    fn close(mut self) {
        // Taken out first: what cannot be closed must not be found open.
        *self.open = None;
        match self.partition.close() {
            Ok(()) => super::write_settled_of(&self.config, &self.shared, &self.partition),
            Err(error) => {
                let (storage, date) = (&self.config.name, self.partition.date().map(|date| date.to_string()));
                // Nothing is lost: opening it again replays the log.
                tracing::warn!(%storage, date, %error, "a date was closed without a flush");
            }
        }
        // Its files are closed when nobody has it any more, and only then may somebody open it.
        let Self { partition, open, .. } = self;
        drop(partition);
        drop(open);
    }
}

/// Whether only so many hold the partition, and nobody has used it for so long.
fn is_unused(partition: &Arc<Partition>, holders: usize, idle: Duration) -> bool {
    Arc::strong_count(partition) <= holders && partition.idle_for() >= idle
}
