//! What the store promises, against real files.

mod backup;
mod collection;
mod dated;
mod failures;
mod files;
mod held;
mod read;
mod rebuild;
mod writers;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use duckdb::types::Value as Cell;
use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::value::Value;
use tempfile::TempDir;

use super::*;
use crate::storage::record::{Columns, Names, Record};
use crate::storage::schema::{ExtraColumn, ExtraType, Model, Schema};

/// A directory, and an engine that works in it.
pub(super) struct Place {
    pub(super) dir: TempDir,
    pub(super) engine: Arc<Engine>,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let settings = EngineSettings {
            memory_limit_bytes: 256 << 20,
            threads: 1,
            temp_directory: dir.path().join("temporary"),
        };
        let engine = Engine::open(&settings).expect("an engine");
        Self { dir, engine }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn dated_files(&self) -> Files {
        Files::Dated { data: self.path("data.duckdb") }
    }

    pub(super) fn collection_files(&self) -> Files {
        Files::Collection { history: self.path("history.duckdb"), latest: self.path("latest.duckdb") }
    }

    pub(super) fn dated(&self) -> Store {
        self.dated_with(&[]).expect("a store")
    }

    pub(super) fn dated_with(&self, extra: &[(&str, &str)]) -> Result<Store, DuckError> {
        Store::open(Arc::clone(&self.engine), schema(Model::Dated, extra), self.dated_files())
    }

    pub(super) fn collection(&self) -> Store {
        self.try_collection().expect("a store")
    }

    pub(super) fn try_collection(&self) -> Result<Store, DuckError> {
        Store::open(Arc::clone(&self.engine), schema(Model::Collection, &[]), self.collection_files())
    }
}

pub(super) fn schema(model: Model, extra: &[(&str, &str)]) -> Arc<Schema> {
    let extra = extra.iter().map(|(name, kind)| ExtraColumn {
        name: (*name).to_owned(),
        kind: ExtraType::from_name(kind).expect("a type"),
        type_name: (*kind).to_owned(),
    });
    Arc::new(Schema { model, extra: extra.collect(), record_writer: false })
}

pub(super) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("in range")
}

/// A record with something in every column; without `data` a deletion.
pub(super) fn record(key: &str, names: Names<'_>, data: Option<&str>, seq: u64) -> Record {
    Record::new(&Columns {
        key,
        names,
        data: data.unwrap_or(""),
        value: None,
        timestamp: Some(instant(1_736_937_000_123_456)),
        status: Some("run"),
        status_int: Some(-3),
        username: None,
        updated_at: instant(1_736_937_000_654_321 + seq as i64),
        seq,
        deleted: data.is_none(),
        writer: None,
    })
}

pub(super) fn process(process_name: Option<&str>) -> Names<'_> {
    Names::Dated { process_name }
}

pub(super) fn item<'a>(collection_name: &'a str, item_name: &'a str) -> Names<'a> {
    Names::Collection { collection_name, item_name }
}

/// A dated write of one address, its first since the last flush.
pub(super) fn write(key: &str, name: Option<&str>, data: Option<&str>, seq: u64) -> FlushRow {
    FlushRow {
        record: record(key, process(name), data, seq),
        writes: 1,
        reset: false,
        present: Present::Unknown,
    }
}

pub(super) fn latest(rows: Vec<FlushRow>) -> FlushBatch {
    let through_seq = rows.iter().map(|row| row.record.seq()).max().unwrap_or(0);
    FlushBatch { through_seq, rows: FlushRows::Latest(rows), producers: Vec::new() }
}

pub(super) fn history(records: Vec<Record>) -> FlushBatch {
    let through_seq = records.iter().map(super::super::storage::record::Record::seq).max().unwrap_or(0);
    let writes = records.into_iter().map(|record| FlushWrite { record, present: Present::Unknown });
    FlushBatch { through_seq, rows: FlushRows::History(writes.collect()), producers: Vec::new() }
}

/// The rows of a query on the store's current table (`$t`) and history (`$h`).
pub(super) fn query(store: &Store, sql: &str) -> Vec<Vec<Cell>> {
    let shared = store.shared();
    let mut sql = sql.replace("$t", &shared.current.sql());
    if let Some(history) = &shared.history {
        sql = sql.replace("$h", &history.sql());
    }
    let conn = shared.engine.connect().expect("a connection");
    let mut statement = conn.prepare(&sql).expect(&sql);
    let mut rows = statement.query([]).expect(&sql);
    let mut found = Vec::new();
    while let Some(row) = rows.next().expect("a row") {
        let columns = row.as_ref().column_count();
        found.push((0..columns).map(|index| row.get(index).expect("a cell")).collect());
    }
    found
}

/// As [`query`], one text a row.
pub(crate) fn lines(store: &Store, sql: &str) -> Vec<String> {
    let text = |cell: &Cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Text(text) => text.clone(),
        Cell::Int(value) => value.to_string(),
        Cell::BigInt(value) => value.to_string(),
        Cell::UBigInt(value) => value.to_string(),
        Cell::Boolean(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    let rows = query(store, sql);
    rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|")).collect()
}

/// Runs SQL beside the store, as a fault would.
pub(super) fn meddle(store: &Store, sql: &str) {
    let shared = store.shared();
    let sql = sql.replace("$state", &shared.current.state_sql()).replace("$t", &shared.current.sql());
    shared.engine.connect().expect("a connection").execute_batch(&sql).expect(&sql);
}

pub(super) fn scan(store: &Store) -> Vec<Record> {
    let mut records = Vec::new();
    let reader = store.reader().expect("a reader");
    reader
        .scan(&mut |mut chunk| {
            records.append(&mut chunk);
            ControlFlow::Continue(())
        })
        .expect("a scan");
    records
}
