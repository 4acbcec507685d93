//! The database files of one partition, and from what they can be had back.
//!
//! Invariant: a source that loses nothing comes before one that loses something, and of those the one that
//! keeps the newest values.

use std::fmt;
use std::path::PathBuf;

use super::log::Survey;
use super::mending::Mending;
use super::{OfflineError, named};
use crate::backup::manifest::Found;
use crate::disk;
use crate::duck::{self, Derive, DuckError, Files, Inspector};
use crate::offline::walk;
use crate::storage::partition::aside::{self, Why};
use crate::storage::partition::known::Known;
use crate::storage::partition::losses;
use crate::storage::partition::rebuild::{Bad, Case};
use crate::storage::producers::{Change, Producers};
use crate::wal::entry::Entry;
use crate::wal::horizon;

/// What a partition's database is found to be.
#[derive(Debug)]
pub(super) struct Database {
    /// The files that are not usable.
    pub(super) bad: Vec<Bad>,
    /// Up to where each of the good files is complete.
    good: Vec<(PathBuf, u64)>,
}

/// From what the database is had back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Nothing is to be done.
    AsItIs,
    /// Nothing better is there; what can be read is served.
    Unreadable,
    /// What the daemon does by itself, once the log is whole: history, log, or backup and log.
    Sound {
        /// In words.
        how: String,
    },
    /// A history of the latest values.
    HistoryFromLatest {
        /// Up to where they are complete.
        seq: u64,
    },
    /// A backup, and nothing tells what came after it.
    BackupAlone {
        /// Its name.
        backup: String,
        /// Its last record.
        seq: u64,
    },
    /// There is nothing to have it back from.
    Nothing,
}

impl Source {
    /// Whether other files come into the place of those that are there.
    pub(super) fn replaces_files(&self) -> bool {
        !matches!(self, Self::AsItIs | Self::Unreadable)
    }

    /// Whether more is lost than can be counted.
    pub(super) fn loses_unknown(&self) -> bool {
        matches!(self, Self::HistoryFromLatest { .. } | Self::BackupAlone { .. } | Self::Nothing)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsItIs => write!(f, "it is used as it is"),
            Self::Unreadable => {
                write!(f, "nothing else has its data, so it stays; what can be read of it is served")
            }
            Self::Sound { how } => write!(f, "it would be rebuilt {how}"),
            Self::HistoryFromLatest { .. } => write!(
                f,
                "a new history would begin with the latest values; older values and deletions would be lost, unless \
                 rebuild_history_from_wal finds them in the log"
            ),
            Self::BackupAlone { backup, seq } => write!(
                f,
                "it would be rebuilt from the backup {backup} (up to record {seq}); whatever was written after it would be lost, \
                 and nothing tells how much that is"
            ),
            Self::Nothing => write!(
                f,
                "nothing else has its data: all of it would be lost, and places would be given from 1 again"
            ),
        }
    }
}

fn failed(error: impl fmt::Display) -> OfflineError {
    OfflineError::Failed(error.to_string())
}

impl Database {
    /// Opens every file and reads it whole; answers too what is known of the last record.
    pub(super) fn look(case: &Case<'_>, survey: &Survey) -> Result<(Self, Known), OfflineError> {
        let mut bad = case.noted();
        bad.retain(|bad| bad.why == Why::CrashedAtOpen);
        let mut bad = case.diagnose(bad).map_err(failed)?;
        let mut good = Vec::new();
        for file in case.layout.files.paths() {
            if bad.iter().any(|bad| bad.file == file) {
                continue;
            }
            let inspector =
                Inspector::of_files(&case.shared.engine, &case.config.schema, &case.layout.files, Some(file));
            let mut inspector = inspector.map_err(failed)?;
            let looked = inspector.look().into_iter().collect::<Result<Vec<_>, DuckError>>();
            let read = inspector.read_all(&|| true).into_iter().collect::<Result<Vec<_>, DuckError>>();
            match looked.and_then(|looked| read.map(|_| looked)) {
                Ok(looked) => good.extend(looked.into_iter().map(|look| (look.file, look.flushed_seq))),
                Err(error) => {
                    let (file, message) = (file.to_owned(), error.to_string());
                    bad.push(Bad { file, why: Why::BlockUnreadable, message });
                }
            }
        }
        let known = case.known(&bad).map_err(failed)?;
        let database = Self { bad, good };
        Ok((database.without_what_never_was(survey, known), known))
    }

