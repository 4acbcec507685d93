//! The log as far as it can be read, and what a log without damage would be.
//!
//! Every line whose checksum is right is kept, in order of place. A place between two kept lines that has no
//! line gets a gap instead, which says whether its record was in the database.
//!
//! Invariant: a line whose checksum is right and that is not understood is never thrown away; the repair is
//! refused then.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::Timestamp;

use super::{OfflineError, named};
use crate::disk::{self, Disk};
use crate::storage::schema::Model;
use crate::wal::entry::{self, EntryError, Gap};
use crate::wal::{recover, scan, segment};

/// A line that is as it was written.
#[derive(Debug, Clone, Copy)]
struct Line {
    offset: usize,
    length: usize,
    first_seq: u64,
    last_seq: u64,
    gap: Option<Gap>,
}

/// One segment.
#[derive(Debug)]
struct Segment {
    file: PathBuf,
    lines: Vec<Line>,
    /// Where something stands that is no line.
    unreadable: Vec<usize>,
    /// Where the last line ends.
    end: usize,
    /// From here on the start cuts off what is there, as of a write that was not answered.
    torn_from: Option<usize>,
}

/// The log of one partition.
#[derive(Debug)]
pub(super) struct Survey {
    segments: Vec<Segment>,
}

impl Survey {
    /// Reads every segment.
    pub(super) fn take(disk: &dyn Disk, directories: &[PathBuf], model: Model) -> Result<Self, OfflineError> {
        let failed = |error: recover::RecoverError| OfflineError::Failed(error.to_string());
        let mut segments = Vec::new();
        for found in recover::segments(disk, directories).map_err(failed)? {
            let bytes = disk.read(&found.path).map_err(OfflineError::io(named(&found.path)))?;
            segments.push(Segment::read(found.path, &bytes, model)?);
        }
        // Only the newest segment can end in a write that tore.
        let older = segments.len().saturating_sub(1);
        segments[..older].iter_mut().for_each(|segment| segment.torn_from = None);
        if let Some((newest, from)) =
            segments.last_mut().and_then(|last| last.torn_from.map(|from| (last, from)))
        {
            newest.lines.retain(|line| line.offset < from);
            newest.unreadable.retain(|offset| *offset < from);
            newest.end = from;
        }
        Ok(Self { segments })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.lines.is_empty())
    }

    /// The place of the first record that can be read.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.segments.iter().flat_map(|segment| &segment.lines).map(|line| line.first_seq).next()
    }

    /// The place of the last record that can be read; 0 where there is none.
    pub(super) fn last_seq(&self) -> u64 {
        let lines = self.segments.iter().flat_map(|segment| &segment.lines);
        lines.map(|line| line.last_seq).max().unwrap_or(0)
    }

    /// What a log without damage would be on top of a database with everything up to `base_seq`, when there
    /// were records up to `known_seq` at least.
    pub(super) fn mend(&self, base_seq: u64, known_seq: u64) -> Mending {
        let mut mending = Mending::default();
        let mut next = None;
        for segment in &self.segments {
            next = mending.add(segment, base_seq, next);
        }
        let next = next.unwrap_or(base_seq + 1);
        if next <= known_seq {
            let last = self.segments.iter().rev().find(|segment| !segment.lines.is_empty());
            let file = last.map(|segment| segment.file.clone());
            let offset = last.map_or(0, |segment| segment.end);
            let missing = (next, known_seq);
            let gaps =
                mending.missing(file.as_deref(), offset, missing, base_seq, "the log's end is missing");
            mending.ending = Some(Ending { file, gaps });
        }
        mending
    }
}

