//! Fault instruments: the storages run a script on a disk that stops, fails or loses power, and after the restart
//! everything that was answered must be there.
//!
//! | instrument | what happens | short | long |
//! |---|---|---|---|
//! | [`kills`] | everything stops at the n-th operation of a fixed script | every 5th | all |
//! | [`errors`] | the n-th operation of a kind fails | 60 | 600 |
//! | [`power`] | the machine loses power | 500 | 50,000 |
//!
//! `FASTPERSIST_FAULTS=long` makes the long runs, `FASTPERSIST_SEED` one of them again; `tests/README.md` tells how. That the instruments find
//! anything at all is shown by [`planted`].
//!
//! They are tests of the daemon's own crate and not of the real program, because that is where the seam is: 50,000
//! power cuts in processes of their own would take a day. The bugs are planted in the same build, at run time.

mod answers;
pub(crate) mod chance;
mod disk;
mod errors;
mod fault;
mod found;
mod kills;
mod ledger;
mod life;
mod model;
mod planted;
mod power;
pub(crate) mod runs;
mod script;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::duck::plain::PlainReader;
use crate::duck::{Engine, EngineSettings};
use crate::planted::Bug;
use chance::Chance;
use disk::FaultyDisk;
use fault::{Crash, Fault, Kind, Planned, Who};
use ledger::Ledger;
use life::{Backups, Life};
use runs::{Tally, is_long, seeds};
use script::{Knobs, Step};

/// What all runs of a test share: starting DuckDB takes longer than a run.
struct Tools {
    engine: Arc<Engine>,
    plain: PlainReader,
    dir: tempfile::TempDir,
}

impl Tools {
    fn new() -> Self {
        // What is durable is for the model to say, so memory will do where it is a file system.
        let memory = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("a directory");
        let settings = EngineSettings {
            memory_limit_bytes: 256 << 20,
            threads: 1,
            temp_directory: dir.path().join("temporary"),
        };
        Self { engine: Engine::open(&settings).expect("DuckDB"), plain: PlainReader::new(), dir }
    }
}

/// A life and how it ends.
struct LifePlan {
    fault: Fault,
    crash: Crash,
    steps: Vec<Step>,
}

/// A run: some lives, and a last one on a sound disk in which everything is compared.
struct Plan {
    seed: u64,
    knobs: Knobs,
    lives: Vec<LifePlan>,
    bug: Option<Bug>,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    injected: u64,
    /// What does not agree with the answers; LOST or WRONG.
    problems: Vec<String>,
    /// The first life's operations.
    by_who: BTreeMap<Who, u64>,
    by_kind: BTreeMap<Kind, u64>,
    /// Both storages were backed up, and there was an export with files.
    kept: bool,
    /// Up to the last crash.
    last_operations: Vec<String>,
}

async fn run(tools: &Arc<Tools>, plan: Plan) -> Outcome {
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let outcome: Arc<Mutex<Outcome>> = Arc::default();
    let (of_task, of_run) = (Arc::clone(&outcome), Arc::clone(&ledger));
    let tools = Arc::clone(tools);
    let running = tokio::spawn(async move { live(&tools, plan, &of_run, &of_task).await });
    let ended = running.await;
    let mut outcome = std::mem::take(&mut *outcome.lock());
    outcome.problems.append(&mut ledger.lock().problems);
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => outcome.problems.push(format!("WRONG: {error}")),
        Err(error) => outcome.problems.push(format!("WRONG: {error}")),
    }
    outcome
}

