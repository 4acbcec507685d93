//! Following the changes of a storage: what comes, and how to go on after a break.
//!
//! A subscription has a connection of its own, so that its events mix with no answers. When the connection
//! breaks, it is made again and the subscription goes on behind the last change that was given.
//!
//! Invariant: each change is given once and in the order of `seq`; whatever cannot be made good is told as
//! an error, and is the last.

mod stream;

pub use stream::Changes;

use std::io;
use std::time::Duration;

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::request::{Op, Request};
use fastpersist_protocol::time::{Date, Timestamp};
use serde::ser::{SerializeStruct as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::blocking;
use crate::client::Client;
use crate::error::{DaemonError, Error, WireError};
use crate::record::{CollectionRecord, DatedRecord, read_timestamp};

/// The id of the only subscription on its connection.
const ID: &str = "1";
/// How long to wait before a connection is tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Change {
    /// A record was stored.
    Store(Record),
    /// A record was deleted.
    Delete(Deletion),
}

/// A record of either model.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Record {
    /// Of a dated storage.
    Dated(DatedRecord),
    /// Of a collection storage.
    Collection(CollectionRecord),
}

/// What was deleted.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Deletion {
    /// Dated storages: the partition.
    #[serde(default, deserialize_with = "read_opt_date")]
    pub date: Option<Date>,
    /// The record's key.
    pub key: String,
    /// Dated storages: the process that the record belonged to, if any.
    pub process_name: Option<String>,
    /// Collection storages: the collection.
    pub collection_name: Option<String>,
    /// Collection storages: the item.
    pub item_name: Option<String>,
    /// When the daemon took the deletion.
    #[serde(deserialize_with = "read_timestamp")]
    pub updated_at: Timestamp,
    /// The deletion's place in the partition.
    pub seq: u64,
}

impl Change {
    /// The change's place in its partition, 1, 2, 3 …
    pub fn seq(&self) -> u64 {
        match self {
            Self::Store(Record::Dated(record)) => record.seq,
            Self::Store(Record::Collection(record)) => record.seq,
            Self::Delete(deletion) => deletion.seq,
        }
    }

    /// The key of what changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Store(Record::Dated(record)) => &record.key,
            Self::Store(Record::Collection(record)) => &record.key,
            Self::Delete(deletion) => &deletion.key,
        }
    }

    /// The date, in a dated storage.
    pub fn date(&self) -> Option<Date> {
        match self {
            Self::Store(Record::Dated(record)) => Some(record.date),
            Self::Store(Record::Collection(_)) => None,
            Self::Delete(deletion) => deletion.date,
        }
    }
}

impl Serialize for Change {
    /// As the daemon tells it, without the subscription's id.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Store(record) => {
                let mut object = serializer.serialize_struct("Change", 2)?;
                object.serialize_field("event", "store")?;
                object.serialize_field("record", record)?;
                object.end()
            }
            Self::Delete(deletion) => deletion.serialize(serializer),
        }
    }
}

impl Serialize for Deletion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Deletion", 7)?;
        object.serialize_field("event", "delete")?;
        if let Some(date) = self.date {
            object.serialize_field("date", &date.to_string())?;
        }
        object.serialize_field("key", &self.key)?;
        match &self.collection_name {
            None => object.serialize_field("process_name", &self.process_name)?,
            Some(collection_name) => {
                object.serialize_field("collection_name", collection_name)?;
                object.serialize_field("item_name", &self.item_name)?;
            }
        }
        object.serialize_field("updated_at", &self.updated_at.to_string())?;
        object.serialize_field("seq", &self.seq)?;
        object.end()
    }
}

fn read_opt_date<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Date>, D::Error> {
    crate::record::read_date(deserializer).map(Some)
}

/// Where a subscription began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Begun {
    /// The last change that was stored at that moment.
    pub seq: u64,
    /// Dated storages, where none was asked for: the date that is followed.
    pub date: Option<Date>,
}

/// A subscription that is not begun yet: which changes, and from where on.
///
/// It comes from [`Client::subscribe`] or [`blocking::Client::subscribe`].
#[derive(Debug, Clone)]
#[must_use = "nothing is asked for before `stream` or `iter`"]
pub struct Subscribe<C> {
    client: C,
    follow: Follow,
}

