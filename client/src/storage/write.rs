//! Stores and deletes on their way to a request.
//!
//! Invariant: `data` is one JSON object before it gets near the wire.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use fastpersist_protocol::request::{
    Address, Delete as WireDelete, Document, Durability, Op, Placed, Producer, Store as WireStore,
    Write as WireWrite,
};
use fastpersist_protocol::time::{Date, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Collection, Dated, Place};
use crate::call::{Call, Caller, on};
use crate::error::Error;
use crate::outcome::{DeleteOutcome, StoreOutcome};
use crate::reply;
use crate::value::Value;

/// One write of one record, as the caller has described it so far.
#[derive(Debug, Clone)]
pub(crate) struct WriteFields {
    address: Address<'static>,
    if_seq: Option<u64>,
    /// `None` is a delete.
    store: Option<StoreFields>,
}

#[derive(Debug, Clone)]
pub(crate) struct StoreFields {
    data: Result<String, Error>,
    pub(crate) value: Option<Value>,
    timestamp: Option<Timestamp>,
    pub(crate) username: Option<String>,
}

impl WriteFields {
    pub(crate) fn store(key: String, data: &(impl Serialize + ?Sized)) -> Self {
        let store = StoreFields { data: object_json(data), value: None, timestamp: None, username: None };
        Self { store: Some(store), ..Self::delete(key) }
    }

    pub(crate) fn delete(key: String) -> Self {
        Self { address: Address { key: key.into(), ..Address::default() }, if_seq: None, store: None }
    }

    pub(crate) fn as_write(&self) -> Result<WireWrite<'_>, Error> {
        let address = Address {
            key: Cow::Borrowed(&self.address.key),
            process_name: self.address.process_name.as_deref().map(Cow::Borrowed),
            collection_name: self.address.collection_name.as_deref().map(Cow::Borrowed),
            item_name: self.address.item_name.as_deref().map(Cow::Borrowed),
        };
        let if_seq = self.if_seq;
        let Some(store) = &self.store else { return Ok(WireWrite::Delete(WireDelete { address, if_seq })) };
        if let Some(Value::Float(value)) = store.value
            && !value.is_finite()
        {
            return Err(Error::Data(format!(
                "the value {value} cannot be stored: JSON has only finite numbers"
            )));
        }
        Ok(WireWrite::Store(WireStore {
            address,
            data: document(store.data.as_ref().map_err(Clone::clone)?),
            value: store.value.as_ref().map(Value::as_wire),
            timestamp: store.timestamp,
            username: store.username.as_deref().map(Cow::Borrowed),
            if_seq,
        }))
    }

    /// Makes it a write to this record, if that has this place.
    pub(crate) fn replace(&mut self, address: Address<'static>, if_seq: u64) {
        (self.address, self.if_seq) = (address, Some(if_seq));
    }

    /// Sets an option of a store; a delete has none.
    pub(crate) fn set(&mut self, set: impl FnOnce(&mut StoreFields)) {
        if let Some(store) = &mut self.store {
            set(store);
        }
    }
}

/// The document as the protocol wants it. Its special fields are for the daemon to find.
fn document(text: &str) -> Document<'_> {
    Document { text, process_name: None, timestamp: None, status: None, status_int: None, username: None }
}

/// Turns data into the text of one JSON object.
fn object_json(data: &(impl Serialize + ?Sized)) -> Result<String, Error> {
    let json = serde_json::to_string(data)
        .map_err(|error| Error::data("the data cannot be written as JSON", error))?;
    if !json.starts_with('{') {
        return Err(Error::Data("the data must be a JSON object, such as a struct or a map".to_owned()));
    }
    Ok(json)
}

/// A write that is not sent yet, with where it goes.
#[derive(Clone)]
struct Single<C> {
    fields: WriteFields,
    place: Place<C>,
    terms: Terms,
}

/// What stands on a request and not on each write of a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    pub(crate) durability: Durability,
    /// The name and the number that the caller has given it.
    pub(crate) producer: Option<(Cow<'static, str>, u64)>,
}

impl Terms {
    pub(crate) fn wire_producer(&self) -> Option<Producer<'_>> {
        let (name, seq) = self.producer.as_ref()?;
        Some(Producer { name: Cow::Borrowed(name), seq: *seq })
    }
}

impl<C: Caller> Single<C> {
    fn new(fields: WriteFields, place: Place<C>) -> Self {
        Self { fields, place, terms: Terms::default() }
    }

