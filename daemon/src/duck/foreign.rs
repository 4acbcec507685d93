//! DuckDB files of another program, for an import: only read, and never written beside.
//!
//! What has a log of its own beside it (`NAME.wal`), and what a newer DuckDB wrote, is read from a private
//! copy, because opening it would replay the log or fail.
//!
//! Invariants: the source keeps every byte and every name; a column that is missing or has another type
//! than expected is null and no error; a view is not taken for a table, for it may do anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use duckdb::Connection;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::engine::{Engine, EngineSettings};
use super::error::DuckError;
use super::schema::quote_name;
use crate::storage::schema::Model;
pub use rows::ForeignRow;

mod rows;

/// What makes a copy that this DuckDB can read.
const COPY_SCRIPT: &str = include_str!("foreign/copy.py");
/// What DuckDB says of a file that a newer version wrote.
const TOO_NEW: &str = "database file with version number";

/// Why another program's file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// Another program has it open.
    #[error("another program has it open; stop that program, and import again")]
    InUse,
    /// It cannot be copied.
    #[error("it cannot be copied: {0}")]
    Copy(#[source] io::Error),
    /// A newer DuckDB wrote it, and there is no help.
    #[error(
        "a newer version of DuckDB wrote it, and {python} could not convert it: {said}; --python names a \
         Python whose package duckdb can read it"
    )]
    TooNew {
        /// The interpreter.
        python: String,
        /// What it said.
        said: String,
    },
    /// DuckDB cannot read it.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// It has not what is looked for.
    #[error("it has no table {table} with the columns {columns}")]
    NoTable {
        /// The table.
        table: &'static str,
        /// The columns without which it is of no use.
        columns: String,
    },
}

/// A table, as far as it concerns an import.
#[derive(Debug)]
pub struct ForeignTable {
    alias: &'static str,
    name: &'static str,
    columns: Vec<String>,
    model: Model,
    file: PathBuf,
}

/// One or two files of another program, opened together.
pub struct ForeignDatabase {
    engine: Arc<Engine>,
    conn: Connection,
    /// Where copies lie.
    scratch: PathBuf,
    python: String,
}

impl std::fmt::Debug for ForeignDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForeignDatabase").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

impl ForeignDatabase {
    /// An instance without files; copies are made in `scratch`, which is the caller's to remove.
    ///
    /// # Errors
    /// [`ForeignError::Duck`].
    pub fn new(settings: &EngineSettings, scratch: &Path, python: &str) -> Result<Self, ForeignError> {
        let engine = Engine::open(settings)?;
        let conn = engine.connect()?;
        let ordered = "SET GLOBAL preserve_insertion_order = true";
        conn.execute_batch(ordered).map_err(|source| DuckError::Start { source: Box::new(source) })?;
        Ok(Self { engine, conn, scratch: scratch.to_owned(), python: python.to_owned() })
    }

    /// Opens a file and finds its table.
    ///
    /// # Errors
    /// See [`ForeignError`].
    pub fn open(
        &self,
        file: &Path,
        alias: &'static str,
        table: &'static str,
        model: Model,
    ) -> Result<ForeignTable, ForeignError> {
        check_unused(file)?;
        let logs = logs_of(file).map_err(ForeignError::Copy)?;
        let opened = if logs.is_empty() { file.to_owned() } else { self.copy(file, alias)? };
        if let Err(error) = self.engine.attach_read_only(&opened, alias) {
            if !error.to_string().contains(TOO_NEW) {
                return Err(error.into());
            }
            let copied = if opened == file { self.copy(file, alias)? } else { opened };
            let converted = self.convert(&copied, alias)?;
            self.engine.attach_read_only(&converted, alias)?;
        }
        self.table(file, alias, table, model)
    }

    /// Copies a file and its log into the scratch directory.
    fn copy(&self, file: &Path, alias: &str) -> Result<PathBuf, ForeignError> {
        let copy = self.scratch.join(format!("{alias}.duckdb"));
        fs::copy(file, &copy).map_err(ForeignError::Copy)?;
        for suffix in logs_of(file).map_err(ForeignError::Copy)? {
            fs::copy(beside(file, &suffix), beside(&copy, &suffix)).map_err(ForeignError::Copy)?;
        }
        Ok(copy)
    }

