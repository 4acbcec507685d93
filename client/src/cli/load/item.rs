//! One line of input to one record to store.
//!
//! Invariant: an [`Item`]'s data is a JSON object on one line, byte for byte as the input has it.

use std::collections::BTreeMap;

use fastpersist_client::protocol::request::{Address, Document, Store};
use fastpersist_client::protocol::value::Value as WireValue;
use fastpersist_client::{Date, Timestamp, Value};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::template::{Template, scalar};

/// A record that is to be stored.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_field_names, reason = "the names are those of the protocol")]
pub(crate) struct Item {
    /// Its line in the input, for messages.
    pub(crate) line: u64,
    pub(crate) date: Option<Date>,
    key: String,
    process_name: Option<String>,
    collection_name: Option<String>,
    item_name: Option<String>,
    data: String,
    value: Option<Value>,
    timestamp: Option<Timestamp>,
    username: Option<String>,
}

/// Which of a document's fields name the record. Without a key, a line is a store as the protocol has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mapping {
    pub(crate) key: Option<Template>,
    pub(crate) process: Option<String>,
    pub(crate) collection: Option<String>,
    pub(crate) item: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) timestamp: Option<String>,
    pub(crate) date: Option<String>,
}

/// A store as the protocol has it, or a record as reads print it, whose further fields say nothing new.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'l> {
    #[serde(default)]
    op: Option<String>,
    key: String,
    #[serde(default)]
    date: Option<String>,
    #[serde(default)]
    process_name: Option<String>,
    #[serde(default)]
    collection_name: Option<String>,
    #[serde(default)]
    item_name: Option<String>,
    #[serde(borrow)]
    data: &'l RawValue,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
    #[serde(default, rename = "status_int")]
    _status_int: IgnoredAny,
    #[serde(default, rename = "updated_at")]
    _updated_at: IgnoredAny,
    #[serde(default, rename = "seq")]
    _seq: IgnoredAny,
}

/// A document with its fields still as JSON text.
pub(crate) struct Fielded<'l> {
    fields: BTreeMap<String, &'l RawValue>,
}

impl<'l> Fielded<'l> {
    pub(crate) fn read(json: &'l str) -> Result<Self, String> {
        Ok(Self { fields: serde_json::from_str(json).map_err(|error| wrong(&error))? })
    }

    pub(crate) fn raw(&self, name: &str) -> Option<&'l str> {
        self.fields.get(name).map(|raw| raw.get())
    }

    /// A field that is asked for, there and not null, with its name.
    fn present<'n>(&self, name: Option<&'n str>) -> Option<(&'n str, &'l str)> {
        let name = name?;
        self.raw(name).filter(|value| *value != "null").map(|value| (name, value))
    }

    /// A field as text, where it is asked for, there and not null.
    pub(crate) fn text(&self, name: Option<&str>) -> Result<Option<String>, String> {
        let Some((name, value)) = self.present(name) else { return Ok(None) };
        match scalar(value) {
            Some(text) => Ok(Some(text.into_owned())),
            None => Err(format!("the field {name:?} is {value}, which makes no name")),
        }
    }
}

impl Item {
    /// Reads a line of JSON. The error says what is wrong with it.
    pub(crate) fn read(line: u64, json: &str, mapping: &Mapping) -> Result<Self, String> {
        match &mapping.key {
            Some(key) => Self::mapped(line, json, key, mapping),
            None => Self::as_it_is(line, json),
        }
    }

    fn mapped(line: u64, json: &str, key: &Template, mapping: &Mapping) -> Result<Self, String> {
        let json = json.trim();
        let document = Fielded::read(json)?;
        let value = match document.present(mapping.value.as_deref()) {
            None => None,
            Some((name, value)) => Some(
                serde_json::from_str(value)
                    .map_err(|error| format!("the field {name:?}: {}", wrong(&error)))?,
            ),
        };
        Ok(Self {
            line,
            date: document.text(mapping.date.as_deref())?.as_deref().map(date).transpose()?,
            key: key.render(|name| document.raw(name))?,
            process_name: document.text(mapping.process.as_deref())?,
            collection_name: document.text(mapping.collection.as_deref())?,
            item_name: document.text(mapping.item.as_deref())?,
            data: json.to_owned(),
            value,
            timestamp: document.text(mapping.timestamp.as_deref())?.as_deref().map(timestamp).transpose()?,
            username: None,
        })
    }

