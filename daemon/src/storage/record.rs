//! One write, already checked.
//!
//! A [`Record`] is built in three places only: from a request that passed its model's rules
//! ([`super::rules`]), from a WAL line whose checksum held, and from a row that
//! DuckDB kept. All of them go through [`Columns`], so a record always has every column.
//!
//! Invariant: `data` is a valid JSON object, exactly as it was sent. A deletion is a record too; its
//! `data` is empty.

use std::fmt;
use std::sync::Arc;

use fastpersist_protocol::reply::{NamesView, RecordView};
use fastpersist_protocol::time::{Date, Timestamp};
use fastpersist_protocol::value::Value;

/// The names below the key, by model. Their order is the order in which reads list records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Names<'a> {
    /// A record of a dated storage.
    Dated {
        /// The process; null sorts first.
        process_name: Option<&'a str>,
    },
    /// A record of a collection storage.
    Collection {
        /// The collection, which may be empty.
        collection_name: &'a str,
        /// The item, which may be empty.
        item_name: &'a str,
    },
}

impl Names<'_> {
    /// The length of the names, in bytes.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Dated { process_name } => process_name.map_or(0, str::len),
            Self::Collection { collection_name, item_name } => collection_name.len() + item_name.len(),
        }
    }
}

/// Where a write came from, as the kernel told when its connection was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer<'a> {
    /// The user.
    pub uid: u32,
    /// The process, where the kernel tells. The number is given to others later.
    pub pid: Option<u32>,
    /// The systemd unit, where there is one.
    pub unit: Option<&'a str>,
}

/// A record's columns, borrowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns<'a> {
    /// The key.
    pub key: &'a str,
    /// The names below it.
    pub names: Names<'a>,
    /// The document as it was sent; empty for a deletion.
    pub data: &'a str,
    /// Collection only: the typed value.
    pub value: Option<Value<'a>>,
    /// The record's own instant.
    pub timestamp: Option<Timestamp>,
    /// `data`'s status.
    pub status: Option<&'a str>,
    /// `data`'s numeric status.
    pub status_int: Option<i32>,
    /// Who wrote it, by their own word.
    pub username: Option<&'a str>,
    /// When the daemon took it.
    pub updated_at: Timestamp,
    /// Its place in the partition; 0 while it has none.
    pub seq: u64,
    /// Whether the record is a deletion.
    pub deleted: bool,
    /// Where it came from, where the storage keeps that. A record that DuckDB gave back does not know.
    pub writer: Option<Writer<'a>>,
}

/// One write with all its columns, in one block of bytes that everybody shares: a fixed head, then the
/// texts behind one another, then the writer where there is one. A cached document of 130 bytes costs one
/// allocation of about 220.
///
/// Cloning shares the block.
#[derive(Clone)]
pub struct Record(Arc<[u8]>);

/// Where the numbers of the head stand, in bytes; all are little-endian.
mod head {
    use std::ops::Range;

    pub(super) const SEQ: Range<usize> = 0..8;
    pub(super) const UPDATED_AT: Range<usize> = 8..16;
    pub(super) const TIMESTAMP: Range<usize> = 16..24;
    /// The bits of an integer, float or boolean value.
    pub(super) const NUMBER: Range<usize> = 24..32;
    pub(super) const STATUS_INT: Range<usize> = 32..36;
    pub(super) const DATA_BYTES: Range<usize> = 36..40;
    pub(super) const STATUS_BYTES: Range<usize> = 40..44;
    pub(super) const VALUE_BYTES: Range<usize> = 44..48;
    pub(super) const KEY_BYTES: Range<usize> = 48..50;
    pub(super) const NAME_BYTES: Range<usize> = 50..52;
    pub(super) const ITEM_BYTES: Range<usize> = 52..54;
    pub(super) const USERNAME_BYTES: Range<usize> = 54..56;
    pub(super) const VALUE_KIND: usize = 56;
    pub(super) const FLAGS: usize = 57;
    pub(super) const BYTES: usize = 58;
}

/// What is there and what is null.
mod flag {
    pub(super) const DATED: u8 = 1;
    pub(super) const DELETED: u8 = 2;
    pub(super) const PROCESS_NAME: u8 = 4;
    pub(super) const STATUS: u8 = 8;
    pub(super) const USERNAME: u8 = 16;
    pub(super) const TIMESTAMP: u8 = 32;
    pub(super) const STATUS_INT: u8 = 64;
    pub(super) const WRITER: u8 = 128;
}

/// The writer, behind the texts: where its numbers end and the unit's name begins.
mod tail {
    pub(super) const PID: usize = 4;
    pub(super) const UNIT: usize = 8;
}

