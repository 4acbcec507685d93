//! The partition's three watermarks, in seq: appended ≥ durable ≥ flushed.
//!
//! Invariant: asserted wherever one of them moves; none of them ever moves back.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far each stage has come.
#[derive(Debug)]
pub struct Watermarks {
    appended: AtomicU64,
    durable: AtomicU64,
    flushed: AtomicU64,
}

impl Watermarks {
    /// All records up to `last_seq` are durable, those up to `flushed_seq` flushed.
    pub fn new(last_seq: u64, flushed_seq: u64) -> Self {
        assert!(last_seq >= flushed_seq, "flushed {flushed_seq} is ahead of the log's end {last_seq}");
        Self {
            appended: AtomicU64::new(last_seq),
            durable: AtomicU64::new(last_seq),
            flushed: AtomicU64::new(flushed_seq),
        }
    }

    /// The last record that is written to the log.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// The last record that is on stable storage.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The last record that is in DuckDB.
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Records up to `seq` are written. Only the committer moves this.
    pub fn advance_appended(&self, seq: u64) {
        let before = self.appended.swap(seq, Ordering::AcqRel);
        assert!(before <= seq, "appended moved back from {before} to {seq}");
    }

    /// Everything that is written is on stable storage. Only the committer moves this.
    pub fn advance_durable(&self) {
        let appended = self.appended();
        let before = self.durable.swap(appended, Ordering::AcqRel);
        assert!(before <= appended, "durable moved back from {before} to {appended}");
    }

    /// Records up to `seq` are in DuckDB. Only the flush moves this.
    pub fn advance_flushed(&self, seq: u64) {
        let durable = self.durable();
        assert!(seq <= durable, "flushed {seq} would pass durable {durable}");
        let before = self.flushed.swap(seq, Ordering::AcqRel);
        assert!(before <= seq, "flushed moved back from {before} to {seq}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_follows_the_one_before_it() {
        let marks = Watermarks::new(7, 5);
        assert_eq!((marks.appended(), marks.durable(), marks.flushed()), (7, 7, 5));
        marks.advance_appended(9);
        assert_eq!((marks.appended(), marks.durable(), marks.flushed()), (9, 7, 5));
        marks.advance_durable();
        marks.advance_flushed(8);
        assert_eq!((marks.appended(), marks.durable(), marks.flushed()), (9, 9, 8));
        // To stay is no step back.
        marks.advance_appended(9);
        marks.advance_durable();
        marks.advance_flushed(8);
    }

    #[test]
    #[should_panic(expected = "appended moved back from 7 to 6")]
    fn appended_never_moves_back() {
        Watermarks::new(7, 5).advance_appended(6);
    }

    #[test]
    #[should_panic(expected = "flushed moved back from 5 to 4")]
    fn flushed_never_moves_back() {
        Watermarks::new(7, 5).advance_flushed(4);
    }

    #[test]
    #[should_panic(expected = "flushed 8 would pass durable 7")]
    fn what_is_not_durable_is_not_flushed() {
        let marks = Watermarks::new(7, 5);
        marks.advance_appended(8);
        marks.advance_flushed(8);
    }

    #[test]
    #[should_panic(expected = "ahead of the log's end")]
    fn the_database_has_no_more_than_the_log() {
        Watermarks::new(7, 8);
    }
}
