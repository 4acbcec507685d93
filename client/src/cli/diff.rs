//! The verb `diff`: what changed under a key of a collection between two moments.
//!
//! A moment is a place in the sequence. A time stands for the last write of the key that is not younger, for
//! the order comes from the places and the clock only labels them.

use std::collections::BTreeMap;

use clap::Args;
use fastpersist_client::{Timestamp, blocking};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Global;
use super::failure::{Failure, Outcome};
use super::history::Whose;
use super::json_diff::{Change, differences};
use super::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "\
A moment is a seq, or a time: then the last write of the key up to that time counts.
Paths are JSON pointers: /value, /data/label.

Example:
  fastpersist -s settings diff user_7 --from 12 --to 40
  fastpersist -s settings diff user_7 --from 2025-01-15T10:30:00Z
  fastpersist -s settings diff user_7 -c personal -i age --from 2025-01-01 --to 2025-02-01")]
pub(crate) struct DiffArgs {
    /// The key.
    key: String,
    /// Only the items of this collection.
    #[arg(long, short, value_name = "NAME")]
    collection: Option<String>,
    /// Only this item, of the collection with the empty name unless another is given.
    #[arg(long, short, value_name = "NAME")]
    item: Option<String>,
    /// The earlier moment.
    #[arg(long, value_name = "SEQ|TIME", value_parser = parse_moment)]
    from: Moment,
    /// The later moment; without it now.
    #[arg(long, value_name = "SEQ|TIME", value_parser = parse_moment)]
    to: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Seq(u64),
    Time(Timestamp),
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(seq) = text.parse() {
        return Ok(Moment::Seq(seq));
    }
    let time = Timestamp::parse(text).map(Moment::Time);
    time.ok_or_else(|| "a moment is a seq like 12 or a time like 2025-01-15T10:30:00Z".to_owned())
}

/// One write as far as it is compared.
#[derive(Deserialize)]
struct Entry {
    seq: u64,
    updated_at: String,
    collection_name: String,
    item_name: String,
    #[serde(default)]
    value: Option<Box<RawValue>>,
    /// A deletion has none.
    data: Option<Box<RawValue>>,
}

/// What became of one item; printed as JSON as it is.
#[derive(Serialize)]
struct ItemDiff<'a> {
    key: &'a str,
    collection_name: &'a str,
    item_name: &'a str,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_seq: Option<u64>,
    to_seq: u64,
    changes: Vec<Change>,
}

struct Differ<'a> {
    global: &'a Global,
    client: blocking::Client,
    args: &'a DiffArgs,
}

pub(crate) fn diff(global: &Global, args: &DiffArgs, out: &mut Output) -> Outcome {
    let differ = Differ { global, client: global.connect()?, args };
    let to = match args.to {
        Some(moment) => differ.seq_at(moment)?,
        None => i64::MAX as u64 - 1,
    };
    let from = differ.seq_at(args.from)?;
    if from > to {
        return Err(Failure::usage("--from lies behind --to"));
    }
    let mut nothing = true;
    for newest in differ.newest_between(from, to)?.into_values() {
        let whose = Whose { key: &args.key, item: Some((&newest.collection_name, &newest.item_name)) };
        let page = whose.page(global, &differ.client, 1, Some(from + 1))?;
        let before = page.records.first().map(|record| read(record)).transpose()?;
        if let Some(diff) = compare(&args.key, before.as_ref(), &newest) {
            nothing = false;
            print(&diff, out)?;
        }
    }
    if nothing && out.is_for_people() {
        out.line(format!("nothing changed under {:?} between these moments", args.key))?;
    }
    Ok(())
}

impl Differ<'_> {
    fn whose(&self) -> Whose<'_> {
        let DiffArgs { key, collection, item, .. } = self.args;
        let item = item.as_deref().map(|item| (collection.as_deref().unwrap_or_default(), item));
        Whose { key, item }
    }

    fn is_meant(&self, entry: &Entry) -> bool {
        self.args.collection.as_ref().is_none_or(|name| *name == entry.collection_name)
    }

    /// The place that a moment stands for.
    fn seq_at(&self, moment: Moment) -> Outcome<u64> {
        let time = match moment {
            Moment::Seq(seq) => return Ok(seq.min(i64::MAX as u64 - 1)),
            Moment::Time(time) => time,
        };
        let mut found = 0;
        self.whose().walk(self.global, &self.client, (u64::MAX, None), |records| {
            for record in records {
                let entry = read(record)?;
                if Timestamp::parse(&entry.updated_at).is_some_and(|at| at <= time) {
                    found = entry.seq;
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// The newest write of each item that was written behind `from` and not behind `to`.
    fn newest_between(&self, from: u64, to: u64) -> Outcome<BTreeMap<(String, String), Entry>> {
        let mut newest = BTreeMap::new();
        self.whose().walk(self.global, &self.client, (u64::MAX, Some(to + 1)), |records| {
            for record in records {
                let entry = read(record)?;
                if entry.seq <= from {
                    return Ok(false);
                }
                if self.is_meant(&entry) {
                    let address = (entry.collection_name.clone(), entry.item_name.clone());
                    newest.entry(address).or_insert(entry);
                }
            }
            Ok(true)
        })?;
        Ok(newest)
    }
}

fn read(record: &RawValue) -> Outcome<Entry> {
    serde_json::from_str(record.get())
        .map_err(|error| Failure::failed(format!("the history cannot be understood: {error}")))
}

/// What became of an item; `None` where it is as it was.
fn compare<'a>(key: &'a str, before: Option<&Entry>, after: &'a Entry) -> Option<ItemDiff<'a>> {
    let before = before.filter(|entry| entry.data.is_some());
    let change = match (before.is_some(), after.data.is_some()) {
        (true, true) => "changed",
        (false, true) => "added",
        (true, false) => "removed",
        (false, false) => return None,
    };
    let value = |entry: &'a Entry| entry.value.as_deref();
    let mut changes = Vec::new();
    let from_value = before.and_then(|entry| entry.value.as_deref());
    differences("/value", from_value, value(after), &mut changes);
    let from_data = before.and_then(|entry| entry.data.as_deref());
    differences("/data", from_data, after.data.as_deref(), &mut changes);
    if change == "changed" && changes.is_empty() {
        return None;
    }
    Some(ItemDiff {
        key,
        collection_name: &after.collection_name,
        item_name: &after.item_name,
        change,
        from_seq: before.map(|entry| entry.seq),
        to_seq: after.seq,
        changes,
    })
}

fn print(diff: &ItemDiff<'_>, out: &mut Output) -> Outcome {
    if !out.is_for_people() {
        let json = serde_json::to_string(diff);
        return out
            .line(json.map_err(|error| Failure::failed(format!("the difference is no JSON: {error}")))?);
    }
    let seqs = match diff.from_seq {
        Some(from) => format!("seq {from} → {}", diff.to_seq),
        None => format!("seq {}", diff.to_seq),
    };
    out.line(format!("{}/{} {}, {seqs}", diff.collection_name, diff.item_name, diff.change))?;
    for change in &diff.changes {
        out.line(format!("  {}: {}", change.path(), change.text()))?;
    }
    Ok(())
}
