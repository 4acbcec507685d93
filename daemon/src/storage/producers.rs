//! What a partition remembers of its producers: the highest number under which each has written.
//!
//! A write that comes again under a number that is not higher is a repetition, and stores nothing. The
//! number is in the same line of the log as the write, and comes into DuckDB in the same transaction, so
//! whatever survives, both do.
//!
//! Producers come and go, so the table forgets: the one that has not written for the longest time when there
//! are too many, and whoever has not written for a week. A client makes a name up for as long as it lives (it begins
//! with `~`) and needs it only until a broken connection is mended, so those go before all others, and after an hour:
//! ten thousand calls from a shell make nobody forgotten who has a name of its own. Which that is, the records tell: their order and
//! their instants, not the clock of the moment. So it makes no difference in which order DuckDB and the log are
//! read: of two marks the one with the higher place counts, and then those are forgotten who must be.
//!
//! Invariants: of each producer the mark with the highest place is the one that is remembered; what
//! [`Producers::take_changes`] gave out is in DuckDB, or put back with [`Producers::restore`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use fastpersist_protocol::time::Timestamp;

/// A producer that has not written for so long, by its records and those of others, is forgotten.
const IDLE_MICROS: i64 = 7 * 86_400 * 1_000_000;

/// The same for a name that was made up for one client's life.
const PASSING_IDLE_MICROS: i64 = 3_600 * 1_000_000;

/// How such a name begins.
const PASSING: char = '~';

/// How far a producer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The highest number under which it has written.
    pub producer_seq: u64,
    /// The last place that this write took.
    pub seq: u64,
    /// When that was.
    pub updated_at: Timestamp,
}

/// What is to be written down about a producer; without a mark that it is forgotten.
pub type Change = (Arc<str>, Option<Mark>);

/// See the module.
#[derive(Debug)]
pub struct Producers {
    marks: HashMap<Arc<str>, Mark>,
    /// The producers by the place of their last write.
    order: BTreeMap<u64, Arc<str>>,
    /// Those among them whose names pass.
    passing: BTreeMap<u64, Arc<str>>,
    /// Those whose mark differs from what DuckDB has.
    changed: HashSet<Arc<str>>,
    max: usize,
}

