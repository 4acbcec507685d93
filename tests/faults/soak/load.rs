//! What all clients of the soak share: where the daemon is, when to stop, and what they met.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use chrono::{Days, NaiveDate};
use serde_json::Value;

use crate::harness::Conn;

/// A new date begins after so long, and the one before it is left alone but for a few writes.
const DAY: Duration = Duration::from_secs(15);
/// How far back a query may look. Their number is reached within the warm-up of an hour.
const RECENT_DAYS: u64 = 60;
/// Writes to the collection in a second, of one writer: each stays in the history, and the disk has to hold an hour of them.
const ITEMS_PER_SECOND: u64 = 25;
/// What a writer writes to the collection as fast as it can, for each second of the run, before it keeps to that pace. Queries,
/// exports, backups and deep looks take memory by how much history there is, so most of it must be there when the warm-up
/// ends: what grows then is the daemon's and not its data's.
const ITEMS_BEFORE: u64 = 75;

/// What may befall a correct request: each is documented as worth another try.
const RETRYABLE: [&str; 4] = ["busy", "timeout", "locked", "shutting_down"];

pub(super) struct Load {
    socket: String,
    begun: Instant,
    length: Duration,
    /// Everybody but the writers stops first: who follows changes needs some to come.
    leaving: AtomicBool,
    stopped: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    pub(super) fn new(socket: &str, length: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            begun: Instant::now(),
            length,
            leaving: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            counts: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn connect(&self) -> Conn {
        Conn::connect(&self.socket)
    }

    /// How many dates there are by now.
    pub(super) fn days(&self) -> u64 {
        1 + self.elapsed().as_secs() / DAY.as_secs()
    }

    /// The first of the dates that a query may look at.
    pub(super) fn recent(&self) -> u64 {
        self.days().saturating_sub(RECENT_DAYS)
    }

    /// How many writes to the collection one writer should have sent by now.
    pub(super) fn items_due(&self) -> u64 {
        self.length.as_secs() * ITEMS_BEFORE + self.elapsed().as_secs() * ITEMS_PER_SECOND
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.leave();
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn goes_on(&self) -> bool {
        !self.leaving.load(Ordering::Relaxed)
    }

    /// A client's own pace: it waits for nothing, and not past the end.
    pub(super) fn pause(&self, span: Duration) {
        let end = Instant::now() + span;
        while self.goes_on() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    pub(super) fn count(&self, what: &'static str, by: u64) {
        *locked(&self.counts).entry(what).or_default() += by;
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        locked(&self.counts).clone()
    }

    pub(super) fn wrong(&self, what: String) {
        let mut wrong = locked(&self.wrong);
        // One fault is met by thousands of requests.
        if wrong.len() < 100 {
            wrong.push(what);
        }
    }

    pub(super) fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.wrong))
    }

    /// Whether a request went well. Refusals are counted where they are worth another try or in `also`, and else wrong.
    pub(super) fn judge(&self, asked: &str, answer: &Value, also: &[&str]) -> bool {
        if answer["ok"] == true {
            return true;
        }
        let code = answer["error"]["code"].as_str().unwrap_or("none");
        match RETRYABLE.iter().position(|known| *known == code) {
            Some(known) => self.count(RETRYABLE[known], 1),
            None if also.contains(&code) => self.count("refused", 1),
            None => self.wrong(format!("{:?} after the start, {asked} got {answer}", self.elapsed())),
        }
        false
    }
}

/// Ends the load when its thread panics, so that the others do not go on for an hour.
pub(super) struct StopsAll<'l>(pub(super) &'l Load);

impl Drop for StopsAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// The name of the n-th date.
pub(super) fn date(day: u64) -> String {
    let first = NaiveDate::from_ymd_opt(2025, 3, 1).expect("a date");
    (first + Days::new(day)).to_string()
}
