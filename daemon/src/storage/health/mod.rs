//! Whether a storage is as it should be, and what is not.
//!
//! A quick look opens every file, of closed dates too, compares counts and watermarks, and asks whether what
//! happens by itself does. A deep one reads every column of every row, every line of the log, the exported files and
//! the backups besides: of a collection the newest, of a dated storage that of every date.
//!
//! Invariants: nothing is changed, but for a note beside a file that turned out to be damaged; nobody who
//! writes waits for it, but for a date that is opened while its file is being attached.

mod backups;
mod exports;
mod look;

use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::Date;

use super::Storage;
use crate::schedule::{JobKind, JobReport};

/// What can be wrong. The names are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// A write to the log failed; there are no writes until a restart.
    ReadOnly,
    /// The last flush failed.
    FlushFailing,
    /// Something else that happens by itself failed the last time.
    JobFailed,
    /// Something should have begun already.
    JobOverdue,
    /// A database file does not open, or has blocks that cannot be read.
    FileDamaged,
    /// A database file is not there.
    FileMissing,
    /// Another program has a database file open.
    FileInUse,
    /// A database file, or something beside it, cannot be read for another reason.
    FileUnreadable,
    /// DuckDB could not read something since the start.
    Suspect,
    /// A file says that it has come to another record than it should.
    WatermarkMismatch,
    /// A table has another number of rows than it should.
    RowCountMismatch,
    /// A WAL segment has lines that are not what was written.
    WalDamaged,
    /// There is no verified backup that is new enough.
    BackupMissing,
    /// A backup that is needed cannot be restored from.
    BackupDamaged,
    /// An exported file is not what was written.
    ExportDamaged,
}

impl ProblemKind {
    /// The kind's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::FlushFailing => "flush_failing",
            Self::JobFailed => "job_failed",
            Self::JobOverdue => "job_overdue",
            Self::FileDamaged => "file_damaged",
            Self::FileMissing => "file_missing",
            Self::FileInUse => "file_in_use",
            Self::FileUnreadable => "file_unreadable",
            Self::Suspect => "suspect",
            Self::WatermarkMismatch => "watermark_mismatch",
            Self::RowCountMismatch => "row_count_mismatch",
            Self::WalDamaged => "wal_damaged",
            Self::BackupMissing => "backup_missing",
            Self::BackupDamaged => "backup_damaged",
            Self::ExportDamaged => "export_damaged",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The date, where it is about one.
    pub date: Option<Date>,
    /// What kind of thing.
    pub kind: ProblemKind,
    /// What it is, and what to do.
    pub message: String,
}

/// What a look at a storage came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// What is wrong; nothing, where all is well.
    pub problems: Vec<Problem>,
    /// Torn ends that are kept beside the log. That a write was torn is no problem: none of it was answered.
    pub torn_count: u64,
    /// Database files that were looked at.
    pub files: u64,
    /// Their rows: counted, or read when the look was deep.
    pub rows: u64,
    /// WAL segments that are there.
    pub wal_segments: u64,
    /// Records in them, when the look was deep.
    pub wal_records: u64,
}

impl HealthReport {
    fn add(&mut self, date: Option<Date>, kind: ProblemKind, message: impl Into<String>) {
        let problem = Problem { date, kind, message: message.into() };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Something that is due is forgiven so much.
const OVERDUE: Duration = Duration::from_secs(60);

impl Storage {
    /// Looks whether everything is as it should be; `jobs` are what happens by itself in this storage.
    pub async fn check_health(self: &Arc<Self>, deep: bool, jobs: &[JobReport]) -> HealthReport {
        let mut report = HealthReport::default();
        if let Some(reason) = self.read_only_reason() {
            let message = format!("the storage takes no writes: {reason}; restart the daemon");
            report.add(None, ProblemKind::ReadOnly, message);
        }
        if let Err(astray) = self.look_at_directory() {
            report.add(None, ProblemKind::FileMissing, astray.to_string());
        }
        self.look_at_jobs(jobs, &mut report);
        if deep
            && self.config.backup
            && let Err(error) = self.verify_bytes().await
        {
            report.add(None, ProblemKind::FileUnreadable, format!("the backups: {error}"));
        }
        let storage = Arc::clone(self);
        let look = move || {
            storage.look_at_files(deep, &mut report);
            storage.look_at_backups(&mut report);
            storage.look_at_exports(deep, &mut report);
            report
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| {
            let mut report = HealthReport::default();
            report.add(
                None,
                ProblemKind::JobFailed,
                "the health check panicked; the daemon's log says where",
            );
            report
        })
    }

    fn look_at_jobs(&self, jobs: &[JobReport], report: &mut HealthReport) {
        if let Some(Err(error)) = self.stats().jobs.last(JobKind::Flush).map(|outcome| outcome.result) {
            let message = format!(
                "the last flush failed: {error}; nothing is lost, everything is in the log, and it is tried again"
            );
            report.add(None, ProblemKind::FlushFailing, message);
        }
        for job in jobs {
            let name = job.kind.as_str();
            if job.failures > 0 {
                let error = job.error.as_deref().unwrap_or("the daemon's log says why");
                let message =
                    format!("{name} failed {} times in a row: {error}; it is tried again", job.failures);
                report.add(None, ProblemKind::JobFailed, message);
            }
            if job.overdue > OVERDUE {
                let message = format!("{name} should have begun {} seconds ago", job.overdue.as_secs());
                report.add(None, ProblemKind::JobOverdue, message);
            }
        }
    }
}
