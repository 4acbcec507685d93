//! The fields of a line, and the record that they make.
//!
//! Invariant: a field that is not understood, or does not fit its type, is told: to pass over it would change the
//! meaning of the write.

use fastpersist_protocol::json::{Kind, Raw};
use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::value::Value;

use super::super::commit::Producer;
use super::{EntryError, meaning};
use crate::storage::record::{Columns, Names, Record, Writer};
use crate::storage::schema::Model;

/// The fields of one write in a line.
#[derive(Debug, Default)]
pub(super) struct LineFields<'a> {
    op: Option<Raw<'a>>,
    key: Option<Raw<'a>>,
    process_name: Option<Raw<'a>>,
    collection_name: Option<Raw<'a>>,
    item_name: Option<Raw<'a>>,
    data: Option<Raw<'a>>,
    value: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    status: Option<Raw<'a>>,
    status_int: Option<Raw<'a>>,
    username: Option<Raw<'a>>,
    updated_at: Option<Raw<'a>>,
    writer_uid: Option<Raw<'a>>,
    writer_pid: Option<Raw<'a>>,
    writer_unit: Option<Raw<'a>>,
    pub(super) seq: Option<Raw<'a>>,
    pub(super) durable_seq: Option<Raw<'a>>,
    producer: Option<Raw<'a>>,
    producer_seq: Option<Raw<'a>>,
    unknown: Option<String>,
}

impl<'a> LineFields<'a> {
    /// Notes one field; what is not known too.
    pub(super) fn set(&mut self, name: &str, value: Raw<'a>) {
        let slot = match name {
            "op" => &mut self.op,
            "key" => &mut self.key,
            "process_name" => &mut self.process_name,
            "collection_name" => &mut self.collection_name,
            "item_name" => &mut self.item_name,
            "data" => &mut self.data,
            "value" => &mut self.value,
            "timestamp" => &mut self.timestamp,
            "status" => &mut self.status,
            "status_int" => &mut self.status_int,
            "username" => &mut self.username,
            "updated_at" => &mut self.updated_at,
            "writer_uid" => &mut self.writer_uid,
            "writer_pid" => &mut self.writer_pid,
            "writer_unit" => &mut self.writer_unit,
            "seq" => &mut self.seq,
            "durable_seq" => &mut self.durable_seq,
            "producer" => &mut self.producer,
            "producer_seq" => &mut self.producer_seq,
            "crc" => return,
            other => {
                self.unknown = Some(other.to_owned());
                return;
            }
        };
        *slot = Some(value);
    }

    /// Who wrote the line.
    pub(super) fn take_producer(&mut self) -> Result<Option<Producer>, EntryError> {
        match (self.producer.take(), self.producer_seq.take()) {
            (None, None) => Ok(None),
            (Some(name), Some(seq)) => match (name.as_str(), seq.as_u64()) {
                (Some(name), Some(seq)) => Ok(Some(Producer { name: name.into(), seq })),
                _ => Err(meaning("producer is no name, or producer_seq no number")),
            },
            _ => Err(meaning("producer and producer_seq do not stand together")),
        }
    }

    /// The write, at this place.
    pub(super) fn record(&self, seq: u64, model: Model) -> Result<Record, EntryError> {
        if self.producer.is_some() || self.producer_seq.is_some() {
            return Err(meaning("a producer stands on one operation of a batch"));
        }
        // Passing over a field that is not understood would change the meaning of the write.
        if let Some(name) = &self.unknown {
            return Err(meaning(&format!("the field {name:?} is unknown")));
        }
        let text = |raw: Option<Raw<'a>>| raw.and_then(|raw| raw.as_str());
        let deleted = match text(self.op).as_deref() {
            Some("store") => false,
            Some("delete") => true,
            _ => return Err(meaning("op is neither store nor delete")),
        };
        let key = text(self.key).ok_or_else(|| meaning("key is missing"))?;
        let updated_at = text(self.updated_at).and_then(|text| Timestamp::parse(&text));
        let updated_at = updated_at.ok_or_else(|| meaning("updated_at is missing"))?;
        let process_name = text(self.process_name);
        let collection_name = text(self.collection_name);
        let item_name = text(self.item_name);
        let names = match (model, &collection_name, &item_name) {
            (Model::Dated, None, None) => Names::Dated { process_name: process_name.as_deref() },
            (Model::Collection, Some(collection_name), Some(item_name)) => {
                Names::Collection { collection_name, item_name }
            }
            _ => return Err(meaning(&format!("its names are not those of a {model} storage"))),
        };
        let data = match self.data {
            Some(raw) if raw.kind == Kind::Object && !deleted => raw.text,
            None if deleted => "",
            _ => return Err(meaning("data is no object")),
        };
        let status = text(self.status);
        let username = text(self.username);
        let writer_unit = text(self.writer_unit);
        Ok(Record::new(&Columns {
            key: &key,
            names,
            data,
            value: self.typed_value()?,
            timestamp: self.own_timestamp(updated_at)?,
            status: status.as_deref(),
            status_int: self.status_int.and_then(|raw| raw.as_i64()).and_then(|n| i32::try_from(n).ok()),
            username: username.as_deref(),
            updated_at,
            seq,
            deleted,
            writer: self.writer(writer_unit.as_deref())?,
        }))
    }

