//! Which partitions an export covers, and where it goes.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fastpersist_protocol::time::Date;

use super::partition::{FlushError, Partition, ReadError};
use super::{Kind, Storage, StorageError, exported};
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
    /// See [`ExportingError`]. The first failure is answered; the other dates are exported all the same.
    pub async fn export(&self, root: PathBuf) -> Result<ExportOutcome, ExportingError> {
        let _turn = self.export_turn.lock().await;
        let exporting = async {
            match &self.kind {
                Kind::Dated(dated) => {
                    self.export_dates(dated.dates().map_err(ExportingError::Dates)?, &root).await
                }
                Kind::Collection(collection) => {
                    self.export_partition(Arc::clone(collection.partition()), root).await
                }
            }
        };
        self.noted(JobKind::Export, rows_of, exporting).await
    }

    /// Exports to the configured root what was written since it was last exported there.
    ///
    /// # Errors
    /// See [`Storage::export`].
    pub async fn export_touched(&self) -> Result<ExportOutcome, ExportingError> {
        let root = self.parquet_root(None)?;
        let _turn = self.export_turn.lock().await;
        let disk = &*self.shared.disk;
        let is_covered = |directory: &Path, seq| exported::covers(disk, directory, seq, &root);
        let exporting = async {
            match &self.kind {
                Kind::Dated(dated) => {
                    let touched = dated.touched_dates(is_covered).map_err(ExportingError::Dates)?;
                    self.export_dates(touched, &root).await
                }
                Kind::Collection(collection) => {
                    let partition = collection.partition();
                    if is_covered(&self.config.base_dir, partition.appended_seq()) {
                        return Ok(ExportOutcome::default());
                    }
                    self.export_partition(Arc::clone(partition), root.clone()).await
                }
            }
        };
        self.noted(JobKind::Export, rows_of, exporting).await
    }

    async fn export_dates(&self, dates: Vec<Date>, root: &Path) -> Result<ExportOutcome, ExportingError> {
        let mut outcome = ExportOutcome::default();
        let mut failed = None;
        for date in dates {
            match self.export_date(date, root).await {
                Ok(one) => add(&mut outcome, one),
                Err(error) if self.shared.engine.is_hurried() => return Err(error),
                Err(error) if failed.is_none() => failed = Some(error),
                Err(error) => {
                    tracing::error!(storage = %self.config.name, %date, %error, "the export failed");
                }
            }
        }
        failed.map_or(Ok(outcome), Err)
    }

    async fn export_date(&self, date: Date, root: &Path) -> Result<ExportOutcome, ExportingError> {
        match self.partition_for_read(Some(date)).await? {
            Some(partition) => self.export_partition(partition, root.to_owned()).await,
            None => Ok(ExportOutcome::default()),
        }
    }

    async fn export_partition(
        &self,
        partition: Arc<Partition>,
        root: PathBuf,
    ) -> Result<ExportOutcome, ExportingError> {
        let exporting = tokio::task::spawn_blocking(move || partition.export(&root));
        exporting.await.map_err(|_| ExportingError::Gone)?
    }
}

impl Partition {
    /// Flushes, then writes the partition's Parquet files. Blocks for as long as it takes.
    fn export(&self, root: &Path) -> Result<ExportOutcome, ExportingError> {
        let through_seq = self.appended_seq();
        self.flush()?;
        let Some(reader) = self.take_reader()? else { return Ok(ExportOutcome::default()) };
        let disk = &*self.shared().disk;
        let config = self.config();
        let date = self.date().map(|date| date.to_string()).unwrap_or_default();
        let directory = config.base_dir.join(date);
        let is_noted = config.parquet_path.as_deref() == Some(root);
        // While files are replaced, and after a crash meanwhile, nothing is said of them.
        if is_noted && let Err(error) = exported::forget(disk, &directory) {
            tracing::warn!(storage = %config.name, %error, "the note about the last export could not be removed");
        }
        let whole = match self.date() {
            Some(date) => export::export_dated(disk, &reader, root, date),
            None => export::export_collection(disk, &reader, root),
        };
        let whole = whole?;
        if is_noted && let Err(error) = exported::note(disk, &directory, through_seq, root, &whole.published)
        {
            tracing::warn!(storage = %config.name, %error, "that it was exported could not be noted; it is exported again");
        }
        Ok(whole.outcome)
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
