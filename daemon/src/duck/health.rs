//! Looking at database files: whether they open, how much is in them, and whether every block can be read.
//!
//! Invariant: nothing is changed. Files of a store that is open are looked at through it; others are attached
//! `READ_ONLY` for the look and detached after it, so the caller must keep them from being opened meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use duckdb::Connection;

use super::engine::Engine;
use super::error::DuckError;
use super::producers;
use super::schema::{Kind, Table};
use super::store::{Files, Shared, Store};
use crate::storage::schema::Schema;

/// One file's figures, all from one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLook {
    /// The file.
    pub file: PathBuf,
    /// Whether the table is a history, which has a row for each place.
    pub is_history: bool,
    /// Its rows.
    pub rows: u64,
    /// Up to where the file says that it is complete.
    pub flushed_seq: u64,
    /// The newest row's place, 0 where there is none.
    pub max_seq: u64,
}

/// Looks at the files of one partition.
#[derive(Debug)]
pub struct Inspector {
    conn: Connection,
    engine: Arc<Engine>,
    shared: Looked,
}

#[derive(Debug)]
enum Looked {
    /// Through the store that has the files open.
    Open(Arc<Shared>),
    /// Attached for the look; each file may have refused.
    Closed(Vec<(Table, Option<DuckError>)>),
}

impl Inspector {
    /// Looks through a store that is open.
    ///
    /// # Errors
    /// [`DuckError::Start`] when DuckDB gives no connection; why its files cannot be attached again, where a failure has
    /// left them detached.
    pub fn of_store(store: &Store) -> Result<Self, DuckError> {
        store.revive()?;
        let shared = store.shared_arc();
        let engine = Arc::clone(&shared.engine);
        Ok(Self { conn: engine.connect()?, engine, shared: Looked::Open(shared) })
    }

    /// Attaches files that nobody has open, `READ_ONLY`: all of them, or `only` one.
    ///
    /// # Errors
    /// [`DuckError::Start`] when DuckDB gives no connection. A file that does not open is told by
    /// [`look`](Self::look).
    pub fn of_files(
        engine: &Arc<Engine>,
        schema: &Schema,
        files: &Files,
        only: Option<&Path>,
    ) -> Result<Self, DuckError> {
        let table = |kind, file: &PathBuf| Table::new(kind, file.clone(), engine.new_alias(), schema);
        let mut tables = match files {
            Files::Dated { data } => vec![table(Kind::Storage, data)],
            Files::Collection { history, latest } => {
                vec![table(Kind::History, history), table(Kind::Latest, latest)]
            }
        };
        tables.retain(|table| only.is_none_or(|only| table.file == only));
        let attach = |table: Table| {
            let error = engine.attach_read_only(&table.file, &table.alias).err();
            (table, error)
        };
        let tables = tables.into_iter().map(attach).collect();
        Ok(Self { conn: engine.connect()?, engine: Arc::clone(engine), shared: Looked::Closed(tables) })
    }

    /// Each file's figures, or what is wrong with it.
    pub fn look(&mut self) -> Vec<Result<TableLook, DuckError>> {
        match &mut self.shared {
            Looked::Open(shared) => shared.tables().map(|table| look(&self.conn, table)).collect(),
            Looked::Closed(tables) => {
                let conn = &self.conn;
                tables
                    .iter_mut()
                    .map(|(table, error)| error.take().map_or_else(|| look(conn, table), Err))
                    .collect()
            }
        }
    }

    /// Up to where the files that can be asked say that they are complete; of several, the newest.
    pub fn flushed_seq(&self) -> Option<u64> {
        let read = |table: &Table| table.read_flushed_seq(&self.conn).ok();
        match &self.shared {
            Looked::Open(shared) => shared.tables().filter_map(read).max(),
            Looked::Closed(tables) => {
                let attached = tables.iter().filter(|(_, error)| error.is_none());
                attached.filter_map(|(table, _)| read(table)).max()
            }
        }
    }

    /// Reads every column of every row of every file, from the files and not from what is cached, for as long
    /// as `go_on` says so; answers each file's rows, or what is wrong with it. Those that `look` had an error
    /// for are left out.
    pub fn read_all(&self, go_on: &dyn Fn() -> bool) -> Vec<Result<u64, DuckError>> {
        self.engine.forget_blocks();
        match &self.shared {
            Looked::Open(shared) => shared.tables().map(|table| read_all(&self.conn, table, go_on)).collect(),
            Looked::Closed(tables) => tables
                .iter()
                .filter(|(table, _)| look(&self.conn, table).is_ok())
                .map(|(table, _)| read_all(&self.conn, table, go_on))
                .collect(),
        }
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        if let Looked::Closed(tables) = &self.shared {
            for (table, _) in tables {
                // Nobody is left to be told; the file was only looked at.
                let _ = self.engine.detach(&table.file, &table.alias);
            }
        }
    }
}

fn look(conn: &Connection, table: &Table) -> Result<TableLook, DuckError> {
    let sql = format!(
        "SELECT count(*), coalesce(max(seq), 0)::UBIGINT, (SELECT flushed_seq FROM {}) FROM {}",
        table.state_sql(),
        table.sql()
    );
    let counted = conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let (rows, max_seq, flushed_seq) = counted.map_err(table.failed("counting rows"))?;
    // So few that they are read here already: without them no write by a producer could be judged.
    if producers::are_there(conn, table)? {
        producers::checksum(conn, table)?;
    }
    let is_history = table.kind == Kind::History;
    Ok(TableLook { file: table.file.clone(), is_history, rows, flushed_seq, max_seq })
}

/// A hash of each column of each row is asked for, so nothing can be left unread; the rows are streamed.
fn read_all(conn: &Connection, table: &Table, go_on: &dyn Fn() -> bool) -> Result<u64, DuckError> {
    let failed = || table.failed("reading every block");
    let sql = format!("SELECT hash(COLUMNS(*)) FROM {}", table.sql());
    let mut statement = conn.prepare(&sql).map_err(failed())?;
    drop(statement.stream_arrow([]).map_err(failed())?);
    let mut rows = 0;
    while let Some(chunk) = statement.step().map_err(failed())? {
        rows += arrow::array::Array::len(&chunk) as u64;
        if !go_on() {
            break;
        }
    }
    Ok(rows)
}
