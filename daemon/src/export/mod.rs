//! Parquet: a storage's live records, where any tool finds them by partition.
//!
//! `PARQUET/process_name=worker1/date=2025-01-15/data.parquet`, or `PARQUET/collection_name=c/data.parquet`:
//! one file per partition, with every column but those that the directories say.
//!
//! Invariants: a file that readers can see is whole, because it is written under a name that they do not
//! look for, synced and renamed; a second export replaces the first, and the files of partitions that are
//! gone are removed only after all others are in place. Memory is bounded: rows come sorted by partition,
//! and one file is open at a time.

mod files;
mod names;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use fastpersist_protocol::time::Date;
use parquet::errors::ParquetError;

use crate::disk::{self, Disk};
use crate::duck::{DuckError, Reader};
use crate::storage::schema::Model;
use writer::PartitionFile;

/// The one file of a partition's directory.
const FILE: &str = "data.parquet";

/// What an export did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportOutcome {
    /// Files written.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Files removed, of partitions that are gone.
    pub removed: u64,
}

/// A file that was put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of what was written, so that damage can be told later.
    pub sha256: String,
}

/// A whole export.
#[derive(Debug)]
pub struct Exported {
    /// What was done.
    pub outcome: ExportOutcome,
    /// All files that there are now.
    pub published: Vec<PublishedFile>,
}

/// An export that did not do all it should.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The rows could not be read.
    #[error("export: {0}")]
    Duck(#[from] DuckError),
    /// A file could not be written, put in place or removed.
    #[error("export: {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be encoded.
    #[error("export: writing {}: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        source: ParquetError,
    },
    /// Names that are too long for a directory once they are encoded. Everything else was exported.
    #[error(
        "export: {} too long for a directory name (255 bytes as {column}=… with unsafe characters as %XX); \
         all others were exported",
        if names.len() == 1 { "a name is".to_owned() } else { format!("{} names are", names.len()) },
    )]
    TooLong {
        /// The partition's column.
        column: &'static str,
        /// The names; they are records' content, so the message does not tell them.
        names: Vec<String>,
        /// What was exported.
        outcome: ExportOutcome,
    },
}

impl ExportError {
    /// Whether it was ended early because the daemon stops.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Duck(error) if error.is_interrupted())
    }

    /// Whether it failed for lack of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Duck(error) => error.is_full(),
            Self::Io { source, .. } => disk::is_full(source),
            Self::Parquet { source: ParquetError::External(source), .. } => {
                source.downcast_ref::<io::Error>().is_some_and(disk::is_full)
            }
            Self::Parquet { .. } | Self::TooLong { .. } => false,
        }
    }
}

/// Exports one date of a dated storage: a file for each process.
///
/// # Errors
/// Any [`ExportError`]. Files that were put in place before it stay, and are whole.
pub fn export_dated(
    disk: &dyn Disk,
    reader: &Reader,
    root: &Path,
    date: Date,
) -> Result<Exported, ExportError> {
    debug_assert_eq!(reader.model(), Model::Dated);
    Export::new(disk, root, "process_name", Some(format!("date={date}"))).run(reader)
}

/// Exports the latest values of a collection storage: a file for each collection.
///
/// # Errors
/// Any [`ExportError`]. Files that were put in place before it stay, and are whole.
pub fn export_collection(disk: &dyn Disk, reader: &Reader, root: &Path) -> Result<Exported, ExportError> {
    debug_assert_eq!(reader.model(), Model::Collection);
    Export::new(disk, root, "collection_name", None).run(reader)
}

struct Export<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    /// The partition's column.
    column: &'static str,
    /// The directory below the partition's, for a dated storage.
    below: Option<String>,
    open: Option<PartitionFile<'a>>,
    written: BTreeSet<String>,
    too_long: Vec<String>,
    outcome: ExportOutcome,
    published: Vec<PublishedFile>,
}

impl<'a> Export<'a> {
    fn new(disk: &'a dyn Disk, root: &'a Path, column: &'static str, below: Option<String>) -> Self {
        Self {
            disk,
            root,
            column,
            below,
            open: None,
            written: BTreeSet::new(),
            too_long: Vec::new(),
            outcome: ExportOutcome::default(),
            published: Vec::new(),
        }
    }

    fn run(mut self, reader: &Reader) -> Result<Exported, ExportError> {
        reader.by_partition(&mut |name, batch| self.batch(name, &batch))?;
        self.publish()?;
        self.remove_gone()?;
        if self.too_long.is_empty() {
            return Ok(Exported { outcome: self.outcome, published: self.published });
        }
        Err(ExportError::TooLong { column: self.column, names: self.too_long, outcome: self.outcome })
    }

    fn batch(&mut self, name: Option<&str>, batch: &RecordBatch) -> Result<(), ExportError> {
        let directory = names::directory(self.column, name);
        if directory.len() > names::MAX_BYTES {
            let name = name.unwrap_or_default();
            if self.too_long.last().is_none_or(|last| last != name) {
                self.too_long.push(name.to_owned());
            }
            return Ok(());
        }
        if !self.written.contains(&directory) {
            self.publish()?;
            self.open = Some(PartitionFile::create(self.disk, self.path(&directory), &batch.schema())?);
            self.written.insert(directory);
        }
        match &mut self.open {
            Some(file) => file.write(batch),
            None => Ok(()),
        }
    }

    /// The file of a partition.
    fn path(&self, directory: &str) -> PathBuf {
        let mut path = self.root.join(directory);
        path.extend(&self.below);
        path.join(FILE)
    }

    /// Puts the open file in place.
    fn publish(&mut self) -> Result<(), ExportError> {
        if let Some(file) = self.open.take() {
            let (rows, published) = file.publish()?;
            self.outcome.rows += rows;
            self.outcome.files += 1;
            self.published.extend(published);
        }
        Ok(())
    }

    /// Removes the files of partitions that have no rows any more.
    fn remove_gone(&mut self) -> Result<(), ExportError> {
        let prefix = format!("{}=", self.column);
        for directory in files::list(self.disk, self.root)? {
            let is_ours = directory.starts_with(&prefix);
            if is_ours && !self.written.contains(&directory) {
                let removed = files::remove(self.disk, &self.path(&directory), self.root)?;
                self.outcome.removed += u64::from(removed);
            }
        }
        Ok(())
    }
}
