//! From memory into DuckDB: one batch, in one transaction per file.
//!
//! A flush first stages only the addresses of its records and joins them with the table, which finds the
//! present rows without reading any document; then, in one transaction, it deletes those rows by their row
//! ids, appends the new ones straight into the table, moves `flushed_seq` and commits. Documents are copied
//! into DuckDB once.
//!
//! Invariants: everything is counted before it is committed, because an `INSERT` has been seen to store
//! nothing and report success; every row of a batch has a `seq` above the file's `flushed_seq`, so the new
//! rows can be counted by it; the staging tables are always made from explicit column definitions.

use duckdb::{Appender, Connection, params};

use super::error::DuckError;
use super::plan::{Addresses, Row};
use super::producers;
use super::rows::Rows;
use super::schema::{Kind, Table};
use super::stage::{self, Matches, Sought, expect};
use super::store::{Shared, Store};
use crate::storage::producers::Change as ProducerChange;
use crate::storage::record::Record;

/// The appender holds rows back, outside DuckDB's memory limit. It is emptied when it has a whole row group
/// of DuckDB's, which is then compressed and written at once (fewer rows are copied once more), or when
/// the records are of about this size.
const APPENDER_ROWS: usize = 122_880;
const APPENDER_BYTES: usize = 64 << 20;

/// What one flush takes over.
#[derive(Debug)]
pub struct FlushBatch {
    /// The partition is flushed up to here when the batch is committed; no record is newer.
    pub through_seq: u64,
    /// The records.
    pub rows: FlushRows,
    /// How far the producers of these records have come, and who is forgotten.
    pub producers: Vec<ProducerChange>,
}

/// The records of a flush, by model.
#[derive(Debug)]
pub enum FlushRows {
    /// Dated: one row for each address that was written since the last flush.
    Latest(Vec<FlushRow>),
    /// Collection: every write since the last flush, in `seq` order.
    History(Vec<FlushWrite>),
}

/// What happened to one address since the last flush.
#[derive(Debug)]
pub struct FlushRow {
    /// The newest write, which may be a deletion.
    pub record: Record,
    /// The writes since the last flush; since the last deletion among them where there was one.
    pub writes: u32,
    /// Whether a deletion was among them, so that the version starts again.
    pub reset: bool,
    /// What the table has at its address.
    pub present: Present,
}

/// One write to a collection.
#[derive(Debug, Clone)]
pub struct FlushWrite {
    /// The write, which may be a deletion.
    pub record: Record,
    /// What the table of latest values has at its address, if this is the first write there in the batch.
    pub present: Present,
}

/// What the caller knows of the row that a record replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// Nothing.
    Unknown,
    /// There is none. This is believed.
    None,
    /// It has this `seq`. If it has not, the address is looked up.
    Row(u64),
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushOutcome {
    /// Rows inserted, in the history and among the latest values together.
    pub rows: u64,
    /// Up to where everything is in DuckDB now.
    pub flushed_seq: u64,
}

impl Store {
    /// Writes a batch to the files. Records that a file has already are skipped, so a batch may be
    /// repeated after a failure or a crash, and nothing is stored twice.
    ///
    /// # Errors
    /// Any [`DuckError`]; nothing was stored, or, of a collection, only the history, which a repetition
    /// completes. A commit that fails but did take place is no error.
    pub fn flush(&self, batch: &FlushBatch) -> Result<FlushOutcome, DuckError> {
        let mut live = self.live()?;
        let mut rows = 0;
        let result = flush(&live.conn, self.shared(), batch, &mut rows);
        stage::clear(&live.conn);
        if !batch.producers.is_empty() {
            producers::clear(&live.conn);
        }
        if let Err(error) = result {
            self.recover(&mut live, matches!(error, DuckError::Commit { .. }));
            if self.flushed_seq() < batch.through_seq {
                return Err(error);
            }
        }
        Ok(FlushOutcome { rows, flushed_seq: self.flushed_seq() })
    }
}

fn flush(conn: &Connection, shared: &Shared, batch: &FlushBatch, done: &mut u64) -> Result<(), DuckError> {
    let through = batch.through_seq;
    let flush = Flush { conn, shared, producers: &batch.producers };
    match (&batch.rows, &shared.history) {
        (FlushRows::Latest(rows), None) => flush.dated(rows, through, done),
        (FlushRows::History(records), Some(history)) => {
            if history.flushed_seq() < shared.current.flushed_seq() {
                flush.catch_up(history, records, through, done)?;
            }
            flush.collection(history, records, through, done)
        }
        _ => Err(misfit(&shared.current, "its rows are of the other model")),
    }
}

