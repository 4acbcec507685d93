//! What to send: the parameters of one measurement.
//!
//! Invariant: a [`Load`] that passed [`Load::check`] can be encoded, and fits a daemon with default
//! limits as far as the length of a line goes.

use std::fmt;
use std::str::FromStr;

use crate::error::BenchError;
use crate::template::{DOCUMENT_BYTES_MIN, KEY_DIGITS_MAX, KEY_DIGITS_MIN};

/// The largest number of different keys: keys have a fixed width of at most 8 digits.
pub const KEYS_MAX: u64 = 100_000_000;

/// Above this a request line could pass the daemon's default limit of 1 MiB.
const DOCUMENT_BYTES_MAX: usize = 1_000_000;

/// One connection's window is held in memory whole.
const WINDOW_BYTES_MAX: usize = 256 << 20;

/// The model of the storage that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Model {
    /// Stores and reads by key and process name, in today's partition.
    #[default]
    Dated,
    /// Stores and reads by key, collection and item.
    Collection,
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dated" => Ok(Self::Dated),
            "collection" => Ok(Self::Collection),
            other => Err(format!("unknown model {other:?}; it is dated or collection")),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Dated => "dated",
            Self::Collection => "collection",
        })
    }
}

/// When the daemon answers a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the record's bytes are on stable storage.
    #[default]
    Sync,
    /// After they are written to the file.
    Buffered,
}

/// The parameters of one measurement; take what you do not set from [`Load::default`].
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Connections, each with a window of its own.
    pub connections: usize,
    /// Requests in a window: sent in one write, the next window after the last of its answers.
    pub pipeline: usize,
    /// How long new windows are sent.
    pub seconds: f64,
    /// How many of 100 requests are reads; the others are stores.
    pub reads_percent: u8,
    /// The storage's model.
    pub model: Model,
    /// The length of each document.
    pub value_bytes: usize,
    /// The number of different keys.
    pub keys: u64,
    /// Decides the keys and their order; the same seed sends the same requests.
    pub seed: u64,
    /// When a store is answered.
    pub durability: Durability,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            connections: 8,
            pipeline: 1,
            seconds: 3.0,
            reads_percent: 0,
            model: Model::Dated,
            value_bytes: 130,
            keys: 10_000,
            seed: 1,
            durability: Durability::Sync,
        }
    }
}

impl Load {
    /// Says what of the parameters cannot be used.
    ///
    /// # Errors
    /// [`BenchError::BadLoad`], with the parameter and the values that it may have.
    pub fn check(&self) -> Result<(), BenchError> {
        let wrong = |what: String| Err(BenchError::BadLoad(what));
        if !(1..=10_000).contains(&self.connections) {
            return wrong(format!("connections is {}; it must be 1 to 10000", self.connections));
        }
        if !(1..=100_000).contains(&self.pipeline) {
            return wrong(format!("pipeline is {}; it must be 1 to 100000", self.pipeline));
        }
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0) {
            return wrong(format!("seconds is {}; it must be above 0 and at most 86400", self.seconds));
        }
        if self.reads_percent > 100 {
            return wrong(format!("reads is {} percent; it must be 0 to 100", self.reads_percent));
        }
        let smallest = DOCUMENT_BYTES_MIN + self.key_digits();
        if !(smallest..=DOCUMENT_BYTES_MAX).contains(&self.value_bytes) {
            return wrong(format!(
                "value-bytes is {}; it must be {smallest} to {DOCUMENT_BYTES_MAX}",
                self.value_bytes
            ));
        }
        if !(1..=KEYS_MAX).contains(&self.keys) {
            return wrong(format!("keys is {}; it must be 1 to {KEYS_MAX}", self.keys));
        }
        if self.pipeline * self.value_bytes > WINDOW_BYTES_MAX {
            return wrong(format!(
                "a window of {} documents of {} bytes is over {} MiB; take a smaller pipeline",
                self.pipeline,
                self.value_bytes,
                WINDOW_BYTES_MAX >> 20
            ));
        }
        Ok(())
    }

    /// The digits in each key, the same for all so that a key can be patched in place.
    pub(crate) fn key_digits(&self) -> usize {
        let last = self.keys.saturating_sub(1).max(1);
        (last.ilog10() as usize + 1).clamp(KEY_DIGITS_MIN, KEY_DIGITS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_parameter_is_named() {
        let base = Load::default;
        let bad = [
            ("connections", Load { connections: 0, ..base() }),
            ("pipeline", Load { pipeline: 0, ..base() }),
            ("seconds", Load { seconds: f64::NAN, ..base() }),
            ("reads", Load { reads_percent: 101, ..base() }),
            ("value-bytes", Load { value_bytes: 10, ..base() }),
            ("keys", Load { keys: 0, ..base() }),
            ("window", Load { pipeline: 100_000, value_bytes: 1_000_000, ..base() }),
        ];
        for (name, load) in bad {
            let message = load.check().expect_err(name).to_string();
            assert!(message.contains(name), "{name}: {message}");
        }
        base().check().expect("the default load is usable");
    }

    #[test]
    fn keys_are_as_wide_as_the_last_one() {
        for (keys, digits) in [(1, 6), (10_000, 6), (1_000_000, 6), (1_000_001, 7), (KEYS_MAX, 8)] {
            let load = Load { keys, ..Load::default() };
            assert_eq!(load.key_digits(), digits, "{keys}");
        }
    }
}
