//! The partition in memory: the latest record under every address, and what is not yet flushed.
//!
//! Point reads and writes go through a hash table of keys; `keys` walks an ordered index of the same
//! keys, which is touched only when a key comes or goes.
//!
//! A table may know only part of the partition: after a restart it holds what was not flushed, and with
//! a bounded cache it gives flushed keys back. So every key says whether it is `loaded`, which means
//! that everything DuckDB has under it is here, and the table says whether it is `complete`, which means
//! the same of all keys. What is in the table is always newer than what DuckDB has.
//!
//! Invariant: a record that is not flushed is never given back; a deletion stays as a tombstone until it
//! is flushed, so that a stale row from DuckDB cannot come through from behind.

mod cache;
mod forget;
mod pending;
mod slots;

use std::collections::BTreeSet;
use std::hash::BuildHasher as _;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};

pub use cache::EVICTED_AT_ONCE;
use pending::Pending;
pub use pending::{DirtyRow, PendingWrite, Replaces, Taking, Unflushed};
use slots::Slots;

use super::producers::Producers;
use super::record::{Names, Record};
use super::schema::Model;

/// What a key costs beside its records: its entry, and its text in the order.
const KEY_OVERHEAD_BYTES: usize = size_of::<KeyEntry>() + 16 + 24;

/// What the table knows about an address or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<T> {
    /// It is here.
    Live(T),
    /// It does not exist.
    Absent,
    /// DuckDB must be asked.
    Cold,
}

#[derive(Debug)]
struct KeyEntry {
    slots: Slots,
    /// Everything that DuckDB has under this key is here.
    loaded: bool,
    /// Writes under way that depend on what is known here.
    pins: u16,
    /// Read since the cache last looked (second chance).
    touched: AtomicBool,
}

/// See the module.
#[derive(Debug)]
pub struct Memtable {
    /// Boxed, for a table that has just grown is half empty.
    table: HashTable<Box<KeyEntry>>,
    hasher: DefaultHashBuilder,
    /// The same keys, in order.
    order: BTreeSet<Box<str>>,
    pending: Pending,
    /// Always all of them, for a write depends on it.
    producers: Producers,
    complete: bool,
    /// While the whole partition is being loaded, flushed tombstones stay too.
    filling: bool,
    /// Tombstones that were flushed while the table was being filled.
    kept_tombstones: Vec<Record>,
    live_count: usize,
    bytes: usize,
    published_seq: u64,
    /// Counts the flushes: rows that were read before one may be older than what memory then let go, so a
    /// load that spans one must be repeated. Giving clean keys back needs no count of its own.
    epoch: u64,
    /// Where the cache goes on looking for keys to give back.
    clock_hand: Option<Box<str>>,
}

impl Memtable {
    /// An empty table; `complete` when DuckDB has nothing either.
    pub fn new(model: Model, complete: bool) -> Self {
        Self {
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            order: BTreeSet::new(),
            pending: Pending::new(model),
            producers: Producers::default(),
            complete,
            filling: false,
            kept_tombstones: Vec::new(),
            live_count: 0,
            bytes: 0,
            published_seq: 0,
            epoch: 0,
            clock_hand: None,
        }
    }

    /// Everything up to this place is in DuckDB already.
    pub fn begin_behind(&mut self, flushed_seq: u64) {
        self.pending.begin_behind(flushed_seq);
    }

    /// How far the partition's producers have come.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// How far the partition's producers have come, to be changed.
    pub fn producers_mut(&mut self) -> &mut Producers {
        &mut self.producers
    }

    /// Whether the table holds the whole partition.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// DuckDB turned out to have nothing that is not here.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Live records in memory.
    pub fn live_count(&self) -> usize {
        self.live_count
    }

    /// What the records in memory cost, in bytes, estimated.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest place that was ever published or passed here, flushed or not.
    pub fn published_seq(&self) -> u64 {
        self.published_seq
    }

