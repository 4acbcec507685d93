//! Requests: what a line may ask for, as types that borrow from the line.
//!
//! [`parse()`] turns one line into a [`Request`]; [`Request::write_line`] is its inverse, for clients.
//! A property test keeps the two in step.
//!
//! Adding an operation means: a variant of [`Op`], its line in [`parse`](mod@parse) and in
//! `write.rs`, and its section in `PROTOCOL.md`.

mod fields;
pub mod parse;
mod write;

use std::borrow::Cow;

pub use parse::{ParseLimits, Parsed, parse};

use crate::json::{JsonError, Raw, Scanner};
use crate::time::{Date, Timestamp};
use crate::value::Value;

/// One request: what to do, and on which storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<'a> {
    /// The storage's name; `None` where it was left out.
    pub storage: Option<Cow<'a, str>>,
    /// The operation.
    pub op: Op<'a>,
}

/// An operation with its arguments.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Op<'a> {
    /// Store one record.
    Store(Placed<Store<'a>>),
    /// Delete one record.
    Delete(Placed<Delete<'a>>),
    /// Several writes, all or none.
    Batch(Placed<Vec<Write<'a>>>),
    /// Dated: one record.
    GetKeyProcess {
        /// The partition; `None` is today.
        date: Option<Date>,
        /// The record's key.
        key: Cow<'a, str>,
        /// The record's process.
        process_name: Option<Cow<'a, str>>,
    },
    /// All records of a key; of one of its collections where that is named.
    GetKey {
        /// Dated only: the partition; `None` is today.
        date: Option<Date>,
        /// The records' key.
        key: Cow<'a, str>,
        /// Collection only: this collection; `None` is all of the key's.
        collection_name: Option<Cow<'a, str>>,
    },
    /// Collection: one item.
    GetItem {
        /// The item's key.
        key: Cow<'a, str>,
        /// The item's collection.
        collection_name: Cow<'a, str>,
        /// The item's name.
        item_name: Cow<'a, str>,
    },
    /// A page of keys, sorted by bytes.
    Keys {
        /// Dated only: the partition; `None` is today.
        date: Option<Date>,
        /// Only keys that begin so.
        prefix: Cow<'a, str>,
        /// Only keys behind this one.
        after: Option<Cow<'a, str>>,
        /// At most so many; `None` is [`DEFAULT_KEYS_LIMIT`].
        limit: Option<u64>,
    },
    /// Collection: the names of a key's collections.
    Collections {
        /// The key.
        key: Cow<'a, str>,
    },
    /// Dated: the dates that have data.
    Dates,
    /// Bring everything that was answered into DuckDB; of all storages where none is named.
    Flush,
    /// Write the storage's data as Parquet.
    ExportParquet {
        /// A name below the storage's `parquet_path`; `None` is that path itself.
        path: Option<Cow<'a, str>>,
    },
    /// Take a backup now.
    Backup {
        /// Dated only: the partition; `None` is every date that changed since its last backup.
        date: Option<Date>,
    },
    /// The backups that there are.
    ListBackups,
    /// Open a backup and compare it with what its manifest says.
    VerifyBackup {
        /// The backup's name, as `list_backups` tells it.
        backup: Cow<'a, str>,
    },
    /// Whether everything is as it should be; of all storages where none is named.
    CheckHealth {
        /// Whether every block of every table and every checksum of the log is read.
        deep: bool,
    },
    /// Collection: bring what the log of one day holds into the history, where it is missing there.
    RebuildHistoryFromWal {
        /// The day.
        date: Date,
    },
    /// Collection: make the table of the latest values anew from the history.
    RebuildLatestFromHistory,
    /// Counters and gauges of the daemon and its storages.
    Stats {
        /// How they are written.
        format: StatsFormat,
    },
    /// Name, versions and storages.
    Info,
    /// A sign of life.
    Ping,
}

/// How `stats` is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatsFormat {
    /// As fields of the reply.
    #[default]
    Json,
    /// As one text in the `OpenMetrics` format, in the reply's field `openmetrics`.
    OpenMetrics,
}

/// How many keys a page of `keys` has when the request does not say.
pub const DEFAULT_KEYS_LIMIT: u64 = 1_000;
/// The largest page that `keys` may ask for.
pub const MAX_KEYS_LIMIT: u64 = 100_000;

impl Op<'_> {
    /// The operations' names on the wire.
    pub const NAMES: &'static [&'static str] = &[
        "store",
        "delete",
        "batch",
        "get_key_process",
        "get_key",
        "get_item",
        "keys",
        "collections",
        "dates",
        "flush",
        "export_parquet",
        "backup",
        "list_backups",
        "verify_backup",
        "check_health",
        "rebuild_history_from_wal",
        "rebuild_latest_from_history",
        "stats",
        "info",
        "ping",
    ];

    /// The operation's position in [`NAMES`](Self::NAMES), for counting.
    pub const fn index(&self) -> usize {
        match self {
            Self::Store(_) => 0,
            Self::Delete(_) => 1,
            Self::Batch(_) => 2,
            Self::GetKeyProcess { .. } => 3,
            Self::GetKey { .. } => 4,
            Self::GetItem { .. } => 5,
            Self::Keys { .. } => 6,
            Self::Collections { .. } => 7,
            Self::Dates => 8,
            Self::Flush => 9,
            Self::ExportParquet { .. } => 10,
            Self::Backup { .. } => 11,
            Self::ListBackups => 12,
            Self::VerifyBackup { .. } => 13,
            Self::CheckHealth { .. } => 14,
            Self::RebuildHistoryFromWal { .. } => 15,
            Self::RebuildLatestFromHistory => 16,
            Self::Stats { .. } => 17,
            Self::Info => 18,
            Self::Ping => 19,
        }
    }

    /// The operation's name on the wire.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When its bytes are on stable storage.
    #[default]
    Sync,
    /// When they are written to the file.
    Buffered,
}

