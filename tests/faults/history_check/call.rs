//! What is recorded: every request with the moment before it was sent and the moment after it was answered.
//!
//! The clock is the host's CLOCK_MONOTONIC, which is one for all processes; so of two calls that do not overlap in
//! their times one really was over before the other began.

use std::fmt;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Nanoseconds of the clock that all processes of the host share.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One request and what became of it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) client: u64,
    /// When its connection had been made.
    pub(super) connected: u64,
    pub(super) called: u64,
    /// `None`: nobody knows whether it took effect.
    pub(super) answered: Option<u64>,
    pub(super) request: Value,
    /// Null where there was none.
    pub(super) answer: Value,
}

/// Everything that was asked in a run.
#[derive(Clone, Default)]
pub(super) struct History {
    pub(super) calls: Vec<Call>,
    /// When each daemon had surely ended.
    pub(super) ends: Vec<u64>,
}

impl History {
    /// The moment by which a call has taken effect if it ever does: its answer, else its daemon's end. The next
    /// daemon begins with what is in the files and knows nothing of a request that is not.
    pub(super) fn until(&self, call: &Call) -> u64 {
        let end = || self.ends.iter().copied().find(|end| *end >= call.connected);
        call.answered.or_else(end).unwrap_or(u64::MAX)
    }
}

impl Call {
    /// One line for the process that collects all calls.
    pub(super) fn to_line(&self) -> String {
        let Self { client, connected, called, answered, request, answer } = self;
        json!([client, connected, called, answered, request, answer]).to_string()
    }

    pub(super) fn from_line(line: &str) -> Self {
        let mut parts: Vec<Value> = serde_json::from_str(line).expect("a call as it was written");
        let number = |at: usize| parts[at].as_u64();
        let (client, connected, called) = (number(0), number(1), number(2));
        let answered = number(3);
        let answer = parts.pop().expect("an answer");
        let request = parts.pop().expect("a request");
        Self {
            client: client.expect("a client"),
            connected: connected.expect("a time"),
            called: called.expect("a time"),
            answered,
            request,
            answer,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, called, answered, request, answer, .. } = self;
        let to = answered.map_or("?".to_owned(), |at| at.to_string());
        write!(f, "[{called}..{to}] client {client}: {request} -> {answer}")
    }
}
