//! What is in memory and not yet in DuckDB.
//!
//! A dated storage keeps only the latest record, so however often an address is written between two
//! flushes, it is pending once. A collection storage keeps every write, for the history.
//!
//! A flush takes what is pending in small steps, so that writers wait for none of them long: first the list
//! of what is dirty is [set aside](Memtable::begin_taking), then the rows are [taken](Memtable::take_rows)
//! some at a time. A write that comes to an address of that list before its row is taken moves the row,
//! as it was, to the side.
//!
//! Memory often knows what DuckDB has at an address: nothing, or the row with a certain `seq`. The flush
//! then need not search for it ([`Replaces`]).
//!
//! Invariant: what was taken for a flush is either reported back with [`Memtable::flushed`] or put back
//! with [`Memtable::restore`]; until then its records stay in the table.

use std::sync::Arc;

use super::super::record::Record;
use super::super::schema::Model;
use super::slots::{Slot, Slots};
use super::{KeyEntry, Memtable};

/// What DuckDB has at the address of a record that is to be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaces {
    /// Memory does not know.
    Unknown,
    /// No row.
    Nothing,
    /// The row with this place.
    Row(u64),
}

/// One address of a dated partition that is to be flushed.
#[derive(Debug, Clone)]
pub struct DirtyRow {
    /// The newest record there.
    pub record: Record,
    /// How often it was written since the last flush; since the last deletion among them, when `reset`.
    pub writes: u32,
    /// Whether it was deleted since the last flush.
    pub reset: bool,
    /// What DuckDB has there.
    pub replaces: Replaces,
}

/// One write to a collection partition that is to be flushed.
#[derive(Debug, Clone)]
pub struct PendingWrite {
    /// The record.
    pub record: Record,
    /// What DuckDB has at its address, if this is the first write there since the last flush.
    pub replaces: Replaces,
}

/// Everything that one flush takes.
#[derive(Debug, Clone)]
pub enum Unflushed {
    /// Dated: the newest record of each address that was written.
    Latest(Vec<DirtyRow>),
    /// Collection: every write in order.
    History(Arc<Vec<PendingWrite>>),
}

impl Unflushed {
    /// Rows to flush.
    pub fn len(&self) -> usize {
        match self {
            Self::Latest(rows) => rows.len(),
            Self::History(writes) => writes.len(),
        }
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The deletions among them.
    pub fn tombstones(&self) -> Vec<Record> {
        match self {
            Self::Latest(rows) => deleted(rows.iter().map(|row| &row.record)),
            Self::History(writes) => deleted(writes.iter().map(|write| &write.record)),
        }
    }
}

fn deleted<'r>(records: impl Iterator<Item = &'r Record>) -> Vec<Record> {
    records.filter(|record| record.is_deleted()).cloned().collect()
}

/// What a flush has set aside and is taking.
#[derive(Debug)]
pub enum Taking {
    /// Dated: an unflushed record of each address; its slot knows the newest.
    Latest(Vec<Record>),
    /// Collection: everything, there is nothing more to do.
    History(Arc<Vec<PendingWrite>>),
}

#[derive(Debug)]
pub(super) struct Pending {
    kind: PendingKind,
    bytes: usize,
    /// What is newer than this was written since the last flush began.
    taken_through_seq: u64,
}

#[derive(Debug)]
enum PendingKind {
    Latest {
        /// An unflushed record of each dirty address.
        dirty: Vec<Record>,
        /// Rows that a flush has set aside and that were written again before it took them.
        moved: Vec<DirtyRow>,
    },
    History {
        /// Every write since the last flush began, in order.
        writes: Vec<PendingWrite>,
        /// What that flush has taken, until it ends: whoever asks for the history must find it somewhere.
        taken: Arc<Vec<PendingWrite>>,
    },
}

impl Pending {
    pub(super) fn new(model: Model) -> Self {
        let kind = match model {
            Model::Dated => PendingKind::Latest { dirty: Vec::new(), moved: Vec::new() },
            Model::Collection => PendingKind::History { writes: Vec::new(), taken: Arc::default() },
        };
        Self { kind, bytes: 0, taken_through_seq: 0 }
    }

    pub(super) fn begin_behind(&mut self, flushed_seq: u64) {
        self.taken_through_seq = flushed_seq;
    }

