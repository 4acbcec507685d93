//! What DuckDB's files hold, read past the store: tests compare it with what was answered.
//!
//! Invariant: only files that nobody has open are read here.

use std::path::Path;

use duckdb::Connection;
use parking_lot::Mutex;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainRow {
    pub(crate) key: String,
    /// `process_name`, or `collection_name`.
    pub(crate) name: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) version: i64,
    pub(crate) seq: u64,
    pub(crate) deleted: bool,
}

/// A DuckDB of our own.
#[derive(Debug)]
pub(crate) struct PlainReader(Mutex<Connection>);

impl PlainReader {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Connection::open_in_memory().expect("DuckDB")))
    }

    /// The rows of a file's one table, in the order of `seq`.
    pub(crate) fn rows(&self, file: &Path, table: &str) -> Result<Vec<PlainRow>, String> {
        let conn = self.0.lock();
        let attach = format!("ATTACH '{}' AS plain (READ_ONLY)", file.display());
        conn.execute_batch(&attach).map_err(|error| error.to_string())?;
        let rows = rows(&conn, table).map_err(|error| error.to_string());
        conn.execute_batch("DETACH plain").map_err(|error| error.to_string())?;
        rows
    }
}

fn rows(conn: &Connection, table: &str) -> duckdb::Result<Vec<PlainRow>> {
    let name = if table == "storage" { "process_name" } else { "collection_name" };
    let deleted = if table == "storage_history" { "deleted" } else { "false" };
    let sql = format!(
        "SELECT key, {name}, data::VARCHAR, version::BIGINT, seq, {deleted} FROM plain.{table} ORDER BY seq"
    );
    let mut statement = conn.prepare(&sql)?;
    let rows = statement.query_map([], |row| {
        Ok(PlainRow {
            key: row.get(0)?,
            name: row.get(1)?,
            data: row.get(2)?,
            version: row.get(3)?,
            seq: row.get(4)?,
            deleted: row.get(5)?,
        })
    })?;
    rows.collect()
}
