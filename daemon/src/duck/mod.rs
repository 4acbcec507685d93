//! DuckDB: where a storage's records rest once they are flushed.
//!
//! This directory is the only place in the daemon that speaks SQL. One in-memory instance ([`Engine`])
//! serves every storage; their files are attached to it, because a failed checkpoint invalidates an
//! instance that was opened on a file, while an attached file only asks to be attached again.
//!
//! Invariants: each file carries a `flushed_seq` that moves in the same transaction as the rows, so that a
//! repeated flush repeats nothing; no table has a key or an index, one row per address is kept by
//! [`Store::flush`] alone; `data` is never parsed or re-formatted on its way in or out.

mod backup;
mod engine;
mod error;
mod fill;
mod flush;
pub mod foreign;
pub mod gate;
mod halves;
mod health;
mod hurry;
#[cfg(test)]
pub(crate) mod plain;
mod plan;
mod producers;
pub mod query;
mod read;
mod rebuild;
mod rows;
mod said;
mod schema;
mod stage;
mod store;
#[cfg(test)]
pub(crate) mod tests;

pub use backup::{Contents, HistoryCut, Newest, Snapshot, look_back, read_contents, truncate_collection};
pub use engine::{Engine, EngineSettings, library_version};
pub use error::DuckError;
pub use fill::FilledIn;
pub use flush::{FlushBatch, FlushOutcome, FlushRow, FlushRows, FlushWrite, Present};
pub use health::{Inspector, TableLook};
pub use read::{OnPartition, OwnedNames, Reader, Wanted};
pub use rebuild::{Derive, derive};
pub use store::{BeforeAttach, Files, Store};
