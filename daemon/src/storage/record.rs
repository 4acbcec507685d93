//! One write, already checked.
//!
//! A [`Record`] is built in three places only: from a request that passed its model's rules
//! ([`super::dated`], [`super::collection`]), from a WAL line whose checksum held, and from a row that
//! DuckDB kept. All of them go through [`Columns`], so a record always has every column.
//!
//! Invariant: `data` is a valid JSON object, exactly as it was sent. A deletion is a record too; its
//! `data` is empty.

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
}

/// The texts of a record, in the order in which they lie behind one another.
const KEY: usize = 0;
const NAME: usize = 1;
const ITEM: usize = 2;
const DATA: usize = 3;
const STATUS: usize = 4;
const USERNAME: usize = 5;
const VALUE: usize = 6;
const TEXTS: usize = 7;

/// What a record is, beside its texts and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    None,
    Int,
    Float,
    Bool,
    String,
}

/// One write with all its columns, in one block of text and a few numbers: a cached document of 130
/// bytes costs about 250.
#[derive(Debug)]
pub struct Record {
    texts: Box<str>,
    seq: u64,
    updated_at: Timestamp,
    timestamp: Option<Timestamp>,
    /// The bits of an integer, float or boolean value.
    number: u64,
    status_int: Option<i32>,
    ends: [u32; TEXTS],
    value: ValueKind,
    dated: bool,
    deleted: bool,
    has_process_name: bool,
    has_status: bool,
    has_username: bool,
}

impl Record {
    /// Copies the columns into a record.
    pub fn new(columns: &Columns<'_>) -> Self {
        let (name, item, dated, has_process_name) = match columns.names {
            Names::Dated { process_name } => (process_name.unwrap_or(""), "", true, process_name.is_some()),
            Names::Collection { collection_name, item_name } => (collection_name, item_name, false, false),
        };
        let (value, number, value_text) = match &columns.value {
            None => (ValueKind::None, 0, ""),
            Some(Value::Int(value)) => (ValueKind::Int, *value as u64, ""),
            Some(Value::Float(value)) => (ValueKind::Float, value.to_bits(), ""),
            Some(Value::Bool(value)) => (ValueKind::Bool, u64::from(*value), ""),
            Some(Value::String(value)) => (ValueKind::String, 0, &**value),
        };
        let parts = [
            columns.key,
            name,
            item,
            columns.data,
            columns.status.unwrap_or(""),
            columns.username.unwrap_or(""),
            value_text,
        ];
        let mut texts = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        let mut ends = [0; TEXTS];
        for (end, part) in ends.iter_mut().zip(parts) {
            texts.push_str(part);
            *end = texts.len() as u32;
        }
        Self {
            texts: texts.into_boxed_str(),
            seq: columns.seq,
            updated_at: columns.updated_at,
            timestamp: columns.timestamp,
            number,
            status_int: columns.status_int,
            ends,
            value,
            dated,
            deleted: columns.deleted,
            has_process_name,
            has_status: columns.status.is_some(),
            has_username: columns.username.is_some(),
        }
    }

    fn text(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.texts[start as usize..self.ends[index] as usize]
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.text(KEY)
    }

    /// The names below the key.
    pub fn names(&self) -> Names<'_> {
        if self.dated {
            Names::Dated { process_name: self.has_process_name.then(|| self.text(NAME)) }
        } else {
            Names::Collection { collection_name: self.text(NAME), item_name: self.text(ITEM) }
        }
    }

    /// The record's place in its partition.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Gives the record its place; once, when it is appended.
    pub fn set_seq(&mut self, seq: u64) {
        debug_assert!(self.seq == 0 && seq > 0, "a record gets one place, and only once");
        self.seq = seq;
    }

    /// Whether the record is a deletion.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// What the record costs in memory, in bytes, the allocator's share estimated.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + 2 * size_of::<usize>() + self.texts.len()
    }

    /// All columns.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            key: self.key(),
            names: self.names(),
            data: self.text(DATA),
            value: self.value(),
            timestamp: self.timestamp,
            status: self.has_status.then(|| self.text(STATUS)),
            status_int: self.status_int,
            username: self.has_username.then(|| self.text(USERNAME)),
            updated_at: self.updated_at,
            seq: self.seq,
            deleted: self.deleted,
        }
    }

    fn value(&self) -> Option<Value<'_>> {
        match self.value {
            ValueKind::None => None,
            ValueKind::Int => Some(Value::Int(self.number as i64)),
            ValueKind::Float => Some(Value::Float(f64::from_bits(self.number))),
            ValueKind::Bool => Some(Value::Bool(self.number != 0)),
            ValueKind::String => Some(Value::String(self.text(VALUE).into())),
        }
    }

    /// Writes the record as a read returns it; `date` is the partition's, for a dated storage.
    pub fn write_json(&self, date: Option<Date>, out: &mut Vec<u8>) {
        let columns = self.columns();
        let names = match (columns.names, date) {
            (Names::Dated { process_name }, date) => {
                NamesView::Dated { date: date.unwrap_or_else(|| self.updated_at.date()), process_name }
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
    fn null_sorts_before_any_process() {
        assert!(Names::Dated { process_name: None } < Names::Dated { process_name: Some("") });
    }
}
