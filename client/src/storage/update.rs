//! Read, change, write: until nobody was faster.
//!
//! Invariant: what is stored was made from the record that it replaces. The daemon compares the place that
//! was read with the present one, so between the two nobody else has written.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::marker::PhantomData;
use std::thread;
use std::time::Duration;

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::request::{Address, Op};
use fastpersist_protocol::time::Date;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::write::{Terms, WriteFields, single};
use super::{Collection, Dated, Place};
use crate::call::{Call, Caller, on};
use crate::error::Error;
use crate::outcome::{OneRecord, WriteOutcome};
use crate::record::{CollectionRecord, DatedRecord};
use crate::value::Value;
use crate::{Client, blocking, reply};

/// How often it is tried, unless another number is given.
const ATTEMPTS: u32 = 1_000;
/// Whoever was too late waits a random while, up to so long at first and twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_micros(250);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// What a function makes of the present record.
#[derive(Debug, Clone)]
pub struct Edit(Option<WriteFields>);

impl Edit {
    /// Stores this in its place: any data that serialises to a JSON object.
    pub fn store(data: &(impl Serialize + ?Sized)) -> Self {
        Self(Some(WriteFields::store(String::new(), data)))
    }

    /// Deletes it.
    pub fn delete() -> Self {
        Self(Some(WriteFields::delete(String::new())))
    }

    /// Leaves it as it is.
    pub fn keep() -> Self {
        Self(None)
    }

    /// The typed value, of a collection's item.
    #[must_use]
    pub fn value(mut self, value: impl Into<Value>) -> Self {
        if let Some(fields) = &mut self.0 {
            fields.set(|store| store.value = Some(value.into()));
        }
        self
    }

    /// Who writes.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        if let Some(fields) = &mut self.0 {
            fields.set(|store| store.username = Some(username.into()));
        }
        self
    }
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Updated {
    /// The new record's place; `None` where nothing was written, and, after a break of the connection, where
    /// it is not known any more.
    pub seq: Option<u64>,
    /// How often it was tried.
    pub attempts: u32,
}

/// A model with its records: [`Dated`] or [`Collection`].
pub trait Model: sealed::Sealed {
    /// What a read returns.
    type Record: DeserializeOwned + Send + 'static;

    #[doc(hidden)]
    fn get<'a>(address: &'a Address<'a>, date: Option<Date>) -> Op<'a>;
    #[doc(hidden)]
    fn seq(record: &Self::Record) -> u64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Dated {}
    impl Sealed for super::Collection {}
}

fn borrow<'a>(name: Option<&'a Cow<'_, str>>) -> Option<Cow<'a, str>> {
    name.map(|name| Cow::Borrowed(&**name))
}

impl Model for Dated {
    type Record = DatedRecord;

    fn get<'a>(address: &'a Address<'a>, date: Option<Date>) -> Op<'a> {
        let process_name = borrow(address.process_name.as_ref());
        Op::GetKeyProcess { date, key: Cow::Borrowed(&address.key), process_name }
    }

    fn seq(record: &DatedRecord) -> u64 {
        record.seq
    }
}

impl Model for Collection {
    type Record = CollectionRecord;

    fn get<'a>(address: &'a Address<'a>, _date: Option<Date>) -> Op<'a> {
        let collection_name = borrow(address.collection_name.as_ref()).unwrap_or_default();
        let item_name = borrow(address.item_name.as_ref()).unwrap_or_default();
        Op::GetItem { key: Cow::Borrowed(&address.key), collection_name, item_name }
    }

    fn seq(record: &CollectionRecord) -> u64 {
        record.seq
    }
}

/// An update that is being put together: a record is read, a function makes something new of it, and that is
/// stored if nobody else has written meanwhile; else it begins anew. It does nothing before `run`.
#[must_use = "nothing is done before `run`"]
pub struct Update<C, M> {
    place: Place<C>,
    address: Address<'static>,
    attempts: u32,
    model: PhantomData<M>,
}

impl<C, M> fmt::Debug for Update<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<C> Update<C, Dated> {
    /// The process that the record belongs to; without it the record that belongs to none.
    pub fn process_name(mut self, name: impl Into<String>) -> Self {
        self.address.process_name = Some(Cow::Owned(name.into()));
        self
    }
}

impl<C> Update<C, Collection> {
    /// The collection below the key; without it the empty name.
    pub fn collection_name(mut self, name: impl Into<String>) -> Self {
        self.address.collection_name = Some(Cow::Owned(name.into()));
        self
    }

    /// The item in the collection; without it the empty name.
    pub fn item_name(mut self, name: impl Into<String>) -> Self {
        self.address.item_name = Some(Cow::Owned(name.into()));
        self
    }
}

