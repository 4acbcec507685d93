//! The records under one key: almost always one, sometimes thousands.
//!
//! Invariant: at most one slot per address, sorted by names.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::record::{Names, Record};

/// The newest record under an address, and what of it is not yet flushed.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) record: Arc<Record>,
    /// Writes since the last flush; since the last deletion among them, when `reset`.
    pub(super) writes: u32,
    /// Whether one of those writes was a deletion, after which versions count anew.
    pub(super) reset: bool,
}

impl Slot {
    fn new(record: Arc<Record>) -> Self {
        Self { record, writes: 0, reset: false }
    }

    /// Counts a write; answers whether it is the first since the last flush.
    pub(super) fn note_write(&mut self, deleted: bool) -> bool {
        let first = self.writes == 0 && !self.reset;
        if deleted {
            self.reset = true;
            self.writes = 0;
        } else {
            self.writes = self.writes.saturating_add(1);
        }
        first
    }
}

/// Something that has a record's names: lets a set be searched by borrowed names.
trait HasNames {
    fn names(&self) -> Names<'_>;
}

impl HasNames for Slot {
    fn names(&self) -> Names<'_> {
        self.record.names()
    }
}

impl HasNames for Names<'_> {
    fn names(&self) -> Names<'_> {
        *self
    }
}

impl<'n> Borrow<dyn HasNames + 'n> for Slot {
    fn borrow(&self) -> &(dyn HasNames + 'n) {
        self
    }
}

impl PartialEq for dyn HasNames + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for dyn HasNames + '_ {}

impl PartialOrd for dyn HasNames + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn HasNames + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.record.names() == other.record.names()
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.record.names().cmp(&other.record.names())
    }
}

/// See the module. The set is only built when a second address comes, which keeps the usual key small.
#[derive(Debug, Default)]
pub(super) enum Slots {
    #[default]
    None,
    One(Slot),
    Many(Box<BTreeSet<Slot>>),
}

impl Slots {
    pub(super) fn get(&self, names: Names<'_>) -> Option<&Slot> {
        match self {
            Self::None => None,
            Self::One(slot) => (slot.record.names() == names).then_some(slot),
            Self::Many(slots) => slots.get(&names as &dyn HasNames),
        }
    }

    /// Changes the slot at an address; answers what `change` does, `None` where there is no slot.
    pub(super) fn update<T>(&mut self, names: Names<'_>, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        match self {
            Self::None => None,
            Self::One(slot) => (slot.record.names() == names).then(|| change(slot)),
            Self::Many(slots) => {
                let mut slot = slots.take(&names as &dyn HasNames)?;
                let answer = change(&mut slot);
                slots.insert(slot);
                Some(answer)
            }
        }
    }

    /// Puts a record at its address and counts the write there; answers whether it is the first since
    /// the last flush, and the record that it replaces.
    pub(super) fn put(&mut self, record: Arc<Record>) -> (bool, Option<Arc<Record>>) {
        let deleted = record.is_deleted();
        let replace = |slot: &mut Slot| {
            let before = std::mem::replace(&mut slot.record, Arc::clone(&record));
            (slot.note_write(deleted), Some(before))
        };
        if let Some(replaced) = self.update(record.names(), replace) {
            return replaced;
        }
        let mut slot = Slot::new(record);
        slot.note_write(deleted);
        self.insert(slot);
        (true, None)
    }

    /// Puts a flushed record at its address, unless something newer is there; answers whether it did.
    pub(super) fn fill(&mut self, record: Arc<Record>) -> bool {
        if self.get(record.names()).is_some() {
            return false;
        }
        self.insert(Slot::new(record));
        true
    }

    fn insert(&mut self, slot: Slot) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(slot),
            Self::One(other) => Self::Many(Box::new(BTreeSet::from([other, slot]))),
            Self::Many(mut slots) => {
                slots.insert(slot);
                Self::Many(slots)
            }
        };
    }

    /// Takes the slot at an address out; answers it.
    pub(super) fn remove(&mut self, names: Names<'_>) -> Option<Slot> {
        match self {
            Self::None => None,
            Self::One(slot) if slot.record.names() != names => None,
            Self::One(_) => match std::mem::take(self) {
                Self::One(slot) => Some(slot),
                _ => None,
            },
            Self::Many(slots) => {
                let removed = slots.take(&names as &dyn HasNames);
                if slots.len() <= 1 {
                    *self = slots.pop_first().map_or(Self::None, Self::One);
                }
                removed
            }
        }
    }

    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = &Slot> + '_> {
        match self {
            Self::None => Box::new(std::iter::empty()),
            Self::One(slot) => Box::new(std::iter::once(slot)),
            Self::Many(slots) => Box::new(slots.iter()),
        }
    }

    pub(super) fn has_live(&self) -> bool {
        match self {
            Self::None => false,
            Self::One(slot) => !slot.record.is_deleted(),
            Self::Many(slots) => slots.iter().any(|slot| !slot.record.is_deleted()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}
