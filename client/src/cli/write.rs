//! The verbs that write: `store`, `delete`, `batch`.

use std::fs;
use std::io::{self, Read as _};

use clap::Args;
use fastpersist_client::protocol::request::{
    Address, Delete, Document, Durability, Op, ParseLimits, Placed, Producer, Store, Write, parse,
};
use fastpersist_client::protocol::value::Value as WireValue;
use fastpersist_client::{
    BatchOutcome, Date, DeleteOutcome, Error, ErrorCode, StoreOutcome, Timestamp, Value,
};

use super::failure::{Failure, Outcome, exit_of, reason};
use super::output::{Output, count};
use super::{Global, parse_date, parse_timestamp};

/// The limits of the daemon are its own business; here they only bound the recursion.
const LENIENT: ParseLimits = ParseLimits { max_json_depth: 1_000, max_batch_ops: usize::MAX };

#[derive(Debug, Args)]
struct AddressArgs {
    /// The key, 1 to 1,024 bytes.
    key: String,
    /// Dated storages: the process that the record belongs to.
    #[arg(long, short, value_name = "NAME")]
    process_name: Option<String>,
    /// Dated storages: the date; without it today in the storage's time zone.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// Collection storages: the collection below the key.
    #[arg(long, short, value_name = "NAME", conflicts_with_all = ["process_name", "date"])]
    collection: Option<String>,
    /// Collection storages: the item in the collection.
    #[arg(long, short, value_name = "NAME", conflicts_with_all = ["process_name", "date"])]
    item: Option<String>,
}

impl AddressArgs {
    fn address(&self) -> Address<'_> {
        Address {
            key: self.key.as_str().into(),
            process_name: self.process_name.as_deref().map(Into::into),
            collection_name: self.collection.as_deref().map(Into::into),
            item_name: self.item.as_deref().map(Into::into),
        }
    }
}

#[derive(Debug, Args)]
struct GuardArgs {
    /// Only if the record's present seq is this one; 0 means that there must be no record.
    #[arg(long, value_name = "SEQ")]
    if_seq: Option<u64>,
    /// Answer once it is written to the file, not only once it is on stable storage.
    #[arg(long)]
    buffered: bool,
    /// Who writes: under the same number nothing is stored a second time.
    #[arg(long, value_name = "NAME", requires = "producer_seq")]
    producer: Option<String>,
    /// The write's number under that name, from 1 on and growing.
    #[arg(long, value_name = "N", requires = "producer", value_parser = clap::value_parser!(u64).range(1..))]
    producer_seq: Option<u64>,
}

impl GuardArgs {
    fn producer(&self) -> Option<Producer<'_>> {
        let (name, seq) = (self.producer.as_deref()?, self.producer_seq?);
        Some(Producer { name: name.into(), seq })
    }

    fn durability(&self) -> Durability {
        if self.buffered { Durability::Buffered } else { Durability::Sync }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist -s jobs store task_1 '{\"value\":100,\"status\":\"running\"}' --process-name worker1
  fastpersist -s settings store user_7 '{\"label\":\"Age\"}' -c personal -i age --value 32
  echo '{\"value\":100}' | fastpersist -s jobs store task_1 -")]
pub(crate) struct StoreArgs {
    #[command(flatten)]
    address: AddressArgs,
    /// The data, a JSON object; - reads it from standard input.
    data: String,
    /// Collection storages: the item's typed value, a JSON integer, float, string or boolean.
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, value_parser = parse_value,
          conflicts_with_all = ["process_name", "date"])]
    value: Option<Value>,
    /// The record's own instant; without it the data's field, else now.
    #[arg(long, value_name = "INSTANT", value_parser = parse_timestamp)]
    timestamp: Option<Timestamp>,
    /// Who writes; without it the data's field.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    #[command(flatten)]
    guard: GuardArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Deleting what is not there is no error: it writes nothing and says so.

Example:
  fastpersist -s jobs delete task_1 --process-name worker1
  fastpersist -s settings delete user_7 -c personal -i age --if-seq 12")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    address: AddressArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each line is an operation as the protocol has it. Either all of them are stored or none.

Example:
  fastpersist -s jobs batch ops.ndjson
  printf '%s\\n' '{\"op\":\"store\",\"key\":\"a\",\"data\":{\"n\":1}}' '{\"op\":\"delete\",\"key\":\"b\"}' |
    fastpersist -s jobs batch -")]
pub(crate) struct BatchArgs {
    /// The file of operations, one JSON object a line; - reads standard input.
    file: String,
    /// Dated storages: the date of all of them; without it today.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// Answer once they are written to the file, not only once they are on stable storage.
    #[arg(long)]
    buffered: bool,
}

fn parse_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|_| "a value is JSON: 1, 1.5, true, or a \"string\" in quotes".to_owned())
}

