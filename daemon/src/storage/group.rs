//! What a group's writes come to: conditions checked, places given, lines encoded.
//!
//! A request that its producer has made before is recognised here too, so that two in one group are told
//! apart. Conditions (`if_seq`, whether a deletion finds anything, whether an import is newer) look at memory and at the writes before
//! them in the same group; nobody else can write meanwhile, for a partition has one committer.
//!
//! Invariant: places are given without gaps, in the order of the group; a refused request takes none.

use std::collections::HashMap;
use std::sync::Arc;

use fastpersist_protocol::time::Timestamp;

use super::memtable::{Known, Memtable};
use super::producers::Mark;
use super::record::{Names, Record};
use crate::wal::commit::{Producer, Refusal, Seqs, Submission, Unit, UnitResult, Waiting, Write};
use crate::wal::entry;

type Address<'g> = (&'g str, Names<'g>);

/// A record as it is: its place, and when it was taken. `None` for one that is not there.
type Present = Option<(u64, Timestamp)>;

/// What the group makes of the records so far.
type Overlay<'g> = HashMap<Address<'g>, Present>;

/// How a group begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// The next free place.
    pub next_seq: u64,
    /// Whether stores are taken; deletions always are.
    pub stores: bool,
}

/// Decides about every request of the group, in order; places are given as if all goes well.
pub(super) fn plan(group: &[Waiting], memtable: &Memtable, start: Start) -> Vec<Vec<UnitResult>> {
    let mut writes = group.iter().flat_map(|waiting| &waiting.submission.writes);
    let mut planner = Planner {
        memtable,
        // Only a group with conditions needs to know what its own writes come to.
        overlay: writes.any(Write::is_conditional).then(HashMap::new),
        producers: HashMap::new(),
        next_seq: start.next_seq,
        stores: start.stores,
    };
    group.iter().map(|waiting| planner.submission(&waiting.submission)).collect()
}

struct Planner<'g> {
    memtable: &'g Memtable,
    overlay: Option<Overlay<'g>>,
    /// How far the group brings its producers: their number, and its last place.
    producers: HashMap<&'g str, (u64, u64)>,
    next_seq: u64,
    stores: bool,
}

/// Why a request is not done.
enum No {
    Refused(Refusal),
    Cold(String),
}

impl<'g> Planner<'g> {
    fn submission(&mut self, submission: &'g Submission) -> Vec<UnitResult> {
        let mut results = Vec::with_capacity(submission.units.len());
        for unit in &submission.units {
            // What follows a cold request on the same connection must not overtake it.
            if let Some(cold @ UnitResult::Cold { .. }) = results.last() {
                let cold = UnitResult::clone(cold);
                results.push(cold);
                continue;
            }
            let result = self.unit(submission, unit);
            results.push(result);
        }
        results
    }

    fn unit(&mut self, submission: &'g Submission, unit: &'g Unit) -> UnitResult {
        if let Some(repeated) = unit.producer.as_ref().and_then(|producer| self.repeated(producer)) {
            return repeated;
        }
        let range = unit.writes.start as usize..unit.writes.end as usize;
        let first_seq = self.next_seq;
        let mut undo = Vec::new();
        let mut seqs = Vec::with_capacity(if unit.batch { range.len() } else { 0 });
        let mut only = None;
        for (index, write) in submission.writes[range].iter().enumerate() {
            match self.write(write, index, &mut undo) {
                Ok(seq) if unit.batch => seqs.push(seq),
                Ok(seq) => only = seq,
                Err(no) => {
                    self.next_seq = first_seq;
                    self.undo(undo);
                    return match no {
                        No::Refused(refusal) => UnitResult::Refused(refusal),
                        No::Cold(key) => UnitResult::Cold { key },
                    };
                }
            }
        }
        // What writes nothing leaves no trace, so it may be asked again.
        if let Some(producer) = unit.producer.as_ref().filter(|_| self.next_seq > first_seq) {
            self.producers.insert(&producer.name, (producer.seq, self.next_seq - 1));
        }
        UnitResult::Done(if unit.batch { Seqs::Many(seqs) } else { Seqs::One(only) })
    }

    /// What a request gets that its producer has made before.
    fn repeated(&self, producer: &Producer) -> Option<UnitResult> {
        let known = self.memtable.producers().mark(&producer.name).map(|mark| (mark.producer_seq, mark.seq));
        let (highest, seq) = self.producers.get(&*producer.name).copied().or(known)?;
        (producer.seq <= highest)
            .then(|| UnitResult::Duplicate { seq: (producer.seq == highest).then_some(seq) })
    }

