//! Many writes in one go: all or none, or each by itself.
//!
//! Invariant: the writes stay in the order in which they were added.

use std::fmt;

use fastpersist_protocol::request::{Durability, Op, Placed, Write as WireWrite};
use fastpersist_protocol::time::Date;

use super::write::{Terms, is_conditional, single};
use super::{Dated, Place, Write};
use crate::call::{Call, Caller, on};
use crate::error::Error;
use crate::outcome::{BatchOutcome, WriteOutcome};
use crate::reply;

/// Writes that are collected to be sent together.
///
/// A batch goes out as one line, so it is bounded by the daemon's `max_line_bytes` (1 MiB) and
/// `max_batch_ops` (10,000).
pub struct Batch<C, M> {
    place: Place<C>,
    terms: Terms,
    writes: Vec<Write<C, M>>,
}

impl<C, M> fmt::Debug for Batch<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.writes.len()).finish_non_exhaustive()
    }
}

impl<C: Caller, M> Batch<C, M> {
    pub(crate) fn new(place: Place<C>) -> Self {
        Self { place, terms: Terms::default(), writes: Vec::new() }
    }

    /// Adds a store or a delete of the same storage. Its own date counts only as far as it is that of
    /// the batch; another one is an [`Error::Data`] when the batch is sent.
    pub fn add(&mut self, write: impl Into<Write<C, M>>) {
        self.writes.push(write.into());
    }

    /// How many writes it has.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it has no writes yet.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// When the answer comes, as with a single store.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.terms.durability = durability;
        self
    }

    /// Writes under a name and a number of the caller's own, as a single store does: the batch under this
    /// number, or with [`send_each`](Self::send_each) each write under a number of its own from this one on.
    #[must_use]
    pub fn producer(mut self, name: impl Into<String>, seq: u64) -> Self {
        self.terms.producer = Some((name.into().into(), seq));
        self
    }

    /// Sends the batch as one: either all of it is stored or nothing. Returns a `seq` for each write.
    ///
    /// Where one write is refused, the error's `index` says which. [`Error::Data`] where data is no JSON
    /// object.
    pub fn send(&self) -> C::Answer<BatchOutcome> {
        self.place.client.call(self.call())
    }

    fn call(&self) -> Call<BatchOutcome> {
        let writes: Result<Vec<_>, Error> = self.writes.iter().map(|write| self.checked(write)).collect();
        match writes {
            Ok(write) => {
                let (durability, producer) = (self.terms.durability, self.terms.wire_producer());
                let is_conditional = write.iter().any(is_conditional);
                let placed = Placed { date: self.place.date, durability, producer, write };
                Call::new(&on(&self.place.storage, Op::Batch(placed)))
                    .resent(self.terms.producer.is_some(), is_conditional)
            }
            Err(error) => Call::failed(error, reply::decode),
        }
    }

    fn checked<'w>(&self, write: &'w Write<C, M>) -> Result<WireWrite<'w>, Error> {
        let same_date = write.place.date.is_none() || write.place.date == self.place.date;
        if write.place.storage != self.place.storage || !same_date {
            return Err(Error::Data(
                "a batch goes to one storage and one date, but has writes of others".to_owned(),
            ));
        }
        write.fields.as_write()
    }

    /// Sends every write as a request of its own, many on their way at the same time. One that is
    /// refused does not hold up the others. Returns a result for each write, in their order; the outer
    /// result is an error only where no connection could be made at all.
    pub fn send_each(&self) -> C::Answer<Vec<Result<WriteOutcome, Error>>> {
        let mut terms = self.terms.clone();
        let calls = self.writes.iter().map(|write| {
            let call = match self.checked(write) {
                Ok(write) => single(&self.place.storage, self.place.date, &terms, write),
                Err(error) => Call::failed(error, reply::decode),
            };
            if let Some((_, seq)) = &mut terms.producer {
                *seq += 1;
            }
            call
        });
        self.place.client.call_each(calls.collect())
    }
}

impl<C: Caller> Batch<C, Dated> {
    /// The partition. Without it that of the handle, else today in the storage's time zone.
    #[must_use]
    pub fn date(mut self, date: Date) -> Self {
        self.place.date = Some(date);
        self
    }
}
