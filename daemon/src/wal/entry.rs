//! One line of the log: how a write looks on disk, and how it is read back.
//!
//! A line is a JSON object with the request's fields as they were resolved, then where it stands and
//! its checksum, always last:
//!
//! ```text
//! {"op":"store","key":"task_1","process_name":"worker1","data":{"value":100},
//!  "updated_at":"2025-01-15T10:30:00.000000Z","seq":7,"durable_seq":6,"crc":"9ae0daaf"}
//! ```
//!
//! (on one line). `timestamp` is left out where it equals `updated_at`. A batch is one line, so it is
//! there whole or not at all: `{"op":"batch","ops":[…],"seq":7,…}`; its operations take the places 7,
//! 8, 9 …. What `fastpersist repair` had to leave out is a line of its own, a [`Gap`]. `durable_seq` is the watermark when the line was written: it is what later tells a torn
//! write from damage (see [`super::scan`]). `crc` is the CRC-32 (IEEE) of every byte before `,"crc"`.
//!
//! With `record_writer` there is `"writer_uid":1000,"writer_pid":4711,"writer_unit":"nightly.service"` behind
//! `updated_at`, in a batch on each operation; the latter two are left out where they are not known.
//! A write by a producer has `"producer":"…","producer_seq":9` before `"seq"`; of a batch they stand on the batch.
//!
//! Connections encode the part before `"seq"`, which is most of the work; the committer only adds the
//! place and the checksum.

mod fields;

use std::sync::Arc;

use crc32fast::Hasher;
use fastpersist_protocol::json::{self, Raw, Scanner};
use fastpersist_protocol::time::Timestamp;

use super::commit::Producer;
use crate::storage::producers::Mark;
use crate::storage::record::{Columns, Names, Record, Writer};
use crate::storage::schema::Model;
use fields::LineFields;

/// `,"crc":"` and eight digits and `"}`.
const CRC_SUFFIX_BYTES: usize = 18;
const CRC_FIELD: &[u8] = b",\"crc\":\"";

/// Appends a write's own fields, from `{` on and without the closing `}`.
pub fn encode_body(columns: &Columns<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(if columns.deleted { b"{\"op\":\"delete\"" } else { b"{\"op\":\"store\"" });
    text_field(out, b",\"key\":", columns.key);
    match columns.names {
        Names::Dated { process_name: None } => {}
        Names::Dated { process_name: Some(name) } => text_field(out, b",\"process_name\":", name),
        Names::Collection { collection_name, item_name } => {
            text_field(out, b",\"collection_name\":", collection_name);
            text_field(out, b",\"item_name\":", item_name);
        }
    }
    if !columns.deleted {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(columns.data.as_bytes());
        if let Some(value) = &columns.value {
            out.extend_from_slice(b",\"value\":");
            value.write_json(out);
        }
        encode_attributes(columns, out);
    }
    out.extend_from_slice(b",\"updated_at\":\"");
    columns.updated_at.write(out);
    out.push(b'"');
    if let Some(writer) = &columns.writer {
        encode_writer(writer, out);
    }
}

fn encode_writer(writer: &Writer<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"writer_uid\":");
    json::write_u64(out, u64::from(writer.uid));
    if let Some(pid) = writer.pid {
        out.extend_from_slice(b",\"writer_pid\":");
        json::write_u64(out, u64::from(pid));
    }
    if let Some(unit) = writer.unit {
        text_field(out, b",\"writer_unit\":", unit);
    }
}

/// Appends who writes: the last of a write's own fields.
pub fn encode_producer(producer: &Producer, out: &mut Vec<u8>) {
    text_field(out, b",\"producer\":", &producer.name);
    out.extend_from_slice(b",\"producer_seq\":");
    json::write_u64(out, producer.seq);
}

fn encode_attributes(columns: &Columns<'_>, out: &mut Vec<u8>) {
    if columns.timestamp != Some(columns.updated_at) {
        out.extend_from_slice(b",\"timestamp\":");
        fastpersist_protocol::reply::write_opt_timestamp(out, columns.timestamp);
    }
    if let Some(status) = columns.status {
        text_field(out, b",\"status\":", status);
    }
    if let Some(status_int) = columns.status_int {
        out.extend_from_slice(b",\"status_int\":");
        json::write_i64(out, i64::from(status_int));
    }
    if let Some(username) = columns.username {
        text_field(out, b",\"username\":", username);
    }
}

