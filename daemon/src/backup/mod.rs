//! Backups: whole copies of a partition's database files, each with a manifest that says what is in it.
//!
//! A backup of a collection stands in the directory of its day; a date of a dated storage has one, in its
//! own directory. [`take`] makes one while writes go on, [`verify`] reads it again, [`retention`] removes
//! old ones, [`manifest`] says which there are.
//!
//! Invariant: a backup counts only through its manifest, and that is written when the copy was opened and
//! compared with what it was copied from.

pub mod manifest;

use chrono::Datelike as _;
use chrono_tz::Tz;
use fastpersist_protocol::time::{Date, Timestamp};

/// How the name of a backup's database file ends.
pub const FILE_SUFFIX: &str = ".backup";

/// The day of a moment in a time zone.
pub fn day_of(moment: Timestamp, timezone: Tz) -> Date {
    let utc = chrono::DateTime::from_timestamp_micros(moment.as_micros()).unwrap_or_default();
    let day = utc.with_timezone(&timezone).date_naive();
    // Outside the years 1 to 9999 there is no date; UTC is as good as any then.
    Date::from_ymd(day.year(), day.month(), day.day()).unwrap_or_else(|| moment.date())
}
