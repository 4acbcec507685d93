//! From which backup and which part of the log a moment of a partition can be had back.
//!
//! Only reads. What the plan says is what the restore does: it stops at the record that the plan names, also
//! when the daemon has written more meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use fastpersist_protocol::time::{Date, Timestamp};

use super::Failure;
use super::walk::{self, WalkEnd};
use crate::backup::manifest::{self, Found, ManifestError};
use crate::config::StorageConfig;
use crate::disk::Disk;
use crate::duck::{self, Engine};
use crate::storage::partition::losses;
use crate::storage::schema::Model;
use crate::wal::entry::Entry;
use crate::wal::horizon;
use crate::wal::recover::Segment;

/// The moment that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everything that there is.
    Newest,
    /// Up to this record.
    Seq(u64),
    /// Before the first record that was written later than this.
    At(Timestamp),
}

impl Moment {
    fn has(self, found: &Found) -> bool {
        match self {
            Self::Newest => true,
            Self::Seq(seq) => found.manifest.seq <= seq,
            Self::At(at) => found.manifest.last_updated_at <= at,
        }
    }
}

/// What a restore begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An empty store.
    Nothing,
    /// A backup, as it is.
    Backup(Found),
    /// A collection's backup that is newer than the moment, cut back by its history.
    CutBack(Found),
}

/// How one partition is restored.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The date, for a dated storage.
    pub date: Option<Date>,
    /// What it begins with.
    pub base: Base,
    /// The log's segments, in order.
    pub segments: Vec<Segment>,
    /// Those of them that are used.
    pub used: Vec<PathBuf>,
    /// Records that come from the log.
    pub records: u64,
    /// The last record of the result; 0 where it is empty.
    pub seq: u64,
    /// When that was written.
    pub updated_at: Option<Timestamp>,
    /// The batch in which the moment lies; the result ends before it.
    pub split_batch: Option<(u64, u64)>,
    /// What is wanted and cannot be had.
    pub uncovered: Option<String>,
}

/// Makes plans for one storage.
#[derive(Debug, Clone, Copy)]
pub struct Planner<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// DuckDB.
    pub engine: &'a Arc<Engine>,
    /// The storage.
    pub config: &'a StorageConfig,
    /// The moment that is wanted.
    pub moment: Moment,
}