/// The types of a value.
mod kind {
    pub(super) const NONE: u8 = 0;
    pub(super) const INT: u8 = 1;
    pub(super) const FLOAT: u8 = 2;
    pub(super) const BOOL: u8 = 3;
    pub(super) const STRING: u8 = 4;
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&self.columns()).finish()
    }
}

impl Record {
    /// Copies the columns into a record.
    pub fn new(columns: &Columns<'_>) -> Self {
        let mut bytes = Vec::with_capacity(
            head::BYTES
                + columns.key.len()
                + columns.names.len_bytes()
                + columns.data.len()
                + columns.status.map_or(0, str::len)
                + columns.username.map_or(0, str::len),
        );
        Self::build(columns, &mut bytes)
    }

    /// Like [`new`](Self::new), with a buffer that is used again and again.
    pub fn build(columns: &Columns<'_>, bytes: &mut Vec<u8>) -> Self {
        let (name, item, mut flags) = match columns.names {
            Names::Dated { process_name: None } => ("", "", flag::DATED),
            Names::Dated { process_name: Some(name) } => (name, "", flag::DATED | flag::PROCESS_NAME),
            Names::Collection { collection_name, item_name } => (collection_name, item_name, 0),
        };
        let (value_kind, number, value_text) = match &columns.value {
            None => (kind::NONE, 0, ""),
            Some(Value::Int(value)) => (kind::INT, *value as u64, ""),
            Some(Value::Float(value)) => (kind::FLOAT, value.to_bits(), ""),
            Some(Value::Bool(value)) => (kind::BOOL, u64::from(*value), ""),
            Some(Value::String(value)) => (kind::STRING, 0, &**value),
        };
        for (present, flag) in [
            (columns.deleted, flag::DELETED),
            (columns.status.is_some(), flag::STATUS),
            (columns.username.is_some(), flag::USERNAME),
            (columns.timestamp.is_some(), flag::TIMESTAMP),
            (columns.status_int.is_some(), flag::STATUS_INT),
            (columns.writer.is_some(), flag::WRITER),
        ] {
            flags |= if present { flag } else { 0 };
        }
        let (key, name, item) = (short(columns.key), short(name), short(item));
        let username = short(columns.username.unwrap_or(""));
        let status = columns.status.unwrap_or("");
        let mut head = [0u8; head::BYTES];
        head[head::SEQ].copy_from_slice(&columns.seq.to_le_bytes());
        head[head::UPDATED_AT].copy_from_slice(&columns.updated_at.as_micros().to_le_bytes());
        let timestamp = columns.timestamp.map_or(0, Timestamp::as_micros);
        head[head::TIMESTAMP].copy_from_slice(&timestamp.to_le_bytes());
        head[head::NUMBER].copy_from_slice(&number.to_le_bytes());
        head[head::STATUS_INT].copy_from_slice(&columns.status_int.unwrap_or(0).to_le_bytes());
        head[head::DATA_BYTES].copy_from_slice(&(columns.data.len() as u32).to_le_bytes());
        head[head::STATUS_BYTES].copy_from_slice(&(status.len() as u32).to_le_bytes());
        head[head::VALUE_BYTES].copy_from_slice(&(value_text.len() as u32).to_le_bytes());
        head[head::KEY_BYTES].copy_from_slice(&(key.len() as u16).to_le_bytes());
        head[head::NAME_BYTES].copy_from_slice(&(name.len() as u16).to_le_bytes());
        head[head::ITEM_BYTES].copy_from_slice(&(item.len() as u16).to_le_bytes());
        head[head::USERNAME_BYTES].copy_from_slice(&(username.len() as u16).to_le_bytes());
        head[head::VALUE_KIND] = value_kind;
        head[head::FLAGS] = flags;
        bytes.clear();
        bytes.extend_from_slice(&head);
        for text in [key, name, item, columns.data, status, username, value_text] {
            bytes.extend_from_slice(text.as_bytes());
        }
        if let Some(writer) = &columns.writer {
            bytes.extend_from_slice(&writer.uid.to_le_bytes());
            bytes.extend_from_slice(&writer.pid.unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(writer.unit.unwrap_or("").as_bytes());
        }
        Self(Arc::from(&bytes[..]))
    }

    fn u64_at(&self, at: std::ops::Range<usize>) -> u64 {
        le(&self.0[at])
    }

    fn has(&self, flag: u8) -> bool {
        self.0[head::FLAGS] & flag != 0
    }

    /// Where the texts end, in their order: key, name, item, data, status, username, value.
    fn ends(&self) -> [usize; 7] {
        let mut end = head::BYTES;
        [
            head::KEY_BYTES,
            head::NAME_BYTES,
            head::ITEM_BYTES,
            head::DATA_BYTES,
            head::STATUS_BYTES,
            head::USERNAME_BYTES,
            head::VALUE_BYTES,
        ]
        .map(|length| {
            end += self.u64_at(length) as usize;
            end
        })
    }

    /// The key's bytes.
    pub fn key_bytes(&self) -> &[u8] {
        &self.0[head::BYTES..head::BYTES + self.u64_at(head::KEY_BYTES) as usize]
    }

    /// The key.
    pub fn key(&self) -> &str {
        text(self.key_bytes())
    }

    /// The bytes of the two names, the second of them empty in a dated storage.
    fn name_bytes(&self) -> (&[u8], &[u8]) {
        let start = head::BYTES + self.u64_at(head::KEY_BYTES) as usize;
        let middle = start + self.u64_at(head::NAME_BYTES) as usize;
        (&self.0[start..middle], &self.0[middle..middle + self.u64_at(head::ITEM_BYTES) as usize])
    }

    /// The names below the key.
    pub fn names(&self) -> Names<'_> {
        let (name, item) = self.name_bytes();
        if self.has(flag::DATED) {
            Names::Dated { process_name: self.has(flag::PROCESS_NAME).then(|| text(name)) }
        } else {
            Names::Collection { collection_name: text(name), item_name: text(item) }
        }
    }

