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
    Store(Placed<'a, Store<'a>>),
    /// Delete one record.
    Delete(Placed<'a, Delete<'a>>),
    /// Several writes, all or none.
    Batch(Placed<'a, Vec<Write<'a>>>),
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
    /// Collection: the writes to one item, or to all items of a key, newest first.
    History(History<'a>),
    /// One SELECT.
    Query(Query<'a>),
    /// Tell every change from now on, or from a place on.
    Subscribe {
        /// Dated only: the partition; `None` is today.
        date: Option<Date>,
        /// Only keys that begin so.
        prefix: Cow<'a, str>,
        /// The first change that is told; `None` is the next one.
        from_seq: Option<u64>,
    },
    /// End a subscription.
    Unsubscribe {
        /// The id of the request that began it.
        subscription: Raw<'a>,
    },
    /// Take a lock, or wait for it.
    Lock {
        /// The lock's name.
        name: Cow<'a, str>,
        /// How long to wait while another one has it.
        wait_ms: Option<u64>,
        /// When it is freed, whatever happens.
        ttl_ms: Option<u64>,
    },
    /// Free a lock.
    Unlock {
        /// The lock's name.
        name: Cow<'a, str>,
        /// The token that `lock` gave.
        token: u64,
    },
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
    /// Records of another store with what it says about them, all or none; one that the storage has as
    /// new or newer is left out.
    Import(Placed<'a, Vec<Imported<'a>>>),
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

/// How many writes `history` tells when the request does not say.
pub const DEFAULT_HISTORY_LIMIT: u64 = 100;
/// The most writes that one `history` may ask for.
pub const MAX_HISTORY_LIMIT: u64 = 10_000;
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
        "history",
        "query",
        "subscribe",
        "unsubscribe",
        "lock",
        "unlock",
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
        "import",
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
            Self::History(_) => 9,
            Self::Query(_) => 10,
            Self::Subscribe { .. } => 11,
            Self::Unsubscribe { .. } => 12,
            Self::Lock { .. } => 13,
            Self::Unlock { .. } => 14,
            Self::Flush => 15,
            Self::ExportParquet { .. } => 16,
            Self::Backup { .. } => 17,
            Self::ListBackups => 18,
            Self::VerifyBackup { .. } => 19,
            Self::CheckHealth { .. } => 20,
            Self::RebuildHistoryFromWal { .. } => 21,
            Self::RebuildLatestFromHistory => 22,
            Self::Stats { .. } => 23,
            Self::Info => 24,
            Self::Ping => 25,
            Self::Import(_) => 26,
        }
    }

    /// The operation's name on the wire.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// Whose history is asked for, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// The item's collection.
    pub collection_name: Cow<'a, str>,
    /// The item's name.
    pub item_name: Cow<'a, str>,
    /// Every item of the key, whatever its names; the two names are empty then.
    pub all_items: bool,
    /// At most so many writes; `None` is [`DEFAULT_HISTORY_LIMIT`].
    pub limit: Option<u64>,
    /// Only writes before this place.
    pub before_seq: Option<u64>,
}

/// One SELECT and how its result is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Query<'a> {
    /// The statement.
    pub sql: Cow<'a, str>,
    /// Its parameters: a JSON array, still unread; `None` is none.
    pub params: Option<Raw<'a>>,
    /// Dated only: the first date; `None` is the last one, or today.
    pub from: Option<Date>,
    /// Dated only: the last date; `None` is the first one, or today.
    pub to: Option<Date>,
    /// Whether everything answered before must be in the result.
    pub fresh: bool,
    /// At most so many rows; `None` is as many as the daemon allows.
    pub max_rows: Option<u64>,
    /// At most so long; `None` is as long as the daemon allows.
    pub timeout_ms: Option<u64>,
    /// How the result comes.
    pub result: ResultKind,
}

/// How the result of a query comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResultKind {
    /// As rows in the reply.
    #[default]
    Rows,
    /// As a file descriptor beside the reply, with an Arrow IPC stream.
    Fd,
}

/// Who writes, and the write's number there: with it a repeated request is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer<'a> {
    /// The producer's name, 1 to 255 bytes.
    pub name: Cow<'a, str>,
    /// The write's number, from 1 on; the producer's numbers only grow.
    pub seq: u64,
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
pub struct Placed<'a, T> {
    /// Dated only: the partition; `None` is today.
    pub date: Option<Date>,
    /// When the write is answered.
    pub durability: Durability,
    /// Who writes, where a repetition is to be recognised.
    pub producer: Option<Producer<'a>>,
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

/// One record of an import: a store, and what the daemon otherwise finds out by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported<'a> {
    /// The record. Its `if_seq` is always `None`.
    pub store: Store<'a>,
    /// When the other store took it; `None` is now.
    pub updated_at: Option<Timestamp>,
    /// The status; `None` is that of the document.
    pub status: Option<Cow<'a, str>>,
    /// The numeric status; `None` is that of the document.
    pub status_int: Option<i32>,
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
