//! Rows that a history lost are put back from the log.
//!
//! A version counts the writes to one record, and a deletion begins it anew, so a row that comes back gets its
//! version from the rows around it: it goes on from the one before, or else counts back from the one behind.
//!
//! Invariant: one transaction; a place that the history has is never inserted again.

use std::collections::HashSet;

use arrow::array::AsArray as _;
use arrow::datatypes::{Int32Type, UInt32Type, UInt64Type};
use duckdb::{Connection, params};

use super::error::DuckError;
use super::flush::append;
use super::plan::Row;
use super::schema::Table;
use super::stage::{self, expect};
use super::store::{Shared, Store};
use crate::storage::record::Record;

/// What was put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilledIn {
    /// Records that the log has and that belong into the history.
    pub records: u64,
    /// Those that were not there.
    pub inserted: u64,
}

impl Store {
    /// Inserts into the history, of the records that `next` gives batch by batch in `seq` order, those that
    /// it does not have, up to its `flushed_seq`.
    ///
    /// # Errors
    /// Any [`DuckError`], and those of `next`; nothing has changed.
    pub fn fill_history<E: From<DuckError>>(
        &self,
        next: &mut dyn FnMut() -> Result<Option<Vec<Record>>, E>,
    ) -> Result<FilledIn, E> {
        let mut live = self.live()?;
        let shared = self.shared();
        let Some(history) = &shared.history else {
            let file = shared.current.file.clone();
            return Err(DuckError::Batch { file, what: "a dated storage has no history" }.into());
        };
        let result = fill(&live.conn, shared, history, next);
        stage::clear(&live.conn);
        if result.is_err() {
            // The transaction is left, and what the file has is read again.
            self.recover(&mut live, false);
        }
        result
    }
}

fn fill<E: From<DuckError>>(
    conn: &Connection,
    shared: &Shared,
    history: &Table,
    next: &mut dyn FnMut() -> Result<Option<Vec<Record>>, E>,
) -> Result<FilledIn, E> {
    let count = || -> Result<u64, DuckError> {
        let sql = format!("SELECT count(*) FROM {}", history.sql());
        conn.query_row(&sql, [], |row| row.get(0)).map_err(history.failed("counting rows"))
    };
    conn.execute_batch("BEGIN TRANSACTION").map_err(history.failed("beginning a transaction"))?;
    let before = count()?;
    let mut filled = FilledIn::default();
    while let Some(mut records) = next()? {
        records.retain(|record| record.seq() <= history.flushed_seq());
        filled.records += records.len() as u64;
        let there = present(conn, history, &records)?;
        records.retain(|record| !there.contains(&record.seq()));
        let versions = versions(conn, history, &records)?;
        let rows: Vec<_> =
            records.iter().zip(versions).map(|(record, version)| Row { record, version }).collect();
        append(conn, shared, history, &rows)?;
        filled.inserted += rows.len() as u64;
    }
    expect(history, "rows filled in", before + filled.inserted, count()?)?;
    let failed = |source| DuckError::Commit { file: history.file.clone(), source: Box::new(source) };
    conn.execute_batch("COMMIT").map_err(failed)?;
    Ok(filled)
}

/// The places of these records that the history has.
fn present(conn: &Connection, history: &Table, records: &[Record]) -> Result<HashSet<u64>, DuckError> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(HashSet::new()) };
    let failed = || history.failed("looking for present rows");
    let sql = format!("SELECT seq FROM {} WHERE seq BETWEEN ? AND ?", history.sql());
    let mut statement = conn.prepare(&sql).map_err(failed())?;
    let rows = statement.query_map(params![first.seq(), last.seq()], |row| row.get(0)).map_err(failed())?;
    rows.collect::<Result<_, _>>().map_err(failed())
}

/// A row of one address: one that is there, or one that comes back.
#[derive(Debug, Clone, Copy)]
struct Place {
    address: u32,
    seq: u64,
    /// Known for a row that is there.
    version: Option<i32>,
    deleted: bool,
    /// Which of the records, for one that comes back.
    record: Option<usize>,
}

