//! What an answer says of writes, and what readers see of them in memory.
//!
//! Invariant: nothing here judges; the ledger and the life that asks do.

use super::ledger::{Known, Ledger};
use crate::storage::memtable::Known as InMemory;
use crate::storage::partition::Partition;
use crate::storage::record::{Columns, Record};
use crate::wal::commit::{Refusal, Seqs, UnitResult};

pub(super) fn brief(record: &Record) -> String {
    let Columns { key, names, data, .. } = record.columns();
    format!("{key} {names:?} {}", data.chars().take(20).collect::<String>())
}

/// Whether readers see this write.
pub(super) fn shows(partition: &Partition, record: &Record) -> bool {
    shows_where(partition, record, |_| true)
}

/// Whether readers see this write before it is durable.
pub(super) fn shows_undurable(partition: &Partition, record: &Record) -> bool {
    let durable_seq = partition.durable_seq();
    shows_where(partition, record, |found| found.seq() > durable_seq)
}

fn shows_where(partition: &Partition, record: &Record, is_it: impl Fn(&Record) -> bool) -> bool {
    let same = |found: &Record| found.columns().data == record.columns().data && is_it(found);
    match partition.peek(record.key(), record.names(), same) {
        InMemory::Live(is_same) => is_same && !record.is_deleted(),
        InMemory::Absent => record.is_deleted(),
        InMemory::Cold => false,
    }
}

/// Writes into the ledger what became of the writes `numbers` of one request.
pub(super) fn note(ledger: &mut Ledger, numbers: &[usize], result: &UnitResult, sync: bool) {
    let done = if sync { Known::Durable } else { Known::Buffered };
    match result {
        UnitResult::Done(seqs) => {
            let seqs = match seqs {
                Seqs::One(seq) => vec![*seq],
                Seqs::Many(seqs) => seqs.clone(),
            };
            for (number, seq) in numbers.iter().zip(seqs) {
                // A deletion of what is not there is no write.
                ledger.answered(*number, if seq.is_some() { done } else { Known::Absent }, seq);
            }
        }
        UnitResult::Refused(Refusal::OutcomeUnknown(_)) => {}
        UnitResult::Duplicate { .. } => panic!("these writes have no producer"),
        UnitResult::Refused(_) | UnitResult::Cold { .. } => {
            for number in numbers {
                ledger.answered(*number, Known::Absent, None);
            }
        }
    }
}
