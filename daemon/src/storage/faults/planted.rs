//! That the instruments find something: each planted bug is found by those that `tests/README.md` names for it.

use std::sync::Arc;

use super::fault::Who;
use super::{Outcome, Tools, errors, kills, power};
use crate::planted::Bug;
use crate::wal::corruption::{Logs, Run};

/// The table of bugs and the instruments that catch them.
const README: &str = include_str!("../../../../tests/README.md");
/// So many runs of an instrument are made at most to find a bug. Most are found within ten; the rarest, which needs a
/// power cut between a flush and its checkpoint, was found in run 117 to 700 of all seeds.
const RUNS: u64 = 600;

/// The instruments that the table names for a bug.
fn instruments(bug: Bug) -> Vec<&'static str> {
    let start = format!("| `{}` |", bug.name());
    let row = README.lines().find(|line| line.starts_with(&start));
    let row = row.unwrap_or_else(|| panic!("tests/README.md has no row for {}", bug.name()));
    let last = row.trim_end_matches('|').rsplit('|').next().expect("a column");
    last.split(',').map(str::trim).collect()
}

/// The bugs that the table has.
fn rows() -> Vec<&'static str> {
    let table = README.split_once("### Planted bugs").expect("the table's heading").1;
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    rows.take_while(|line| line.starts_with('|')).map(|row| row.split('`').nth(1).expect("a name")).collect()
}

fn found(outcome: &Outcome) -> bool {
    !outcome.problems.is_empty()
}

/// The first run of an instrument that finds the bug, and what it finds. The same run must find nothing without the bug.
async fn find(tools: &Arc<Tools>, instrument: &str, bug: Bug) -> Option<(u64, Outcome)> {
    let sound = |sound: Outcome| {
        let problems = sound.problems;
        assert!(
            problems.is_empty(),
            "{instrument} finds something without {}, too: {problems:?}",
            bug.name()
        );
    };
    match instrument {
        "power" => {
            for seed in (0..).filter(|seed| power::fits(*seed, bug)).take(RUNS as usize) {
                let outcome = power::cut(tools, seed, Some(bug)).await;
                if found(&outcome) {
                    sound(power::cut(tools, seed, None).await);
                    return Some((seed, outcome));
                }
            }
        }
        "errors" => {
            for seed in 0..RUNS {
                let outcome = errors::fail(tools, seed, Some(bug)).await;
                if found(&outcome) {
                    sound(errors::fail(tools, seed, None).await);
                    return Some((seed, outcome));
                }
            }
        }
        "kills" => {
            let (operations, outcome) = kills::operations(tools, Some(bug)).await;
            if found(&outcome) {
                sound(kills::operations(tools, None).await.1);
                return Some((0, outcome));
            }
            for who in [Who::DuckDb, Who::Main] {
                let count = operations.get(&who).copied().unwrap_or(0);
                for at in (1..=count).step_by(7) {
                    let outcome = kills::kill(tools, who, at, Some(bug)).await;
                    if found(&outcome) {
                        sound(kills::kill(tools, who, at, None).await);
                        return Some((at, outcome));
                    }
                }
            }
        }
        "corruption" => {
            let logs = Logs::new();
            for seed in 0..RUNS {
                let Run { harm, problem } = logs.corrupt(seed, Some(bug));
                if problem.is_some() {
                    let problems = problem.into_iter().collect();
                    let again = logs.corrupt(seed, None).problem.into_iter().collect();
                    sound(Outcome { problems: again, ..Outcome::default() });
                    let outcome = Outcome { problems, last_operations: vec![harm], ..Outcome::default() };
                    return Some((seed, outcome));
                }
            }
        }
        other => panic!("tests/README.md names {other:?}, which is no instrument of these"),
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_bug_is_found_by_the_instruments_that_the_table_names() {
    let tools = Arc::new(Tools::new());
    let mut missed = Vec::new();
    assert_eq!(rows(), Bug::ALL.map(Bug::name), "tests/README.md has other bugs than there are");
    for bug in Bug::ALL {
        for instrument in instruments(bug) {
            match find(&tools, instrument, bug).await {
                Some((run, outcome)) => {
                    println!("{}: found by {instrument} in run {run}: {}", bug.name(), outcome.problems[0]);
                }
                None => missed.push(format!("{} by {instrument}", bug.name())),
            }
        }
    }
    assert!(missed.is_empty(), "not found: {}", missed.join(", "));
}
