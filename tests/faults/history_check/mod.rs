//! History check: eight clients contend for a few records in both models, with stores, deletions, conditions, batches
//! and reads, while daemons are killed, stopped and flushed; every call is recorded with its times, and there must be
//! an order of all calls, one at a time, that explains every answer and agrees with the clock.

mod call;
mod chance;
mod check;
pub(crate) mod client;
mod kept;
mod lies;
mod life;
mod linear;
mod meaning;
mod order;
mod planted;
mod record;
mod requests;
mod space;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use self::call::{Call, History};
use crate::{harness::joined, runs, runs::Tally};

#[test]
fn every_history_is_linearizable() {
    let mut tally = Tally::new("history_check");
    let (mut calls, mut unanswered, mut stops, mut flushes) = (0, 0, 0, 0);
    let mut checking = Duration::ZERO;
    for seed in seeds() {
        let life = life::run(seed);
        let begun = Instant::now();
        let found = check::findings(&life.history);
        let verdict = kept::verdict(&life.history, &life.kept);
        checking += begun.elapsed();
        tally.runs += 1;
        tally.injected += life.kills;
        (stops, flushes) = (stops + life.stops, flushes + life.flushes);
        calls += life.history.calls.len();
        unanswered += life.history.calls.iter().filter(|call| call.answered.is_none()).count();
        let begun_with = tally.lost.len() + tally.wrong.len();
        for finding in found {
            let text = format!("seed {seed}: {}", finding.tell(&life.history));
            let is_last = life.history.calls[finding.calls[0]].client >= life::LAST_READER;
            if is_last { &mut tally.lost } else { &mut tally.wrong }.push(text);
        }
        tally.lost.extend(verdict.lost.iter().map(|text| format!("seed {seed}: {text}")));
        tally.wrong.extend(verdict.wrong.iter().map(|text| format!("seed {seed}: {text}")));
        if tally.lost.len() + tally.wrong.len() > begun_with {
            // A seed repeats the choices and not the moments, so the history is what there is to understand it by.
            eprintln!(
                "seed {seed}: something was found; the history is in {}",
                keep(seed, &life.history).display()
            );
        }
    }
    println!(
        "history_check: {calls} operations, {unanswered} of them unanswered; {stops} stops and {flushes} flushes besides; \
         checking took {checking:.1?}"
    );
    tally.end();
}

/// Writes a history where it outlives the test.
fn keep(seed: u64, history: &History) -> PathBuf {
    let path = std::env::temp_dir().join(format!("history_check-{}-{seed}.jsonl", std::process::id()));
    let (lines, _) = joined(history.calls.iter().map(Call::to_line));
    fs::write(&path, lines).expect("write the history");
    path
}

/// The seeds of the run; `FASTPERSIST_SEED` asks for one alone.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var("FASTPERSIST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..runs::count(20, 500),
    }
}
