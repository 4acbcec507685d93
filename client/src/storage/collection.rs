//! A collection storage: items in collections below a key, each with data and a typed value.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use fastpersist_protocol::request::Op;
use serde::Serialize;

use super::{Batch, Collection, Delete, History, Keys, Place, Query, Store, Update};
use crate::Client;
use crate::call::{self, Call, Caller, on};
use crate::outcome::{BackupInfo, Collections, ExportOutcome, OneRecord, Records};
use crate::record::CollectionRecord;
use crate::reply;

/// A handle of a collection storage: `key` → `collection_name` → `item_name` → data and a value.
///
/// It comes from [`Client::collection`](crate::Client::collection) or
/// [`blocking::Client::collection`](crate::blocking::Client::collection). What a method returns is a
/// future for the one and a `Result` for the other; see [`Caller`] for both and for the errors.
#[derive(Clone)]
pub struct CollectionStorage<C = Client> {
    place: Place<C>,
}

impl<C> fmt::Debug for CollectionStorage<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectionStorage").field("storage", &self.place.storage).finish_non_exhaustive()
    }
}

impl<C: Caller> CollectionStorage<C> {
    pub(crate) fn new(client: C, storage: &str) -> Self {
        Self { place: Place { client, storage: Arc::from(storage), date: None } }
    }

    /// Begins a store of any data that serialises to a JSON object. See [`Store`] for its options;
    /// nothing happens before its `send`.
    pub fn store<T: Serialize + ?Sized>(&self, key: impl Into<String>, data: &T) -> Store<C, Collection> {
        Store::new(key.into(), data, self.place.clone())
    }

    /// Begins a delete. See [`Delete`] for its options; nothing happens before its `send`.
    pub fn delete(&self, key: impl Into<String>) -> Delete<C, Collection> {
        Delete::new(key.into(), self.place.clone())
    }

    /// Begins an update: read, change, write, until nobody was faster. See [`Update`].
    pub fn update(&self, key: impl Into<String>) -> Update<C, Collection> {
        Update::new(key.into(), self.place.clone())
    }

    /// Begins a batch.
    pub fn batch(&self) -> Batch<C, Collection> {
        Batch::new(self.place.clone())
    }

    /// Returns one item, or `None` where there is none.
    pub fn get_item(
        &self,
        key: &str,
        collection_name: &str,
        item_name: &str,
    ) -> C::Answer<Option<CollectionRecord>> {
        let op = Op::GetItem {
            key: Cow::Borrowed(key),
            collection_name: Cow::Borrowed(collection_name),
            item_name: Cow::Borrowed(item_name),
        };
        let decode = |line: &[u8]| Ok(reply::decode::<OneRecord<_>>(line)?.record);
        self.place.client.call(Call::with(&on(&self.place.storage, op), decode))
    }

    /// Returns every item of a key, or of one of its collections, sorted by collection and item.
    pub fn get_key(&self, key: &str, collection_name: Option<&str>) -> C::Answer<Vec<CollectionRecord>> {
        let op = Op::GetKey {
            date: None,
            key: Cow::Borrowed(key),
            collection_name: collection_name.map(Cow::Borrowed),
        };
        let decode = |line: &[u8]| Ok(reply::decode::<Records<_>>(line)?.records);
        self.place.client.call(Call::with(&on(&self.place.storage, op), decode))
    }

    /// Returns the names of a key's collections, sorted.
    pub fn collections(&self, key: &str) -> C::Answer<Vec<String>> {
        let op = Op::Collections { key: Cow::Borrowed(key) };
        let decode = |line: &[u8]| Ok(reply::decode::<Collections>(line)?.collections);
        self.place.client.call(Call::with(&on(&self.place.storage, op), decode))
    }

    /// Begins a query: one SELECT over the tables `storage_latest` and `storage_history`. See [`Query`] for
    /// its options; nothing happens before its `send`.
    pub fn query(&self, sql: impl Into<String>) -> Query<C> {
        Query::new(sql.into(), self.place.clone())
    }

    /// Begins a request for the history of an item, newest first. See [`History`] for its options.
    pub fn history(&self, key: impl Into<String>) -> History<C> {
        History::new(key.into(), self.place.clone())
    }

    /// Begins a request for a page of keys.
    pub fn keys(&self) -> Keys<C> {
        Keys::new(self.place.clone())
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

    /// Takes a backup now, and verifies it. There is none to tell where nothing was ever stored.
    /// Waits as long as it takes.
    pub fn backup(&self) -> C::Answer<Vec<BackupInfo>> {
        self.place.client.call(call::backup(&self.place.storage, None))
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
