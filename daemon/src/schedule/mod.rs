//! What happens by itself: flushes, sealing, exports, backups, retention, health checks, closing idle dates.
//!
//! Each job is one task that waits, runs, and waits again. So it never runs twice at once, and none is late
//! because another one takes long. When it is due is in [`timetable`], how it is doing in [`board`]; what it does
//! is with the storage and the partition that it belongs to.
//!
//! Invariant: a job that fails is tried again with growing pauses until it succeeds, and nothing is begun any
//! more once the scheduler is told to stop.

mod board;
mod timetable;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fastpersist_protocol::time::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

pub use board::Board;
pub use timetable::{Moment, RetryPauses, Rule, day_of};

use crate::clock::Clock;
use crate::stats::Outcome;
use board::Entry;
use timetable::Timetable;

/// The wall clock may be set while a job waits: it looks again after so long.
const LOOK: Duration = Duration::from_secs(30);

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
    /// Old backups, and old segments of closed dates, are removed.
    Retention,
    /// Looking whether everything is as it should be.
    HealthCheck,
    /// Dates that nobody uses are closed.
    CloseIdle,
}

impl JobKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Flush,
        Self::Seal,
        Self::Export,
        Self::Backup,
        Self::Retention,
        Self::HealthCheck,
        Self::CloseIdle,
    ];
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

/// The jobs of one kind of one storage, at one moment.
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
    /// What the newest of those failures was.
    pub error: Option<String>,
    /// For how long it should have begun already.
    pub overdue: Duration,
}

/// What one run came to: a count that says something, or what went wrong. `None` when what the job works on
/// is gone, and the job with it.
pub type Ran = Option<Result<u64, String>>;
/// A run under way.
pub type Running<'a> = Pin<Box<dyn Future<Output = Ran> + Send + 'a>>;

/// What a job does.
pub trait Work: Send + Sync + 'static {
    /// Runs once. A failure is logged here, where it is known what failed.
    fn run(&self) -> Running<'_>;

    /// How soon it wants to run, whatever its rule says; `None` when it does not.
    fn wanted_in(&self) -> Option<Duration> {
        None
    }

    /// Where others do the same work: whether it failed the last time that anybody did it. A failure of the
    /// job counts only as long as that is so.
    fn still_fails(&self) -> Option<Arc<AtomicBool>> {
        None
    }

    /// Told when [`wanted_in`](Self::wanted_in) may have changed.
    fn wake(&self) -> Option<Arc<Notify>> {
        None
    }
}

/// A job to be started.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which kind.
    pub kind: JobKind,
    /// When it runs.
    pub rule: Rule,
    /// How it is tried again.
    pub pauses: RetryPauses,
    /// Its first run is due after so long, whatever the rule says: for what was missed while no daemon ran.
    pub soon: Option<Duration>,
}

/// Starts jobs and stops them.
pub struct Scheduler {
    clock: Arc<dyn Clock>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("jobs", &self.tasks.lock().len()).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A scheduler without jobs.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, stop: watch::Sender::new(false), tasks: Mutex::default() }
    }

    /// Starts a job, which is from now on on the board. Must run inside the runtime.
    pub fn start(&self, board: &Board, job: Job, work: impl Work) {
        let entry = board.enter(job.kind, work.still_fails());
        let clock = Arc::clone(&self.clock);
        let timetable = Timetable::new(job.rule, job.pauses, moment(&*clock), job.soon);
        let driver = Driver { entry, clock, timetable, stopping: self.stop.subscribe(), kind: job.kind };
        let mut tasks = self.tasks.lock();
        // Those of dates that were closed have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(driver.drive(Arc::new(work)));
    }

    /// Both clocks now.
    pub fn now(&self) -> Moment {
        moment(&*self.clock)
    }

    /// Begins nothing any more, and waits for what runs.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

/// Both clocks at this moment.
pub fn moment(clock: &dyn Clock) -> Moment {
    Moment { wall: clock.now(), elapsed: clock.elapsed() }
}

/// One job's task.
struct Driver {
    entry: Arc<Entry>,
    clock: Arc<dyn Clock>,
    timetable: Timetable,
    stopping: watch::Receiver<bool>,
    kind: JobKind,
}

impl Driver {
    async fn drive(mut self, work: Arc<impl Work>) {
        let wake = work.wake();
        while !*self.stopping.borrow() {
            let now = moment(&*self.clock);
            let mut wait = self.timetable.wait(now);
            // While it fails it is tried when the pause is over, and not when it is wanted.
            if let Some(soon) = work.wanted_in().filter(|_| self.timetable.failures() == 0) {
                wait = wait.min(soon);
            }
            self.entry.set_due(now.elapsed + wait);
            if !wait.is_zero() {
                self.wait(now.elapsed + wait.min(LOOK), wake.as_deref()).await;
                continue;
            }
            self.entry.set_running(true);
            let Some(result) = self.run(&work).await else { return };
            self.timetable.ended(moment(&*self.clock), result.is_ok());
            self.entry.set_failures(self.timetable.failures(), result.err());
            // What is due next is known before it stops running: who looks meanwhile sees no job that is late.
            let now = moment(&*self.clock);
            self.entry.set_due(now.elapsed + self.timetable.wait(now));
            self.entry.set_running(false);
        }
    }

    /// Runs once, on a task of its own, so that a panic is a failure like any other.
    async fn run(&self, work: &Arc<impl Work>) -> Ran {
        let work = Arc::clone(work);
        let running = tokio::spawn(async move { work.run().await });
        running.await.unwrap_or_else(|error| {
            tracing::error!(job = self.kind.as_str(), %error, "a job panicked; it is tried again");
            Some(Err("it panicked".to_owned()))
        })
    }

    async fn wait(&mut self, until: Duration, wake: Option<&Notify>) {
        let woken = async {
            match wake {
                Some(wake) => wake.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.clock.sleep_until(until) => {}
            () = woken => {}
            // The sender lives as long as the scheduler; without it there is nothing left to run for.
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
        }
    }
}

#[cfg(test)]
mod tests;