    fn call<T: DeserializeOwned>(&self) -> Call<T> {
        match self.fields.as_write() {
            Ok(write) => single(&self.place.storage, self.place.date, &self.terms, write),
            Err(error) => Call::failed(error, reply::decode),
        }
    }
}

pub(crate) fn single<T: DeserializeOwned>(
    storage: &str,
    date: Option<Date>,
    terms: &Terms,
    write: WireWrite<'_>,
) -> Call<T> {
    let (durability, producer) = (terms.durability, terms.wire_producer());
    let is_conditional = is_conditional(&write);
    let op = match write {
        WireWrite::Store(write) => Op::Store(Placed { date, durability, producer, write }),
        WireWrite::Delete(write) => Op::Delete(Placed { date, durability, producer, write }),
    };
    Call::new(&on(storage, op)).resent(terms.producer.is_some(), is_conditional)
}

/// Whether it is stored only under a condition.
pub(crate) fn is_conditional(write: &WireWrite<'_>) -> bool {
    match write {
        WireWrite::Store(store) => store.if_seq.is_some(),
        WireWrite::Delete(delete) => delete.if_seq.is_some(),
    }
}

/// A store that is being put together. It does nothing before [`send`](Self::send) or
/// [`Batch::add`](crate::Batch::add).
#[must_use = "nothing is stored before `send` or `Batch::add`"]
pub struct Store<C, M> {
    single: Single<C>,
    model: PhantomData<M>,
}

/// A delete that is being put together. It does nothing before [`send`](Self::send) or
/// [`Batch::add`](crate::Batch::add).
#[must_use = "nothing is deleted before `send` or `Batch::add`"]
pub struct Delete<C, M> {
    single: Single<C>,
    model: PhantomData<M>,
}

/// A write that may join a batch: a [`Store`] or a [`Delete`].
pub struct Write<C, M> {
    pub(crate) fields: WriteFields,
    pub(crate) place: Place<C>,
    model: PhantomData<M>,
}

impl<C, M> fmt::Debug for Store<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("write", &self.single.fields).finish_non_exhaustive()
    }
}

impl<C, M> fmt::Debug for Delete<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delete").field("write", &self.single.fields).finish_non_exhaustive()
    }
}

impl<C, M> fmt::Debug for Write<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("write", &self.fields).finish_non_exhaustive()
    }
}

impl<C, M> From<Store<C, M>> for Write<C, M> {
    fn from(Store { single, model }: Store<C, M>) -> Self {
        Self { fields: single.fields, place: single.place, model }
    }
}

impl<C, M> From<Delete<C, M>> for Write<C, M> {
    fn from(Delete { single, model }: Delete<C, M>) -> Self {
        Self { fields: single.fields, place: single.place, model }
    }
}

impl<C: Caller, M> Store<C, M> {
    pub(crate) fn new(key: String, data: &(impl Serialize + ?Sized), place: Place<C>) -> Self {
        Self { single: Single::new(WriteFields::store(key, data), place), model: PhantomData }
    }

    /// The record's own instant. Without it the field `timestamp` of the data counts, else the present.
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.single.fields.set(|store| store.timestamp = Some(timestamp));
        self
    }

    /// Who writes. Without it the field `username` of the data counts.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.single.fields.set(|store| store.username = Some(username.into()));
        self
    }

    /// Stores only if the record's present `seq` is this one; 0 means that there must be no record.
    /// Otherwise the answer is the error `conflict` with the present `seq`.
    pub fn if_seq(mut self, seq: u64) -> Self {
        self.single.fields.if_seq = Some(seq);
        self
    }
}

impl<C: Caller> Store<C, Dated> {
    /// The process that the record belongs to. Without it the field `process_name` of the data counts,
    /// else the record belongs to none.
    pub fn process_name(mut self, name: impl Into<String>) -> Self {
        self.single.fields.address.process_name = Some(Cow::Owned(name.into()));
        self
    }
}

impl<C: Caller> Store<C, Collection> {
    /// The collection below the key; without it the empty name.
    pub fn collection_name(mut self, name: impl Into<String>) -> Self {
        self.single.fields.address.collection_name = Some(Cow::Owned(name.into()));
        self
    }

    /// The item in the collection; without it the empty name.
    pub fn item_name(mut self, name: impl Into<String>) -> Self {
        self.single.fields.address.item_name = Some(Cow::Owned(name.into()));
        self
    }

    /// The item's typed value. A float that is not finite fails with [`Error::Data`].
    pub fn value(mut self, value: impl Into<Value>) -> Self {
        self.single.fields.set(|store| store.value = Some(value.into()));
        self
    }
}

