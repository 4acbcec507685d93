//! Reads by address: answered from memory on the spot, after a load from DuckDB where memory is cold.

use std::sync::Arc;

use fastpersist_protocol::time::Date;
use fastpersist_protocol::{json, reply};

use super::dispatch::{Answer, Ask, Dispatcher, expect_model};
use super::errors;
use super::pass::Pass;
use crate::storage::memtable::Known;
use crate::storage::partition::{KeysPage, Partition};
use crate::storage::record::{Names, Record};
use crate::storage::schema::Model;

/// A page of keys ends when its answer has about so many bytes.
const KEYS_PAGE_BYTES: usize = 4 << 20;

impl Dispatcher<'_> {
    pub(super) async fn get_one(
        &mut self,
        id: Option<&str>,
        (index, date): (usize, Option<Date>),
        key: &str,
        names: Names<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        if pass.touches(key) {
            pass.finish(out).await;
        }
        let Some(partition) = self.partition_for_read(index, date).await? else {
            pass.answer(out, |out| no_record(out, id));
            return Ok(());
        };
        let date = partition.date();
        let known = pass
            .try_answer(out, |out| partition.peek(key, names, |record| one_record(out, id, record, date)));
        match known {
            Known::Live(()) => {}
            Known::Absent => pass.answer(out, |out| no_record(out, id)),
            Known::Cold => {
                let records = load(&partition, key).await?;
                let record = records.iter().find(|record| record.names() == names);
                pass.answer(out, |out| match record {
                    Some(record) => one_record(out, id, record, date),
                    None => no_record(out, id),
                });
            }
        }
        Ok(())
    }

    pub(super) async fn get_key(
        &mut self,
        id: Option<&str>,
        (index, date): (usize, Option<Date>),
        key: &str,
        collection: Option<&str>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        if pass.touches(key) {
            pass.finish(out).await;
        }
        let mut records = Vec::new();
        if let Some(partition) = self.partition_for_read(index, date).await? {
            let date = partition.date();
            each_record(&partition, key, |record| {
                if is_in_collection(record, collection) {
                    if !records.is_empty() {
                        records.push(b',');
                    }
                    record.write_json(date, &mut records);
                }
            })
            .await?;
        }
        pass.answer(out, |out| {
            reply::begin_ok(out, id);
            reply::field(out, "records");
            out.push(b'[');
            out.extend_from_slice(&records);
            out.push(b']');
            reply::end(out);
        });
        Ok(())
    }

    pub(super) async fn keys(
        &mut self,
        id: Option<&str>,
        index: usize,
        date: Option<Date>,
        (prefix, after, limit): (&str, Option<&str>, usize),
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let page = match self.partition_for_read(index, date).await? {
            Some(partition) => {
                let page = partition.keys(prefix, after, limit, KEYS_PAGE_BYTES).await;
                page.map_err(|error| errors::of_read(&error))?
            }
            None => KeysPage::default(),
        };
        reply::begin_ok(out, id);
        reply::field(out, "keys");
        reply::array(out, &page.keys, |out, key| json::write_string(out, key));
        reply::field(out, "more");
        json::write_bool(out, page.more);
        reply::end(out);
        Ok(())
    }

    pub(super) async fn collections(
        &mut self,
        id: Option<&str>,
        index: usize,
        key: &str,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let mut names: Vec<String> = Vec::new();
        if let Some(partition) = self.partition_for_read(index, None).await? {
            each_record(&partition, key, |record| {
                if let Names::Collection { collection_name, .. } = record.names()
                    && names.last().is_none_or(|last| last != collection_name)
                {
                    names.push(collection_name.to_owned());
                }
            })
            .await?;
        }
        reply::begin_ok(out, id);
        reply::field(out, "collections");
        reply::array(out, &names, |out, name| json::write_string(out, name));
        reply::end(out);
        Ok(())
    }

    pub(super) async fn dates(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (_, storage) = self.allowed(ask)?;
        expect_model(storage, Model::Dated, "dates", "collections")?;
        pass.finish(out).await;
        let dates = storage.dates().map_err(|error| errors::internal("listing dates", &error))?;
        reply::begin_ok(out, id);
        reply::field(out, "dates");
        reply::array(out, dates, |out, date| json::write_string(out, &date.to_string()));
        reply::end(out);
        Ok(())
    }
}

fn is_in_collection(record: &Record, collection: Option<&str>) -> bool {
    match (record.names(), collection) {
        (Names::Collection { collection_name, .. }, Some(wanted)) => collection_name == wanted,
        _ => true,
    }
}

/// Shows every record of a key, after loading it where memory does not have all of it.
async fn each_record(partition: &Arc<Partition>, key: &str, mut show: impl FnMut(&Record)) -> Answer<()> {
    if partition.peek_key(key, &mut show) == Known::Cold {
        for record in load(partition, key).await? {
            show(&record);
        }
    }
    Ok(())
}

async fn load(partition: &Arc<Partition>, key: &str) -> Answer<Vec<Record>> {
    partition.load_key(key, false).await.map_err(|error| errors::of_read(&error))
}

fn no_record(out: &mut Vec<u8>, id: Option<&str>) {
    reply::begin_ok(out, id);
    reply::field(out, "record");
    out.extend_from_slice(b"null");
    reply::end(out);
}

fn one_record(out: &mut Vec<u8>, id: Option<&str>, record: &Record, date: Option<Date>) {
    reply::begin_ok(out, id);
    reply::field(out, "record");
    record.write_json(date, out);
    reply::end(out);
}
