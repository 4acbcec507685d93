//! Records, as reads return them.
//!
//! Invariant: [`data_json`](DatedRecord::data_json) is byte for byte what was stored; nothing between
//! the daemon and here rebuilds it.

use fastpersist_protocol::time::{Date, Timestamp};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::value::Value;

/// A record of a dated storage.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[non_exhaustive]
pub struct DatedRecord {
    /// The partition.
    #[serde(deserialize_with = "read_date", serialize_with = "write_text")]
    pub date: Date,
    /// The record's key.
    pub key: String,
    /// The process that the record belongs to, if any.
    pub process_name: Option<String>,
    data: Box<RawValue>,
    /// The record's own instant.
    #[serde(deserialize_with = "read_opt_timestamp", serialize_with = "write_opt_text")]
    pub timestamp: Option<Timestamp>,
    /// The field `status` of the data, where that is a string.
    pub status: Option<String>,
    /// The field `status_int` of the data, where that is a 32-bit integer.
    pub status_int: Option<i32>,
    /// Who wrote it, by their own word.
    pub username: Option<String>,
    /// When the daemon took it.
    #[serde(deserialize_with = "read_timestamp", serialize_with = "write_text")]
    pub updated_at: Timestamp,
    /// Its place in the partition, 1, 2, 3 …
    pub seq: u64,
}

/// A record of a collection storage: the latest state of one item.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
#[non_exhaustive]
pub struct CollectionRecord {
    /// The record's key.
    pub key: String,
    /// The collection, which may be the empty name.
    pub collection_name: String,
    /// The item, which may be the empty name.
    pub item_name: String,
    /// The typed value, if there is one.
    pub value: Option<Value>,
    data: Box<RawValue>,
    /// The record's own instant.
    #[serde(deserialize_with = "read_opt_timestamp", serialize_with = "write_opt_text")]
    pub timestamp: Option<Timestamp>,
    /// The field `status` of the data, where that is a string.
    pub status: Option<String>,
    /// The field `status_int` of the data, where that is a 32-bit integer.
    pub status_int: Option<i32>,
    /// Who wrote it, by their own word.
    pub username: Option<String>,
    /// When the daemon took it.
    #[serde(deserialize_with = "read_timestamp", serialize_with = "write_text")]
    pub updated_at: Timestamp,
    /// Its place in the storage, 1, 2, 3 …
    pub seq: u64,
}

macro_rules! data_access {
    ($($record:ty),*) => {
        $(impl $record {
            /// The data as a type of your own.
            ///
            /// # Errors
            /// [`Error::Data`] when the data does not fit the type.
            pub fn get<T: DeserializeOwned>(&self) -> Result<T, Error> {
                serde_json::from_str(self.data.get())
                    .map_err(|error| Error::data(&format!("the data of key {:?}", self.key), error))
            }

            /// The data as it was stored, byte for byte.
            pub fn data_json(&self) -> &str {
                self.data.get()
            }
        })*
    };
}

data_access!(DatedRecord, CollectionRecord);

pub(crate) fn read_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    let text = String::deserialize(deserializer)?;
    Date::parse(&text).ok_or_else(|| de::Error::custom(format!("{text:?} is no date")))
}

pub(crate) fn read_timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    read_opt_timestamp(deserializer)?.ok_or_else(|| de::Error::custom("a timestamp is null"))
}

fn read_opt_timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    match Timestamp::parse(&text) {
        Some(timestamp) => Ok(Some(timestamp)),
        None => Err(de::Error::custom(format!("{text:?} is no timestamp"))),
    }
}

pub(crate) fn write_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

#[allow(clippy::ref_option, reason = "serde hands over the field as it is")]
fn write_opt_text<T: ToString, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const DATED: &str = r#"{"date":"2025-01-15","key":"task_1","process_name":null,"data":{ "b":1e400, "a":12345678901234567890123, "é":"\u00e9" },"timestamp":"2025-01-15T10:30:00.000000Z","status":"done","status_int":-3,"username":null,"updated_at":"2025-01-15T10:30:01.000002Z","seq":18446744073709551615}"#;
    const ITEM: &str = r#"{"key":"u","collection_name":"","item_name":"age","value":1.0,"data":{"n":{"deep":[1,2]}},"timestamp":null,"status":null,"status_int":null,"username":"ann","updated_at":"2025-01-15T10:30:00.000000Z","seq":4}"#;

    #[test]
    fn a_dated_record_keeps_its_data_byte_for_byte() {
        let record: DatedRecord = serde_json::from_str(DATED).unwrap();
        assert_eq!(record.date.to_string(), "2025-01-15");
        assert_eq!((record.process_name.as_deref(), record.status_int), (None, Some(-3)));
        assert_eq!(record.seq, u64::MAX);
        assert_eq!(record.data_json(), r#"{ "b":1e400, "a":12345678901234567890123, "é":"\u00e9" }"#);
        assert_eq!(serde_json::to_string(&record).unwrap(), DATED);
    }

    #[test]
    fn an_item_keeps_the_type_of_its_value() {
        let record: CollectionRecord = serde_json::from_str(ITEM).unwrap();
        assert_eq!(record.value, Some(Value::Float(1.0)));
        assert_eq!(serde_json::to_string(&record).unwrap(), ITEM);
        let data: BTreeMap<String, BTreeMap<String, Vec<i32>>> = record.get().unwrap();
        assert_eq!(data["n"]["deep"], [1, 2]);
        let error = record.get::<Vec<i32>>().unwrap_err().to_string();
        assert!(error.starts_with("the data of key \"u\":"), "{error}");
    }

    #[test]
    fn a_field_that_newer_daemons_add_does_no_harm() {
        let newer = ITEM.replacen('{', r#"{"version":7,"#, 1);
        assert!(serde_json::from_str::<CollectionRecord>(&newer).is_ok());
    }
}
