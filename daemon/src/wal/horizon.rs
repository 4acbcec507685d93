//! Which sealed segments may go: a pure function of the watermarks and the retention. Before they go, it is
//! noted up to which record the log was removed: a log without segments does not tell that it ever had any.
//!
//! Invariant: a segment with a record that is still needed is never in the answer, whatever the clock says.
//! Needed is what is not flushed *and* checkpointed, and, where the log waits for backups, what no backup has.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::segment::Sealed;
use crate::disk::{self, Disk};

/// The file in a partition's directory that tells up to which record its log was removed.
pub const REMOVED_FILE: &str = "log_removed_through";

/// Notes that the log is about to be removed up to this record.
///
/// # Errors
/// When the note cannot be made durable; then nothing may be removed.
pub fn note_removed(disk: &dyn Disk, directory: &Path, through_seq: u64) -> io::Result<()> {
    if through_seq <= removed_through(disk, directory)? {
        return Ok(());
    }
    disk::write_durably(disk, &directory.join(REMOVED_FILE), note_of(through_seq).as_bytes())
}

/// Up to which record the log was removed; 0 where it never was.
///
/// # Errors
/// When the note cannot be read, or tells no record: then nobody knows how far the log was removed.
pub fn removed_through(disk: &dyn Disk, directory: &Path) -> io::Result<u64> {
    match disk.read(&directory.join(REMOVED_FILE)) {
        Ok(noted) => record_in(&noted).ok_or_else(|| {
            let what = format!(
                "{REMOVED_FILE} tells no record, so it is not known how far the log was removed; write into it \
                 the record before the oldest segment's first one, or the last one of all where there is no segment"
            );
            io::Error::new(io::ErrorKind::InvalidData, what)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(disk::naming(&directory.join(REMOVED_FILE))(error)),
    }
}

/// A note that tells a record: the number and its CRC-32, so that a changed digit does not make another one of it.
pub fn note_of(seq: u64) -> String {
    format!("{seq} {}\n", checksum_of(&seq.to_string()))
}

fn checksum_of(number: &str) -> String {
    format!("{:08x}", crc32fast::hash(number.as_bytes()))
}

/// The record that a note tells. A person may write the number alone.
pub fn record_in(noted: &[u8]) -> Option<u64> {
    let noted = std::str::from_utf8(noted).ok()?.trim();
    let (number, checksum) =
        noted.split_once(' ').map_or((noted, None), |(number, rest)| (number, Some(rest)));
    number.parse().ok().filter(|_| checksum.is_none_or(|checksum| checksum == checksum_of(number)))
}

/// The segments, from the oldest on, that hold nothing which is still needed.
///
/// `unneeded_seq` is the last record that DuckDB has in its database file, not only in its own log; where the
/// log waits for backups, the last one that a verified backup has too, if that is older. `retain` is how long a segment stays although it is not needed; the wall clock decides about that
/// alone, because a segment's age must survive restarts.
///
/// A clock that was ahead for a while labels segments with times that are still to come. Such a one counts as sealed
/// when the next one behind it was: else it would keep all that follows until that time.
pub fn removable(segments: &[Sealed], unneeded_seq: u64, retain: Duration, now: SystemTime) -> usize {
    let known = |segment: &Sealed| (segment.sealed_at <= now).then_some(segment.sealed_at);
    let is_old = |index: usize| {
        let sealed_at = segments[index..].iter().find_map(known).unwrap_or(now);
        now.duration_since(sealed_at).is_ok_and(|age| age >= retain)
    };
    let needless = segments.iter().take_while(|segment| segment.last_seq <= unneeded_seq).count();
    (0..needless).take_while(|index| is_old(*index)).count()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn sealed(last_seq: u64, age_seconds: u64, now: SystemTime) -> Sealed {
        Sealed {
            path: PathBuf::from(format!("wal_{last_seq:06}.jsonl")),
            last_seq,
            bytes: 1,
            sealed_at: now - Duration::from_secs(age_seconds),
        }
    }

    #[test]
    fn only_old_and_checkpointed_segments_go_and_only_from_the_front() {
        let now = SystemTime::now();
        let segments = [sealed(10, 100, now), sealed(20, 50, now), sealed(30, 100, now)];
        for (checkpointed, retain, expected) in
            [(0, 0, 0), (9, 0, 0), (10, 0, 1), (19, 0, 1), (30, 0, 3), (30, 60, 1), (30, 101, 0)]
        {
            let gone = removable(&segments, checkpointed, Duration::from_secs(retain), now);
            assert_eq!(gone, expected, "checkpointed {checkpointed}, retain {retain}");
        }
    }

    #[test]
    fn a_note_that_tells_no_record_is_not_taken_for_none() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let disk = crate::disk::RealDisk;
        assert_eq!(removed_through(&disk, dir.path()).expect("none"), 0);
        note_removed(&disk, dir.path(), 7).expect("noted");
        assert_eq!(removed_through(&disk, dir.path()).expect("noted"), 7);
        assert_eq!(std::fs::read(dir.path().join(REMOVED_FILE)).expect("read"), b"7 6abf4a82\n");
        assert_eq!(record_in(b"8\n"), Some(8), "as a person writes it");
        for broken in [&b""[..], b"seven", b"\xff", b"9 6abf4a82\n", b"7 00000000\n", b"7 6abf"] {
            std::fs::write(dir.path().join(REMOVED_FILE), broken).expect("written");
            let error = removed_through(&disk, dir.path()).expect_err("not known");
            assert!(error.to_string().contains(REMOVED_FILE), "{error}");
            note_removed(&disk, dir.path(), 9).expect_err("nothing more may go");
        }
    }

    #[test]
    fn a_note_that_cannot_be_read_is_told_and_one_never_goes_back() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let disk = crate::disk::RealDisk;
        note_removed(&disk, dir.path(), 7).expect("noted");
        note_removed(&disk, dir.path(), 5).expect("it is noted already");
        assert_eq!(removed_through(&disk, dir.path()).expect("noted"), 7);
        std::fs::remove_file(dir.path().join(REMOVED_FILE)).expect("removed");
        std::fs::create_dir(dir.path().join(REMOVED_FILE)).expect("made");
        removed_through(&disk, dir.path()).expect_err("a directory is no note");
    }

    #[test]
    fn a_clock_that_jumped_back_removes_nothing() {
        let now = SystemTime::now();
        let segments = [sealed(10, 0, now)];
        assert_eq!(removable(&segments, 10, Duration::from_secs(1), now - Duration::from_secs(86_400)), 0);
    }

    /// With the clock ten years ahead for a while, the log went on growing for ten years when it was right again.
    #[test]
    fn segments_from_a_clock_that_was_ahead_go_with_those_behind_them() {
        const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
        let (now, ahead) = (SystemTime::now(), SystemTime::now() + YEARS);
        let segments =
            [sealed(10, 100, now), sealed(20, 0, ahead), sealed(30, 50, now), sealed(40, 0, ahead)];
        for (unneeded, retain, expected) in
            [(40, 0, 4), (40, 1, 3), (40, 50, 3), (40, 51, 1), (25, 50, 2), (9, 0, 0), (40, 101, 0)]
        {
            let gone = removable(&segments, unneeded, Duration::from_secs(retain), now);
            assert_eq!(gone, expected, "unneeded {unneeded}, retain {retain}");
        }
    }
}
