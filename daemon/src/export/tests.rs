//! What the export promises, read back with Parquet's own reader.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, UInt64Type};
use fastpersist_protocol::time::Timestamp;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use tempfile::TempDir;

use super::*;
use crate::disk::RealDisk;
use crate::duck::{
    Engine, EngineSettings, Files, FlushBatch, FlushRow, FlushRows, FlushWrite, Present, Store,
};
use crate::storage::record::{Columns, Names, Record};
use crate::storage::schema::Schema;

const DAY: &str = "date=2025-01-15";

struct Place {
    dir: TempDir,
    engine: Arc<Engine>,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let settings = EngineSettings {
            memory_limit_bytes: 128 << 20,
            threads: 1,
            temp_directory: dir.path().join("temporary"),
        };
        let engine = Engine::open(&settings).expect("an engine");
        Self { dir, engine }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("parquet/root")
    }

    fn store(&self, model: Model) -> Store {
        let files = match model {
            Model::Dated => Files::Dated { data: self.dir.path().join("data.duckdb") },
            Model::Collection => Files::Collection {
                history: self.dir.path().join("history.duckdb"),
                latest: self.dir.path().join("latest.duckdb"),
            },
        };
        let schema = Arc::new(Schema { model, extra: Vec::new(), record_writer: false });
        Store::open(Arc::clone(&self.engine), schema, files).expect("a store")
    }

    fn export(&self, store: &Store) -> Result<ExportOutcome, ExportError> {
        let reader = store.reader().expect("a reader");
        let exported = match reader.model() {
            Model::Dated => {
                export_dated(&RealDisk, &reader, &self.root(), Date::from_ymd(2025, 1, 15).expect("a date"))
            }
            Model::Collection => export_collection(&RealDisk, &reader, &self.root()),
        }?;
        for file in &exported.published {
            let (bytes, sha256) = crate::backup::verify::sha256_of(&file.path).expect("it is there");
            assert_eq!((file.bytes, &file.sha256), (bytes, &sha256), "{}", file.path.display());
        }
        assert_eq!(exported.published.len() as u64, exported.outcome.files);
        Ok(exported.outcome)
    }

    /// Every file below the root with its content, and every directory that is empty.
    fn tree(&self) -> BTreeMap<String, Vec<u64>> {
        let mut tree = BTreeMap::new();
        walk(&self.root(), "", &mut tree);
        tree
    }
}

fn walk(directory: &Path, name: &str, tree: &mut BTreeMap<String, Vec<u64>>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let entries: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    if entries.is_empty() {
        tree.insert(format!("{name}/"), Vec::new());
    }
    for path in entries {
        let file = path.file_name().expect("a name").to_str().expect("UTF-8");
        let name = if name.is_empty() { file.to_owned() } else { format!("{name}/{file}") };
        if path.is_dir() {
            walk(&path, &name, tree);
        } else {
            tree.insert(name, seqs(&path));
        }
    }
}

/// The `seq`s in a file, in its order.
fn seqs(path: &Path) -> Vec<u64> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("a file"));
    let reader = builder.expect("Parquet").build().expect("a reader");
    let mut seqs = Vec::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let column = batch.column_by_name("seq").expect("seq");
        seqs.extend(column.as_primitive::<UInt64Type>().values());
    }
    seqs
}

fn writes(records: Vec<Record>) -> Vec<FlushWrite> {
    records.into_iter().map(|record| FlushWrite { record, present: Present::Unknown }).collect()
}

fn record(key: &str, names: Names<'_>, data: Option<&str>, seq: u64) -> Record {
    let instant = Timestamp::from_micros(1_736_937_000_123_456).expect("in range");
    Record::new(&Columns {
        key,
        names,
        data: data.unwrap_or(""),
        value: None,
        timestamp: Some(instant),
        status: None,
        status_int: Some(1),
        username: None,
        updated_at: instant,
        seq,
        deleted: data.is_none(),
        writer: None,
    })
}

fn put(store: &Store, seq: u64, key: &str, process_name: Option<&str>, data: Option<&str>) {
    let record = record(key, Names::Dated { process_name }, data, seq);
    let rows = vec![FlushRow { record, writes: 1, reset: data.is_none(), present: Present::Unknown }];
    store
        .flush(&FlushBatch { through_seq: seq, rows: FlushRows::Latest(rows), producers: Vec::new() })
        .expect("a flush");
}