impl Default for Producers {
    /// One that remembers as many as come.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Producers {
    /// Remembers nobody yet, and up to `max` producers.
    pub fn new(max: usize) -> Self {
        Self {
            marks: HashMap::new(),
            order: BTreeMap::new(),
            passing: BTreeMap::new(),
            changed: HashSet::new(),
            max,
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// How far a producer has come; `None` where it is not remembered.
    pub fn mark(&self, producer: &str) -> Option<&Mark> {
        self.marks.get(producer)
    }

    /// Takes in what DuckDB has.
    pub fn load(&mut self, marks: impl IntoIterator<Item = (Arc<str>, Mark)>) {
        for (name, mark) in marks {
            self.insert(name, mark);
        }
        self.forget();
    }

    /// A producer has written. Answers false where that, or something newer of it, was known.
    pub fn note(&mut self, name: Arc<str>, mark: Mark) -> bool {
        let is_new = self.insert(Arc::clone(&name), mark);
        if is_new {
            self.changed.insert(name);
            self.forget();
        }
        is_new
    }

    fn insert(&mut self, name: Arc<str>, mark: Mark) -> bool {
        if self.marks.get(&name).is_some_and(|known| known.seq >= mark.seq) {
            // The log repeats what a file has already.
            return false;
        }
        if let Some(before) = self.marks.insert(Arc::clone(&name), mark) {
            self.order.remove(&before.seq);
            self.passing.remove(&before.seq);
        }
        if name.starts_with(PASSING) {
            self.passing.insert(mark.seq, Arc::clone(&name));
        }
        self.order.insert(mark.seq, name);
        true
    }

    fn forget(&mut self) {
        while self.marks.len() > self.max {
            let oldest = self.passing.first_key_value().or(self.order.first_key_value());
            let Some(seq) = oldest.map(|(seq, _)| *seq) else { return };
            self.forget_at(seq);
        }
        let newest = self.order.last_key_value().and_then(|(_, name)| self.marks.get(name)).copied();
        let Some(newest) = newest else { return };
        while let Some(seq) = self.idle(&self.passing, newest, PASSING_IDLE_MICROS) {
            self.forget_at(seq);
        }
        while let Some(seq) = self.idle(&self.order, newest, IDLE_MICROS) {
            self.forget_at(seq);
        }
    }

    /// The first of them, where it has not written for so long.
    fn idle(&self, order: &BTreeMap<u64, Arc<str>>, newest: Mark, idle_micros: i64) -> Option<u64> {
        let (seq, oldest) = order.first_key_value()?;
        let is_idle = |mark: &Mark| {
            newest.updated_at.as_micros().saturating_sub(mark.updated_at.as_micros()) > idle_micros
        };
        self.marks.get(oldest).is_none_or(is_idle).then_some(*seq)
    }

    fn forget_at(&mut self, seq: u64) {
        self.passing.remove(&seq);
        if let Some(name) = self.order.remove(&seq) {
            self.marks.remove(&name);
            self.changed.insert(name);
        }
    }

    /// What has changed since it was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|name| (Arc::clone(&name), self.marks.get(&name).copied())).collect()
    }

    /// Puts back what could not be written down.
    pub fn restore(&mut self, changes: Vec<Change>) {
        self.changed.extend(changes.into_iter().map(|(name, _)| name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(producer_seq: u64, seq: u64, day: i64) -> Mark {
        let updated_at = Timestamp::from_micros(day * 86_400_000_000).expect("in range");
        Mark { producer_seq, seq, updated_at }
    }

    fn names(changes: &[Change]) -> Vec<(String, Option<u64>)> {
        let mut names: Vec<_> =
            changes.iter().map(|(name, mark)| (name.to_string(), mark.map(|m| m.producer_seq))).collect();
        names.sort();
        names
    }

    #[test]
    fn the_one_that_wrote_longest_ago_is_forgotten_first() {
        let mut producers = Producers::new(2);
        producers.note("a".into(), mark(1, 1, 0));
        producers.note("b".into(), mark(1, 2, 0));
        producers.note("a".into(), mark(5, 3, 0));
        producers.note("c".into(), mark(9, 4, 0));
        assert_eq!(producers.mark("b"), None);
        assert_eq!(producers.mark("a"), Some(&mark(5, 3, 0)));
        let expected = [("a".to_owned(), Some(5)), ("b".to_owned(), None), ("c".to_owned(), Some(9))];
        assert_eq!(names(&producers.take_changes()), expected);
        assert!(producers.take_changes().is_empty());
    }

    #[test]
    fn who_has_not_written_for_a_week_is_forgotten_when_another_one_writes() {
        let mut producers = Producers::new(10);
        producers.note("a".into(), mark(1, 1, 0));
        producers.note("b".into(), mark(1, 2, 3));
        producers.note("b".into(), mark(2, 3, 7));
        assert!(producers.mark("a").is_some());
        producers.note("b".into(), mark(3, 4, 8));
        assert_eq!((producers.mark("a"), producers.len()), (None, 1));
        producers.note("b".into(), mark(4, 5, 100));
        assert_eq!(producers.mark("b"), Some(&mark(4, 5, 100)), "its own pause is no matter");
    }

    #[test]
    fn a_name_that_passes_makes_room_for_those_that_stay() {
        let mut producers = Producers::new(3);
        producers.note("importer".into(), mark(7, 1, 0));
        for seq in 2..100 {
            producers.note(format!("~{seq}").into(), mark(1, seq, 0));
        }
        assert_eq!(producers.mark("importer"), Some(&mark(7, 1, 0)));
        assert_eq!((producers.mark("~97"), producers.len()), (None, 3));
        assert!(producers.mark("~98").is_some() && producers.mark("~99").is_some());
        producers.note("importer".into(), mark(8, 100, 1));
        assert_eq!((producers.mark("~99"), producers.len()), (None, 1), "a day later");
    }

    #[test]
    fn what_was_not_written_down_comes_again_as_it_is_then() {
        let mut producers = Producers::new(10);
        producers.load([("old".into(), mark(7, 1, 0))]);
        assert!(producers.take_changes().is_empty(), "DuckDB has it");
        producers.note("a".into(), mark(1, 2, 0));
        let taken = producers.take_changes();
        producers.note("a".into(), mark(2, 3, 0));
        producers.restore(taken);
        assert_eq!(names(&producers.take_changes()), [("a".to_owned(), Some(2))]);
    }

    #[test]
    fn in_whatever_order_log_and_file_are_read_the_same_is_remembered() {
        let log = [("gone", mark(9, 1, 0)), ("a", mark(3, 4, 1)), ("b", mark(1, 7, 9)), ("a", mark(4, 8, 9))];
        let file =
            [("old", mark(5, 2, 8)), ("gone", mark(9, 1, 0)), ("a", mark(2, 3, 0)), ("b", mark(6, 5, 8))];
        let file = file.map(|(name, mark)| (Arc::from(name), mark));
        let (mut first, mut last) = (Producers::new(4), Producers::new(4));
        first.load(file.clone());
        for (name, mark) in log {
            first.note(name.into(), mark);
            last.note(name.into(), mark);
        }
        last.load(file);
        for producers in [&first, &last] {
            assert_eq!(producers.mark("a"), Some(&mark(4, 8, 9)));
            // One that was forgotten and came again: the higher place is the newer one, whatever its number.
            assert_eq!(producers.mark("b"), Some(&mark(1, 7, 9)));
            assert_eq!(producers.mark("old"), Some(&mark(5, 2, 8)));
            assert_eq!(producers.mark("gone"), None);
        }
        assert!(!first.note("a".into(), mark(3, 4, 1)), "the log repeats what is known");
    }
}
