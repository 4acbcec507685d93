//! Reads a segment piece by piece while it may still be written, for those who follow the changes.
//!
//! Only lines up to a record that is known to be durable are looked at: those are whole, and nobody changes
//! them any more. Every line's checksum and place is checked, as at a start.
//!
//! Invariant: what is read stands one behind the other without a gap. Where a repair left a gap, the reading
//! ends before it, and begins anew behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::entry;
use crate::storage::record::Record;
use crate::storage::schema::Model;

/// How much is read at a time, unless one line is longer.
const CHUNK_BYTES: usize = 256 << 10;
/// What came of taking lines.
enum Taken {
    /// So many bytes of whole lines.
    Bytes(usize),
    /// A gap, and the first place behind it.
    Gap(u64),
}

/// A line that was read.
struct Whole {
    last_seq: u64,
    is_gap: bool,
    records: Vec<Record>,
}

/// How the line of a batch begins.
const BATCH: &[u8] = b"{\"op\":\"batch\"";

/// Why a segment cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Io {
        /// The segment.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something that was durable is not readable.
    #[error("{file} is damaged at byte {offset}: {reason}; `fastpersist repair` looks at it")]
    Damaged {
        /// The segment.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// What a segment has from a place on.
#[derive(Debug)]
pub enum Lines {
    /// The next records, at least one.
    Records(Vec<Record>),
    /// A repair noted that the next record is not in the log any more; this is the first place behind.
    Gap(u64),
    /// No more of those that are wanted.
    End,
}

/// A place in a segment, from which it is read on.
#[derive(Debug)]
pub struct Tail {
    file: File,
    path: PathBuf,
    offset: u64,
    /// The place of the record behind those that were read; `None` before the first line.
    next_seq: Option<u64>,
}

impl Tail {
    /// The beginning of a segment.
    ///
    /// # Errors
    /// When the file cannot be opened; it may have been removed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_owned(), offset: 0, next_seq: None })
    }

    /// Some of the records from `from` to `through`. Those up to `through` must be durable, and the segment
    /// must have one of them.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn read(&mut self, model: Model, from: u64, through: u64) -> Result<Lines, FollowError> {
        let mut records = Vec::new();
        let mut buffer = Vec::new();
        let mut wanted = CHUNK_BYTES;
        loop {
            buffer.resize(wanted, 0);
            let filled = self.fill(&mut buffer)?;
            let used = match self.take_lines(&buffer[..filled], model, from..=through, &mut records)? {
                Taken::Bytes(used) => used,
                Taken::Gap(behind) if records.is_empty() => return Ok(Lines::Gap(behind)),
                Taken::Gap(_) => return Ok(Lines::Records(records)),
            };
            if !records.is_empty() {
                return Ok(Lines::Records(records));
            }
            if self.is_past(through) {
                return Ok(Lines::End);
            }
            if used == 0 {
                if filled < wanted || buffer[0] == 0 {
                    return Ok(Lines::End);
                }
                // Half a line: it is longer than what was read.
                wanted *= 2;
            }
        }
    }

    fn is_past(&self, through: u64) -> bool {
        self.next_seq.is_some_and(|next_seq| next_seq > through)
    }

    fn fill(&self, buffer: &mut [u8]) -> Result<usize, FollowError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(FollowError::Io { file: self.path.display().to_string(), source });
                }
            }
        }
        Ok(filled)
    }

    /// Takes the records of every whole line, up to a gap in what is wanted. The gap is not passed.
    fn take_lines(
        &mut self,
        bytes: &[u8],
        model: Model,
        wanted: std::ops::RangeInclusive<u64>,
        records: &mut Vec<Record>,
    ) -> Result<Taken, FollowError> {
        let mut used = 0;
        // What comes behind is being written, perhaps at this moment.
        while !self.is_past(*wanted.end()) {
            let rest = &bytes[used..];
            let Some(end) = memchr::memchr(b'\n', rest).filter(|_| rest[0] != 0) else { break };
            let entry = self.read_line(&rest[..end], model, *wanted.start())?;
            if entry.is_gap && entry.last_seq >= *wanted.start() {
                return Ok(Taken::Gap(entry.last_seq + 1));
            }
            records.extend(entry.records);
            self.next_seq = Some(entry.last_seq + 1);
            self.offset += end as u64 + 1;
            used += end + 1;
        }
        Ok(Taken::Bytes(used))
    }

    /// Reads one line: its records from `from` on.
    fn read_line(&self, line: &[u8], model: Model, from: u64) -> Result<Whole, FollowError> {
        let (seq, _) = entry::read_places(line).ok_or_else(|| self.damaged(&"it is no line of the log"))?;
        if let Some(expected) = self.next_seq.filter(|expected| *expected != seq) {
            return Err(self.damaged(&format!("record {seq} stands where {expected} should be")));
        }
        let spans_several = line.starts_with(BATCH) || line.starts_with(entry::GAP_START);
        if seq < from && !spans_several {
            let valid = entry::has_valid_checksum(line);
            let passed = Whole { last_seq: seq, is_gap: false, records: Vec::new() };
            return if valid { Ok(passed) } else { Err(self.damaged(&"the checksum does not match")) };
        }
        let mut entry = entry::decode(line, model).map_err(|error| self.damaged(&error))?;
        let last_seq = entry.last_seq();
        entry.records.retain(|record| record.seq() >= from);
        Ok(Whole { last_seq, is_gap: entry.gap.is_some(), records: entry.records })
    }

    /// For whoever finds that something is wrong at the present place.
    pub fn damaged(&self, reason: &dyn std::fmt::Display) -> FollowError {
        let file = self.path.display().to_string();
        FollowError::Damaged { file, offset: self.offset, reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use fastpersist_protocol::time::Timestamp;

    use super::*;
    use crate::storage::record::{Columns, Names};

    fn body(data: &str) -> Vec<u8> {
        let mut body = Vec::new();
        let columns = Columns {
            key: "key",
            names: Names::Dated { process_name: None },
            data,
            value: None,
            timestamp: None,
            status: None,
            status_int: None,
            username: None,
            updated_at: Timestamp::EPOCH,
            seq: 0,
            deleted: false,
            writer: None,
        };
        entry::encode_body(&columns, &mut body);
        body
    }

    fn line(seq: u64, data: &str) -> Vec<u8> {
        let (body, mut out) = (body(data), Vec::new());
        entry::finish_line(&body, entry::hash_body(&body), seq, 0, &mut out);
        out
    }

    fn batch(seq: u64, count: usize) -> Vec<u8> {
        let (body, mut out) = (body("{}"), Vec::new());
        entry::finish_batch((0..count).map(|_| &body[..]), None, seq, 0, &mut out);
        out
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    /// Reads until nothing comes; answers too where it goes on behind a gap.
    fn up_to_gap(tail: &mut Tail, mut from: u64, through: u64) -> (Vec<u64>, Option<u64>) {
        let mut seqs = Vec::new();
        loop {
            match tail.read(Model::Dated, from, through).expect("readable") {
                Lines::Records(records) => {
                    from = records.last().expect("at least one").seq() + 1;
                    seqs.extend(records.iter().map(Record::seq));
                }
                Lines::Gap(behind) => return (seqs, Some(behind)),
                Lines::End => return (seqs, None),
            }
        }
    }

    /// Reads until nothing comes; there must be no gap.
    fn all(tail: &mut Tail, from: u64, through: u64) -> Vec<u64> {
        let (seqs, gap) = up_to_gap(tail, from, through);
        assert_eq!(gap, None);
        seqs
    }

    #[test]
    fn from_any_place_to_any_place_each_comes_once() {
        let bytes = [line(5, "{}"), batch(6, 4), line(10, "{}"), line(11, "{}"), vec![0; 4096]].concat();
        let file = file(&bytes);
        for from in 5..=11 {
            for through in [9, 10, 11].into_iter().filter(|through| *through >= from) {
                let mut tail = Tail::open(file.path()).expect("there");
                let seqs = all(&mut tail, from, through);
                assert_eq!(seqs, (from..=through).collect::<Vec<_>>(), "{from} to {through}");
                assert_eq!(all(&mut tail, through + 1, 11), (through + 1..=11).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn reading_ends_where_a_repair_left_a_gap_and_begins_anew_behind_it() {
        let mut gap = Vec::new();
        let given_up = entry::Gap { count: 3, lost: true };
        entry::encode_gap(given_up, 6, Timestamp::EPOCH, &mut gap);
        let file = file(&[line(5, "{}"), gap.clone(), line(9, "{}"), line(10, "{}")].concat());
        for (from, seqs, behind) in [
            (5, &[5][..], Some(9)),
            (6, &[], Some(9)),
            (8, &[], Some(9)),
            (9, &[9, 10], None),
            (10, &[10], None),
        ] {
            let mut tail = Tail::open(file.path()).expect("there");
            assert_eq!(up_to_gap(&mut tail, from, 10), (seqs.to_vec(), behind), "from {from}");
            assert_eq!(up_to_gap(&mut tail, from.max(9), 10).0.len(), if from < 9 { 2 } else { 0 });
        }
        let ends_so = self::file(&[line(5, "{}"), gap].concat());
        let mut tail = Tail::open(ends_so.path()).expect("there");
        assert_eq!(up_to_gap(&mut tail, 7, 8), (vec![], Some(9)));
    }

    #[test]
    fn lines_longer_than_a_chunk_and_many_chunks_come_whole() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(3 * CHUNK_BYTES));
        let mut bytes: Vec<u8> = (1..5000).flat_map(|seq| line(seq, r#"{"a":[1,2,3]}"#)).collect();
        bytes.extend(line(5000, &long));
        bytes.extend(line(5001, "{}"));
        let file = file(&bytes);
        let mut tail = Tail::open(file.path()).expect("there");
        assert_eq!(all(&mut tail, 4000, 5001), (4000..=5001).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_apart_from_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut tail = Tail::open(dir.path()).expect("it can be opened");
        let error = tail.read(Model::Dated, 1, 1).expect_err("a directory has no bytes");
        assert!(matches!(error, FollowError::Io { .. }), "{error}");
    }

    #[test]
    fn half_a_line_behind_what_is_durable_is_not_looked_at() {
        let mut bytes = [line(1, "{}"), line(2, "{}")].concat();
        let whole = bytes.len();
        bytes.extend(b"{\"op\":\"store\",\"rubbish\n\0\0\0");
        let file = file(&bytes);
        let mut tail = Tail::open(file.path()).expect("there");
        assert_eq!(all(&mut tail, 1, 2), [1, 2]);
        file.as_file().write_all_at(&line(3, "{}"), whole as u64).expect("written");
        assert_eq!(all(&mut tail, 3, 3), [3]);
    }

    #[test]
    fn what_was_durable_and_is_not_readable_is_told_with_its_place() {
        let mut bytes = [line(1, "{}"), line(2, "{}"), line(3, "{}")].concat();
        let at = line(1, "{}").len();
        bytes[at + 20] ^= 1;
        for from in [1, 3] {
            let file = file(&bytes);
            let mut tail = Tail::open(file.path()).expect("there");
            let error = tail.read(Model::Dated, from, 3).expect_err("damage");
            assert!(matches!(error, FollowError::Damaged { offset, .. } if offset == at as u64), "{error}");
        }
        let gap = file(&[line(1, "{}"), line(3, "{}")].concat());
        let error = Tail::open(gap.path()).expect("there").read(Model::Dated, 1, 3).expect_err("a gap");
        assert!(error.to_string().contains("record 3 stands where 2 should be"), "{error}");
    }
}