impl Segment {
    fn read(file: PathBuf, bytes: &[u8], model: Model) -> Result<Self, OfflineError> {
        let mut segment = Self { file, lines: Vec::new(), unreadable: Vec::new(), end: 0, torn_from: None };
        let mut offset = 0;
        while let Some(length) = bytes.get(offset..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let run = &bytes[offset..offset + length];
            // A newline before it may be what is damaged: the line then begins within the run.
            let whole = segment.push(run, offset, model)?;
            if !whole {
                let later = later_starts(run).find(|start| entry::has_valid_checksum(&run[*start..]));
                segment.unreadable.push(offset);
                if let Some(start) = later {
                    segment.push(&run[start..], offset + start, model)?;
                }
            }
            offset += length + 1;
        }
        if bytes[offset..].iter().any(|byte| *byte != 0) {
            segment.unreadable.push(offset);
        }
        // What recovery itself makes of it: what it may cut off is no damage.
        // Before a first line that does not begin the file, another one stood.
        let begins = |line: &Line| line.first_seq - u64::from(line.offset > 0 && line.first_seq > 1);
        let judged = scan::scan(bytes, model, segment.lines.first().map(begins), |_| {});
        segment.torn_from = judged.ok().filter(|end| end.torn).map(|end| end.valid_bytes);
        Ok(segment)
    }

    fn push(&mut self, line: &[u8], offset: usize, model: Model) -> Result<bool, OfflineError> {
        match entry::decode(line, model) {
            Ok(entry) => {
                self.end = offset + line.len() + 1;
                self.lines.push(Line {
                    offset,
                    length: line.len() + 1,
                    first_seq: entry.seq,
                    last_seq: entry.last_seq(),
                    gap: entry.gap,
                });
                Ok(true)
            }
            Err(EntryError::Checksum) => Ok(false),
            Err(error @ EntryError::Meaning(_)) => {
                let file = named(&self.file);
                let message =
                    format!("{file}, byte {offset}: {error}. A repair would throw it away, so none is made");
                Err(OfflineError::Person(message))
            }
        }
    }
}

/// How many beginnings are tried in one run.
const MAX_STARTS: usize = 4096;

/// Where a line may begin within a run of bytes, but for its beginning: batches first, which hold others.
fn later_starts(run: &[u8]) -> impl Iterator<Item = usize> {
    let batches = memchr::memmem::find_iter(run, b"{\"op\":\"batch\"");
    batches.chain(memchr::memmem::rfind_iter(run, b"{\"op\":\"")).filter(|start| *start > 0).take(MAX_STARTS)
}

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
    /// The lines that stay, and the gaps, in order.
    parts: Vec<Part>,
    changed: bool,
    /// Where a torn end begins, which stays.
    torn_from: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Line { offset: usize, length: usize },
    Gap { gap: Gap, seq: u64 },
}

/// What makes a log whole.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// What is wrong now.
    pub(super) damages: Vec<Damage>,
    rewrites: BTreeMap<PathBuf, Rewrite>,
    ending: Option<Ending>,
}

/// The gaps behind the last line.
#[derive(Debug)]
struct Ending {
    /// The segment of that line, if there is one.
    file: Option<PathBuf>,
    gaps: Vec<(Gap, u64)>,
}

impl Mending {
    /// The places whose records are lost.
    pub(super) fn lost(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.damages.iter().filter_map(|damage| match damage.missing {
            Some((first, last, true)) => Some((first, last)),
            _ => None,
        })
    }

    /// Adds a segment behind which the place `next` comes; answers the next one.
    fn add(&mut self, segment: &Segment, base_seq: u64, mut next: Option<u64>) -> Option<u64> {
        let mut rewrite = Rewrite { torn_from: segment.torn_from, ..Rewrite::default() };
        let mut unreadable = segment.unreadable.iter().copied().peekable();
        for line in &segment.lines {
            let mut at = None;
            while let Some(offset) = unreadable.next_if(|offset| *offset < line.offset) {
                at = at.or(Some(offset));
            }
            let what = if at.is_some() { "this line is not readable" } else { "a line is missing here" };
            let expected = next.unwrap_or(line.first_seq.min(base_seq + 1));
            if line.first_seq < expected {
                self.note(
                    &segment.file,
                    line.offset,
                    &format!("record {} stands here again", line.first_seq),
                );
                rewrite.changed = true;
                continue;
            }
            if line.first_seq > expected {
                let range = (expected, line.first_seq - 1);
                for (gap, seq) in
                    self.missing(Some(&segment.file), at.unwrap_or(line.offset), range, base_seq, what)
                {
                    rewrite.parts.push(Part::Gap { gap, seq });
                }
                rewrite.changed = true;
            } else if let Some(offset) = at {
                self.note(&segment.file, offset, what);
                rewrite.changed = true;
            }
            rewrite.parts.push(Part::Line { offset: line.offset, length: line.length });
            if let Some(gap) = line.gap.filter(|gap| !gap.lost && line.last_seq > base_seq) {
                // The database had them when an earlier repair was made, and has them no more.
                rewrite.parts.pop();
                let range = (line.first_seq, line.first_seq + gap.count - 1);
                let what = "an earlier repair left records to the database, which is older now";
                for (gap, seq) in self.missing(Some(&segment.file), line.offset, range, base_seq, what) {
                    rewrite.parts.push(Part::Gap { gap, seq });
                }
                rewrite.changed = true;
            }
            next = Some(line.last_seq + 1);
        }
        if let Some(offset) = unreadable.next() {
            self.note(&segment.file, offset, "the rest of the segment is not readable");
            rewrite.changed = true;
        }
        if rewrite.changed {
            self.rewrites.insert(segment.file.clone(), rewrite);
        }
        next
    }