#[test]
fn each_process_has_its_file_and_a_second_export_replaces_it() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    put(&store, 1, "b", Some("w1"), Some("{}"));
    put(&store, 2, "a", Some("w1"), Some("{}"));
    put(&store, 3, "a", None, Some("{}"));
    let expected = [
        (format!("process_name=__HIVE_DEFAULT_PARTITION__/{DAY}/data.parquet"), vec![3]),
        (format!("process_name=w1/{DAY}/data.parquet"), vec![2, 1]),
    ];
    for _ in 0..2 {
        let outcome = place.export(&store).expect("an export");
        assert_eq!(outcome, ExportOutcome { files: 2, rows: 3, removed: 0 });
        assert_eq!(place.tree(), BTreeMap::from(expected.clone()));
    }
}

#[test]
fn a_file_has_every_column_but_the_partition() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    let data = r#"{"n":1e999, "n":"\u0000"}"#;
    put(&store, 1, "k", Some("w"), Some(data));
    place.export(&store).expect("an export");
    let path = place.root().join(format!("process_name=w/{DAY}/data.parquet"));
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("a file")).expect("Parquet");
    let columns: Vec<_> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(
        columns,
        ["key", "data", "timestamp", "status", "status_int", "username", "updated_at", "version", "seq"]
    );
    assert_eq!(builder.schema().field(1).data_type(), &DataType::Utf8);
    let group = builder.metadata().row_group(0);
    for column in group.columns() {
        assert!(matches!(column.compression(), Compression::ZSTD(_)));
        assert!(column.statistics().is_some());
    }
    let batch = builder.build().expect("a reader").next().expect("a batch").expect("readable");
    assert_eq!(batch.column(1).as_string::<i32>().value(0), data);
    assert!(batch.column(3).is_null(0));
}

#[test]
fn names_that_are_not_safe_are_encoded_and_never_collide() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    let cases = [
        (Some(""), "process_name="),
        (Some("__HIVE_DEFAULT_PARTITION__"), "process_name=%5F_HIVE_DEFAULT_PARTITION__"),
        (None, "process_name=__HIVE_DEFAULT_PARTITION__"),
        (Some("../../x"), "process_name=..%2F..%2Fx"),
        (Some("."), "process_name=."),
        (Some("a=b:c%d"), "process_name=a%3Db%3Ac%25d"),
        (Some("%3D"), "process_name=%253D"),
        (Some("\\ \"#'*?{[]^\u{7f}\u{1f}\n\0"), "process_name=%5C %22%23%27%2A%3F%7B%5B%5D%5E%7F%1F%0A%00"),
        (Some("é日"), "process_name=é日"),
        (Some("=}~"), "process_name=%3D}~"),
    ];
    for ((name, _), seq) in cases.iter().zip(1..) {
        put(&store, seq, "k", *name, Some("{}"));
    }
    place.export(&store).expect("an export");
    let expected = cases.iter().zip(1..);
    let expected =
        expected.map(|((_, directory), seq)| (format!("{directory}/{DAY}/data.parquet"), vec![seq]));
    assert_eq!(place.tree(), expected.collect());
}

#[test]
fn what_is_gone_loses_its_file_and_nothing_else_does() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    put(&store, 1, "k", Some("stays"), Some("{}"));
    put(&store, 2, "k", Some("goes"), Some("{}"));
    put(&store, 3, "k", Some("other day"), Some("{}"));
    place.export(&store).expect("an export");
    let other = place.root().join("process_name=other day/date=2025-01-14");
    fs::create_dir(&other).expect("a directory");
    fs::copy(place.root().join(format!("process_name=stays/{DAY}/data.parquet")), other.join("data.parquet"))
        .expect("copied");
    fs::create_dir(place.root().join("notes")).expect("a directory");
    // What an interrupted export leaves.
    fs::write(place.root().join(format!("process_name=goes/{DAY}/.data.parquet.tmp")), "x").expect("written");
    fs::write(place.root().join(format!("process_name=stays/{DAY}/.data.parquet.tmp")), "x")
        .expect("written");
    put(&store, 4, "k", Some("goes"), None);
    put(&store, 5, "k", Some("other day"), None);
    let outcome = place.export(&store).expect("an export");
    assert_eq!(outcome, ExportOutcome { files: 1, rows: 1, removed: 2 });
    let expected = [
        ("notes/".to_owned(), vec![]),
        ("process_name=other day/date=2025-01-14/data.parquet".to_owned(), vec![1]),
        (format!("process_name=stays/{DAY}/data.parquet"), vec![1]),
    ];
    assert_eq!(place.tree(), BTreeMap::from(expected));
}

#[test]
fn a_storage_without_records_has_no_files() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    assert_eq!(place.export(&store).expect("an export"), ExportOutcome::default());
    assert!(!place.root().exists());
    put(&store, 1, "k", None, Some("{}"));
    place.export(&store).expect("an export");
    put(&store, 2, "k", None, None);
    assert_eq!(place.export(&store).expect("an export").removed, 1);
    assert_eq!(place.tree(), BTreeMap::from([("/".to_owned(), vec![])]));
}

