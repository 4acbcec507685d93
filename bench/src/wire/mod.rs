//! What differs between the servers: how a request looks, and where an answer ends.
//!
//! Invariant: an answer is never parsed further than it takes to find its end and to see that it
//! is a success; both counters do that for every answer.

mod fastpersist;
mod redis;

pub use fastpersist::FastPersist;
pub use redis::Redis;

use crate::error::BenchError;
use crate::load::Load;
use crate::template::Template;

/// A protocol.
pub trait Wire {
    /// Counts the answers of one connection.
    type Answers: Answers;

    /// The request that stores a document.
    fn store(&self, load: &Load) -> Template;

    /// The request that reads one.
    fn read(&self, load: &Load) -> Template;
}

/// Counts answers in a stream of bytes that may be cut anywhere.
pub trait Answers: Default {
    /// Takes the next bytes of the stream and returns how many answers end in them.
    ///
    /// # Errors
    /// [`BenchError::BadAnswer`] when the bytes are not of this protocol.
    fn count(&mut self, bytes: &[u8], tally: &mut Tally) -> Result<usize, BenchError>;
}

/// What the answers said, over all connections.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Answers that say that the request failed.
    pub errors: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// The text of the first error.
    pub first_error: Option<String>,
}

impl Tally {
    /// Rare, so kept away from the code that counts.
    #[cold]
    fn add_error(&mut self, text: &[u8]) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(String::from_utf8_lossy(text).trim_end().to_owned());
        }
    }
}

/// As much of a line as an error message shows; the rest of a cut line is only looked through.
const HEAD_BYTES_MAX: usize = 512;

/// Keeps the start of a line that a read cut off.
fn keep_head(head: &mut Vec<u8>, bytes: &[u8]) {
    let room = HEAD_BYTES_MAX.saturating_sub(head.len());
    head.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts `stream` whole, cut at every single byte, and cut in two at every place.
    pub(super) fn count_in_all_splits<A: Answers>(stream: &[u8], answers: usize, tally: &Tally) {
        for size in 1..=stream.len() {
            check::<A>(stream.chunks(size), answers, tally);
        }
        for place in 0..=stream.len() {
            let (left, right) = stream.split_at(place);
            check::<A>([left, right].into_iter(), answers, tally);
        }
    }

    fn check<'a, A: Answers>(parts: impl Iterator<Item = &'a [u8]>, answers: usize, expected: &Tally) {
        let mut counter = A::default();
        let mut tally = Tally::default();
        let mut sum = 0;
        for part in parts {
            sum += counter.count(part, &mut tally).expect("a stream of this protocol");
        }
        assert_eq!(sum, answers);
        assert_eq!(&tally, expected);
    }
}