    /// Has a Python with a newer DuckDB write the tables anew.
    fn convert(&self, copy: &Path, alias: &str) -> Result<PathBuf, ForeignError> {
        let converted = self.scratch.join(format!("{alias}.converted.duckdb"));
        let failed = |said: String| ForeignError::TooNew { python: self.python.clone(), said };
        let output = Command::new(&self.python)
            .args(["-c", COPY_SCRIPT])
            .args([copy, &converted])
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(converted);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(said.trim_end().lines().last().unwrap_or("nothing").to_owned()))
    }

    fn table(
        &self,
        file: &Path,
        alias: &'static str,
        name: &'static str,
        model: Model,
    ) -> Result<ForeignTable, ForeignError> {
        let sql = "SELECT c.column_name FROM duckdb_columns() c JOIN duckdb_tables() t USING (table_oid, database_oid) \
                   WHERE t.database_name = ? AND t.schema_name = 'main' AND t.table_name = ? \
                   ORDER BY c.column_index";
        let columns = || {
            let mut statement = self.conn.prepare(sql)?;
            let found = statement.query_map([alias, name], |row| row.get::<_, String>(0))?;
            found.collect::<Result<Vec<_>, _>>()
        };
        let columns = columns().map_err(|source| reading(file, source))?;
        let needed = needed(model);
        if !needed.iter().all(|needed| columns.iter().any(|column| column == needed)) {
            return Err(ForeignError::NoTable { table: name, columns: needed.join(", ") });
        }
        Ok(ForeignTable { alias, name, columns, model, file: file.to_owned() })
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// [`DuckError::Sql`].
    pub fn count(&self, table: &ForeignTable) -> Result<u64, DuckError> {
        self.number(table, &format!("SELECT count(*) FROM {}", table.sql()))
    }

    /// Whether any address has several rows.
    ///
    /// # Errors
    /// [`DuckError::Sql`].
    pub fn has_duplicates(&self, table: &ForeignTable) -> Result<bool, DuckError> {
        let names = needed(table.model)[..names_of(table.model)].join(", ");
        let inner = format!("SELECT 1 FROM {} GROUP BY {names} HAVING count(*) > 1", table.sql());
        Ok(self.number(table, &format!("SELECT count(*) FROM ({inner} LIMIT 1)"))? > 0)
    }

    fn number(&self, table: &ForeignTable, sql: &str) -> Result<u64, DuckError> {
        let number = self.conn.query_row(sql, [], |row| row.get::<_, u64>(0));
        number.map_err(|source| reading(&table.file, source))
    }

    /// All rows, in the order in which they were inserted.
    ///
    /// # Errors
    /// [`DuckError::Sql`] where a part of the file cannot be read; the rows before it were shown.
    pub fn rows(
        &self,
        table: &ForeignTable,
        on_row: &mut dyn FnMut(&ForeignRow<'_>),
    ) -> Result<(), DuckError> {
        self.stream(table, &format!("SELECT {} FROM {} AS t", table.select(), table.sql()), on_row)
    }

    /// Of each address its newest row.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn newest_rows(
        &self,
        table: &ForeignTable,
        on_row: &mut dyn FnMut(&ForeignRow<'_>),
    ) -> Result<(), DuckError> {
        let names = needed(table.model)[..names_of(table.model)].join(", ");
        let order = ["version", "updated_at"].into_iter().filter(|column| table.has(column));
        let order: Vec<_> = order.map(|column| format!("{column} DESC NULLS LAST")).collect();
        let order = [&order[..], &["rowid DESC".to_owned()]].concat().join(", ");
        let sql = format!(
            "SELECT {} FROM {} AS t QUALIFY row_number() OVER (PARTITION BY {names} ORDER BY {order}) = 1",
            table.select(),
            table.sql()
        );
        self.stream(table, &sql, on_row)
    }

    /// The rows of `latest` that are not in `history`.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn rows_without_history(
        &self,
        latest: &ForeignTable,
        history: &ForeignTable,
        on_row: &mut dyn FnMut(&ForeignRow<'_>),
    ) -> Result<(), DuckError> {
        let compared = [
            "key",
            "collection_name",
            "item_name",
            "data",
            "value_int",
            "value_float",
            "value_string",
            "timestamp",
        ];
        let both = compared.into_iter().filter(|column| latest.has(column) && history.has(column));
        let same: Vec<_> = both
            .map(|column| format!("h.{column}::VARCHAR IS NOT DISTINCT FROM t.{column}::VARCHAR"))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} AS t WHERE NOT EXISTS (SELECT 1 FROM {} AS h WHERE {})",
            latest.select(),
            latest.sql(),
            history.sql(),
            same.join(" AND ")
        );
        self.stream(latest, &sql, on_row)
    }

    fn stream(
        &self,
        table: &ForeignTable,
        sql: &str,
        on_row: &mut dyn FnMut(&ForeignRow<'_>),
    ) -> Result<(), DuckError> {
        let failed = |source| reading(&table.file, source);
        let mut statement = self.conn.prepare(sql).map_err(failed)?;
        // As in `read.rs`: the iterator would panic where the step returns an error.
        drop(statement.stream_arrow([]).map_err(failed)?);
        while let Some(chunk) = statement.step().map_err(failed)? {
            rows::each(table, &chunk, on_row)?;
        }
        Ok(())
    }
}

