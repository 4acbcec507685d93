//! What the library's time columns mean.
//!
//! They have no time zone: `updated_at` is the local time of the machine that wrote it, and `timestamp` is
//! what DuckDB made of an instant in that machine's time zone. The instant itself stands in `data`, so the
//! difference tells the zone, row by row, unless it is named.

use chrono::{DateTime, LocalResult, TimeZone as _};
use chrono_tz::Tz;
use fastpersist_protocol::time::Timestamp;

const MINUTE: i64 = 60_000_000;
/// No zone is further from UTC.
const MAX_OFFSET: i64 = 15 * 60 * MINUTE;
/// A row about an instant long before or after it was taken may tell the other half of the year.
const NEAR: i64 = 2 * 24 * 60 * MINUTE;

/// Reads the columns of one table, row after row.
#[derive(Debug)]
pub(super) struct RowClock {
    zone: Option<Tz>,
    /// Local time minus UTC, in microseconds, as the last row that told it has told it.
    offset: Option<i64>,
}

impl RowClock {
    pub(super) fn new(zone: Option<Tz>) -> Self {
        Self { zone, offset: None }
    }

    /// The record's own instant and when it was taken; `told` is the instant in its document.
    pub(super) fn read(
        &mut self,
        timestamp: Option<i64>,
        updated_at: Option<i64>,
        told: Option<Timestamp>,
    ) -> (Option<Timestamp>, Option<Timestamp>) {
        let offset = timestamp.zip(told).and_then(|(column, told)| column.checked_sub(told.as_micros()));
        let offset = offset.filter(|offset| offset.abs() <= MAX_OFFSET && offset % (15 * MINUTE) == 0);
        let near = timestamp.zip(updated_at).is_some_and(|(own, taken)| own.abs_diff(taken) < NEAR as u64);
        if near || self.offset.is_none() {
            self.offset = offset.or(self.offset);
        }
        let own = match (offset, timestamp, told) {
            (Some(_), _, told) | (None, None, told) => told,
            // They contradict each other; the column is what queries have seen.
            (None, Some(column), _) => self.instant(column),
        };
        (own, updated_at.and_then(|column| self.instant(column)))
    }

    fn instant(&self, local: i64) -> Option<Timestamp> {
        let by_offset = local.checked_sub(self.offset.unwrap_or(0))?;
        let Some(zone) = self.zone else { return Timestamp::from_micros(by_offset) };
        let naive = DateTime::from_timestamp_micros(local)?.naive_utc();
        let instant = match zone.from_local_datetime(&naive) {
            LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => instant.timestamp_micros(),
            // An hour that the clocks skipped.
            LocalResult::None => by_offset,
        };
        Timestamp::from_micros(instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_row_tells_the_zone_it_was_written_in() {
        let mut clock = RowClock::new(None);
        let told = at("2025-07-15T05:00:00Z");
        let column = at("2025-07-15T01:00:00Z").as_micros();
        let updated = at("2025-07-15T02:00:00.5Z").as_micros();
        let read = clock.read(Some(column), Some(updated), Some(told));
        assert_eq!(read, (Some(told), Some(at("2025-07-15T06:00:00.5Z"))));
        // A row that does not tell it takes that of the one before.
        assert_eq!(clock.read(None, Some(updated), None).1, Some(at("2025-07-15T06:00:00.5Z")));
    }

    #[test]
    fn a_zone_that_is_named_counts() {
        let mut clock = RowClock::new(Some(chrono_tz::America::New_York));
        let winter = at("2025-01-15T01:00:00Z").as_micros();
        assert_eq!(clock.read(None, Some(winter), None).1, Some(at("2025-01-15T06:00:00Z")));
    }

    #[test]
    fn without_a_hint_it_is_utc_and_a_contradiction_is_settled_by_the_column() {
        let mut clock = RowClock::new(None);
        let column = at("2025-01-15T01:00:00Z");
        let read = clock.read(Some(column.as_micros()), None, Some(at("2020-01-01T00:00:00.000001Z")));
        assert_eq!(read, (Some(column), None));
    }
}
