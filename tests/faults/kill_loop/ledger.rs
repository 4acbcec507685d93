//! What one writer has sent and was answered, and what follows from it for each of its records.
//!
//! Invariant: it is made of the writer's log alone, so the writer and the checker judge alike, and neither asks the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::steps::{self, Step};

/// What must be true of a step's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    There,
    Gone,
    /// It was not answered: there, or not, but whole.
    Either,
}

/// What one writer has logged.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    pub(super) number: u64,
    /// All steps below have been sent.
    pub(super) sent: u64,
    /// The answered steps with the seqs that they were given.
    pub(super) answered: BTreeMap<u64, Vec<u64>>,
    refused: BTreeSet<u64>,
    /// What was found of steps that nobody answered. It stays so.
    seen: BTreeMap<u64, bool>,
    /// Own records that the writer has read again.
    pub(super) reread: u64,
    /// What the writer has read and should not have.
    pub(super) misread: Vec<String>,
}

impl Ledger {
    pub(super) fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// Takes a line of the log.
    pub(super) fn note(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "misread" {
            self.misread.push(rest.to_owned());
            return;
        }
        let mut numbers = rest.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        let n = numbers.next().expect("a step");
        match word {
            "sent" => self.sent = n,
            "answered" => drop(self.answered.insert(n, numbers.collect())),
            "refused" => drop(self.refused.insert(n)),
            "reread" => self.reread += n,
            other => panic!("no line of a log: {other}"),
        }
    }

    /// The fate of what step `n` stored, deletes aside.
    pub(super) fn fate_of_step(&self, n: u64) -> Fate {
        if self.answered.contains_key(&n) {
            Fate::There
        } else if self.refused.contains(&n) || n >= self.sent {
            Fate::Gone
        } else {
            Fate::Either
        }
    }

    /// The fate of what step `n` stored in the dated storage.
    pub(super) fn fate(&self, n: u64) -> Fate {
        let stored = self.fate_of_step(n);
        match steps::deleted_by(n).map(|delete| self.fate_of_step(delete)) {
            // A delete that was answered counts whatever became of the store before it.
            Some(Fate::There) => Fate::Gone,
            Some(Fate::Either) if stored != Fate::Gone => Fate::Either,
            _ => stored,
        }
    }

    /// Whether so many of the records of step `n` may be there; says what is wrong where they may not. What is seen of
    /// a step whose fate is settled is remembered: it must be seen so ever after.
    pub(super) fn judge(&mut self, n: u64, there: usize, settled: bool) -> Result<(), Wrong> {
        let whole = steps::keys(self.number, n).len();
        let fate = self.fate(n);
        let what = format!("writer {}, step {n}: {there} of {whole} records there, {fate:?}", self.number);
        match fate {
            Fate::There if there < whole => return Err(Wrong::Lost(what)),
            Fate::Gone if there > 0 => return Err(Wrong::Other(what)),
            Fate::Either if there != 0 && there != whole => return Err(Wrong::Other(what)),
            Fate::Either
                if settled && whole > 0 && *self.seen.entry(n).or_insert(there > 0) != (there > 0) =>
            {
                return Err(Wrong::Other(format!("{what}: it was otherwise before a kill")));
            }
            _ => {}
        }
        Ok(())
    }

    /// The steps whose fate no later answer can change, as far as the log goes.
    pub(super) fn settled(&self) -> u64 {
        self.answered.keys().next_back().map_or(0, |last| last.saturating_sub(32) / 32 * 32)
    }

    /// What an item of the collection may hold that the steps of `kind` write, if it must be there.
    pub(super) fn item(&self, kind: Step) -> Option<RangeInclusive<u64>> {
        let last = self.answered.keys().rev().copied().find(|n| steps::step(*n) == kind)?;
        Some(last..=self.sent - 1)
    }
}

/// What a judge has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Something that was answered is not there.
    Lost(String),
    Other(String),
}
