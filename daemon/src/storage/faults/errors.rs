//! Errors: the n-th operation of a kind fails, once or a few times. The process goes on as well as it can, takes
//! writes again by itself where its log did not fail, and in the end it is killed or the power is cut.

use std::sync::Arc;
use std::time::Instant;

use super::chance::Chance;
use super::fault::{Crash, Fault, Kind};
use super::script::{self, Knobs};
use super::{LifePlan, Outcome, Plan, Tally, Tools, run, seeds};
use crate::planted::Bug;

const SHORT: u64 = 60;
const LONG: u64 = 600;

/// EIO, ENOSPC, EMFILE, and a write of which half is done before the disk is full.
const ERRORS: [(i32, bool); 4] =
    [(libc::EIO, false), (libc::ENOSPC, false), (libc::EMFILE, false), (libc::ENOSPC, true)];

/// The run of a seed. `at` is the operation that fails; `None` lets none fail.
fn plan(seed: u64, at: Option<u64>, bug: Option<Bug>) -> Plan {
    let mut chance = Chance::new(seed);
    let knobs = Knobs::by_chance(&mut chance);
    let kind = Kind::ALL[(seed % Kind::ALL.len() as u64) as usize];
    let (errno, half) = ERRORS[(seed / Kind::ALL.len() as u64 % ERRORS.len() as u64) as usize];
    let times = chance.one_of(&[1, 1, 3]);
    let fails = |at| Fault::Fail { kind, at, times, errno, half };
    let crash = chance.one_of(&[Crash::Kill, Crash::PowerCut]);
    let mut lives = vec![LifePlan {
        fault: at.map_or(Fault::None, fails),
        crash,
        steps: script::by_chance(&mut chance, 20, true),
    }];
    if chance.percent(30) {
        // While it starts on what the first life left.
        let fault = fails(1 + chance.below(8));
        lives.push(LifePlan { fault, crash, steps: script::by_chance(&mut chance, 4, true) });
    }
    Plan { seed, knobs, lives, bug }
}

pub(super) async fn fail(tools: &Arc<Tools>, seed: u64, bug: Option<Bug>) -> Outcome {
    let counted = run(tools, plan(seed, None, bug)).await;
    let kind = Kind::ALL[(seed % Kind::ALL.len() as u64) as usize];
    let count = counted.by_kind.get(&kind).copied().unwrap_or(0);
    run(tools, plan(seed, Some(1 + Chance::new(!seed).below(count)), bug)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_any_operation_loses_nothing_that_was_answered() {
    let tools = Arc::new(Tools::new());
    let begun = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds(SHORT, LONG) {
        tally.add(&format!("FASTPERSIST_SEED={seed}"), &fail(&tools, seed, None).await);
    }
    println!("took {:?}", begun.elapsed());
    tally.end("errors");
}