    /// See the field.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn find(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.table.find(self.hash(key), |entry| entry.slots.key_bytes() == key).map(|entry| &**entry)
    }

    /// The entry of a key that is being read.
    fn entry(&self, key: &str) -> Option<&KeyEntry> {
        let entry = self.find(key.as_bytes())?;
        if !entry.touched.load(Ordering::Relaxed) {
            entry.touched.store(true, Ordering::Relaxed);
        }
        Some(entry)
    }

    fn entry_or_insert(&mut self, key: &str) -> &mut KeyEntry {
        let hash = self.hash(key.as_bytes());
        let Self { table, hasher, order, bytes, .. } = self;
        let entry = table.entry(
            hash,
            |entry| entry.slots.key_bytes() == key.as_bytes(),
            |entry| hasher.hash_one(entry.slots.key_bytes()),
        );
        entry
            .or_insert_with(|| {
                order.insert(key.into());
                *bytes += KEY_OVERHEAD_BYTES + key.len();
                Box::new(KeyEntry {
                    slots: Slots::None(key.into()),
                    loaded: false,
                    pins: 0,
                    touched: AtomicBool::new(false),
                })
            })
            .into_mut()
    }

    /// The places up to `last_seq` have no records any more: the next flush is through with them too.
    pub fn pass_gap(&mut self, last_seq: u64) {
        self.published_seq = self.published_seq.max(last_seq);
    }

    /// Publishes a write: readers see it from now on.
    pub fn publish(&mut self, record: Record) {
        let size = record.size_bytes();
        let deleted = record.is_deleted();
        self.published_seq = record.seq();
        let hash = self.hash(record.key_bytes());
        let pending = &mut self.pending;
        let found = self.table.find_mut(hash, |entry| entry.slots.key_bytes() == record.key_bytes());
        let before =
            found.and_then(|entry| entry.slots.update(&record, |slot| pending.replace(slot, record.clone())));
        let before_bytes = before.as_ref().map_or(0, Record::size_bytes);
        let was_live = before.as_ref().is_some_and(|record| !record.is_deleted());
        if before.is_none() {
            self.insert(record);
        }
        self.bytes = self.bytes + size - before_bytes;
        self.live_count = self.live_count + usize::from(!deleted) - usize::from(was_live);
    }

    /// Puts a write where memory has nothing.
    fn insert(&mut self, record: Record) {
        let complete = self.complete;
        self.entry_or_insert(record.key()).loaded |= complete;
        let hash = self.hash(record.key_bytes());
        let found = self.table.find_mut(hash, |entry| entry.slots.key_bytes() == record.key_bytes());
        let Some(entry) = found else { return };
        let replaces = if entry.loaded { Replaces::Nothing } else { Replaces::Unknown };
        self.pending.insert(&mut entry.slots, record, replaces);
    }

    /// The record at an address.
    pub fn get(&self, key: &str, names: Names<'_>) -> Known<&Record> {
        let Some(entry) = self.entry(key) else {
            return if self.complete { Known::Absent } else { Known::Cold };
        };
        match entry.slots.get(names) {
            Some(slot) if slot.record.is_deleted() => Known::Absent,
            Some(slot) => Known::Live(&slot.record),
            None if entry.loaded || self.complete => Known::Absent,
            None => Known::Cold,
        }
    }

    /// Calls `visit` with each record of a key, sorted by names; `Cold` when DuckDB must be asked first.
    pub fn visit_key<'t>(&'t self, key: &str, mut visit: impl FnMut(&'t Record)) -> Known<()> {
        let Some(entry) = self.entry(key) else {
            return if self.complete { Known::Absent } else { Known::Cold };
        };
        if !entry.loaded && !self.complete {
            return Known::Cold;
        }
        for slot in entry.slots.iter().filter(|slot| !slot.record.is_deleted()) {
            visit(&slot.record);
        }
        Known::Live(())
    }

    /// The newest place under a key, or under one of its addresses, that memory knows of.
    pub fn newest_seq(&self, key: &str, names: Option<Names<'_>>) -> Option<u64> {
        let slots = &self.entry(key)?.slots;
        match names {
            Some(names) => slots.get(names).map(|slot| slot.record.seq()),
            None => slots.iter().map(|slot| slot.record.seq()).max(),
        }
    }

    /// Whether a row that DuckDB has is the truth: `None` when memory knows nothing about it, else
    /// whether it lives.
    pub fn overrides(&self, key: &str, names: Names<'_>) -> Option<bool> {
        let slot = self.entry(key)?.slots.get(names)?;
        Some(!slot.record.is_deleted())
    }

    /// Calls `visit` with each key in order that begins with `prefix`, stands behind `after` and has a
    /// live record in memory, until it answers false.
    pub fn visit_keys(&self, prefix: &str, after: Option<&str>, mut visit: impl FnMut(&str) -> bool) {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = self.order.range::<str, _>((start, Bound::Unbounded));
        for key in range.take_while(|key| key.starts_with(prefix)) {
            if self.find(key.as_bytes()).is_some_and(|entry| entry.slots.has_live()) && !visit(key) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
