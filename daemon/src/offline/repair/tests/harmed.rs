//! Fault instrument `repaired`: the repair is let loose on the harmed logs of the instrument `corruption`.
//!
//! What the start refuses, the repair must find, and after it the start must succeed. No record is called lost that
//! stands anywhere, and every line that stood anywhere stands there afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Survey, instant, start_when};
use crate::disk::RealDisk;
use crate::offline::repair::mending::Mending;
use crate::storage::faults::runs::{Tally, seeds};
use crate::wal::corruption::{Harmed, Logs, Written};
use crate::wal::entry::Entry;
use crate::wal::segment;

const SHORT: u64 = 2_000;
const LONG: u64 = 150_000;

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Checked = Result<(), String>;

fn files(directories: &[PathBuf]) -> Files {
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).expect("listed"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
}

fn is_segment(path: &Path) -> bool {
    path.file_name().is_some_and(|name| segment::number_of(&name.to_string_lossy()).is_some())
}

fn put_back(files: &Files, directories: &[PathBuf]) {
    for path in self::files(directories).into_keys() {
        fs::remove_file(path).expect("removed");
    }
    for (path, bytes) in files {
        fs::write(path, bytes).expect("written");
    }
}

/// Whether a line stands in one of the segments.
fn stands(line: &Written, files: &Files) -> bool {
    let mut segments = files.iter().filter(|(path, _)| is_segment(path));
    segments.any(|(_, bytes)| memchr::memmem::find(bytes, &line.bytes).is_some())
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

fn mending(harmed: &Harmed, known_seq: u64) -> Result<Mending, String> {
    let survey = Survey::take(&*RealDisk::shared(), &harmed.directories, harmed.model, harmed.removed_seq);
    Ok(survey.map_err(|error| format!("WRONG: {error}"))?.mend(harmed.flushed_seq, known_seq))
}

fn check(harmed: &Harmed, known_seq: u64) -> Checked {
    let before = files(&harmed.directories);
    let unrepaired = start_when(harmed.removed_seq, &harmed.directories, harmed.model, harmed.flushed_seq);
    put_back(&before, &harmed.directories);
    let mending = mending(harmed, known_seq)?;
    if let Err(error) = &unrepaired {
        ensure(!mending.damages.is_empty(), || format!("WRONG: nothing is damaged, but {error}"))?;
    }
    for (first, last) in mending.lost() {
        let is_in = |line: &&Written| !line.is_gap && line.first_seq <= last && line.last_seq >= first;
        let there = harmed.lines.iter().filter(is_in).find(|line| stands(line, &before));
        ensure(there.is_none(), || format!("LOST: {first} to {last} are given up, and are there"))?;
    }
    let written = mending.write(&*RealDisk::shared(), &harmed.directories[0], instant());
    written.map_err(|error| format!("WRONG: {error}"))?;
    check_kept(harmed, &before)?;
    let again = self::mending(harmed, known_seq)?;
    ensure(again.damages.is_empty(), || format!("WRONG: repaired, and again {:?}", again.damages))?;
    check_start(harmed, known_seq, &before, &mending)
}

/// What is no more as it was stands beside.
fn check_kept(harmed: &Harmed, before: &Files) -> Checked {
    let after = files(&harmed.directories);
    for (path, bytes) in before {
        let beside = || {
            let mut others = after.iter().filter(|(other, _)| !is_segment(other));
            others.any(|(_, other)| other == bytes)
        };
        ensure(after.get(path) == Some(bytes) || beside(), || {
            format!("LOST: {} is not kept", path.display())
        })?;
    }
    Ok(())
}

fn check_start(harmed: &Harmed, known_seq: u64, before: &Files, mending: &Mending) -> Checked {
    let entries = start_when(harmed.removed_seq, &harmed.directories, harmed.model, harmed.flushed_seq);
    let entries = entries.map_err(|error| format!("WRONG: repaired, and refused: {error}"))?;
    let last_seq = entries.last().map_or(harmed.flushed_seq, Entry::last_seq).max(harmed.flushed_seq);
    ensure(last_seq >= known_seq, || format!("LOST: it ends with {last_seq}, before {known_seq}"))?;
    let mut next = None;
    for entry in &entries {
        ensure(next.is_none_or(|next| next == entry.seq), || format!("WRONG: {} comes", entry.seq))?;
        next = Some(entry.last_seq() + 1);
        let line = harmed.lines.iter().find(|line| line.first_seq == entry.seq);
        let is_written =
            line.is_some_and(|line| line.last_seq == entry.last_seq() && line.is_gap == entry.gap.is_some());
        let is_lost = entry.gap.is_some() && mending.lost().any(|lost| lost == (entry.seq, entry.last_seq()));
        ensure(is_written || is_lost, || format!("WRONG: {entry:?} comes"))?;
    }
    let after = files(&harmed.directories);
    for line in harmed.lines.iter().filter(|line| !line.is_gap && stands(line, before)) {
        // A torn end was not answered, as far as the log tells.
        let was_torn = line.first_seq > last_seq && line.durable_seq <= last_seq;
        ensure(was_torn || stands(line, &after), || format!("LOST: record {}", line.first_seq))?;
    }
    Ok(())
}

#[test]
fn of_a_log_with_one_fault_a_repair_loses_nothing_that_is_there_and_the_start_agrees() {
    let (logs, mut tally) = (Logs::new(), Tally::default());
    for seed in seeds(SHORT, LONG) {
        let harmed = logs.harmed(seed);
        // Something else than the log may tell what was answered.
        let known_seq = if seed % 3 == 0 { harmed.durable_seq } else { 0 };
        let problem = check(&harmed, known_seq).err();
        let run = format!("FASTPERSIST_SEED={seed}");
        tally.count(
            &run,
            1,
            problem.as_slice(),
            &format!("{}, known {known_seq}, {:?}", harmed.harm, harmed.root),
        );
    }
    tally.end("repaired");
}