    /// A file that was never made is not missing.
    fn without_what_never_was(mut self, survey: &Survey, known: Known) -> Self {
        let whole_log = survey.first_seq().is_none_or(|first| first == 1);
        let damaged = self.bad.iter().any(|bad| bad.why != Why::Missing);
        if !damaged && whole_log && known.told_seq == 0 && known.backed_up_seq <= survey.last_seq() {
            self.bad.clear();
        }
        self
    }

    /// The best source, and what the log is to be for it.
    pub(super) fn choose(
        &self,
        case: &Case<'_>,
        survey: &Survey,
        known: Known,
    ) -> Result<(Source, Mending), OfflineError> {
        let flushed_seq = self.good.iter().map(|(_, seq)| *seq).min().unwrap_or(0);
        let sound = |how: &str| Source::Sound { how: how.to_owned() };
        let on = |base_seq: u64| survey.mend(base_seq, known.seq());
        if self.bad.is_empty() {
            // A sound database may be older than a backup: somebody went back.
            return Ok((Source::AsItIs, survey.mend(flushed_seq, known.told_seq)));
        }
        let (history, latest) = self.good_files(case);
        if let Some(seq) = history {
            return Ok((sound("from the history, and nothing of it would be lost"), on(seq)));
        }
        let loses_nothing = |mending: &Mending| mending.lost().next().is_none();
        let log_alone = on(0);
        if !survey.is_empty() && loses_nothing(&log_alone) && survey.first_seq() == Some(1) {
            return Ok((sound("from the log"), log_alone));
        }
        let backups = case.backups().map_err(failed)?;
        if let Some((backup, mending)) = best(&backups, &on) {
            let how = sound(&format!("from the backup {} and the log", backup.manifest.backup));
            let certain = known.told_seq.max(survey.last_seq()) >= backup.manifest.seq;
            if loses_nothing(&mending) && certain {
                return Ok((how, mending));
            }
            if latest.is_none() && self.bad.iter().any(|bad| !bad.is_usable()) {
                let (backup, seq) = (backup.manifest.backup.to_string(), backup.manifest.seq);
                return Ok((if certain { how } else { Source::BackupAlone { backup, seq } }, mending));
            }
        }
        if self.bad.iter().all(Bad::is_usable) {
            // The log is judged against what the file says of itself, as the start does.
            return Ok((Source::Unreadable, on(claimed_seq(case))));
        }
        if let Some(seq) = latest {
            return Ok((Source::HistoryFromLatest { seq }, on(seq)));
        }
        if survey.is_empty() && known.seq() == 0 {
            return Ok((Source::Nothing, log_alone));
        }
        Ok((sound("from what the log still has"), log_alone))
    }

    /// Up to where the history and the latest values are complete, where the other one is what is bad.
    fn good_files(&self, case: &Case<'_>) -> (Option<u64>, Option<u64>) {
        let Files::Collection { history, latest } = &case.layout.files else { return (None, None) };
        let seq = |file: &PathBuf| self.good.iter().find(|(good, _)| good == file).map(|(_, seq)| *seq);
        (seq(history), seq(latest))
    }

