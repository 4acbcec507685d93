//! What a storage does by itself, beside what each of its partitions does.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use chrono::NaiveTime;
use fastpersist_protocol::time::Timestamp;

use super::Storage;
use crate::backup::BackupError;
use crate::backup::manifest::Manifest;
use crate::schedule::{self, Job, JobKind, JobReport, RetryPauses, Rule, Running, Work};

/// How often dates are looked at that nobody uses any more.
const IDLE_LOOK: Duration = Duration::from_secs(15);
/// How often old segments of closed dates, and old backups, are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(600);
/// How soon what was missed while no daemon ran is made up for: clients that come back have their turn first.
const MISSED_PAUSE: Duration = Duration::from_secs(60);
/// How often, and after which pause, jobs are looked at again that seem to be late.
const LATE_LOOKS: usize = 40;
const LATE_PAUSE: Duration = Duration::from_millis(50);
/// How a job that runs once a day is tried again.
const PAUSES: RetryPauses =
    RetryPauses { first: Duration::from_secs(10), longest: Duration::from_secs(3600) };

impl Storage {
    /// Starts what the storage does by itself. Must run inside the runtime.
    pub fn start_jobs(self: &Arc<Self>) {
        self.start(Duty::CloseIdle, Rule::Every(IDLE_LOOK), None);
        self.start(Duty::Retention, Rule::Every(RETENTION_INTERVAL), None);
        let config = self.config();
        if let (Some(at), Some(_)) = (config.export_at, &config.parquet_path) {
            self.start(Duty::Export, Rule::Daily { at: vec![at], timezone: config.timezone }, None);
        }
        if let Some(at) = config.health_check_at {
            self.start(Duty::HealthCheck, Rule::Daily { at: vec![at], timezone: config.timezone }, None);
        }
        if config.backup {
            self.note_newest_backup();
            let now = self.shared.clock.now();
            // One from the future was taken while the clock was wrong, and says nothing about now.
            let newest = self.stats.verified_backup().map(|backup| backup.at).filter(|at| *at <= now);
            let missed = self.backup_rule().previous(now) > newest;
            self.start(Duty::Backup, self.backup_rule(), missed.then_some(MISSED_PAUSE));
        }
    }

    /// Looks at everything, every block included; answers how many files there are.
    async fn look_at_health(self: &Arc<Self>) -> Result<u64, String> {
        // What the last look found must not be what this one finds.
        let others = self.jobs_in_time().await.into_iter().filter(|job| job.kind != JobKind::HealthCheck);
        let report = self.check_health(true, &others.collect::<Vec<_>>()).await;
        if report.problems.is_empty() {
            return Ok(report.files);
        }
        let problems: Vec<_> = report.problems.iter().map(|problem| problem.message.as_str()).collect();
        Err(problems.join("; "))
    }

    /// Backups are taken at the turn of the day, and when the configuration says.
    fn backup_rule(&self) -> Rule {
        let at = std::iter::once(NaiveTime::MIN).chain(self.config.backup_at).collect();
        Rule::Daily { at, timezone: self.config.timezone }
    }

    /// Takes the backup that is due. One that is due because a day has ended is that day's.
    async fn back_up_what_is_due(&self) -> Result<u64, BackupError> {
        let now = self.shared.clock.now();
        let timezone = self.config.timezone;
        let due_at = self.backup_rule().previous(now).unwrap_or(now);
        let before = Timestamp::from_micros(due_at.as_micros() - 1).unwrap_or(due_at);
        let taken = self.backup_touched(Some(schedule::day_of(before, timezone))).await?;
        Ok(taken.iter().map(Manifest::rows).sum())
    }

    /// How the jobs stand.
    pub fn jobs(&self) -> Vec<JobReport> {
        self.stats.jobs.reports(self.shared.scheduler.now())
    }

    /// How the jobs stand, once those had their turn that became due all at once: after the process was stopped
    /// for a while every job is late, for a moment.
    pub async fn jobs_in_time(&self) -> Vec<JobReport> {
        let mut jobs = self.jobs();
        for _ in 0..LATE_LOOKS {
            if jobs.iter().all(|job| job.overdue.is_zero()) {
                break;
            }
            tokio::time::sleep(LATE_PAUSE).await;
            jobs = self.jobs();
        }
        jobs
    }

    fn start(self: &Arc<Self>, duty: Duty, rule: Rule, soon: Option<Duration>) {
        let job = Job { kind: duty.kind(), rule, pauses: PAUSES, soon };
        let work = Keeping { storage: Arc::downgrade(self), duty };
        self.shared.scheduler.start(&self.stats.jobs, job, work);
    }

    /// Does something that `stats` tells of, and notes how it ended: `count` says what it came to.
    pub(super) async fn noted<T, E: fmt::Display>(
        &self,
        kind: JobKind,
        count: impl FnOnce(&T) -> u64,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let result = work.await;
        let counted = result.as_ref().map(count).map_err(ToString::to_string);
        self.stats.jobs.note(kind, self.shared.clock.now(), begun.elapsed(), counted);
        result
    }

    async fn keep(self: &Arc<Self>, duty: Duty) -> Result<u64, String> {
        match duty {
            Duty::CloseIdle => {
                self.noted(JobKind::CloseIdle, |count| *count, async { Ok(self.close_idle().await) }).await
            }
            Duty::Retention => {
                let removed = self.noted(JobKind::Retention, |count| *count, self.remove_what_is_old());
                removed.await
            }
            Duty::HealthCheck => {
                let look = self.look_at_health();
                self.noted(JobKind::HealthCheck, |files| *files, look).await
            }
            Duty::Backup => self.back_up_what_is_due().await.map_err(|error| error.to_string()),
            Duty::Export => {
                let exported = self.export_touched().await;
                exported.map(|outcome| outcome.rows).map_err(|error| error.to_string())
            }
        }
    }
}

/// What a storage does by itself.
#[derive(Debug, Clone, Copy)]
enum Duty {
    CloseIdle,
    Retention,
    Export,
    Backup,
    HealthCheck,
}

impl Duty {
    const fn kind(self) -> JobKind {
        match self {
            Self::CloseIdle => JobKind::CloseIdle,
            Self::Retention => JobKind::Retention,
            Self::Export => JobKind::Export,
            Self::Backup => JobKind::Backup,
            Self::HealthCheck => JobKind::HealthCheck,
        }
    }
}

impl Storage {
    /// Removes backups and log segments that are past their retention; answers how many.
    async fn remove_what_is_old(&self) -> Result<u64, String> {
        let segments = self.remove_old_segments().await.map_err(|error| error.to_string())?;
        let backups = self.apply_retention().await.map_err(|error| error.to_string())?;
        Ok(segments + backups.backups.len() as u64)
    }
}

struct Keeping {
    storage: Weak<Storage>,
    duty: Duty,
}

impl Work for Keeping {
    fn run(&self) -> Running<'_> {
        Box::pin(async {
            let storage = self.storage.upgrade()?;
            let result = storage.keep(self.duty).await;
            if let Err(error) = &result {
                tracing::error!(storage = %storage.config.name, job = self.duty.kind().as_str(), error, "a job failed; it is tried again");
            }
            Some(result)
        })
    }
}
