//! Handles: one storage of the daemon, seen from a program.
//!
//! A handle is a client with a storage's name (and, for dated storages, perhaps a date). Making one
//! costs nothing and asks nobody; whether the storage exists shows with the first request.

mod batch;
mod collection;
mod dated;
mod history;
mod keys;
mod query;
mod update;
mod write;

pub use batch::Batch;
pub use collection::CollectionStorage;
pub use dated::DatedStorage;
pub use history::{History, HistoryEntry, HistoryPage};
pub use keys::Keys;
pub use query::{Query, QueryColumn, QueryResult};
pub use update::{Edit, Model, Update, Updated};
pub use write::{Delete, Store, Write};

use std::sync::Arc;

use fastpersist_protocol::time::Date;

/// Marks what belongs to a dated storage.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Dated;

/// Marks what belongs to a collection storage.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Collection;

/// The storage that a handle stands for.
#[derive(Debug, Clone)]
pub(crate) struct Place<C> {
    pub(crate) client: C,
    pub(crate) storage: Arc<str>,
    pub(crate) date: Option<Date>,
}