    /// What DuckDB has at the addresses of these records is no longer known.
    pub(super) fn forget_present(&mut self) {
        match &mut self.kind {
            PendingKind::History { writes, .. } => {
                for write in writes {
                    write.replaces = Replaces::Unknown;
                }
            }
            PendingKind::Latest { moved, .. } => {
                for row in moved {
                    row.replaces = Replaces::Unknown;
                }
            }
        }
    }

    /// Puts a record into a slot that has one already; answers the record that was there.
    pub(super) fn replace(&mut self, slot: &mut Slot, record: Record) -> Record {
        let size = record.size_bytes();
        let deleted = record.is_deleted();
        let before = std::mem::replace(&mut slot.record, record.clone());
        let since_last_flush = before.seq() > self.taken_through_seq;
        let left = if before.is_deleted() { Replaces::Nothing } else { Replaces::Row(before.seq()) };
        match &mut self.kind {
            PendingKind::History { writes, .. } => {
                self.bytes += size;
                let replaces = if since_last_flush { Replaces::Unknown } else { left };
                writes.push(PendingWrite { record, replaces });
            }
            PendingKind::Latest { .. } if slot.is_dirty() && since_last_flush => {
                self.bytes = (self.bytes + size).saturating_sub(before.size_bytes());
            }
            PendingKind::Latest { dirty, moved } => {
                if slot.is_dirty() {
                    let Slot { writes, reset, replaces, .. } = *slot;
                    moved.push(DirtyRow { record: before.clone(), writes, reset, replaces: replaces.into() });
                }
                (slot.writes, slot.reset, slot.replaces) = (0, false, left.into());
                self.bytes += size;
                dirty.push(record);
            }
        }
        slot.note_write(deleted);
        before
    }

    /// Puts a record where there is none; `replaces` says what DuckDB has there.
    pub(super) fn insert(&mut self, slots: &mut Slots, record: Record, replaces: Replaces) {
        self.bytes += record.size_bytes();
        let mut slot = Slot { replaces: replaces.into(), ..Slot::new(record.clone()) };
        slot.note_write(record.is_deleted());
        slots.insert(slot);
        match &mut self.kind {
            PendingKind::History { writes, .. } => writes.push(PendingWrite { record, replaces }),
            PendingKind::Latest { dirty, .. } => dirty.push(record),
        }
    }
}

