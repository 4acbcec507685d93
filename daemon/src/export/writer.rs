//! One partition's Parquet file while it is being written.
//!
//! Invariant: a file that was not published leaves nothing behind.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::files::Appended;
use super::{ExportError, PublishedFile, files};
use crate::disk::Disk;

/// A row group ends at this many rows, which is what most readers like …
const GROUP_ROWS: usize = 122_880;
/// … or when it has taken this much memory.
const GROUP_BYTES: usize = 32 << 20;

pub(super) struct PartitionFile<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    beside: PathBuf,
    writer: Option<ArrowWriter<Appended>>,
    rows: u64,
}

impl<'d> PartitionFile<'d> {
    /// Begins the file for `path`, under another name.
    pub(super) fn create(disk: &'d dyn Disk, path: PathBuf, schema: &SchemaRef) -> Result<Self, ExportError> {
        let beside = files::beside(&path);
        let file = files::create(disk, &beside)?;
        let mut this = Self { disk, path, beside, writer: None, rows: 0 };
        // Arrow's own schema would make readers restore 64-bit offsets, which say nothing here.
        let options = ArrowWriterOptions::new().with_properties(properties()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, SchemaRef::clone(schema), options);
        this.writer = Some(writer.map_err(failed(&this.path))?);
        Ok(this)
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        self.rows += batch.num_rows() as u64;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.write(batch).map_err(failed(&self.path))?;
        if writer.memory_size() >= GROUP_BYTES {
            writer.flush().map_err(failed(&self.path))?;
        }
        Ok(())
    }

    /// Ends the file and gives it its place; its rows, and what it is now.
    pub(super) fn publish(mut self) -> Result<(u64, Option<PublishedFile>), ExportError> {
        let Some(writer) = self.writer.take() else { return Ok((self.rows, None)) };
        let file = writer.into_inner().map_err(failed(&self.path))?;
        let (bytes, sha256) = files::publish(self.disk, file, &self.beside, &self.path)?;
        Ok((self.rows, Some(PublishedFile { path: self.path.clone(), bytes, sha256 })))
    }
}

impl Drop for PartitionFile<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing under this name; before it, nobody needs what is there.
        let _ = files::remove_file(self.disk, &self.beside);
    }
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_created_by("fastpersistd".to_owned())
        .build()
}

fn failed(path: &Path) -> impl FnOnce(ParquetError) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Parquet { path, source }
}
