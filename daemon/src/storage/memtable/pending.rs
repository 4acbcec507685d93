//! What is in memory and not yet in DuckDB.
//!
//! A dated storage keeps only the latest record, so however often an address is written between two
//! flushes, it is pending once. A collection storage keeps every write, for the history.
//!
//! Invariant: what was taken for a flush is either reported back with [`Memtable::flushed`] or put back
//! with [`Memtable::restore`]; until then its records stay in the table.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::record::Record;
use super::super::schema::Model;
use super::Memtable;

/// One address of a dated partition that is to be flushed.
#[derive(Debug, Clone)]
pub struct DirtyRow {
    /// The newest record there.
    pub record: Arc<Record>,
    /// How often it was written since the last flush; since the last deletion among them, when `reset`.
    pub writes: u32,
    /// Whether it was deleted since the last flush.
    pub reset: bool,
}

/// Everything that one flush takes.
#[derive(Debug, Clone)]
pub enum Unflushed {
    /// Dated: the newest record of each address that was written.
    Latest(Vec<DirtyRow>),
    /// Collection: every write in order.
    History(Vec<Arc<Record>>),
}

impl Unflushed {
    /// Rows to flush.
    pub fn len(&self) -> usize {
        match self {
            Self::Latest(rows) => rows.len(),
            Self::History(records) => records.len(),
        }
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug)]
pub(super) struct Pending {
    kind: PendingKind,
    bytes: usize,
}

#[derive(Debug)]
enum PendingKind {
    /// The first unflushed record of each address; the slot there knows the newest.
    Latest(Vec<Arc<Record>>),
    History(VecDeque<Arc<Record>>),
}

impl Pending {
    pub(super) fn new(model: Model) -> Self {
        let kind = match model {
            Model::Dated => PendingKind::Latest(Vec::new()),
            Model::Collection => PendingKind::History(VecDeque::new()),
        };
        Self { kind, bytes: 0 }
    }

    /// Notes a write; `replaced_bytes` is what the record cost that it replaced.
    pub(super) fn note(&mut self, record: Arc<Record>, first_write: bool, replaced_bytes: usize) {
        let size = record.size_bytes();
        match &mut self.kind {
            PendingKind::Latest(dirty) if first_write => {
                self.bytes += size;
                dirty.push(record);
            }
            PendingKind::Latest(_) => self.bytes = (self.bytes + size).saturating_sub(replaced_bytes),
            PendingKind::History(records) => {
                self.bytes += size;
                records.push_back(record);
            }
        }
    }
}

impl Memtable {
    /// What is not yet flushed costs so many bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes
    }

    /// Takes everything that is not yet flushed.
    pub fn take_unflushed(&mut self) -> Unflushed {
        self.pending.bytes = 0;
        match &mut self.pending.kind {
            PendingKind::History(records) => Unflushed::History(std::mem::take(records).into()),
            PendingKind::Latest(dirty) => {
                let dirty = std::mem::take(dirty);
                let rows = dirty.into_iter().filter_map(|first| self.take_dirty(&first)).collect();
                Unflushed::Latest(rows)
            }
        }
    }

    fn take_dirty(&mut self, first: &Record) -> Option<DirtyRow> {
        self.update_slot(first, |slot| {
            let row = DirtyRow { record: Arc::clone(&slot.record), writes: slot.writes, reset: slot.reset };
            (slot.writes, slot.reset) = (0, false);
            row
        })
    }

    fn update_slot<T>(&mut self, address: &Record, change: impl FnOnce(&mut super::Slot) -> T) -> Option<T> {
        use std::hash::BuildHasher as _;
        let hash = self.hasher.hash_one(address.key());
        let entry = self.table.find_mut(hash, |entry| &*entry.key == address.key())?;
        entry.slots.update(address.names(), change)
    }

    /// Puts back what a failed flush had taken, before what came since.
    pub fn restore(&mut self, unflushed: Unflushed) {
        match unflushed {
            Unflushed::Latest(rows) => {
                for row in rows {
                    self.restore_row(row);
                }
            }
            Unflushed::History(records) => {
                self.pending.bytes += records.iter().map(|record| record.size_bytes()).sum::<usize>();
                if let PendingKind::History(newer) = &mut self.pending.kind {
                    let mut restored = VecDeque::from(records);
                    restored.append(newer);
                    *newer = restored;
                }
            }
        }
    }

    fn restore_row(&mut self, row: DirtyRow) {
        let merged = self.update_slot(&row.record, |slot| {
            let was_clean = slot.writes == 0 && !slot.reset;
            if !slot.reset {
                slot.writes = slot.writes.saturating_add(row.writes);
                slot.reset = row.reset;
            }
            was_clean
        });
        if let (Some(true), PendingKind::Latest(dirty)) = (merged, &mut self.pending.kind) {
            self.pending.bytes += row.record.size_bytes();
            dirty.push(row.record);
        }
    }

    /// What was taken is in DuckDB now: its tombstones are no longer needed.
    pub fn flushed(&mut self, unflushed: &Unflushed) {
        self.epoch += 1;
        match unflushed {
            Unflushed::Latest(rows) => {
                for row in rows.iter().filter(|row| row.record.is_deleted()) {
                    self.drop_tombstone(&row.record);
                }
            }
            Unflushed::History(records) => {
                for record in records.iter().filter(|record| record.is_deleted()) {
                    self.drop_tombstone(record);
                }
            }
        }
    }

    /// Removes a flushed tombstone, unless its address was written again since.
    pub(super) fn drop_tombstone(&mut self, tombstone: &Arc<Record>) {
        use std::hash::BuildHasher as _;
        if self.filling {
            self.kept_tombstones.push(Arc::clone(tombstone));
            return;
        }
        let hash = self.hasher.hash_one(tombstone.key());
        let Some(entry) = self.table.find_mut(hash, |entry| &*entry.key == tombstone.key()) else { return };
        let names = tombstone.names();
        if entry.slots.get(names).is_some_and(|slot| slot.record.seq() == tombstone.seq()) {
            entry.slots.remove(names);
            self.bytes = self.bytes.saturating_sub(tombstone.size_bytes());
            if entry.slots.is_empty() {
                let key = Arc::clone(&entry.key);
                self.remove_key(&key);
            }
        }
    }
}
