//! What a log without damage would be.
//!
//! Every line that can be read is kept, in order of place, in the segment to which it belongs. A place that has no
//! line gets a gap instead, which says whether its record was in the database.
//!
//! Invariant: no line goes from a file before it stands in another, so an interruption loses none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::Timestamp;

use super::arrange::{Arrangement, Placed};
use super::{OfflineError, named};
use crate::disk::{self, Disk};
use crate::wal::entry::{self, Gap};
use crate::wal::segment;

/// Something in the log that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    file: Option<PathBuf>,
    offset: usize,
    what: String,
    /// Places without a line, and whether their records are lost.
    missing: Option<(u64, u64, bool)>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}, byte {}: {}", file.display(), self.offset, self.what)?,
            None => write!(f, "{}", self.what)?,
        }
        match self.missing {
            None => write!(f, "; no record is missing"),
            Some((first, last, false)) => {
                write!(
                    f,
                    "; {} cannot be read here, and nothing is lost: the database has them",
                    records(first, last)
                )
            }
            Some((first, last, true)) => write!(f, "; {} would be lost", records(first, last)),
        }
    }
}

fn records(first: u64, last: u64) -> String {
    if first == last {
        format!("record {first}")
    } else {
        format!("records {first} to {last} ({})", last - first + 1)
    }
}

/// What is written anew of one segment.
#[derive(Debug, Default)]
struct Rewrite {
    /// The lines that stay or come, and the gaps, in order.
    parts: Vec<Part>,
    /// Lines that belong to other segments.
    leaving: Vec<(usize, usize)>,
    changed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Line { segment: usize, offset: usize, length: usize },
    Gap { gap: Gap, seq: u64 },
}

/// How far a log's records reach by what is known from elsewhere, by the last record of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// The last one that the database has.
    pub(super) base: u64,
    /// There were records up to this one at least.
    pub(super) known: u64,
    /// Of those that the database has, the last one whose segment was removed. A power cut may bring back any of them.
    pub(super) removed: u64,
}

/// What makes a log whole.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// What is wrong now.
    pub(super) damages: Vec<Damage>,
    files: Vec<PathBuf>,
    /// One for each file.
    rewrites: Vec<Rewrite>,
    /// The gaps of a log that has no line.
    alone: Vec<Part>,
    base_seq: u64,
}

/// The bytes of lines that go to other segments, by segment and offset.
type Moved = BTreeMap<(usize, usize), Vec<u8>>;

impl Mending {
    /// Of these lines in these files, behind whose last lines something unreadable may begin; of the last file
    /// everything from `torn_from` on is for the start to cut off.
    pub(super) fn of(
        files: Vec<PathBuf>,
        lines: Vec<Placed>,
        unreadable_ends: Vec<Option<usize>>,
        torn_from: Option<usize>,
        reach: Reach,
    ) -> Self {
        let Reach { base: base_seq, known: known_seq, removed: removed_seq } = reach;
        let rewrites = files.iter().map(|_| Rewrite::default()).collect();
        let mut mending = Self { files, rewrites, base_seq, ..Self::default() };
        let Arrangement { kept, again } = Arrangement::of(lines);
        for placed in again {
            mending.note_unreadable(&placed);
            mending.note(placed, "stands here again");
        }
        let mut last = None;
        for (placed, to) in kept {
            let expected = match last {
                None => placed.line.first_seq.min(base_seq + 1),
                Some((next, segment)) if segment == to => next,
                // Segments between the two may have been removed.
                Some((next, _)) => (removed_seq + 1).max(next),
            };
            mending.add(placed, to, expected);
            last = Some((placed.line.last_seq + 1, to));
        }
        let newest = unreadable_ends.len().saturating_sub(1);
        for (at, end) in unreadable_ends.into_iter().enumerate() {
            if let Some(offset) = end.filter(|_| at < newest || torn_from.is_none()) {
                mending.damage(at, offset, "the rest of the segment is not readable");
            }
        }
        let next = last.map_or(base_seq + 1, |(next, _)| next);
        if removed_seq < known_seq {
            mending.add_end(next, known_seq);
        }
        // Where the end began may be another place now, and then it might not be taken for torn.
        if let (Some(newest), true) =
            (mending.rewrites.last_mut(), torn_from.is_some() && !mending.damages.is_empty())
        {
            newest.changed = true;
        }
        mending
    }

