//! A page of keys.

use std::borrow::Cow;
use std::fmt;

use fastpersist_protocol::request::Op;

use super::Place;
use crate::call::{Call, Caller, on};
use crate::outcome::KeysPage;

/// A request for keys, sorted by bytes.
#[must_use = "nothing is asked before `send`"]
pub struct Keys<C> {
    place: Place<C>,
    prefix: String,
    after: Option<String>,
    limit: Option<u64>,
}

impl<C> fmt::Debug for Keys<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, after, limit, .. } = self;
        f.debug_struct("Keys")
            .field("prefix", prefix)
            .field("after", after)
            .field("limit", limit)
            .finish_non_exhaustive()
    }
}

impl<C: Caller> Keys<C> {
    pub(crate) fn new(place: Place<C>) -> Self {
        Self { place, prefix: String::new(), after: None, limit: None }
    }

    /// Only keys that begin so.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Only keys behind this one; the last key of a page gives the next page.
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// At most so many keys, 1 to 100,000; without it 1,000.
    pub fn limit(mut self, keys: u64) -> Self {
        self.limit = Some(keys);
        self
    }

    /// Asks for the page. Returns the keys, and whether more follow.
    pub fn send(self) -> C::Answer<KeysPage> {
        let op = Op::Keys {
            date: self.place.date,
            prefix: Cow::Borrowed(&self.prefix),
            after: self.after.as_deref().map(Cow::Borrowed),
            limit: self.limit,
        };
        self.place.client.call(Call::new(&on(&self.place.storage, op)))
    }
}
