//! What a storage does by itself, beside what each of its partitions does.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Storage;
use crate::schedule::{Job, JobKind, JobReport, RetryPauses, Rule, Running, Work};

/// How often dates are looked at that nobody uses any more.
const IDLE_LOOK: Duration = Duration::from_secs(15);
/// How often old segments of closed dates, and old backups, are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
/// How a job that runs once a day is tried again.
const PAUSES: RetryPauses =
    RetryPauses { first: Duration::from_secs(10), longest: Duration::from_secs(3600) };

impl Storage {
    /// Starts what the storage does by itself. Must run inside the runtime.
    pub fn start_jobs(self: &Arc<Self>) {
        self.start(Duty::CloseIdle, Rule::Every(IDLE_LOOK));
        self.start(Duty::Retention, Rule::Every(RETENTION_INTERVAL));
        let config = self.config();
        if let (Some(at), Some(_)) = (config.export_at, &config.parquet_path) {
            self.start(Duty::Export, Rule::Daily { at: vec![at], timezone: config.timezone });
        }
    }

    /// How the jobs stand.
    pub fn jobs(&self) -> Vec<JobReport> {
        self.stats.jobs.reports(self.shared.scheduler.now())
    }

    fn start(self: &Arc<Self>, duty: Duty, rule: Rule) {
        let job = Job { kind: duty.kind(), rule, pauses: PAUSES, soon: None };
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

    async fn keep(&self, duty: Duty) -> Result<u64, String> {
        match duty {
            Duty::CloseIdle => {
                self.noted(JobKind::CloseIdle, |count| *count, async { Ok(self.close_idle().await) }).await
            }
            Duty::Retention => {
                let removed = self.noted(JobKind::Retention, |count| *count, self.remove_old_segments());
                removed.await.map_err(|error| error.to_string())
            }
            Duty::Export => {
                let root = self.parquet_root(None).map_err(|error| error.to_string())?;
                let exported = self.export_touched(root).await;
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
}

impl Duty {
    const fn kind(self) -> JobKind {
        match self {
            Self::CloseIdle => JobKind::CloseIdle,
            Self::Retention => JobKind::Retention,
            Self::Export => JobKind::Export,
        }
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