impl<C> Subscribe<C> {
    pub(crate) fn new(client: C, storage: Option<&str>) -> Self {
        let storage = storage.map(str::to_owned);
        Self { client, follow: Follow { storage, date: None, prefix: String::new(), next_seq: None } }
    }

    /// Dated storages: the date. Without it, it is today when the subscription begins, and stays that day.
    pub fn on(mut self, date: Date) -> Self {
        self.follow.date = Some(date);
        self
    }

    /// Only keys that begin so.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.follow.prefix = prefix.into();
        self
    }

    /// The first change that is wanted; without it, it is the next one that comes.
    pub fn from_seq(mut self, seq: u64) -> Self {
        self.follow.next_seq = Some(seq);
        self
    }
}

impl Subscribe<Client> {
    /// Begins, in the background of the current tokio runtime.
    pub fn stream(self) -> Changes {
        Changes::start(self.follow, self.client.options())
    }
}

impl Subscribe<blocking::Client> {
    /// Begins with the first call of the iterator's `next`.
    pub fn iter(self) -> blocking::Changes {
        blocking::Changes::new(self.follow, self.client.options())
    }
}

/// What is wanted next; it is all that a subscription needs to go on.
#[derive(Debug, Clone)]
pub(crate) struct Follow {
    storage: Option<String>,
    date: Option<Date>,
    prefix: String,
    next_seq: Option<u64>,
}

/// What a line was.
pub(crate) enum Taken {
    Begun(Begun),
    Change(Change),
    /// The daemon tells no more: it must be asked again.
    Dropped,
}

/// The daemon's line, as far as every kind of it is the same.
#[derive(Deserialize)]
struct Message<'a> {
    event: Option<&'a str>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    seq: Option<u64>,
    last_seq: Option<u64>,
    date: Option<&'a str>,
    error: Option<WireError>,
}

impl Follow {
    /// The request that begins or goes on.
    pub(crate) fn line(&self) -> Vec<u8> {
        let op =
            Op::Subscribe { date: self.date, prefix: self.prefix.as_str().into(), from_seq: self.next_seq };
        let mut line = Vec::new();
        Request { storage: self.storage.as_deref().map(Into::into), op }.write_line(Some(ID), &mut line);
        line
    }

    /// Reads one line of the daemon, and goes on behind it.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Taken, Error> {
        let message: Message<'_> = serde_json::from_slice(line).map_err(|error| not_understood(&error))?;
        match (message.event, message.error) {
            (Some("store"), _) => {
                let record = message.record.ok_or_else(|| not_understood(&"a record is missing"))?.get();
                let record = if record.starts_with("{\"date\"") {
                    serde_json::from_str(record).map(Record::Dated)
                } else {
                    serde_json::from_str(record).map(Record::Collection)
                };
                self.change(Change::Store(record.map_err(|error| not_understood(&error))?))
            }
            (Some("delete"), _) => {
                let deletion = serde_json::from_slice(line).map_err(|error| not_understood(&error))?;
                self.change(Change::Delete(deletion))
            }
            (Some("dropped"), error) => {
                let last_seq = message.last_seq.ok_or_else(|| not_understood(&"last_seq is missing"))?;
                self.next_seq = Some(last_seq + 1);
                error.map_or(Ok(Taken::Dropped), |error| Err(refused(error)))
            }
            (Some(other), _) => Err(not_understood(&format!("there is no event {other:?}"))),
            (None, Some(error)) => Err(refused(error)),
            (None, None) => {
                let seq = message.seq.ok_or_else(|| not_understood(&"seq is missing"))?;
                let date = message.date.and_then(Date::parse);
                self.date = self.date.or(date);
                self.next_seq.get_or_insert(seq + 1);
                Ok(Taken::Begun(Begun { seq, date: self.date }))
            }
        }
    }

    fn change(&mut self, change: Change) -> Result<Taken, Error> {
        let seq = change.seq();
        if self.next_seq.is_some_and(|next_seq| seq < next_seq) {
            return Err(not_understood(&format!("change {seq} comes again")));
        }
        self.next_seq = Some(seq + 1);
        Ok(Taken::Change(change))
    }
}

