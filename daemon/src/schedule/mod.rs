//! What happens by itself: flushes, sealing, exports, backups, retention, health checks, closing idle dates.

use std::time::Duration;

use fastpersist_protocol::time::Timestamp;

use crate::stats::Outcome;

/// One kind of thing that happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKind {
    /// Memory into DuckDB.
    Flush,
    /// The active WAL segment is sealed by age, and old segments are removed.
    Seal,
    /// Parquet files.
    Export,
    /// Backups.
    Backup,
    /// Old backups are removed.
    Retention,
    /// Looking whether everything is as it should be.
    HealthCheck,
    /// Dates that nobody uses are closed.
    CloseIdle,
}

impl JobKind {
    /// Those that `stats` tells the next time of.
    pub const SHOWN: [Self; 5] =
        [Self::Flush, Self::Export, Self::Backup, Self::Retention, Self::HealthCheck];

    /// The job's name in `stats`, in metrics and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Seal => "seal",
            Self::Export => "export",
            Self::Backup => "backup",
            Self::Retention => "retention",
            Self::HealthCheck => "health_check",
            Self::CloseIdle => "close_idle",
        }
    }
}

/// One job of one storage, at one moment.
#[derive(Debug, Clone)]
pub struct JobReport {
    /// Which job.
    pub kind: JobKind,
    /// Whether it runs now.
    pub running: bool,
    /// How its last run ended.
    pub last: Option<Outcome>,
    /// When it runs next, by the wall clock; `None` while it only runs when asked for.
    pub next_at: Option<Timestamp>,
    /// How often it has failed since it last succeeded.
    pub failures: u32,
    /// For how long it should have begun already.
    pub overdue: Duration,
}
