//! What recovery must make of a harmed log, by what was written and what was done to it.
//!
//! Nothing of the log's own code is asked: a line is whole where the bytes that were written stand where they stood, and
//! what is torn and what is damaged is what `DESIGN.md` says.

use std::ops::Range;

use super::harm::{Change, Edit, Harm, SECTOR_BYTES};
use super::log::Log;

/// What must come of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// It starts with the first `through` lines.
    Starts { through: usize, torn: Option<Torn> },
    /// It is damage, found at one of these places of the harmed files.
    Refused { places: Vec<(usize, usize)> },
    /// Only what the database has was hurt: it may start or refuse, but loses nothing of these lines.
    Either { through: usize },
}

/// What is cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) segment: usize,
    pub(super) offset: usize,
    /// Where what is kept of it ends.
    pub(super) end: usize,
}

pub(super) fn of(log: &Log, harm: &Harm) -> Expected {
    match harm {
        Harm::Bytes { segment, change } => of_bytes(log, *segment, change),
        Harm::Lines(edit) => of_lines(log, edit),
    }
}

fn of_bytes(log: &Log, segment: usize, change: &Change) -> Expected {
    let bytes = change.apply(log.file(segment));
    let is_last = segment + 1 == log.segments.len();
    let all = log.lines.len();
    let extents = log.extents(segment);
    let is_whole = |(line, extent): &&(usize, Range<usize>)| {
        bytes.get(extent.clone()) == Some(log.lines[*line].bytes.as_slice())
    };
    let (bad, offset) = match extents.iter().find(|extent| !is_whole(extent)) {
        Some((line, extent)) => (*line, extent.start),
        None => (log.segments[segment].lines.end, log.content(segment).len()),
    };
    let is_hurt = bad < log.segments[segment].lines.end;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let ends_here = end <= offset;
    if ends_here && !is_hurt {
        return Expected::Starts { through: all, torn: None };
    }
    if !is_last && log.is_flushed(log.segments[segment].lines.end - 1) {
        return Expected::Either { through: all };
    }
    if ends_here {
        // Nothing tells that there was more, but the segment behind it.
        return if is_last {
            Expected::Starts { through: bad, torn: None }
        } else {
            Expected::Refused { places: vec![(segment + 1, 0)] }
        };
    }
    let bad_seq = log.lines.get(bad).map_or(u64::MAX, |line| line.first_seq);
    let later = || extents.iter().filter(|extent| extent.0 > bad).filter(is_whole);
    let hole = holes(change, &bytes).into_iter().filter(|hole| hole.end > offset).find(|hole| {
        let begins = hole.start <= offset || hole.start.is_multiple_of(SECTOR_BYTES);
        begins && (hole.end.is_multiple_of(SECTOR_BYTES) || hole.end == bytes.len())
    });
    let looks_torn = later().all(|(line, extent)| {
        let line = &log.lines[*line];
        // What the database has was durable before.
        let was_durable = line.durable_seq >= bad_seq || bad_seq <= log.flushed_seq;
        hole.as_ref().is_some_and(|hole| hole.start < extent.start) && !was_durable
    });
    if looks_torn && is_last {
        return Expected::Starts { through: bad, torn: Some(Torn { segment, offset, end }) };
    }
    let mut places = vec![(segment, offset)];
    if !extents.iter().any(|extent| is_whole(&extent)) {
        // It may be taken for the end of the log, and then what it held is missing before the next segment.
        places.push((segment + 1, 0));
    }
    Expected::Refused { places }
}

/// The runs of NUL that were made, as long as they are then.
fn holes(change: &Change, bytes: &[u8]) -> Vec<Range<usize>> {
    let ranges = match change {
        Change::Zero { ranges, .. } => ranges.clone(),
        Change::Cut { at, padded: true } => std::iter::once(*at..bytes.len()).collect(),
        _ => Vec::new(),
    };
    let grown = ranges.into_iter().map(|range| {
        let is_nul = |byte: &&u8| **byte == 0;
        let before = bytes[..range.start].iter().rev().take_while(is_nul).count();
        let behind = bytes[range.end..].iter().take_while(is_nul).count();
        range.start - before..range.end + behind
    });
    grown.collect()
}

/// Lines and segments stand in the order of their places; what is not behind what must be before it is damage.
fn of_lines(log: &Log, edit: &Edit) -> Expected {
    let segments = edit.segments(log);
    let mut order: Vec<usize> = (0..segments.len()).filter(|at| !segments[*at].lines.is_empty()).collect();
    order.sort_by_key(|at| segments[*at].lines[0]);
    // A line that stands in its own place too is not needed where it stands again.
    let again = if let Edit::Repeat { line, segment, .. } = edit { Some((*segment, *line)) } else { None };
    let needed = |at: &usize| {
        let mut lines = segments[*at].lines.iter();
        lines.any(|line| {
            !log.is_flushed(*line) && (again != Some((*at, *line)) || log.segment_of(*line) == *at)
        })
    };
    let all = breaks(log, order.iter().map(|at| (*at, segments[*at].lines.as_slice())));
    let of_needed = order.iter().filter(|at| needed(at)).map(|at| (*at, segments[*at].lines.as_slice()));
    let of_needed = breaks(log, of_needed);
    let through = order.last().and_then(|at| segments[*at].lines.last()).map_or(0, |line| line + 1);
    if all.is_empty() {
        Expected::Starts { through, torn: None }
    } else if of_needed.is_empty() {
        let needed_end = order.iter().rfind(|at| needed(at));
        let through = needed_end.and_then(|at| segments[*at].lines.last()).map_or(0, |line| line + 1);
        Expected::Either { through }
    } else {
        let mut places: Vec<_> = all.into_iter().chain(of_needed).collect();
        // Which of two is the one too many, nobody knows.
        match *edit {
            Edit::RepeatSegment { segment, .. } => places.push((segment, 0)),
            Edit::Repeat { line, .. } if log.segments[log.segment_of(line)].lines.start == line => {
                places.push((log.segment_of(line), 0));
            }
            _ => {}
        }
        Expected::Refused { places }
    }
}

/// Where a line does not go on where the one before it ended, and the first one not where the database ends.
fn breaks<'l>(log: &Log, segments: impl Iterator<Item = (usize, &'l [usize])>) -> Vec<(usize, usize)> {
    let mut breaks = Vec::new();
    let mut last_seq = None;
    for (segment, lines) in segments {
        let mut offset = 0;
        for line in lines {
            let line = &log.lines[*line];
            let fits = match last_seq {
                None => line.first_seq <= log.flushed_seq + 1,
                Some(last) => line.first_seq == last + 1,
            };
            if !fits {
                breaks.push((segment, offset));
            }
            last_seq = Some(line.last_seq);
            offset += line.bytes.len();
        }
    }
    breaks
}
