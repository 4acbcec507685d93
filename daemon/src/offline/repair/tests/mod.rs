//! What a repair makes of a log, without a database: logs of one shape each, and [those of the fault instrument](harmed).

mod harmed;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastpersist_protocol::time::Timestamp;

use super::log::Survey;
use crate::disk::{Disk, RealDisk};
use crate::storage::record::{Columns, Names};
use crate::storage::schema::Model;
use crate::wal::entry::{self, Entry};
use crate::wal::recover::{self, RecoverError, Told};
use crate::wal::segment;

fn instant() -> Timestamp {
    Timestamp::from_micros(1_736_900_000_000_000).expect("in range")
}

/// What a start gives with so much in the database.
fn start(directories: &[PathBuf], model: Model, flushed_seq: u64) -> Result<Vec<Entry>, RecoverError> {
    start_when(0, directories, model, flushed_seq)
}

/// The same where segments up to a record were removed.
fn start_when(
    removed_seq: u64,
    directories: &[PathBuf],
    model: Model,
    flushed_seq: u64,
) -> Result<Vec<Entry>, RecoverError> {
    let disk: Arc<dyn Disk> = RealDisk::shared();
    let mut entries = Vec::new();
    let told = Told { flushed_seq, removed_seq, ..Told::default() };
    recover::recover(&disk, directories, model, told, |entry| entries.push(entry))?;
    Ok(entries)
}

fn line(seq: u64, durable_seq: u64) -> Vec<u8> {
    let columns = Columns {
        key: "key",
        names: Names::Dated { process_name: None },
        data: r#"{"text":"some text that makes the line long enough"}"#,
        value: None,
        timestamp: None,
        status: None,
        status_int: None,
        username: None,
        updated_at: instant(),
        seq,
        deleted: false,
        writer: None,
    };
    let (mut body, mut out) = (Vec::new(), Vec::new());
    entry::encode_body(&columns, &mut body);
    entry::finish_line(&body, entry::hash_body(&body), seq, durable_seq, &mut out);
    out
}

fn lines(seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
    seqs.into_iter().flat_map(|seq| line(seq, seq - 1)).collect()
}

/// A group that is written when everything up to `durable_seq` is durable.
fn group(seqs: impl IntoIterator<Item = u64>, durable_seq: u64) -> Vec<u8> {
    seqs.into_iter().flat_map(|seq| line(seq, durable_seq)).collect()
}

fn log_of(segments: &[Vec<u8>]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (bytes, number) in segments.iter().zip(1..) {
        fs::write(root.path().join(segment::file_name(number)), bytes).expect("written");
    }
    root
}

/// Repairs the log; answers what was wrong, and which places are lost.
fn repaired(root: &Path, flushed_seq: u64, known_seq: u64) -> (Vec<String>, Vec<(u64, u64)>) {
    repaired_when(0, root, flushed_seq, known_seq)
}

/// The same where segments up to a record were removed.
fn repaired_when(
    removed_seq: u64,
    root: &Path,
    flushed_seq: u64,
    known_seq: u64,
) -> (Vec<String>, Vec<(u64, u64)>) {
    let (disk, directories) = (RealDisk::shared(), [root.to_owned()]);
    let survey = Survey::take(&*disk, &directories, Model::Dated, removed_seq).expect("surveyed");
    let mending = survey.mend(flushed_seq, known_seq);
    mending.write(&*disk, root, instant()).expect("written");
    (mending.damages.iter().map(ToString::to_string).collect(), mending.lost().collect())
}

/// The places that a start gives, gaps among them, by their first and last.
fn started(root: &Path, flushed_seq: u64) -> Vec<(u64, u64)> {
    let entries = start(&[root.to_owned()], Model::Dated, flushed_seq).expect("it starts");
    entries.iter().map(|entry| (entry.seq, entry.last_seq())).collect()
}

fn each(seqs: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    seqs.into_iter().map(|seq| (seq, seq)).collect()
}

/// A synced group and a further one; the first sector, which had all of the one and a part of the other, is lost.
fn without_first_sector(synced: std::ops::RangeInclusive<u64>) -> (Vec<u8>, u64) {
    let last = *synced.end();
    let mut newest = group(synced.clone(), synced.start() - 1);
    assert!(newest.len() < 512, "the further group begins in the first sector");
    newest.extend(group(last + 1..=last + 3, last));
    newest[..512].fill(0);
    (newest, last)
}

#[test]
fn a_lost_sector_that_held_answered_records_is_damage_where_the_start_refuses() {
    let (newest, synced_seq) = without_first_sector(11..=12);
    let root = log_of(&[lines(1..=10), newest]);
    assert!(start(&[root.path().to_owned()], Model::Dated, 0).is_err());
    let (damages, lost) = repaired(root.path(), 0, 0);
    assert_eq!((damages.len(), lost), (1, vec![(11, synced_seq + 1)]), "{damages:?}");
    let expected = [each(1..=10), vec![(11, 13)], each(14..=15)].concat();
    assert_eq!(started(root.path(), 0), expected);
}

