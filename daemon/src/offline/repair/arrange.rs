//! Where each line of a log belongs.
//!
//! A line whose checksum is right is what was written, wherever it stands now. As many as can be stay where they are;
//! the others go to where their places are.
//!
//! Invariant: every place that stands in some line stands in exactly one of those that are kept.

use std::collections::BTreeMap;

use super::log::Line;

/// A line and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// The segment, by its place among the others.
    pub(super) segment: usize,
    pub(super) line: Line,
}

/// The lines of a log, put in order.
#[derive(Debug, Default)]
pub(super) struct Arrangement {
    /// Those that are kept, by their places, each with the segment to which it belongs.
    pub(super) kept: Vec<(Placed, usize)>,
    /// Those whose records stand in others too.
    pub(super) again: Vec<Placed>,
}

impl Arrangement {
    pub(super) fn of(mut lines: Vec<Placed>) -> Self {
        lines.sort_by_key(|placed| (placed.line.first_seq, placed.segment, placed.line.offset));
        let stay = longest_in_order(&lines);
        let mut kept: BTreeMap<u64, (Placed, bool)> = BTreeMap::new();
        let mut again = Vec::new();
        for stays in [true, false] {
            for (placed, _) in lines.iter().zip(&stay).filter(|(_, stay)| **stay == stays) {
                let before = kept.range(..=placed.line.last_seq).next_back();
                if before.is_some_and(|(_, (before, _))| before.line.last_seq >= placed.line.first_seq) {
                    again.push(*placed);
                } else {
                    kept.insert(placed.line.first_seq, (*placed, stays));
                }
            }
        }
        let first = kept.values().find(|(_, stays)| *stays).map_or(0, |(placed, _)| placed.segment);
        let belongs = kept.into_values().scan(first, |segment, (placed, stays)| {
            if stays {
                *segment = placed.segment;
            }
            Some((placed, *segment))
        });
        Self { kept: belongs.collect(), again }
    }
}

/// Which lines stay: the most of them whose segments follow one another as their places do.
fn longest_in_order(lines: &[Placed]) -> Vec<bool> {
    // The last line of the best choice of each length, and before each line the one that it follows.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; lines.len()];
    for (at, placed) in lines.iter().enumerate() {
        let length = ends.partition_point(|end| lines[*end].segment <= placed.segment);
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stay = vec![false; lines.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        stay[at] = true;
        next = before[at];
    }
    stay
}
