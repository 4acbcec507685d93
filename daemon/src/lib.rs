//! `fastpersistd`: one durable store that many processes on one host share.
//!
//! The modules in the order of a record's journey; `DESIGN.md` beside this crate tells it at length.
//!
//! | module | what it does with a record |
//! |---|---|
//! | [`config`] | says which storages there are, and every limit |
//! | [`daemon`] | the life of the process, from the lock to the unlock |
//! | [`server`] | reads requests, checks who asks, writes answers; the only room that knows JSON lines |
//! | [`storage`] | checks it, finds its partition, keeps it in memory |
//! | [`wal`] | makes it durable, together with whatever else comes at that moment |
//! | [`duck`] | brings it into DuckDB; the only room that speaks SQL |
//! | [`export`] | writes it as Parquet |
//! | [`systemd`] | tells the service manager how the daemon is |
//! | [`backup`] | copies it, so that it can be had back |
//! | [`locks`] | whose turn it is, for processes that ask |
//! | [`schedule`], [`clock`] | what happens by itself, and by which clock |
//! | [`offline`] | work on the files by a process of its own |
//! | [`handover`] | large results as memory that clients hold |
//! | [`disk`] | every file operation on which durability rests |
//! | [`dir_lock`], [`latch`], [`stats`] | one daemon per directory; failures that stay; figures |
//! | [`metrics`], [`logging`], [`signals`] | the figures for Prometheus; the log; SIGHUP, SIGUSR1 and the end |

// Whoever reads this documentation changes the daemon, and wants to see its private rooms too.
#![allow(rustdoc::private_intra_doc_links)]

pub mod backup;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dir_lock;
pub mod disk;
pub mod duck;
pub mod export;
pub mod handover;
pub mod latch;
pub mod locks;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod offline;
#[cfg(test)]
mod planted;
pub mod schedule;
pub mod server;
pub mod signals;
pub mod stats;
pub mod storage;
pub mod systemd;
pub mod underway;
pub mod wal;
