//! Reads a directory of the Python library and prints its records as operations of `import`.
//!
//! `fastpersist import` calls it and sends what it prints to the daemon. Here is what DuckDB is needed for,
//! and what the library would recover: the values of its tables, and of its log what is not in them yet.
//!
//! Invariants: the source is only read; memory grows with the number of addresses and lines, not with what
//! they hold; what cannot be read is told, with its file and place, and the rest goes on.

mod clock;
mod collection;
mod dated;
mod entry;
mod json;
mod layout;
mod report;
mod wal;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono_tz::Tz;
use fastpersist_protocol::time::Timestamp;
use tempfile::TempDir;

use crate::duck::EngineSettings;
use crate::duck::foreign::{ForeignDatabase, ForeignError, ForeignRow};
use crate::storage::schema::Model;
use clock::RowClock;
use entry::Entry;
use layout::Layout;
pub use layout::LayoutError;
use report::Report;

/// What DuckDB may use.
const MEMORY_LIMIT_BYTES: u64 = 512 << 20;

/// How far a file's time may lag behind its last write, by a tick of the kernel's clock.
const MTIME_LAG: std::time::Duration = std::time::Duration::from_secs(1);

/// What `read-python` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The directory
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The time zone of the machine that wrote it, where its rows do not tell
    #[arg(long, value_name = "ZONE")]
    timezone: Option<Tz>,
    /// A Python with the package duckdb, for files of a DuckDB that is newer than this one
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Where copies of files are made that cannot be opened where they are
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file that another program has open: what it writes next would be missing.
    #[error("{file}: {source}")]
    InUse {
        /// The file.
        file: String,
        /// Why it cannot be read.
        source: ForeignError,
    },
    /// DuckDB does not start.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// No place for copies.
    #[error("a temporary directory: {0}; --temp-dir names a place for it")]
    Scratch(#[source] io::Error),
    /// Nobody reads what is printed.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
}

/// Reads the directory and prints what is in it.
///
/// # Errors
/// See [`Fatal`].
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Fatal> {
    let layout = Layout::find(&arguments.from)?;
    let mut report = Report::new(out);
    report.begin(layout.model);
    let mut reading = Reading { arguments, layout: &layout, zone: arguments.timezone, report: &mut report };
    match layout.model {
        Model::Collection => collection::read(&mut reading)?,
        Model::Dated => {
            for day in &layout.days {
                dated::read(&mut reading, day)?;
            }
        }
    }
    report.finish().map_err(Fatal::Output)
}

/// A microsecond later.
fn next(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() + 1).unwrap_or(at)
}

/// Called with a line's number and what it says.
type OnEntry<'f, 'a, 'o> = dyn FnMut(&mut Reading<'a, 'o>, u64, &Entry<'_>) + 'f;

/// What is at hand while a directory is read.
struct Reading<'a, 'o> {
    arguments: &'a Arguments,
    layout: &'a Layout,
    zone: Option<Tz>,
    report: &'a mut Report<'o>,
}

impl<'a, 'o> Reading<'a, 'o> {
    /// A directory for copies, and an instance of DuckDB, which is to be dropped first.
    fn database(&self) -> Result<(TempDir, ForeignDatabase), Fatal> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("fastpersist-import-");
        let scratch = match &self.arguments.temp_dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let scratch = scratch.map_err(Fatal::Scratch)?;
        let settings = EngineSettings {
            memory_limit_bytes: MEMORY_LIMIT_BYTES,
            threads: 1,
            temp_directory: scratch.path().join("spill"),
        };
        let database = ForeignDatabase::new(&settings, scratch.path(), &self.arguments.python)?;
        Ok((scratch, database))
    }

    /// Tells that a database cannot be opened. One that is in use ends the reading.
    fn cannot_open(&mut self, file: &str, error: &ForeignError) -> Result<(), Fatal> {
        if matches!(error, ForeignError::InUse) {
            return Err(Fatal::InUse { file: file.to_owned(), source: ForeignError::InUse });
        }
        self.report.problem(file, None, &error.to_string());
        Ok(())
    }

    /// What a row says; tells what is wrong with it.
    fn row<'r>(
        &mut self,
        file: &str,
        model: Model,
        row: &'r ForeignRow<'_>,
        clock: &mut RowClock,
    ) -> Option<Entry<'r>> {
        match Entry::of_row(model, row, clock) {
            Ok((entry, not_finite)) => {
                self.report.counts.not_finite += not_finite;
                Some(entry)
            }
            Err(reason) => {
                self.report.problem(file, Some(("row", row.number)), &reason);
                None
            }
        }
    }

    /// Shows what the lines of a file say. The first time they are counted, and what is wrong is told.
    fn wal_file(&mut self, file: &Path, model: Model, first: bool, on_entry: &mut OnEntry<'_, 'a, 'o>) {
        let short = self.layout.short(file);
        let bounds = Bounds::of(file);
        let mut before = None;
        let read = wal::lines(file, &mut |line| {
            let entry = wal::entry(model, &line);
            if first {
                self.report.counts.wal_lines += 1;
            }
            match entry {
                Ok((mut entry, not_finite)) => {
                    self.report.counts.not_finite += if first { not_finite } else { 0 };
                    let at = taken_at(entry.timestamp, before, bounds);
                    before = Some(at);
                    entry.updated_at = Some(at);
                    on_entry(self, line.number, &entry);
                }
                Err(reason) if first => self.report.problem(&short, Some(("line", line.number)), &reason),
                Err(_) => {}
            }
            !self.report.is_broken()
        });
        match read {
            Ok(()) => self.report.counts.wal_files += u64::from(first),
            Err(error) if first => self.report.problem(&short, None, &error.to_string()),
            Err(_) => {}
        }
    }
}

/// Between what instants a file of the log was written, as far as can be told.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Where nothing better is known: the day after which its directory is called.
    day: Timestamp,
    modified: Option<Timestamp>,
}

impl Bounds {
    fn of(file: &Path) -> Self {
        let day = file.parent().and_then(|dir| Timestamp::parse(dir.file_name()?.to_str()?));
        let modified = std::fs::metadata(file).and_then(|data| data.modified()).ok().and_then(instant);
        Self { day: day.unwrap_or(Timestamp::EPOCH), modified }
    }
}

/// When a line was taken. It does not say so, but its own instant is that unless the program gave another one:
/// one before the line before, or after the file. Such a line counts as taken right after the line before, and
/// not by the file's time, which moves on while the library writes.
fn taken_at(own: Option<Timestamp>, before: Option<Timestamp>, bounds: Bounds) -> Timestamp {
    let written = own.filter(|own| bounds.modified.is_none_or(|modified| *own <= modified));
    match (written, before) {
        (Some(own), None) => own,
        (Some(own), Some(before)) if own > before => own,
        (_, Some(before)) => next(before),
        (None, None) => own.map_or(bounds.day, |own| own.min(bounds.day)),
    }
}

fn instant(time: std::time::SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()? + MTIME_LAG;
    Timestamp::from_micros(since.as_micros() as i64)
}
