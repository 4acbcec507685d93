//! One file of the log: its name, its preallocated space, its end.
//!
//! Appending into preallocated space makes an fdatasync about half as long, because the file's length
//! and block list need not be written too (`DESIGN.md` has the figures). The price is a tail of NUL in
//! the segment that is being written; it is trimmed when the segment is sealed.
//!
//! Invariant: bytes before `offset` are whole lines; bytes behind it are NUL or not there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::disk::{self, Disk, DiskFile};

const PREFIX: &str = "wal_";
const SUFFIX: &str = ".jsonl";
/// The temporary name of a segment that is being prepared.
const SPARE_NAME: &str = "wal_next.jsonl.tmp";
/// Below this size a segment is not worth preallocating.
const MIN_PREALLOCATED_BYTES: u64 = 64 * 1024;
/// How much is written with NUL at a time in a segment that was not prepared.
const WRITE_AHEAD_BYTES: u64 = 256 * 1024;
/// For groups of this size it is worth it.
const WRITE_AHEAD_GROUPS: std::ops::Range<u64> = 1024..64 * 1024;
/// Beyond this a segment grows as it is written.
const MAX_PREALLOCATED_BYTES: u64 = 64 << 20;

/// The name of a segment: `wal_000001.jsonl`.
pub fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:06}{SUFFIX}")
}

/// The number in a segment's name; `None` for any other file.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    if digits.len() < 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// What is reserved for a segment of at most so many bytes.
pub fn reserved_bytes(max_bytes: u64) -> u64 {
    max_bytes.min(MAX_PREALLOCATED_BYTES)
}

/// A segment that is complete: trimmed, synced, and never written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The file.
    pub path: PathBuf,
    /// The place of its last record.
    pub last_seq: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was sealed, by the wall clock, for the retention.
    pub sealed_at: SystemTime,
}

/// A file that is ready to become a segment: created, preallocated and synced under a temporary name.
#[derive(Debug)]
struct Prepared {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// How much space is reserved: with any, a full disk shows before the segment is needed.
    reserved: u64,
    /// How much of it is written with NUL.
    written: u64,
}

/// How the space of a segment is had in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Reserved: quick; what is needed is written with NUL bit by bit.
    Reserved,
    /// Reserved and written with NUL: then the file system has nothing to note down when a group is
    /// written, which makes its fdatasync up to a third shorter.
    Written,
}

fn prepare(disk: &dyn Disk, path: PathBuf, preallocate_bytes: u64, space: Space) -> io::Result<Prepared> {
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(&path)?;
    let (mut reserved, mut written) = (0, 0);
    if preallocate_bytes >= MIN_PREALLOCATED_BYTES {
        let bytes = reserved_bytes(preallocate_bytes);
        let had = file.preallocate(bytes).and_then(|()| match space {
            Space::Reserved => Ok(()),
            Space::Written => write_nul(&mut *file, 0, bytes),
        });
        match had {
            Ok(()) => (reserved, written) = (bytes, if space == Space::Written { bytes } else { 0 }),
            // Some file systems cannot; then the file grows as it is written.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => {
                drop(file);
                let _ = disk.remove(&path);
                return Err(error);
            }
        }
        file.sync()?;
    }
    Ok(Prepared { file, path, reserved, written })
}

fn write_nul(file: &mut dyn DiskFile, mut offset: u64, end: u64) -> io::Result<()> {
    let chunk = vec![0u8; 64 * 1024];
    while offset < end {
        let length = (end - offset).min(chunk.len() as u64) as usize;
        file.write_at(offset, &chunk[..length])?;
        offset += length as u64;
    }
    Ok(())
}

/// The segment that is prepared while the one before it is written, on a thread of its own, so that a
/// change of segments costs the committer one rename.
#[derive(Debug)]
pub struct Spare(JoinHandle<io::Result<Prepared>>);

impl Spare {
    /// Begins to prepare a segment in `directory`.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        preallocate_bytes: u64,
        space: Space,
    ) -> io::Result<Self> {
        let disk = Arc::clone(disk);
        let path = directory.join(SPARE_NAME);
        let work = move || prepare(&*disk, path, preallocate_bytes, space);
        std::thread::Builder::new().name("wal-prepare".to_owned()).spawn(work).map(Self)
    }

    /// Whether the work is over, well or badly.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    fn wait(self) -> io::Result<Prepared> {
        self.0.join().unwrap_or_else(|_| Err(io::Error::other("the thread that prepares segments panicked")))
    }

    /// Waits for the work; when it failed, the error is returned, else the spare is put back.
    ///
    /// # Errors
    /// What the preparation ended with.
    pub fn check(self) -> io::Result<ReadySpare> {
        self.wait().map(ReadySpare)
    }
}

/// A spare whose preparation succeeded.
#[derive(Debug)]
pub struct ReadySpare(Prepared);

impl ReadySpare {
    /// Gives the file up; answers its name, so that it can be removed.
    pub fn into_path(self) -> PathBuf {
        self.0.path
    }
}

/// The segment that is being written.
#[derive(Debug)]
pub struct Active {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    /// The length up to which space is reserved, or 0.
    capacity: u64,
    /// The length up to which the file was written, be it with NUL.
    written: u64,
    last_seq: u64,
    records: u64,
    groups: u64,
    /// By the clock that never goes back.
    opened_at: Duration,
}

