//! Jobs on a clock that the test moves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::clock::simulated::SimulatedClock;

const MINUTE: Duration = Duration::from_secs(60);
const PAUSES: RetryPauses = RetryPauses { first: Duration::from_secs(10), longest: MINUTE };

/// Counts its runs; they fail, panic or take until they are let go, as a test asks for.
#[derive(Debug, Default)]
struct Counted {
    runs: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    fails: AtomicBool,
    panics: AtomicBool,
    gone: AtomicBool,
    blocked: AtomicBool,
    let_go: Notify,
    wanted: Mutex<Option<Duration>>,
    wake: Arc<Notify>,
    /// Another one did the same work, and it went well.
    still_fails: Option<Arc<AtomicBool>>,
}

struct Counting(Arc<Counted>);

impl Work for Counting {
    fn run(&self) -> Running<'_> {
        Box::pin(async {
            let counted = &self.0;
            if counted.gone.load(Ordering::SeqCst) {
                return None;
            }
            let at_once = counted.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            counted.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            *counted.wanted.lock() = None;
            if counted.blocked.load(Ordering::SeqCst) {
                counted.let_go.notified().await;
            }
            counted.at_once.fetch_sub(1, Ordering::SeqCst);
            let run = counted.runs.fetch_add(1, Ordering::SeqCst);
            assert!(!counted.panics.load(Ordering::SeqCst), "asked for");
            Some(if counted.fails.load(Ordering::SeqCst) {
                Err("asked for".to_owned())
            } else {
                Ok(run as u64)
            })
        })
    }

    fn wanted_in(&self) -> Option<Duration> {
        *self.0.wanted.lock()
    }

    fn still_fails(&self) -> Option<Arc<AtomicBool>> {
        self.0.still_fails.clone()
    }

    fn wake(&self) -> Option<Arc<Notify>> {
        Some(Arc::clone(&self.0.wake))
    }
}

struct Site {
    clock: Arc<SimulatedClock>,
    scheduler: Scheduler,
    board: Board,
}

impl Site {
    fn new() -> Self {
        let start = Timestamp::parse("2025-01-15T10:00:00Z").expect("a timestamp");
        let clock = Arc::new(SimulatedClock::new(start));
        let scheduler = Scheduler::new(Arc::clone(&clock) as Arc<dyn Clock>);
        Self { clock, scheduler, board: Board::default() }
    }

    fn start(&self, kind: JobKind, rule: Rule) -> Arc<Counted> {
        let counted = Arc::new(Counted::default());
        let job = Job { kind, rule, pauses: PAUSES, soon: None };
        self.scheduler.start(&self.board, job, Counting(Arc::clone(&counted)));
        counted
    }