impl<C: Caller, M: Model> Update<C, M> {
    pub(crate) fn new(key: String, place: Place<C>) -> Self {
        let address = Address { key: key.into(), ..Address::default() };
        Self { place, address, attempts: ATTEMPTS, model: PhantomData }
    }

    /// How often it is tried at most, 1,000 times unless another number is given. Then the answer is the
    /// last `conflict`.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    fn read(&self) -> Call<Option<M::Record>> {
        let op = M::get(&self.address, self.place.date);
        Call::with(&on(&self.place.storage, op), |line| {
            Ok(reply::decode::<OneRecord<M::Record>>(line)?.record)
        })
    }

    /// The write that an edit asks for; `None` where it asks for none.
    fn write(&self, edit: Edit, present: Option<&M::Record>) -> Result<Option<Call<WriteOutcome>>, Error> {
        let Some(mut fields) = edit.0 else { return Ok(None) };
        fields.replace(self.address.clone(), present.map_or(0, M::seq));
        let write = fields.as_write()?;
        Ok(Some(single(&self.place.storage, self.place.date, &Terms::default(), write)))
    }

    /// What becomes of a try: an end, or the pause before the next.
    fn judge(
        &self,
        attempts: u32,
        outcome: Result<Option<WriteOutcome>, Error>,
    ) -> Result<Result<Updated, Duration>, Error> {
        match outcome {
            Ok(written) => Ok(Ok(Updated { seq: written.and_then(|written| written.seq), attempts })),
            Err(error) if error.code() == Some(ErrorCode::Conflict) && attempts < self.attempts => {
                Ok(Err(pause(attempts)))
            }
            Err(error) => Err(error),
        }
    }
}

/// A random time, longer the more often it was tried.
fn pause(attempts: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << attempts.min(10)).min(LONGEST_PAUSE);
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}

impl<M: Model> Update<Client, M> {
    /// Runs it: `edit` gets the present record, `None` where there is none, and says what should be there.
    /// It may be called more than once.
    ///
    /// ```no_run
    /// # async fn example(client: fastpersist_client::Client) -> Result<(), fastpersist_client::Error> {
    /// use fastpersist_client::{Edit, Value};
    /// use serde_json::json;
    ///
    /// let counters = client.collection("settings");
    /// let step = counters.update("visits").run(|record| {
    ///     let before = match record.and_then(|record| record.value.clone()) {
    ///         Some(Value::Int(number)) => number,
    ///         _ => 0,
    ///     };
    ///     Ok(Edit::store(&json!({})).value(before + 1))
    /// });
    /// step.await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `edit` answers; the daemon's `conflict` when others were faster every time; otherwise as every
    /// store.
    pub async fn run(
        self,
        mut edit: impl FnMut(Option<&M::Record>) -> Result<Edit, Error>,
    ) -> Result<Updated, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let present = self.place.client.call(self.read()).await?;
            let outcome = match self.write(edit(present.as_ref())?, present.as_ref())? {
                Some(call) => self.place.client.call(call).await.map(Some),
                None => Ok(None),
            };
            match self.judge(attempts, outcome)? {
                Ok(updated) => return Ok(updated),
                Err(pause) => tokio::time::sleep(pause).await,
            }
        }
    }
}

impl<M: Model> Update<blocking::Client, M> {
    /// Runs it: `edit` gets the present record, `None` where there is none, and says what should be there.
    /// It may be called more than once.
    ///
    /// ```no_run
    /// # fn example(client: fastpersist_client::blocking::Client) -> Result<(), fastpersist_client::Error> {
    /// use fastpersist_client::{Edit, Value};
    /// use serde_json::json;
    ///
    /// client.collection("settings").update("visits").run(|record| {
    ///     let before = match record.and_then(|record| record.value.clone()) {
    ///         Some(Value::Int(number)) => number,
    ///         _ => 0,
    ///     };
    ///     Ok(Edit::store(&json!({})).value(before + 1))
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `edit` answers; the daemon's `conflict` when others were faster every time; otherwise as every
    /// store.
    pub fn run(
        self,
        mut edit: impl FnMut(Option<&M::Record>) -> Result<Edit, Error>,
    ) -> Result<Updated, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let present = self.place.client.call(self.read())?;
            let outcome = match self.write(edit(present.as_ref())?, present.as_ref())? {
                Some(call) => self.place.client.call(call).map(Some),
                None => Ok(None),
            };
            match self.judge(attempts, outcome)? {
                Ok(updated) => return Ok(updated),
                Err(pause) => thread::sleep(pause),
            }
        }
    }
}
