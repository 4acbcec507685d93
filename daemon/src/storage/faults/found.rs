//! What the instruments found once does not come back.

use std::sync::Arc;

use super::chance::Chance;
use super::disk::FaultyDisk;
use super::fault::{Crash, Fault, Planned, Who};
use super::script::{Knobs, Step};
use super::{LifePlan, Plan, Tools, run};
use crate::disk::{create_dir_durably, write_durably};

/// Cuts the power behind these steps, as often as it takes to see what may be lost.
async fn cut_behind(steps: &[Step]) {
    let tools = Arc::new(Tools::new());
    let knobs = Knobs { max_wal_bytes: 4096, wal_retain_days: 0, length: 1, elsewhere: true };
    for seed in 0..12 {
        let life = LifePlan { fault: Fault::None, crash: Crash::PowerCut, steps: steps.to_vec() };
        let outcome = run(&tools, Plan { seed, knobs, lives: vec![life], bug: None }).await;
        assert!(outcome.problems.is_empty(), "{:#?}", outcome.problems);
    }
}

fn some_writes() -> impl Iterator<Item = Step> {
    (1..8).map(Step::Write)
}

/// DuckDB does not sync the names of its files: a history was there with its records and the latest values were not, and
/// the daemon refused to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_new_database_files_none_is_lost() {
    cut_behind(&some_writes().chain([Step::Flush]).collect::<Vec<_>>()).await;
}

/// Nor does it sync that it has removed its own log after a checkpoint. Back after a power cut and behind a second
/// checkpoint, that log was replayed onto the file that had it already, and the file did not open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_duckdb_has_removed_does_not_come_back() {
    let round = || some_writes().chain([Step::Flush, Step::Tidy]);
    cut_behind(&round().chain(round()).chain(round()).collect::<Vec<_>>()).await;
}

/// Killed between the two, a process left a directory that was not durable. The next one found it there, and what it
/// made durable in it was gone with the directory after a power cut.
#[test]
fn a_directory_that_a_killed_process_has_made_is_made_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    for seed in 0..12 {
        let root = |life: u64| dir.path().join(format!("{seed}-{life}"));
        std::fs::create_dir(root(0)).expect("made");
        let chance = || Chance::new(seed);
        // What is above is synced, the directory is made, and not synced.
        let fault = Fault::Stop { who: Who::Main, at: 3 };
        let killed = Planned { crash: Crash::Kill, chance: chance(), fault, bug: None };
        let killed = FaultyDisk::new(&root(0), &root(1), killed, None);
        create_dir_durably(&killed, &root(0).join("day")).expect_err("it is killed");
        let cut = Planned { crash: Crash::PowerCut, chance: chance(), fault: Fault::None, bug: None };
        let cut = FaultyDisk::new(&root(1), &root(2), cut, Some(&killed));
        let day = root(1).join("day");
        create_dir_durably(&cut, &day).expect("it is there");
        write_durably(&cut, &day.join("file"), b"answered").expect("written");
        cut.stop_now();
        assert_eq!(std::fs::read(root(2).join("day/file")).expect("it is there"), b"answered");
    }
}