async fn live(
    tools: &Tools,
    plan: Plan,
    ledger: &Arc<Mutex<Ledger>>,
    outcome: &Mutex<Outcome>,
) -> Result<(), String> {
    let dir = tempfile::tempdir_in(tools.dir.path()).map_err(|error| error.to_string())?;
    let root = |number: usize| dir.path().join(number.to_string());
    let mut chance = Chance::new(plan.seed);
    let (mut exported, mut backed_up) = (false, [Backups::new(), Backups::new()]);
    let count = plan.lives.len();
    let mut before = None;
    for (number, planned) in plan.lives.into_iter().enumerate() {
        let (here, image) = (root(number), root(number + 1));
        let LifePlan { fault, crash, steps } = planned;
        let of_disk = Planned { crash, chance: Chance::new(chance.next()), fault, bug: plan.bug };
        let make = || FaultyDisk::new(&here, &image, of_disk, before.as_ref());
        let (disk, begun) = Life::begin(&here, plan.knobs, &tools.engine, ledger, make).await;
        match begun {
            Ok(mut life) => {
                let observed = life.observe(&format!("in life {number}")).await;
                if disk.injected() == 0 {
                    observed?;
                }
                for step in steps {
                    life.perform(step).await;
                }
                // In half of the runs the end comes before a sync that would make up for anything.
                if matches!(fault, Fault::Fail { .. }) && disk.injected() > 0 && chance.percent(50) {
                    life.check_resumes(disk.of_log().may_be_closed).await;
                }
                disk.stop_now();
                exported = life.exported.unwrap_or(exported);
                for (all, one) in backed_up.iter_mut().zip(std::mem::take(&mut life.backed_up)) {
                    all.extend(one);
                }
                life.end();
            }
            Err(error) if disk.injected() == 0 => {
                return Err(format!("life {number} does not begin: {error}"));
            }
            Err(_) => disk.stop_now(),
        }
        let mut outcome = outcome.lock();
        outcome.injected += disk.injected();
        outcome.last_operations = disk.last_operations(25);
        outcome.kept = exported && backed_up.iter().all(|backups| !backups.is_empty());
        if number == 0 {
            (outcome.by_who, outcome.by_kind) = (disk.by_who(), disk.by_kind());
        }
        drop(outcome);
        ledger.lock().crashed(crash == Crash::Kill && !disk.of_log().may_lose_buffered);
        before = Some(disk);
    }
    last_life(tools, &root(count), plan.knobs, ledger, (exported, backed_up)).await
}

/// Comes up on a sound disk and compares everything: what is read, DuckDB's files, backups and exports.
async fn last_life(
    tools: &Tools,
    root: &Path,
    knobs: Knobs,
    ledger: &Arc<Mutex<Ledger>>,
    (exported, backed_up): (bool, [Backups; 2]),
) -> Result<(), String> {
    let image = root.with_file_name("unused");
    let planned = Planned { crash: Crash::Kill, chance: Chance::new(0), fault: Fault::None, bug: None };
    let make = || FaultyDisk::new(root, &image, planned, None);
    let (_, begun) = Life::begin(root, knobs, &tools.engine, ledger, make).await;
    let life = begun.map_err(|error| format!("it does not start: {error}"))?;
    life.observe("at the end").await?;
    life.check_resumes(false).await;
    life.check_backups(&backed_up).await;
    life.close().await.map_err(|error| format!("it does not close: {error}"))?;
    life.end();
    let places = ledger.lock().places();
    for place in places {
        let file = match place {
            Some(date) if knobs.elsewhere => root.join(format!("elsewhere/{date}/data.duckdb")),
            Some(date) => root.join(format!("jobs/{date}/data.duckdb")),
            None => root.join("settings/storage_latest.duckdb"),
        };
        let rows =
            |file: &Path, table| if file.exists() { tools.plain.rows(file, table) } else { Ok(Vec::new()) };
        if place.is_none() {
            ledger
                .lock()
                .check_history(&rows(&root.join("settings/storage_history.duckdb"), "storage_history")?);
        }
        let table = if place.is_some() { "storage" } else { "storage_latest" };
        ledger.lock().check_latest(place, &rows(&file, table)?);
    }
    check_parquet(&root.join("parquet"), exported)
}

/// Every Parquet file under a name that readers look for is whole.
fn check_parquet(root: &Path, must_be: bool) -> Result<(), String> {
    let mut found = Vec::new();
    find_parquet(root, &mut found);
    if must_be && found.is_empty() {
        return Err("an export that was answered is gone".to_owned());
    }
    for file in found {
        let whole = || -> Result<(), Box<dyn std::error::Error>> {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file)?)?.build()?;
            for batch in reader {
                batch?;
            }
            Ok(())
        };
        whole().map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn find_parquet(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_parquet(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
}

impl Tally {
    fn add(&mut self, run: &str, outcome: &Outcome) {
        let last = outcome.last_operations.join("\n    ");
        let behind = format!("operations before the crash:\n    {last}");
        self.count(run, outcome.injected, &outcome.problems, &behind);
    }
}
