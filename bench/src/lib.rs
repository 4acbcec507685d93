//! The load generator of `fastpersist bench` and of `bench/compare`.
//!
//! It shares the machine with the server that it measures, so every cycle it spends is a cycle
//! the server does not get. Hence its shape: one thread, non-blocking sockets, requests built
//! before the clock starts, one write per window, answers counted and not parsed.
//!
//! Invariant: both servers get the same loop, the same documents and the same keys in the same
//! order. All that differs between them is behind [`Wire`].
//!
//! The modules in the order of a request: [`Load`] says what to send and [`Target`] where to,
//! `template` holds the bytes of one request, `window` those of one connection's next write,
//! `wire` knows the protocols, `generator` runs the clock, [`Report`] says what came out.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod error;
mod generator;
mod load;
mod report;
mod target;
mod template;
mod window;
pub mod wire;

pub use error::BenchError;
pub use generator::{fill, run, run_with};
pub use load::{Durability, KEYS_MAX, Load, Model};
pub use report::{Latency, Report, duration_text, grouped};
pub use target::{SocketName, Target};
pub use template::Template;
pub use wire::Wire;
