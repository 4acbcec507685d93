//! Fault instrument `corruption`: one thing is wrong with the files of a log, and recovery must tell what.
//!
//! Logs of some segments ([`log`]) are cut at every byte, flipped at every byte, lose sectors, and have lines and segments
//! dropped, repeated and swapped ([`harm`]). What must come of it is worked out from what was written and what was done
//! ([`verdict`]), and compared with what comes ([`check`]): never a wrong record, never one twice or out of order, never a
//! panic; what is torn is cut off and kept, what is damaged is told with its place and left as it is.
//!
//! Invariant: a number is always the same harm on the same log. The first numbers are spread over all of them; the long
//! run does each.

mod check;
mod harm;
mod log;
mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::planted::Bug;
use crate::storage::faults::chance::Chance;
use crate::storage::faults::runs::{Tally, seeds};
use crate::storage::schema::Model;
use check::Case;
use harm::Harm;
use log::Log;

const SHORT: u64 = 5_000;
const LONG: u64 = 150_000;
/// So many logs,
const LOGS: u64 = 20;
/// and so many things are done to each.
const HARMS: u64 = LONG / LOGS;
/// Shares no factor with [`HARMS`], so that going on by so many comes by each.
const STRIDE: u64 = 2_741;

/// The logs, written when they are first needed, and room for harmed copies of them.
pub(crate) struct Logs {
    logs: Mutex<BTreeMap<u64, Arc<Log>>>,
    dir: tempfile::TempDir,
}

/// What was done in a run, and what is wrong with what came of it.
pub(crate) struct Run {
    pub(crate) harm: String,
    pub(crate) problem: Option<String>,
}

/// A harmed log on the disk, for whoever else must cope with it.
pub(crate) struct Harmed {
    pub(crate) harm: String,
    pub(crate) model: Model,
    pub(crate) directories: Vec<PathBuf>,
    /// What the database has.
    pub(crate) flushed_seq: u64,
    /// What was removed before it.
    pub(crate) removed_seq: u64,
    /// What was answered.
    pub(crate) durable_seq: u64,
    pub(crate) lines: Vec<Written>,
    /// Holds the files.
    pub(crate) root: tempfile::TempDir,
}

/// A line as it was written.
pub(crate) struct Written {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) is_gap: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Logs {
    pub(crate) fn new() -> Self {
        // Nothing here rests on the disk.
        let memory = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("a directory");
        Self { logs: Mutex::default(), dir }
    }

    fn log(&self, number: u64) -> Arc<Log> {
        let mut logs = self.logs.lock();
        let log = logs.entry(number).or_insert_with(|| {
            let dir = tempfile::tempdir_in(self.dir.path()).expect("a directory");
            Arc::new(Log::write(number, dir.path()))
        });
        Arc::clone(log)
    }

    /// What is done in the run of a seed, and to which log.
    fn harm(&self, seed: u64, chance: &mut Chance) -> (Arc<Log>, Harm) {
        // Beyond the long run there are other logs.
        let log = self.log(seed % LOGS + seed / LONG * LOGS);
        let number = seed / LOGS % HARMS * STRIDE % HARMS;
        let harm = Harm::nth(&log, number as usize, chance);
        (log, harm)
    }

    /// The files of a seed's run.
    pub(crate) fn harmed(&self, seed: u64) -> Harmed {
        let mut chance = Chance::new(seed);
        let (log, harm) = self.harm(seed, &mut chance);
        let (log, expected, files) = (&*log, verdict::of(&log, &harm), harm.files(&log));
        let root = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        let case = Case { log, harm: &harm, expected: &expected, root: root.path(), bug: None, files };
        case.lay_out(&mut chance);
        let lines = log.lines.iter().map(|line| Written {
            first_seq: line.first_seq,
            last_seq: line.last_seq,
            durable_seq: line.durable_seq,
            is_gap: line.gap.is_some(),
            bytes: line.bytes.clone(),
        });
        let durable_seq = log.synced.checked_sub(1).map_or(0, |last| log.lines[last].last_seq);
        Harmed {
            harm: format!("{harm:?}, expected: {expected:?}"),
            model: log.model,
            directories: case.directories(),
            flushed_seq: log.flushed_seq,
            removed_seq: log.removed_seq,
            durable_seq,
            lines: lines.collect(),
            root,
        }
    }

    /// The run of a seed.
    pub(crate) fn corrupt(&self, seed: u64, bug: Option<Bug>) -> Run {
        let mut chance = Chance::new(seed);
        let (log, harm) = self.harm(seed, &mut chance);
        let log = &*log;
        let expected = verdict::of(log, &harm);
        let dir = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        let files = harm.files(log);
        let case = Case { log, harm: &harm, expected: &expected, root: dir.path(), bug, files };
        let problem = case.check(&mut chance).err();
        Run { harm: format!("{harm:?}, expected: {expected:?}"), problem }
    }
}

#[test]
fn of_a_log_with_one_fault_nothing_wrong_comes_and_the_fault_is_told() {
    let (logs, begun, mut tally) = (Logs::new(), Instant::now(), Tally::default());
    for seed in seeds(SHORT, LONG) {
        let Run { harm, problem } = logs.corrupt(seed, None);
        tally.count(&format!("FASTPERSIST_SEED={seed}"), 1, problem.as_slice(), &harm);
    }
    println!("took {:?}", begun.elapsed());
    tally.end("corruption");
}

/// As all planted bugs it is asked for by `storage::faults::planted`; here, too, for whoever builds the log alone.
#[test]
fn a_log_that_is_read_without_its_checksums_is_found_out() {
    let logs = Logs::new();
    let found = (0..100).find(|seed| logs.corrupt(*seed, Some(Bug::NoChecksumTest)).problem.is_some());
    assert!(found.is_some(), "nothing is found");
}
