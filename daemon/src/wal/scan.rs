//! Reads a segment and judges its end. Reads only; [`super::recover`] acts on the judgement.
//!
//! A segment is lines, then NUL up to its preallocated length. Three things can stand where a line
//! should be:
//!
//! - **the end**: nothing but NUL, or nothing at all;
//! - **a torn write**: the machine stopped while a group was on its way to the disk. None of it was
//!   answered as durable, so it may be cut off;
//! - **damage**: something that was durable is no longer readable. It is never skipped.
//!
//! How they are told apart: a write that tears leaves out whole sectors, which then read as NUL, or ends
//! early; a single NUL in the middle of a line is no such hole. Every line carries `durable_seq`, the watermark at which
//! it was written. So a hole is torn when it has such a hole in it *and* nothing says that the missing record had been
//! durable: neither a later valid line nor the database, for what that has was durable before. A bad line without NUL and
//! with valid lines behind it cannot be a torn write, nor can a valid line in the wrong place.
//!
//! Invariant: every entry passed on has a valid checksum and the next place in sequence.

use super::entry::{self, Entry, EntryError};
use crate::storage::schema::Model;

/// Where a segment's valid part ends, and what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanEnd {
    /// The length of the valid part, in bytes.
    pub valid_bytes: usize,
    /// The place of the last valid record; `None` when there is none.
    pub last_seq: Option<u64>,
    /// Whether something that may be cut off follows the valid part.
    pub torn: bool,
}

/// Damage: where, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset into the segment, in bytes.
    pub offset: usize,
    /// What is wrong.
    pub reason: String,
}

/// Reads every entry of a segment in order and hands it to `on_entry`.
///
/// `expected_seq` is the place that the first record must have; `None` lets any begin. Up to `durable_seq` every record
/// was durable, as others tell; 0 where nobody does.
///
/// # Errors
/// [`Damage`] as described for this module.
pub fn scan(
    bytes: &[u8],
    model: Model,
    mut expected_seq: Option<u64>,
    durable_seq: u64,
    mut on_entry: impl FnMut(Entry),
) -> Result<ScanEnd, Damage> {
    let mut offset = 0;
    let mut last_seq = None;
    while let Some(line) = line_at(bytes, offset) {
        match entry::decode(line, model) {
            Ok(entry) => {
                check_place(&entry, expected_seq, offset)?;
                last_seq = Some(entry.last_seq());
                expected_seq = Some(entry.last_seq() + 1);
                offset += line.len() + 1;
                on_entry(entry);
            }
            Err(EntryError::Checksum) => break,
            Err(error @ EntryError::Meaning(_)) => {
                return Err(Damage { offset, reason: error.to_string() });
            }
        }
    }
    // What was durable did not tear.
    let may_be_torn = expected_seq.filter(|expected| *expected > durable_seq);
    let torn = judge_rest(&bytes[offset..], offset, may_be_torn)?;
    Ok(ScanEnd { valid_bytes: offset, last_seq, torn })
}

/// The complete line that begins at `offset`, without its newline.
fn line_at(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    memchr::memchr(b'\n', rest).map(|end| &rest[..end])
}

fn check_place(entry: &Entry, expected_seq: Option<u64>, offset: usize) -> Result<(), Damage> {
    match expected_seq {
        Some(expected) if entry.seq > expected => {
            let reason = format!("records {expected} to {} are missing", entry.seq - 1);
            Err(Damage { offset, reason })
        }
        Some(expected) if entry.seq < expected => {
            let reason = format!("record {} stands again where {expected} should be", entry.seq);
            Err(Damage { offset, reason })
        }
        _ => Ok(()),
    }
}

/// Judges what follows the valid part: `Ok(false)` for the end, `Ok(true)` for a torn write. Without `expected_seq` nothing
/// that a line follows is torn.
fn judge_rest(rest: &[u8], offset: usize, expected_seq: Option<u64>) -> Result<bool, Damage> {
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(false);
    }
    let first_hole = first_hole(rest, offset).unwrap_or(rest.len());
    for (line, at) in valid_lines(rest) {
        let Some((seq, durable_seq)) = entry::read_places(line) else { continue };
        let was_durable = expected_seq.is_none_or(|expected| durable_seq >= expected || seq <= expected);
        if first_hole > at || was_durable {
            let behind = offset + at;
            let reason =
                format!("this line is not readable, but record {seq} at offset {behind} behind it is");
            return Err(Damage { offset, reason });
        }
    }
    Ok(true)
}

/// The place of the first record that can be read, wherever its line begins.
pub fn first_readable_seq(bytes: &[u8]) -> Option<u64> {
    valid_lines(bytes).find_map(|(line, _)| entry::read_places(line)).map(|(seq, _)| seq)
}

/// What a disk writes or does not write in one piece, in bytes.
const SECTOR_BYTES: usize = 512;

