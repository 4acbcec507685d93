//! Instants and days as the protocol writes them.
//!
//! An instant is microseconds since 1970-01-01T00:00:00Z; a day is a calendar date. Only the years
//! 1 to 9999 exist here, so that every date has ten characters and every instant twenty-seven.

use std::fmt;

use chrono::{Datelike as _, NaiveDate};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// 1970-01-01 in days from the common era, as chrono counts them.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// An instant, in microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z
    pub const EPOCH: Self = Self(0);

    /// The instant this many microseconds after the epoch; `None` outside the years 1 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        Date::from_epoch_days(micros.div_euclid(MICROS_PER_DAY)).map(|_| Self(micros))
    }

    /// The present instant by the wall clock.
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let micros = since_epoch.map_or(0, |d| d.as_micros() as i64);
        Self::from_micros(micros).unwrap_or(Self::EPOCH)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339, ISO 8601 without an offset (UTC), a space for the `T`, or a date alone
    /// (midnight UTC). Digits of the fraction beyond the microsecond are cut off. `None` for
    /// anything else and for instants outside the years 1 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let midnight = i64::from(Date::parse(date)?.epoch_days()) * MICROS_PER_DAY;
        if rest.is_empty() {
            return Self::from_micros(midnight);
        }
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (clock, offset) = split_offset(rest)?;
        Self::from_micros(midnight + parse_clock(clock)? - offset)
    }

    /// Writes `2025-01-15T10:30:00.000000Z`.
    pub fn write(self, out: &mut Vec<u8>) {
        let in_day = self.0.rem_euclid(MICROS_PER_DAY);
        let seconds = (in_day / MICROS_PER_SECOND) as u32;
        let micros = (in_day % MICROS_PER_SECOND) as u32;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        self.date().write_to(&mut text);
        put_digits(&mut text[11..13], seconds / 3600);
        put_digits(&mut text[14..16], seconds / 60 % 60);
        put_digits(&mut text[17..19], seconds % 60);
        put_digits(&mut text[20..26], micros);
        out.extend_from_slice(&text);
    }

    /// The UTC day on which it falls.
    pub fn date(self) -> Date {
        Date::from_epoch_days(self.0.div_euclid(MICROS_PER_DAY)).unwrap_or(Date::EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(27);
        self.write(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

/// Splits `10:30:00.5+02:00` into the clock and the offset from UTC in microseconds.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, 0)) };
    let (clock, offset) = text.split_at(at);
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = match &offset.as_bytes()[1..] {
        [h1, h2] => (two(*h1, *h2)?, 0),
        [h1, h2, m1, m2] | [h1, h2, b':', m1, m2] => (two(*h1, *h2)?, two(*m1, *m2)?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some((clock, sign * (hours * 60 + minutes) * 60 * MICROS_PER_SECOND))
}

/// Reads `10:30`, `10:30:00` or `10:30:00.123456789`, in microseconds since midnight.
///
/// The second 60 of a leap second counts as the first of the next minute, as Unix time has it.
fn parse_clock(text: &str) -> Option<i64> {
    let (hour, minute, rest) = match text.as_bytes() {
        [h1, h2, b':', m1, m2, rest @ ..] => (two(*h1, *h2)?, two(*m1, *m2)?, rest),
        _ => return None,
    };
    let (second, rest) = match rest {
        [] => (0, rest),
        [b':', s1, s2, rest @ ..] => (two(*s1, *s2)?, rest),
        _ => return None,
    };
    let micros = match rest {
        [] => 0,
        [b'.' | b',', digits @ ..] if !digits.is_empty() => parse_fraction(digits)?,
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros)
}

fn parse_fraction(digits: &[u8]) -> Option<i64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some(padded.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit())
        .then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

fn put_digits(slot: &mut [u8], mut value: u32) {
    for digit in slot.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// A calendar day, `YYYY-MM-DD`, in the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(NaiveDate);

impl Date {
    const EPOCH: Self = Self(NaiveDate::from_epoch_days(0).expect("the epoch is a date"));

    /// Reads `YYYY-MM-DD`; `None` for another form or a day that no calendar has.
    pub fn parse(text: &str) -> Option<Self> {
        let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return None };
        let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
        Self::from_ymd(year as i32, two(*m1, *m2)? as u32, two(*d1, *d2)? as u32)
    }

    /// The day with these numbers, where there is one.
    pub fn from_ymd(year: i32, month: u32, day: u32) -> Option<Self> {
        NaiveDate::from_ymd_opt(year, month, day).filter(|_| (1..=9999).contains(&year)).map(Self)
    }

    /// The day this many days after 1970-01-01.
    pub fn from_epoch_days(days: i64) -> Option<Self> {
        let days = i32::try_from(days).ok()?.checked_add(EPOCH_DAYS_FROM_CE)?;
        let date = NaiveDate::from_num_days_from_ce_opt(days)?;
        (1..=9999).contains(&date.year()).then_some(Self(date))
    }

    /// Days since 1970-01-01.
    pub fn epoch_days(self) -> i32 {
        self.0.num_days_from_ce() - EPOCH_DAYS_FROM_CE
    }

    /// Writes `2025-01-15`.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut text = *b"0000-00-00";
        self.write_to(&mut text);
        out.extend_from_slice(&text);
    }

    fn write_to(self, text: &mut [u8]) {
        put_digits(&mut text[0..4], self.0.year() as u32);
        put_digits(&mut text[5..7], self.0.month());
        put_digits(&mut text[8..10], self.0.day());
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"0000-00-00";
        self.write_to(&mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Option<String> {
        Timestamp::parse(text).map(|t| t.to_string())
    }

    #[test]
    fn every_lawful_form_is_the_same_instant() {
        for text in [
            "2025-01-15T10:30:00Z",
            "2025-01-15T10:30:00",
            "2025-01-15 10:30:00",
            "2025-01-15T12:30:00+02:00",
            "2025-01-15T12:30:00+0200",
            "2025-01-15 12:30:00+02",
            "2025-01-15t10:30:00.000z",
            "2025-01-15T10:30",
            "2025-01-15T05:00:00-05:30",
        ] {
            assert_eq!(shown(text).as_deref(), Some("2025-01-15T10:30:00.000000Z"), "{text}");
        }
        assert_eq!(shown("2025-01-15").as_deref(), Some("2025-01-15T00:00:00.000000Z"));
        assert_eq!(shown("1969-12-31T23:59:59.9999999Z").as_deref(), Some("1969-12-31T23:59:59.999999Z"));
        assert_eq!(shown("2016-12-31T23:59:60Z").as_deref(), Some("2017-01-01T00:00:00.000000Z"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "now",
            "2025",
            "2025-1-15",
            "2025-02-30",
            "2025-01-15T",
            "2025-01-15T25:00:00",
            "2025-01-15T10:60:00",
            "2025-01-15T10:30:61",
            "2025-01-15T10:30:00.",
            "2025-01-15T10:30:00.x",
            "2025-01-15T10:30:00+24:00",
            "2025-01-15T10:30:00+1",
            "2025-01-15X10:30:00",
            "0000-01-01",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "2025-01-15T1é:30:00",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn instants_survive_writing_and_reading(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
            let instant = Timestamp::from_micros(micros).expect("in range");
            prop_assert_eq!(Timestamp::parse(&instant.to_string()), Some(instant));
            prop_assert_eq!(Date::parse(&instant.date().to_string()), Some(instant.date()));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
