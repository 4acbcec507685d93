//! What makes it safe to send a write again: every write has a number, under the name of its client.
//!
//! The daemon remembers the highest number that each name has written under, and recognises what comes again.
//! So a write whose answer was lost with the connection goes over the next one, and is stored once.
//!
//! What is refused leaves no trace at the daemon. So a write that may be refused for good (its condition may not
//! hold) goes under a name that no other write has while it is under way: behind a higher number of the same name
//! its repetition would be taken for one that was stored.
//!
//! Invariant: numbers go out in their order, on one connection at a time; what goes over a new connection
//! goes before everything new. A higher number that came first would make a repetition of a lower one.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::json;
use tokio::sync::Notify;

use crate::connection::{Outcome, Slot};
use crate::reply;

/// How often a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Once.
    Once,
    /// Until it is answered, under a number that the client gives it.
    Number,
    /// The same, under a name that no other write under way has.
    NumberAlone,
    /// Until it is answered, under the number that it has.
    Numbered,
}

/// Between two tries to get a connection the client waits so long, and then longer and longer.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The pause behind this one.
pub(crate) fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// What an answer to a repetition tells. The daemon looks for repetitions behind almost everything else, so most refusals
/// say nothing of the first try: that may be stored. Only what no configuration allows was refused then too, and a
/// condition is looked at behind them.
pub(crate) fn of_repetition(outcome: Outcome) -> Outcome {
    let Some(error) = outcome.as_ref().ok().and_then(|line| reply::check(line).err()) else { return outcome };
    match error.code() {
        None | Some(ErrorCode::BadJson | ErrorCode::UnknownOp | ErrorCode::Conflict) => outcome,
        Some(_) if error.is_outcome_unknown() => outcome,
        Some(_) => Err(error.unanswered()),
    }
}

/// The numbers of one client's writes.
#[derive(Debug)]
pub(crate) struct Numbers {
    producer: String,
    last: AtomicU64,
    /// Lanes that are free again, the lowest first.
    free: Mutex<BTreeSet<u32>>,
    /// How many lanes there have been.
    lanes: AtomicU32,
}

/// A part of the client's name: one write at a time has it, and gives it back when it is dropped.
pub(crate) struct Lane {
    resender: Arc<Resender>,
    number: u32,
}

impl Lane {
    /// The lowest that is free, so that there are as few names as can be.
    pub(crate) fn take(resender: &Arc<Resender>) -> Self {
        let numbers = &resender.numbers;
        let free = numbers.free_lanes().pop_first();
        let number = free.unwrap_or_else(|| numbers.lanes.fetch_add(1, Ordering::Relaxed));
        Self { resender: Arc::clone(resender), number }
    }

    /// The line with the next number in it.
    pub(crate) fn number(&self, line: &[u8]) -> Vec<u8> {
        self.resender.numbers.number_alone(line, self.number)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.resender.numbers.free_lanes().insert(self.number);
    }
}

impl Numbers {
    /// Under a name that no other client has, and that the daemon may forget soon: so it begins with `~`.
    pub(crate) fn new() -> Self {
        // The keys of a hasher come from the system's source of randomness.
        let random = || RandomState::new().build_hasher().finish();
        let producer = format!("~{}-{:016x}{:016x}", std::process::id(), random(), random());
        Self { producer, last: AtomicU64::new(0), free: Mutex::default(), lanes: AtomicU32::new(0) }
    }

    fn free_lanes(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line with the next number in it.
    pub(crate) fn number(&self, line: &[u8]) -> Vec<u8> {
        self.under(line, &self.producer)
    }

    /// The same, for a write that is the only one under way in its lane.
    pub(crate) fn number_alone(&self, line: &[u8], way: u32) -> Vec<u8> {
        self.under(line, &format!("{}/{way}", self.producer))
    }

    fn under(&self, line: &[u8], producer: &str) -> Vec<u8> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(fields) = line.strip_suffix(b"}\n") else { return line.to_vec() };
        let mut numbered = Vec::with_capacity(line.len() + self.producer.len() + 48);
        numbered.extend_from_slice(fields);
        numbered.extend_from_slice(b",\"producer\":");
        json::write_string(&mut numbered, producer);
        numbered.extend_from_slice(b",\"producer_seq\":");
        json::write_u64(&mut numbered, number);
        numbered.extend_from_slice(b"}\n");
        numbered
    }
}

/// The writes of an async client whose connection broke, and that wait for the next one.
pub(crate) struct Resender {
    pub(crate) numbers: Numbers,
    waiting: Mutex<VecDeque<Slot>>,
    /// Told when there are any.
    pub(crate) broken: Notify,
}

impl Resender {
    pub(crate) fn new() -> Self {
        Self { numbers: Numbers::new(), waiting: Mutex::default(), broken: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds writes of a connection that has ended, in their order.
    pub(crate) fn add(&self, slots: impl IntoIterator<Item = Slot>) {
        self.waiting().extend(slots);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// The writes that somebody still waits for, for a new connection to begin with.
    pub(crate) fn take(&self) -> VecDeque<Slot> {
        let mut slots = std::mem::take(&mut *self.waiting());
        slots.retain(|slot| !slot.is_given_up());
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_the_next_number_and_stays_an_object() {
        let numbers = Numbers::new();
        for expected in 1..=3 {
            let line = numbers.number(b"{\"op\":\"store\",\"key\":\"k\",\"data\":{}}\n");
            let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(object["producer_seq"], expected);
            assert_eq!((&object["op"], &object["data"]), (&"store".into(), &serde_json::json!({})));
            assert!(object["producer"].as_str().unwrap().starts_with('~'));
            assert!(line.ends_with(b"}\n"));
        }
        assert_ne!(numbers.producer, Numbers::new().producer);
    }

    #[test]
    fn a_lane_has_one_write_at_a_time() {
        let resender = Arc::new(Resender::new());
        let sent = |lane: &Lane| -> (String, u64) {
            let line = lane.number(b"{\"op\":\"delete\",\"key\":\"k\",\"if_seq\":1}\n");
            let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
            (object["producer"].as_str().unwrap().to_owned(), object["producer_seq"].as_u64().unwrap())
        };
        let (first, second) = (Lane::take(&resender), Lane::take(&resender));
        let ((name, number), (other, _)) = (sent(&first), sent(&second));
        assert!(name != other && name.starts_with(&resender.numbers.producer), "{name} {other}");
        drop(first);
        let (again, next) = sent(&Lane::take(&resender));
        assert!(again == name && next > number, "{again} {next}");
    }
}
