//! The tables: their columns, how they are made, and how those of an older file are checked.
//!
//! Invariant: after [`prepare`] a table has every column that a flush writes, with the type that it writes.
//! Columns that the configuration no longer asks for stay; new rows leave them NULL.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use duckdb::Connection;

use super::error::DuckError;
use super::producers;
use crate::storage::schema::{ExtraType, Model, Schema, WRITER_COLUMNS};

/// The layout that this program writes.
const FORMAT: i32 = 1;
/// The one-row table that says up to which `seq` a file is complete.
const STATE: &str = "fastpersist_state";

/// Which of the three tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A dated storage's only table.
    Storage,
    /// Every write to a collection storage.
    History,
    /// The newest write to each of its addresses.
    Latest,
}

impl Kind {
    pub(super) const fn model(self) -> Model {
        match self {
            Self::Storage => Model::Dated,
            Self::History | Self::Latest => Model::Collection,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::History => "storage_history",
            Self::Latest => "storage_latest",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Storage, Self::History, Self::Latest].into_iter().find(|kind| kind.name() == name)
    }

    /// The names below the key, in the order in which they sort.
    pub(super) const fn name_columns(self) -> &'static [&'static str] {
        match self.model() {
            Model::Dated => &["process_name"],
            Model::Collection => &["collection_name", "item_name"],
        }
    }
}

/// One column: its name, its type in SQL and its type in Arrow.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    sql: &'static str,
    arrow: DataType,
}

impl Column {
    fn new(name: &str, sql: &'static str) -> Self {
        let arrow = match sql {
            "TINYINT" => DataType::Int8,
            "SMALLINT" => DataType::Int16,
            "INTEGER" => DataType::Int32,
            "BIGINT" => DataType::Int64,
            "UTINYINT" => DataType::UInt8,
            "USMALLINT" => DataType::UInt16,
            "UINTEGER" => DataType::UInt32,
            "UBIGINT" => DataType::UInt64,
            "FLOAT" => DataType::Float32,
            "DOUBLE" => DataType::Float64,
            "BOOLEAN" => DataType::Boolean,
            "TIMESTAMP" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "DATE" => DataType::Date32,
            _ => DataType::Utf8,
        };
        Self { name: name.to_owned(), sql, arrow }
    }
}

/// The type of one of the columns that every table has.
fn base_type(name: &str) -> &'static str {
    match name {
        "data" => "JSON",
        "timestamp" | "updated_at" => "TIMESTAMP",
        "status_int" | "version" => "INTEGER",
        "seq" => "UBIGINT",
        "value_int" => "BIGINT",
        "value_float" => "DOUBLE",
        "value_bool" | "deleted" => "BOOLEAN",
        _ => "VARCHAR",
    }
}

const fn extra_type(kind: ExtraType) -> &'static str {
    match kind {
        ExtraType::String => "VARCHAR",
        ExtraType::Int(8) => "TINYINT",
        ExtraType::Int(16) => "SMALLINT",
        ExtraType::Int(32) => "INTEGER",
        ExtraType::Int(_) => "BIGINT",
        ExtraType::UInt(8) => "UTINYINT",
        ExtraType::UInt(16) => "USMALLINT",
        ExtraType::UInt(32) => "UINTEGER",
        ExtraType::UInt(_) => "UBIGINT",
        ExtraType::Float32 => "FLOAT",
        ExtraType::Float64 => "DOUBLE",
        ExtraType::Bool => "BOOLEAN",
        ExtraType::Timestamp => "TIMESTAMP",
        ExtraType::Date => "DATE",
    }
}

/// A table's columns with their types.
pub(super) fn columns(kind: Kind, schema: &Schema) -> Vec<(String, &'static str)> {
    columns_of(kind, schema).map(|column| (column.name, column.sql)).collect()
}

fn columns_of(kind: Kind, schema: &Schema) -> impl Iterator<Item = Column> {
    let base = kind.model().columns().iter();
    let base = base.filter(move |name| kind != Kind::Latest || **name != "deleted");
    let extra = schema.extra.iter().map(|column| Column::new(&column.name, extra_type(column.kind)));
    let writer = WRITER_COLUMNS.iter().filter(|_| schema.record_writer);
    let writer = writer.zip(WRITER_TYPES).map(|(name, sql)| Column::new(name, sql));
    base.map(|name| Column::new(name, base_type(name))).chain(extra).chain(writer)
}

/// The types of [`WRITER_COLUMNS`].
const WRITER_TYPES: [&str; 2] = ["UINTEGER", "VARCHAR"];

/// One table in one attached file.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) kind: Kind,
    pub(super) file: PathBuf,
    pub(super) alias: String,
    pub(super) columns: Vec<Column>,
    flushed_seq: AtomicU64,
}

impl Table {
    pub(super) fn new(kind: Kind, file: PathBuf, alias: String, schema: &Schema) -> Self {
        let columns = columns_of(kind, schema).collect();
        Self { kind, file, alias, columns, flushed_seq: AtomicU64::new(0) }
    }

    /// A table that is only copied or read whole, with whatever columns it has.
    pub(super) fn at(kind: Kind, file: PathBuf, alias: String) -> Self {
        Self { kind, file, alias, columns: Vec::new(), flushed_seq: AtomicU64::new(0) }
    }

    /// The `seq` up to which the file is complete, as it was last read or committed.
    pub(super) fn flushed_seq(&self) -> u64 {
        self.flushed_seq.load(Ordering::Acquire)
    }

    pub(super) fn set_flushed_seq(&self, seq: u64) {
        self.flushed_seq.store(seq, Ordering::Release);
    }

