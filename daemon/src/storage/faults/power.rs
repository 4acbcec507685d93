//! Power cuts: at any operation, or between two, also while a start mends what the last cut left.

use std::sync::Arc;
use std::time::Instant;

use super::chance::Chance;
use super::fault::{Crash, Fault, Who};
use super::script::{self, Knobs, Step};
use super::{LifePlan, Outcome, Plan, Tally, Tools, run, seeds};
use crate::planted::Bug;

const SHORT: u64 = 500;
const LONG: u64 = 50_000;

/// The run of a seed: one to three lives, each ended by a power cut.
pub(super) fn plan(seed: u64, bug: Option<Bug>) -> Plan {
    let mut chance = Chance::new(seed);
    let with_duckdb = chance.percent(25);
    let knobs = Knobs::by_chance(&mut chance);
    let count = 1 + chance.below(3);
    let lives = (0..count).map(|number| {
        let writes = 1 + chance.below(if number == 0 { 25 } else { 8 });
        let fault = match chance.below(10) {
            // At rest.
            0..=2 => Fault::None,
            // While it starts.
            3 if number > 0 => Fault::Stop { who: Who::Main, at: 1 + chance.below(12) },
            4 if with_duckdb => Fault::Stop { who: Who::DuckDb, at: 1 + chance.below(16) },
            5 => Fault::Stop { who: Who::Preparing, at: 1 + chance.below(8) },
            6 => Fault::Stop { who: Who::Trimming, at: 1 + chance.below(4) },
            _ => Fault::Stop { who: Who::Main, at: 1 + chance.below(writes * 4) },
        };
        // What a kill leaves in the kernel's memory may be lost by a power cut later.
        let is_kill = number + 1 < count && chance.percent(30);
        let crash = if is_kill { Crash::Kill } else { Crash::PowerCut };
        // As the daemon does when a start has found something in the log.
        let flush = (with_duckdb && number > 0 && chance.percent(50)).then_some(Step::Flush);
        let steps = script::by_chance(&mut chance, writes, with_duckdb);
        LifePlan { fault, crash, steps: flush.into_iter().chain(steps).collect() }
    });
    let lives = lives.collect();
    Plan { seed, knobs, lives, bug }
}

/// Whether a run has what a bug needs to show at all.
pub(super) fn fits(seed: u64, bug: Bug) -> bool {
    let Plan { knobs, lives, .. } = plan(seed, None);
    let flushes = lives.iter().any(|life| life.steps.iter().any(|step| matches!(step, Step::Flush)));
    match bug {
        // The name of DuckDB's log is durable when that of anything beside it is.
        Bug::SegmentBeforeCheckpoint => knobs.elsewhere && knobs.wal_retain_days == 0 && flushes,
        Bug::FlushedSeqApart => flushes,
        _ => true,
    }
}

pub(super) async fn cut(tools: &Arc<Tools>, seed: u64, bug: Option<Bug>) -> Outcome {
    let plan = plan(seed, bug);
    // A cut at rest is one, too.
    let at_rest = plan.lives.iter().filter(|life| matches!(life.fault, Fault::None)).count() as u64;
    let mut outcome = run(tools, plan).await;
    outcome.injected += at_rest;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_answered() {
    let tools = Arc::new(Tools::new());
    let begun = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(SHORT, LONG) {
        tally.add(&format!("FASTPERSIST_SEED={seed}"), &cut(&tools, seed, None).await);
    }
    println!("took {:?}", begun.elapsed());
    tally.end("power cuts");
}
