//! What operations answer, other than records.

use std::fmt;

use fastpersist_protocol::time::{Date, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

use crate::record::{read_date, read_timestamp, write_text};

fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over the field as it is")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What became of a store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct StoreOutcome {
    /// The record's place in its partition; 0 where it was stored before and the place is not known any
    /// more, see `duplicate`.
    #[serde(deserialize_with = "null_is_default")]
    pub seq: u64,
    /// Whether the record's bytes are on stable storage already.
    pub durable: bool,
    /// Whether the daemon had it already: this was a repetition, and nothing was stored again. The place is
    /// known as long as nothing newer came from the same producer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub duplicate: bool,
    /// What was stored differently from what the data may have meant, such as a `status` that is no
    /// string and left its column empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What became of a delete.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct DeleteOutcome {
    /// Whether there was anything to delete. Of a `duplicate` that is known as long as nothing newer came
    /// from the same producer, and false after that.
    #[serde(deserialize_with = "null_is_default")]
    pub deleted: bool,
    /// The deletion's place in its partition; `None` where nothing was there and nothing was written.
    pub seq: Option<u64>,
    /// Whether the deletion is on stable storage already.
    #[serde(default)]
    pub durable: bool,
    /// As with a store.
    #[serde(default, skip_serializing_if = "is_false")]
    pub duplicate: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct BatchOutcome {
    /// For each operation its place in the partition, or `None` for a delete of what was not there; empty
    /// for a `duplicate`.
    #[serde(deserialize_with = "null_is_default")]
    pub seqs: Vec<Option<u64>>,
    /// Whether all of it is on stable storage already.
    pub durable: bool,
    /// Whether the daemon had it already: this was a repetition, and nothing was stored again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub duplicate: bool,
    /// As with a store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What became of one write of [`Batch::send_each`](crate::Batch::send_each).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct WriteOutcome {
    /// The write's place in its partition, or `None` for a delete of what was not there, and for a
    /// `duplicate` whose place is not known any more.
    pub seq: Option<u64>,
    /// Whether the write is on stable storage already.
    #[serde(default)]
    pub durable: bool,
    /// As with a store.
    #[serde(default, skip_serializing_if = "is_false")]
    pub duplicate: bool,
    /// As with a store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A page of keys, sorted by bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct KeysPage {
    /// The keys.
    pub keys: Vec<String>,
    /// Whether more keys follow; ask for them with `after` set to the last one here.
    pub more: bool,
}

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct ExportOutcome {
    /// The Parquet files written.
    pub files: u64,
    /// The rows in them.
    pub rows: u64,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct BackupInfo {
    /// Its name: the day on which it was taken, or the date that it is of.
    #[serde(deserialize_with = "read_date", serialize_with = "write_text")]
    pub backup: Date,
    /// The last record that it holds.
    pub seq: u64,
    /// The live records in it.
    pub rows: u64,
    /// The length of its files.
    pub bytes: u64,
    /// When it was taken.
    #[serde(deserialize_with = "read_timestamp", serialize_with = "write_text")]
    pub created_at: Timestamp,
    /// Whether it may be restored from: it was verified when it was taken and not found damaged since.
    #[serde(default = "yes")]
    pub verified: bool,
}

/// What was verified just now need not say so.
fn yes() -> bool {
    true
}

#[derive(Deserialize)]
pub(crate) struct Backups {
    pub(crate) backups: Vec<BackupInfo>,
}

/// Who the daemon is.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// The program's name, `fastpersistd`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of the protocol that it speaks.
    pub protocol_version: u32,
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    #[serde(deserialize_with = "read_timestamp", serialize_with = "write_text")]
    pub started_at: Timestamp,
    /// The storages that are configured.
    pub storages: Vec<StorageInfo>,
}

/// A storage, as `info` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct StorageInfo {
    /// The name that requests give.
    pub name: String,
    /// Its model, which says which operations it has.
    pub model: Model,
}

/// The model of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Model {
    /// One isolated store per date; records have a key and a process name.
    Dated,
    /// Items in collections below a key, with a history.
    Collection,
}

impl Model {
    /// The name on the wire and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dated => "dated",
            Self::Collection => "collection",
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Deserialize)]
pub(crate) struct OneRecord<R> {
    pub(crate) record: Option<R>,
}

#[derive(Deserialize)]
pub(crate) struct Records<R> {
    pub(crate) records: Vec<R>,
}

#[derive(Deserialize)]
pub(crate) struct Collections {
    pub(crate) collections: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Dates {
    dates: Vec<String>,
}

impl Dates {
    /// The dates; `Err` with the text that is none.
    pub(crate) fn parse(self) -> Result<Vec<Date>, String> {
        self.dates.into_iter().map(|text| Date::parse(&text).ok_or(text)).collect()
    }
}

#[derive(Deserialize)]
pub(crate) struct Flushed {
    pub(crate) flushed: u64,
}
