//! What a restart does with the segments it finds.
//!
//! Segments are put in order by the place of their first record, not by name or date: the wall clock
//! only labels. One without any readable record stands behind those of lower numbers: only where that is the
//! end can it be torn. Those at the beginning that hold nothing above `flushed_seq` are not read, but for where they begin
//! and end. The rest is scanned; a torn end is cut off and kept beside as `torn-…`; damage stops everything.
//!
//! The newest segment with unflushed records is then written anew: after an earlier failed fdatasync
//! the kernel may show bytes that the disk does not have, and only a new file makes them durable.
//!
//! Invariant: nothing is changed on disk before every segment has been judged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::{self, Entry};
use super::scan::{self, ScanEnd};
use super::segment::{self, Sealed};
use crate::disk::{self, Disk};
use crate::storage::schema::Model;

/// How the name of a kept torn end begins.
pub const TORN_PREFIX: &str = "torn-";

/// Why a log cannot be recovered without a person.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Something that was durable is not readable.
    #[error(
        "{file} is damaged at byte {offset}: {reason}; the daemon does not start over damage, because it would lose answered writes"
    )]
    Damaged {
        /// The segment.
        file: String,
        /// Where the damage begins.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot recover {file}: {source}")]
    Io {
        /// The file or directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

impl RecoverError {
    fn io(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.display().to_string();
        move |source| Self::Io { file, source }
    }

    fn damaged(file: &Path, offset: usize, reason: String) -> Self {
        Self::Damaged { file: file.display().to_string(), offset, reason }
    }
}

/// The state in which a log was found and left.
#[derive(Debug)]
pub struct Recovered {
    /// The segments, oldest first; all are complete now.
    pub sealed: Vec<Sealed>,
    /// The last record in log or database.
    pub last_seq: u64,
    /// Torn ends that were cut off.
    pub torn_count: usize,
}

/// A segment that holds at least one byte that is not NUL.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    first_seq: Option<u64>,
    /// The first record that can be read at all.
    readable_seq: Option<u64>,
    /// The directory's place among the others, and the number in it: where it would stand if the clock were right.
    label: (usize, u64),
    length: u64,
    modified: SystemTime,
}

/// How much of a segment is read to find its first record.
const HEAD_BYTES: usize = 64 * 1024;

/// What others than the log's segments tell of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// The last record that the database has.
    pub flushed_seq: u64,
    /// The partition was closed with everything up to this record in the database. Where that has come so far, the
    /// log need not be read at all.
    pub settled_seq: Option<u64>,
    /// Up to which record segments were removed ([`horizon`](super::horizon)). A power cut may bring any of them back.
    pub removed_seq: u64,
}

/// Recovers the log whose segments stand in `directories`; every record that the database has not got goes to
/// `on_entry`, in order.
///
/// # Errors
/// See [`RecoverError`]. Nothing was changed on disk when it is [`RecoverError::Damaged`].
pub fn recover(
    disk: &Arc<dyn Disk>,
    directories: &[PathBuf],
    model: Model,
    told: Told,
    mut on_entry: impl FnMut(Entry),
) -> Result<Recovered, RecoverError> {
    #[cfg(test)]
    let _planted = crate::planted::on_this_thread(disk.planted());
    let (mut found, leftovers) = find(&**disk, directories)?;
    let Told { flushed_seq, settled_seq, .. } = told;
    let judging = Judging { disk: &**disk, model, told };
    if settled_seq == Some(flushed_seq) {
        let behind = found.iter().skip(1).map(|next| next.first_seq.map(|seq| seq - 1)).chain([None]);
        let sealed = found.iter().zip(behind);
        let sealed = sealed.map(|(segment, last)| {
            let last = last.unwrap_or(flushed_seq);
            let own = if judging.was_removed(last) { judging.last_seq_of(segment)? } else { None };
            Ok(sealed_as_found(segment, own.unwrap_or(last)))
        });
        let sealed = sealed.collect::<Result<_, _>>()?;
        return Ok(Recovered { sealed, last_seq: flushed_seq, torn_count: 0 });
    }
    let Judged { sealed, last_seq, end } = judging.judge(&mut found, &mut on_entry)?;
    for path in &leftovers {
        disk.remove(path).map_err(RecoverError::io(path))?;
    }
    let torn_count = match end {
        Some((index, bytes, scanned)) => {
            settle_newest(&**disk, &found[index].path, &bytes, scanned, flushed_seq)?
        }
        None => 0,
    };
    Ok(Recovered { sealed, last_seq: last_seq.unwrap_or(0).max(flushed_seq), torn_count })
}

