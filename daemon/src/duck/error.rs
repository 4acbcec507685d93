//! What can go wrong with DuckDB, in the words of whoever has to act on it.
//!
//! Every variant that belongs to a file names it; the daemon's answer to a client is made elsewhere.

use std::path::PathBuf;

use arrow::error::ArrowError;

/// An operation on DuckDB that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DuckError {
    /// The instance could not be set up.
    #[error("DuckDB cannot start: {source}; check the memory limit, the threads and the temporary directory")]
    Start {
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// A path that SQL cannot carry.
    #[error("{}: DuckDB takes only UTF-8 paths; give the directory another name", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be attached.
    #[error("cannot open {}: {source}; if it is damaged, move it aside and restore it from a backup", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// A file that must be there is not, or it is empty.
    #[error("{} is missing or empty, but {evidence}; restore it from a backup", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// Why it must be there.
        evidence: String,
    },
    /// The file has tables that this program did not make.
    #[error("{}: {what}; move the file aside, or point the storage to another directory", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// A column has another type than the configuration says.
    #[error(
        "{}: column \"{column}\" of table {table} is {found}, but the configuration makes it {expected}; \
         set its old type in extra_schema again, or give the new column another name",
        file.display()
    )]
    ColumnType {
        /// The file.
        file: PathBuf,
        /// The table.
        table: &'static str,
        /// The column.
        column: String,
        /// The type in the file.
        found: String,
        /// The type that was expected.
        expected: String,
    },
    /// A statement failed; nothing of it is stored.
    #[error("{}: {action} failed: {source}", file.display())]
    Sql {
        /// The file.
        file: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// A commit failed, and the file, read again, does not hold its rows.
    #[error("{}: the flush was not committed: {source}; it is safe to try again", file.display())]
    Commit {
        /// The file.
        file: PathBuf,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// A checkpoint could not be made now.
    #[error("{}: no checkpoint: {source}; its own log is kept, so nothing is lost", file.display())]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// Rows were counted, and there were not as many as there must be. The transaction was rolled back.
    #[error("{}: {what}: {found} rows where {expected} were expected; nothing was stored", file.display())]
    Count {
        /// The file.
        file: PathBuf,
        /// What was counted.
        what: &'static str,
        /// How many there must be.
        expected: u64,
        /// How many there were.
        found: u64,
    },
    /// A batch that breaks the rules of [`super::FlushBatch`].
    #[error("{}: a batch that cannot be flushed: {what}", file.display())]
    Batch {
        /// The file.
        file: PathBuf,
        /// The rule that it breaks.
        what: &'static str,
    },
    /// Columns could not be put together.
    #[error("{}: cannot build columns: {source}", file.display())]
    Arrow {
        /// The file.
        file: PathBuf,
        /// What Arrow said.
        source: ArrowError,
    },
    /// A row holds what no record can hold.
    #[error("{}: column \"{column}\" holds a value that no record can have; the file was changed by another program", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// Queries that read the file do not end.
    #[error("{}: queries that read it do not end; try again", file.display())]
    Borrowed {
        /// The file.
        file: PathBuf,
    },
    /// The store was closed before.
    #[error("{}: the store is closed", file.display())]
    Closed {
        /// The file.
        file: PathBuf,
    },
    /// Closing went wrong, in one way or in several.
    #[error("closing: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Close(Vec<DuckError>),
}
