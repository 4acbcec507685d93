//! What can go wrong with DuckDB, in the words of whoever has to act on it.
//!
//! Every variant that belongs to a file names it, and none tells a record's values; the daemon's answer to a client is made elsewhere.

use std::path::{Path, PathBuf};

use arrow::error::ArrowError;

use super::said::Said;
use crate::storage::schema::WRITER_COLUMNS;

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
    #[error("cannot open {}: {}; {}", file.display(), Said(source), advice(source))]
    Open {
        /// The file.
        file: PathBuf,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// The file is whole, but somebody holds it.
    #[error("{} is in use: {}; nothing is wrong with it, try again when that is over", file.display(), Said(source))]
    InUse {
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
         {}",
        file.display(),
        mend_type(column)
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
    #[error("{}: {action} failed: {}", file.display(), Said(source))]
    Sql {
        /// The file.
        file: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// A commit failed, and the file, read again, does not hold its rows.
    #[error("{}: the flush was not committed: {}; it is safe to try again", file.display(), Said(source))]
    Commit {
        /// The file.
        file: PathBuf,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// A checkpoint could not be made now.
    #[error("{}: no checkpoint: {}; its own log is kept, so nothing is lost", file.display(), Said(source))]
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
    /// The daemon stops and cannot wait.
    #[error("it was skipped, because the daemon was told twice to stop")]
    Hurried,
    /// Closing went wrong, in one way or in several.
    #[error("closing: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Close(Vec<DuckError>),
}

/// What to do about a file that cannot be opened.
fn advice(source: &duckdb::Error) -> String {
    let text = source.to_string();
    let says = |sign| text.contains(sign);
    if says("Permission denied") {
        return format!(
            "the user with uid {} must be able to read and write it: see to whom it and its directory belong",
            rustix::process::geteuid().as_raw()
        );
    }
    let advice = if says("we can only read versions") {
        "another version of DuckDB has written it; use the fastpersistd that did"
    } else if says("Read-only file system") {
        "mount its file system writable"
    } else if says("Input/output error") {
        "the disk fails: see the kernel's log"
    } else if says("No space left on device") || says("Disk quota exceeded") {
        "make room"
    } else if says("Too many open files") {
        "raise the limit of open files (LimitNOFILE)"
    } else {
        "if it is damaged, move it aside and restore it from a backup"
    };
    advice.to_owned()
}

/// How DuckDB words it when a file's bytes are not those that it wrote.
const SIGNS_OF_DAMAGE: &[&str] =
    &["not a valid duckdb", "corrupt", "checksum", "serialization", "could not read enough", "header"];

/// How DuckDB words it when another program has a file open.
const LOCKED: &str = "Could not set lock";
/// How it words it when it has not let go of a file itself.
const HELD: &str = "Unique file handle conflict";

/// How it words it when a checkpoint would have to wait for other transactions, those of queries among them.
const OTHERS_READ: &str = "there are other write transactions active";

impl DuckError {
    /// What DuckDB said when a file was to be attached.
    pub(super) fn opening(file: &Path, source: duckdb::Error) -> Self {
        let text = source.to_string();
        let (file, source) = (file.to_owned(), Box::new(source));
        if text.contains(LOCKED) || text.contains(HELD) {
            Self::InUse { file, source }
        } else {
            Self::Open { file, source }
        }
    }

    /// Whether it is a transaction of this process that still has the file.
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::InUse { source, .. } if source.to_string().contains(HELD))
    }

    /// Whether DuckDB failed for lack of room on the disk.
    pub fn is_full(&self) -> bool {
        let says_so = |text: String| {
            ["No space left on device", "not enough space", "Disk quota exceeded", "File too large"]
                .iter()
                .any(|sign| text.contains(sign))
        };
        match self {
            Self::Open { source, .. }
            | Self::Sql { source, .. }
            | Self::Commit { source, .. }
            | Self::Checkpoint { source, .. } => says_so(source.to_string()),
            Self::Close(errors) => errors.iter().any(Self::is_full),
            _ => false,
        }
    }

    /// Whether the file opens, and the table is not in it.
    pub fn is_without_table(&self) -> bool {
        let Self::Sql { source, .. } = self else { return false };
        let text = source.to_string();
        text.contains("Catalog Error: Table with name") && text.contains("does not exist")
    }

    /// Whether it was ended early because the daemon stops.
    pub fn is_interrupted(&self) -> bool {
        match self {
            Self::Hurried => true,
            Self::Sql { source, .. } | Self::Commit { source, .. } | Self::Checkpoint { source, .. } => {
                source.to_string().contains("INTERRUPT Error")
            }
            _ => false,
        }
    }

    /// Whether a checkpoint only has to wait for queries that read the file.
    pub fn is_put_off(&self) -> bool {
        matches!(self, Self::Checkpoint { source, .. } if source.to_string().contains(OTHERS_READ))
    }

    /// Whether the file is not attached at the moment: a checkpoint failed, and whoever made it attaches the file again.
    pub fn is_detached(&self) -> bool {
        let Self::Sql { source, .. } = self else { return false };
        let text = source.to_string();
        text.contains("has been invalidated")
            || (text.contains("Catalog \"") && text.contains("does not exist"))
    }

    /// Whether DuckDB says that the file itself is bad, and not, for example, that somebody else has it open.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Open { source, .. }
            | Self::Sql { source, .. }
            | Self::Checkpoint { source, .. }
            | Self::Commit { source, .. } => {
                let text = source.to_string().to_lowercase();
                SIGNS_OF_DAMAGE.iter().any(|sign| text.contains(sign))
            }
            _ => false,
        }
    }

    /// Whether another program, or a transaction of this one, has the file, which passes.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Borrowed { .. })
    }

    /// The file that it is about; `None` where it is about none, or several.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Start { .. } | Self::Hurried | Self::Close(_) => None,
            Self::Path { path: file }
            | Self::Open { file, .. }
            | Self::InUse { file, .. }
            | Self::Missing { file, .. }
            | Self::Foreign { file, .. }
            | Self::ColumnType { file, .. }
            | Self::Sql { file, .. }
            | Self::Commit { file, .. }
            | Self::Checkpoint { file, .. }
            | Self::Count { file, .. }
            | Self::Batch { file, .. }
            | Self::Arrow { file, .. }
            | Self::Row { file, .. }
            | Self::Borrowed { file }
            | Self::Closed { file } => Some(file),
        }
    }
}

/// What to do about a column whose type is another one than the configuration's.
fn mend_type(column: &str) -> &'static str {
    if WRITER_COLUMNS.contains(&column) {
        "it was one of extra_schema's; set record_writer = false, or rename it in the file"
    } else {
        "set its old type in extra_schema again, or give the new column another name"
    }
}