#[test]
fn a_name_that_is_too_long_is_told_and_the_others_are_exported() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    let (fits, long, encoded) = ("x".repeat(242), "y".repeat(243), "/".repeat(81));
    put(&store, 1, "k", Some(&fits), Some("{}"));
    put(&store, 2, "k", Some(&long), Some("{}"));
    put(&store, 3, "k", Some(&encoded), Some("{}"));
    put(&store, 4, "k", Some("z"), Some("{}"));
    let error = place.export(&store).expect_err("a name that does not fit");
    let ExportError::TooLong { names, outcome, .. } = &error else { panic!("{error}") };
    assert_eq!(*names, [encoded, long]);
    assert_eq!(*outcome, ExportOutcome { files: 2, rows: 2, removed: 0 });
    let expected = [
        (format!("process_name={fits}/{DAY}/data.parquet"), vec![1]),
        (format!("process_name=z/{DAY}/data.parquet"), vec![4]),
    ];
    assert_eq!(place.tree(), BTreeMap::from(expected));
}

#[test]
fn a_failure_leaves_the_old_file_and_nothing_half_written() {
    let place = Place::new();
    let store = place.store(Model::Dated);
    put(&store, 1, "k", Some("a"), Some("{}"));
    place.export(&store).expect("an export");
    put(&store, 2, "k", Some("a"), Some("{}"));
    put(&store, 3, "k", Some("b"), Some("{}"));
    // A file stands where b's directory must be.
    fs::write(place.root().join("process_name=b"), "x").expect("written");
    let error = place.export(&store).expect_err("no directory");
    assert!(matches!(error, ExportError::Io { .. }), "{error}");
    assert!(error.to_string().contains("process_name=b"), "{error}");
    fs::remove_file(place.root().join("process_name=b")).expect("removed");
    let a = (format!("process_name=a/{DAY}/data.parquet"), vec![2]);
    assert_eq!(place.tree(), BTreeMap::from([a]));
}

#[test]
fn many_rows_are_whole_and_sorted() {
    const ROWS: u64 = 300_000;
    let place = Place::new();
    let store = place.store(Model::Dated);
    let rows = (0..ROWS).map(|row| {
        let seq = ROWS - row;
        let name = format!("w{}", row % 2);
        let record =
            record(&format!("k{row:06}"), Names::Dated { process_name: Some(&name) }, Some("{}"), seq);
        FlushRow { record, writes: 1, reset: false, present: Present::Unknown }
    });
    let batch =
        FlushBatch { through_seq: ROWS, rows: FlushRows::Latest(rows.collect()), producers: Vec::new() };
    store.flush(&batch).expect("a flush");
    let outcome = place.export(&store).expect("an export");
    assert_eq!(outcome, ExportOutcome { files: 2, rows: ROWS, removed: 0 });
    for (name, seqs) in place.tree() {
        assert_eq!(seqs.len() as u64, ROWS / 2, "{name}");
        assert!(seqs.is_sorted_by(|a, b| a > b), "{name}: by key");
    }
}

#[test]
fn a_collection_has_a_file_for_each_name() {
    let place = Place::new();
    let store = place.store(Model::Collection);
    let write = |collection_name, item_name, data, seq| {
        record("k", Names::Collection { collection_name, item_name }, data, seq)
    };
    let records = vec![
        write("", "i", Some("{}"), 1),
        write("a/b", "j", Some("{}"), 2),
        write("a/b", "i", Some("{}"), 3),
        write("gone", "i", Some("{}"), 4),
    ];
    store
        .flush(&FlushBatch {
            through_seq: 4,
            rows: FlushRows::History(writes(records)),
            producers: Vec::new(),
        })
        .expect("a flush");
    assert_eq!(place.export(&store).expect("an export").files, 3);
    let records = vec![write("gone", "i", None, 5)];
    store
        .flush(&FlushBatch {
            through_seq: 5,
            rows: FlushRows::History(writes(records)),
            producers: Vec::new(),
        })
        .expect("a flush");
    let outcome = place.export(&store).expect("an export");
    assert_eq!(outcome, ExportOutcome { files: 2, rows: 3, removed: 1 });
    let expected = [
        ("collection_name=/data.parquet".to_owned(), vec![1]),
        ("collection_name=a%2Fb/data.parquet".to_owned(), vec![3, 2]),
    ];
    assert_eq!(place.tree(), BTreeMap::from(expected));
}
