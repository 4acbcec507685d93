//! How far each producer has come, in the same file and transaction as the rows.
//!
//! A collection has the table in the file of its history, which a flush writes first and which has every
//! write.

use std::sync::Arc;

use duckdb::{Connection, params};
use fastpersist_protocol::time::Timestamp;

use super::error::DuckError;
use super::schema::{self, Kind, Table};
use super::stage::expect;
use super::store::Store;
use crate::storage::producers::{Change, Mark};

/// The table's name.
const PRODUCERS: &str = "fastpersist_producers";
/// Where changes are staged.
const STAGED: &str = "temp.main.flush_producers";

/// Whether the file of a table has the producers too.
pub(super) const fn has_producers(kind: Kind) -> bool {
    !matches!(kind, Kind::Latest)
}

fn name(table: &Table) -> String {
    format!("{}.main.{PRODUCERS}", table.alias)
}

/// Makes the table where a file does not have it yet.
pub(super) fn prepare(conn: &Connection, table: &Table) -> Result<(), DuckError> {
    if !has_producers(table.kind) {
        return Ok(());
    }
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {} \
         (producer VARCHAR, producer_seq UBIGINT, seq UBIGINT, updated_at TIMESTAMP)",
        name(table)
    );
    conn.execute_batch(&sql).map_err(table.failed("making the table of producers"))
}

/// The SQL that copies the table to a new file; nothing for a file that has none.
pub(super) fn copy_sql(from: &Table, to: &Table) -> String {
    if !has_producers(from.kind) {
        return String::new();
    }
    let (from, to) = (name(from), name(to));
    format!(
        "CREATE TABLE {to} (producer VARCHAR, producer_seq UBIGINT, seq UBIGINT, updated_at TIMESTAMP); \
         INSERT INTO {to} SELECT producer, producer_seq, seq, updated_at FROM {from};"
    )
}

/// Forgets those whose last write is beyond a place; answers how many. How far they were before it is nowhere
/// told.
pub(super) fn cut_back(conn: &Connection, table: &Table, seq: u64) -> Result<u64, DuckError> {
    prepare(conn, table)?;
    let sql = format!("DELETE FROM {} WHERE seq > ?", name(table));
    let cut = conn.execute(&sql, params![seq]).map_err(table.failed("cutting the producers back"))?;
    Ok(cut as u64)
}

/// Whether the file has the table. Those of earlier versions have none until they are opened for writing.
pub(super) fn are_there(conn: &Connection, table: &Table) -> Result<bool, DuckError> {
    Ok(has_producers(table.kind) && !schema::read_columns(conn, table, PRODUCERS)?.is_empty())
}

/// Reads every row of the table; answers how many, and what two copies of it share.
pub(super) fn checksum(conn: &Connection, table: &Table) -> Result<(u64, String), DuckError> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(hash(producer, producer_seq, seq, updated_at)), 0)::VARCHAR FROM {}",
        name(table)
    );
    conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(table.failed("reading every producer"))
}

/// Stages changes, before the transaction that [writes](write) them.
pub(super) fn stage(conn: &Connection, table: &Table, changes: &[Change]) -> Result<(), DuckError> {
    if changes.is_empty() || !has_producers(table.kind) {
        return Ok(());
    }
    let stage = || {
        conn.execute_batch(
            "CREATE OR REPLACE TEMP TABLE flush_producers \
             (producer VARCHAR, producer_seq UBIGINT, seq UBIGINT, updated_us BIGINT)",
        )?;
        let mut appender = conn.appender_to_catalog_and_db("flush_producers", "temp", "main")?;
        for (producer, mark) in changes {
            let updated_us = mark.map(|mark| mark.updated_at.as_micros());
            let (producer_seq, seq) = (mark.map(|mark| mark.producer_seq), mark.map(|mark| mark.seq));
            appender.append_row(params![&**producer, producer_seq, seq, updated_us])?;
        }
        appender.flush()
    };
    stage().map_err(table.failed("staging producers"))
}

/// Writes staged changes, in the transaction that writes the rows.
pub(super) fn write(conn: &Connection, table: &Table, changes: &[Change]) -> Result<(), DuckError> {
    if changes.is_empty() || !has_producers(table.kind) {
        return Ok(());
    }
    let run = |sql: String| conn.execute(&sql, []).map_err(table.failed("writing producers"));
    let table_name = name(table);
    run(format!("DELETE FROM {table_name} WHERE producer IN (SELECT producer FROM {STAGED})"))?;
    let inserted = run(format!(
        "INSERT INTO {table_name} \
         SELECT producer, producer_seq, seq, make_timestamp(updated_us) FROM {STAGED} WHERE seq IS NOT NULL"
    ))?;
    let expected = changes.iter().filter(|(_, mark)| mark.is_some()).count();
    expect(table, "producers inserted", expected as u64, inserted as u64)
}

/// Frees what the staging table holds.
pub(super) fn clear(conn: &Connection) {
    // It is made anew by the next flush; a failure here shows there.
    let _ = conn.execute_batch(&format!("DROP TABLE IF EXISTS {STAGED}"));
}

impl Store {
    /// Writes down how far producers have come whose rows the file has.
    ///
    /// # Errors
    /// Any [`DuckError`]; nothing has changed.
    pub fn write_producers(&self, changes: &[Change]) -> Result<(), DuckError> {
        let mut live = self.live()?;
        let shared = self.shared();
        let table = shared.history.as_ref().unwrap_or(&shared.current);
        let work = || {
            stage(&live.conn, table, changes)?;
            let run = |sql| live.conn.execute_batch(sql).map_err(table.failed("writing producers"));
            run("BEGIN TRANSACTION")?;
            write(&live.conn, table, changes)?;
            run("COMMIT")
        };
        let result = work();
        clear(&live.conn);
        if result.is_err() {
            // The transaction is left, and what the file has is read again.
            self.recover(&mut live, false);
        }
        result
    }

    /// How far each producer has come, in the order of their last writes.
    ///
    /// # Errors
    /// [`DuckError::Sql`].
    pub fn producers(&self) -> Result<Vec<(Arc<str>, Mark)>, DuckError> {
        let live = self.live()?;
        let shared = self.shared();
        let table = shared.history.as_ref().unwrap_or(&shared.current);
        let sql = format!(
            "SELECT producer, producer_seq, seq, epoch_us(updated_at) FROM {} ORDER BY seq",
            name(table)
        );
        let read = || {
            let mut statement = live.conn.prepare(&sql)?;
            let rows = statement.query_map([], |row| {
                let (name, updated_us): (String, i64) = (row.get(0)?, row.get(3)?);
                let updated_at = Timestamp::from_micros(updated_us).unwrap_or(Timestamp::EPOCH);
                Ok((Arc::from(name), Mark { producer_seq: row.get(1)?, seq: row.get(2)?, updated_at }))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(table.failed("reading the producers"))
    }
}
