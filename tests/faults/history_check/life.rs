//! One run: eight clients ask, and meanwhile daemons live and end, one after the other.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::{
    call::{History, now},
    client::{self, Crowd},
    kept::{self, Kept},
};
use crate::harness::{Config, Daemon, Random, Site};

/// Who reads after everybody has gone: what is not as it should be then is lost.
pub(super) const LAST_READER: u64 = 1000;

/// What a run leaves.
pub(super) struct Life {
    pub(super) history: History,
    pub(super) kept: Kept,
    pub(super) kills: u64,
    pub(super) stops: u64,
    pub(super) flushes: u64,
}

/// Small segments and bounded memory, so that a read comes from DuckDB as often as from memory.
pub(super) fn config(random: &mut Random) -> Config {
    let cache = random.pick(&[0, 1, 1, 400]);
    let batch = random.pick(&[30, 200, 1_000_000]);
    let lines = format!(
        "cache_max_bytes = {cache}\nbatch_size = {batch}\nduckdb_flush_interval_seconds = 1\nmax_wal_size = 65536\nwal_retain_days = 0"
    );
    Config::new().dated("jobs", &lines).collection("settings", &lines)
}

pub(super) fn run(seed: u64) -> Life {
    let mut random = Random::seeded(seed);
    let site = Site::new(&config(&mut random));
    let mut daemon = site.start();
    let crowd = Crowd::start(&site, site.socket(), seed);
    let mut life = Life { history: History::default(), kept: Kept::new(), kills: 0, stops: 0, flushes: 0 };
    for _ in 0..random.between(2, 4) {
        life.work(&daemon, &mut random);
        life.end(daemon, &mut random);
        daemon = site.start();
    }
    life.work(&daemon, &mut random);
    life.history.calls = crowd.stop();
    life.read(&daemon, LAST_READER);
    daemon.stop();
    life.history.ends.push(now());
    let daemon = site.start();
    life.read(&daemon, LAST_READER + 1);
    life.kept = kept::read(&mut daemon.connect());
    life
}

impl Life {
    /// Lets the clients work, and brings what they wrote into DuckDB meanwhile.
    fn work(&mut self, daemon: &Daemon, random: &mut Random) {
        let mut conn = daemon.connect();
        // Either now and then, or one flush after the other: a read from DuckDB then meets its end.
        let pause = random.pick(&[0, 60]);
        let until = Instant::now() + Duration::from_millis(random.between(20, 150));
        while Instant::now() < until {
            // The random moment: this wait waits for nothing.
            thread::sleep(Duration::from_millis(random.between(0, pause)));
            let storage = random.pick(&["jobs", "settings"]);
            conn.ok(json!({"op": "flush", "storage": storage}));
            self.flushes += 1;
        }
    }

    /// Ends a daemon, and notes when it had ended.
    fn end(&mut self, daemon: Daemon, random: &mut Random) {
        match random.between(0, 9) {
            0 | 1 => {
                daemon.stop();
                self.stops += 1;
            }
            2 => {
                daemon.signal(Signal::TERM);
                thread::sleep(Duration::from_millis(random.between(0, 60)));
                daemon.kill();
                self.kills += 1;
            }
            3..=5 => {
                let mut conn = daemon.connect();
                conn.send(json!({"op": "flush"}));
                thread::sleep(Duration::from_millis(random.between(0, 30)));
                daemon.kill();
                self.kills += 1;
            }
            _ => {
                daemon.kill();
                self.kills += 1;
            }
        }
        self.history.ends.push(now());
    }

    fn read(&mut self, daemon: &Daemon, reader: u64) {
        self.history.calls.extend(client::read_all(&mut daemon.connect(), reader));
    }
}