impl Active {
    /// Begins segment `number` in `directory`; its name is durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be made; nothing then stands under the segment's name.
    pub fn begin(
        disk: &dyn Disk,
        directory: &Path,
        number: u64,
        preallocate_bytes: u64,
        spare: Option<ReadySpare>,
        opened_at: Duration,
    ) -> io::Result<Self> {
        let prepared = match spare {
            Some(ReadySpare(prepared)) if prepared.path.parent() == Some(directory) => prepared,
            other => {
                if let Some(ReadySpare(unused)) = other {
                    // It was prepared for yesterday's directory.
                    let _ = disk.remove(&unused.path);
                }
                disk::create_dir_durably(disk, directory)?;
                let path = disk::temporary_beside(&directory.join(file_name(number)));
                prepare(disk, path, preallocate_bytes, Space::Reserved)?
            }
        };
        let path = directory.join(file_name(number));
        disk.rename(&prepared.path, &path)?;
        make_names_durable(disk, directory)?;
        Ok(Self {
            file: prepared.file,
            path,
            offset: 0,
            capacity: prepared.reserved,
            written: prepared.written,
            last_seq: 0,
            records: 0,
            groups: 0,
            opened_at,
        })
    }

    /// Whether the lines stand within what is reserved, where anything is.
    pub fn fits(&self, lines: &[u8]) -> bool {
        self.capacity == 0 || self.offset + lines.len() as u64 <= self.capacity
    }

    /// Appends whole lines with so many `records`, the last of which is `last_seq`.
    ///
    /// # Errors
    /// When the write fails. The half-written bytes are taken back; [`AppendError::Stuck`] says that
    /// even that failed.
    pub fn append(&mut self, lines: &[u8], last_seq: u64, records: u64) -> Result<(), AppendError> {
        if !self.fits(lines) {
            let end = self.offset + lines.len() as u64;
            // To take back a write gives back what is reserved. On a full disk deletions still need that.
            match self.file.preallocate(end) {
                Ok(()) => self.capacity = end,
                Err(error) if disk::is_full(&error) => return Err(AppendError::TakenBack(error)),
                // The write itself will say what is wrong.
                Err(_) => {}
            }
        }
        if let Err(error) = self.file.write_at(self.offset, lines) {
            // Taken back is only what a power cut does not bring again.
            return Err(match self.file.truncate(self.offset).and_then(|()| self.file.sync()) {
                Ok(()) => {
                    (self.capacity, self.written) = (0, 0);
                    AppendError::TakenBack(error)
                }
                Err(_) => AppendError::Stuck(error),
            });
        }
        self.offset += lines.len() as u64;
        self.records += records;
        self.groups += 1;
        self.write_ahead(lines.len() as u64);
        self.last_seq = last_seq;
        Ok(())
    }

    /// Writes NUL behind the lines when they reach space that is only reserved, so that the next groups
    /// find it written. The smallest groups have nothing to gain, for many of them share a block, and the
    /// largest neither: they would do it each time.
    fn write_ahead(&mut self, lines_bytes: u64) {
        if self.capacity == 0 || self.offset <= self.written {
            return;
        }
        self.written = self.offset;
        let end = self.capacity.min(self.offset + WRITE_AHEAD_BYTES);
        if WRITE_AHEAD_GROUPS.contains(&lines_bytes) && end > self.offset {
            // It is only a help: where it fails, the file reads as NUL all the same.
            if write_nul(&mut *self.file, self.offset, end).is_ok() {
                self.written = end;
            }
        }
    }

    /// Brings everything appended to stable storage. Never call it again after an error.
    ///
    /// # Errors
    /// When fdatasync fails.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// What is best for the next segment, by the groups that this one got: written ahead for middling
    /// groups. For small ones it makes no difference; with large ones so much is written that to write it
    /// twice costs more of the processor than the shorter fdatasync saves.
    pub fn best_space(&self) -> Space {
        let average = self.offset / self.groups.max(1);
        if WRITE_AHEAD_GROUPS.contains(&average) { Space::Written } else { Space::Reserved }
    }

    /// Bytes of whole lines.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// What is reserved and holds no lines.
    pub fn unused_bytes(&self) -> u64 {
        self.capacity.saturating_sub(self.offset)
    }

    /// The place of the last record, 0 while there is none.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Records in it.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was begun, by the clock that never goes back.
    pub fn opened_at(&self) -> Duration {
        self.opened_at
    }

    /// Ends the segment, which must be synced, and trims it. The trim may happen on another thread: a
    /// segment with NUL behind its lines is read just as well.
    pub fn seal(self, sealed_at: SystemTime, in_background: bool) -> Sealed {
        let Self { mut file, path, offset, capacity, last_seq, .. } = self;
        let sealed = Sealed { path: path.clone(), last_seq, bytes: offset, sealed_at };
        if capacity <= offset {
            return sealed;
        }
        let mut trim = move || {
            if let Err(error) = file.truncate(offset).and_then(|()| file.sync()) {
                tracing::warn!(file = %path.display(), %error, "a sealed WAL segment could not be trimmed");
            }
        };
        if in_background {
            // Without a thread the file keeps its NUL tail until it is removed.
            let _ = std::thread::Builder::new().name("wal-trim".to_owned()).spawn(trim);
        } else {
            trim();
        }
        sealed
    }
}

fn make_names_durable(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    #[cfg(test)]
    if disk.planted() == Some(crate::planted::Bug::NoDirectorySync) {
        return Ok(());
    }
    disk.sync_dir(directory)
}

/// Why lines could not be appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The segment is as it was before.
    #[error("{0}")]
    TakenBack(io::Error),
    /// The segment's end is unknown; it must not be written again.
    #[error("{0}, and the half-written record could not be taken back")]
    Stuck(io::Error),
}

#[cfg(test)]
mod tests;
