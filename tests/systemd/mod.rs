//! The service: what the service manager is told and when, the socket that it hands over, and the units.
//!
//! No systemd runs here: the tests take its part, with a datagram socket of their own and a listening one.

mod activation;
mod notify;
pub(crate) mod units;
mod watchdog;

use crate::harness::{Config, Manager};

/// Nothing is flushed but when it is asked for.
const NO_FLUSH: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

fn config() -> Config {
    Config::new().dated("jobs", NO_FLUSH).collection("settings", NO_FLUSH)
}

/// Where a line that begins like this stands.
fn place(lines: &[String], begin: &str) -> usize {
    let found = lines.iter().position(|line| line.starts_with(begin));
    found.unwrap_or_else(|| panic!("no {begin} in {lines:#?}"))
}
