//! A dated storage: one isolated store per date.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use fastpersist_protocol::request::Op;
use fastpersist_protocol::time::Date;
use serde::Serialize;

use super::{Batch, Dated, Delete, Keys, Place, Query, Store, Update};
use crate::Client;
use crate::call::{self, Call, Caller, on};
use crate::error::Error;
use crate::outcome::{BackupInfo, Dates, ExportOutcome, OneRecord, Records};
use crate::record::DatedRecord;
use crate::reply;

/// A handle of a dated storage: `date` → `key` → `process_name` → data.
///
/// It comes from [`Client::dated`](crate::Client::dated) or
/// [`blocking::Client::dated`](crate::blocking::Client::dated). What a method returns is a future for
/// the one and a `Result` for the other; see [`Caller`] for both and for the errors.
#[derive(Clone)]
pub struct DatedStorage<C = Client> {
    place: Place<C>,
}

impl<C> fmt::Debug for DatedStorage<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { storage, date, .. } = &self.place;
        f.debug_struct("DatedStorage").field("storage", storage).field("date", date).finish_non_exhaustive()
    }
}

impl<C: Caller> DatedStorage<C> {
    pub(crate) fn new(client: C, storage: &str) -> Self {
        Self { place: Place { client, storage: Arc::from(storage), date: None } }
    }

    /// The same storage on this date. Without it requests go to today in the storage's time zone.
    #[must_use]
    pub fn on(&self, date: Date) -> Self {
        Self { place: Place { date: Some(date), ..self.place.clone() } }
    }

    /// Begins a store of any data that serialises to a JSON object. See [`Store`] for its options;
    /// nothing happens before its `send`.
    pub fn store<T: Serialize + ?Sized>(&self, key: impl Into<String>, data: &T) -> Store<C, Dated> {
        Store::new(key.into(), data, self.place.clone())
    }

    /// Begins a delete. See [`Delete`] for its options; nothing happens before its `send`.
    pub fn delete(&self, key: impl Into<String>) -> Delete<C, Dated> {
        Delete::new(key.into(), self.place.clone())
    }

    /// Begins an update: read, change, write, until nobody was faster. See [`Update`].
    pub fn update(&self, key: impl Into<String>) -> Update<C, Dated> {
        Update::new(key.into(), self.place.clone())
    }

    /// Begins a batch.
    pub fn batch(&self) -> Batch<C, Dated> {
        Batch::new(self.place.clone())
    }

    /// Returns the record of a key and a process (`None`: the one that belongs to no process), or
    /// `None` where there is none.
    pub fn get_key_process(&self, key: &str, process_name: Option<&str>) -> C::Answer<Option<DatedRecord>> {
        let op = Op::GetKeyProcess {
            date: self.place.date,
            key: Cow::Borrowed(key),
            process_name: process_name.map(Cow::Borrowed),
        };
        let decode = |line: &[u8]| Ok(reply::decode::<OneRecord<_>>(line)?.record);
        self.place.client.call(Call::with(&on(&self.place.storage, op), decode))
    }

    /// Returns every record of a key, sorted by process name, the one of no process first.
    pub fn get_key(&self, key: &str) -> C::Answer<Vec<DatedRecord>> {
        let op = Op::GetKey { date: self.place.date, key: Cow::Borrowed(key), collection_name: None };
        let decode = |line: &[u8]| Ok(reply::decode::<Records<_>>(line)?.records);
        self.place.client.call(Call::with(&on(&self.place.storage, op), decode))
    }

    /// Begins a query: one SELECT over the table `storage`. Without dates of its own, of the handle or of
    /// [`Query::dates`], it reads today. See [`Query`] for its options; nothing happens before its `send`.
    pub fn query(&self, sql: impl Into<String>) -> Query<C> {
        Query::new(sql.into(), self.place.clone())
    }

    /// Begins a request for a page of keys.
    pub fn keys(&self) -> Keys<C> {
        Keys::new(self.place.clone())
    }

    /// Returns the dates that have data, in their order.
    pub fn dates(&self) -> C::Answer<Vec<Date>> {
        let decode = |line: &[u8]| {
            let dates = reply::decode::<Dates>(line)?;
            dates.parse().map_err(|text| Error::Protocol(format!("{text:?} is no date")))
        };
        self.place.client.call(Call::with(&on(&self.place.storage, Op::Dates), decode))
    }

    /// Brings everything that was answered into DuckDB. Returns how many records that were.
    /// Waits as long as it takes.
    pub fn flush(&self) -> C::Answer<u64> {
        self.place.client.call(call::flush(Some(&self.place.storage)))
    }

    /// Writes the storage as Parquet: below its configured `parquet_path`, or below `path` in there.
    /// Returns how many files and rows were written. Waits as long as it takes.
    pub fn export_parquet(&self, path: Option<&str>) -> C::Answer<ExportOutcome> {
        let op = Op::ExportParquet { path: path.map(Cow::Borrowed) };
        self.place.client.call(Call::new(&on(&self.place.storage, op)).unbounded())
    }

    /// Backs up a date now, or, without one, every date that has changed since its last backup.
    /// Waits as long as it takes.
    pub fn backup(&self, date: Option<Date>) -> C::Answer<Vec<BackupInfo>> {
        self.place.client.call(call::backup(&self.place.storage, date))
    }

    /// The backups that there are, oldest first.
    pub fn list_backups(&self) -> C::Answer<Vec<BackupInfo>> {
        self.place.client.call(call::list_backups(&self.place.storage))
    }

    /// Reads a whole backup and compares it with what it was when it was taken; `backup` is its name. One that
    /// differs is answered with [`ErrorCode::NotFound`](crate::ErrorCode::NotFound), and not used any more.
    /// Waits as long as it takes.
    pub fn verify_backup(&self, backup: &str) -> C::Answer<BackupInfo> {
        self.place.client.call(call::verify_backup(&self.place.storage, backup))
    }
}