pub(crate) fn store(global: &Global, args: &StoreArgs, out: &mut Output) -> Outcome {
    let text = if args.data == "-" { read_all("-")? } else { args.data.clone() };
    let data = Document::new(text.trim(), LENIENT.max_json_depth)
        .map_err(|error| Failure::usage(format!("DATA is not a JSON object: {error}")))?;
    let write = Store {
        address: args.address.address(),
        data,
        value: args.value.as_ref().map(wire_value),
        timestamp: args.timestamp,
        username: args.username.as_deref().map(Into::into),
        if_seq: args.guard.if_seq,
    };
    let (durability, producer) = (args.guard.durability(), args.guard.producer());
    let placed = Placed { date: args.address.date, durability, producer, write };
    let reply = global.ask(Op::Store(placed))?;
    let stored: StoreOutcome = reply.get()?;
    out.reply(reply.json(), || {
        if stored.duplicate {
            return "it was stored before, and is not again".to_owned();
        }
        format!("stored, seq {}, {}", stored.seq, durable(stored.durable))
    })?;
    warn(&stored.warnings);
    Ok(())
}

pub(crate) fn delete(global: &Global, args: &DeleteArgs, out: &mut Output) -> Outcome {
    let write = Delete { address: args.address.address(), if_seq: args.guard.if_seq };
    let (durability, producer) = (args.guard.durability(), args.guard.producer());
    let placed = Placed { date: args.address.date, durability, producer, write };
    let reply = global.ask(Op::Delete(placed))?;
    let done: DeleteOutcome = reply.get()?;
    out.reply(reply.json(), || match done.seq {
        _ if done.duplicate => "it was deleted before, and is not again".to_owned(),
        Some(seq) => format!("deleted, seq {seq}, {}", durable(done.durable)),
        None => "there was nothing to delete".to_owned(),
    })
}

pub(crate) fn batch(global: &Global, args: &BatchArgs, out: &mut Output) -> Outcome {
    let text = read_all(&args.file)?;
    let (line, numbers) = batch_line(&text);
    let parsed = parse(&line, LENIENT).request.map_err(|error| {
        let number = error.details.iter().find_map(|(name, detail)| match detail {
            fastpersist_client::protocol::error::Detail::Number(index) if *name == "index" => {
                numbers.get(*index as usize)
            }
            _ => None,
        });
        let place = number.map(|number| format!("line {number}: ")).unwrap_or_default();
        Failure::failed(format!("{place}{}", error.message)).with_hint("nothing was stored")
    })?;
    let Op::Batch(placed) = parsed.op else { return Err(Failure::failed("the operations are no batch")) };
    let durability = if args.buffered { Durability::Buffered } else { Durability::Sync };
    let placed = Placed::<Vec<Write<'_>>> { date: args.date, durability, ..placed };
    let client = global.connect()?;
    let reply = client.request(&global.request(Op::Batch(placed))).map_err(|error| {
        let index = match &error {
            Error::Daemon(error) => error.index,
            _ => None,
        };
        match index.and_then(|index| numbers.get(index as usize)) {
            None => Failure::from(error),
            Some(number) => {
                let code = error.code().map_or("", ErrorCode::as_str);
                let message = format!("line {number}: {code}: {}", reason(&error));
                Failure::new(exit_of(&error), message).with_hint("nothing was stored")
            }
        }
    })?;
    let done: BatchOutcome = reply.get()?;
    out.reply(reply.json(), || {
        let written: Vec<u64> = done.seqs.iter().flatten().copied().collect();
        match (written.first(), written.last()) {
            (Some(first), Some(last)) => {
                let written = count(written.len() as u64, "record");
                format!("{written} written, seq {first} to {last}, {}", durable(done.durable))
            }
            _ => "there was nothing to write".to_owned(),
        }
    })?;
    warn(&done.warnings);
    Ok(())
}

/// The lines as one batch request, and the line number of each operation.
fn batch_line(text: &str) -> (Vec<u8>, Vec<usize>) {
    let mut line = b"{\"op\":\"batch\",\"ops\":[".to_vec();
    let mut numbers = Vec::new();
    for (index, op) in text.lines().enumerate().filter(|(_, op)| !op.trim().is_empty()) {
        if !numbers.is_empty() {
            line.push(b',');
        }
        line.extend_from_slice(op.trim().as_bytes());
        numbers.push(index + 1);
    }
    line.extend_from_slice(b"]}");
    (line, numbers)
}

fn wire_value(value: &Value) -> WireValue<'_> {
    match value {
        Value::Int(value) => WireValue::Int(*value),
        Value::Float(value) => WireValue::Float(*value),
        Value::String(value) => WireValue::String(value.as_str().into()),
        Value::Bool(value) => WireValue::Bool(*value),
    }
}

fn durable(durable: bool) -> &'static str {
    if durable { "durable" } else { "durable in a moment" }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("fastpersist: warning: {warning}");
    }
}

/// A whole file, or standard input for `-`.
fn read_all(file: &str) -> Outcome<String> {
    let read = if file == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    read.map_err(|error| Failure::io(file, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_json_scalar() {
        assert_eq!(parse_value("1"), Ok(Value::Int(1)));
        assert_eq!(parse_value("1.0"), Ok(Value::Float(1.0)));
        assert_eq!(parse_value("\"a\""), Ok(Value::from("a")));
        for text in ["a", "[1]", "{}", "null", "9223372036854775808"] {
            assert!(parse_value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_batch_knows_the_line_of_each_operation() {
        let (line, numbers) = batch_line("{\"a\":1}\n\n  \n {\"b\":2} \r\n");
        assert_eq!(String::from_utf8(line).unwrap(), r#"{"op":"batch","ops":[{"a":1},{"b":2}]}"#);
        assert_eq!(numbers, [1, 4]);
    }
}
