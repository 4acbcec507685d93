//! Which rows a table has already for the addresses of a flush.
//!
//! Where the caller knows that a table has nothing, it is not asked. Where the caller knows the `seq` of the
//! row, that is looked up: zone maps make it cheap. Only for the rest the addresses go into a temporary
//! table and are joined with the store's table, which reads its name columns and its versions only.
//!
//! Invariant: the staging tables are made from explicit column definitions (`CREATE TEMP TABLE … AS SELECT …
//! LIMIT 0` is what an `INSERT` that lost every row began with), and what went in is counted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, UInt32Type};
use arrow::error::ArrowError;
use duckdb::Connection;

use super::error::DuckError;
use super::flush::Present;
use super::rows::{BATCH_ROWS, push_names};
use super::schema::{Kind, Table};
use crate::storage::record::Record;

/// What a table has for the staged addresses.
pub(super) struct Matches {
    /// Each address's present version; 0 where it has no row, or was deleted.
    pub(super) versions: Vec<i32>,
    /// The matching rows, whose row ids are in the temporary table `flush_matched`.
    pub(super) rows: u64,
}

/// A record whose address is looked up, and what the caller knows about it.
pub(super) type Sought<'r> = (&'r Record, Present);

/// Looks the records' addresses up. The row ids stay true as long as nobody checkpoints or writes.
pub(super) fn find(conn: &Connection, table: &Table, sought: &[Sought<'_>]) -> Result<Matches, DuckError> {
    let numbered = || (0u32..).zip(sought);
    let by_seq: Vec<_> = numbered()
        .filter_map(|(index, (_, present))| match present {
            Present::Row(seq) => Some((index, *seq)),
            _ => None,
        })
        .collect();
    let by_address = numbered().filter(|(_, (_, present))| *present == Present::Unknown);
    let by_address: Vec<_> = by_address.map(|(index, (record, _))| (index, *record)).collect();
    let mut matches = Matches { versions: vec![0; sought.len()], rows: 0 };
    make_tables(conn, table)?;
    if !by_seq.is_empty() && !find_by_seq(conn, table, &by_seq)? {
        // The file is not as the caller remembers it; the addresses themselves tell the truth.
        make_tables(conn, table)?;
        let all: Vec<_> = numbered().map(|(index, (record, _))| (index, *record)).collect();
        find_by_address(conn, table, &all)?;
    } else if !by_address.is_empty() {
        find_by_address(conn, table, &by_address)?;
    }
    matches.rows = read(conn, table, &mut matches.versions)?;
    Ok(matches)
}

/// Makes the staging tables anew, empty.
pub(super) fn make_tables(conn: &Connection, table: &Table) -> Result<(), DuckError> {
    let name_columns = table.kind.name_columns().join(" VARCHAR, ");
    conn.execute_batch(&format!(
        "CREATE OR REPLACE TEMP TABLE flush_addresses (idx UINTEGER, key VARCHAR, {name_columns} VARCHAR); \
         CREATE OR REPLACE TEMP TABLE flush_seqs (idx UINTEGER, seq UBIGINT); \
         CREATE OR REPLACE TEMP TABLE flush_matched (idx UINTEGER, row_id BIGINT, version INTEGER)"
    ))
    .map_err(table.failed("staging addresses"))
}

/// Looks rows up by their place; answers whether each was found once.
fn find_by_seq(conn: &Connection, table: &Table, sought: &[(u32, u64)]) -> Result<bool, DuckError> {
    let failed = || table.failed("looking for present rows");
    let arrow_failed = |source| DuckError::Arrow { file: table.file.clone(), source };
    let fields = vec![Field::new("idx", DataType::UInt32, true), Field::new("seq", DataType::UInt64, true)];
    let schema = Arc::new(Schema::new(fields));
    let mut appender = conn.appender_to_catalog_and_db("flush_seqs", "temp", "main").map_err(failed())?;
    for some in sought.chunks(BATCH_ROWS) {
        let index: ArrayRef = Arc::new(UInt32Array::from_iter_values(some.iter().map(|(index, _)| *index)));
        let seq: ArrayRef = Arc::new(UInt64Array::from_iter_values(some.iter().map(|(_, seq)| *seq)));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![index, seq]).map_err(arrow_failed)?;
        appender.append_record_batch(batch).map_err(failed())?;
    }
    appender.flush().map_err(failed())?;
    let least = sought.iter().map(|(_, seq)| *seq).min().unwrap_or(0);
    let most = sought.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
    let matched = conn
        .execute(
            &format!(
                "INSERT INTO flush_matched SELECT s.idx, t.rowid, t.version \
                 FROM flush_seqs s JOIN {} t ON t.seq = s.seq WHERE t.seq BETWEEN {least} AND {most}",
                table.sql()
            ),
            [],
        )
        .map_err(failed())?;
    Ok(matched == sought.len())
}

