//! Reads: by key, by page, whole, and for the export.
//!
//! A reader has its own connection, so it sees one committed state per statement and waits for no flush.
//! Results are streamed: DuckDB never holds a whole one.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, LargeStringArray, RecordBatch, StructArray};
use duckdb::{Connection, ToSql};

use super::error::DuckError;
use super::schema::{Column, Table, quote_name};
use super::store::Shared;
use crate::storage::record::{Names, Record};
use crate::storage::schema::Model;
use decode::decode;

mod changes;
mod decode;
mod history;

pub use history::Wanted;

/// The names below a key, owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnedNames {
    /// A record of a dated storage.
    Dated {
        /// The process; null sorts first.
        process_name: Option<String>,
    },
    /// A record of a collection storage.
    Collection {
        /// The collection, which may be empty.
        collection_name: String,
        /// The item, which may be empty.
        item_name: String,
    },
}

impl OwnedNames {
    /// The names, borrowed.
    pub fn as_names(&self) -> Names<'_> {
        match self {
            Self::Dated { process_name } => Names::Dated { process_name: process_name.as_deref() },
            Self::Collection { collection_name, item_name } => {
                Names::Collection { collection_name, item_name }
            }
        }
    }
}

impl From<Names<'_>> for OwnedNames {
    fn from(names: Names<'_>) -> Self {
        match names {
            Names::Dated { process_name } => Self::Dated { process_name: process_name.map(str::to_owned) },
            Names::Collection { collection_name, item_name } => Self::Collection {
                collection_name: collection_name.to_owned(),
                item_name: item_name.to_owned(),
            },
        }
    }
}

/// What [`Reader::by_partition`] calls: with the partition's name and some of its rows.
pub type OnPartition<'a, E> = dyn FnMut(Option<&str>, RecordBatch) -> Result<(), E> + 'a;

