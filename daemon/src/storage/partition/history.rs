//! The history of a collection's key: what is not yet flushed from memory, the rest from DuckDB.
//!
//! Invariant: a write is told once. From a certain place on everything is in memory, below it everything is
//! in DuckDB; a flush that ends meanwhile moves that place, and then the reading begins anew.

use std::sync::Arc;

use super::Partition;
use super::read::ReadError;
use crate::duck::{OwnedNames, Wanted};
use crate::storage::record::Record;

/// Unflushed writes that are looked at before writers are let in.
const LOOKED_AT_ONCE: usize = 4096;

/// Whose history is asked for, and how much of it.
#[derive(Debug, Clone)]
pub struct HistoryAsk {
    /// The key.
    pub key: String,
    /// The item; `None` is all items of the key.
    pub names: Option<OwnedNames>,
    /// Only writes before this place.
    pub before_seq: u64,
    /// At most so many.
    pub limit: usize,
    /// No more once they have about so many bytes; one in any case.
    pub max_bytes: usize,
}

/// A page of a history, newest first.
#[derive(Debug, Default)]
pub struct HistoryPage {
    /// The writes; a deletion is one too.
    pub records: Vec<Record>,
    /// Whether there are older ones.
    pub more: bool,
    bytes: usize,
}

impl HistoryAsk {
    fn wants(&self, record: &Record) -> bool {
        record.key() == self.key && self.names.as_ref().is_none_or(|names| record.has_names(names.as_names()))
    }

    fn take(&self, page: &mut HistoryPage, record: &Record) {
        if page.more || !self.wants(record) {
            return;
        }
        page.more = self.is_reached(page);
        if !page.more {
            page.bytes += record.size_bytes();
            page.records.push(record.clone());
        }
    }

    fn is_reached(&self, page: &HistoryPage) -> bool {
        page.records.len() >= self.limit || page.bytes >= self.max_bytes
    }
}

impl Partition {
    /// A page of the history of a key or an item.
    ///
    /// # Errors
    /// When DuckDB cannot be read.
    pub async fn history(self: &Arc<Self>, ask: HistoryAsk) -> Result<HistoryPage, ReadError> {
        let _turn = self.history_turn.lock().await;
        let partition = Arc::clone(self);
        let read = move || partition.history_blocking(&ask);
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Gone)?
    }

    fn history_blocking(&self, ask: &HistoryAsk) -> Result<HistoryPage, ReadError> {
        self.without_interference(|reader, epoch| {
            let names = ask.names.as_ref().map(OwnedNames::as_names);
            let (oldest, newest) = {
                let memtable = self.memtable.read();
                (memtable.oldest_pending_seq(), memtable.newest_seq(&ask.key, names))
            };
            // DuckDB has everything before this place.
            let stored_below = oldest.unwrap_or(u64::MAX);
            let mut page = HistoryPage::default();
            let mut below = ask.before_seq;
            let mut has_unflushed = oldest.is_some() && newest.is_some_and(|newest| newest >= stored_below);
            while has_unflushed && !page.more {
                let memtable = self.memtable.read();
                if memtable.epoch() != epoch {
                    return Ok(None);
                }
                let last =
                    memtable.visit_pending(below, LOOKED_AT_ONCE, |record| ask.take(&mut page, record));
                has_unflushed = last.is_some();
                below = last.unwrap_or(below);
            }
            if let (Some(reader), false) = (reader, page.more) {
                let (mut records, more) = reader.history(&Wanted {
                    key: &ask.key,
                    names,
                    below_seq: ask.before_seq.min(stored_below),
                    limit: ask.limit - page.records.len(),
                    max_bytes: ask.max_bytes.saturating_sub(page.bytes),
                })?;
                page.records.append(&mut records);
                page.more = more;
            }
            Ok((self.memtable.read().epoch() == epoch).then_some(page))
        })
    }
}
