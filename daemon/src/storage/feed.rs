//! What was just written, for those who follow a partition's changes.
//!
//! While nobody follows, a commit group looks at one number and goes on. While somebody does, the committer
//! leaves its records here too (they are shared, not copied) and wakes whoever waits; it never waits for
//! them. The newest records are kept, up to a bound: a follower that has fallen behind reads from the log
//! instead, and all that it has to know for that is the place of the next record.
//!
//! A feed outlives its partition, which may be closed while nobody writes.
//!
//! Invariant: the records stand one behind the other without a gap, and none is shown before it is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::record::Record;

/// So many records are kept at most, and so many bytes: about what a follower misses while it is not
/// scheduled. Most of them are in the memory table anyway.
const MAX_RECORDS: usize = 65_536;
const MAX_BYTES: usize = 8 << 20;
/// What a follower takes at a time.
const TAKEN_RECORDS: usize = 1024;
const TAKEN_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Feed {
    watchers: AtomicUsize,
    ring: Mutex<Ring>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Record>,
    bytes: usize,
    /// The last record that readers of the partition see.
    published: u64,
    /// The last record that is on stable storage.
    durable: u64,
}

impl Ring {
    /// The last record that may be told.
    fn tellable(&self) -> u64 {
        self.published.min(self.durable)
    }

    fn clear(&mut self) {
        self.records = VecDeque::new();
        self.bytes = 0;
    }

    fn push(&mut self, record: Record) {
        let seq = record.seq();
        if seq <= self.published {
            // Somebody who came meanwhile knows of it already, and reads it from the log.
            return;
        }
        if seq > self.published + 1 {
            self.clear();
        }
        self.published = seq;
        self.bytes += record.size_bytes();
        self.records.push_back(record);
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.size_bytes();
        }
    }

    /// Goes on behind `published`, whatever was here before.
    fn follow(&mut self, published: u64, durable: u64) {
        if self.published != published {
            self.clear();
            self.published = published;
        }
        self.durable = self.durable.max(durable);
    }
}

/// What a follower finds.
#[derive(Debug)]
pub enum Found {
    /// The next records, at least one.
    Records(Vec<Record>),
    /// Nothing yet.
    Nothing,
    /// The next record is not kept here any more; those up to `through` are in the log, or behind it.
    Stored {
        /// The last record that may be told.
        through: u64,
    },
}

impl Feed {
    /// Whether anybody follows. For the committer, which then says what it does.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Begins to follow a partition that stands so. The caller holds what the partition's committer holds
    /// while it publishes and while it moves `durable`: then either that shows here, or the committer sees
    /// that somebody follows.
    pub fn watch(self: &Arc<Self>, published: u64, durable: u64) -> Watching {
        let mut ring = self.ring.lock();
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let before = ring.tellable();
        ring.follow(published, durable);
        let begun_at = ring.tellable();
        drop(ring);
        if begun_at > before {
            // The committer may stand before telling of these, and will find that they can be told already.
            self.told.notify_waiters();
        }
        Watching { feed: Arc::clone(self), begun_at }
    }

    /// The partition was opened; everything up to `last_seq` is durable.
    pub fn opened(&self, last_seq: u64) {
        if self.is_watched() {
            self.ring.lock().follow(last_seq, last_seq);
            self.told.notify_waiters();
        }
    }

    /// A group was published; `durable` is the watermark.
    pub fn publish(&self, records: Vec<Record>, durable: u64) {
        self.change(|ring| {
            for record in records {
                ring.push(record);
            }
            ring.durable = ring.durable.max(durable);
        });
    }

    /// What was written is durable up to here.
    pub fn note_durable(&self, durable: u64) {
        self.change(|ring| ring.durable = ring.durable.max(durable));
    }

    fn change(&self, change: impl FnOnce(&mut Ring)) {
        let mut ring = self.ring.lock();
        if !self.is_watched() {
            return;
        }
        let before = ring.tellable();
        change(&mut ring);
        let more = ring.tellable() > before;
        drop(ring);
        if more {
            self.told.notify_waiters();
        }
    }
}

/// One who follows; it counts until it is dropped.
#[derive(Debug)]
pub struct Watching {
    feed: Arc<Feed>,
    /// The last record that could be told when it began.
    begun_at: u64,
}

impl Watching {
    /// The last record that could be told when this began.
    pub fn begun_at(&self) -> u64 {
        self.begun_at
    }

    /// The records from `next_seq` on, some at a time.
    pub fn look(&self, next_seq: u64) -> Found {
        let ring = self.feed.ring.lock();
        let through = ring.tellable();
        if next_seq > through {
            return Found::Nothing;
        }
        let first = ring.published + 1 - ring.records.len() as u64;
        if next_seq < first {
            return Found::Stored { through };
        }
        let mut bytes = 0;
        let rest = ring.records.range((next_seq - first) as usize..=(through - first) as usize);
        let some = rest.take(TAKEN_RECORDS).take_while(|record| {
            let fits = bytes < TAKEN_BYTES;
            bytes += record.size_bytes();
            fits
        });
        Found::Records(some.cloned().collect())
    }

    /// Told when there is more. Whoever waits must look again after this was made and enabled.
    pub fn told(&self) -> Notified<'_> {
        self.feed.told.notified()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut ring = self.feed.ring.lock();
        if self.feed.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            ring.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use fastpersist_protocol::time::Timestamp;

    use super::*;
    use crate::storage::record::{Columns, Names};