    /// The table's name in SQL.
    pub(super) fn sql(&self) -> String {
        format!("{}.main.{}", self.alias, self.kind.name())
    }

    /// The state table's name in SQL.
    pub(super) fn state_sql(&self) -> String {
        format!("{}.main.{STATE}", self.alias)
    }

    /// The columns as Arrow has them.
    pub(super) fn arrow(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|column| Field::new(&column.name, column.arrow.clone(), true));
        SchemaRef::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
    }

    /// For `map_err`: DuckDB's word about this file.
    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(duckdb::Error) -> DuckError {
        let file = self.file.clone();
        move |source| DuckError::Sql { file, action, source: Box::new(source) }
    }

    /// Reads `flushed_seq` from the file, in the connection's transaction where it has one.
    pub(super) fn read_flushed_seq(&self, conn: &Connection) -> Result<u64, DuckError> {
        let sql = format!("SELECT flushed_seq FROM {}", self.state_sql());
        conn.query_row(&sql, [], |row| row.get(0)).map_err(self.failed("reading flushed_seq"))
    }

    pub(super) fn foreign(&self, what: impl Into<String>) -> DuckError {
        DuckError::Foreign { file: self.file.clone(), what: what.into() }
    }
}

/// A name as an SQL identifier.
pub(super) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes a new file's tables, or checks those that are there and adds new columns; reads
/// `flushed_seq`. True where the file was new.
pub(super) fn prepare(conn: &Connection, table: &Table) -> Result<bool, DuckError> {
    let found = read_columns(conn, table, table.kind.name())?;
    let state = read_columns(conn, table, STATE)?;
    match (found.is_empty(), state.is_empty()) {
        (true, true) => create(conn, table)?,
        (false, false) => {
            check_format(conn, table)?;
            extend(conn, table, &found)?;
        }
        (true, false) => return Err(table.foreign(format!("it has no table {}", table.kind.name()))),
        (false, true) => return Err(table.foreign(format!("it has no table {STATE}"))),
    }
    producers::prepare(conn, table)?;
    table.set_flushed_seq(table.read_flushed_seq(conn)?);
    Ok(found.is_empty())
}

fn create(conn: &Connection, table: &Table) -> Result<(), DuckError> {
    let columns: Vec<_> =
        table.columns.iter().map(|column| format!("{} {}", quote_name(&column.name), column.sql)).collect();
    let sql = format!(
        "BEGIN TRANSACTION; CREATE TABLE {} ({}); \
         CREATE TABLE {state} (format INTEGER, flushed_seq UBIGINT); \
         INSERT INTO {state} VALUES ({FORMAT}, 0); COMMIT",
        table.sql(),
        columns.join(", "),
        state = table.state_sql(),
    );
    conn.execute_batch(&sql).map_err(|source| {
        // The connection must not stay inside the failed transaction; that it was ended is all that counts.
        let _ = conn.execute_batch("ROLLBACK");
        table.failed("making the tables")(source)
    })
}

/// A table's columns with their types; none where there is no such table. Only this file is asked: `duckdb_columns()`
/// looks into all that are attached, and fails for one of which a checkpoint has failed.
pub(super) fn read_columns(
    conn: &Connection,
    table: &Table,
    name: &str,
) -> Result<Vec<(String, String)>, DuckError> {
    let read = || {
        let sql =
            format!("SELECT name, type FROM pragma_table_info('{}.main.{name}') ORDER BY cid", table.alias);
        let mut statement = conn.prepare(&sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<Result<_, _>>()
    };
    let is_none = |error: &duckdb::Error| error.to_string().contains("does not exist");
    read()
        .or_else(|error| if is_none(&error) { Ok(Vec::new()) } else { Err(error) })
        .map_err(table.failed("reading the tables' columns"))
}

fn check_format(conn: &Connection, table: &Table) -> Result<(), DuckError> {
    let sql = format!("SELECT count(*), max(format) FROM {}", table.state_sql());
    let (rows, format): (u64, Option<i32>) = conn
        .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(table.failed("reading the file's format"))?;
    match (rows, format) {
        (1, Some(FORMAT)) => Ok(()),
        (1, Some(other)) => {
            Err(table.foreign(format!("its format is {other}, and this program reads format {FORMAT}")))
        }
        _ => Err(table.foreign(format!("{STATE} must have exactly one row"))),
    }
}

/// Checks the types of the columns that are there and adds those that are not, which the configuration did not ask for
/// before.
fn extend(conn: &Connection, table: &Table, found: &[(String, String)]) -> Result<(), DuckError> {
    let base = table.kind.model().columns();
    for column in &table.columns {
        // DuckDB's names do not differ by case alone.
        match found.iter().find(|(name, _)| name.eq_ignore_ascii_case(&column.name)) {
            Some((_, sql)) if sql == column.sql => {}
            Some((_, sql)) => {
                return Err(DuckError::ColumnType {
                    file: table.file.clone(),
                    table: table.kind.name(),
                    column: column.name.clone(),
                    found: sql.clone(),
                    expected: column.sql.to_owned(),
                });
            }
            None if base.contains(&column.name.as_str()) => {
                let table_name = table.kind.name();
                return Err(table.foreign(format!("table {table_name} has no column {}", column.name)));
            }
            None => {
                let name = quote_name(&column.name);
                let sql = format!("ALTER TABLE {} ADD COLUMN {name} {}", table.sql(), column.sql);
                conn.execute_batch(&sql).map_err(table.failed("adding a column"))?;
            }
        }
    }
    Ok(())
}