/// The versions of records that the history does not have.
fn versions(conn: &Connection, history: &Table, records: &[Record]) -> Result<Vec<i32>, DuckError> {
    let mut versions = vec![1; records.len()];
    if records.is_empty() {
        return Ok(versions);
    }
    // Each address once, however many of its rows come back.
    let mut addresses: Vec<&Record> = records.iter().collect();
    let by_address = |a: &&Record, b: &&Record| (a.key(), a.names()).cmp(&(b.key(), b.names()));
    addresses.sort_by(by_address);
    addresses.dedup_by(|a, b| by_address(&&**a, &&**b).is_eq());
    let mut places = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        let address = addresses.binary_search_by(|other| by_address(other, &record)).unwrap_or(0) as u32;
        let deleted = record.is_deleted();
        places.push(Place { address, seq: record.seq(), version: None, deleted, record: Some(index) });
    }
    let numbered: Vec<_> = (0u32..).zip(addresses).collect();
    present_places(conn, history, &numbered, &mut places)?;
    places.sort_unstable_by_key(|place| (place.address, place.seq));
    for of_one in places.chunk_by_mut(|a, b| a.address == b.address) {
        number(of_one);
        for place in of_one {
            if let (Some(index), Some(version)) = (place.record, place.version) {
                versions[index] = version;
            }
        }
    }
    Ok(versions)
}

/// Gives every place of one address its version.
fn number(places: &mut [Place]) {
    // Back from what is known: only as far as no deletion began the count anew.
    for index in (1..places.len()).rev() {
        let before = places[index - 1];
        if let (None, false, Some(version @ 2..)) = (before.version, before.deleted, places[index].version) {
            places[index - 1].version = Some(version - 1);
        }
    }
    let mut last = 0i32;
    for place in places {
        let version = place.version.unwrap_or_else(|| last.saturating_add(1));
        place.version = Some(version);
        last = if place.deleted { 0 } else { version };
    }
}

fn present_places(
    conn: &Connection,
    history: &Table,
    addresses: &[(u32, &Record)],
    places: &mut Vec<Place>,
) -> Result<(), DuckError> {
    let failed = || history.failed("reading present versions");
    stage::make_tables(conn, history)?;
    stage::append(conn, history, addresses)?;
    let on: Vec<_> = history
        .kind
        .name_columns()
        .iter()
        .map(|name| format!("t.{name} IS NOT DISTINCT FROM a.{name}"))
        .collect();
    let sql = format!(
        "SELECT a.idx, t.seq, t.version, t.deleted FROM flush_addresses a JOIN {} t ON t.key = a.key AND {}",
        history.sql(),
        on.join(" AND ")
    );
    let mut statement = conn.prepare(&sql).map_err(failed())?;
    drop(statement.stream_arrow([]).map_err(failed())?);
    while let Some(chunk) = statement.step().map_err(failed())? {
        let address = chunk.column(0).as_primitive_opt::<UInt32Type>();
        let seq = chunk.column(1).as_primitive_opt::<UInt64Type>();
        let version = chunk.column(2).as_primitive_opt::<Int32Type>();
        let deleted = chunk.column(3).as_boolean_opt();
        let (Some(address), Some(seq), Some(version), Some(deleted)) = (address, seq, version, deleted)
        else {
            return Err(DuckError::Row { file: history.file.clone(), column: "version" });
        };
        for row in 0..arrow::array::Array::len(&chunk) {
            places.push(Place {
                address: address.value(row),
                seq: seq.value(row),
                version: Some(version.value(row)),
                deleted: deleted.value(row),
                record: None,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_go_on_from_before_or_count_back_from_behind() {
        // (version where it is there, deleted) → versions
        type Case = (&'static [(Option<i32>, bool)], &'static [i32]);
        let cases: &[Case] = &[
            (&[(None, false), (None, false)], &[1, 2]),
            (
                &[(Some(4), false), (None, false), (Some(6), false), (None, true), (None, false)],
                &[4, 5, 6, 7, 1],
            ),
            (&[(None, false), (None, false), (Some(9), false)], &[7, 8, 9]),
            (&[(None, false), (None, true), (Some(1), false)], &[1, 2, 1]),
            (&[(Some(3), true), (None, false), (Some(2), false)], &[3, 1, 2]),
        ];
        for (given, expected) in cases {
            let place = |(seq, (version, deleted)): (u64, &(Option<i32>, bool))| Place {
                address: 0,
                seq,
                version: *version,
                deleted: *deleted,
                record: None,
            };
            let mut places: Vec<_> = (1..).zip(*given).map(place).collect();
            number(&mut places);
            let found: Vec<_> = places.iter().filter_map(|place| place.version).collect();
            assert_eq!(found, *expected, "{given:?}");
        }
    }
}
