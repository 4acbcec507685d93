//! A second look at a whole partition, at all its records together: `seq` is the order in which its writes took
//! effect, so every answer belongs to a moment between two of them, and these moments must not run against the
//! clock. It sees what no look at one record can: a batch of which a part shows, an answer with several records that
//! were never so at the same time, places given against the order of time.
//!
//! It believes `seq`, and so replaces nothing of `linear`. What was never answered and never seen it does not know;
//! there it lets pass, and never finds what is right wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    check::Finding,
    meaning::{self, Meaning},
    record::{Became, Change, Seen, Step},
    space::{Address, Partition},
};

/// A call, as far as it is of this partition.
pub(super) struct Part<'a> {
    pub(super) call: usize,
    pub(super) called: u64,
    pub(super) answered: Option<u64>,
    pub(super) meaning: &'a Meaning,
}

/// A write in its place.
#[derive(Debug, Clone, Copy)]
struct Written {
    seq: u64,
    /// The moment at which it takes effect: the last seq of its batch, for a batch is whole.
    moment: u64,
    is_there: bool,
}

#[derive(Default)]
struct Line {
    records: BTreeMap<Address, Vec<Written>>,
    /// The records of which unanswered deletions may have taken effect, and since when.
    unsettled: BTreeMap<Address, u64>,
    /// The moment of each write that has one.
    moments: BTreeMap<usize, u64>,
}

/// Everything that is wrong in a partition.
pub(super) fn findings(partition: Partition, parts: &[Part<'_>]) -> Vec<Finding> {
    let mut found = Vec::new();
    let line = Line::new(partition, parts, &mut found);
    line.sweep(parts, &mut found);
    found
}

/// The seq of every token that was seen.
pub(super) fn seen_seqs<'a>(meanings: impl Iterator<Item = &'a Meaning>) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut seqs: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for meaning in meanings {
        let Meaning::Saw(seen) = meaning else { continue };
        for (_, seen) in seen {
            if let Seen::Record { token, seq } = seen {
                seqs.entry(*token).or_default().insert(*seq);
            }
        }
    }
    seqs
}

/// Fills in the seqs of an unanswered write that others have seen. A batch's stores follow each other; how many
/// seqs deletions in it took nobody knows.
pub(super) fn settled(
    steps: &[(Address, Step)],
    seen: &BTreeMap<u64, BTreeSet<u64>>,
) -> Result<Vec<(Address, Step)>, String> {
    let mut filled = steps.to_vec();
    let mut bases = BTreeSet::new();
    let is_store = |step: &(Address, Step)| matches!(step.1.change, Change::Store(_));
    let stores = steps.iter().take_while(|step| is_store(step)).count();
    for (at, (_, step)) in filled.iter_mut().enumerate() {
        let Change::Store(token) = step.change else { continue };
        let Some(seqs) = seen.get(&token) else { continue };
        let seq = *seqs.first().expect("a seq");
        if seqs.len() > 1 {
            return Err(format!("what was stored once (token {token}) is there under the seqs {seqs:?}"));
        }
        if step.became == Became::Unknown {
            step.became = Became::Seq(seq);
            if at < stores {
                bases.insert(seq.wrapping_sub(at as u64));
            }
        }
    }
    if bases.len() > 1 {
        return Err(format!("a batch's seqs do not follow each other: it begins at each of {bases:?}"));
    }
    if let Some(base) = bases.first() {
        for (at, (_, step)) in filled[..stores].iter_mut().enumerate() {
            step.became = Became::Seq(base + at as u64);
        }
    }
    Ok(filled)
}

