//! What is done to a log: one thing, chosen by its number, and what the files are then.

use std::ops::Range;

use super::log::{DAYS, Log, Segment};
use crate::storage::faults::chance::Chance;
use crate::wal::segment::file_name;

/// What a disk writes in one piece, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// One thing that is done to one log.
#[derive(Debug, Clone)]
pub(super) enum Harm {
    /// Bytes of one segment are changed, gone or added; nothing is moved.
    Bytes { segment: usize, change: Change },
    /// Whole lines or segments are moved, gone or there again.
    Lines(Edit),
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Everything from here on is gone, or reads as NUL.
    Cut { at: usize, padded: bool },
    /// These bits of one byte are others.
    Flip { at: usize, bits: u8 },
    /// These ranges read as NUL. Where `tear`, they are sectors of which nothing had been synced.
    Zero { ranges: Vec<Range<usize>>, tear: bool },
    /// Something follows the end of the file.
    Append { bytes: Vec<u8> },
}

#[derive(Debug, Clone)]
pub(super) enum Edit {
    Drop {
        line: usize,
    },
    /// The line stands once more, at this place of a segment.
    Repeat {
        line: usize,
        segment: usize,
        place: usize,
    },
    Swap {
        lines: [usize; 2],
    },
    DropSegment {
        segment: usize,
    },
    SwapSegments {
        segments: [usize; 2],
    },
    /// A segment is there once more, under the next number of a day.
    RepeatSegment {
        segment: usize,
        day: usize,
    },
}

/// A file of a log.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) day: usize,
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl Harm {
    /// The harm of this number: every byte is cut at and flipped, every sector reads as NUL, every line is dropped and
    /// repeated; higher numbers are left to chance.
    pub(super) fn nth(log: &Log, number: usize, random: &mut Chance) -> Self {
        let mut number = number;
        let segments = 0..log.segments.len();
        let lengths: Vec<usize> = segments.clone().map(|segment| log.content(segment).len()).collect();
        for is_cut in [true, false] {
            for (segment, length) in lengths.iter().enumerate() {
                if number < *length {
                    let at = number;
                    let cut = Change::Cut { at, padded: random.percent(50) };
                    let change = if is_cut { cut } else { flip(&log.file(segment), at, random) };
                    return Self::Bytes { segment, change };
                }
                number -= length;
            }
        }
        for segment in segments {
            let length = log.file(segment).len();
            let sectors = length.div_ceil(SECTOR_BYTES);
            if number < sectors {
                let start = number * SECTOR_BYTES;
                let change = zero(start..length.min(start + SECTOR_BYTES));
                return Self::Bytes { segment, change };
            }
            number -= sectors;
        }
        let lines = log.lines.len();
        if number < lines {
            return Self::Lines(Edit::Drop { line: number });
        }
        if number < 2 * lines {
            let line = number - lines;
            let segment = log.segment_of(line);
            let place = line - log.segments[segment].lines.start + 1;
            return Self::Lines(Edit::Repeat { line, segment, place });
        }
        by_chance(log, random)
    }

    /// Whether a power cut can have done it: only what was not synced is gone.
    pub(super) fn is_tear(&self) -> bool {
        matches!(self, Self::Bytes { change: Change::Zero { tear: true, .. }, .. })
    }

    /// The files of the log after the harm.
    pub(super) fn files(&self, log: &Log) -> Vec<File> {
        match self {
            Self::Bytes { segment: harmed, change } => (0..log.segments.len())
                .map(|segment| {
                    let Segment { day, name, .. } = log.segments[segment].clone();
                    let bytes = log.file(segment);
                    File { day, name, bytes: if segment == *harmed { change.apply(bytes) } else { bytes } }
                })
                .collect(),
            Self::Lines(edit) => edit.segments(log).into_iter().map(|edited| edited.file(log)).collect(),
        }
    }
}

/// A segment whose lines were moved.
#[derive(Debug)]
pub(super) struct Edited {
    pub(super) day: usize,
    pub(super) name: String,
    pub(super) lines: Vec<usize>,
    tail_bytes: usize,
}

impl Edited {
    fn file(&self, log: &Log) -> File {
        let mut bytes: Vec<u8> = self.lines.iter().flat_map(|line| log.lines[*line].bytes.clone()).collect();
        bytes.resize(bytes.len() + self.tail_bytes, 0);
        File { day: self.day, name: self.name.clone(), bytes }
    }
}