    /// The places whose records are lost.
    pub(super) fn lost(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.damages.iter().filter_map(|damage| match damage.missing {
            Some((first, last, true)) => Some((first, last)),
            _ => None,
        })
    }

    /// Adds a line to the segment to which it belongs, and before it what is missing from `expected` on.
    fn add(&mut self, placed: Placed, to: usize, expected: u64) {
        let Placed { segment, line } = placed;
        if line.first_seq > expected {
            let hidden = line.unreadable_before;
            let what = if hidden.is_some() { "this line is not readable" } else { "a line is missing here" };
            let range = (expected, line.first_seq - 1);
            let gaps = self.missing(Some(segment), hidden.unwrap_or(line.offset), range, what);
            self.rewrites[to].parts.extend(gaps);
            self.rewrites[to].changed = true;
            self.rewrites[segment].changed |= hidden.is_some();
        } else {
            self.note_unreadable(&placed);
        }
        if segment != to || self.stands_before(to, line.offset) {
            self.note(placed, "does not stand where it belongs");
            self.rewrites[to].changed = true;
        }
        if segment != to {
            self.rewrites[segment].leaving.push((line.offset, line.length));
        }
        let part = Part::Line { segment, offset: line.offset, length: line.length };
        self.rewrites[to].parts.push(part);
        if let Some(gap) = line.gap.filter(|gap| !gap.lost && line.last_seq > self.base_seq) {
            // The database had them when an earlier repair was made, and has them no more.
            let range = (line.first_seq, line.first_seq + gap.count - 1);
            let what = "an earlier repair left records to the database, which is older now";
            let gaps = self.missing(Some(segment), line.offset, range, what);
            self.rewrites[to].parts.pop();
            self.rewrites[to].parts.extend(gaps);
            self.rewrites[to].changed = true;
        }
    }

    /// Adds the gaps behind the last line.
    fn add_end(&mut self, next: u64, known_seq: u64) {
        if next > known_seq {
            return;
        }
        let last = self.rewrites.iter().rposition(|rewrite| !rewrite.parts.is_empty());
        let end = last.and_then(|last| self.rewrites[last].own_end(last)).unwrap_or(0);
        let gaps = self.missing(last, end, (next, known_seq), "the log's end is missing");
        let parts = last.map_or(&mut self.alone, |last| {
            self.rewrites[last].changed = true;
            &mut self.rewrites[last].parts
        });
        parts.extend(gaps);
    }

    /// Whether a line stands in its segment before one whose place is before it.
    fn stands_before(&self, segment: usize, offset: usize) -> bool {
        self.rewrites[segment].own_end(segment).is_some_and(|end| offset < end)
    }

    fn note(&mut self, Placed { segment, line }: Placed, what: &str) {
        self.damage(segment, line.offset, &format!("record {} {what}", line.first_seq));
    }

    fn note_unreadable(&mut self, placed: &Placed) {
        if let Some(offset) = placed.line.unreadable_before {
            self.damage(placed.segment, offset, "this line is not readable");
        }
    }

    /// Notes what costs no record.
    fn damage(&mut self, segment: usize, offset: usize, what: &str) {
        let file = Some(self.files[segment].clone());
        self.damages.push(Damage { file, offset, what: what.to_owned(), missing: None });
        self.rewrites[segment].changed = true;
    }

    /// Notes missing places: those that the database has, and those that are lost.
    fn missing(
        &mut self,
        segment: Option<usize>,
        offset: usize,
        (first, last): (u64, u64),
        what: &str,
    ) -> Vec<Part> {
        let in_database = (first, last.min(self.base_seq), false);
        let nowhere = (first.max(self.base_seq + 1), last, true);
        let mut gaps = Vec::new();
        for (first, last, lost) in [in_database, nowhere].into_iter().filter(|(first, last, _)| first <= last)
        {
            let what = what.to_owned();
            let file = segment.map(|segment| self.files[segment].clone());
            self.damages.push(Damage { file, offset, what, missing: Some((first, last, lost)) });
            gaps.push(Part::Gap { gap: Gap { count: last - first + 1, lost }, seq: first });
        }
        gaps
    }

    fn changed(&self) -> impl Iterator<Item = (usize, &Path, &Rewrite)> {
        let all = self.files.iter().zip(&self.rewrites).enumerate();
        all.filter(|(_, (_, rewrite))| rewrite.changed).map(|(at, (file, rewrite))| (at, &**file, rewrite))
    }