    fn report(&self, kind: JobKind) -> JobReport {
        let reports = self.board.reports(self.scheduler.now());
        reports.into_iter().find(|report| report.kind == kind).expect("the job is on the board")
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn daily(at: &str) -> Rule {
    let at = vec![chrono::NaiveTime::parse_from_str(at, "%H:%M").expect("a time")];
    Rule::Daily { at, timezone: chrono_tz::UTC }
}

#[tokio::test]
async fn a_long_job_holds_up_no_other_and_never_runs_twice_at_once() {
    let site = Site::new();
    let long = site.start(JobKind::Backup, Rule::Every(MINUTE));
    let short = site.start(JobKind::Export, Rule::Every(MINUTE));
    long.blocked.store(true, Ordering::SeqCst);
    for round in 1..=5 {
        site.clock.advance(MINUTE);
        until("the short job runs", || short.runs.load(Ordering::SeqCst) == round).await;
        until("it waits again", || !site.report(JobKind::Export).running).await;
    }
    assert!(site.report(JobKind::Backup).running, "the long one still runs");
    assert_eq!(site.report(JobKind::Backup).overdue, Duration::ZERO, "what runs is not late");
    long.let_go.notify_one();
    until("the long job ends", || long.runs.load(Ordering::SeqCst) == 1).await;
    assert_eq!(long.most_at_once.load(Ordering::SeqCst), 1);
    long.blocked.store(false, Ordering::SeqCst);
    site.scheduler.stop().await;
}

#[tokio::test]
async fn failures_are_counted_and_retried_until_one_run_succeeds() {
    let site = Site::new();
    let job = site.start(JobKind::Backup, daily("11:00"));
    job.fails.store(true, Ordering::SeqCst);
    site.clock.advance(60 * MINUTE);
    until("the first failure", || site.report(JobKind::Backup).failures == 1).await;
    site.clock.advance(Duration::from_secs(10));
    until("the second failure", || site.report(JobKind::Backup).failures == 2).await;
    job.fails.store(false, Ordering::SeqCst);
    site.clock.advance(Duration::from_secs(20));
    until("success", || site.report(JobKind::Backup).failures == 0).await;
    assert_eq!(job.runs.load(Ordering::SeqCst), 3);
    until("it waits again", || !site.report(JobKind::Backup).running).await;
    let next_at = site.report(JobKind::Backup).next_at.expect("it is planned").to_string();
    assert_eq!(next_at, "2025-01-16T11:00:00.000000Z");
    site.scheduler.stop().await;
}

#[tokio::test]
async fn a_failure_counts_until_the_same_work_went_well_elsewhere() {
    let site = Site::new();
    let still_fails = Arc::new(AtomicBool::new(true));
    let job = Arc::new(Counted { still_fails: Some(Arc::clone(&still_fails)), ..Counted::default() });
    job.fails.store(true, Ordering::SeqCst);
    let flush = Job { kind: JobKind::Flush, rule: Rule::Every(MINUTE), pauses: PAUSES, soon: None };
    site.scheduler.start(&site.board, flush, Counting(Arc::clone(&job)));
    site.clock.advance(MINUTE);
    until("it fails", || site.report(JobKind::Flush).failures == 1).await;
    assert_eq!(site.report(JobKind::Flush).error.as_deref(), Some("asked for"));
    still_fails.store(false, Ordering::SeqCst);
    let report = site.report(JobKind::Flush);
    assert_eq!((report.failures, report.error), (0, None));
    site.scheduler.stop().await;
}

#[tokio::test]
async fn a_panic_is_a_failure_like_any_other() {
    let site = Site::new();
    let job = site.start(JobKind::HealthCheck, Rule::Every(MINUTE));
    job.panics.store(true, Ordering::SeqCst);
    site.clock.advance(MINUTE);
    until("the panic is counted", || site.report(JobKind::HealthCheck).failures == 1).await;
    job.panics.store(false, Ordering::SeqCst);
    site.clock.advance(PAUSES.first);
    until("it is tried again", || site.report(JobKind::HealthCheck).failures == 0).await;
    site.scheduler.stop().await;
}

#[tokio::test]
async fn what_is_wanted_runs_before_its_time_but_not_while_it_fails() {
    let site = Site::new();
    let job = site.start(JobKind::Flush, Rule::Every(60 * MINUTE));
    *job.wanted.lock() = Some(Duration::ZERO);
    job.wake.notify_one();
    until("it runs when it is wanted", || job.runs.load(Ordering::SeqCst) == 1).await;
    job.fails.store(true, Ordering::SeqCst);
    *job.wanted.lock() = Some(Duration::ZERO);
    job.wake.notify_one();
    until("it fails", || site.report(JobKind::Flush).failures == 1).await;
    *job.wanted.lock() = Some(Duration::ZERO);
    job.wake.notify_one();
    until("it waits", || !site.report(JobKind::Flush).running).await;
    tokio::task::yield_now().await;
    assert_eq!(job.runs.load(Ordering::SeqCst), 2, "the pause is not over");
    site.clock.advance(PAUSES.first);
    until("it runs when the pause is over", || job.runs.load(Ordering::SeqCst) == 3).await;
    site.scheduler.stop().await;
}

#[tokio::test]
async fn a_wall_clock_that_is_set_a_day_forward_or_back_is_noticed() {
    let day_micros = 86_400_000_000;
    let site = Site::new();
    let job = site.start(JobKind::Backup, daily("09:00"));
    until("it is planned", || site.report(JobKind::Backup).next_at.is_some()).await;
    site.clock.set_wall(day_micros);
    site.clock.advance(LOOK);
    until("what was jumped over is done once", || job.runs.load(Ordering::SeqCst) == 1).await;
    until("it waits again", || !site.report(JobKind::Backup).running).await;
    site.clock.set_wall(-2 * day_micros);
    site.clock.advance(LOOK);
    let tomorrow = "2025-01-15T09:00:00.000000Z";
    until("it is planned by the present clock", || {
        site.report(JobKind::Backup).next_at.is_some_and(|next| next.to_string() == tomorrow)
    })
    .await;
    assert_eq!(job.runs.load(Ordering::SeqCst), 1);
    site.scheduler.stop().await;
}

#[tokio::test]
async fn what_is_gone_leaves_the_board_and_a_stop_waits_for_what_runs() {
    let site = Site::new();
    let gone = site.start(JobKind::Seal, Rule::Every(MINUTE));
    let running = site.start(JobKind::Export, Rule::Every(MINUTE));
    gone.gone.store(true, Ordering::SeqCst);
    running.blocked.store(true, Ordering::SeqCst);
    site.clock.advance(MINUTE);
    let kinds = || site.board.reports(site.scheduler.now()).iter().map(|r| r.kind).collect::<Vec<_>>();
    until("the job that is gone leaves", || kinds() == [JobKind::Export]).await;
    until("the other one runs", || site.report(JobKind::Export).running).await;
    let stopped = async {
        site.scheduler.stop().await;
        running.runs.load(Ordering::SeqCst)
    };
    let let_go = async {
        tokio::task::yield_now().await;
        running.let_go.notify_one();
    };
    let (runs, ()) = tokio::join!(stopped, let_go);
    assert_eq!(runs, 1, "it came to its end");
    site.clock.advance(10 * MINUTE);
    tokio::task::yield_now().await;
    assert_eq!(running.runs.load(Ordering::SeqCst), 1, "nothing is begun any more");
}