/// How segments are judged.
struct Judging<'d> {
    disk: &'d dyn Disk,
    model: Model,
    told: Told,
}

/// What came of it.
#[derive(Default)]
struct Judged {
    sealed: Vec<Sealed>,
    last_seq: Option<u64>,
    /// The segment that was read last, by its index.
    end: Option<(usize, Vec<u8>, ScanEnd)>,
}

impl Judging<'_> {
    fn judge(&self, found: &mut [Found], on_entry: &mut impl FnMut(Entry)) -> Result<Judged, RecoverError> {
        let mut judged = Judged::default();
        for index in 0..found.len() {
            put_last_what_cannot_stand_here(&mut found[index..], judged.last_seq);
            let segment = &found[index];
            // Behind one that was read, every one is.
            if judged.end.is_none()
                && let Some((last, next_first)) = self.flushed_before(segment, &found[index + 1..])?
            {
                judged.last_seq = Some(next_first - 1);
                judged.sealed.push(sealed_as_found(segment, last));
                continue;
            }
            let (bytes, scanned) = self.read(segment, judged.last_seq, on_entry)?;
            if scanned.torn && index + 1 < found.len() {
                let reason = "the segment ends badly, but others follow it".to_owned();
                return Err(RecoverError::damaged(&segment.path, scanned.valid_bytes, reason));
            }
            judged.last_seq = scanned.last_seq.or(judged.last_seq);
            if let Some(last) = scanned.last_seq {
                let bytes = scanned.valid_bytes as u64;
                judged.sealed.push(Sealed { bytes, ..sealed_as_found(segment, last) });
            }
            judged.end = Some((index, bytes, scanned));
        }
        Ok(judged)
    }

    /// Where the database has all of a segment, its last record and the first one of the segment that follows: then it is
    /// not worth reading. That is told by the segment that follows, and its own end must not say otherwise: else one of
    /// them begins or ends with a line that belongs elsewhere, and what is passed over may be the only place of a record.
    fn flushed_before(&self, segment: &Found, behind: &[Found]) -> Result<Option<(u64, u64)>, RecoverError> {
        let next_first = behind.iter().find_map(|next| next.first_seq);
        let Some(next_first) = next_first.filter(|next| *next <= self.told.flushed_seq + 1) else {
            return Ok(None);
        };
        let own = self.last_seq_of(segment)?;
        // Those between the two may have been removed: then this one ends where its own last line says.
        let last = own.filter(|_| self.was_removed(next_first - 1)).unwrap_or(next_first - 1);
        Ok(own.is_none_or(|own| own < next_first).then_some((last, next_first)))
    }

    /// Whether the segment with a record was removed; a power cut may have brought it back, without those beside it. What
    /// was removed was flushed: a database that ends before it is an older one, and tells nothing of that.
    fn was_removed(&self, seq: u64) -> bool {
        seq <= self.removed_seq()
    }

    fn removed_seq(&self) -> u64 {
        self.told.removed_seq.min(self.told.flushed_seq)
    }

    fn last_seq_of(&self, segment: &Found) -> Result<Option<u64>, RecoverError> {
        last_seq_of(self.disk, &segment.path, self.model).map_err(RecoverError::io(&segment.path))
    }

    /// Reads a segment that stands behind `last_seq`.
    fn read(
        &self,
        segment: &Found,
        last_seq: Option<u64>,
        on_entry: &mut impl FnMut(Entry),
    ) -> Result<(Vec<u8>, ScanEnd), RecoverError> {
        let flushed_seq = self.told.flushed_seq;
        let expected = last_seq.map(|last| last + 1);
        check_first(segment, expected, flushed_seq)?;
        let bytes = self.disk.read(&segment.path).map_err(RecoverError::io(&segment.path))?;
        let mut missing = None;
        let begins = match (expected, segment.first_seq) {
            (Some(expected), Some(_)) => expected,
            // Before it may stand a removed segment that came back, without those that followed it.
            (expected, None) => expected.unwrap_or(1).max(self.removed_seq() + 1),
            (None, Some(first)) => first,
        };
        let scanned = scan::scan(&bytes, self.model, Some(begins), flushed_seq, |entry| {
            if entry.last_seq() > flushed_seq {
                missing = missing.or_else(|| only_in_database(&entry));
                on_entry(entry);
            }
        });
        let scanned =
            scanned.map_err(|damage| RecoverError::damaged(&segment.path, damage.offset, damage.reason))?;
        if let Some((first, last)) = missing {
            let reason = format!(
                "records {first} to {last} were left out by a repair because the database had them, and now it has only those up to {flushed_seq}"
            );
            return Err(RecoverError::damaged(&segment.path, 0, reason));
        }
        Ok((bytes, scanned))
    }
}