impl Memtable {
    /// What is not yet flushed costs so many bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes
    }

    /// Sets aside everything that is not yet flushed; what is written from now on is for the next flush.
    pub fn begin_taking(&mut self) -> Taking {
        self.pending.bytes = 0;
        self.pending.taken_through_seq = self.published_seq;
        match &mut self.pending.kind {
            PendingKind::History { writes, taken } => {
                *taken = Arc::new(std::mem::take(writes));
                Taking::History(Arc::clone(taken))
            }
            PendingKind::Latest { dirty, .. } => Taking::Latest(std::mem::take(dirty)),
        }
    }

    /// Takes everything that is not yet flushed in one step, for whoever keeps nobody waiting.
    pub fn take_all(&mut self) -> Unflushed {
        match self.begin_taking() {
            Taking::History(writes) => Unflushed::History(writes),
            Taking::Latest(addresses) => {
                let mut rows = Vec::with_capacity(addresses.len());
                self.take_rows(&addresses, &mut rows);
                self.take_moved(&mut rows);
                Unflushed::Latest(rows)
            }
        }
    }

    /// Takes the rows of some of the addresses that were set aside.
    pub fn take_rows(&mut self, addresses: &[Record], rows: &mut Vec<DirtyRow>) {
        let through_seq = self.pending.taken_through_seq;
        for address in addresses {
            let row = self.update_slot(address, |slot| {
                // A newer record means that the row was moved to the side.
                if slot.record.seq() > through_seq || !slot.is_dirty() {
                    return None;
                }
                let Slot { writes, reset, replaces, .. } = *slot;
                (slot.writes, slot.reset) = (0, false);
                Some(DirtyRow { record: slot.record.clone(), writes, reset, replaces: replaces.into() })
            });
            rows.extend(row.flatten());
        }
    }

    /// Takes the rows that were moved to the side; after this everything is taken.
    pub fn take_moved(&mut self, rows: &mut Vec<DirtyRow>) {
        if let PendingKind::Latest { moved, .. } = &mut self.pending.kind {
            rows.append(moved);
        }
    }

    fn update_slot<T>(&mut self, address: &Record, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.find_mut(address.key_bytes())?.slots.update(address, change)
    }

    pub(super) fn find_mut(&mut self, key: &[u8]) -> Option<&mut KeyEntry> {
        let hash = self.hash(key);
        self.table.find_mut(hash, |entry| entry.slots.key_bytes() == key).map(|entry| &mut **entry)
    }

    /// Puts back what a failed flush had taken, before what came since. `flushed_seq` is how far DuckDB
    /// has come: of a flush in halves the first one may be there.
    pub fn restore(&mut self, unflushed: Unflushed, flushed_seq: u64) {
        self.pending.taken_through_seq = flushed_seq;
        // Half of it may be in DuckDB, and what a reader saw there before is old.
        self.epoch += 1;
        match unflushed {
            Unflushed::Latest(rows) => {
                for row in rows {
                    if row.record.seq() > flushed_seq {
                        self.restore_row(row);
                    } else if row.record.is_deleted() {
                        self.drop_tombstone(&row.record);
                    }
                }
            }
            Unflushed::History(restored) => {
                self.pending.bytes += restored.iter().map(|w| w.record.size_bytes()).sum::<usize>();
                if let PendingKind::History { writes, taken } = &mut self.pending.kind {
                    *taken = Arc::default();
                    let mut restored = Arc::unwrap_or_clone(restored);
                    restored.append(writes);
                    *writes = restored;
                }
            }
        }
    }

    fn restore_row(&mut self, row: DirtyRow) {
        let merged = self.update_slot(&row.record, |slot| {
            let was_dirty = slot.is_dirty();
            if !slot.reset {
                slot.writes = slot.writes.saturating_add(row.writes);
                slot.reset = row.reset;
            }
            // A commit may have taken place, although DuckDB could not say so.
            slot.replaces = Replaces::Unknown.into();
            was_dirty
        });
        if let (Some(false), PendingKind::Latest { dirty, .. }) = (merged, &mut self.pending.kind) {
            self.pending.bytes += row.record.size_bytes();
            dirty.push(row.record);
        }
    }

    /// The first write of a collection that DuckDB may not have; from there on all of them are here.
    pub fn oldest_pending_seq(&self) -> Option<u64> {
        let PendingKind::History { writes, taken } = &self.pending.kind else { return None };
        taken.first().or_else(|| writes.first()).map(|write| write.record.seq())
    }

    /// Shows up to `count` of a collection's unflushed writes below a place, newest first; answers the last
    /// place that was shown, `None` when there was nothing left to show.
    pub fn visit_pending(&self, below: u64, count: usize, mut visit: impl FnMut(&Record)) -> Option<u64> {
        fn before(writes: &[PendingWrite], seq: u64) -> impl Iterator<Item = &PendingWrite> {
            writes[..writes.partition_point(|write| write.record.seq() < seq)].iter().rev()
        }
        let PendingKind::History { writes, taken } = &self.pending.kind else { return None };
        let mut last = None;
        for write in before(writes, below).chain(before(taken, below)).take(count) {
            last = Some(write.record.seq());
            visit(&write.record);
        }
        last
    }

    /// What was taken is in DuckDB now: its tombstones are no longer needed.
    pub fn flushed(&mut self, tombstones: &[Record]) {
        self.epoch += 1;
        if let PendingKind::History { taken, .. } = &mut self.pending.kind {
            *taken = Arc::default();
        }
        for tombstone in tombstones {
            self.drop_tombstone(tombstone);
        }
    }

    /// Removes a flushed tombstone, unless its address was written again since.
    pub(super) fn drop_tombstone(&mut self, tombstone: &Record) {
        if self.filling {
            self.kept_tombstones.push(tombstone.clone());
            return;
        }
        let Some(entry) = self.find_mut(tombstone.key_bytes()) else { return };
        let slot = entry.slots.get(tombstone.names());
        if slot.is_some_and(|slot| slot.record.seq() == tombstone.seq()) {
            let last = entry.slots.remove(tombstone);
            self.bytes = self.bytes.saturating_sub(tombstone.size_bytes());
            if last {
                self.remove_key(tombstone.key());
            }
        }
    }
}