fn find_by_address(conn: &Connection, table: &Table, sought: &[(u32, &Record)]) -> Result<(), DuckError> {
    let failed = || table.failed("staging addresses");
    let names = table.kind.name_columns();
    append(conn, table, sought)?;
    let staged =
        conn.query_row("SELECT count(*) FROM flush_addresses", [], |row| row.get(0)).map_err(failed())?;
    expect(table, "addresses staged", sought.len() as u64, staged)?;

    let on: Vec<_> = names.iter().map(|name| format!("t.{name} IS NOT DISTINCT FROM a.{name}")).collect();
    let from =
        format!("FROM flush_addresses a JOIN {} t ON t.key = a.key AND {}", table.sql(), on.join(" AND "));
    let select = if table.kind == Kind::History {
        format!(
            "SELECT a.idx, max(t.rowid), arg_max(CASE WHEN t.deleted THEN 0 ELSE t.version END, t.seq) \
             {from} GROUP BY a.idx"
        )
    } else {
        format!("SELECT a.idx, t.rowid, t.version {from}")
    };
    conn.execute(&format!("INSERT INTO flush_matched {select}"), [])
        .map_err(table.failed("looking for present rows"))?;
    Ok(())
}

/// Frees what the staging tables hold.
pub(super) fn clear(conn: &Connection) {
    // They are made anew by the next flush; a failure here shows there.
    let _ = conn.execute_batch("DROP TABLE IF EXISTS flush_addresses; DROP TABLE IF EXISTS flush_seqs; DROP TABLE IF EXISTS flush_matched");
}

/// An error where two counts differ.
pub(super) fn expect(table: &Table, what: &'static str, expected: u64, found: u64) -> Result<(), DuckError> {
    if expected == found {
        return Ok(());
    }
    Err(DuckError::Count { file: table.file.clone(), what, expected, found })
}

/// Puts numbered addresses into the temporary table `flush_addresses`.
pub(super) fn append(conn: &Connection, table: &Table, sought: &[(u32, &Record)]) -> Result<(), DuckError> {
    let failed = || table.failed("staging addresses");
    let arrow_failed = |source| DuckError::Arrow { file: table.file.clone(), source };
    let mut appender = conn.appender_to_catalog_and_db("flush_addresses", "temp", "main").map_err(failed())?;
    let mut batch = Addresses::new(table.kind);
    for (index, record) in sought {
        batch.push(*index, record);
        if batch.index.len() == BATCH_ROWS {
            appender.append_record_batch(batch.take().map_err(arrow_failed)?).map_err(failed())?;
        }
    }
    if !batch.index.is_empty() {
        appender.append_record_batch(batch.take().map_err(arrow_failed)?).map_err(failed())?;
    }
    appender.flush().map_err(failed())
}

/// A batch of numbered addresses.
struct Addresses {
    arrow: SchemaRef,
    index: Vec<u32>,
    key: StringBuilder,
    names: Vec<StringBuilder>,
}

impl Addresses {
    fn new(kind: Kind) -> Self {
        let mut fields =
            vec![Field::new("idx", DataType::UInt32, true), Field::new("key", DataType::Utf8, true)];
        let names = kind.name_columns();
        fields.extend(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)));
        Self {
            arrow: Arc::new(Schema::new(fields)),
            index: Vec::new(),
            key: StringBuilder::new(),
            names: names.iter().map(|_| StringBuilder::new()).collect(),
        }
    }

    fn push(&mut self, index: u32, record: &Record) {
        self.index.push(index);
        self.key.append_value(record.key());
        push_names(&mut self.names, record.names());
    }

    fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let index = UInt32Array::from(std::mem::take(&mut self.index));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(index), Arc::new(self.key.finish())];
        columns.extend(self.names.iter_mut().map(|names| Arc::new(names.finish()) as ArrayRef));
        RecordBatch::try_new(Arc::clone(&self.arrow), columns)
    }
}

/// Reads the matches into `versions`; their number.
fn read(conn: &Connection, table: &Table, versions: &mut [i32]) -> Result<u64, DuckError> {
    let failed = || table.failed("reading present versions");
    let mut statement = conn.prepare("SELECT idx, version FROM flush_matched").map_err(failed())?;
    drop(statement.stream_arrow([]).map_err(failed())?);
    let mut rows = 0;
    while let Some(chunk) = statement.step().map_err(failed())? {
        rows += chunk.len() as u64;
        let index = chunk.column(0).as_primitive_opt::<UInt32Type>();
        let version = chunk.column(1).as_primitive_opt::<Int32Type>();
        let (Some(index), Some(version)) = (index, version) else { continue };
        for (index, version) in index.values().iter().zip(version.iter()) {
            if let Some(slot) = versions.get_mut(*index as usize) {
                // A row without a version was written by another program; counting starts again.
                *slot = version.unwrap_or(0);
            }
        }
    }
    Ok(rows)
}