/// A write with what stands on the request and not on each operation of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed<T> {
    /// Dated only: the partition; `None` is today.
    pub date: Option<Date>,
    /// When the write is answered.
    pub durability: Durability,
    /// The write.
    pub write: T,
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Write<'a> {
    /// Store one record.
    Store(Store<'a>),
    /// Delete one record.
    Delete(Delete<'a>),
}

/// The names that say which record is meant. Which of them apply depends on the storage's model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address<'a> {
    /// The key, 1 to 1,024 bytes.
    pub key: Cow<'a, str>,
    /// Dated only.
    pub process_name: Option<Cow<'a, str>>,
    /// Collection only; `None` is the empty name.
    pub collection_name: Option<Cow<'a, str>>,
    /// Collection only; `None` is the empty name.
    pub item_name: Option<Cow<'a, str>>,
}

/// Store one record.
#[derive(Debug, Clone, PartialEq)]
pub struct Store<'a> {
    /// Which record.
    pub address: Address<'a>,
    /// The document.
    pub data: Document<'a>,
    /// Collection only: the typed value.
    pub value: Option<Value<'a>>,
    /// The request's own timestamp.
    pub timestamp: Option<Timestamp>,
    /// The request's own user name.
    pub username: Option<Cow<'a, str>>,
    /// The record's present `seq` must equal this; 0 means that it must not exist.
    pub if_seq: Option<u64>,
}

/// Delete one record.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete<'a> {
    /// Which record.
    pub address: Address<'a>,
    /// The record's present `seq` must equal this; 0 means that it must not exist.
    pub if_seq: Option<u64>,
}

/// A JSON object as it was sent, and the fields in it that have columns of their own.
///
/// Where a field stands twice, the last one counts, as with most JSON readers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Document<'a> {
    /// The exact text.
    pub text: &'a str,
    /// Its field `process_name`.
    pub process_name: Option<Raw<'a>>,
    /// Its field `timestamp`.
    pub timestamp: Option<Raw<'a>>,
    /// Its field `status`.
    pub status: Option<Raw<'a>>,
    /// Its field `status_int`.
    pub status_int: Option<Raw<'a>>,
    /// Its field `username`.
    pub username: Option<Raw<'a>>,
}

impl<'a> Document<'a> {
    /// Reads a document from its text.
    ///
    /// # Errors
    /// When the text is no JSON object, or nested deeper than `max_depth`.
    pub fn new(text: &'a str, max_depth: usize) -> Result<Self, JsonError> {
        let mut scanner = Scanner::new(text, max_depth);
        let document = Self::scan(&mut scanner)?;
        scanner.end()?;
        Ok(document)
    }

    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, JsonError> {
        let mut found = Self {
            text: "",
            process_name: None,
            timestamp: None,
            status: None,
            status_int: None,
            username: None,
        };
        found.text = scanner.object(|scanner, name| {
            let value = scanner.value()?;
            match &*name {
                "process_name" => found.process_name = Some(value),
                "timestamp" => found.timestamp = Some(value),
                "status" => found.status = Some(value),
                "status_int" => found.status_int = Some(value),
                "username" => found.username = Some(value),
                _ => {}
            }
            Ok(())
        })?;
        Ok(found)
    }
}