/// Reads one store. It is bound to no thread, but used by one at a time.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(conn: Connection, shared: Arc<Shared>) -> Self {
        Self { conn, shared }
    }

    /// The storage's model.
    pub fn model(&self) -> Model {
        self.table().kind.model()
    }

    fn table(&self) -> &Table {
        &self.shared.current
    }

    /// The live records of a key, sorted by name, null first.
    ///
    /// # Errors
    /// [`DuckError::Sql`], [`DuckError::Row`].
    pub fn key(&self, key: &str) -> Result<Vec<Record>, DuckError> {
        let table = self.table();
        let sql = format!("SELECT {} FROM {} WHERE key = ?", decode::columns(table), table.sql());
        let mut records = Vec::new();
        self.stream(&sql, &[&key], &mut |chunk| {
            records.append(&mut decode(table, chunk)?);
            Ok::<_, DuckError>(ControlFlow::Continue(()))
        })?;
        records.sort_by(|a, b| a.names().cmp(&b.names()));
        Ok(records)
    }

    /// The first `limit` addresses whose key begins with `prefix` and which come behind `after`, by the
    /// bytes of the key and then by name, null first.
    ///
    /// # Errors
    /// [`DuckError::Sql`], [`DuckError::Row`].
    pub fn page(
        &self,
        prefix: &str,
        after: Option<(&str, &OwnedNames)>,
        limit: usize,
    ) -> Result<Vec<(String, OwnedNames)>, DuckError> {
        let table = self.table();
        let names = table.kind.name_columns();
        let mut conditions = Vec::new();
        let mut values: Vec<&dyn ToSql> = Vec::new();
        if !prefix.is_empty() {
            // The comparison lets DuckDB skip what lies before; the function alone does not.
            conditions.push("key >= ? AND starts_with(key, ?)".to_owned());
            values.extend([&prefix as &dyn ToSql, &prefix]);
        }
        if let Some((key, names)) = &after {
            conditions.push(behind(names, key, &mut values));
        }
        let filter =
            if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
        let columns = format!("key, {}", names.join(", "));
        let order = names.join(" NULLS FIRST, ");
        let sql = format!(
            "SELECT {columns} FROM {} {filter} ORDER BY key, {order} NULLS FIRST LIMIT {limit}",
            table.sql()
        );
        let mut page = Vec::new();
        self.stream(&sql, &values, &mut |chunk| {
            decode::names(table, chunk, &mut page)?;
            Ok::<_, DuckError>(ControlFlow::Continue(()))
        })?;
        Ok(page)
    }

    /// All live records, in no order, in chunks of up to 2,048, until `on_chunk` breaks.
    ///
    /// # Errors
    /// [`DuckError::Sql`], [`DuckError::Row`].
    pub fn scan(&self, on_chunk: &mut dyn FnMut(Vec<Record>) -> ControlFlow<()>) -> Result<(), DuckError> {
        let table = self.table();
        let sql = format!("SELECT {} FROM {}", decode::columns(table), table.sql());
        self.stream(&sql, &[], &mut |chunk| Ok::<_, DuckError>(on_chunk(decode(table, chunk)?)))
    }

    /// All live rows for an export, sorted by the first name (the partition) and by key: each batch
    /// belongs to one partition and has all columns but the partition's.
    ///
    /// # Errors
    /// Those of DuckDB, and whatever `on_batch` returns, which ends the reading.
    pub fn by_partition<E: From<DuckError>>(&self, on_batch: &mut OnPartition<'_, E>) -> Result<(), E> {
        let table = self.table();
        let Some(partition) = table.kind.name_columns().first() else { return Ok(()) };
        let columns = table.columns.iter().filter(|column| column.name != *partition);
        let columns = columns.map(plain).collect::<Vec<_>>().join(", ");
        let order = [&["key"], &table.kind.name_columns()[1..]].concat().join(", ");
        let sql = format!(
            "SELECT {partition}, {columns} FROM {} ORDER BY {partition} NULLS FIRST, {order}",
            table.sql()
        );
        let engine = &self.shared.engine;
        let _interruptible = engine.interruptible(&self.conn);
        engine.check_hurry()?;
        self.stream(&sql, &[], &mut |chunk| {
            engine.check_hurry()?;
            let arrow_failed = |source| DuckError::Arrow { file: table.file.clone(), source };
            let names = decode::text(table, chunk, 0, partition)?;
            let batch = RecordBatch::from(chunk);
            let columns: Vec<_> = (1..batch.num_columns()).collect();
            let batch = batch.project(&columns).map_err(arrow_failed)?;
            for (start, end) in runs(names) {
                let name = names.is_valid(start).then(|| names.value(start));
                on_batch(name, batch.slice(start, end - start))?;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Runs a SELECT and shows its result chunk by chunk.
    fn stream<E: From<DuckError>>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        on_chunk: &mut dyn FnMut(&StructArray) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let failed = || self.table().failed("reading");
        let mut statement = self.conn.prepare(sql).map_err(failed())?;
        // The iterator panics when a chunk cannot be fetched; the statement's own step returns the error.
        drop(statement.stream_arrow(values).map_err(failed())?);
        while let Some(chunk) = statement.step().map_err(failed())? {
            if on_chunk(&chunk)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The condition for an address that comes behind another one; its values are added to `values`.
fn behind<'v>(names: &'v OwnedNames, key: &'v &str, values: &mut Vec<&'v dyn ToSql>) -> String {
    let condition = match names {
        OwnedNames::Dated { process_name: None } => {
            values.extend([key as &dyn ToSql, key]);
            "process_name IS NOT NULL"
        }
        OwnedNames::Dated { process_name: Some(name) } => {
            values.extend([key as &dyn ToSql, key, name]);
            "process_name > ?"
        }
        OwnedNames::Collection { collection_name, item_name } => {
            values.extend([key as &dyn ToSql, key, collection_name, collection_name, item_name]);
            "(collection_name > ? OR (collection_name = ? AND item_name > ?))"
        }
    };
    format!("key >= ? AND (key > ? OR {condition})")
}

/// A column as ordinary tools read it: JSON as text.
fn plain(column: &Column) -> String {
    let name = quote_name(&column.name);
    if column.name == "data" { "data::VARCHAR AS data".to_owned() } else { name }
}

/// The runs of equal values: where each begins and ends.
fn runs(names: &LargeStringArray) -> Vec<(usize, usize)> {
    let value = |row: usize| names.is_valid(row).then(|| names.value(row));
    let mut runs = Vec::new();
    let mut start = 0;
    for row in 1..=names.len() {
        if row == names.len() || value(row) != value(start) {
            runs.push((start, row));
            start = row;
        }
    }
    if names.is_empty() { Vec::new() } else { runs }
}
