//! Errors: the n-th operation of a kind fails, once or a few times. The process goes on as well as it can, takes
//! writes again by itself where its log did not fail, and in the end it is killed or the power is cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::chance::Chance;
use super::fault::{Crash, Fault, Kind};
use super::script::{self, Knobs, Step};
use super::{LifePlan, Outcome, Plan, Tally, Tools, run, seeds};
use crate::planted::Bug;

const SHORT: u64 = 60;
const LONG: u64 = 600;

/// EIO, ENOSPC, EMFILE, and a write of which half is done before the disk is full: a short write is told as the error
/// that the next one gets, for files are written to the end.
const ERRORS: [(i32, bool); 4] =
    [(libc::EIO, false), (libc::ENOSPC, false), (libc::EMFILE, false), (libc::ENOSPC, true)];

/// A script that does not do what is to fail is tried again with other chances, so often.
const TRIES: u64 = 10;

fn kind_of(seed: u64) -> Kind {
    Kind::ALL[(seed % Kind::ALL.len() as u64) as usize]
}

/// The run of a seed. `at` is the operation that fails; `None` lets none fail.
fn plan(seed: u64, again: u64, at: Option<u64>, bug: Option<Bug>) -> Plan {
    let mut chance = Chance::new(seed + (again << 32));
    let knobs = Knobs::by_chance(&mut chance);
    let kind = kind_of(seed);
    let (errno, half) = ERRORS[(seed / Kind::ALL.len() as u64 % ERRORS.len() as u64) as usize];
    let times = chance.one_of(&[1, 1, 3]);
    let fails = |at| Fault::Fail { kind, at, times, errno, half };
    let crash = chance.one_of(&[Crash::Kill, Crash::PowerCut]);
    let mut lives =
        vec![LifePlan { fault: at.map_or(Fault::None, fails), crash, steps: steps(kind, &mut chance) }];
    // The head of a segment is read at a start only.
    let reads_heads = kind == Kind::ReadHead;
    if chance.percent(30) || reads_heads {
        // While it starts on what the first life left.
        let fault = fails(1 + chance.below(if reads_heads { 2 } else { 8 }));
        lives.push(LifePlan { fault, crash, steps: script::by_chance(&mut chance, 4, true) });
    }
    Plan { seed, knobs, lives, bug }
}

/// What is done in the first life. Directories are removed by exports only, of names of which nothing is left.
fn steps(kind: Kind, chance: &mut Chance) -> Vec<Step> {
    let steps = script::by_chance(chance, 20, true);
    if kind != Kind::RemoveDir {
        return steps;
    }
    let with_exports = steps.chunks(2).flat_map(|some| some.iter().copied().chain([Step::Export]));
    with_exports.collect()
}

pub(super) async fn fail(tools: &Arc<Tools>, seed: u64, bug: Option<Bug>) -> Outcome {
    let mut again = 0;
    loop {
        let counted = run(tools, plan(seed, again, None, bug)).await;
        let count = counted.by_kind.get(&kind_of(seed)).copied().unwrap_or(0);
        let comes = count > 0 || kind_of(seed) == Kind::ReadHead;
        if comes || !counted.problems.is_empty() || again == TRIES {
            let at = 1 + Chance::new(!seed).below(count);
            return run(tools, plan(seed, again, Some(at), bug)).await;
        }
        again += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_any_operation_loses_nothing_that_was_answered() {
    let tools = Arc::new(Tools::new());
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut by_kind: BTreeMap<Kind, (u64, u64)> = BTreeMap::new();
    for seed in seeds(SHORT, LONG) {
        let outcome = fail(&tools, seed, None).await;
        let (runs, failed) = by_kind.entry(kind_of(seed)).or_default();
        *runs += 1;
        *failed += u64::from(outcome.injected > 0);
        tally.add(&format!("FASTPERSIST_SEED={seed}"), &outcome);
    }
    println!("failed in so many of so many runs: {by_kind:?}, took {:?}", begun.elapsed());
    // Of an operation in the background a run may have one less than was counted; one run alone says nothing.
    let rare = |(_, (runs, failed)): &(&Kind, &(u64, u64))| *runs >= 4 && failed * 2 < *runs;
    let rare: Vec<_> = by_kind.iter().filter(rare).collect();
    assert!(rare.is_empty(), "these seldom failed, so that little was tested: {rare:?}");
    tally.end("errors");
}