fn text_field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    json::write_string(out, value);
}

/// The checksum so far of a body that [`encode_body`] wrote.
pub fn hash_body(body: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(body);
    hasher
}

/// Appends the line of a single write, whose body was hashed with [`hash_body`].
pub fn finish_line(body: &[u8], hasher: Hasher, seq: u64, durable_seq: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(body);
    finish(hasher, seq, durable_seq, out);
}

/// Appends the line of a batch; the first of `bodies` takes the place `seq`.
pub fn finish_batch<'a>(
    bodies: impl Iterator<Item = &'a [u8]>,
    producer: Option<&Producer>,
    seq: u64,
    durable_seq: u64,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(b"{\"op\":\"batch\",\"ops\":[");
    for (index, body) in bodies.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(body);
        out.push(b'}');
    }
    out.push(b']');
    if let Some(producer) = producer {
        encode_producer(producer, out);
    }
    let hasher = hash_body(&out[start..]);
    finish(hasher, seq, durable_seq, out);
}

fn finish(mut hasher: Hasher, seq: u64, durable_seq: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b",\"seq\":");
    json::write_u64(out, seq);
    out.extend_from_slice(b",\"durable_seq\":");
    json::write_u64(out, durable_seq);
    hasher.update(&out[start..]);
    out.extend_from_slice(CRC_FIELD);
    let crc = hasher.finalize();
    for shift in (0..8).rev() {
        out.push(json::HEX[(crc >> (shift * 4)) as usize & 15]);
    }
    out.extend_from_slice(b"\"}\n");
}

/// Places whose records are not in this log any more, as a repair noted with the owner's consent. Without
/// such a line a missing place is damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many places.
    pub count: u64,
    /// Whether the records are lost; else they were in the database when the repair was made.
    pub lost: bool,
}

/// Appends the line that stands for the places from `seq` on.
pub fn encode_gap(gap: Gap, seq: u64, at: Timestamp, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(GAP_START);
    json::write_u64(out, gap.count);
    out.extend_from_slice(b",\"lost\":");
    json::write_bool(out, gap.lost);
    out.extend_from_slice(b",\"updated_at\":\"");
    at.write(out);
    out.push(b'"');
    let hasher = hash_body(&out[start..]);
    finish(hasher, seq, seq - 1, out);
}

/// How the line of a gap begins.
pub const GAP_START: &[u8] = b"{\"op\":\"gap\",\"count\":";

/// One line, read back.
#[derive(Debug)]
pub struct Entry {
    /// The place of its first record.
    pub seq: u64,
    /// What was durable when the line was written.
    pub durable_seq: u64,
    /// Its records, one behind the other; several only in a batch, none in a gap.
    pub records: Vec<Record>,
    /// Set where the line stands for records that are not in the log.
    pub gap: Option<Gap>,
    /// Who wrote them, where that is to be remembered.
    pub producer: Option<Producer>,
}

impl Entry {
    /// The place of its last record.
    pub fn last_seq(&self) -> u64 {
        self.seq + self.gap.map_or(self.records.len() as u64, |gap| gap.count) - 1
    }

    /// How far its producer has come with it.
    pub fn mark(&self) -> Option<(Arc<str>, Mark)> {
        let (producer, last) = (self.producer.as_ref()?, self.records.last()?);
        let updated_at = last.columns().updated_at;
        let mark = Mark { producer_seq: producer.seq, seq: self.last_seq(), updated_at };
        Some((Arc::clone(&producer.name), mark))
    }
}

/// Why a line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes are not those that were written.
    #[error("the checksum does not match")]
    Checksum,
    /// The bytes are those that were written, and yet no entry of this storage's model.
    #[error("the checksum matches, but {0}; was it written by a newer version, or for another storage?")]
    Meaning(String),
}

/// Checks a line's checksum; the newline is not part of `line`.
pub fn has_valid_checksum(line: &[u8]) -> bool {
    let Some(split) = line.len().checked_sub(CRC_SUFFIX_BYTES) else { return false };
    let (body, suffix) = line.split_at(split);
    let Some(digits) = suffix.strip_prefix(CRC_FIELD).and_then(|rest| rest.strip_suffix(b"\"}")) else {
        return false;
    };
    #[cfg(test)]
    if crate::planted::is_here(crate::planted::Bug::NoChecksumTest) {
        return true;
    }
    let crc = crc32fast::hash(body);
    (0..8).all(|index| digits[index] == json::HEX[(crc >> ((7 - index) * 4)) as usize & 15])
}