impl ForeignTable {
    fn sql(&self) -> String {
        format!("{}.main.{}", self.alias, self.name)
    }

    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|own| own == column)
    }

    /// The columns that every table of the library has.
    fn standard(&self) -> Vec<&'static str> {
        let mut standard = needed(self.model);
        standard.extend(["timestamp", "status", "status_int", "username", "updated_at", "version"]);
        if self.model == Model::Collection {
            standard.extend(["value_int", "value_float", "value_string"]);
        }
        standard
    }

    /// The SELECT list that [`rows::each`] reads.
    fn select(&self) -> String {
        let read = |(column, sql_type): (&str, &str)| match (self.has(column), sql_type) {
            (false, "MICROS") => "NULL::BIGINT".to_owned(),
            (false, sql_type) => format!("NULL::{sql_type}"),
            (true, "MICROS") => format!("epoch_us(TRY_CAST(t.{column} AS TIMESTAMP))"),
            (true, sql_type) => format!("TRY_CAST(t.{column} AS {sql_type})"),
        };
        let standard = self.standard();
        let extra = self.columns.iter().filter(|column| !standard.contains(&column.as_str()));
        let extra: Vec<_> = extra.map(|column| format!("{0} := t.{0}", quote_name(column))).collect();
        let extra = match extra.as_slice() {
            [] => "NULL::VARCHAR".to_owned(),
            extra => format!("to_json(struct_pack({}))::VARCHAR", extra.join(", ")),
        };
        let mut columns = vec!["t.rowid::BIGINT".to_owned(), extra];
        columns.extend(rows::COLUMNS.into_iter().map(read));
        columns.join(", ")
    }
}

/// The columns without which a table is of no use: the address and the document.
fn needed(model: Model) -> Vec<&'static str> {
    match model {
        Model::Dated => vec!["key", "process_name", "data"],
        Model::Collection => vec!["key", "collection_name", "item_name", "data"],
    }
}

fn names_of(model: Model) -> usize {
    match model {
        Model::Dated => 2,
        Model::Collection => 3,
    }
}

fn reading(file: &Path, source: duckdb::Error) -> DuckError {
    DuckError::Sql { file: file.to_owned(), action: "reading", source: Box::new(source) }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What stands behind the file's name in the names of its logs: `.wal`, and what a checkpoint may leave.
fn logs_of(file: &Path) -> io::Result<Vec<String>> {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let dir = file.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let mut suffixes = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?.file_name();
        let suffix = entry.to_str().and_then(|entry| entry.strip_prefix(name));
        suffixes.extend(suffix.filter(|suffix| suffix.starts_with(".wal")).map(str::to_owned));
    }
    Ok(suffixes)
}

/// DuckDB holds a POSIX lock on what it writes. This process has no file of its own open, so trying for one
/// lets go of nothing.
fn check_unused(file: &Path) -> Result<(), ForeignError> {
    let opened = fs::File::open(file).map_err(ForeignError::Copy)?;
    match fcntl_lock(&opened, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN) => Err(ForeignError::InUse),
        // A file system without locks has no locked file.
        _ => Ok(()),
    }
}
