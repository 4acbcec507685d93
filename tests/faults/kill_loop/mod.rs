//! The kill loop: four processes write, the daemon is killed at random moments and started again, and a checker that
//! knows every answer finds each answered write exactly once, in order, in memory, in DuckDB and in history.
//!
//! 50 rounds, or as many as `FASTPERSIST_KILL_ROUNDS` says.

mod checker;
mod steps;
pub(crate) mod writer;

use std::{thread, time::Duration};

use crate::harness::{Config, Random, Site};

const WRITERS: u64 = 4;

/// Flushes, sealed segments and deleted ones all the time: a kill meets each of them.
fn config() -> Config {
    let lines =
        "batch_size = 150\nduckdb_flush_interval_seconds = 1\nmax_wal_size = 65536\nwal_retain_days = 0";
    Config::new().dated("jobs", lines).collection("settings", lines)
}

#[test]
fn no_answered_write_is_lost_or_doubled_by_kills() {
    let rounds = std::env::var("FASTPERSIST_KILL_ROUNDS")
        .map_or(50, |rounds| rounds.parse().expect("a number of rounds"));
    let mut random = Random::new();
    let site = Site::new(&config());
    let mut daemon = site.start();
    let writers: Vec<_> = (0..WRITERS).map(|number| writer::Writer::start(&site, number)).collect();
    let mut checker = checker::Checker::new(writers.iter().map(writer::Writer::log));
    for round in 0..rounds {
        // The random moment: this wait waits for nothing.
        thread::sleep(Duration::from_millis(random.between(2, 150)));
        daemon.kill();
        daemon = site.start();
        checker.check_new(&mut daemon.connect(), &mut random, round);
    }
    for writer in writers {
        writer.stop();
    }
    checker.check_all(&mut daemon.connect());
    daemon.stop();
    checker.check_files(&site);
    let daemon = site.start();
    checker.check_sample(&mut daemon.connect(), &mut random, 300);
    checker.report(rounds);
}