impl<C: Caller, M> Delete<C, M> {
    pub(crate) fn new(key: String, place: Place<C>) -> Self {
        Self { single: Single::new(WriteFields::delete(key), place), model: PhantomData }
    }

    /// Deletes only if the record's present `seq` is this one. Otherwise the answer is the error
    /// `conflict` with the present `seq`.
    pub fn if_seq(mut self, seq: u64) -> Self {
        self.single.fields.if_seq = Some(seq);
        self
    }
}

impl<C: Caller> Delete<C, Dated> {
    /// The process that the record belongs to; without it the record that belongs to none.
    pub fn process_name(mut self, name: impl Into<String>) -> Self {
        self.single.fields.address.process_name = Some(Cow::Owned(name.into()));
        self
    }
}

impl<C: Caller> Delete<C, Collection> {
    /// The collection below the key; without it the empty name.
    pub fn collection_name(mut self, name: impl Into<String>) -> Self {
        self.single.fields.address.collection_name = Some(Cow::Owned(name.into()));
        self
    }

    /// The item in the collection; without it the empty name.
    pub fn item_name(mut self, name: impl Into<String>) -> Self {
        self.single.fields.address.item_name = Some(Cow::Owned(name.into()));
        self
    }
}

impl<C: Caller, M> Store<C, M> {
    /// When the answer comes: [`Durability::Sync`] (the default) once the record is on stable storage,
    /// [`Durability::Buffered`] once it is written to the file.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.single.terms.durability = durability;
        self
    }

    /// Writes under a name and a number of the caller's own, from 1 on: the daemon stores nothing under a
    /// number that is not higher than all before it. So a program that counts what it writes can be
    /// started again, and writes everything once. Without it the client counts by itself.
    pub fn producer(mut self, name: impl Into<String>, seq: u64) -> Self {
        self.single.terms.producer = Some((Cow::Owned(name.into()), seq));
        self
    }

    /// Sends the store. Returns its `seq`, and whether it is on stable storage.
    ///
    /// [`Error::Data`] where the data is no JSON object; daemon errors are mostly `bad_request` (a name
    /// too long, a column that the data does not fit), `conflict`, `busy`, `disk_full`, `read_only`.
    pub fn send(self) -> C::Answer<StoreOutcome> {
        self.single.place.client.call(self.single.call())
    }
}

impl<C: Caller> Store<C, Dated> {
    /// The partition. Without it that of the handle, else today in the storage's time zone.
    pub fn date(mut self, date: Date) -> Self {
        self.single.place.date = Some(date);
        self
    }
}

impl<C: Caller, M> Delete<C, M> {
    /// When the answer comes, as with a store.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.single.terms.durability = durability;
        self
    }

    /// Writes under a name and a number of the caller's own, as with a store.
    pub fn producer(mut self, name: impl Into<String>, seq: u64) -> Self {
        self.single.terms.producer = Some((Cow::Owned(name.into()), seq));
        self
    }

    /// Sends the delete. Returns whether there was anything to delete. Errors are those of a store.
    pub fn send(self) -> C::Answer<DeleteOutcome> {
        self.single.place.client.call(self.single.call())
    }
}

impl<C: Caller> Delete<C, Dated> {
    /// The partition. Without it that of the handle, else today in the storage's time zone.
    pub fn date(mut self, date: Date) -> Self {
        self.single.place.date = Some(date);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn only_objects_are_data() {
        assert_eq!(object_json(&serde_json::json!({"a":1})).unwrap(), r#"{"a":1}"#);
        for data in [serde_json::json!(1), serde_json::json!([1]), serde_json::json!("{}")] {
            assert!(matches!(object_json(&data), Err(Error::Data(_))), "{data}");
        }
        let keys_that_are_no_strings = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(matches!(object_json(&keys_that_are_no_strings), Err(Error::Data(_))));
    }

    #[test]
    fn raw_json_stays_as_it_is() {
        let raw: Box<RawValue> = serde_json::from_str("{\"a\": 1e400,\n \"b\":\"\\n\"}").unwrap();
        assert_eq!(object_json(&raw).unwrap(), "{\"a\": 1e400,\n \"b\":\"\\n\"}");
    }

    #[test]
    fn a_value_that_json_cannot_hold_is_refused_here() {
        let mut fields = WriteFields::store("k".to_owned(), &serde_json::json!({}));
        fields.set(|store| store.value = Some(Value::Float(f64::NAN)));
        assert!(matches!(fields.as_write(), Err(Error::Data(_))));
    }
}