    /// Writes the segments anew; what they were is kept beside. A log that has no segment gets one in
    /// `directory`.
    pub(super) fn write(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        now: Timestamp,
    ) -> Result<(), OfflineError> {
        let moved = self.moved(disk)?;
        // Lines that leave stay behind the others, until they stand where they belong.
        for (at, file, rewrite) in self.changed() {
            let old = keep_beside(disk, file, now)?;
            let mut new = bytes_of(&rewrite.parts, at, &old, &moved, now);
            rewrite.leaving.iter().for_each(|(offset, _)| new.extend_from_slice(&moved[&(at, *offset)]));
            put(disk, file, &new)?;
        }
        for (_, file, rewrite) in self.changed().filter(|(_, _, rewrite)| !rewrite.leaving.is_empty()) {
            let mut new = disk.read(file).map_err(OfflineError::io(named(file)))?;
            let leaving: usize = rewrite.leaving.iter().map(|(_, length)| length).sum();
            new.truncate(new.len() - leaving);
            put(disk, file, &new)?;
        }
        if self.alone.is_empty() {
            return Ok(());
        }
        let file = free_segment(disk, directory)?;
        disk::create_dir_durably(disk, disk::parent_of(&file)).map_err(OfflineError::io(named(&file)))?;
        put(disk, &file, &bytes_of(&self.alone, 0, &[], &moved, now))
    }

    fn moved(&self, disk: &dyn Disk) -> Result<Moved, OfflineError> {
        let mut moved = Moved::new();
        for (at, file, rewrite) in self.changed().filter(|(_, _, rewrite)| !rewrite.leaving.is_empty()) {
            let bytes = disk.read(file).map_err(OfflineError::io(named(file)))?;
            for (offset, length) in &rewrite.leaving {
                moved.insert((at, *offset), bytes[*offset..*offset + *length].to_vec());
            }
        }
        Ok(moved)
    }
}

/// Puts bytes into a file's place; no bytes are no file.
fn put(disk: &dyn Disk, file: &Path, bytes: &[u8]) -> Result<(), OfflineError> {
    let done = if bytes.is_empty() {
        disk.remove(file).and_then(|()| disk.sync_dir(disk::parent_of(file)))
    } else {
        disk::write_durably(disk, file, bytes)
    };
    done.map_err(OfflineError::io(named(file)))
}

/// Copies a segment beside itself, under a name that says when; answers its bytes.
fn keep_beside(disk: &dyn Disk, file: &Path, now: Timestamp) -> Result<Vec<u8>, OfflineError> {
    let bytes = disk.read(file).map_err(OfflineError::io(named(file)))?;
    let when: String = now.to_string().chars().take(19).filter(|c| *c != ':').collect();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!("damaged-{when}Z-{name}"));
    disk::write_durably(disk, &beside, &bytes).map_err(OfflineError::io(named(&beside)))?;
    Ok(bytes)
}

/// A segment's name that no file in the directory has.
fn free_segment(disk: &dyn Disk, directory: &Path) -> Result<PathBuf, OfflineError> {
    let names = disk.list(directory).map_err(OfflineError::io(named(directory)))?;
    let number = names.iter().filter_map(|name| segment::number_of(name)).max().unwrap_or(0) + 1;
    Ok(directory.join(segment::file_name(number)))
}

fn bytes_of(parts: &[Part], at: usize, old: &[u8], moved: &Moved, now: Timestamp) -> Vec<u8> {
    let mut new = Vec::with_capacity(old.len());
    for part in parts {
        match *part {
            Part::Line { segment, offset, length } if segment == at => {
                new.extend_from_slice(&old[offset..offset + length]);
            }
            Part::Line { segment, offset, .. } => new.extend_from_slice(&moved[&(segment, offset)]),
            Part::Gap { gap, seq } => entry::encode_gap(gap, seq, now, &mut new),
        }
    }
    new
}

impl Rewrite {
    /// Where the last line ends that stays in its segment.
    fn own_end(&self, at: usize) -> Option<usize> {
        self.parts.iter().rev().find_map(|part| match *part {
            Part::Line { segment, offset, length } if segment == at => Some(offset + length),
            _ => None,
        })
    }
}
