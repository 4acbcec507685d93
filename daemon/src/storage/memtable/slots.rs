//! The records under one key: almost always one, sometimes thousands.
//!
//! Invariant: at most one slot per address, sorted by names.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::super::record::{Names, Record};
use super::pending::Replaces;

/// The newest record under an address, and what of it is not yet flushed.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) record: Record,
    /// What DuckDB has at the address, while there is something to flush.
    pub(super) replaces: Packed,
    /// Writes since the last flush; since the last deletion among them, when `reset`.
    pub(super) writes: u32,
    /// Whether one of those writes was a deletion, after which versions count anew.
    pub(super) reset: bool,
}

/// [`Replaces`] in eight bytes: there are as many slots as records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed(u64);

impl From<Replaces> for Packed {
    fn from(replaces: Replaces) -> Self {
        Self(match replaces {
            Replaces::Unknown => u64::MAX,
            Replaces::Nothing => 0,
            Replaces::Row(seq) => seq,
        })
    }
}

impl From<Packed> for Replaces {
    fn from(packed: Packed) -> Self {
        match packed.0 {
            u64::MAX => Self::Unknown,
            0 => Self::Nothing,
            seq => Self::Row(seq),
        }
    }
}

impl Slot {
    pub(super) fn new(record: Record) -> Self {
        Self { record, replaces: Replaces::Unknown.into(), writes: 0, reset: false }
    }

    /// Whether there is something to flush.
    pub(super) fn is_dirty(&self) -> bool {
        self.writes > 0 || self.reset
    }

    /// Counts a write.
    pub(super) fn note_write(&mut self, deleted: bool) {
        if deleted {
            self.reset = true;
            self.writes = 0;
        } else {
            self.writes = self.writes.saturating_add(1);
        }
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
#[derive(Debug)]
pub(super) enum Slots {
    /// A key about which it is only known that it has no records.
    None(Box<str>),
    One(Slot),
    // Boxed: the set is rare, and would make every slot of the table larger.
    #[allow(clippy::box_collection)]
    Many(Box<BTreeSet<Slot>>),
}

impl Slots {
    /// The key, which its records know.
    pub(super) fn key_bytes(&self) -> &[u8] {
        match self {
            Self::None(key) => key.as_bytes(),
            Self::One(slot) => slot.record.key_bytes(),
            Self::Many(slots) => slots.first().map_or(&[], |slot| slot.record.key_bytes()),
        }
    }

    pub(super) fn get(&self, names: Names<'_>) -> Option<&Slot> {
        match self {
            Self::None(_) => None,
            Self::One(slot) => slot.record.has_names(names).then_some(slot),
            Self::Many(slots) => slots.get(&names as &dyn HasNames),
        }
    }

    /// Changes the slot at the address of `like`; answers what `change` does, `None` where there is no
    /// slot.
    pub(super) fn update<T>(&mut self, like: &Record, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        match self {
            Self::None(_) => None,
            Self::One(slot) => slot.record.has_names_of(like).then(|| change(slot)),
            Self::Many(slots) => {
                let mut slot = slots.take(&like.names() as &dyn HasNames)?;
                let answer = change(&mut slot);
                slots.insert(slot);
                Some(answer)
            }
        }
    }

    /// Puts a flushed record at its address, unless something newer is there; answers whether it did.
    pub(super) fn fill(&mut self, record: Record) -> bool {
        if self.get(record.names()).is_some() {
            return false;
        }
        self.insert(Slot::new(record));
        true
    }

    /// Puts a slot where there is none.
    pub(super) fn insert(&mut self, slot: Slot) {
        *self = match std::mem::replace(self, Self::None(Box::default())) {
            Self::None(_) => Self::One(slot),
            Self::One(other) => Self::Many(Box::new(BTreeSet::from([other, slot]))),
            Self::Many(mut slots) => {
                slots.insert(slot);
                Self::Many(slots)
            }
        };
    }

    /// Takes the slot at the address of `like` out; answers whether the key has no records any more.
    pub(super) fn remove(&mut self, like: &Record) -> bool {
        if let Self::Many(slots) = self {
            slots.take(&like.names() as &dyn HasNames);
            if slots.len() > 1 {
                return false;
            }
            if let Some(last) = slots.pop_first() {
                *self = Self::One(last);
                return false;
            }
        }
        matches!(self, Self::One(slot) if slot.record.has_names_of(like)) || matches!(self, Self::None(_))
    }

    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = &Slot> + '_> {
        match self {
            Self::None(_) => Box::new(std::iter::empty()),
            Self::One(slot) => Box::new(std::iter::once(slot)),
            Self::Many(slots) => Box::new(slots.iter()),
        }
    }

    pub(super) fn has_live(&self) -> bool {
        match self {
            Self::None(_) => false,
            Self::One(slot) => !slot.record.is_deleted(),
            Self::Many(slots) => slots.iter().any(|slot| !slot.record.is_deleted()),
        }
    }
}
