//! What was lost and accepted: the places whose records a repair could not have back.
//!
//! Invariant: the file only grows; it says why counts are smaller than places, as long as the storage lives.

use std::io;
use std::path::Path;

use fastpersist_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};

/// The file's name in a partition's directory: a JSON object a line.
pub const LOSSES_FILE: &str = "losses.jsonl";

/// Places whose records are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// When it was accepted.
    pub at: String,
    /// The first place.
    pub first_seq: u64,
    /// The last place.
    pub last_seq: u64,
    /// Why.
    pub why: String,
}

/// Notes losses behind those that are noted already.
///
/// # Errors
/// When the file cannot be read or written.
pub fn note(
    disk: &dyn Disk,
    directory: &Path,
    at: Timestamp,
    ranges: &[(u64, u64)],
    why: &str,
) -> io::Result<()> {
    let file = directory.join(LOSSES_FILE);
    let mut bytes = match disk.read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes?,
    };
    for (first_seq, last_seq) in ranges {
        let loss =
            Loss { at: at.to_string(), first_seq: *first_seq, last_seq: *last_seq, why: why.to_owned() };
        bytes.extend(serde_json::to_vec(&loss)?);
        bytes.push(b'\n');
    }
    disk::write_durably(disk, &file, &bytes)
}

/// Brings what is noted of places up to `through_seq` into another directory: that of a copy of the storage.
///
/// # Errors
/// When the file cannot be read or written.
pub fn carry_over(disk: &dyn Disk, from: &Path, to: &Path, through_seq: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    for mut loss in read(disk, from).into_iter().filter(|loss| loss.first_seq <= through_seq) {
        loss.last_seq = loss.last_seq.min(through_seq);
        bytes.extend(serde_json::to_vec(&loss)?);
        bytes.push(b'\n');
    }
    if bytes.is_empty() { Ok(()) } else { disk::write_durably(disk, &to.join(LOSSES_FILE), &bytes) }
}

fn read(disk: &dyn Disk, directory: &Path) -> Vec<Loss> {
    let bytes = disk.read(&directory.join(LOSSES_FILE)).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Whether the record at a place was given up.
pub fn contains(disk: &dyn Disk, directory: &Path, seq: u64) -> bool {
    read(disk, directory).iter().any(|loss| (loss.first_seq..=loss.last_seq).contains(&seq))
}

/// How many places up to `through_seq` are lost.
pub fn count(disk: &dyn Disk, directory: &Path, through_seq: u64) -> u64 {
    let losses = read(disk, directory).into_iter();
    let mut ranges: Vec<_> = losses.map(|loss| (loss.first_seq, loss.last_seq.min(through_seq))).collect();
    ranges.sort_unstable();
    let (mut count, mut behind) = (0, 0);
    for (first, last) in ranges {
        let first = first.max(behind + 1);
        if last >= first {
            count += last - first + 1;
            behind = last;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn places_count_once_however_often_they_were_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = Timestamp::from_micros(0).expect("in range");
        assert_eq!(count(&RealDisk, dir.path(), 100), 0);
        note(&RealDisk, dir.path(), at, &[(5, 7), (20, 20)], "first").expect("noted");
        note(&RealDisk, dir.path(), at, &[(6, 9)], "second").expect("noted");
        for (through, expected) in [(4, 0), (5, 1), (8, 4), (19, 5), (100, 6)] {
            assert_eq!(count(&RealDisk, dir.path(), through), expected, "through {through}");
            assert_eq!(contains(&RealDisk, dir.path(), through), through == 5 || through == 8);
        }
        let copy = tempfile::tempdir().expect("a directory");
        carry_over(&RealDisk, dir.path(), copy.path(), 4).expect("nothing to carry over");
        assert!(!copy.path().join(LOSSES_FILE).exists());
        carry_over(&RealDisk, dir.path(), copy.path(), 8).expect("carried over");
        assert_eq!(count(&RealDisk, copy.path(), 100), 4, "places behind the copy's end are not lost there");
    }
}