/// A segment in which nothing can be read stands where its label says, and the label is no better than the clock was.
/// Where the next record is in the segment behind it, or the very first one, it cannot stand here: it is the one that was
/// begun last. One that may hold the beginning of the log, which the database has, stays where it is.
fn put_last_what_cannot_stand_here(found: &mut [Found], last_seq: Option<u64>) {
    let Some(readable) = found.iter().position(|segment| segment.readable_seq.is_some()) else { return };
    if found[readable].first_seq == Some(last_seq.unwrap_or(0) + 1) {
        found.rotate_left(readable);
    }
}

fn sealed_as_found(segment: &Found, last_seq: u64) -> Sealed {
    Sealed { path: segment.path.clone(), last_seq, bytes: segment.length, sealed_at: segment.modified }
}

/// The places that a repair left out because the database had their records: here it has not.
fn only_in_database(entry: &Entry) -> Option<(u64, u64)> {
    entry.gap.filter(|gap| !gap.lost).map(|_| (entry.seq, entry.last_seq()))
}

/// The oldest segment must begin where the database ends, or before.
fn check_first(segment: &Found, expected: Option<u64>, flushed_seq: u64) -> Result<(), RecoverError> {
    match (expected, segment.first_seq) {
        (None, Some(first)) if first > flushed_seq + 1 => {
            let reason = format!(
                "it begins with record {first}, but the database ends with record {flushed_seq}; the records between are missing"
            );
            Err(RecoverError::damaged(&segment.path, 0, reason))
        }
        _ => Ok(()),
    }
}

/// A segment and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// Its first record; `None` where its first line is unreadable.
    pub first_seq: Option<u64>,
}

/// The segments below some directories, in order. Nothing is changed.
///
/// # Errors
/// [`RecoverError::Io`] when one cannot be looked at.
pub fn segments(disk: &dyn Disk, directories: &[PathBuf]) -> Result<Vec<Segment>, RecoverError> {
    let (found, _) = find(disk, directories)?;
    Ok(found.into_iter().map(|Found { path, first_seq, .. }| Segment { path, first_seq }).collect())
}

/// Finds the segments in order, and the files without content that an interrupted start left behind.
fn find(disk: &dyn Disk, directories: &[PathBuf]) -> Result<(Vec<Found>, Vec<PathBuf>), RecoverError> {
    let mut found = Vec::new();
    let mut leftovers = Vec::new();
    for (place, directory) in directories.iter().enumerate() {
        for name in disk.list(directory).map_err(RecoverError::io(directory))? {
            let path = directory.join(&name);
            if name.starts_with("wal_") && name.ends_with(disk::TEMPORARY_SUFFIX) {
                leftovers.push(path);
                continue;
            }
            let Some(number) = segment::number_of(&name) else { continue };
            let first_seq = match beginning(disk, &path).map_err(RecoverError::io(&path))? {
                Beginning::Empty => {
                    leftovers.push(path);
                    continue;
                }
                Beginning::Unreadable => None,
                Beginning::Record(seq) => Some(seq),
            };
            let metadata = std::fs::metadata(&path).map_err(RecoverError::io(&path))?;
            let modified = metadata.modified().map_err(RecoverError::io(&path))?;
            let readable_seq = match first_seq {
                None => scan::first_readable_seq(&disk.read(&path).map_err(RecoverError::io(&path))?),
                first_seq => first_seq,
            };
            let (label, length) = ((place, number), metadata.len());
            found.push(Found { path, first_seq, readable_seq, label, length, modified });
        }
    }
    Ok((in_order(found), leftovers))
}

/// Puts segments in order by what can be read of them; those of which nothing can, by their labels.
fn in_order(found: Vec<Found>) -> Vec<Found> {
    let (mut ordered, mut unreadable): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|segment| segment.readable_seq.is_some());
    ordered.sort_by_key(|segment| segment.readable_seq);
    unreadable.sort_by_key(|segment| segment.label);
    for segment in unreadable {
        let before = ordered.iter().rposition(|other: &Found| other.label < segment.label);
        ordered.insert(before.map_or(0, |before| before + 1), segment);
    }
    ordered
}

/// How a segment begins.
enum Beginning {
    /// It holds nothing at all.
    Empty,
    /// Its first line is unreadable.
    Unreadable,
    /// With this record.
    Record(u64),
}