impl Planner<'_> {
    /// The dates that have a backup or a log, in order.
    ///
    /// # Errors
    /// When the storage's directory cannot be read.
    pub fn dates(&self) -> Result<Vec<Date>, Failure> {
        let base = &self.config.base_dir;
        let names = self.disk.list(base).map_err(Failure::io(base))?;
        let mut dates = Vec::new();
        for date in names.iter().filter_map(|name| Date::parse(name)) {
            let directories = [base.join(date.to_string())];
            if !self.backups(Some(date))?.is_empty() || !self.segments(&directories)?.is_empty() {
                dates.push(date);
            }
        }
        Ok(dates)
    }

    /// The plan for the collection, or for one date. Backups in `bad` are passed over.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn plan(&self, date: Option<Date>, bad: &[PathBuf]) -> Result<Plan, Failure> {
        let mut backups = self.backups(date)?;
        backups.retain(|found| !bad.contains(&found.directory));
        let fitting = backups.iter().filter(|found| self.moment.has(found));
        let base = fitting.max_by_key(|found| (found.manifest.seq, found.manifest.created_at));
        let plan = self.forward(date, base.cloned())?;
        if plan.uncovered.is_none() || self.config.model() == Model::Dated {
            return Ok(plan);
        }
        let newer = backups.into_iter().filter(|found| !self.moment.has(found));
        match newer.min_by_key(|found| found.manifest.seq) {
            Some(found) => self.cut_back(found, plan),
            None => Ok(plan),
        }
    }

    fn backups(&self, date: Option<Date>) -> Result<Vec<Found>, Failure> {
        let base = &self.config.base_dir;
        let found = match date {
            None => manifest::list(self.disk, base),
            Some(date) => match manifest::find(self.disk, &base.join(date.to_string())) {
                Err(error @ ManifestError::Content { .. }) => {
                    tracing::warn!(%error, "a backup's manifest cannot be used");
                    Ok(Vec::new())
                }
                found => found.map(|found| found.into_iter().collect()),
            },
        };
        let mut found = found.map_err(|error| Failure::new(Failure::IO, error.to_string()))?;
        let model = self.config.model().to_string();
        found.retain(|one| one.is_verified() && one.manifest.model == model);
        Ok(found)
    }

    fn segments(&self, directories: &[PathBuf]) -> Result<Vec<Segment>, Failure> {
        walk::segments(self.disk, directories).map_err(|error| Failure::new(Failure::IO, error.to_string()))
    }

    fn wal_directories(&self, date: Option<Date>) -> Result<Vec<PathBuf>, Failure> {
        let base = &self.config.base_dir;
        if let Some(date) = date {
            return Ok(vec![base.join(date.to_string())]);
        }
        let names = self.disk.list(base).map_err(Failure::io(base))?;
        Ok(names.iter().filter(|name| Date::parse(name).is_some()).map(|name| base.join(name)).collect())
    }

    /// From a backup, or from nothing, through the log.
    fn forward(&self, date: Option<Date>, base: Option<Found>) -> Result<Plan, Failure> {
        let segments = self.segments(&self.wal_directories(date)?)?;
        let start = base.as_ref().map_or(0, |found| found.manifest.seq);
        let mut progress = Progress::new(self.moment, start);
        progress.updated_at = base.as_ref().map(|found| found.manifest.last_updated_at);
        let end = if progress.is_reached() {
            WalkEnd::default()
        } else {
            walk::walk(self.disk, self.config.model(), &segments, start, |entry| progress.take(&entry))
                .map_err(|(file, error)| Failure::io(&file)(error))?
        };
        let uncovered = progress.uncovered(&end).or_else(|| self.only_elsewhere(date, &progress));
        Ok(Plan {
            date,
            base: base.map_or(Base::Nothing, Base::Backup),
            segments,
            used: if progress.seq > start { end.segments } else { Vec::new() },
            records: progress.records,
            seq: progress.seq,
            updated_at: progress.updated_at,
            split_batch: progress.split_batch,
            uncovered,
        })
    }

    /// What neither backups nor log can tell: records that a repair gave up, and those that are only in the
    /// database, because the log was removed when it had them.
    fn only_elsewhere(&self, date: Option<Date>, progress: &Progress) -> Option<String> {
        let date = date.map(|date| date.to_string()).unwrap_or_default();
        let directory = self.config.base_dir.join(date);
        if let Moment::Seq(seq) = self.moment
            && losses::contains(self.disk, &directory, seq)
        {
            return Some(format!("record {seq} was given up in a repair"));
        }
        let removed = horizon::removed_through(self.disk, &directory).unwrap_or(0);
        let (first, behind) = (progress.seq + 1, !progress.passed && !progress.is_reached());
        (behind && removed > progress.seq).then(|| {
            format!("records {first} to {removed} are only in the database: the WAL was removed, and no backup has them")
        })
    }

    /// From a newer backup's history. It does not tell which records were one batch.
    fn cut_back(&self, found: Found, plan: Plan) -> Result<Plan, Failure> {
        let moment = match self.moment {
            Moment::Newest => return Ok(plan),
            Moment::Seq(seq) => duck::HistoryCut::Seq(seq),
            Moment::At(at) => duck::HistoryCut::At(at),
        };
        let Some(history) = found.paths.first() else { return Ok(plan) };
        let (seq, updated_at) = duck::look_back(self.engine, history, moment)
            .map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
        Ok(Plan {
            base: Base::CutBack(found),
            used: Vec::new(),
            records: 0,
            seq,
            updated_at,
            split_batch: None,
            uncovered: None,
            ..plan
        })
    }
}

/// Where a walk towards a moment stands.
struct Progress {
    moment: Moment,
    seq: u64,
    updated_at: Option<Timestamp>,
    split_batch: Option<(u64, u64)>,
    /// Records on the way.
    records: u64,
    /// The first record beyond the moment was seen.
    passed: bool,
}

impl Progress {
    fn new(moment: Moment, seq: u64) -> Self {
        Self { moment, seq, updated_at: None, split_batch: None, records: 0, passed: false }
    }

    fn is_reached(&self) -> bool {
        self.moment == Moment::Seq(self.seq)
    }

    /// Takes a line, or stops before it.
    fn take(&mut self, entry: &Entry) -> bool {
        let newest = entry.records.iter().map(|record| record.columns().updated_at).max();
        let is_beyond = match self.moment {
            Moment::Newest => false,
            Moment::Seq(seq) => entry.last_seq() > seq,
            Moment::At(at) => newest.is_some_and(|newest| newest > at),
        };
        if is_beyond {
            let splits = matches!(self.moment, Moment::Seq(seq) if entry.seq <= seq);
            self.split_batch = (splits && entry.gap.is_none()).then(|| (entry.seq, entry.last_seq()));
            self.passed = true;
            return false;
        }
        (self.seq, self.updated_at) = (entry.last_seq(), newest.or(self.updated_at));
        self.records += entry.records.len() as u64;
        !self.is_reached()
    }

    fn uncovered(&self, end: &WalkEnd) -> Option<String> {
        if self.passed || self.is_reached() {
            return None;
        }
        match (&end.obstacle, self.moment) {
            (Some(obstacle), _) => Some(obstacle.to_string()),
            (None, Moment::Seq(seq)) => Some(format!(
                "record {seq} is in no backup and not in the WAL, which ends with record {}",
                self.seq
            )),
            (None, _) => None,
        }
    }
}
