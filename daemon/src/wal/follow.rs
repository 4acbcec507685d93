//! Reads a segment piece by piece while it may still be written, for those who follow the changes.
//!
//! Only lines up to a record that is known to be durable are looked at: those are whole, and nobody changes
//! them any more. Every line's checksum and place is checked, as at a start.
//!
//! Invariant: what is read stands one behind the other without a gap.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::entry;
use crate::storage::record::Record;
use crate::storage::schema::Model;

/// How much is read at a time, unless one line is longer.
const CHUNK_BYTES: usize = 256 << 10;
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

    /// Some of the records from `from` to `through`, none where the segment has no more of them. Those up
    /// to `through` must be durable, and the segment must begin with one of them.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn read(&mut self, model: Model, from: u64, through: u64) -> Result<Vec<Record>, FollowError> {
        let mut records = Vec::new();
        let mut buffer = Vec::new();
        let mut wanted = CHUNK_BYTES;
        loop {
            buffer.resize(wanted, 0);
            let filled = self.fill(&mut buffer)?;
            let used = self.take_lines(&buffer[..filled], model, from..=through, &mut records)?;
            if !records.is_empty() || self.is_past(through) {
                return Ok(records);
            }
            if used == 0 {
                if filled < wanted || buffer[0] == 0 {
                    return Ok(records);
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

    /// Takes the records of every whole line; answers how many bytes that were.
    fn take_lines(
        &mut self,
        bytes: &[u8],
        model: Model,
        wanted: std::ops::RangeInclusive<u64>,
        records: &mut Vec<Record>,
    ) -> Result<usize, FollowError> {
        let mut used = 0;
        // What comes behind is being written, perhaps at this moment.
        while !self.is_past(*wanted.end()) {
            let rest = &bytes[used..];
            let Some(end) = memchr::memchr(b'\n', rest).filter(|_| rest[0] != 0) else { break };
            let last_seq = self.take_line(&rest[..end], model, *wanted.start(), records)?;
            self.next_seq = Some(last_seq + 1);
            self.offset += end as u64 + 1;
            used += end + 1;
        }
        Ok(used)
    }

    /// Takes the records of one line from `from` on; answers the place of its last one.
    fn take_line(
        &self,
        line: &[u8],
        model: Model,
        from: u64,
        records: &mut Vec<Record>,
    ) -> Result<u64, FollowError> {
        let (seq, _) = entry::read_places(line).ok_or_else(|| self.damaged(&"it is no line of the log"))?;
        if let Some(expected) = self.next_seq.filter(|expected| *expected != seq) {
            return Err(self.damaged(&format!("record {seq} stands where {expected} should be")));
        }
        let spans_several = line.starts_with(BATCH) || line.starts_with(entry::GAP_START);
        if seq < from && !spans_several {
            let valid = entry::has_valid_checksum(line);
            return if valid { Ok(seq) } else { Err(self.damaged(&"the checksum does not match")) };
        }
        let entry = entry::decode(line, model).map_err(|error| self.damaged(&error))?;
        let last_seq = entry.last_seq();
        records.extend(entry.records.into_iter().filter(|record| record.seq() >= from));
        Ok(last_seq)
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

    /// Reads until nothing comes.
    fn all(tail: &mut Tail, mut from: u64, through: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        loop {
            let records = tail.read(Model::Dated, from, through).expect("readable");
            let Some(last) = records.last() else { return seqs };
            from = last.seq() + 1;
            seqs.extend(records.iter().map(Record::seq));
        }
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
    fn places_that_a_repair_gave_up_are_passed_over() {
        let mut gap = Vec::new();
        let given_up = entry::Gap { count: 3, lost: true };
        entry::encode_gap(given_up, 6, Timestamp::EPOCH, &mut gap);
        let file = file(&[line(5, "{}"), gap, line(9, "{}"), line(10, "{}")].concat());
        for (from, expected) in [(5, &[5, 9, 10][..]), (6, &[9, 10]), (8, &[9, 10]), (10, &[10])] {
            let mut tail = Tail::open(file.path()).expect("there");
            assert_eq!(all(&mut tail, from, 10), expected, "from {from}");
        }
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
