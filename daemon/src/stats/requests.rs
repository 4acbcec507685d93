//! Answers, counted by operation and outcome.
//!
//! Invariant: a request is counted once, when its answer is known, and no count ever goes down. To count it
//! when it is read and to subtract the errors later would let a scraper see fewer successes than before.

use std::sync::atomic::{AtomicU64, Ordering};

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::request::Op;

/// The operation of a line that is no request, and of a connection that is turned away.
const NO_OP: &str = "none";
/// The code of a request that was done.
const OK: &str = "ok";
const CODES: usize = ErrorCode::ALL.len() + 1;

/// One count for each operation and outcome.
#[derive(Debug)]
pub struct RequestCounts(Vec<AtomicU64>);

impl Default for RequestCounts {
    fn default() -> Self {
        Self((0..(Op::NAMES.len() + 1) * CODES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl RequestCounts {
    /// So many requests were done, by the operation's index; called once for many requests.
    pub fn note_done(&self, counts: &[u32]) {
        for (op, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.0[op * CODES].fetch_add(u64::from(*count), Ordering::Relaxed);
        }
    }

    /// A request was answered with an error. `op` is the operation's index; `None` where there is none.
    pub fn note_error(&self, op: Option<usize>, code: ErrorCode) {
        let op = op.unwrap_or(Op::NAMES.len());
        if let Some(index) = ErrorCode::ALL.iter().position(|other| *other == code) {
            self.0[op * CODES + 1 + index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every operation and outcome with its count, also those that never came.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let ops = Op::NAMES.iter().copied().chain([NO_OP]);
        ops.zip(self.0.chunks(CODES)).flat_map(|(op, row)| {
            let codes = std::iter::once(OK).chain(ErrorCode::ALL.iter().map(|code| code.as_str()));
            codes.zip(row).map(move |(code, count)| (op, code, count.load(Ordering::Relaxed)))
        })
    }

    /// Requests by operation, without those that never came and without lines that are no request.
    pub fn by_op(&self) -> Vec<(&'static str, u64)> {
        self.summed(|op, _| (op != NO_OP).then_some(op))
    }

    /// Errors by code, without those that never came.
    pub fn by_error(&self) -> Vec<(&'static str, u64)> {
        self.summed(|_, code| (code != OK).then_some(code))
    }

    fn summed(
        &self,
        name: impl Fn(&'static str, &'static str) -> Option<&'static str>,
    ) -> Vec<(&'static str, u64)> {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for (op, code, count) in self.all().filter(|(_, _, count)| *count > 0) {
            let Some(name) = name(op, code) else { continue };
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => sums.push((name, count)),
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_matrix() {
        let counts = RequestCounts::default();
        counts.note_done(&[3, 0, 2]);
        counts.note_error(Some(2), ErrorCode::Conflict);
        counts.note_error(Some(0), ErrorCode::Internal);
        counts.note_error(None, ErrorCode::Internal);
        assert_eq!(counts.by_op(), [("store", 4), ("batch", 3)]);
        assert_eq!(counts.by_error(), [("internal", 2), ("conflict", 1)]);
        let found: Vec<_> = counts.all().filter(|(_, _, count)| *count > 0).collect();
        let expected = [
            ("store", "ok", 3),
            ("store", "internal", 1),
            ("batch", "ok", 2),
            ("batch", "conflict", 1),
            ("none", "internal", 1),
        ];
        assert_eq!(found, expected);
    }
}