/// How a segment begins. Only the head is read, so that retained segments cost little.
fn beginning(disk: &dyn Disk, path: &Path) -> io::Result<Beginning> {
    let head = disk.read_head(path, HEAD_BYTES)?;
    if head.first().is_some_and(|byte| *byte != 0)
        && let Some(end) = memchr::memchr(b'\n', &head)
    {
        return Ok(beginning_of(&head[..end]));
    }
    let bytes = disk.read(path)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Beginning::Empty);
    }
    Ok(memchr::memchr(b'\n', &bytes).map_or(Beginning::Unreadable, |end| beginning_of(&bytes[..end])))
}

fn beginning_of(line: &[u8]) -> Beginning {
    let places = if entry::has_valid_checksum(line) { entry::read_places(line) } else { None };
    places.map_or(Beginning::Unreadable, |(seq, _)| Beginning::Record(seq))
}

/// The last record of a segment's last line; `None` where that is not readable. Only the end is read.
fn last_seq_of(disk: &dyn Disk, path: &Path, model: Model) -> io::Result<Option<u64>> {
    let tail = disk.read_tail(path, HEAD_BYTES)?;
    match last_line(&tail) {
        // It begins before what was read.
        None | Some((0, _)) if tail.len() == HEAD_BYTES => {
            let bytes = disk.read(path)?;
            Ok(last_line(&bytes).and_then(|(_, line)| seq_of(line, model)))
        }
        line => Ok(line.and_then(|(_, line)| seq_of(line, model))),
    }
}

fn seq_of(line: &[u8], model: Model) -> Option<u64> {
    entry::decode(line, model).ok().map(|entry| entry.last_seq())
}

/// The last line before the NUL at the end, and where it begins.
fn last_line(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().rposition(|byte| *byte != 0)?;
    let start = memchr::memrchr(b'\n', &bytes[..end]).map_or(0, |before| before + 1);
    (bytes[end] == b'\n').then(|| (start, &bytes[start..end]))
}

/// Cuts off the newest segment's torn end and makes what stays durable; answers how many ends were cut.
fn settle_newest(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    end: ScanEnd,
    flushed_seq: u64,
) -> Result<usize, RecoverError> {
    let io_error = || RecoverError::io(path);
    if end.torn {
        let rest = &bytes[end.valid_bytes..];
        let length = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let beside = torn_beside(disk, path, end.valid_bytes, &rest[..length]).map_err(io_error())?;
        disk::write_durably(disk, &beside, &rest[..length]).map_err(RecoverError::io(&beside))?;
        tracing::warn!(file = %path.display(), offset = end.valid_bytes, bytes = length, kept = %beside.display(),
            "the log's last write is torn and was cut off; what a power cut tears had not been answered as durable");
    }
    let valid = &bytes[..end.valid_bytes];
    match end.last_seq {
        None => {
            disk.remove(path).map_err(io_error())?;
            disk.sync_dir(disk::parent_of(path)).map_err(io_error())?;
        }
        Some(last) if last > flushed_seq => {
            match disk::write_durably(disk, path, valid) {
                Err(error) if disk::is_full(&error) => rewrite_in_place(disk, path, valid),
                written => written,
            }
            .map_err(io_error())?;
        }
        Some(_) if valid.len() < bytes.len() => {
            let trim = |mut file: Box<dyn disk::DiskFile>| {
                file.truncate(valid.len() as u64)?;
                file.sync()
            };
            disk.open(path).and_then(trim).map_err(io_error())?;
        }
        Some(_) => {}
    }
    Ok(usize::from(end.torn))
}

/// Where a torn end is kept: where no other one is, for a segment's number may come again.
fn torn_beside(disk: &dyn Disk, path: &Path, offset: usize, torn: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut beside = path.with_file_name(format!("{TORN_PREFIX}{offset}-{name}"));
    let mut again = 1;
    loop {
        match disk.read(&beside) {
            // A start that did not come to its end has kept it already.
            Ok(kept) if kept == torn => return Ok(beside),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(beside),
            Err(error) => return Err(error),
        }
        again += 1;
        beside = path.with_file_name(format!("{TORN_PREFIX}{offset}-{again}-{name}"));
    }
}

/// Writes a segment's own bytes over it where there is no room for a second one. What is on the disk is these bytes or,
/// after a failed sync, older ones: so whichever sectors of this are written, none is worse than before.
fn rewrite_in_place(disk: &dyn Disk, path: &Path, valid: &[u8]) -> io::Result<()> {
    match disk.remove(&disk::temporary_beside(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.open(path)?;
    file.write_at(0, valid)?;
    file.truncate(valid.len() as u64)?;
    file.sync()
}