    fn note(&mut self, file: &Path, offset: usize, what: &str) {
        self.damages.push(Damage {
            file: Some(file.to_owned()),
            offset,
            what: what.to_owned(),
            missing: None,
        });
    }

    /// Notes missing places: those that the database has, and those that are lost.
    fn missing(
        &mut self,
        file: Option<&Path>,
        offset: usize,
        (first, last): (u64, u64),
        base_seq: u64,
        what: &str,
    ) -> Vec<(Gap, u64)> {
        let in_database = (first, last.min(base_seq), false);
        let nowhere = (first.max(base_seq + 1), last, true);
        let mut gaps = Vec::new();
        for (first, last, lost) in [in_database, nowhere].into_iter().filter(|(first, last, _)| first <= last)
        {
            let what = what.to_owned();
            let file = file.map(Path::to_owned);
            self.damages.push(Damage { file, offset, what, missing: Some((first, last, lost)) });
            gaps.push((Gap { count: last - first + 1, lost }, first));
        }
        gaps
    }

    /// Writes the segments anew; what they were is kept beside. A log that has no segment gets one in
    /// `directory`.
    pub(super) fn write(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        now: Timestamp,
    ) -> Result<(), OfflineError> {
        for (file, rewrite) in &self.rewrites {
            let failed = || OfflineError::io(named(file));
            let bytes = keep_beside(disk, file, now)?;
            let whole = rewrite.bytes(&bytes, now);
            if whole.is_empty() {
                disk.remove(file).and_then(|()| disk.sync_dir(disk::parent_of(file))).map_err(failed())?;
            } else {
                disk::write_durably(disk, file, &whole).map_err(failed())?;
            }
        }
        let Some(Ending { file, gaps }) = &self.ending else { return Ok(()) };
        let (file, mut bytes) = match file {
            Some(file) if self.rewrites.contains_key(file) => {
                (file.clone(), disk.read(file).map_err(OfflineError::io(named(file)))?)
            }
            Some(file) => (file.clone(), keep_beside(disk, file, now)?),
            None => (free_segment(disk, directory)?, Vec::new()),
        };
        // What may stand behind the last line was never answered, and is kept beside now.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        for (gap, seq) in gaps {
            entry::encode_gap(*gap, *seq, now, &mut bytes);
        }
        disk::create_dir_durably(disk, disk::parent_of(&file))
            .and_then(|()| disk::write_durably(disk, &file, &bytes))
            .map_err(OfflineError::io(named(&file)))
    }
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

impl Rewrite {
    fn bytes(&self, old: &[u8], now: Timestamp) -> Vec<u8> {
        let mut new = Vec::with_capacity(old.len());
        for part in &self.parts {
            match *part {
                Part::Line { offset, length } => new.extend_from_slice(&old[offset..offset + length]),
                Part::Gap { gap, seq } => entry::encode_gap(gap, seq, now, &mut new),
            }
        }
        let rest = &old[self.torn_from.unwrap_or(old.len())..];
        let length = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        new.extend_from_slice(&rest[..length]);
        new
    }
}