/// Where the first run of NUL begins that a torn write can have left: it ends with a sector or with the
/// file, and begins with a sector or with the first line that was on its way.
fn first_hole(rest: &[u8], offset: usize) -> Option<usize> {
    let mut from = 0;
    loop {
        let start = from + memchr::memchr(0, &rest[from..])?;
        let length = rest[start..].iter().position(|byte| *byte != 0).unwrap_or(rest.len() - start);
        let end = start + length;
        let starts_right = start == 0 || (offset + start).is_multiple_of(SECTOR_BYTES);
        let ends_right = end == rest.len() || (offset + end).is_multiple_of(SECTOR_BYTES);
        if starts_right && ends_right {
            return Some(start);
        }
        from = end;
    }
}

/// How a line begins; a newline before it may be damaged or swallowed by a hole.
const LINE_START: &[u8] = b"{\"op\":\"";
/// How a batch begins.
const BATCH_START: &[u8] = b"{\"op\":\"batch\"";
/// How many beginnings of each kind are tried in one run of bytes without a newline: a document may be full of them.
const MAX_STARTS: usize = 256;

/// Lines with a valid checksum, wherever they begin.
fn valid_lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        while let Some(run) = line_at(bytes, start) {
            let at = start;
            start += run.len() + 1;
            // A line ends its run, so the latest beginnings are the likeliest; but a batch is full of them.
            let batches = memchr::memmem::find_iter(run, BATCH_START).take(MAX_STARTS);
            let latest = memchr::memmem::rfind_iter(run, LINE_START).take(MAX_STARTS);
            for skip in batches.chain(latest) {
                if entry::has_valid_checksum(&run[skip..]) {
                    return Some((&run[skip..], at + skip));
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use fastpersist_protocol::time::Timestamp;

    use super::*;
    use crate::storage::record::{Columns, Names};

    fn line(seq: u64, durable_seq: u64) -> Vec<u8> {
        let columns = Columns {
            key: "key",
            names: Names::Dated { process_name: None },
            data: r#"{"text":"some text that makes the line long enough"}"#,
            value: None,
            timestamp: None,
            status: None,
            status_int: None,
            username: None,
            updated_at: Timestamp::from_micros(0).expect("in range"),
            seq,
            deleted: false,
            writer: None,
        };
        let mut body = Vec::new();
        entry::encode_body(&columns, &mut body);
        let mut out = Vec::new();
        entry::finish_line(&body, entry::hash_body(&body), seq, durable_seq, &mut out);
        out
    }

    /// Lines 1, 2, 3 …, each written when the one before was durable.
    fn segment(count: u64) -> Vec<u8> {
        (1..=count).flat_map(|seq| line(seq, seq - 1)).collect()
    }

    fn scan_seqs(bytes: &[u8]) -> (Vec<u64>, Result<ScanEnd, Damage>) {
        let mut seqs = Vec::new();
        let end = scan(bytes, Model::Dated, Some(1), 0, |entry| seqs.push(entry.seq));
        (seqs, end)
    }

    #[test]
    fn a_whole_segment_ends_clean_with_and_without_preallocated_space() {
        let mut bytes = segment(3);
        let length = bytes.len();
        for _ in 0..2 {
            let (seqs, end) = scan_seqs(&bytes);
            assert_eq!(seqs, [1, 2, 3]);
            assert_eq!(end, Ok(ScanEnd { valid_bytes: length, last_seq: Some(3), torn: false }));
            bytes.resize(length + 4096, 0);
        }
    }

    #[test]
    fn cut_at_every_byte_of_the_last_line_it_is_torn_and_the_others_stay() {
        let bytes = segment(3);
        let kept = line(1, 0).len() + line(2, 1).len();
        for cut in kept + 1..bytes.len() {
            for padding in [0, 512] {
                let mut torn = bytes[..cut].to_vec();
                torn.resize(cut + padding, 0);
                let (seqs, end) = scan_seqs(&torn);
                assert_eq!(seqs, [1, 2], "cut at {cut}");
                let expected = ScanEnd { valid_bytes: kept, last_seq: Some(2), torn: true };
                assert_eq!(end, Ok(expected), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_flipped_byte_is_damage_where_valid_lines_follow_and_torn_where_none_do() {
        let bytes = segment(3);
        let last = line(1, 0).len() + line(2, 1).len();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let (seqs, end) = scan_seqs(&flipped);
            assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "byte {at}: {seqs:?}");
            if at < last {
                assert!(end.is_err(), "byte {at} is damage, not {end:?}");
            } else {
                assert_eq!(end.map(|end| (end.last_seq, end.torn)), Ok((Some(2), true)), "byte {at}");
            }
        }
    }

    #[test]
    fn a_lost_sector_in_an_unsynced_group_is_torn_and_in_a_synced_one_damage() {
        // Lines 2 to 9 are one group; one sector of it never reached the disk. Line 10 tells what was
        // durable when it was written.
        for (durable_seq, torn) in [(0, true), (1, true), (9, false)] {
            let mut bytes = line(1, 0);
            bytes.extend((2..10).flat_map(|seq| line(seq, 1)));
            bytes[SECTOR_BYTES..2 * SECTOR_BYTES].fill(0);
            bytes.extend_from_slice(&line(10, durable_seq));
            let (seqs, end) = scan_seqs(&bytes);
            assert_eq!(seqs, [1, 2]);
            assert_eq!(end.is_ok_and(|end| end.torn), torn, "durable_seq {durable_seq}");
        }
    }

    #[test]
    fn the_first_sector_of_a_group_is_torn_from_where_the_group_begins() {
        let mut bytes = line(1, 0);
        let start = bytes.len();
        bytes.extend((2..10).flat_map(|seq| line(seq, 1)));
        bytes[start..SECTOR_BYTES].fill(0);
        let (seqs, end) = scan_seqs(&bytes);
        assert_eq!((seqs, end.map(|end| end.torn)), (vec![1], Ok(true)));
    }

    #[test]
    fn a_single_nul_is_no_lost_sector() {
        let mut bytes = line(1, 0);
        let at = bytes.len() + 40;
        bytes.extend((2..10).flat_map(|seq| line(seq, 1)));
        bytes[at] = 0;
        let (seqs, end) = scan_seqs(&bytes);
        assert_eq!(seqs, [1]);
        assert!(end.is_err(), "the whole group may have been answered");
    }

    #[test]
    fn nul_that_only_begins_or_only_ends_with_a_sector_is_no_lost_one() {
        for at in [SECTOR_BYTES, SECTOR_BYTES - 1] {
            let mut bytes = line(1, 0);
            bytes.extend((2..10).flat_map(|seq| line(seq, 1)));
            bytes[at] = 0;
            let (seqs, end) = scan_seqs(&bytes);
            assert!(end.is_err(), "byte {at}, {seqs:?}: the whole group may have been answered");
        }
    }

    #[test]
    fn a_hole_over_a_newline_hides_no_later_line() {
        let mut bytes = segment(2);
        let hole = bytes.len() - 20;
        bytes[hole..].fill(0);
        bytes.extend_from_slice(&line(3, 2));
        let (seqs, end) = scan_seqs(&bytes);
        assert_eq!(seqs, [1]);
        assert!(end.is_err(), "record 2 was durable when 3 was written");
    }

    /// Only the last operations of it were looked at, none of which is a line, and record 2 was cut off as torn.
    #[test]
    fn a_hole_over_a_newline_hides_no_long_batch_either() {
        let mut bytes = segment(2);
        let hole = bytes.len() - 20;
        bytes[hole..].fill(0);
        let whole = line(3, 2);
        let body = &whole[..whole.len() - br#","seq":3,"durable_seq":2,"crc":"00000000"}"#.len() - 1];
        let bodies = std::iter::repeat_n(body, 3 * MAX_STARTS);
        entry::finish_batch(bodies, None, 3, 2, &mut bytes);
        let (seqs, end) = scan_seqs(&bytes);
        assert_eq!(seqs, [1]);
        assert!(end.is_err(), "record 2 was durable when the batch was written");
    }

    #[test]
    fn a_missing_and_a_repeated_line_are_damage() {
        let missing = [line(1, 0), line(3, 2)].concat();
        let (_, end) = scan_seqs(&missing);
        assert_eq!(end.expect_err("damage").reason, "records 2 to 2 are missing");
        let repeated = [line(1, 0), line(1, 0)].concat();
        let (_, end) = scan_seqs(&repeated);
        assert_eq!(end.expect_err("damage").reason, "record 1 stands again where 2 should be");
    }

    #[test]
    fn a_gap_that_was_noted_is_no_damage() {
        let mut bytes = line(1, 0);
        let gap = entry::Gap { count: 3, lost: true };
        entry::encode_gap(gap, 2, Timestamp::from_micros(0).expect("in range"), &mut bytes);
        bytes.extend(line(5, 4));
        let mut found = Vec::new();
        let end = scan(&bytes, Model::Dated, Some(1), 0, |entry| {
            found.push((entry.seq, entry.last_seq(), entry.records.len(), entry.gap));
        });
        assert_eq!(found, [(1, 1, 1, None), (2, 4, 0, Some(gap)), (5, 5, 1, None)]);
        assert_eq!(end.map(|end| end.last_seq), Ok(Some(5)));
    }

    #[test]
    fn an_unknown_field_is_refused_and_not_passed_over() {
        let body = br#"{"op":"store","key":"k","data":{},"colour":"red","updated_at":"2025-01-15""#;
        let mut bytes = Vec::new();
        entry::finish_line(body, entry::hash_body(body), 1, 0, &mut bytes);
        let (_, end) = scan_seqs(&bytes);
        let reason = end.expect_err("refused").reason;
        assert!(reason.contains("\"colour\" is unknown"), "{reason}");
    }
}
