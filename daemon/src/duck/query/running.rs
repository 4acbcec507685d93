//! Queries that run now, and how they are ended from outside.
//!
//! DuckDB forgets an interrupt that comes before a statement begins, so whoever ends a query says why, once, and
//! [`nudges`](Running::nudge) until it is over.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use duckdb::InterruptHandle;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How often whoever waits for a query's end interrupts it.
const NUDGE_INTERVAL: Duration = Duration::from_millis(2);

/// Why a query was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cancelled {
    /// Its time is over.
    Timeout = 1,
    /// The daemon stops.
    Stopping = 2,
    /// Somebody opens a date and needs what it holds; it may begin again.
    Preempted = 3,
    /// A flush, or the process, needs the memory.
    Memory = 4,
    /// Whoever asked is gone.
    Unwanted = 5,
}

impl Cancelled {
    fn of(code: u8) -> Option<Self> {
        [Self::Timeout, Self::Stopping, Self::Preempted, Self::Memory, Self::Unwanted]
            .into_iter()
            .find(|why| *why as u8 == code)
    }
}

/// One query that runs.
pub struct Running {
    /// The storage that it reads.
    storage: String,
    /// The first reason, 0 while there is none.
    reason: AtomicU8,
    interrupt: Mutex<Option<Arc<InterruptHandle>>>,
    /// Told when there is a reason.
    ended: Notify,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("cancelled", &self.cancelled()).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(storage: &str) -> Self {
        Self {
            storage: storage.to_owned(),
            reason: AtomicU8::new(0),
            interrupt: Mutex::new(None),
            ended: Notify::new(),
        }
    }

    pub(super) fn begin(&self, interrupt: Arc<InterruptHandle>) {
        *self.interrupt.lock() = Some(interrupt);
    }

    pub(super) fn end(&self) {
        *self.interrupt.lock() = None;
    }

    /// Why it was ended, where it was.
    pub fn cancelled(&self) -> Option<Cancelled> {
        Cancelled::of(self.reason.load(Ordering::Acquire))
    }

    /// Ends it; the first reason stays.
    pub fn cancel(&self, why: Cancelled) {
        let _ = self.reason.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire);
        self.ended.notify_one();
        self.nudge();
    }

    /// Waits until somebody ends it. For the one task that prepares it: what that waits for may be what
    /// the other needs.
    pub async fn ended(&self) -> Cancelled {
        loop {
            if let Some(why) = self.cancelled() {
                return why;
            }
            self.ended.notified().await;
        }
    }

    /// Interrupts it again, where it was ended and still runs.
    pub fn nudge(&self) {
        if self.cancelled().is_some()
            && let Some(interrupt) = &*self.interrupt.lock()
        {
            interrupt.interrupt();
        }
    }
}

/// The queries that run now.
#[derive(Debug, Default)]
pub struct Runnings(Mutex<Vec<Weak<Running>>>);

impl Runnings {
    /// A query that is about to run.
    pub fn add(&self, storage: &str) -> Arc<Running> {
        let running = Arc::new(Running::new(storage));
        let mut all = self.0.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&running));
        running
    }

    fn all(&self) -> Vec<Arc<Running>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Ends those that read a storage, because what they hold is needed; they begin again.
    pub fn preempt(&self, storage: &str) {
        let all = self.all();
        all.iter().filter(|running| running.storage == storage).for_each(|r| r.cancel(Cancelled::Preempted));
    }

    /// Ends all of them and waits until none works in DuckDB any more, at most so long. Answers whether
    /// there were any.
    pub fn cancel_all(&self, why: Cancelled, patience: Duration) -> bool {
        let all: Vec<_> =
            self.all().into_iter().filter(|running| running.interrupt.lock().is_some()).collect();
        for running in &all {
            running.cancel(why);
        }
        let begun = Instant::now();
        let works = |running: &Arc<Running>| running.interrupt.lock().is_some();
        while all.iter().any(works) && begun.elapsed() < patience {
            std::thread::sleep(NUDGE_INTERVAL);
            for running in &all {
                running.nudge();
            }
        }
        !all.is_empty()
    }
}