/// The places that a line with a valid checksum tells: `seq` and `durable_seq`.
pub fn read_places(line: &[u8]) -> Option<(u64, u64)> {
    let split = line.len().checked_sub(CRC_SUFFIX_BYTES)?;
    let body = std::str::from_utf8(line.get(..split)?).ok()?;
    let (rest, durable_seq) = body.rsplit_once(",\"durable_seq\":")?;
    let (_, seq) = rest.rsplit_once(",\"seq\":")?;
    Some((seq.parse().ok()?, durable_seq.parse().ok()?))
}

/// Reads one line, without its newline.
///
/// # Errors
/// [`EntryError::Checksum`] for any changed, missing or additional byte.
pub fn decode(line: &[u8], model: Model) -> Result<Entry, EntryError> {
    if !has_valid_checksum(line) {
        return Err(EntryError::Checksum);
    }
    let text = std::str::from_utf8(line).map_err(|_| meaning("it is not UTF-8"))?;
    if line.starts_with(GAP_START) {
        return decode_gap(text);
    }
    let mut fields = LineFields::default();
    let mut ops = None;
    let mut scanner = Scanner::new(text, usize::MAX);
    scanner
        .object(|scanner, name| {
            let value = scanner.value()?;
            if name == "ops" {
                ops = Some(value);
            } else {
                fields.set(&name, value);
            }
            Ok(())
        })
        .map_err(|error| meaning(&error.to_string()))?;
    let seq = number("seq", fields.seq)?;
    let durable_seq = number("durable_seq", fields.durable_seq)?;
    let producer = fields.take_producer()?;
    let records = match ops {
        Some(ops) => decode_ops(&ops, seq, model)?,
        None => vec![fields.record(seq, model)?],
    };
    if seq == 0 || records.is_empty() {
        return Err(meaning("it holds no record"));
    }
    Ok(Entry { seq, durable_seq, records, gap: None, producer })
}

fn decode_gap(text: &str) -> Result<Entry, EntryError> {
    let (mut count, mut lost, mut seq, mut durable_seq) = (None, None, None, None);
    let mut scanner = Scanner::new(text, usize::MAX);
    scanner
        .object(|scanner, name| {
            let value = scanner.value()?;
            match &*name {
                "count" => count = value.as_u64(),
                "lost" => lost = value.as_bool(),
                "seq" => seq = value.as_u64(),
                "durable_seq" => durable_seq = value.as_u64(),
                _ => {}
            }
            Ok(())
        })
        .map_err(|error| meaning(&error.to_string()))?;
    match (count, lost, seq, durable_seq) {
        (Some(count @ 1..), Some(lost), Some(seq @ 1..), Some(durable_seq)) => Ok(Entry {
            seq,
            durable_seq,
            records: Vec::new(),
            gap: Some(Gap { count, lost }),
            producer: None,
        }),
        _ => Err(meaning("the gap does not say what is missing")),
    }
}

fn decode_ops(ops: &Raw<'_>, seq: u64, model: Model) -> Result<Vec<Record>, EntryError> {
    let mut records = Vec::new();
    let mut fault = None;
    let mut scanner = Scanner::new(ops.text, usize::MAX);
    scanner
        .array(|scanner| {
            let mut fields = LineFields::default();
            scanner.object(|scanner, name| {
                fields.set(&name, scanner.value()?);
                Ok(())
            })?;
            match fields.record(seq + records.len() as u64, model) {
                Ok(record) => records.push(record),
                Err(error) => fault = Some(error),
            }
            Ok(())
        })
        .map_err(|error| meaning(&error.to_string()))?;
    fault.map_or(Ok(records), Err)
}

fn number(name: &str, raw: Option<Raw<'_>>) -> Result<u64, EntryError> {
    raw.and_then(|raw| raw.as_u64()).ok_or_else(|| meaning(&format!("{name} is no number")))
}

fn meaning(what: &str) -> EntryError {
    EntryError::Meaning(what.to_owned())
}

#[cfg(test)]
mod tests;