impl Line {
    fn new(partition: Partition, parts: &[Part<'_>], found: &mut Vec<Finding>) -> Self {
        let seen = seen_seqs(parts.iter().map(|part| part.meaning));
        let mut line = Self::default();
        let mut taken: BTreeMap<u64, usize> = BTreeMap::new();
        for part in parts {
            let Meaning::Wrote(steps) = part.meaning else { continue };
            let steps = match settled(steps, &seen) {
                Ok(steps) => steps,
                Err(what) => {
                    found.push(Finding::new(part.call, what));
                    continue;
                }
            };
            for seq in meaning::seqs(&steps) {
                if let Some(other) = taken.insert(seq, part.call) {
                    let what = format!("seq {seq} of {partition:?} was given to two writes");
                    found.push(Finding::new(part.call, what).with(other));
                }
            }
            line.add(part, &steps);
        }
        for written in line.records.values_mut() {
            written.sort_by_key(|written| written.seq);
        }
        line
    }

    fn add(&mut self, part: &Part<'_>, steps: &[(Address, Step)]) {
        let moment = meaning::seqs(steps).max();
        if let Some(moment) = moment {
            self.moments.insert(part.call, moment);
        }
        for (address, step) in steps {
            match (step.became, moment) {
                (Became::Seq(seq), Some(moment)) => {
                    let is_there = matches!(step.change, Change::Store(_));
                    self.records.entry(*address).or_default().push(Written { seq, moment, is_there });
                }
                (Became::Unknown, _) if step.change == Change::Delete => {
                    let since = self.unsettled.entry(*address).or_insert(part.called);
                    *since = part.called.min(*since);
                }
                _ => {}
            }
        }
    }

    /// Goes through calls and answers by time. `floor` is the earliest moment at which what was answered last can
    /// have been; what is called now is not earlier.
    fn sweep(&self, parts: &[Part<'_>], found: &mut Vec<Finding>) {
        let calls = parts.iter().enumerate().map(|(at, part)| (part.called, false, at));
        let answers = parts.iter().enumerate().filter_map(|(at, part)| Some((part.answered?, true, at)));
        let mut events: Vec<_> = calls.chain(answers).collect();
        events.sort_unstable();
        let mut floors = vec![0; parts.len()];
        let mut floor = 0;
        let mut by = None;
        for (_, is_answer, at) in events {
            let part = &parts[at];
            if !is_answer {
                floors[at] = floor;
                if let Some(moment) = self.moments.get(&part.call).filter(|moment| **moment <= floor) {
                    let what = format!("at {moment}, though it was asked for when {floor} was to be seen");
                    found.push(Finding::new(part.call, what).with_all(by));
                }
                continue;
            }
            let moment = match part.meaning {
                Meaning::Nothing => None,
                Meaning::Wrote(_) => self.moments.get(&part.call).copied(),
                Meaning::Saw(seen) => self.moment(seen, part, floors[at]).or_else(|| {
                    let what = format!("never so at any moment from {} on", floors[at]);
                    found.push(Finding::new(part.call, what).with_all(by));
                    None
                }),
            };
            if moment.is_some_and(|moment| moment > floor) {
                floor = moment.unwrap_or_default();
                by = Some(part.call);
            }
        }
    }

    /// The earliest moment from `floor` on at which all that was seen is so.
    fn moment(&self, seen: &[(Address, Seen)], part: &Part<'_>, floor: u64) -> Option<u64> {
        let is_so =
            |moment: u64| seen.iter().all(|(address, seen)| self.is_so(*address, *seen, moment, part));
        if is_so(floor) {
            return Some(floor);
        }
        let written = seen.iter().filter_map(|(address, _)| self.records.get(address)).flatten();
        let later: BTreeSet<_> = written.map(|written| written.moment).filter(|at| *at > floor).collect();
        later.into_iter().find(|moment| is_so(*moment))
    }

    fn is_so(&self, address: Address, seen: Seen, moment: u64, part: &Part<'_>) -> bool {
        let all = self.records.get(&address).map_or(&[][..], Vec::as_slice);
        let upto = all.partition_point(|written| written.moment <= moment);
        let present = upto.checked_sub(1).map(|at| all[at]).filter(|written| written.is_there);
        match seen {
            Seen::Absent | Seen::Seq(0) => {
                let answered = part.answered.unwrap_or(u64::MAX);
                present.is_none() || self.unsettled.get(&address).is_some_and(|since| *since <= answered)
            }
            Seen::Record { seq, .. } => present.is_some_and(|written| written.seq == seq),
            // One of a write that nobody has seen otherwise has no moment here.
            Seen::Seq(seq) => {
                present.is_some_and(|written| written.seq == seq)
                    || all.iter().all(|written| written.seq != seq)
            }
        }
    }
}
