//! A batch in two, for a flush that finds no memory for all of it.
//!
//! Invariant: the first half moves `flushed_seq` to the last place that it has, so that behind a crash between the
//! two the log brings the second, and nothing that the first has. Only `version` of a dated record may then count less
//! than it was written: what was overwritten in memory before the crash is in the log's older part.

use super::flush::{FlushBatch, FlushRows, Present};
use crate::storage::record::Record;

impl FlushBatch {
    /// Both halves of the batch, by the size of its records.
    ///
    /// # Errors
    /// The batch itself, where it cannot be divided.
    pub fn halves(self) -> Result<(Self, Self), Self> {
        let Self { through_seq, mut rows, producers } = self;
        let sizes: Vec<usize> = match &mut rows {
            FlushRows::Latest(rows) => {
                rows.sort_unstable_by_key(|row| row.record.seq());
                rows.iter().map(|row| row.record.size_bytes()).collect()
            }
            FlushRows::History(writes) => writes.iter().map(|write| write.record.size_bytes()).collect(),
        };
        if sizes.len() < 2 {
            return Err(Self { through_seq, rows, producers });
        }
        let half = sizes.iter().sum::<usize>() / 2;
        let mut bytes = 0;
        let reached = sizes.iter().position(|size| {
            bytes += size;
            bytes >= half
        });
        let middle = reached.map_or(1, |at| at + 1).min(sizes.len() - 1);
        let last = |record: Option<&Record>| record.map_or(0, Record::seq);
        let (first_seq, second) = match &mut rows {
            FlushRows::Latest(rows) => {
                let second = rows.split_off(middle);
                (last(rows.last().map(|row| &row.record)), FlushRows::Latest(second))
            }
            FlushRows::History(writes) => {
                let mut second = writes.split_off(middle);
                // What was known of an address may be what the first half replaces.
                for write in &mut second {
                    write.present = Present::Unknown;
                }
                (last(writes.last().map(|write| &write.record)), FlushRows::History(second))
            }
        };
        let is_first = |mark: &crate::storage::producers::Mark| mark.seq <= first_seq;
        let (early, late) = producers.into_iter().partition(|(_, mark)| mark.as_ref().is_none_or(is_first));
        let first = Self { through_seq: first_seq, rows, producers: early };
        Ok((first, Self { through_seq, rows: second, producers: late }))
    }
}
