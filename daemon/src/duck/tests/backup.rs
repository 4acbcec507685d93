//! Copies of a store's files.

use super::*;
use crate::duck::backup::{read_contents, truncate_collection};

fn put(key: &str, seq: u64) -> Record {
    record(key, item("c", "i"), Some("{}"), seq)
}

fn copies(place: &Place) -> [PathBuf; 2] {
    [place.path("history.backup.tmp"), place.path("latest.backup.tmp")]
}

#[test]
fn a_copy_shows_the_moment_of_its_snapshot_while_flushes_and_checkpoints_go_on() {
    let place = Place::new();
    let store = place.collection();
    store.flush(&history((1..=500).map(|n| put(&format!("k{n}"), n)).collect())).expect("a flush");
    let snapshot = store.snapshot(&copies(&place)).expect("a snapshot");
    assert_eq!(snapshot.seq(), 500);
    // Every row of the latest values is replaced, and the log is brought into the file.
    store.flush(&history((1..=500).map(|n| put(&format!("k{n}"), 500 + n)).collect())).expect("a flush");
    let _ = store.checkpoint();
    assert_eq!(snapshot.newest().expect("a row").map(|newest| newest.seq), Some(500));
    let copied = snapshot.copy().expect("copies");
    for (contents, file) in copied.iter().zip(&copies(&place)) {
        let found = read_contents(&place.engine, contents.table, file).expect("readable");
        assert_eq!((&found, found.rows, found.flushed_seq), (contents, 500, 500));
    }
    store.checkpoint().expect("nothing holds the checkpoint back any more");
    assert_eq!((store.flushed_seq(), store.wal_bytes()), (1000, 0));
}

#[test]
fn a_daemon_that_cannot_wait_begins_no_copy() {
    let place = Place::new();
    let store = place.collection();
    store.flush(&history((1..=20).map(|n| put(&format!("k{n}"), n)).collect())).expect("a flush");
    let snapshot = store.snapshot(&copies(&place)).expect("a snapshot");
    place.engine.hurry();
    let copied = snapshot.copy();
    assert!(matches!(copied, Err(DuckError::Hurried)), "{copied:?}");
    let read = read_contents(&place.engine, "storage_history", &place.path("history.backup.tmp"));
    assert!(read.is_err(), "{read:?}");
    // What must be done is done all the same.
    store.flush(&history(vec![put("last", 21)])).expect("a flush");
    store.close().expect("closed");
}

#[test]
fn a_copy_has_columns_that_the_configuration_forgot_and_is_a_store_of_its_own() {
    let place = Place::new();
    let old = place.dated_with(&[("price", "float64")]).expect("a store");
    let row = write("a", None, Some(r#"{"price":1.5}"#), 1);
    old.flush(&latest(vec![row])).expect("a flush");
    old.close().expect("closed");
    let store = place.dated();
    let file = place.path("data.duckdb.backup.tmp");
    let snapshot = store.snapshot(std::slice::from_ref(&file)).expect("a snapshot");
    snapshot.copy().expect("a copy");
    let files = Files::Dated { data: file };
    let copy = Store::open(Arc::clone(&place.engine), schema(Model::Dated, &[]), files).expect("a store");
    assert_eq!(lines(&copy, "SELECT key, price::VARCHAR, seq FROM $t"), ["a|1.5|1"]);
    assert_eq!(copy.flushed_seq(), 1);
}

#[test]
fn one_changed_row_changes_the_checksum_and_the_order_of_rows_does_not() {
    let place = Place::new();
    let rows = "SELECT * FROM (VALUES ('a', 1), ('b', 2), (NULL, 3)) AS t(key, seq)";
    let sum = |rows: &str| {
        let file = place.path(&format!("{}.backup", place.engine.new_alias()));
        let copy = place.engine.new_alias();
        place.engine.attach(&file, &copy).expect("attached");
        let sql = format!(
            "CREATE TABLE {copy}.main.storage AS {rows}; \
             CREATE TABLE {copy}.main.fastpersist_state AS SELECT 3::UBIGINT AS flushed_seq; CHECKPOINT {copy}"
        );
        place.engine.connect().expect("a connection").execute_batch(&sql).expect("made");
        place.engine.detach(&file, &copy).expect("detached");
        read_contents(&place.engine, "storage", &file).expect("readable")
    };
    assert_eq!(sum(rows), sum(&format!("{rows} ORDER BY seq DESC")));
    assert_ne!(sum(rows).checksum, sum(&rows.replace("2)", "4)")).checksum);
}

#[test]
fn a_history_cut_back_gives_the_latest_values_of_that_moment() {
    let place = Place::new();
    let store = place.collection();
    let mut writes: Vec<_> = (1..=10).map(|n| put(&format!("k{}", n % 3), n)).collect();
    writes.push(record("k1", item("c", "i"), None, 11));
    store.flush(&history(writes)).expect("a flush");
    let [first, second] = copies(&place);
    store.snapshot(&[first.clone(), second.clone()]).expect("a snapshot").copy().expect("copies");
    let schema_of = schema(Model::Collection, &[]);
    truncate_collection(&place.engine, &schema_of, [&first, &second], 5).expect("cut back");
    let files = Files::Collection { history: first, latest: second };
    let copy = Store::open(Arc::clone(&place.engine), schema_of, files).expect("a store");
    assert_eq!(lines(&copy, "SELECT key, seq, version FROM $t ORDER BY key"), ["k0|3|1", "k1|4|2", "k2|5|2"]);
    assert_eq!(lines(&copy, "SELECT count(*), max(seq) FROM $h"), ["5|5"]);
    assert_eq!(copy.flushed_seq(), 5);
}