fn refused(error: WireError) -> Error {
    Error::Daemon(Box::new(DaemonError::from(error)))
}

fn not_understood(what: &dyn std::fmt::Display) -> Error {
    Error::Protocol(format!("{what}, in a line of a subscription"))
}

/// Whether it is worth while to connect again after this error.
pub(crate) fn heals(error: &Error) -> bool {
    match error {
        Error::Connect { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
        Error::Daemon(error) => error.retryable || error.code == ErrorCode::TooManyConnections,
        Error::Disconnected { .. } | Error::Timeout { .. } => true,
        Error::Protocol(_) | Error::Data(_) => false,
    }
}

/// Growing pauses between tries.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// It worked.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow() -> Follow {
        Follow { storage: Some("s".to_owned()), date: None, prefix: String::new(), next_seq: None }
    }

    const STORE: &str = r#"{"id":1,"event":"store","record":{"date":"2025-01-15","key":"k","process_name":null,"data":{"n": 1e400},"timestamp":null,"status":null,"status_int":null,"username":null,"updated_at":"2025-01-15T10:30:00.000000Z","seq":7}}"#;
    const DELETE: &str = r#"{"id":1,"event":"delete","key":"k","collection_name":"","item_name":"i","updated_at":"2025-01-15T10:30:00.000000Z","seq":9}"#;

    #[test]
    fn it_goes_on_behind_what_came() {
        let mut follow = follow();
        let line = |follow: &Follow| String::from_utf8(follow.line()).unwrap();
        assert_eq!(line(&follow), "{\"op\":\"subscribe\",\"id\":1,\"storage\":\"s\",\"prefix\":\"\"}\n");
        let begun = follow.take(br#"{"id":1,"ok":true,"seq":5,"date":"2025-01-15"}"#).unwrap();
        assert!(matches!(begun, Taken::Begun(Begun { seq: 5, date: Some(_) })));
        assert!(
            line(&follow).contains(r#""date":"2025-01-15","prefix":"","from_seq":6"#),
            "{}",
            line(&follow)
        );
        follow.take(STORE.as_bytes()).unwrap();
        follow.take(DELETE.as_bytes()).unwrap();
        assert!(line(&follow).contains(r#""from_seq":10"#));
        assert!(follow.take(STORE.as_bytes()).is_err(), "a repetition is none of this protocol");
        let dropped = follow.take(br#"{"id":1,"event":"dropped","last_seq":40}"#).unwrap();
        assert!(matches!(dropped, Taken::Dropped));
        assert!(line(&follow).contains(r#""from_seq":41"#));
        // Connected again, what was asked for stays.
        follow.take(br#"{"id":1,"ok":true,"seq":99}"#).unwrap();
        assert!(line(&follow).contains(r#""from_seq":41"#));
    }

    #[test]
    fn a_change_is_written_as_the_daemon_tells_it() {
        for line in [STORE, DELETE] {
            let Ok(Taken::Change(change)) = follow().take(line.as_bytes()) else { panic!("a change") };
            assert_eq!(serde_json::to_string(&change).unwrap(), line.replace(r#""id":1,"#, ""));
            assert_eq!(change.key(), "k");
        }
    }

    #[test]
    fn what_cannot_heal_is_told_apart() {
        let of = |code: &str, retryable: bool| {
            let line = format!(
                r#"{{"id":1,"ok":false,"error":{{"code":"{code}","message":"m","retryable":{retryable},"oldest_seq":7}}}}"#
            );
            follow().take(line.as_bytes()).err().unwrap()
        };
        for (code, retryable, expected) in [
            ("busy", true, true),
            ("shutting_down", true, true),
            ("too_many_connections", false, true),
            ("forbidden", false, false),
            ("compacted", false, false),
            ("unknown_storage", false, false),
        ] {
            assert_eq!(heals(&of(code, retryable)), expected, "{code}");
        }
        let Error::Daemon(compacted) = of("compacted", false) else { panic!("a daemon error") };
        assert_eq!(compacted.oldest_seq, Some(7));
        assert!(heals(&Error::disconnected("eof")));
        assert!(heals(&Error::connect("/x", io::ErrorKind::NotFound.into())));
        assert!(!heals(&Error::connect("/x", io::ErrorKind::PermissionDenied.into())));
    }
}