    /// Whether these are the names below the key; cheaper than to compare [`names`](Self::names).
    pub fn has_names(&self, names: Names<'_>) -> bool {
        let (name, item) = self.name_bytes();
        match names {
            Names::Dated { process_name } => {
                self.has(flag::PROCESS_NAME) == process_name.is_some()
                    && name == process_name.unwrap_or("").as_bytes()
            }
            Names::Collection { collection_name, item_name } => {
                name == collection_name.as_bytes() && item == item_name.as_bytes()
            }
        }
    }

    /// Whether another record has the same names below its key.
    pub fn has_names_of(&self, other: &Self) -> bool {
        self.has(flag::PROCESS_NAME) == other.has(flag::PROCESS_NAME)
            && self.name_bytes() == other.name_bytes()
    }

    /// The record's place in its partition.
    pub fn seq(&self) -> u64 {
        self.u64_at(head::SEQ)
    }

    /// When the record was taken.
    pub fn updated_at(&self) -> Timestamp {
        self.instant(head::UPDATED_AT)
    }

    /// Gives the record its place; once, when it is appended, before anybody shares it.
    pub fn set_seq(&mut self, seq: u64) {
        debug_assert!(self.seq() == 0 && seq > 0, "a record gets one place, and only once");
        Arc::make_mut(&mut self.0)[head::SEQ].copy_from_slice(&seq.to_le_bytes());
    }

    /// Takes the place back from a record that was not appended after all and that nobody shares.
    pub fn take_seq_back(&mut self) {
        if self.seq() > 0 {
            Arc::make_mut(&mut self.0)[head::SEQ].fill(0);
        }
    }

    /// Whether the record is a deletion.
    pub fn is_deleted(&self) -> bool {
        self.has(flag::DELETED)
    }

    /// What the record costs in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        2 * size_of::<usize>() + self.0.len()
    }

    /// All columns.
    pub fn columns(&self) -> Columns<'_> {
        let [_, _, item, data, status, username, value] = self.ends();
        Columns {
            key: self.key(),
            names: self.names(),
            data: text(&self.0[item..data]),
            value: self.value(&self.0[username..value]),
            timestamp: self.has(flag::TIMESTAMP).then(|| self.instant(head::TIMESTAMP)),
            status: self.has(flag::STATUS).then(|| text(&self.0[data..status])),
            status_int: self.has(flag::STATUS_INT).then(|| self.u64_at(head::STATUS_INT) as u32 as i32),
            username: self.has(flag::USERNAME).then(|| text(&self.0[status..username])),
            updated_at: self.instant(head::UPDATED_AT),
            seq: self.seq(),
            deleted: self.is_deleted(),
            writer: self.has(flag::WRITER).then(|| writer(&self.0[value..])),
        }
    }

    fn instant(&self, at: std::ops::Range<usize>) -> Timestamp {
        // It was made from a timestamp, so it is one.
        Timestamp::from_micros(self.u64_at(at) as i64).unwrap_or(Timestamp::EPOCH)
    }

    fn value<'r>(&self, value_text: &'r [u8]) -> Option<Value<'r>> {
        let number = self.u64_at(head::NUMBER);
        match self.0[head::VALUE_KIND] {
            kind::INT => Some(Value::Int(number as i64)),
            kind::FLOAT => Some(Value::Float(f64::from_bits(number))),
            kind::BOOL => Some(Value::Bool(number != 0)),
            kind::STRING => Some(Value::String(text(value_text).into())),
            _ => None,
        }
    }

    /// Writes the record as a read returns it; `date` is the partition's, for a dated storage.
    pub fn write_json(&self, date: Option<Date>, out: &mut Vec<u8>) {
        let columns = self.columns();
        let names = match (columns.names, date) {
            (Names::Dated { process_name }, date) => {
                NamesView::Dated { date: date.unwrap_or_else(|| columns.updated_at.date()), process_name }
            }
            (Names::Collection { collection_name, item_name }, _) => {
                NamesView::Collection { collection_name, item_name }
            }
        };
        let view = RecordView {
            key: columns.key,
            names,
            value: columns.value,
            data: columns.data,
            timestamp: columns.timestamp,
            status: columns.status,
            status_int: columns.status_int,
            username: columns.username,
            updated_at: columns.updated_at,
            seq: columns.seq,
        };
        view.write_json(out);
    }
}

