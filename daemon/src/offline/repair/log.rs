//! The log as far as it can be read.
//!
//! Every line whose checksum is right is found, wherever it stands. What a log without damage would be of them is for
//! [`super::mending`].
//!
//! Invariants: a line whose checksum is right and that is not understood is never thrown away; the repair is
//! refused then. What is taken for a write that tore is what the start takes for one.

use std::path::{Path, PathBuf};

use super::arrange::Placed;
use super::mending::{Mending, Reach};
use super::{OfflineError, named};
use crate::disk::Disk;
use crate::storage::schema::Model;
use crate::wal::entry::{self, EntryError, Gap};
use crate::wal::{recover, scan};

/// A line that is as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) offset: usize,
    pub(super) length: usize,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) gap: Option<Gap>,
    /// Where something begins that is no line and ends where this one begins.
    pub(super) unreadable_before: Option<usize>,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: PathBuf,
    lines: Vec<Line>,
    /// Where behind the last line something begins that is no line.
    unreadable_end: Option<usize>,
}

/// The log of one partition.
#[derive(Debug)]
pub(super) struct Survey {
    /// In the order of what they hold.
    segments: Vec<Segment>,
    /// The bytes of the last one: only it can end in a write that tore.
    newest: Vec<u8>,
    model: Model,
    /// Up to which record segments were removed.
    removed_seq: u64,
}

impl Survey {
    /// Reads every segment of a log of which those up to `removed_seq` were removed.
    pub(super) fn take(
        disk: &dyn Disk,
        directories: &[PathBuf],
        model: Model,
        removed_seq: u64,
    ) -> Result<Self, OfflineError> {
        let failed = |error: recover::RecoverError| OfflineError::Failed(error.to_string());
        let read = |file: &Path| disk.read(file).map_err(OfflineError::io(named(file)));
        let mut segments = Vec::new();
        for found in recover::segments(disk, directories).map_err(failed)? {
            let bytes = read(&found.path)?;
            segments.push(Segment::read(found.path, &bytes, model)?);
        }
        let segments = in_order(segments);
        let newest = segments.last().map_or(Ok(Vec::new()), |last| read(&last.file))?;
        Ok(Self { segments, newest, model, removed_seq })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first_seq().is_none()
    }

    /// The place of the first record that can be read.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.lines(self.torn_from(0, 0)).map(|placed| placed.line.first_seq).min()
    }

    /// The place of the last record that can be read; 0 where there is none.
    pub(super) fn last_seq(&self) -> u64 {
        self.lines(self.torn_from(0, 0)).map(|placed| placed.line.last_seq).max().unwrap_or(0)
    }

    /// What a log without damage would be on top of a database with everything up to `base_seq`, when there
    /// were records up to `known_seq` at least.
    pub(super) fn mend(&self, base_seq: u64, known_seq: u64) -> Mending {
        let torn_from = self.torn_from(base_seq, known_seq);
        let lines = self.lines(torn_from).collect();
        let ends = self.segments.iter().map(|segment| segment.unreadable_end).collect();
        let files = self.segments.iter().map(|segment| segment.file.clone()).collect();
        let reach = Reach { base: base_seq, known: known_seq, removed: self.removed_seq.min(base_seq) };
        Mending::of(files, lines, ends, torn_from, reach)
    }

    /// The lines of every segment; of the newest those before its torn end.
    fn lines(&self, torn_from: Option<usize>) -> impl Iterator<Item = Placed> + '_ {
        let newest = self.segments.len().saturating_sub(1);
        let placed =
            self.segments.iter().enumerate().flat_map(|(segment, found)| {
                found.lines.iter().map(move |line| Placed { segment, line: *line })
            });
        placed.filter(move |placed| {
            placed.segment < newest || torn_from.is_none_or(|from| placed.line.offset < from)
        })
    }

    /// From where on the start cuts off the newest segment's end, as of a write that was not answered. It begins where
    /// the start begins: behind the segments before it and, where its first line is not readable, behind what was removed.
    fn torn_from(&self, base_seq: u64, known_seq: u64) -> Option<usize> {
        let (newest, others) = self.segments.split_last()?;
        let behind = others.iter().flat_map(|segment| &segment.lines).map(|line| line.last_seq + 1).max();
        let first = newest.lines.first().filter(|line| line.offset == 0).map(|line| line.first_seq);
        let begins = match first {
            None => behind.unwrap_or(1).max(self.removed_seq.min(base_seq) + 1),
            Some(first) => behind.unwrap_or(first).max(first),
        };
        let end = scan::scan(&self.newest, self.model, Some(begins), base_seq, |_| {});
        let end = end.ok().filter(|end| end.torn)?;
        // What was answered did not tear.
        let last_seq = end.last_seq.unwrap_or(begins - 1).max(base_seq);
        (last_seq >= known_seq).then_some(end.valid_bytes)
    }
}

