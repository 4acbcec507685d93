//! Filling the table from DuckDB and giving flushed keys back.
//!
//! Invariant: rows from DuckDB never replace what is in the table; only keys without unflushed records
//! are given back, whole.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use super::super::record::Record;
use super::{KEY_OVERHEAD_BYTES, KeyEntry, Memtable};

/// How many keys are looked at before others are let in.
pub const EVICTED_AT_ONCE: usize = 256;

impl Memtable {
    /// Takes in everything that DuckDB has under `key`. `epoch` is the table's from before the rows were
    /// read; answers false when something left the table since, and the rows must be read again.
    ///
    /// A key without any row is noted only when `note_absence` says so: a write that depends on it needs
    /// the note, while readers who ask for what never was should not fill the memory.
    pub fn load_key(&mut self, key: &str, rows: Vec<Record>, epoch: u64, note_absence: bool) -> bool {
        if epoch != self.epoch {
            return false;
        }
        let absent = rows.is_empty() && self.entry(key).is_none();
        if absent && !note_absence {
            return true;
        }
        self.fill(rows);
        let entry = self.entry_or_insert(key);
        entry.loaded = true;
        entry.touched.store(true, Ordering::Relaxed);
        true
    }

    /// Takes in flushed rows where the table has nothing newer.
    pub fn fill(&mut self, rows: Vec<Record>) {
        for row in rows {
            let size = row.size_bytes();
            if self.entry_or_insert(row.key()).slots.fill(row) {
                self.bytes += size;
                self.live_count += 1;
            }
        }
    }

    /// The whole partition is about to be [filled](Self::fill) in.
    pub fn begin_filling(&mut self) {
        self.filling = true;
    }

    /// The filling is over; `complete` when it came to its end.
    pub fn end_filling(&mut self, complete: bool) {
        self.filling = false;
        self.complete |= complete;
        for tombstone in std::mem::take(&mut self.kept_tombstones) {
            self.drop_tombstone(&tombstone);
        }
    }

    /// Gives flushed keys back until the records cost at most `max_bytes`, those first that were not
    /// read lately, and never `spare`. `flushed_seq` tells what is flushed.
    ///
    /// Looks at a bounded number of keys, for everybody waits meanwhile; answers whether it is worth going
    /// on. Two rounds may be needed: the first takes a key's second chance away, the second takes the key.
    pub fn evict(&mut self, max_bytes: usize, flushed_seq: u64, spare: Option<&str>) -> bool {
        for _ in 0..EVICTED_AT_ONCE {
            if self.bytes <= max_bytes {
                return false;
            }
            let Some(key) = self.next_by_clock() else { return false };
            self.give_back(&key, flushed_seq, spare);
            self.clock_hand = Some(key);
        }
        true
    }

    /// Keeps a key that is known whole from being given back, until it is [unpinned](Self::unpin). Answers
    /// false when it is not known whole and must be loaded first.
    pub fn pin(&mut self, key: &str) -> bool {
        let complete = self.complete;
        match self.find_mut(key.as_bytes()) {
            Some(entry) if entry.loaded || complete => {
                entry.pins = entry.pins.saturating_add(1);
                true
            }
            Some(_) => false,
            None => complete,
        }
    }

    /// Ends one [pin](Self::pin).
    pub fn unpin(&mut self, key: &str) {
        if let Some(entry) = self.find_mut(key.as_bytes()) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    fn give_back(&mut self, key: &str, flushed_seq: u64, spare: Option<&str>) {
        let Some(entry) = self.find(key.as_bytes()) else { return };
        if spare == Some(key) || entry.pins > 0 || entry.touched.swap(false, Ordering::Relaxed) {
            return;
        }
        if entry.slots.iter().any(|slot| slot.record.seq() > flushed_seq) {
            return;
        }
        let (bytes, live) = entry.cost();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.live_count = self.live_count.saturating_sub(live);
        self.complete = false;
        self.remove_key(key);
    }

    fn next_by_clock(&self) -> Option<Box<str>> {
        let behind = self.clock_hand.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.order.range::<str, _>((behind, Bound::Unbounded)).next();
        next.or_else(|| self.order.first()).cloned()
    }

    /// Takes a key out, whose records are counted out already.
    pub(super) fn remove_key(&mut self, key: &str) {
        let hash = self.hash(key.as_bytes());
        if let Ok(found) = self.table.find_entry(hash, |entry| entry.slots.key_bytes() == key.as_bytes()) {
            found.remove();
            self.order.remove(key);
            self.bytes = self.bytes.saturating_sub(KEY_OVERHEAD_BYTES + key.len());
        }
    }
}

impl KeyEntry {
    /// What the records cost, and how many of them live.
    pub(super) fn cost(&self) -> (usize, usize) {
        let bytes = self.slots.iter().map(|slot| slot.record.size_bytes()).sum();
        let live = self.slots.iter().filter(|slot| !slot.record.is_deleted()).count();
        (bytes, live)
    }
}
