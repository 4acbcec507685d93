//! A database that is not usable is had back: from the other table, from the log, from a backup and the log.
//!
//! The sources, in the order in which they are tried. Each is whole or is not used:
//!
//! 1. only the latest values are bad: the history, which has everything that they follow from. It comes first
//!    because it is at hand, needs no memory and leaves the good file where it is.
//! 2. the log, where it reaches back to the first record;
//! 3. the newest verified backup from whose last record on the log is whole.
//!
//! Whole means that it comes to the last record that is [`known`](super::known).
//!
//! Invariants: no answered write is lost without a person's consent; what is replaced is set aside, and only
//! when what replaces it is there; after a crash in between, the next start finds the same choice again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside::{self, Why};
use super::known::Known;
use super::open::{OpenError, Opened, replay};
use super::{Layout, Shared, notes};
use crate::backup::manifest::{self, Found, ManifestError};
use crate::config::StorageConfig;
use crate::disk;
use crate::duck::{self, Derive, DuckError, Files, Inspector, Store};
use crate::storage::memtable::Memtable;
use crate::wal::recover::{RecoverError, Recovered};

/// A database file that is not usable.
#[derive(Debug, Clone)]
pub struct Bad {
    /// The file.
    pub file: PathBuf,
    /// The kind of trouble.
    pub why: Why,
    /// What DuckDB or a note says.
    pub message: String,
}

impl Bad {
    /// Whether the file opens all the same, and can be used where there is nothing better.
    pub fn is_usable(&self) -> bool {
        self.why == Why::BlockUnreadable
    }
}

/// Why one source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NoSource {
    /// The log.
    #[error(transparent)]
    Log(#[from] RecoverError),
    /// DuckDB.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// A backup's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It does not reach far enough.
    #[error("{0}")]
    Short(String),
}

impl NoSource {
    pub(super) fn io(file: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, source }
    }
}

/// One partition whose database is to be looked at or had back.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Where its files are.
    pub layout: &'a Layout,
    /// Its storage.
    pub config: &'a StorageConfig,
    /// What all partitions share.
    pub shared: &'a Arc<Shared>,
}