/// Puts segments in order by a line of their middle: the first one may be misplaced. Those without lines stay where
/// they are.
fn in_order(segments: Vec<Segment>) -> Vec<Segment> {
    let middles: Vec<_> = segments.iter().map(Segment::middle_seq).collect();
    let readable: Vec<_> = (0..segments.len()).filter(|at| middles[*at].is_some()).collect();
    let mut ordered = readable.clone();
    ordered.sort_by_key(|at| middles[*at]);
    let mut sources: Vec<_> = (0..segments.len()).collect();
    for (place, source) in readable.into_iter().zip(ordered) {
        sources[place] = source;
    }
    let mut segments: Vec<_> = segments.into_iter().map(Some).collect();
    sources.into_iter().filter_map(|source| segments[source].take()).collect()
}

impl Segment {
    fn read(file: PathBuf, bytes: &[u8], model: Model) -> Result<Self, OfflineError> {
        let mut segment = Self { file, lines: Vec::new(), unreadable_end: None };
        let mut offset = 0;
        while let Some(length) = bytes.get(offset..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let run = &bytes[offset..offset + length];
            // A newline before it may be what is damaged: the line then begins within the run.
            let whole = segment.push(run, offset, model)?;
            if !whole {
                let later = later_starts(run).find(|start| entry::has_valid_checksum(&run[*start..]));
                segment.unreadable_end.get_or_insert(offset);
                if let Some(start) = later {
                    segment.push(&run[start..], offset + start, model)?;
                }
            }
            offset += length + 1;
        }
        if bytes[offset..].iter().any(|byte| *byte != 0) {
            segment.unreadable_end.get_or_insert(offset);
        }
        Ok(segment)
    }

    fn push(&mut self, line: &[u8], offset: usize, model: Model) -> Result<bool, OfflineError> {
        match entry::decode(line, model) {
            Ok(entry) => {
                self.lines.push(Line {
                    offset,
                    length: line.len() + 1,
                    first_seq: entry.seq,
                    last_seq: entry.last_seq(),
                    gap: entry.gap,
                    unreadable_before: self.unreadable_end.take(),
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

    /// The place of the line in the middle, by places.
    fn middle_seq(&self) -> Option<u64> {
        let mut seqs: Vec<_> = self.lines.iter().map(|line| line.first_seq).collect();
        seqs.sort_unstable();
        seqs.get(seqs.len() / 2).copied()
    }
}

/// How many beginnings are tried in one run.
const MAX_STARTS: usize = 4096;

/// Where a line may begin within a run of bytes, but for its beginning: batches first, which hold others.
fn later_starts(run: &[u8]) -> impl Iterator<Item = usize> {
    let batches = memchr::memmem::find_iter(run, b"{\"op\":\"batch\"");
    batches.chain(memchr::memmem::rfind_iter(run, b"{\"op\":\"")).filter(|start| *start > 0).take(MAX_STARTS)
}