#[test]
fn the_same_where_the_log_begins_behind_what_was_removed() {
    // The database has the synced group too, and what was removed says whether that stood in this segment.
    for (removed_seq, flushed_seq, lost) in
        [(10, 10, vec![(11, 13)]), (10, 12, vec![(13, 13)]), (12, 12, vec![])]
    {
        let is_damage = !lost.is_empty();
        let (newest, _) = without_first_sector(11..=12);
        let root = log_of(&[newest]);
        let copy = log_of(&[fs::read(root.path().join(segment::file_name(1))).expect("read")]);
        let started = |root: &Path| start_when(removed_seq, &[root.to_owned()], Model::Dated, flushed_seq);
        assert_eq!(started(copy.path()).is_err(), is_damage, "{removed_seq} {flushed_seq}");
        let (damages, found) = repaired_when(removed_seq, root.path(), flushed_seq, 0);
        assert_eq!(!damages.is_empty(), is_damage, "{damages:?}");
        assert_eq!(found, lost);
        let expected = if is_damage { [lost, each(14..=15)].concat() } else { vec![] };
        let entries = started(root.path()).expect("it starts");
        assert_eq!(entries.iter().map(|entry| (entry.seq, entry.last_seq())).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_segment_that_begins_with_a_misplaced_line_costs_no_other_segment() {
    let third = [lines([5]), lines(21..=30)].concat();
    let root = log_of(&[lines(1..=10), lines(11..=20), third]);
    let (damages, lost) = repaired(root.path(), 0, 0);
    assert_eq!((damages.len(), lost), (1, vec![]), "{damages:?}");
    assert!(damages[0].contains("record 5 stands here again"), "{damages:?}");
    assert_eq!(started(root.path(), 0), each(1..=30));
}

#[test]
fn misplaced_lines_go_to_where_they_belong() {
    let swapped = [lines(1..=2), lines([7]), lines(4..=6), lines([3]), lines(8..=10)].concat();
    // Each of these has a line of the other.
    let (second, third) = (lines([25, 12, 13]), lines([21, 22, 23, 24, 11]));
    let root = log_of(&[swapped, second, third]);
    let (damages, lost) = repaired(root.path(), 0, 0);
    // Nothing has those between 13 and 21.
    assert_eq!(lost, [(14, 20)], "{damages:?}");
    let expected = [each(1..=13), vec![(14, 20)], each(21..=25)].concat();
    assert_eq!(started(root.path(), 0), expected);
    assert_eq!(repaired(root.path(), 0, 0), (vec![], vec![]), "the second repair has nothing to do");
}

/// A power cut brought a removed segment back and not the one behind it: the start took the log as it was, and the repair
/// told it as damaged.
#[test]
fn what_was_removed_is_not_missing_between_two_segments() {
    let log = || log_of(&[lines(1..=10), lines(21..=30)]);
    let root = log();
    assert_eq!(repaired_when(20, root.path(), 25, 0), (vec![], vec![]));
    assert_eq!(started(root.path(), 25), each(26..=30));
    // What was not removed is told, also where the database has it.
    for removed_seq in [15, 19] {
        let root = log();
        let (damages, lost) = repaired_when(removed_seq, root.path(), 25, 0);
        let missing = format!("{} to 20", removed_seq + 1).replace("20 to 20", "20");
        assert_eq!((damages.len(), lost), (1, vec![]), "{damages:?}");
        assert!(damages[0].contains(&missing), "{damages:?}");
        assert_eq!(started(root.path(), 25), each(26..=30));
    }
    // An older database has less than was removed.
    let root = log();
    assert_eq!(repaired_when(20, root.path(), 12, 0).1, [(13, 20)]);
    assert_eq!(started(root.path(), 12), [vec![(13, 20)], each(21..=30)].concat());
    // Nothing is left behind the one that came back.
    let root = log_of(&[lines(1..=10)]);
    assert_eq!(repaired_when(20, root.path(), 20, 20), (vec![], vec![]));
    // Within a segment nothing is removed.
    let root = log_of(&[lines((1..=4).chain(8..=10))]);
    assert_eq!(repaired_when(20, root.path(), 20, 20).0.len(), 1);
    assert_eq!(started(root.path(), 20), vec![]);
}

#[test]
fn an_older_database_makes_no_damage_of_a_torn_write() {
    let mut torn = group(4..=12, 3);
    torn[..512].fill(0);
    let root = log_of(&[lines(1..=3), torn]);
    assert_eq!(repaired_when(9, root.path(), 1, 0), (vec![], vec![]));
    assert_eq!(started(root.path(), 1), each(2..=3));
}

#[test]
fn what_is_known_behind_a_torn_end_is_lost_and_the_log_starts() {
    let mut newest = lines(1..=6);
    let torn = newest.len().next_multiple_of(512);
    newest.extend(group(7..=20, 6));
    newest[torn..torn + 512].fill(0);
    let root = log_of(&[newest]);
    let (damages, lost) = repaired(root.path(), 0, 18);
    assert_eq!(lost.len(), 1, "{damages:?}");
    let (from, to) = lost[0];
    let expected = [each(1..from), vec![(from, to)], each(to + 1..=20)].concat();
    assert_eq!(started(root.path(), 0), expected);
}
