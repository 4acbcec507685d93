//! The verb `history`, and the way to a history that `diff` shares.

use std::borrow::Cow;

use clap::Args;
use fastpersist_client::blocking;
use fastpersist_client::protocol::request::{History, MAX_HISTORY_LIMIT, Op};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Global;
use super::failure::{Failure, Outcome};
use super::output::Output;

/// How many writes are asked for at once.
const PAGE: u64 = 1_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Newest first; a deletion shows as such. Without --limit everything is printed, however many pages that takes.
Only collection storages have a history.

Example:
  fastpersist -s settings history user_7 --collection personal --item age
  fastpersist -s settings history user_7 --all-items --limit 20
  fastpersist -s settings history user_7 -c personal -i age | jq .value")]
pub(crate) struct HistoryArgs {
    /// The key.
    key: String,
    /// The collection below the key; without it the one with the empty name.
    #[arg(long, short, value_name = "NAME")]
    collection: Option<String>,
    /// The item in the collection; without it the one with the empty name.
    #[arg(long, short, value_name = "NAME")]
    item: Option<String>,
    /// Every item of the key.
    #[arg(long, short, conflicts_with_all = ["collection", "item"])]
    all_items: bool,
    /// At most so many writes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only writes before this one.
    #[arg(long, value_name = "SEQ")]
    before_seq: Option<u64>,
}

/// A page of a history as it comes.
#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) records: Vec<Box<RawValue>>,
    pub(super) more: bool,
}

#[derive(Deserialize)]
struct Place {
    seq: u64,
}

/// Whose history is walked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) key: &'a str,
    /// The collection and the item; `None` is every item of the key.
    pub(super) item: Option<(&'a str, &'a str)>,
}

impl Whose<'_> {
    fn ask(&self, limit: u64, before_seq: Option<u64>) -> Op<'_> {
        let (collection_name, item_name) = self.item.unwrap_or_default();
        Op::History(History {
            key: Cow::Borrowed(self.key),
            collection_name: Cow::Borrowed(collection_name),
            item_name: Cow::Borrowed(item_name),
            all_items: self.item.is_none(),
            limit: Some(limit.min(MAX_HISTORY_LIMIT)),
            before_seq,
        })
    }

    /// Up to `limit` writes before a place.
    pub(super) fn page(
        &self,
        global: &Global,
        client: &blocking::Client,
        limit: u64,
        before_seq: Option<u64>,
    ) -> Outcome<Page> {
        Ok(client.request(&global.request(self.ask(limit, before_seq)))?.get()?)
    }

    /// Shows page after page, newest first, until there are no more or `show` answers false.
    pub(super) fn walk(
        &self,
        global: &Global,
        client: &blocking::Client,
        (mut left, mut before_seq): (u64, Option<u64>),
        mut show: impl FnMut(&[Box<RawValue>]) -> Outcome<bool>,
    ) -> Outcome {
        loop {
            let page = self.page(global, client, left.min(PAGE), before_seq)?;
            left = left.saturating_sub(page.records.len() as u64);
            let go_on = show(&page.records)?;
            let Some(last) = page.records.last().filter(|_| go_on && page.more && left > 0) else {
                return Ok(());
            };
            let last: Place = serde_json::from_str(last.get())
                .map_err(|error| Failure::failed(format!("a write without a seq came back: {error}")))?;
            before_seq = Some(last.seq);
        }
    }
}

pub(crate) fn history(global: &Global, args: &HistoryArgs, out: &mut Output) -> Outcome {
    let client = global.connect()?;
    let collection = args.collection.as_deref().unwrap_or_default();
    let item = (!args.all_items).then_some((collection, args.item.as_deref().unwrap_or_default()));
    let whose = Whose { key: &args.key, item };
    let mut found = false;
    let from = (args.limit.unwrap_or(u64::MAX), args.before_seq);
    whose.walk(global, &client, from, |records| {
        found |= !records.is_empty();
        out.records(records)?;
        Ok(true)
    })?;
    if found {
        return Ok(());
    }
    let what = item
        .map_or_else(String::new, |(collection, item)| format!(", collection {collection:?}, item {item:?}"));
    let when = match args.before_seq {
        Some(seq) => format!(" before seq {seq}"),
        None => " ever".to_owned(),
    };
    Err(Failure::failed(format!("nothing was{when} stored under key {:?}{what}", args.key)))
}
