//! What `fastpersistd read-python` prints, as batches.
//!
//! Invariant: every operation of a batch is valid by itself, so that only the daemon's own rules can refuse
//! it; and a batch has one date and one source.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::SyncSender;

use fastpersist_client::Date;
use fastpersist_client::protocol::request::{ParseLimits, parse};
use serde_json::{Value, json};

use super::ImportArgs;
use crate::cli::failure::{Failure, Outcome};

/// The daemon takes lines of 1 MiB unless it is told otherwise.
const BATCH_BYTES: usize = 512 << 10;
/// Deeper than any daemon allows, so that it is the daemon that says so.
pub(super) const LIMITS: ParseLimits = ParseLimits { max_json_depth: 512, max_batch_ops: usize::MAX };

/// What the reader has to tell.
pub(super) enum Event {
    /// The model of the directory.
    Model(String),
    /// So many more values are to come, at most.
    Expected(u64),
    Batch(Batch),
    Problem(Value),
    Summary(Value),
}

/// Operations that go out together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) date: Option<Date>,
    /// Where they come from, and what its units are called.
    pub(super) file: String,
    pub(super) unit: String,
    pub(super) ops: Vec<Op>,
}

/// One operation, as JSON, and its row or line.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) number: u64,
    pub(super) json: String,
}

impl Batch {
    /// A problem of one of its operations.
    pub(super) fn problem(&self, number: u64, reason: &str) -> Value {
        json!({"file": self.file, "unit": self.unit, "number": number, "reason": reason})
    }

    /// An empty one of the same date and source.
    pub(super) fn beside(&self, ops: Vec<Op>) -> Self {
        Self { date: self.date, file: self.file.clone(), unit: self.unit.clone(), ops }
    }

    /// The request line without its storage.
    pub(super) fn line(&self) -> String {
        let mut line = String::from("{\"op\":\"import\",");
        if let Some(date) = self.date {
            line.extend(["\"date\":\"", &date.to_string(), "\","]);
        }
        line.push_str("\"ops\":[");
        for (index, op) in self.ops.iter().enumerate() {
            line.push_str(if index > 0 { "," } else { "" });
            line.push_str(&op.json);
        }
        line.push_str("]}");
        line
    }
}

/// The process that reads.
pub(super) struct Reader {
    child: Child,
    out: BufReader<ChildStdout>,
    batch: Batch,
    bytes: usize,
    batch_size: usize,
}

/// Nobody wants more.
struct Gone;

impl Reader {
    pub(super) fn start(program: &Path, args: &ImportArgs) -> Outcome<Self> {
        let mut command = Command::new(program);
        command.arg("read-python").arg("--from").arg(&args.from).arg("--python").arg(&args.python);
        if let Some(zone) = &args.timezone {
            command.arg("--timezone").arg(zone);
        }
        if let Some(dir) = &args.temp_dir {
            command.arg("--temp-dir").arg(dir);
        }
        let failed = |error| Failure::io(program.display(), &error);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let out = child.stdout.take().ok_or_else(|| Failure::failed("the reader has no output"))?;
        let batch_size = args.batch_size as usize;
        let out = BufReader::with_capacity(1 << 18, out);
        Ok(Self { child, out, batch: Batch::default(), bytes: 0, batch_size })
    }

    /// Reads to the end. The error is what the process itself says.
    pub(super) fn run(mut self, events: &SyncSender<Event>) -> Outcome {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.out.read_line(&mut line).map_err(|error| Failure::io("the reader", &error))?;
            if read == 0 {
                break;
            }
            if self.line(line.trim_end(), events)?.is_err() {
                // It ends by itself once nobody takes its output.
                return Ok(());
            }
        }
        let _ = self.cut(events);
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            // What cannot be read of it is not told.
            let _ = stderr.read_to_string(&mut said);
        }
        let status = self.child.wait().map_err(|error| Failure::io("the reader", &error))?;
        match status.success() {
            true => Ok(()),
            false if status.code() == Some(2) => Err(Failure::usage(said.trim_end().to_owned())),
            false => Err(Failure::failed(said.trim_end().to_owned())),
        }
    }

    fn line(&mut self, line: &str, events: &SyncSender<Event>) -> Outcome<Result<(), Gone>> {
        if let Some((number, json)) = record(line) {
            return Ok(self.record(number, json, events));
        }
        let mut told: Value = serde_json::from_str(line)
            .map_err(|error| Failure::failed(format!("the reader printed {line:?}: {error}")))?;
        let event = if told["partition"].is_object() {
            if self.cut(events).is_err() {
                return Ok(Err(Gone));
            }
            self.batch.date = told["partition"]["date"].as_str().and_then(Date::parse);
            Event::Expected(told["partition"]["expected"].as_u64().unwrap_or(0))
        } else if told["source"].is_object() {
            let cut = self.cut(events);
            told["source"]["file"].as_str().unwrap_or_default().clone_into(&mut self.batch.file);
            told["source"]["unit"].as_str().unwrap_or_default().clone_into(&mut self.batch.unit);
            return Ok(cut);
        } else if let Some(model) = told["model"].as_str() {
            Event::Model(model.to_owned())
        } else if told["problem"].is_object() {
            Event::Problem(told["problem"].take())
        } else {
            if self.cut(events).is_err() {
                return Ok(Err(Gone));
            }
            Event::Summary(told["summary"].take())
        };
        Ok(events.send(event).map_err(|_| Gone))
    }

    fn record(&mut self, number: u64, json: &str, events: &SyncSender<Event>) -> Result<(), Gone> {
        let alone = self.batch.beside(vec![Op { number, json: json.to_owned() }]);
        let line = alone.line();
        if let Err(error) = parse(line.as_bytes(), LIMITS).request {
            let reason = error.message.trim_start_matches("op 0 of the batch: ");
            return events.send(Event::Problem(alone.problem(number, reason))).map_err(|_| Gone);
        }
        if self.batch.ops.len() >= self.batch_size || self.bytes + json.len() > BATCH_BYTES {
            self.cut(events)?;
        }
        self.bytes += json.len();
        self.batch.ops.extend(alone.ops);
        Ok(())
    }

    /// Sends what has been gathered.
    fn cut(&mut self, events: &SyncSender<Event>) -> Result<(), Gone> {
        self.bytes = 0;
        let ops = std::mem::take(&mut self.batch.ops);
        if ops.is_empty() {
            return Ok(());
        }
        events.send(Event::Batch(self.batch.beside(ops))).map_err(|_| Gone)
    }
}

/// The number and the operation of a record's line.
fn record(line: &str) -> Option<(u64, &str)> {
    let (number, json) = line.strip_prefix("{\"row\":")?.split_once(",\"op\":")?;
    Some((number.parse().ok()?, json.strip_suffix('}')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_cut_out_byte_for_byte() {
        let line = r#"{"row":12,"op":{"op":"store","key":"k","data":{"a": 1.50,"op":{}}}}"#;
        let (number, json) = record(line).unwrap();
        assert_eq!((number, json), (12, r#"{"op":"store","key":"k","data":{"a": 1.50,"op":{}}}"#));
        assert!(record(r#"{"summary":{"rows":1}}"#).is_none());
    }
}
