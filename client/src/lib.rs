//! The client of `fastpersistd`: one durable store that many processes on one host share.
//!
//! There are two clients with the same methods: [`Client`] for async programs, with many requests under
//! way on one connection, and [`blocking::Client`] for all others. Either gives a handle for each
//! storage, [`DatedStorage`] or [`CollectionStorage`], and a handle gives typed records.
//!
//! ```no_run
//! use fastpersist_client::Client;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Job {
//!     command: String,
//!     status: String,
//! }
//!
//! # async fn example() -> Result<(), fastpersist_client::Error> {
//! let client = Client::connect_default().await?;
//! let jobs = client.dated("jobs");
//!
//! let job = Job { command: "make".to_owned(), status: "running".to_owned() };
//! let stored = jobs.store("task_1", &job).process_name("worker1").send().await?;
//! assert!(stored.durable);
//!
//! for record in jobs.get_key("task_1").await? {
//!     let job: Job = record.get()?;
//!     println!("{:?} runs {}", record.process_name, job.command);
//! }
//! # Ok(()) }
//! ```
//!
//! Where many write the same record, [`CollectionStorage::update`] and [`DatedStorage::update`] read, change and
//! write until nobody was faster. Where only one may work at a time, there is [`Client::lock`].
//!
//! A write is answered when it is on stable storage, unless it asks for [`Durability::Buffered`]. A read
//! that starts after a write was answered sees it, from any process.
//!
//! Complete programs lie in `client/examples`: one async, one blocking, one with a collection, one for several
//! processes at once.
//!
//! The binary `fastpersist` of this crate is the same for the shell. A program that only needs the
//! library takes it with `default-features = false`.
//!
//! The modules in the order of a request: `storage` describes it, `call` makes a line of it, `client` and
//! `connection` (or `blocking`) carry it to the `socket`, `reply` reads what comes back into `record` and
//! `outcome`. A subscription has a way of its own, `changes`, and so has a large result of a query, `batches`
//! (feature `arrow`).

#[cfg(feature = "arrow")]
mod batches;
pub mod blocking;
mod call;
mod changes;
mod client;
mod connection;
mod error;
mod lock;
mod options;
mod outcome;
mod record;
mod reply;
mod resend;
mod socket;
mod storage;
mod value;

#[cfg(feature = "arrow")]
pub use batches::Batches;
pub use call::Caller;
pub use changes::{Begun, Change, Changes, Deletion, Record, Subscribe};
pub use client::{Answer, Client};
pub use error::{DaemonError, Error};
pub use fastpersist_protocol as protocol;
pub use fastpersist_protocol::error::ErrorCode;
pub use fastpersist_protocol::request::Durability;
pub use fastpersist_protocol::time::{Date, Timestamp};
pub use lock::{BlockingLock, Lock, LockRequest};
pub use options::ConnectOptions;
pub use outcome::{
    BackupInfo, BatchOutcome, DeleteOutcome, ExportOutcome, Info, KeysPage, Model, StorageInfo, StoreOutcome,
    WriteOutcome,
};
pub use record::{CollectionRecord, DatedRecord};
pub use reply::Reply;
pub use socket::{SOCKET_VARIABLE, Socket};
pub use storage::{
    Batch, Collection, CollectionStorage, Dated, DatedStorage, Delete, Edit, History, HistoryEntry,
    HistoryPage, Keys, Model as StorageModel, Query, QueryColumn, QueryResult, Store, Update, Updated, Write,
};
pub use value::Value;
