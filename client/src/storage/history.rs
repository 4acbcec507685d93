//! The history of a collection's items.

use std::borrow::Cow;
use std::fmt;

use fastpersist_protocol::request::{History as WireHistory, Op};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Place;
use crate::call::{Call, Caller, on};
use crate::changes::Deletion;
use crate::error::Error;
use crate::record::CollectionRecord;
use crate::reply;

/// One write of a history.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HistoryEntry {
    /// The item was stored so.
    Stored(CollectionRecord),
    /// The item was deleted.
    Deleted(Deletion),
}

impl HistoryEntry {
    /// The write's place in the storage.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Stored(record) => record.seq,
            Self::Deleted(deletion) => deletion.seq,
        }
    }

    /// The record as it was stored; `None` for a deletion.
    pub fn record(&self) -> Option<&CollectionRecord> {
        match self {
            Self::Stored(record) => Some(record),
            Self::Deleted(_) => None,
        }
    }
}

/// A page of a history, newest first.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HistoryPage {
    /// The writes.
    pub entries: Vec<HistoryEntry>,
    /// Whether there are older ones; ask for them with `before_seq` set to the last `seq` here.
    pub more: bool,
}

/// A request for the history of an item, or of all items of a key.
#[must_use = "nothing is asked before `send`"]
pub struct History<C> {
    place: Place<C>,
    asked: WireHistory<'static>,
}

impl<C> fmt::Debug for History<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl<C: Caller> History<C> {
    pub(crate) fn new(key: String, place: Place<C>) -> Self {
        Self { place, asked: WireHistory { key: Cow::Owned(key), ..WireHistory::default() } }
    }

    /// The collection below the key; without it the empty name.
    pub fn collection_name(mut self, name: impl Into<String>) -> Self {
        self.asked.collection_name = Cow::Owned(name.into());
        self
    }

    /// The item in the collection; without it the empty name.
    pub fn item_name(mut self, name: impl Into<String>) -> Self {
        self.asked.item_name = Cow::Owned(name.into());
        self
    }

    /// Every item of the key, whatever its names.
    pub fn all_items(mut self) -> Self {
        self.asked.all_items = true;
        self
    }

    /// At most so many writes, 1 to 10,000; without it 100.
    pub fn limit(mut self, writes: u64) -> Self {
        self.asked.limit = Some(writes);
        self
    }

    /// Only writes before this place; the last place of a page gives the next page.
    pub fn before_seq(mut self, seq: u64) -> Self {
        self.asked.before_seq = Some(seq);
        self
    }

    /// Asks for the page. Returns the writes, and whether there are older ones.
    pub fn send(self) -> C::Answer<HistoryPage> {
        self.place.client.call(Call::with(&on(&self.place.storage, Op::History(self.asked)), page))
    }
}

#[derive(Deserialize)]
struct WirePage {
    records: Vec<Box<RawValue>>,
    more: bool,
}

/// What tells a deletion from a store.
#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    deleted: bool,
}

fn page(line: &[u8]) -> Result<HistoryPage, Error> {
    let WirePage { records, more } = reply::decode(line)?;
    let entries = records.iter().map(|record| entry(record)).collect::<Result<_, _>>();
    let entries = entries.map_err(|error| Error::Protocol(format!("{error}, in a history")))?;
    Ok(HistoryPage { entries, more })
}

fn entry(record: &RawValue) -> Result<HistoryEntry, serde_json::Error> {
    let Kind { deleted } = serde_json::from_str(record.get())?;
    Ok(if deleted {
        HistoryEntry::Deleted(serde_json::from_str(record.get())?)
    } else {
        HistoryEntry::Stored(serde_json::from_str(record.get())?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_and_deletions_are_told_apart() {
        let line = br#"{"ok":true,"records":[{"seq":2,"deleted":true,"key":"k","collection_name":"","item_name":"i","updated_at":"2025-01-15T10:30:00.000000Z"},{"key":"k","collection_name":"","item_name":"i","value":null,"data":{ "a":1e400 },"timestamp":null,"status":null,"status_int":null,"username":null,"updated_at":"2025-01-15T10:30:00.000000Z","seq":1}],"more":true}"#;
        let page = page(line).unwrap();
        assert!(page.more);
        assert_eq!(page.entries.iter().map(HistoryEntry::seq).collect::<Vec<_>>(), [2, 1]);
        assert!(page.entries[0].record().is_none());
        assert_eq!(page.entries[1].record().unwrap().data_json(), r#"{ "a":1e400 }"#);
    }
}
