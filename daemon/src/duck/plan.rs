//! Which rows a flush writes, and with which versions.
//!
//! A version counts the writes to one record; a deletion is the last of them, and the next write is 1
//! again. The count goes on from the row that the file has, so the plan starts from those.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use super::flush::FlushWrite;
use super::stage::Sought;
use crate::storage::record::Record;

/// A row to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) record: &'a Record,
    pub(super) version: i32,
}

/// The writes of a collection flush, by address.
pub(super) struct Addresses<'a> {
    writes: &'a [FlushWrite],
    /// For each record, its address.
    address_of: Vec<u32>,
    /// For each address, its newest record.
    newest: Vec<u32>,
    /// For each address, its oldest record.
    oldest: Vec<u32>,
}

impl<'a> Addresses<'a> {
    /// Sorts the records, which are in `seq` order, by address.
    pub(super) fn new(writes: &'a [FlushWrite]) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut table: HashTable<u32> = HashTable::new();
        let mut address_of = Vec::with_capacity(writes.len());
        let mut newest: Vec<u32> = Vec::new();
        let mut oldest: Vec<u32> = Vec::new();
        let same = |a: &Record, b: &Record| a.key() == b.key() && a.names() == b.names();
        let hash = |record: &Record| hasher.hash_one((record.key(), record.names()));
        for (index, write) in writes.iter().enumerate() {
            let record = &write.record;
            let found = table.find(hash(record), |address| {
                same(&writes[newest[*address as usize] as usize].record, record)
            });
            let address = if let Some(address) = found {
                newest[*address as usize] = index as u32;
                *address
            } else {
                let address = newest.len() as u32;
                newest.push(index as u32);
                oldest.push(index as u32);
                table.insert_unique(hash(record), address, |other| {
                    hash(&writes[newest[*other as usize] as usize].record)
                });
                address
            };
            address_of.push(address);
        }
        Self { writes, address_of, newest, oldest }
    }

    /// The newest record of each address.
    fn newest(&self) -> impl Iterator<Item = &'a Record> {
        self.newest.iter().map(|index| &self.writes[*index as usize].record)
    }

    /// The addresses, with what the caller knows about each: its oldest write tells.
    pub(super) fn sought(&self) -> Vec<Sought<'a>> {
        let present = self.oldest.iter().map(|index| self.writes[*index as usize].present);
        self.newest().zip(present).collect()
    }

    /// The rows for the history, and those for the latest values, from each address's present version
    /// (0 where it has none).
    pub(super) fn rows(&self, mut versions: Vec<i32>) -> (Vec<Row<'a>>, Vec<Row<'a>>) {
        let mut history = Vec::with_capacity(self.writes.len());
        let mut last: Vec<i32> = vec![0; self.newest.len()];
        for (write, address) in self.writes.iter().zip(&self.address_of) {
            let record = &write.record;
            let version = &mut versions[*address as usize];
            *version = version.saturating_add(1);
            last[*address as usize] = *version;
            history.push(Row { record, version: *version });
            if record.is_deleted() {
                *version = 0;
            }
        }
        let latest = self.newest().zip(last).map(|(record, version)| Row { record, version });
        (history, latest.filter(|row| !row.record.is_deleted()).collect())
    }
}
