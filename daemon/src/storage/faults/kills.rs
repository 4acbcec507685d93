//! Kills: everything stops at the n-th operation of a fixed script, or before or after one of DuckDB's commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::fault::{Crash, Fault, Who};
use super::script::{self, Knobs};
use super::{LifePlan, Outcome, Plan, Tally, Tools, is_long, run};
use crate::planted::Bug;

const KNOBS: Knobs = Knobs { max_wal_bytes: 65_536, wal_retain_days: 0, length: 8, elsewhere: false };

async fn with(tools: &Arc<Tools>, fault: Fault, bug: Option<Bug>) -> Outcome {
    let life = LifePlan { fault, crash: Crash::Kill, steps: script::fixed() };
    let lives = vec![life];
    run(tools, Plan { seed: 2, knobs: KNOBS, lives, bug }).await
}

/// How many operations the script has; nothing goes wrong meanwhile.
pub(super) async fn operations(tools: &Arc<Tools>, bug: Option<Bug>) -> (BTreeMap<Who, u64>, Outcome) {
    let mut outcome = with(tools, Fault::None, bug).await;
    (std::mem::take(&mut outcome.by_who), outcome)
}

/// The run that stops before the n-th operation.
pub(super) async fn kill(tools: &Arc<Tools>, who: Who, at: u64, bug: Option<Bug>) -> Outcome {
    with(tools, Fault::Stop { who, at }, bug).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_operation_loses_nothing_that_was_answered() {
    let tools = Arc::new(Tools::new());
    let begun = Instant::now();
    let mut tally = Tally::default();
    let (operations, sound) = operations(&tools, None).await;
    tally.add("without a kill", &sound);
    assert!(sound.kept, "the script makes no export, or not a backup of each storage");
    println!("{operations:?}, {:?} without a kill", begun.elapsed());
    let (mut runs, mut missed) = (0, 0);
    for who in Who::ALL {
        let count = operations.get(&who).copied().unwrap_or(0);
        assert!(count > 0, "the script has no operation of {who:?}");
        for at in (1..=count).step_by(if is_long() { 1 } else { 5 }) {
            let killed = kill(&tools, who, at, None).await;
            missed += u64::from(killed.injected == 0);
            runs += 1;
            tally.add(&format!("stopped at {who:?} {at}"), &killed);
        }
    }
    // Threads in the background are not equally fast in each run.
    assert!(missed <= 1 + runs / 20, "{missed} of {runs} runs came to their end without a kill");
    println!("{operations:?}, took {:?}", begun.elapsed());
    tally.end("kills");
}
