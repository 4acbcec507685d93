//! The operation `history`.

use fastpersist_protocol::error::WireError;
use fastpersist_protocol::request::{DEFAULT_HISTORY_LIMIT, History};
use fastpersist_protocol::time::Date;
use fastpersist_protocol::{json, reply};

use super::dispatch::{Answer, Ask, Dispatcher};
use super::errors;
use super::pass::Pass;
use crate::duck::OwnedNames;
use crate::storage::partition::{HistoryAsk, HistoryPage};
use crate::storage::record::{Columns, Names, Record};
use crate::storage::schema::Model;

/// A page of a history ends when its answer has about so many bytes.
const HISTORY_PAGE_BYTES: usize = 4 << 20;
/// Above every place: DuckDB's own integers end here.
const NO_BOUND: u64 = i64::MAX as u64;

impl Dispatcher<'_> {
    pub(super) async fn history(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        asked: &History<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (index, storage) = self.allowed(ask)?;
        if storage.config().model() != Model::Collection {
            let message = format!(
                "\"history\" is for collection storages, and {:?} is a dated one: it keeps the newest record of each key and process, and no history",
                storage.config().name
            );
            return Err(WireError::field("op", message));
        }
        pass.finish(out).await;
        let names =
            Names::Collection { collection_name: &asked.collection_name, item_name: &asked.item_name };
        let history_ask = HistoryAsk {
            key: asked.key.clone().into_owned(),
            names: (!asked.all_items).then(|| OwnedNames::from(names)),
            before_seq: asked.before_seq.unwrap_or(NO_BOUND).min(NO_BOUND),
            limit: asked.limit.unwrap_or(DEFAULT_HISTORY_LIMIT) as usize,
            max_bytes: HISTORY_PAGE_BYTES,
        };
        let page = match self.partition_for_read(index, None).await? {
            Some(partition) => {
                partition.history(history_ask).await.map_err(|error| errors::of_read(&error))?
            }
            None => HistoryPage::default(),
        };
        reply::begin_ok(out, id);
        reply::field(out, "records");
        reply::array(out, &page.records, write_entry);
        reply::field(out, "more");
        json::write_bool(out, page.more);
        reply::end(out);
        Ok(())
    }
}

/// A write as every read returns it; a deletion, which has no data, as what and when.
fn write_entry(out: &mut Vec<u8>, record: &Record) {
    if !record.is_deleted() {
        return record.write_json(None, out);
    }
    let columns = record.columns();
    out.extend_from_slice(b"{\"seq\":");
    json::write_u64(out, columns.seq);
    reply::field(out, "deleted");
    json::write_bool(out, true);
    write_deleted(None, &columns, out);
    out.push(b'}');
}

/// What was deleted, and when: in a history as in an event.
pub(super) fn write_deleted(date: Option<Date>, columns: &Columns<'_>, out: &mut Vec<u8>) {
    if let Some(date) = date {
        reply::field(out, "date");
        json::write_string(out, &date.to_string());
    }
    reply::field(out, "key");
    json::write_string(out, columns.key);
    match columns.names {
        Names::Dated { process_name } => {
            reply::field(out, "process_name");
            json::write_opt_string(out, process_name);
        }
        Names::Collection { collection_name, item_name } => {
            reply::field(out, "collection_name");
            json::write_string(out, collection_name);
            reply::field(out, "item_name");
            json::write_string(out, item_name);
        }
    }
    reply::field(out, "updated_at");
    reply::write_opt_timestamp(out, Some(columns.updated_at));
}
