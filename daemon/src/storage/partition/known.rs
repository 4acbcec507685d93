//! Up to which record something tells that there were some.
//!
//! A log says nothing about segments that it has lost. Others do: the note of what was removed of it, the note
//! of a closed date, each database file that can still be asked, and every backup's manifest, whatever became
//! of the backup itself.
//!
//! Invariant: a source that ends below what is known is not whole; else its records would be lost in silence,
//! and their places given again.

use std::path::Path;

use super::aside::Why;
use super::notes;
use super::rebuild::{Bad, Case, NoSource};
use crate::backup::manifest;
use crate::duck::Inspector;
use crate::wal::horizon::{self, REMOVED_FILE};
use crate::wal::recover::Recovered;

/// What is known of a partition's last record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// By the notes and the database files, which went on for as long as the partition did.
    pub told_seq: u64,
    /// By the backups' manifests, which are silent about what came after them.
    pub backed_up_seq: u64,
}

impl Known {
    /// The last record of which anything tells; 0 where nothing does.
    pub fn seq(&self) -> u64 {
        self.told_seq.max(self.backed_up_seq)
    }

    /// Whether a log, with what it was replayed on, comes to the last record that is known.
    pub(super) fn is_reached_by(&self, recovered: &Recovered) -> Result<(), NoSource> {
        let (last, known) = (recovered.last_seq, self.seq());
        if last < known {
            return Err(NoSource::Short(format!("it ends with record {last}, and there were {known}")));
        }
        Ok(())
    }

    /// Whether something besides the backups tells how the partition went on up to `backup_seq`: a log that
    /// ends before a backup has lost its end, and what else that held nobody knows.
    pub(super) fn is_told_up_to(&self, backup_seq: u64, recovered: &Recovered) -> Result<(), NoSource> {
        let log_end = recovered.sealed.last().map_or(0, |segment| segment.last_seq);
        if self.told_seq.max(log_end) >= backup_seq {
            return Ok(());
        }
        Err(NoSource::Short(match log_end {
            0 => "there is no log, and nothing tells up to where it went".to_owned(),
            end => format!("the log ends with record {end}, before it, and nothing tells what came after it"),
        }))
    }
}

impl Case<'_> {
    /// What is known; `bad` are the files that are not usable, of which some can still be asked.
    ///
    /// # Errors
    /// When a note or the backups' directory cannot be read.
    pub fn known(&self, bad: &[Bad]) -> Result<Known, NoSource> {
        let base = self.layout.place.base();
        let removed = horizon::removed_through(&*self.shared.disk, base).map_err(NoSource::io(base))?;
        let told_seq = removed.max(self.layout.settled_seq.unwrap_or(0)).max(self.told_by_files(bad));
        Ok(Known { told_seq, backed_up_seq: self.told_by_backups()? })
    }

    fn told_by_files(&self, bad: &[Bad]) -> u64 {
        let crashes = |file: &Path| bad.iter().any(|bad| bad.file == file && bad.why == Why::CrashedAtOpen);
        let files = self.layout.files.paths().filter(|file| file.exists() && !crashes(file));
        files.filter_map(|file| self.told_by_file(file)).max().unwrap_or(0)
    }

    /// The files that end before a record that there was: another state was put in their place.
    pub(super) fn outdated(&self, known_seq: u64) -> Vec<Bad> {
        let outdated = |file: &Path| {
            let seq = self.told_by_file(file).filter(|seq| *seq < known_seq)?;
            let message = format!(
                "{} is complete up to record {seq}, and there were {known_seq} by the notes beside the log ({REMOVED_FILE}, settled)",
                file.display()
            );
            Some(Bad { file: file.to_owned(), why: Why::Outdated, message })
        };
        self.layout.files.paths().filter_map(outdated).collect()
    }

    /// Up to where a file says that it is complete; nobody has it open.
    pub(in crate::storage) fn told_by_file(&self, file: &Path) -> Option<u64> {
        let disk = &*self.shared.disk;
        notes::begin_opening(disk, file, self.shared.clock.now());
        let (engine, schema) = (&self.shared.engine, &self.config.schema);
        let inspector = Inspector::of_files(engine, schema, &self.layout.files, Some(file));
        // One that does not tell is among the bad ones, and was told of as such.
        let told = inspector.ok().and_then(|inspector| inspector.flushed_seq());
        notes::end_opening(disk, file);
        told
    }

    fn told_by_backups(&self) -> Result<u64, NoSource> {
        let (disk, base) = (&*self.shared.disk, &self.config.base_dir);
        let found = match self.layout.date {
            None => manifest::list(disk, base)?,
            Some(date) => match manifest::find(disk, &base.join(date.to_string())) {
                Ok(found) => found.into_iter().collect(),
                Err(error) => {
                    tracing::warn!(%error, "a backup's manifest cannot be used");
                    Vec::new()
                }
            },
        };
        Ok(found.into_iter().map(|found| found.manifest.seq).max().unwrap_or(0))
    }
}
