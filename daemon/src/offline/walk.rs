//! Walking through a log from some record on, without changing anything.
//!
//! The daemon may be writing meanwhile: whatever stands at the log's very end and is not whole yet is simply
//! not there yet.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::storage::schema::Model;
use crate::wal::entry::Entry;
use crate::wal::recover::{self, RecoverError, Segment};
use crate::wal::scan;

/// Why a walk did not come further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Records are missing.
    Gap {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
        /// The segment behind the gap.
        behind: PathBuf,
    },
    /// Something is not readable.
    Damage {
        /// The segment.
        file: PathBuf,
        /// Where in it.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gap { first, last, behind } => {
                write!(f, "the WAL has no records {first} to {last}; it goes on in {}", behind.display())
            }
            Self::Damage { file, offset, reason } => {
                write!(f, "{} is damaged at byte {offset}: {reason}", file.display())
            }
        }
    }
}

/// How far a walk came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WalkEnd {
    /// The segments that were read.
    pub segments: Vec<PathBuf>,
    /// What stopped it; `None` where it came to the end or was told to stop.
    pub obstacle: Option<Obstacle>,
}

/// The segments below some directories, in order.
///
/// # Errors
/// When one cannot be looked at.
pub fn segments(disk: &dyn Disk, directories: &[PathBuf]) -> Result<Vec<Segment>, RecoverError> {
    recover::segments(disk, directories)
}

/// Hands every line behind record `after_seq` to `on_entry`, until that answers false.
///
/// # Errors
/// When a segment cannot be read at all.
pub fn walk(
    disk: &dyn Disk,
    model: Model,
    segments: &[Segment],
    after_seq: u64,
    mut on_entry: impl FnMut(Entry) -> bool,
) -> Result<WalkEnd, (PathBuf, io::Error)> {
    let mut end = WalkEnd::default();
    let mut next_seq = after_seq + 1;
    let mut goes_on = true;
    for (index, segment) in segments.iter().enumerate() {
        let behind = segments.get(index + 1).and_then(|next| next.first_seq);
        if behind.is_some_and(|first| first <= next_seq) {
            continue;
        }
        if let Some(first) = segment.first_seq.filter(|first| *first > next_seq) {
            let behind = segment.path.clone();
            end.obstacle = Some(Obstacle::Gap { first: next_seq, last: first - 1, behind });
            break;
        }
        let read = |path: &Path| disk.read(path).map_err(|error| (path.to_owned(), error));
        let bytes = read(&segment.path)?;
        let first = segment.first_seq.unwrap_or(next_seq);
        let mut only_in_database = None;
        let scanned = scan::scan(&bytes, model, Some(first), after_seq, |entry| {
            if goes_on && entry.last_seq() >= next_seq {
                if entry.gap.is_some_and(|gap| !gap.lost) {
                    only_in_database = Some((next_seq, entry.last_seq()));
                    goes_on = false;
                    return;
                }
                next_seq = entry.last_seq() + 1;
                goes_on = on_entry(entry);
            }
        });
        end.segments.push(segment.path.clone());
        if let Some((first, last)) = only_in_database {
            end.obstacle = Some(Obstacle::Gap { first, last, behind: segment.path.clone() });
        }
        if !goes_on {
            break;
        }
        let damage = |offset, reason: String| Obstacle::Damage { file: segment.path.clone(), offset, reason };
        match scanned {
            Err(found) => end.obstacle = Some(damage(found.offset, found.reason)),
            Ok(found) if found.torn && index + 1 < segments.len() => {
                let reason = "the segment ends badly, but others follow it".to_owned();
                end.obstacle = Some(damage(found.valid_bytes, reason));
            }
            Ok(_) => continue,
        }
        break;
    }
    Ok(end)
}