/// A little-endian number of up to eight bytes.
fn le(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(padded)
}

/// The writer in a record's tail. No process has the number 0, and no unit an empty name.
fn writer(tail: &[u8]) -> Writer<'_> {
    let unit = text(&tail[tail::UNIT..]);
    Writer {
        uid: le(&tail[..tail::PID]) as u32,
        pid: Some(le(&tail[tail::PID..tail::UNIT]) as u32).filter(|pid| *pid != 0),
        unit: Some(unit).filter(|unit| !unit.is_empty()),
    }
}

/// A text of a record; it was copied from one, so it is one.
fn text(bytes: &[u8]) -> &str {
    debug_assert!(std::str::from_utf8(bytes).is_ok());
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A name whose length fits the head. The protocol allows at most 1,024 bytes; only a row that another
/// program wrote into the database could be longer.
fn short(name: &str) -> &str {
    let mut end = name.len().min(usize::from(u16::MAX));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_comes_back() {
        let updated_at = Timestamp::from_micros(1).expect("in range");
        let dated = Columns {
            key: "k",
            names: Names::Dated { process_name: Some("") },
            data: r#"{"a":1}"#,
            value: None,
            timestamp: None,
            status: Some(""),
            status_int: Some(-7),
            username: None,
            updated_at,
            seq: 9,
            deleted: false,
            writer: None,
        };
        assert_eq!(Record::new(&dated).columns(), dated);
        for value in [
            None,
            Some(Value::Int(i64::MIN)),
            Some(Value::Float(-0.0)),
            Some(Value::Bool(true)),
            Some(Value::String("é".into())),
        ] {
            let collection = Columns {
                names: Names::Collection { collection_name: "c", item_name: "" },
                value,
                timestamp: Some(updated_at),
                username: Some("u"),
                deleted: true,
                ..dated.clone()
            };
            assert_eq!(Record::new(&collection).columns(), collection);
        }
    }

    #[test]
    fn a_writer_comes_back_and_costs_nothing_where_there_is_none() {
        let without = Columns {
            key: "k",
            names: Names::Collection { collection_name: "c", item_name: "i" },
            data: "{}",
            value: Some(Value::String("v".into())),
            timestamp: None,
            status: None,
            status_int: None,
            username: Some("u"),
            updated_at: Timestamp::EPOCH,
            seq: 1,
            deleted: false,
            writer: None,
        };
        let bytes = |columns: &Columns<'_>| Record::new(columns).0.len();
        assert_eq!(bytes(&without), head::BYTES + "kci{}uv".len());
        for (uid, pid, unit) in [
            (0, None, None),
            (u32::MAX, Some(1), None),
            (1000, None, Some("session-3.scope")),
            (1, Some(4_194_304), Some("nightly@é.service")),
        ] {
            let with = Columns { writer: Some(Writer { uid, pid, unit }), ..without.clone() };
            assert_eq!(Record::new(&with).columns(), with);
            assert_eq!(bytes(&with), bytes(&without) + tail::UNIT + unit.map_or(0, str::len));
            let deletion = Columns { data: "", deleted: true, ..with };
            assert_eq!(Record::new(&deletion).columns(), deletion);
        }
    }

    #[test]
    fn null_sorts_before_any_process() {
        assert!(Names::Dated { process_name: None } < Names::Dated { process_name: Some("") });
    }
}
