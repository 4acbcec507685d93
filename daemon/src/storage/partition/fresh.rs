//! What a query asks of a partition: that DuckDB has everything that was answered, and where it stands.

use std::sync::Arc;
use std::time::Duration;

use super::{FlushError, Partition};
use crate::duck::Store;
use crate::duck::query::Cancelled;

/// How long a flush that finds no memory waits for the queries that have it.
const YIELD_PATIENCE: Duration = Duration::from_secs(5);

impl Partition {
    /// Brings everything that is published now into DuckDB. Those who wait for the same flush share it: who
    /// finds that another one has brought in what it needs has nothing left to do.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub async fn freshen(self: &Arc<Self>) -> Result<(), FlushError> {
        let seq = self.memtable.read().published_seq();
        if self.watermarks.flushed() >= seq {
            return Ok(());
        }
        let flush = move |partition: &Self| {
            let mut turn = partition.flush_turn.lock();
            if partition.watermarks.flushed() >= seq { Ok(0) } else { partition.flush_with(&mut turn) }
        };
        self.on_flush_thread(flush).await.map(drop)
    }

    /// DuckDB's part, where anything was ever flushed.
    pub fn duck_store(&self) -> Option<Arc<Store>> {
        self.store()
    }

    /// Ends the queries that run, because a flush finds no memory; answers whether there were any.
    pub(super) fn make_queries_yield(&self) -> bool {
        let yielded = self.shared.engine.runnings().cancel_all(Cancelled::Memory, YIELD_PATIENCE);
        if yielded {
            tracing::warn!(storage = %self.config.name, "queries were ended: a flush found no memory beside them");
        }
        yielded
    }
}