fn misfit(table: &Table, what: &'static str) -> DuckError {
    DuckError::Batch { file: table.file.clone(), what }
}

/// What a table's transaction does.
struct Change<'r> {
    rows: &'r [Row<'r>],
    /// Rows that the staged addresses have in the table, to be deleted.
    matched: u64,
    through_seq: u64,
}

struct Flush<'s> {
    conn: &'s Connection,
    shared: &'s Shared,
    producers: &'s [ProducerChange],
}

impl Flush<'_> {
    fn dated(&self, rows: &[FlushRow], through_seq: u64, done: &mut u64) -> Result<(), DuckError> {
        let table = &self.shared.current;
        let flushed = table.flushed_seq();
        let rows: Vec<_> = rows.iter().filter(|row| row.record.seq() > flushed).collect();
        if rows.iter().any(|row| row.record.seq() > through_seq) {
            return Err(misfit(table, "a record is newer than its through_seq"));
        }
        let sought: Vec<_> = rows.iter().map(|row| (&row.record, row.present)).collect();
        let matches = self.find(table, &sought)?;
        let inserted: Vec<_> = rows
            .iter()
            .zip(&matches.versions)
            .filter(|(row, _)| !row.record.is_deleted())
            .map(|(row, present)| {
                let base = if row.reset { 0 } else { *present };
                let version = i64::from(base) + i64::from(row.writes);
                Row { record: &row.record, version: version.try_into().unwrap_or(i32::MAX) }
            })
            .collect();
        let change = Change { rows: &inserted, matched: matches.rows, through_seq };
        *done += self.write(table, &change)?;
        self.set_row_count(matches.rows, inserted.len());
        Ok(())
    }

    fn collection(
        &self,
        history: &Table,
        records: &[FlushWrite],
        through_seq: u64,
        done: &mut u64,
    ) -> Result<(), DuckError> {
        let latest = &self.shared.current;
        let records = newer(latest, records, latest.flushed_seq(), through_seq)?;
        let addresses = Addresses::new(records);
        let matches = self.find(latest, &addresses.sought())?;
        let (history_rows, latest_rows) = addresses.rows(matches.versions);
        // A crash between the two transactions leaves the history ahead; it then has the first of the rows.
        let already = history_rows.partition_point(|row| row.record.seq() <= history.flushed_seq());
        *done += self.write(history, &Change { rows: &history_rows[already..], matched: 0, through_seq })?;
        drop(history_rows);
        *done += self.write(latest, &Change { rows: &latest_rows, matched: matches.rows, through_seq })?;
        self.set_row_count(matches.rows, latest_rows.len());
        Ok(())
    }

    /// Brings a history that lags behind (one that was restored) up to the latest values; its versions
    /// can only go on from its own rows.
    fn catch_up(
        &self,
        history: &Table,
        records: &[FlushWrite],
        through_seq: u64,
        done: &mut u64,
    ) -> Result<(), DuckError> {
        let through_seq = through_seq.min(self.shared.current.flushed_seq());
        let end = records.partition_point(|write| write.record.seq() <= through_seq);
        let records = newer(history, &records[..end], history.flushed_seq(), through_seq)?;
        let addresses = Addresses::new(records);
        // What the caller knows is about the latest values, not about the history.
        let sought = addresses.sought().into_iter().map(|(record, _)| (record, Present::Unknown));
        let matches = self.find(history, &sought.collect::<Vec<_>>())?;
        let (rows, _) = addresses.rows(matches.versions);
        *done += self.write(history, &Change { rows: &rows, matched: 0, through_seq })?;
        Ok(())
    }

    /// The present rows of the records' addresses. An empty table has none, and is not asked.
    fn find(&self, table: &Table, sought: &[Sought<'_>]) -> Result<Matches, DuckError> {
        let empty = table.kind != Kind::History && self.shared.row_count() == 0;
        if empty || sought.iter().all(|(_, present)| *present == Present::None) {
            return Ok(Matches { versions: vec![0; sought.len()], rows: 0 });
        }
        stage::find(self.conn, table, sought)
    }

    fn set_row_count(&self, deleted: u64, inserted: usize) {
        let rows = self.shared.row_count() + inserted as u64;
        self.shared.set_row_count(rows.saturating_sub(deleted));
    }

    /// One table's transaction; the number of rows inserted.
    fn write(&self, table: &Table, change: &Change<'_>) -> Result<u64, DuckError> {
        let before = table.flushed_seq();
        if change.through_seq <= before {
            return Ok(0);
        }
        producers::stage(self.conn, table, self.producers)?;
        let run = |sql: &str, action| self.conn.execute_batch(sql).map_err(table.failed(action));
        run("BEGIN TRANSACTION", "beginning a transaction")?;
        expect(table, "flushed_seq differs from what it was", before, table.read_flushed_seq(self.conn)?)?;
        if change.matched > 0 {
            let sql =
                format!("DELETE FROM {} WHERE rowid IN (SELECT row_id FROM flush_matched)", table.sql());
            let deleted = self.conn.execute(&sql, []).map_err(table.failed("deleting replaced rows"))?;
            expect(table, "replaced rows deleted", change.matched, deleted as u64)?;
        }
        let expected = change.rows.len() as u64;
        if expected > 0 {
            append(self.conn, self.shared, table, change.rows)?;
        }
        let sql = format!("SELECT count(*) FROM {} WHERE seq > ?", table.sql());
        let inserted = self
            .conn
            .query_row(&sql, params![before], |row| row.get(0))
            .map_err(table.failed("counting new rows"))?;
        expect(table, "new rows inserted", expected, inserted)?;
        producers::write(self.conn, table, self.producers)?;
        #[cfg(test)]
        if crate::planted::is_here(crate::planted::Bug::FlushedSeqApart) {
            run("COMMIT", "ending a transaction")?;
            crate::planted::step();
            run("BEGIN TRANSACTION", "beginning a transaction")?;
        }
        let sql = format!("UPDATE {} SET flushed_seq = ?", table.state_sql());
        let states = self
            .conn
            .execute(&sql, params![change.through_seq])
            .map_err(table.failed("moving flushed_seq"))?;
        expect(table, "flushed_seq moved", 1, states as u64)?;
        let failed = |source| DuckError::Commit { file: table.file.clone(), source: Box::new(source) };
        #[cfg(test)]
        crate::planted::step();
        self.conn.execute_batch("COMMIT").map_err(failed)?;
        #[cfg(test)]
        crate::planted::step();
        table.set_flushed_seq(change.through_seq);
        Ok(expected)
    }
}

