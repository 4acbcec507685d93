//! Small notes beside a database file that outlive the process.
//!
//! `FILE.opening` tells the moments at which DuckDB was given the file and did not come back: some damage ends
//! the process instead of being an error. `FILE.suspect` tells that a block of the file could not be read.
//!
//! Invariant: a note is a help and never a condition; where it cannot be written, only the help is missing.

use std::io;
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::Timestamp;

use super::Shared;
use crate::disk::{self, Disk};
use crate::duck::DuckError;

/// So many starts that ended while DuckDB opened a file …
const CRASHES: usize = 3;
/// … within so long, and the file counts as damaged.
const CRASH_WINDOW_MICROS: i64 = 10 * 60 * 1_000_000;

/// How the names of notes end.
pub const SUSPECT_SUFFIX: &str = ".suspect";
const OPENING_SUFFIX: &str = ".opening";

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// DuckDB is about to be given the file.
pub(super) fn begin_opening(disk: &dyn Disk, file: &Path, now: Timestamp) {
    let mut moments = openings(disk, file, now);
    moments.push(now);
    let mut lines: Vec<_> = moments.iter().map(Timestamp::to_string).collect();
    // Each line is ended.
    lines.push(String::new());
    let text = lines.join("\n");
    if let Err(error) = disk::write_durably(disk, &beside(file, OPENING_SUFFIX), text.as_bytes()) {
        tracing::debug!(file = %file.display(), %error, "the note about opening could not be written");
    }
}

/// DuckDB has come back.
pub(super) fn end_opening(disk: &dyn Disk, file: &Path) {
    remove(disk, &beside(file, OPENING_SUFFIX));
}

/// Whether the last starts ended while DuckDB opened the file.
pub(super) fn crashed_at_open(disk: &dyn Disk, file: &Path, now: Timestamp) -> bool {
    openings(disk, file, now).len() >= CRASHES
}

/// The moments of the last minutes at which the file was given to DuckDB, which never came back.
fn openings(disk: &dyn Disk, file: &Path, now: Timestamp) -> Vec<Timestamp> {
    let noted = disk.read(&beside(file, OPENING_SUFFIX)).unwrap_or_default();
    let noted = String::from_utf8_lossy(&noted);
    let recent = |moment: &Timestamp| {
        // A moment in the future is one from before the clock was set back, and tells nothing.
        (0..=CRASH_WINDOW_MICROS).contains(&(now.as_micros() - moment.as_micros()))
    };
    noted.lines().filter_map(Timestamp::parse).filter(recent).collect()
}

/// Notes that a block of the file cannot be read.
fn suspect(disk: &dyn Disk, file: &Path, now: Timestamp, why: &str) {
    let text = format!("{now} {}\n", why.replace('\n', " "));
    if let Err(error) = disk::write_durably(disk, &beside(file, SUSPECT_SUFFIX), text.as_bytes()) {
        tracing::warn!(file = %file.display(), %error, "it could not be noted that the file is damaged");
    }
}

/// Notes what DuckDB says about a file, where it says that the file is damaged.
pub fn note_damage(shared: &Shared, error: &DuckError) {
    let Some(file) = error.file().filter(|file| error.is_damage() && file.exists()) else { return };
    if why_suspect(&*shared.disk, file).is_none() {
        tracing::error!(%error, "a database file is damaged; it is rebuilt when it is next opened");
        suspect(&*shared.disk, file, shared.clock.now(), &error.to_string());
    }
}

/// Why the file is suspect; `None` where it is not.
pub fn why_suspect(disk: &dyn Disk, file: &Path) -> Option<String> {
    let noted = disk.read(&beside(file, SUSPECT_SUFFIX)).ok()?;
    Some(String::from_utf8_lossy(&noted).trim().to_owned())
}

/// The file is another one now: nothing that was noted is true of it.
pub fn forget(disk: &dyn Disk, file: &Path) {
    for suffix in [SUSPECT_SUFFIX, OPENING_SUFFIX] {
        remove(disk, &beside(file, suffix));
    }
}

fn remove(disk: &dyn Disk, note: &Path) {
    match disk.remove(note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %note.display(), %error, "a note could not be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn three_openings_without_an_end_within_ten_minutes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("data.duckdb");
        let at = |minutes: i64| Timestamp::from_micros((100 + minutes) * 60_000_000).expect("in range");
        for minute in [0, 6, 12] {
            assert!(!crashed_at_open(&RealDisk, &file, at(minute)));
            begin_opening(&RealDisk, &file, at(minute));
        }
        assert!(!crashed_at_open(&RealDisk, &file, at(12)), "the first is twelve minutes ago");
        begin_opening(&RealDisk, &file, at(13));
        assert!(crashed_at_open(&RealDisk, &file, at(14)));
        assert!(!crashed_at_open(&RealDisk, &file, at(1)), "the clock was set back");
        end_opening(&RealDisk, &file);
        assert!(!crashed_at_open(&RealDisk, &file, at(14)));
    }

    #[test]
    fn what_is_suspect_stays_so_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("data.duckdb");
        assert_eq!(why_suspect(&RealDisk, &file), None);
        suspect(&RealDisk, &file, Timestamp::from_micros(0).expect("in range"), "two\nlines");
        assert_eq!(why_suspect(&RealDisk, &file).as_deref(), Some("1970-01-01T00:00:00.000000Z two lines"));
        forget(&RealDisk, &file);
        assert_eq!(why_suspect(&RealDisk, &file), None);
    }
}
