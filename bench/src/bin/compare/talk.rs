//! A plain client: one question, one answer, no clock. For what surrounds a measurement.
//!
//! Invariant: an answer that is no success is an error; nothing is measured on top of a failure.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fastpersist_bench::wire::FastPersist;
use fastpersist_bench::{Load, SocketName, Wire};
use serde_json::Value;

use crate::error::{CompareError, Context};
use crate::servers::STORAGE;

/// A flush of ten million records may take its time.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);

/// Keeps a batch below the daemon's default limits for a line and for its ops.
const BATCH_BYTES: usize = 700_000;
const BATCH_OPS: usize = 2_000;

/// The connections over which records are loaded.
const LOADERS: u64 = 4;

/// A connection to the daemon.
pub(crate) struct Talk {
    reader: BufReader<UnixStream>,
}

impl Talk {
    pub(crate) fn connect(socket: &SocketName) -> Result<Self, CompareError> {
        let stream = socket.connect()?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).context(|| "cannot set a time limit".to_owned())?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Sends one line, its end included, and returns the answer if it is a success.
    pub(crate) fn ask(&mut self, line: &[u8]) -> Result<Value, CompareError> {
        let mut answer = String::new();
        self.reader
            .get_mut()
            .write_all(line)
            .and_then(|()| self.reader.read_line(&mut answer))
            .context(|| format!("no answer to {}", shown(line)))?;
        match serde_json::from_str::<Value>(&answer) {
            Ok(value) if value["ok"] == true => Ok(value),
            _ => Err(CompareError::Refused { op: shown(line), answer: answer.trim_end().to_owned() }),
        }
    }

    /// Has everything that is pending written into `DuckDB`.
    pub(crate) fn flush(&mut self) -> Result<(), CompareError> {
        let line = format!("{{\"op\":\"flush\",\"storage\":\"{STORAGE}\"}}\n");
        self.ask(line.as_bytes()).map(drop)
    }

    /// The records that are not in `DuckDB` yet, as `stats` tells.
    pub(crate) fn pending(&mut self) -> Result<u64, CompareError> {
        let stats = self.ask(b"{\"op\":\"stats\"}\n")?;
        find(&stats, "pending_writes")
            .and_then(Value::as_u64)
            .ok_or_else(|| CompareError::Wrong("stats tell no pending_writes".to_owned()))
    }

    /// Fails unless every one of these keys is there.
    pub(crate) fn expect_keys(&mut self, load: &Load, keys: &[u64]) -> Result<(), CompareError> {
        let template = FastPersist::new(STORAGE).read(load);
        for &key in keys {
            let mut line = Vec::new();
            template.append_to(&mut line, key);
            if self.ask(&line)?["record"].is_null() {
                return Err(CompareError::Wrong(format!(
                    "key {key} is lost: it was answered durable and is not there"
                )));
            }
        }
        Ok(())
    }
}

/// The first field of this name, however deep: the measurement does not depend on the form of
/// `stats`, only on the field's name.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            fields.get(name).or_else(|| fields.values().find_map(|field| find(field, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().take(200).collect()
}

/// Which keys to store: `count` of them, `step` apart, from `first` on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) first: u64,
    pub(crate) step: u64,
    pub(crate) count: u64,
}

/// Stores the keys in batches over several connections.
pub(crate) fn store(socket: &SocketName, load: &Load, keys: Keys) -> Result<(), CompareError> {
    let share = keys.count.div_ceil(LOADERS);
    std::thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS)
            .map(|number| {
                let from = (number * share).min(keys.count);
                let part = Keys {
                    first: keys.first + from * keys.step,
                    count: share.min(keys.count - from),
                    ..keys
                };
                scope.spawn(move || store_in_order(socket, load, part))
            })
            .collect();
        loaders.into_iter().try_for_each(|loader| {
            loader.join().unwrap_or_else(|_| Err(CompareError::Wrong("a loader panicked".to_owned())))
        })
    })
}

fn store_in_order(socket: &SocketName, load: &Load, keys: Keys) -> Result<(), CompareError> {
    let mut talk = Talk::connect(socket)?;
    let op = FastPersist::batched_store(load);
    let ops = (BATCH_BYTES / op.byte_count()).clamp(1, BATCH_OPS) as u64;
    let mut line = Vec::new();
    let mut next = 0;
    while next < keys.count {
        let end = (next + ops).min(keys.count);
        line.clear();
        line.extend_from_slice(format!("{{\"op\":\"batch\",\"storage\":\"{STORAGE}\",\"ops\":[").as_bytes());
        for number in next..end {
            if number > next {
                line.push(b',');
            }
            op.append_to(&mut line, keys.first + number * keys.step);
        }
        line.extend_from_slice(b"]}\n");
        talk.ask(&line)?;
        next = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_is_found_however_deep() {
        let stats = json!({"daemon":{"a":1},"storages":[{"name":"x","stats":{"pending_writes":7}}]});
        assert_eq!(find(&stats, "pending_writes"), Some(&json!(7)));
        assert_eq!(find(&stats, "nothing"), None);
    }
}
