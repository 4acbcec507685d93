//! Which partitions an export covers, and where it goes.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fastpersist_protocol::time::Date;

use super::partition::{FlushError, Partition, ReadError};
use super::{Storage, StorageError};
use crate::export::{self, ExportError, ExportOutcome};
use crate::schedule::JobKind;

/// Why there is no export, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum ExportingError {
    /// The storage has no place for Parquet files.
    #[error("no parquet_path is configured for this storage; set storage.{0}.parquet_path")]
    NoRoot(String),
    /// The client's name is no plain name.
    #[error("path {0:?} must be a name below parquet_path, without \"..\" and not absolute")]
    BadPath(String),
    /// A partition cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is in memory could not be flushed first.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// DuckDB cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The files could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The storage's directory cannot be listed.
    #[error("the dates cannot be listed: {0}")]
    Dates(std::io::Error),
    /// The thread failed.
    #[error("the export's thread failed")]
    Gone,
}

impl Storage {
    /// Where an export goes: `parquet_path`, or what `path` names below it.
    ///
    /// # Errors
    /// [`ExportingError::NoRoot`] and [`ExportingError::BadPath`].
    pub fn parquet_root(&self, path: Option<&str>) -> Result<PathBuf, ExportingError> {
        let config = self.config();
        let root = config.parquet_path.as_ref().ok_or_else(|| ExportingError::NoRoot(config.name.clone()))?;
        let Some(path) = path else { return Ok(root.clone()) };
        let plain = |component| matches!(component, Component::Normal(_));
        if path.is_empty() || path.contains('\0') || !Path::new(path).components().all(plain) {
            return Err(ExportingError::BadPath(path.to_owned()));
        }
        Ok(root.join(path))
    }

    /// Exports everything that the storage has: all dates, or the latest values of all collections.
    ///
    /// # Errors
    /// See [`ExportingError`].
    pub async fn export(&self, root: PathBuf) -> Result<ExportOutcome, ExportingError> {
        let dates = self.dates().map_err(ExportingError::Dates)?;
        if dates.is_empty() {
            return self.export_touched(root).await;
        }
        let _turn = self.export_turn.lock().await;
        self.noted(JobKind::Export, rows_of, self.export_dates(dates, &root)).await
    }

    async fn export_dates(&self, dates: Vec<Date>, root: &Path) -> Result<ExportOutcome, ExportingError> {
        let mut outcome = ExportOutcome::default();
        for date in dates {
            if let Some(partition) = self.partition_for_read(Some(date)).await? {
                add(&mut outcome, self.export_partition(partition, root.to_owned()).await?);
            }
        }
        Ok(outcome)
    }

    /// Exports what this run has touched: what is open, and what was closed and not exported since.
    ///
    /// # Errors
    /// See [`ExportingError`].
    pub async fn export_touched(&self, root: PathBuf) -> Result<ExportOutcome, ExportingError> {
        let _turn = self.export_turn.lock().await;
        let exporting = async {
            let mut outcome = self.export_dates(self.take_unexported(), &root).await?;
            for partition in self.open_partitions() {
                add(&mut outcome, self.export_partition(partition, root.clone()).await?);
            }
            Ok(outcome)
        };
        self.noted(JobKind::Export, rows_of, exporting).await
    }

    async fn export_partition(
        &self,
        partition: Arc<Partition>,
        root: PathBuf,
    ) -> Result<ExportOutcome, ExportingError> {
        let date = partition.date();
        let exporting = tokio::task::spawn_blocking(move || partition.export(&root));
        let result = exporting.await.map_err(|_| ExportingError::Gone)?;
        if result.is_ok() {
            self.note_exported(date);
        }
        result
    }
}

impl Partition {
    /// Flushes, then writes the partition's Parquet files. Blocks for as long as it takes.
    fn export(&self, root: &Path) -> Result<ExportOutcome, ExportingError> {
        let through_seq = self.appended_seq();
        self.flush()?;
        let Some(reader) = self.take_reader()? else { return Ok(ExportOutcome::default()) };
        let outcome = match self.date() {
            Some(date) => export::export_dated(&reader, root, date),
            None => export::export_collection(&reader, root),
        };
        let outcome = outcome?;
        self.note_exported(through_seq);
        Ok(outcome)
    }
}

fn rows_of(outcome: &ExportOutcome) -> u64 {
    outcome.rows
}

fn add(sum: &mut ExportOutcome, other: ExportOutcome) {
    sum.files += other.files;
    sum.rows += other.rows;
    sum.removed += other.removed;
}
