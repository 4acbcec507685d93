//! Database files that are not usable: set aside under names that say when and why, and replaced by copies.
//!
//! Invariant: nothing that was there is overwritten or removed; a file gets its name only when it is whole
//! and durable.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::Timestamp;
use sha2::{Digest as _, Sha256};

use super::notes;
use crate::backup::manifest::BackupFile;
use crate::disk::{self, Disk};

/// Why a database file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// DuckDB does not open it.
    DoesNotOpen,
    /// A block of it could not be read.
    BlockUnreadable,
    /// Starts ended while DuckDB opened it.
    CrashedAtOpen,
    /// It is not there, and must be.
    Missing,
    /// It is sound, but the file that it belongs with is not.
    Replaced,
    /// It is sound, and ends before records that there were.
    Outdated,
}

impl Why {
    /// The reason as it stands in a file's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DoesNotOpen => "does-not-open",
            Self::BlockUnreadable => "block-unreadable",
            Self::CrashedAtOpen => "crashed-at-open",
            Self::Missing => "missing",
            Self::Replaced => "replaced",
            Self::Outdated => "outdated",
        }
    }
}

/// What DuckDB keeps beside a file. Beside a new one of the same name it would be replayed into that.
const LOG_SUFFIXES: [&str; 3] = [".wal", ".wal.checkpoint", ".wal.recovery"];

/// Gives a file and DuckDB's logs beside it names that say when and why; one that is not there is no error.
/// Answers the file's new name.
///
/// # Errors
/// When one of them cannot be renamed.
pub fn set_aside(disk: &dyn Disk, file: &Path, now: Timestamp, why: Why) -> io::Result<Option<PathBuf>> {
    // To the second, and without what some file systems refuse.
    let when: String = now.to_string().chars().take(19).filter(|c| *c != ':').collect();
    let suffix = (1..).map(|n| match n {
        1 => format!(".damaged-{when}Z-{}", why.as_str()),
        n => format!(".damaged-{when}Z-{}-{n}", why.as_str()),
    });
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let logs: Vec<_> = LOG_SUFFIXES.iter().map(|log| with(file, log)).collect();
    let all = || logs.iter().map(PathBuf::as_path).chain([file]);
    let free = suffix.into_iter().find(|suffix| all().all(|path| !with(path, suffix).exists()));
    let Some(suffix) = free else { return Ok(None) };
    for path in all().filter(|path| path.exists()) {
        disk.rename(path, &with(path, &suffix))?;
    }
    disk.sync_dir(disk::parent_of(file))?;
    notes::forget(disk, file);
    let aside = with(file, &suffix);
    Ok(aside.exists().then_some(aside))
}

/// How much is copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Copies one file of a backup under the temporary name of `target`, and compares it with the manifest.
///
/// # Errors
/// When it cannot be read or written, or is not what the manifest says.
pub fn copy_verified(
    disk: &dyn Disk,
    source: &Path,
    entry: &BackupFile,
    target: &Path,
) -> io::Result<PathBuf> {
    let temporary = disk::temporary_beside(target);
    remove_if_there(disk, &temporary)?;
    let mut from = std::fs::File::open(source)?;
    let mut to = disk.create(&temporary)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        to.write_at(offset, &buffer[..length])?;
        offset += length as u64;
    }
    to.sync()?;
    let sha256 = hasher.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    if offset != entry.bytes || !sha256.eq_ignore_ascii_case(&entry.sha256) {
        remove_if_there(disk, &temporary)?;
        return Err(io::Error::other(format!("{} is not what its manifest says", source.display())));
    }
    Ok(temporary)
}

/// Removes a database file that was never finished, and DuckDB's logs beside it.
///
/// # Errors
/// When one of them cannot be removed.
pub fn remove_unfinished(disk: &dyn Disk, file: &Path) -> io::Result<()> {
    for log in LOG_SUFFIXES {
        let mut name = file.as_os_str().to_owned();
        name.push(log);
        remove_if_there(disk, Path::new(&name))?;
    }
    remove_if_there(disk, file)
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn nothing_that_was_set_aside_is_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("data.duckdb");
        let now = Timestamp::parse("2025-01-15T10:30:00.123456Z").expect("a timestamp");
        for n in 0..3 {
            std::fs::write(&file, format!("{n}")).expect("written");
            std::fs::write(dir.path().join("data.duckdb.wal"), format!("{n}")).expect("written");
            set_aside(&RealDisk, &file, now, Why::DoesNotOpen).expect("set aside");
        }
        assert_eq!(set_aside(&RealDisk, &file, now, Why::Missing).expect("nothing there"), None);
        let names = RealDisk.list(dir.path()).expect("a directory");
        let expected: Vec<_> = ["data.duckdb", "data.duckdb.wal"]
            .iter()
            .flat_map(|name| {
                let name = format!("{name}.damaged-2025-01-15T103000Z-does-not-open");
                [name.clone(), format!("{name}-2"), format!("{name}-3")]
            })
            .collect();
        assert_eq!(names, expected);
        assert_eq!(std::fs::read_to_string(dir.path().join(&names[1])).expect("read"), "1");
    }

    #[test]
    fn a_copy_that_is_not_what_the_manifest_says_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let (source, target) = (dir.path().join("a.backup"), dir.path().join("a"));
        std::fs::write(&source, b"abc").expect("written");
        let mut entry = BackupFile {
            file: "a.backup".to_owned(),
            table: "storage".to_owned(),
            rows: 0,
            rows_checksum: String::new(),
            bytes: 3,
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
        };
        let copied = copy_verified(&RealDisk, &source, &entry, &target).expect("copied");
        assert_eq!(std::fs::read(copied).expect("read"), b"abc");
        entry.sha256 = entry.sha256.replace('b', "c");
        copy_verified(&RealDisk, &source, &entry, &target).expect_err("another checksum");
        assert_eq!(RealDisk.list(dir.path()).expect("a directory"), ["a.backup"]);
    }
}