    fn write(
        &mut self,
        write: &'g Write,
        index: usize,
        undo: &mut Vec<(Address<'g>, Option<Present>)>,
    ) -> Result<Option<u64>, No> {
        let record = &write.record;
        if !self.stores && !record.is_deleted() {
            return Err(No::Refused(Refusal::DiskFull));
        }
        if write.is_conditional() {
            let present = self.present(record).ok_or_else(|| No::Cold(record.key().to_owned()))?;
            let current_seq = present.map_or(0, |(seq, _)| seq);
            match write.if_seq {
                Some(if_seq) if if_seq != current_seq => {
                    return Err(No::Refused(Refusal::Conflict { if_seq, current_seq, index }));
                }
                _ if record.is_deleted() && current_seq == 0 => return Ok(None),
                _ if write.only_newer && present.is_some_and(|(_, taken)| taken >= record.updated_at()) => {
                    return Ok(None);
                }
                _ => {}
            }
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        if let Some(overlay) = &mut self.overlay {
            let address = (record.key(), record.names());
            let present = (!record.is_deleted()).then(|| (seq, record.updated_at()));
            undo.push((address, overlay.insert(address, present)));
        }
        Ok(Some(seq))
    }

    /// The present record; the outer `None` when memory does not know.
    fn present(&self, record: &Record) -> Option<Present> {
        let address = (record.key(), record.names());
        if let Some(present) = self.overlay.as_ref().and_then(|overlay| overlay.get(&address)) {
            return Some(*present);
        }
        match self.memtable.get(record.key(), record.names()) {
            Known::Live(present) => Some(Some((present.seq(), present.updated_at()))),
            Known::Absent => Some(None),
            Known::Cold => None,
        }
    }

    fn undo(&mut self, undo: Vec<(Address<'g>, Option<Present>)>) {
        let Some(overlay) = &mut self.overlay else { return };
        for (address, before) in undo.into_iter().rev() {
            match before {
                Some(before) => overlay.insert(address, before),
                None => overlay.remove(&address),
            };
        }
    }
}

/// What a planned group is made of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Encoded {
    /// The place of the last record; 0 when the group writes nothing.
    pub last_seq: u64,
    /// Records in the group.
    pub records: u64,
    /// Whether any of it is to be synced before it is answered.
    pub sync: bool,
}

/// Gives the records their places and appends the group's lines to `out`.
pub(super) fn encode(
    group: &mut [Waiting],
    results: &[Vec<UnitResult>],
    durable_seq: u64,
    out: &mut Vec<u8>,
) -> Encoded {
    let mut encoded = Encoded::default();
    for (waiting, results) in group.iter_mut().zip(results) {
        encoded.sync |= waiting.submission.sync;
        for (unit, result) in waiting.submission.units.iter().zip(results) {
            let UnitResult::Done(seqs) = result else { continue };
            let writes = &mut waiting.submission.writes[unit.writes.start as usize..unit.writes.end as usize];
            let bodies = &waiting.submission.bodies;
            match seqs {
                Seqs::One(Some(seq)) => {
                    let write = &mut writes[0];
                    write.record.set_seq(*seq);
                    let body = &bodies[write.body.start as usize..write.body.end as usize];
                    entry::finish_line(body, write.hasher.clone(), *seq, durable_seq, out);
                    encoded.last_seq = *seq;
                    encoded.records += 1;
                }
                Seqs::One(None) => {}
                Seqs::Many(seqs) => {
                    let done = || writes_done(seqs);
                    let Some((_, first_seq)) = done().next() else { continue };
                    for (index, seq) in done() {
                        writes[index].record.set_seq(seq);
                        encoded.last_seq = seq;
                        encoded.records += 1;
                    }
                    let bodies = done().map(|(index, _)| {
                        let body = &writes[index].body;
                        &bodies[body.start as usize..body.end as usize]
                    });
                    entry::finish_batch(bodies, unit.producer.as_deref(), first_seq, durable_seq, out);
                }
            }
        }
    }
    encoded
}

/// Takes back the places that [`encode`] has given, so that the group can be planned anew.
pub(super) fn take_back(group: &mut [Waiting]) {
    for write in group.iter_mut().flat_map(|waiting| &mut waiting.submission.writes) {
        write.record.take_seq_back();
    }
}

/// How far the producers of a submission have come, once it is written.
pub(super) fn marks<'s>(
    submission: &'s Submission,
    results: &'s [UnitResult],
) -> impl Iterator<Item = (Arc<str>, Mark)> + 's {
    submission.units.iter().zip(results).filter_map(|(unit, result)| {
        let producer = unit.producer.as_ref().filter(|_| matches!(result, UnitResult::Done(_)))?;
        let writes = &submission.writes[unit.writes.start as usize..unit.writes.end as usize];
        let last = writes.iter().rev().find(|write| write.record.seq() > 0)?;
        let updated_at = last.record.columns().updated_at;
        let mark = Mark { producer_seq: producer.seq, seq: last.record.seq(), updated_at };
        Some((Arc::clone(&producer.name), mark))
    })
}

fn writes_done(seqs: &[Option<u64>]) -> impl Iterator<Item = (usize, u64)> {
    seqs.iter().enumerate().filter_map(|(index, seq)| Some((index, (*seq)?)))
}
