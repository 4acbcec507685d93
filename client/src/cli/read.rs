//! The verbs that read: `get`, `get-item`, `keys`, `collections`, `dates`.

use clap::Args;
use fastpersist_client::protocol::request::{MAX_KEYS_LIMIT, Op};
use fastpersist_client::{Date, KeysPage};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{Failure, Outcome};
use super::output::Output;
use super::{Global, parse_date};

/// How many keys are asked for at once when there is no limit.
const PAGE: u64 = 10_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Where nothing is stored the exit code is 1.

Example:
  fastpersist -s jobs get task_1
  fastpersist -s jobs get task_1 --process-name worker1 --date 2025-01-15
  fastpersist -s settings get user_7 --collection personal
  fastpersist -s jobs get task_1 | jq .data.value")]
pub(crate) struct GetArgs {
    /// The key.
    key: String,
    /// Dated storages: only the record of this process.
    #[arg(long, short, value_name = "NAME")]
    process_name: Option<String>,
    /// Dated storages: the date; without it today in the storage's time zone.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// Collection storages: only the items of this collection.
    #[arg(long, short, value_name = "NAME", conflicts_with_all = ["process_name", "date"])]
    collection: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Where nothing is stored the exit code is 1.

Example:
  fastpersist -s settings get-item user_7 --collection personal --item age")]
pub(crate) struct GetItemArgs {
    /// The key.
    key: String,
    /// The collection below the key; without it the one with the empty name.
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    collection: String,
    /// The item in the collection; without it the one with the empty name.
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    item: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --limit all keys are printed, however many pages that takes.

Example:
  fastpersist -s jobs keys --prefix task_
  fastpersist -s jobs keys --after task_9 --limit 100 --date 2025-01-15
  fastpersist -s jobs keys | jq -r .")]
pub(crate) struct KeysArgs {
    /// Only keys that begin so.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only keys behind this one.
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Dated storages: the date; without it today in the storage's time zone.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist -s settings collections user_7")]
pub(crate) struct CollectionsArgs {
    /// The key.
    key: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist -s jobs dates")]
pub(crate) struct DatesArgs {}

/// The reply to any of the gets.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    record: Option<Box<RawValue>>,
    #[serde(default)]
    records: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Names {
    #[serde(alias = "collections", alias = "dates")]
    names: Vec<String>,
}

pub(crate) fn get(global: &Global, args: &GetArgs, out: &mut Output) -> Outcome {
    let key = args.key.as_str().into();
    let op = match &args.process_name {
        Some(process) => {
            Op::GetKeyProcess { date: args.date, key, process_name: Some(process.as_str().into()) }
        }
        None => {
            Op::GetKey { date: args.date, key, collection_name: args.collection.as_deref().map(Into::into) }
        }
    };
    let part = |what: &str, name: &Option<String>| {
        name.as_ref().map(|name| format!(", {what} {name:?}")).unwrap_or_default()
    };
    let whose = format!(
        "key {:?}{}{}",
        args.key,
        part("process", &args.process_name),
        part("collection", &args.collection)
    );
    show(global, op, &whose, out)
}

pub(crate) fn get_item(global: &Global, args: &GetItemArgs, out: &mut Output) -> Outcome {
    let GetItemArgs { key, collection, item } = args;
    let op = Op::GetItem { key: key.into(), collection_name: collection.into(), item_name: item.into() };
    show(global, op, &format!("key {key:?}, collection {collection:?}, item {item:?}"), out)
}

fn show(global: &Global, op: Op<'_>, whose: &str, out: &mut Output) -> Outcome {
    let found: Found = global.ask(op)?.get()?;
    let records = match found.record {
        Some(record) => vec![record],
        None => found.records,
    };
    if records.is_empty() {
        return Err(Failure::failed(format!("nothing is stored under {whose}")));
    }
    out.records(&records)
}

pub(crate) fn keys(global: &Global, args: &KeysArgs, out: &mut Output) -> Outcome {
    let client = global.connect()?;
    let mut after = args.after.clone();
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let limit = if args.limit.is_some() { left.min(MAX_KEYS_LIMIT) } else { PAGE };
        let op = Op::Keys {
            date: args.date,
            prefix: args.prefix.as_str().into(),
            after: after.as_deref().map(Into::into),
            limit: Some(limit),
        };
        let page: KeysPage = client.request(&global.request(op))?.get()?;
        out.names(&page.keys)?;
        left = left.saturating_sub(page.keys.len() as u64);
        after = page.keys.into_iter().last();
        if !page.more || left == 0 || after.is_none() {
            return Ok(());
        }
    }
}

pub(crate) fn collections(global: &Global, args: &CollectionsArgs, out: &mut Output) -> Outcome {
    let names: Names = global.ask(Op::Collections { key: args.key.as_str().into() })?.get()?;
    out.names(&names.names)
}

pub(crate) fn dates(global: &Global, out: &mut Output) -> Outcome {
    let names: Names = global.ask(Op::Dates)?.get()?;
    out.names(&names.names)
}