impl Edit {
    /// The segments after the edit, in the order in which they were written; a repeated one at the end.
    pub(super) fn segments(&self, log: &Log) -> Vec<Edited> {
        let edited = |segment: &Segment| {
            let Segment { day, name, lines, tail_bytes } = segment.clone();
            Edited { day, name, lines: lines.collect(), tail_bytes }
        };
        let mut segments: Vec<Edited> = log.segments.iter().map(edited).collect();
        match *self {
            Self::Drop { line } => segments[log.segment_of(line)].lines.retain(|other| *other != line),
            Self::Repeat { line, segment, place } => segments[segment].lines.insert(place, line),
            Self::Swap { lines: [a, b] } => {
                for line in segments.iter_mut().flat_map(|segment| &mut segment.lines) {
                    *line = if *line == a {
                        b
                    } else if *line == b {
                        a
                    } else {
                        *line
                    };
                }
            }
            Self::DropSegment { segment } => drop(segments.remove(segment)),
            Self::SwapSegments { segments: [a, b] } => {
                let names = [&segments[a], &segments[b]].map(|segment| (segment.day, segment.name.clone()));
                let [of_a, of_b] = names;
                (segments[a].day, segments[a].name) = of_b;
                (segments[b].day, segments[b].name) = of_a;
            }
            Self::RepeatSegment { segment, day } => {
                let mut again = edited(&log.segments[segment]);
                let of_day = log.segments.iter().filter(|segment| segment.day == day);
                (again.day, again.name) = (day, file_name(of_day.count() as u64 + 1));
                segments.push(again);
            }
        }
        segments
    }
}

impl Change {
    pub(super) fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Cut { at, padded: false } => bytes.truncate(*at),
            Self::Cut { at, padded: true } => bytes[*at..].fill(0),
            Self::Flip { at, bits } => bytes[*at] ^= bits,
            Self::Zero { ranges, .. } => ranges.iter().for_each(|range| bytes[range.clone()].fill(0)),
            Self::Append { bytes: further } => bytes.extend(further),
        }
        bytes
    }
}

impl Log {
    pub(super) fn segment_of(&self, line: usize) -> usize {
        self.segments.iter().take_while(|segment| segment.lines.end <= line).count()
    }
}

/// One bit, all of them or some; never so that it reads as NUL, for that is another kind of harm.
fn flip(bytes: &[u8], at: usize, chance: &mut Chance) -> Change {
    let (one, some) = (1 << chance.below(8), 1 + chance.below(255) as u8);
    let bits = chance.one_of(&[one, 0xff, some]);
    let other = if bits == 1 { 2 } else { 1 };
    Change::Flip { at, bits: if bytes[at] == bits { bits ^ other } else { bits } }
}

fn zero(range: Range<usize>) -> Change {
    Change::Zero { ranges: std::iter::once(range).collect(), tear: false }
}

fn by_chance(log: &Log, chance: &mut Chance) -> Harm {
    let segment = chance.below(log.segments.len() as u64) as usize;
    let other = chance.below(log.segments.len() as u64) as usize;
    let mut any_line = || chance.below(log.lines.len() as u64) as usize;
    let (line, another) = (any_line(), any_line());
    let places = log.segments[segment].lines.len() as u64 + 1;
    let edit = match chance.below(20) {
        0..=4 => Edit::Swap { lines: [line, another] },
        5..=8 => Edit::Repeat { line, segment, place: chance.below(places) as usize },
        9 => Edit::DropSegment { segment },
        10 => Edit::SwapSegments { segments: [segment, other] },
        11 => {
            let days = if log.is_daily() { DAYS.len() as u64 } else { 1 };
            Edit::RepeatSegment { segment, day: chance.below(days) as usize }
        }
        _ => return bytes_by_chance(log, segment, chance),
    };
    Harm::Lines(edit)
}

fn bytes_by_chance(log: &Log, segment: usize, random: &mut Chance) -> Harm {
    let (content, length) = (log.content(segment).len(), log.file(segment).len());
    let mut any = |end: usize| random.below(end as u64) as usize;
    let change = match any(8) {
        0 => {
            let start = any(content);
            zero(start..length.min(start + 1 + any(700)))
        }
        1 => {
            let sectors = length.div_ceil(SECTOR_BYTES);
            let first = any(sectors);
            let end = length.min((first + 1 + any(3)) * SECTOR_BYTES);
            zero(first * SECTOR_BYTES..end)
        }
        2 => {
            let length = 1 + any(900);
            Change::Append { bytes: (0..length).map(|_| any(256) as u8).collect() }
        }
        3 => Change::Append { bytes: vec![0; 1 + any(900)] },
        4 if length > content => flip(&log.file(segment), content + any(length - content), random),
        5 if length > content => Change::Cut { at: content + any(length - content), padded: false },
        _ => return tear(log, random),
    };
    Harm::Bytes { segment, change }
}

/// Some sectors of what was not synced did not reach the disk.
fn tear(log: &Log, chance: &mut Chance) -> Harm {
    let segment = log.segments.len() - 1;
    let length = log.file(segment).len();
    let synced = log.extents(segment).into_iter().filter(|(line, _)| *line < log.synced);
    let synced_bytes = synced.max_by_key(|(line, _)| *line).map_or(0, |(_, extent)| extent.end);
    let sectors = synced_bytes / SECTOR_BYTES..length.div_ceil(SECTOR_BYTES);
    let ranges = sectors.filter(|_| chance.percent(50)).map(|sector| {
        let start = sector * SECTOR_BYTES;
        start.max(synced_bytes)..length.min(start + SECTOR_BYTES)
    });
    Harm::Bytes { segment, change: Change::Zero { ranges: ranges.collect(), tear: true } }
}