/// Appends rows to a table, in the transaction of the connection.
pub(super) fn append(
    conn: &Connection,
    shared: &Shared,
    table: &Table,
    rows: &[Row<'_>],
) -> Result<(), DuckError> {
    let failed = |error| table.failed("appending rows")(error);
    let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut appender = conn
        .appender_with_columns_to_catalog_and_db(table.kind.name(), &table.alias, "main", &names)
        .map_err(failed)?;
    let mut batch = Rows::new(table, &shared.schema);
    let (mut held_rows, mut held_bytes) = (0, 0);
    for row in rows {
        batch.push(row.record, row.version);
        if batch.is_full() {
            held_rows += batch.len();
            held_bytes += batch.bytes();
            append_batch(&mut appender, &mut batch, table)?;
            if held_rows >= APPENDER_ROWS || held_bytes >= APPENDER_BYTES {
                (held_rows, held_bytes) = (0, 0);
                appender.flush().map_err(failed)?;
            }
        }
    }
    append_batch(&mut appender, &mut batch, table)?;
    appender.flush().map_err(failed)
}

fn append_batch(appender: &mut Appender<'_>, rows: &mut Rows<'_>, table: &Table) -> Result<(), DuckError> {
    let batch = rows.take().map_err(|source| DuckError::Arrow { file: table.file.clone(), source })?;
    batch.map_or(Ok(()), |batch| appender.append_record_batch(batch)).map_err(table.failed("appending rows"))
}

/// The records above `flushed`, which must be in `seq` order and not above `through`.
fn newer<'r>(
    table: &Table,
    records: &'r [FlushWrite],
    flushed: u64,
    through: u64,
) -> Result<&'r [FlushWrite], DuckError> {
    if !records.is_sorted_by(|a, b| a.record.seq() < b.record.seq()) {
        return Err(misfit(table, "its records are not in seq order"));
    }
    if records.last().is_some_and(|write| write.record.seq() > through) {
        return Err(misfit(table, "a record is newer than its through_seq"));
    }
    let start = records.partition_point(|write| write.record.seq() <= flushed);
    Ok(&records[start..])
}
