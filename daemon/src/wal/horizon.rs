//! Which sealed segments may go: a pure function of the watermarks and the retention.
//!
//! Invariant: a segment with a record that is still needed is never in the answer, whatever the clock says.
//! Needed is what is not flushed *and* checkpointed, and, where the log waits for backups, what no backup has.

use std::time::{Duration, SystemTime};

use super::segment::Sealed;

/// The segments, from the oldest on, that hold nothing which is still needed.
///
/// `unneeded_seq` is the last record that DuckDB has in its database file, not only in its own log; where the
/// log waits for backups, the last one that a verified backup has too, if that is older. `retain` is how long a segment stays although it is not needed; the wall clock decides about that
/// alone, because a segment's age must survive restarts.
pub fn removable(segments: &[Sealed], unneeded_seq: u64, retain: Duration, now: SystemTime) -> usize {
    segments
        .iter()
        .take_while(|segment| segment.last_seq <= unneeded_seq)
        .take_while(|segment| now.duration_since(segment.sealed_at).is_ok_and(|age| age >= retain))
        .count()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn sealed(last_seq: u64, age_seconds: u64, now: SystemTime) -> Sealed {
        Sealed {
            path: PathBuf::from(format!("wal_{last_seq:06}.jsonl")),
            last_seq,
            bytes: 1,
            sealed_at: now - Duration::from_secs(age_seconds),
        }
    }

    #[test]
    fn only_old_and_checkpointed_segments_go_and_only_from_the_front() {
        let now = SystemTime::now();
        let segments = [sealed(10, 100, now), sealed(20, 50, now), sealed(30, 100, now)];
        for (checkpointed, retain, expected) in
            [(0, 0, 0), (9, 0, 0), (10, 0, 1), (19, 0, 1), (30, 0, 3), (30, 60, 1), (30, 101, 0)]
        {
            let gone = removable(&segments, checkpointed, Duration::from_secs(retain), now);
            assert_eq!(gone, expected, "checkpointed {checkpointed}, retain {retain}");
        }
    }

    #[test]
    fn a_clock_that_jumped_back_removes_nothing() {
        let now = SystemTime::now();
        let segments = [sealed(10, 0, now)];
        assert_eq!(removable(&segments, 10, Duration::ZERO, now - Duration::from_secs(86_400)), 0);
    }
}
