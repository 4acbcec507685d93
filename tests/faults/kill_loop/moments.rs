//! When the daemon is killed, and whether the kill met what it was to meet.
//!
//! Invariant: a kill counts as one during recovery, backup or export only where that was observed: the socket was not there
//! yet, or the request was sent and its answer never came.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Daemon, Random, Site};

/// What the daemon does when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Moment {
    /// Whatever the writers make it do, and its own flushes, sealed and removed segments.
    Running,
    Recovery,
    Backup,
    Export,
}

/// How many kills met which moment.
#[derive(Default)]
pub(super) struct Kills([u64; 4]);

impl Kills {
    pub(super) fn add(&mut self, moment: Moment) {
        self.0[moment as usize] += 1;
    }

    fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The moment of the next kill: most often what has not had its share yet.
    pub(super) fn next(&self, random: &mut Random) -> Moment {
        let share = |moment: Moment, one_in: u64| self.0[moment as usize] * one_in <= self.all();
        match random.between(0, 3) {
            0 if share(Moment::Recovery, 10) => Moment::Recovery,
            1 if share(Moment::Backup, 20) => Moment::Backup,
            2 if share(Moment::Export, 20) => Moment::Export,
            _ => Moment::Running,
        }
    }

    /// Fails where a moment was hardly hit: then nothing was tested there.
    pub(super) fn assert_shares(&self) {
        let [_, recovery, backup, export] = self.0;
        let enough = recovery * 15 >= self.all() && backup.min(export) * 40 >= self.all();
        assert!(enough || self.all() < 50, "some moments were hardly hit: {self}");
    }
}

impl std::fmt::Display for Kills {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [running, recovery, backup, export] = self.0;
        write!(
            f,
            "{} kills: {running} while it served, {recovery} during recovery, {backup} during a backup, {export} during an export",
            self.all()
        )
    }
}

/// How long recovery, a backup and an export take, as far as one that is always killed lets it be known.
pub(super) struct Spans {
    recovery: Duration,
    backup: Duration,
    export: Duration,
}

impl Spans {
    pub(super) fn new() -> Self {
        let guess = Duration::from_millis(100);
        Self { recovery: guess, backup: guess, export: guess }
    }

    /// Starts the daemon, and learns how long that takes.
    pub(super) fn start(&mut self, site: &Site) -> Daemon {
        let begun = Instant::now();
        let daemon = site.start();
        self.recovery = (self.recovery * 3 + begun.elapsed()) / 4;
        daemon
    }

    /// Starts the daemon and kills it before it is there.
    pub(super) fn kill_recovering(&mut self, site: &Site, random: &mut Random) -> Moment {
        // The last one's would look like the next one's.
        let _ = fs::remove_file(site.socket());
        let daemon = site.spawn(site.command(), site.socket());
        sleep_within(5, self.recovery, random);
        daemon.kill();
        let served = fs::exists(site.socket()).expect("look for the socket");
        if served { Moment::Running } else { Moment::Recovery }
    }

    /// Asks for a backup or an export and kills the daemon meanwhile. Gives the answer where it was too late.
    pub(super) fn kill_keeping(
        &mut self,
        daemon: Daemon,
        moment: Moment,
        random: &mut Random,
    ) -> Option<Value> {
        let (request, span) = match moment {
            Moment::Backup => (json!({"op": "backup", "storage": "settings"}), &mut self.backup),
            _ => (json!({"op": "export_parquet", "storage": "jobs"}), &mut self.export),
        };
        let mut conn = daemon.connect();
        conn.send(request);
        let begun = Instant::now();
        sleep_within(0, *span, random);
        let waited = begun.elapsed();
        daemon.kill();
        let answer = conn.next().map(|text| serde_json::from_str(&text).expect("an answer in JSON"));
        // Until some come too late, nobody knows how long it takes.
        *span = if answer.is_some() { waited } else { (*span * 8 / 7).min(Duration::from_secs(2)) };
        answer
    }
}

/// Up to `span`: the random moment, so this wait waits for nothing.
fn sleep_within(least_ms: u64, span: Duration, random: &mut Random) {
    let most_us = (span.as_micros() as u64).max(least_ms * 1000 + 1);
    thread::sleep(Duration::from_micros(random.between(least_ms * 1000, most_us)));
}

/// Lets the writers write for 5 to 500 ms.
pub(super) fn let_run(random: &mut Random) {
    thread::sleep(Duration::from_millis(random.between(5, 500)));
}