    fn record(seq: u64, data_bytes: usize) -> Record {
        Record::new(&Columns {
            key: "k",
            names: Names::Dated { process_name: None },
            data: &"x".repeat(data_bytes),
            value: None,
            timestamp: None,
            status: None,
            status_int: None,
            username: None,
            updated_at: Timestamp::EPOCH,
            seq,
            deleted: false,
            writer: None,
        })
    }

    fn records(seqs: impl IntoIterator<Item = u64>) -> Vec<Record> {
        seqs.into_iter().map(|seq| record(seq, 10)).collect()
    }

    /// What a look finds: the places, or where they are stored.
    fn seqs(watching: &Watching, next_seq: u64) -> Result<Vec<u64>, u64> {
        match watching.look(next_seq) {
            Found::Records(records) => Ok(records.iter().map(Record::seq).collect()),
            Found::Nothing => Ok(Vec::new()),
            Found::Stored { through } => Err(through),
        }
    }

    #[test]
    fn what_is_published_and_durable_is_found_and_what_was_before_is_stored() {
        let feed = Arc::new(Feed::default());
        let watching = feed.watch(7, 7);
        assert_eq!(watching.begun_at(), 7);
        assert_eq!(seqs(&watching, 8), Ok(vec![]));
        assert_eq!(seqs(&watching, 3), Err(7));
        feed.publish(records(8..=10), 10);
        assert_eq!(seqs(&watching, 8), Ok(vec![8, 9, 10]));
        assert_eq!(seqs(&watching, 10), Ok(vec![10]));
        assert_eq!(seqs(&watching, 11), Ok(vec![]));
        assert_eq!(seqs(&watching, 7), Err(10));
    }

    #[test]
    fn a_buffered_record_is_told_when_it_is_synced_and_not_before_it_is_published() {
        let feed = Arc::new(Feed::default());
        let watching = feed.watch(0, 0);
        feed.publish(records(1..=3), 0);
        assert_eq!(seqs(&watching, 1), Ok(vec![]), "nothing of it is durable");
        feed.note_durable(2);
        assert_eq!(seqs(&watching, 1), Ok(vec![1, 2]));
        // A sync may be over before the group is published.
        feed.note_durable(5);
        assert_eq!(seqs(&watching, 1), Ok(vec![1, 2, 3]));
        feed.publish(records(4..=5), 5);
        assert_eq!(seqs(&watching, 4), Ok(vec![4, 5]));
    }

    #[test]
    fn one_who_comes_between_a_publication_and_its_telling_costs_the_others_no_record() {
        let feed = Arc::new(Feed::default());
        let first = feed.watch(0, 0);
        feed.publish(records(1..=2), 2);
        let mut told = std::pin::pin!(first.told());
        assert!(!told.as_mut().enable());
        // The committer has published 3 and 4 but not told it yet. It then found that they could be told already, and
        // the first one slept until the next write.
        let second = feed.watch(4, 4);
        feed.publish(records(3..=4), 4);
        assert!(told.as_mut().enable(), "the first one is woken");
        assert_eq!(seqs(&first, 3), Err(4), "they are in the log");
        assert_eq!(seqs(&second, 5), Ok(vec![]));
        feed.publish(records(5..=5), 5);
        assert_eq!((seqs(&first, 5), seqs(&second, 5)), (Ok(vec![5]), Ok(vec![5])));
    }

    #[test]
    fn a_gap_is_never_hidden() {
        let feed = Arc::new(Feed::default());
        let watching = feed.watch(0, 0);
        feed.publish(records(1..=2), 2);
        feed.publish(records(5..=6), 6);
        assert_eq!(seqs(&watching, 3), Err(6));
        assert_eq!(seqs(&watching, 5), Ok(vec![5, 6]));
    }

    #[test]
    fn it_is_bounded_by_number_and_bytes_and_empty_when_nobody_follows() {
        let feed = Arc::new(Feed::default());
        let watching = feed.watch(0, 0);
        let many = MAX_RECORDS as u64 + 10;
        feed.publish(records(1..=many), many);
        assert_eq!(seqs(&watching, 10), Err(many));
        assert_eq!(seqs(&watching, 11).map(|seqs| seqs[0]), Ok(11));
        feed.publish(vec![record(many + 1, MAX_BYTES)], many + 1);
        assert_eq!(seqs(&watching, many + 1), Err(many + 1), "one alone may be too large");
        feed.publish(records([many + 2]), many + 2);
        assert_eq!(seqs(&watching, many + 2), Ok(vec![many + 2]));
        drop(watching);
        assert!(!feed.is_watched());
        assert_eq!(feed.ring.lock().records.len(), 0);
        feed.publish(records([many + 3]), many + 3);
        assert_eq!(feed.ring.lock().records.len(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_what_is_durable() {
        let feed = Arc::new(Feed::default());
        let watching = feed.watch(0, 0);
        let mut told = std::pin::pin!(watching.told());
        assert!(!told.as_mut().enable());
        feed.publish(records(1..=1), 0);
        assert!(!told.as_mut().enable(), "not durable yet");
        feed.note_durable(1);
        assert!(told.as_mut().enable());
    }

    #[test]
    fn a_partition_that_was_closed_and_opened_goes_on() {
        let feed = Arc::new(Feed::default());
        let watching = feed.watch(0, 0);
        feed.publish(records(1..=2), 2);
        feed.opened(2);
        assert_eq!(seqs(&watching, 1), Ok(vec![1, 2]));
        feed.publish(records(3..=3), 3);
        assert_eq!(seqs(&watching, 2), Ok(vec![2, 3]));
    }
}