    /// Brings the files into order. The log is whole already.
    pub(super) fn mend(&self, case: &Case<'_>, source: &Source, known_seq: u64) -> Result<(), OfflineError> {
        let (disk, now) = (&*case.shared.disk, case.shared.clock.now());
        match source {
            Source::AsItIs | Source::Unreadable => Ok(()),
            Source::Sound { .. } => case.restore(&self.bad).map_err(failed),
            Source::BackupAlone { seq, .. } => {
                // Without a log this note is what tells that nothing newer is to be waited for.
                let base = case.layout.place.base();
                horizon::note_removed(disk, base, known_seq.max(*seq))
                    .map_err(OfflineError::io(named(base)))?;
                case.restore(&self.bad).map_err(failed)
            }
            Source::HistoryFromLatest { seq } => self.history_from_latest(case, *seq),
            Source::Nothing => {
                for bad in &self.bad {
                    aside::set_aside(disk, &bad.file, now, bad.why)
                        .map_err(OfflineError::io(named(&bad.file)))?;
                }
                Ok(())
            }
        }
    }

    fn history_from_latest(&self, case: &Case<'_>, seq: u64) -> Result<(), OfflineError> {
        let Files::Collection { history, latest } = &case.layout.files else { return Ok(()) };
        let (disk, now) = (&*case.shared.disk, case.shared.clock.now());
        let new = disk::temporary_beside(history);
        aside::remove_unfinished(disk, &new).map_err(OfflineError::io(named(&new)))?;
        let producers = producers_of_log(case, seq)?;
        let (what, files) = (Derive::HistoryFromLatest, [&**latest, &new]);
        duck::derive(&case.shared.engine, &case.config.schema, what, files, &producers).map_err(failed)?;
        let why = self.bad.iter().find(|bad| bad.file == *history).map_or(Why::Missing, |bad| bad.why);
        let base = case.layout.place.base();
        let lost = "the history was lost; it began again with the latest values";
        losses::note(disk, base, now, &[(1, seq)], lost)
            .and_then(|()| aside::set_aside(disk, history, now, why))
            .and_then(|_| disk.rename(&new, history))
            .and_then(|()| disk.sync_dir(disk::parent_of(history)))
            .map_err(OfflineError::io(named(history)))
    }
}

/// How far what is left of the log says that producers have come up to a record.
fn producers_of_log(case: &Case<'_>, seq: u64) -> Result<Vec<Change>, OfflineError> {
    let disk = &*case.shared.disk;
    let segments = walk::segments(disk, &case.layout.wal_directories).map_err(failed)?;
    let first = segments.iter().filter_map(|segment| segment.first_seq).min().unwrap_or(1);
    let mut producers = Producers::new(case.shared.limits.max_producers);
    let note = |entry: Entry| {
        if let Some((name, mark)) = entry.mark().filter(|(_, mark)| mark.seq <= seq) {
            producers.note(name, mark);
        }
        entry.last_seq() < seq
    };
    walk::walk(disk, case.config.model(), &segments, first.saturating_sub(1), note)
        .map_err(|(file, error)| OfflineError::io(named(&file))(error))?;
    let known = producers.take_changes().into_iter();
    Ok(known.filter(|(_, mark)| mark.is_some()).collect())
}

/// The backup on which the log loses least; of equal ones the newest.
fn best<'b>(backups: &'b [Found], on: &dyn Fn(u64) -> Mending) -> Option<(&'b Found, Mending)> {
    let lost = |mending: &Mending| mending.lost().map(|(first, last)| last - first + 1).sum::<u64>();
    let mended = backups.iter().map(|backup| (backup, on(backup.manifest.seq)));
    mended.min_by_key(|(_, mending)| lost(mending))
}

/// Up to where files with unreadable blocks say that they are complete.
fn claimed_seq(case: &Case<'_>) -> u64 {
    let files = &case.layout.files;
    let look = Inspector::of_files(&case.shared.engine, &case.config.schema, files, None);
    let seqs = look.map(|mut inspector| inspector.look()).unwrap_or_default();
    seqs.into_iter().filter_map(|look| Some(look.ok()?.flushed_seq)).min().unwrap_or(0)
}
