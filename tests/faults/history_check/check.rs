//! Holds a history against what is promised: each record by itself (`linear`), each partition as a whole (`order`),
//! and the daemon's own account of what it kept (`kept`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    call::{Call, History},
    linear::{self, Op, Stuck},
    meaning::{Meaning, meaning},
    order::{self, Part},
    record::Deed,
    space::{Address, Partition},
};

/// Something that is not as promised.
#[derive(Debug)]
pub(super) struct Finding {
    /// The calls that show it, the most telling first.
    pub(super) calls: Vec<usize>,
    pub(super) what: String,
}

impl Finding {
    pub(super) fn new(call: usize, what: String) -> Self {
        Self { calls: vec![call], what }
    }

    pub(super) fn with(self, call: usize) -> Self {
        self.with_all(Some(call))
    }

    pub(super) fn with_all(mut self, calls: impl IntoIterator<Item = usize>) -> Self {
        self.calls.extend(calls);
        self
    }

    /// What was found, with the calls that show it.
    pub(super) fn tell(&self, history: &History) -> String {
        self.calls.iter().fold(self.what.clone(), |mut text, call| {
            write!(text, "\n    {}", history.calls[*call]).expect("write to a string");
            text
        })
    }
}

/// Everything that is wrong in a history.
pub(super) fn findings(history: &History) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut meanings = Vec::new();
    for (at, call) in history.calls.iter().enumerate() {
        meanings.push(meaning(&call.request, &call.answer).unwrap_or_else(|what| {
            found.push(Finding::new(at, what));
            Meaning::Nothing
        }));
    }
    for partition in Partition::ALL {
        let of_it = |at: &usize| Partition::of(&history.calls[*at].request) == Some(partition);
        let part = |call: usize| {
            let Call { called, answered, .. } = history.calls[call];
            Part { call, called, answered, meaning: &meanings[call] }
        };
        let parts: Vec<_> = (0..meanings.len()).filter(of_it).map(part).collect();
        found.extend(order::findings(partition, &parts));
    }
    for (address, ops) in operations(history, &meanings) {
        if let Err(stuck) = linear::order(&ops) {
            found.push(of_stuck(address, &ops, &stuck));
        }
    }
    found
}

/// The operations on each record, by the time of their calls.
pub(super) fn operations(history: &History, meanings: &[Meaning]) -> BTreeMap<Address, Vec<Op>> {
    let mut order: Vec<_> = (0..meanings.len()).collect();
    order.sort_by_key(|at| history.calls[*at].called);
    let seen = order::seen_seqs(meanings.iter());
    let mut records: BTreeMap<Address, Vec<Op>> = BTreeMap::new();
    let mut latest = BTreeMap::new();
    for at in order {
        let call = &history.calls[at];
        let until = history.until(call);
        // What was sent to a daemon that had ended was read by nobody.
        if until < call.called {
            continue;
        }
        for (address, deed) in deeds(&meanings[at], &seen) {
            let ops = records.entry(address).or_default();
            let is_answered = call.answered.is_some();
            let connection = (address, call.client, call.connected);
            let behind = if is_answered { latest.insert(connection, ops.len()) } else { None };
            ops.push(Op { call: at, called: call.called, until, is_answered, behind, deed });
        }
    }
    records
}

fn deeds(meaning: &Meaning, seen: &BTreeMap<u64, BTreeSet<u64>>) -> Vec<(Address, Deed)> {
    match meaning {
        Meaning::Nothing => Vec::new(),
        Meaning::Saw(seen) => seen.iter().map(|(address, seen)| (*address, Deed::See(*seen))).collect(),
        Meaning::Wrote(steps) => {
            let steps = order::settled(steps, seen).unwrap_or_else(|_| steps.clone());
            let mut of_records: BTreeMap<Address, Vec<_>> = BTreeMap::new();
            for (address, step) in steps {
                of_records.entry(address).or_default().push(step);
            }
            of_records.into_iter().map(|(address, steps)| (address, Deed::Write(steps))).collect()
        }
    }
}

fn of_stuck(address: Address, ops: &[Op], stuck: &Stuck) -> Finding {
    let Stuck { placed, state, missing, is_unknown } = stuck;
    let (shown, count) = (placed.len(), ops.len());
    let what = if *is_unknown {
        format!("{address}: no order was found, and not all were tried; {shown} of {count} calls have one")
    } else {
        format!(
            "{address}: no order explains these {count} calls. The longest explains {shown} and leads to {state:?}, where \
             the first of these does not fit; before it the last that do, latest first"
        )
    };
    let before = placed.iter().rev().take(8).map(|op| ops[*op].call);
    Finding::new(ops[*missing].call, what).with_all(before)
}