impl Case<'_> {
    /// The files that must not be given to DuckDB, or about which a note says that they are damaged.
    pub fn noted(&self) -> Vec<Bad> {
        let (disk, now) = (&*self.shared.disk, self.shared.clock.now());
        let noted = |file: &Path| {
            if notes::crashed_at_open(disk, file, now) {
                let message = format!("{}: the last starts ended while DuckDB opened it", file.display());
                return Some(Bad { file: file.to_owned(), why: Why::CrashedAtOpen, message });
            }
            let message =
                format!("{}: damage was found: {}", file.display(), notes::why_suspect(disk, file)?);
            Some(Bad { file: file.to_owned(), why: Why::BlockUnreadable, message })
        };
        self.layout.files.paths().filter(|file| file.exists()).filter_map(noted).collect()
    }

    /// Every file that is not usable, when it is known that something is wrong: `noted` are not tried again.
    ///
    /// # Errors
    /// When DuckDB gives no connection, or says no for another reason than damage.
    pub fn diagnose(&self, noted: Vec<Bad>) -> Result<Vec<Bad>, DuckError> {
        let mut bad = noted;
        for file in self.layout.files.paths() {
            if bad.iter().any(|other| other.file == file && other.why == Why::CrashedAtOpen) {
                continue;
            }
            if !file.exists() {
                let message = format!("{} is missing", file.display());
                bad.push(Bad { file: file.to_owned(), why: Why::Missing, message });
                continue;
            }
            if let Err(error) = self.opens(file) {
                // A start that ended before it had made the tables leaves a file that has none.
                if !error.is_damage() && !error.is_without_table() {
                    return Err(error);
                }
                bad.retain(|other| other.file != file);
                bad.push(Bad { file: file.to_owned(), why: Why::DoesNotOpen, message: error.to_string() });
            }
        }
        Ok(bad)
    }

    fn opens(&self, file: &Path) -> Result<(), DuckError> {
        let disk = &*self.shared.disk;
        notes::begin_opening(disk, file, self.shared.clock.now());
        let (engine, schema) = (&self.shared.engine, &self.config.schema);
        let looked = Inspector::of_files(engine, schema, &self.layout.files, Some(file))
            .map(|mut inspector| inspector.look());
        notes::end_opening(disk, file);
        looked?.into_iter().try_for_each(|look| look.map(drop))
    }

    /// Has the database back from the first source that is whole.
    ///
    /// # Errors
    /// [`OpenError::Database`] with what is missing of each source; nothing has changed then.
    pub(super) fn mend(&self, bad: &[Bad]) -> Result<Opened, OpenError> {
        let known = match self.known(bad) {
            Ok(known) => known,
            Err(error) => return Err(self.refuse(bad, &[error.to_string()])),
        };
        let mut tried = Vec::new();
        let history_is_good = match &self.layout.files {
            Files::Collection { history, .. } => bad.iter().all(|bad| bad.file != *history),
            Files::Dated { .. } => false,
        };
        if history_is_good {
            match self.have_from_history(bad, known) {
                Ok(opened) => return Ok(opened),
                Err(error) => tried.push(format!("from the history: {error}")),
            }
        }
        match self.have_from_log(bad, known) {
            Ok(opened) => return Ok(opened),
            Err(error) => tried.push(format!("from the log: {error}")),
        }
        match self.have_from_backups(bad, known, &mut tried) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => {}
            Err(error) => tried.push(format!("from a backup: {error}")),
        }
        Err(self.refuse(bad, &tried))
    }

    fn refuse(&self, bad: &[Bad], tried: &[String]) -> OpenError {
        let message: Vec<_> = bad.iter().map(|bad| bad.message.as_str()).collect();
        OpenError::Database {
            storage: self.config.name.clone(),
            problem: message.join("; "),
            tried: tried.join("; "),
        }
    }

    /// As at a start, without going on to open the partition.
    ///
    /// # Errors
    /// [`OpenError::Database`] with what is missing of each source; nothing has changed then.
    pub fn restore(&self, bad: &[Bad]) -> Result<(), OpenError> {
        self.mend(bad).map(drop)
    }

    fn have_from_history(&self, bad: &[Bad], known: Known) -> Result<Opened, NoSource> {
        let Files::Collection { history, latest } = &self.layout.files else {
            return Err(NoSource::Short("a dated storage has none".to_owned()));
        };
        let disk = &*self.shared.disk;
        let new = disk::temporary_beside(latest);
        aside::remove_unfinished(disk, &new).map_err(NoSource::io(&new))?;
        let schema = &self.config.schema;
        let derived =
            duck::derive(&self.shared.engine, schema, Derive::LatestFromHistory, [history, &new], &[]);
        let (_, flushed_seq) = derived.inspect_err(|_| drop(aside::remove_unfinished(disk, &new)))?;
        let (mut memtable, recovered) = self.replay(flushed_seq, false)?;
        known.is_reached_by(&recovered)?;
        // DuckDB has written it, and a checkpoint has synced it; the name is ours to make durable.
        self.put_in_place(bad, &[(new, latest.clone())])?;
        self.tell(bad, "from the history", flushed_seq, &recovered);
        let store = self.open(&mut memtable)?;
        Ok(Opened { store: Some(store), memtable, recovered, suspect: false })
    }

    fn have_from_log(&self, bad: &[Bad], known: Known) -> Result<Opened, NoSource> {
        let (memtable, recovered) = self.replay(0, true)?;
        if recovered.last_seq == 0 {
            return Err(NoSource::Short("it is empty".to_owned()));
        }
        known.is_reached_by(&recovered)?;
        self.put_in_place(bad, &[])?;
        self.tell(bad, "from the log", 0, &recovered);
        Ok(Opened { store: None, memtable, recovered, suspect: false })
    }

    fn have_from_backups(
        &self,
        bad: &[Bad],
        known: Known,
        tried: &mut Vec<String>,
    ) -> Result<Option<Opened>, NoSource> {
        let backups = self.backups()?;
        if backups.is_empty() {
            tried.push("from a backup: there is no verified one".to_owned());
        }
        for backup in backups {
            match self.have_from_backup(bad, known, &backup) {
                Ok(opened) => return Ok(Some(opened)),
                Err(error) => tried.push(format!("from the backup {}: {error}", backup.manifest.backup)),
            }
        }
        Ok(None)
    }

    /// The partition's verified backups, the newest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn backups(&self) -> Result<Vec<Found>, ManifestError> {
        let (disk, base) = (&*self.shared.disk, &self.config.base_dir);
        let mut found: Vec<_> = match self.layout.date {
            Some(date) => manifest::verified_of_date(disk, base, date)?.into_iter().collect(),
            None => manifest::list(disk, base)?.into_iter().filter(Found::is_verified).collect(),
        };
        found.sort_by_key(|found| std::cmp::Reverse((found.manifest.seq, found.manifest.created_at)));
        Ok(found)
    }

    fn have_from_backup(&self, bad: &[Bad], known: Known, backup: &Found) -> Result<Opened, NoSource> {
        let seq = backup.manifest.seq;
        let (mut memtable, recovered) = self.replay(seq, false)?;
        known.is_reached_by(&recovered)?;
        known.is_told_up_to(seq, &recovered)?;
        let mut new = Vec::new();
        for file in self.layout.files.paths() {
            let (entry, source) = entry_for(backup, file)?;
            let copied = aside::copy_verified(&*self.shared.disk, source, entry, file);
            new.push((copied.map_err(NoSource::io(source))?, file.to_owned()));
        }
        self.put_in_place(bad, &new)?;
        let store = self.open(&mut memtable)?;
        if store.flushed_seq() != seq {
            let says = store.flushed_seq();
            return Err(NoSource::Short(format!("its manifest says record {seq}, its file says {says}")));
        }
        if store.row_count() == 0 {
            memtable.set_complete();
        }
        self.tell(bad, &format!("from the backup {} and the log", backup.manifest.backup), seq, &recovered);
        Ok(Opened { store: Some(store), memtable, recovered, suspect: false })
    }

    /// Opens what is in its place now; memory learns of its producers.
    fn open(&self, memtable: &mut Memtable) -> Result<Arc<Store>, NoSource> {
        let schema = Arc::new(self.config.schema.clone());
        let store = Store::open(Arc::clone(&self.shared.engine), schema, self.layout.files.clone())?;
        memtable.producers_mut().load(store.producers()?);
        Ok(Arc::new(store))
    }

    fn replay(&self, flushed_seq: u64, empty: bool) -> Result<(Memtable, Recovered), RecoverError> {
        replay(self.layout, self.config, self.shared, flushed_seq, empty)
    }

    /// Sets aside what is there and gives new files their names.
    fn put_in_place(&self, bad: &[Bad], new: &[(PathBuf, PathBuf)]) -> Result<(), NoSource> {
        let (disk, now) = (&*self.shared.disk, self.shared.clock.now());
        // A sound history is left alone when only the latest values are replaced.
        let only_some = new.len() == 1;
        for file in self.layout.files.paths() {
            if only_some && !new.iter().any(|(_, target)| target == file) {
                continue;
            }
            let why = bad.iter().find(|bad| bad.file == file).map_or(Why::Replaced, |bad| bad.why);
            aside::set_aside(disk, file, now, why).map_err(NoSource::io(file))?;
        }
        for (temporary, file) in new {
            disk.rename(temporary, file).map_err(NoSource::io(file))?;
            disk.sync_dir(disk::parent_of(file)).map_err(NoSource::io(file))?;
        }
        Ok(())
    }

    fn tell(&self, bad: &[Bad], how: &str, from_seq: u64, recovered: &Recovered) {
        let records = recovered.last_seq - from_seq.min(recovered.last_seq);
        for bad in bad {
            tracing::error!(storage = %self.config.name, date = ?self.layout.date.map(|d| d.to_string()), problem = %bad.message,
                records, "a database file is damaged; it was set aside, and its data is rebuilt {how}");
        }
    }
}

/// The file of a backup that belongs to a database file.
fn entry_for<'b>(backup: &'b Found, file: &Path) -> Result<(&'b manifest::BackupFile, &'b Path), NoSource> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(crate::backup::FILE_SUFFIX);
    let files = backup.manifest.files.iter().zip(&backup.paths);
    let found = files.into_iter().find(|(entry, _)| *entry.file == *name);
    found
        .map(|(entry, path)| (entry, path.as_path()))
        .ok_or_else(|| NoSource::Short(format!("it has no copy of {}", file.display())))
}