    fn writer<'u>(&self, unit: Option<&'u str>) -> Result<Option<Writer<'u>>, EntryError> {
        let number = |raw: Raw<'_>| raw.as_u64().and_then(|number| u32::try_from(number).ok());
        match (self.writer_uid.map(number), self.writer_pid.map(number)) {
            (None, None) if self.writer_unit.is_none() => Ok(None),
            (Some(Some(uid)), pid @ (None | Some(Some(_))))
                if self.writer_unit.is_some() == unit.is_some() =>
            {
                Ok(Some(Writer { uid, pid: pid.flatten(), unit }))
            }
            _ => Err(meaning("its writer is not uid, pid and unit")),
        }
    }

    fn typed_value(&self) -> Result<Option<Value<'a>>, EntryError> {
        let Some(raw) = self.value else { return Ok(None) };
        let value = match raw.kind {
            Kind::String { .. } => raw.as_str().map(Value::String),
            Kind::Bool => raw.as_bool().map(Value::Bool),
            Kind::Number { integer: true } => raw.as_i64().map(Value::Int),
            Kind::Number { integer: false } => raw.as_f64().map(Value::Float),
            _ => None,
        };
        value.map(Some).ok_or_else(|| meaning("value is no number, string or boolean"))
    }

    fn own_timestamp(&self, updated_at: Timestamp) -> Result<Option<Timestamp>, EntryError> {
        match self.timestamp {
            None => Ok(Some(updated_at)),
            Some(raw) if raw.is_null() => Ok(None),
            Some(raw) => {
                let parsed = raw.as_str().and_then(|text| Timestamp::parse(&text));
                parsed.map(Some).ok_or_else(|| meaning("timestamp cannot be read"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode_body, finish_batch, finish_line, hash_body};
    use super::*;

    const WRITERS: [Option<Writer<'_>>; 4] = [
        None,
        Some(Writer { uid: 0, pid: None, unit: None }),
        Some(Writer { uid: u32::MAX, pid: Some(4_194_304), unit: None }),
        Some(Writer { uid: 1000, pid: Some(7), unit: Some("a\"b\\x2d@é.service") }),
    ];

    fn columns(writer: Option<Writer<'_>>, deleted: bool) -> Columns<'_> {
        Columns {
            key: "k",
            names: Names::Dated { process_name: None },
            data: if deleted { "" } else { "{}" },
            value: None,
            timestamp: Some(Timestamp::EPOCH),
            status: None,
            status_int: None,
            username: None,
            updated_at: Timestamp::EPOCH,
            seq: 0,
            deleted,
            writer,
        }
    }

    fn body(columns: &Columns<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        encode_body(columns, &mut body);
        body
    }

    /// What becomes of a line with this body.
    fn decoded(body: &[u8]) -> Result<Vec<Record>, EntryError> {
        let mut line = Vec::new();
        finish_line(body, hash_body(body), 7, 6, &mut line);
        line.pop();
        decode(&line, Model::Dated).map(|entry| entry.records)
    }

    #[test]
    fn a_writer_comes_back_from_a_line_and_from_a_batch() {
        let all = || WRITERS.into_iter().flat_map(|writer| [columns(writer, false), columns(writer, true)]);
        for columns in all() {
            let expected = Columns { seq: 7, ..columns.clone() };
            assert_eq!(decoded(&body(&columns)).expect("a line")[0].columns(), expected);
        }
        let bodies: Vec<_> = all().map(|columns| body(&columns)).collect();
        let mut line = Vec::new();
        let producer = Producer { name: "p".into(), seq: 3 };
        finish_batch(bodies.iter().map(Vec::as_slice), Some(&producer), 7, 6, &mut line);
        line.pop();
        let entry = decode(&line, Model::Dated).expect("a batch");
        assert_eq!(entry.producer, Some(producer));
        for ((record, columns), seq) in entry.records.iter().zip(all()).zip(7..) {
            assert_eq!(record.columns(), Columns { seq, ..columns });
        }
        assert_eq!(entry.records.len(), bodies.len());
    }

    #[test]
    fn its_fields_stand_flat_behind_updated_at_and_without_it_there_is_none() {
        let text = |writer| String::from_utf8(body(&columns(writer, true))).expect("text");
        let none = r#"{"op":"delete","key":"k","updated_at":"1970-01-01T00:00:00.000000Z""#;
        assert_eq!(text(None), none);
        let unit = Some("nightly.service");
        let fields = r#","writer_uid":1000,"writer_pid":4711,"writer_unit":"nightly.service""#;
        assert_eq!(text(Some(Writer { uid: 1000, pid: Some(4711), unit })), format!("{none}{fields}"));
        assert_eq!(text(Some(Writer { uid: 0, pid: None, unit: None })), format!("{none},\"writer_uid\":0"));
    }

    #[test]
    fn a_writer_of_another_form_is_damage() {
        for fields in [
            r#","writer_pid":1"#,
            r#","writer_unit":"x.service""#,
            r#","writer_uid":-1"#,
            r#","writer_uid":4294967296"#,
            r#","writer_uid":1,"writer_pid":"1""#,
            r#","writer_uid":1,"writer_unit":1"#,
        ] {
            let mut body = body(&columns(None, false));
            body.extend_from_slice(fields.as_bytes());
            assert!(matches!(decoded(&body), Err(EntryError::Meaning(_))), "{fields}");
        }
    }
}