    fn as_it_is(line: u64, json: &str) -> Result<Self, String> {
        let fields: Fields<'_> = serde_json::from_str(json).map_err(|error| {
            format!("{}; a line has key and data, or --key says which field is the key", wrong(&error))
        })?;
        match fields.op.as_deref() {
            None | Some("store") => {}
            Some(op) => {
                return Err(format!("op is {op:?}; only stores can be loaded, `batch` takes deletes too"));
            }
        }
        if !fields.data.get().starts_with('{') {
            return Err("data is not a JSON object".to_owned());
        }
        Ok(Self {
            line,
            date: fields.date.as_deref().map(date).transpose()?,
            key: fields.key,
            process_name: fields.process_name,
            collection_name: fields.collection_name,
            item_name: fields.item_name,
            data: fields.data.get().to_owned(),
            value: fields.value,
            timestamp: fields.timestamp.as_deref().map(timestamp).transpose()?,
            username: fields.username,
        })
    }

    /// Roughly what it takes on the wire.
    pub(crate) fn byte_count(&self) -> usize {
        self.key.len() + self.data.len() + 128
    }

    pub(crate) fn as_store(&self) -> Store<'_> {
        Store {
            address: Address {
                key: self.key.as_str().into(),
                process_name: self.process_name.as_deref().map(Into::into),
                collection_name: self.collection_name.as_deref().map(Into::into),
                item_name: self.item_name.as_deref().map(Into::into),
            },
            data: Document {
                text: &self.data,
                process_name: None,
                timestamp: None,
                status: None,
                status_int: None,
                username: None,
            },
            value: self.value.as_ref().map(|value| match value {
                Value::Int(value) => WireValue::Int(*value),
                Value::Float(value) => WireValue::Float(*value),
                Value::String(value) => WireValue::String(value.as_str().into()),
                Value::Bool(value) => WireValue::Bool(*value),
            }),
            timestamp: self.timestamp,
            username: self.username.as_deref().map(Into::into),
            if_seq: None,
        }
    }
}

/// A JSON error without its own line number, which is always 1 and would only confuse.
fn wrong(error: &serde_json::Error) -> String {
    let column = error.column();
    let text = error.to_string();
    let place = format!(" at line {} column {column}", error.line());
    match text.strip_suffix(&place) {
        Some(text) if column > 0 => format!("{text} at column {column}"),
        _ => text,
    }
}

fn date(text: &str) -> Result<Date, String> {
    Date::parse(text).ok_or_else(|| format!("{text:?} is no date like 2025-01-15"))
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| format!("{text:?} is no timestamp like 2025-01-15T10:30:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(key: &str) -> Mapping {
        Mapping { key: Some(Template::parse(key).unwrap()), ..Mapping::default() }
    }

    #[test]
    fn a_document_gives_its_names_and_stays_as_it_is() {
        let mapping = Mapping {
            process: Some("origin".to_owned()),
            value: Some("n".to_owned()),
            timestamp: Some("at".to_owned()),
            item: Some("absent".to_owned()),
            ..mapping("{carrier}-{n}")
        };
        let json =
            r#" {"carrier":"UA", "n":1.0,"origin":"EWR","at":"2013-01-01","big":123456789012345678901} "#;
        let item = Item::read(3, json, &mapping).unwrap();
        assert_eq!(item.key, "UA-1.0");
        assert_eq!(item.process_name.as_deref(), Some("EWR"));
        assert_eq!(item.value, Some(Value::Float(1.0)));
        assert_eq!(item.timestamp.unwrap().to_string(), "2013-01-01T00:00:00.000000Z");
        assert_eq!(item.item_name, None);
        assert_eq!(item.data, json.trim());
    }

    #[test]
    fn a_printed_record_loads_again() {
        let record = r#"{"date":"2025-01-15","key":"task_1","process_name":null,"data":{ "a":1e400 },"timestamp":"2025-01-15T10:30:00.000000Z","status":null,"status_int":null,"username":"ann","updated_at":"2025-01-15T10:30:00.000000Z","seq":7}"#;
        let item = Item::read(1, record, &Mapping::default()).unwrap();
        assert_eq!((item.key.as_str(), item.data.as_str()), ("task_1", r#"{ "a":1e400 }"#));
        assert_eq!(item.username.as_deref(), Some("ann"));
        assert_eq!(item.date.unwrap().to_string(), "2025-01-15");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (json, what) in [
            ("", "EOF"),
            ("[1]", "invalid type"),
            (r#"{"key":"a"}"#, "missing field `data`"),
            (r#"{"key":"a","data":[]}"#, "data is not a JSON object"),
            (r#"{"key":"a","data":{},"colection":"x"}"#, "unknown field `colection`"),
            (r#"{"op":"delete","key":"a","data":{}}"#, "only stores"),
            (r#"{"key":"a","data":{},"timestamp":"soon"}"#, "\"soon\" is no timestamp"),
            (r#"{"key":"a","data":{},"value":[]}"#, "an integer of 64 bits"),
            (r#"{"key":"a","data":{}} x"#, "trailing characters at column 23"),
        ] {
            let error = Item::read(1, json, &Mapping::default()).unwrap_err();
            assert!(error.contains(what), "{json}: {error}");
        }
        let error = Item::read(1, r#"{"a":1}"#, &mapping("b")).unwrap_err();
        assert_eq!(error, "the field \"b\" is missing");
        assert!(Item::read(1, "[]", &mapping("b")).is_err());
    }
}
