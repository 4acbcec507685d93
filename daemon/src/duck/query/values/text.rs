//! The texts of values that JSON has no type for.

use std::io::Write as _;

use arrow::datatypes::IntervalMonthDayNano;

type Out = Vec<u8>;

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

macro_rules! put {
    ($out:expr, $($format:tt)*) => {{
        // Writing to a vector cannot fail.
        let _ = write!($out, $($format)*);
    }};
}

/// Year, month and day of a day since 1970-01-01, in the calendar that has always been.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2025-01-15`; years before the first as DuckDB writes them.
fn day(days: i64, out: &mut Out) -> bool {
    let (year, month, day) = civil(days);
    let shown = if year > 0 { year } else { 1 - year };
    put!(out, "{shown:04}-{month:02}-{day:02}");
    year <= 0
}

pub(super) fn date(days: i32, out: &mut Out) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        _ if days == -i32::MAX => out.extend_from_slice(b"-infinity"),
        _ if day(i64::from(days), out) => out.extend_from_slice(b" (BC)"),
        _ => {}
    }
}

/// `2025-01-15T10:30:00.000000Z`, with nanoseconds only where there are some.
pub(super) fn timestamp(value: i64, per_second: i64, out: &mut Out) {
    if value == i64::MAX || value == -i64::MAX {
        let text: &[u8] = if value > 0 { b"infinity" } else { b"-infinity" };
        return out.extend_from_slice(text);
    }
    let (seconds, rest) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let is_bc = day(seconds.div_euclid(SECONDS_PER_DAY), out);
    out.push(b'T');
    let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
    time(of_day * NANOS_PER_SECOND + rest * (NANOS_PER_SECOND / per_second), out);
    out.push(b'Z');
    if is_bc {
        out.extend_from_slice(b" (BC)");
    }
}

/// `10:30:00.000000`, with nanoseconds only where there are some.
pub(super) fn time(nanos: i64, out: &mut Out) {
    let (seconds, rest) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
    put!(out, "{:02}:{:02}:{:02}.", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if rest % 1_000 == 0 {
        put!(out, "{:06}", rest / 1_000);
    } else {
        put!(out, "{rest:09}");
    }
}

/// DuckDB keeps the microseconds in the upper 40 bits and, below, how far the offset is from the greatest one.
pub(super) fn time_with_offset(bits: u64, out: &mut Out) {
    const GREATEST_OFFSET: i64 = 16 * 3600 - 1;
    time((bits >> 24) as i64 * 1_000, out);
    let offset = GREATEST_OFFSET - (bits & 0xff_ffff) as i64;
    let (sign, offset) = (if offset < 0 { '-' } else { '+' }, offset.abs());
    put!(out, "{sign}{:02}:{:02}", offset / 3600, offset / 60 % 60);
    if offset % 60 != 0 {
        put!(out, ":{:02}", offset % 60);
    }
}

/// `1 year 2 months 3 days 04:05:06.000007`, as DuckDB writes it.
pub(super) fn interval(value: IntervalMonthDayNano, out: &mut Out) {
    let begin = out.len();
    let mut part = |count: i32, name: &str| {
        if count != 0 {
            let space = if out.len() > begin { " " } else { "" };
            let plural = if count == 1 || count == -1 { "" } else { "s" };
            put!(out, "{space}{count} {name}{plural}");
        }
    };
    part(value.months / 12, "year");
    part(value.months % 12, "month");
    part(value.days, "day");
    let micros = value.nanoseconds / 1_000;
    if micros == 0 && out.len() > begin {
        return;
    }
    let space = if out.len() > begin { " " } else { "" };
    let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    put!(out, "{space}{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if rest != 0 {
        let digits = format!("{rest:06}");
        put!(out, ".{}", digits.trim_end_matches('0'));
    }
}

pub(super) fn uuid(value: u128, out: &mut Out) {
    let digits = format!("{value:032x}");
    for (index, part) in [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        out.extend_from_slice(&digits.as_bytes()[part]);
    }
}

/// The first byte says how many bits of the second are not meant.
pub(super) fn bits(bytes: &[u8], out: &mut Out) {
    let Some((unused, bytes)) = bytes.split_first() else { return };
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| b'0' + (byte >> bit & 1)));
    out.extend(bits.skip(usize::from(*unused)));
}

pub(super) fn base64(bytes: &[u8], out: &mut Out) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let digit_of = |digit: usize| DIGITS[(bits >> (18 - 6 * digit) & 63) as usize];
            out.push(if digit <= chunk.len() { digit_of(digit) } else { b'=' });
        }
    }
}

/// An integer of any size: three bytes of sign and length, then its magnitude, the highest byte first; all
/// bits are turned over where it is negative. A number where it fits 64 bits.
pub(super) fn bignum(bytes: &[u8], out: &mut Out) {
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 == 0);
    let mut digits: Vec<u32> = vec![0];
    for byte in bytes.iter().skip(3) {
        let mut carry = u64::from(if is_negative { !byte } else { *byte });
        for digit in &mut digits {
            carry += u64::from(*digit) << 8;
            *digit = (carry % 1_000_000_000) as u32;
            carry /= 1_000_000_000;
        }
        if carry > 0 {
            digits.push(carry as u32);
        }
    }
    let mut text = String::from(if is_negative { "-" } else { "" });
    let (highest, others) = digits.split_last().unwrap_or((&0, &[]));
    text.push_str(&highest.to_string());
    text.extend(others.iter().rev().map(|digit| format!("{digit:09}")));
    if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        out.extend_from_slice(text.as_bytes());
    } else {
        put!(out, "\"{text}\"");
    }
}
