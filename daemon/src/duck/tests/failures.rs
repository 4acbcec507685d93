//! A failure stores nothing, and the next try works.

use super::*;

fn one(seq: u64) -> FlushBatch {
    latest(vec![write("a", None, Some("{}"), seq)])
}

/// Leaves the alias without a file, as a fatal error does.
fn detach(place: &Place, store: &Store) {
    place.engine.detach(&place.path("data.duckdb"), &store.shared().current.alias).expect("detached");
}

/// A store that has flushed one record, then lost its file and noticed it.
fn with_its_file_away(place: &Place) -> Store {
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    detach(place, &store);
    std::fs::rename(place.path("data.duckdb"), place.path("away")).expect("moved away");
    store.flush(&one(2)).expect_err("no file");
    store
}

#[test]
fn a_batch_that_breaks_the_rules_is_refused_whole() {
    let place = Place::new();
    let store = place.dated();
    let mut batch = latest(vec![write("a", None, Some("{}"), 1), write("b", None, Some("{}"), 2)]);
    batch.through_seq = 1;
    assert!(matches!(store.flush(&batch), Err(DuckError::Batch { .. })));
    let other = history(vec![record("k", item("", ""), Some("{}"), 1)]);
    assert!(matches!(store.flush(&other), Err(DuckError::Batch { .. })));
    assert_eq!((store.row_count(), store.flushed_seq()), (0, 0));
    store.flush(&one(3)).expect("a flush");

    let place = Place::new();
    let store = place.collection();
    let unsorted = [2, 1].map(|seq| record("k", item("", ""), Some("{}"), seq));
    assert!(matches!(store.flush(&history(unsorted.to_vec())), Err(DuckError::Batch { .. })));
    assert_eq!(store.flushed_seq(), 0);
}

#[test]
fn a_failed_statement_stores_nothing() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    meddle(&store, "ALTER TABLE $t RENAME COLUMN seq TO other");
    let error = store.flush(&one(2)).expect_err("no such column");
    assert!(matches!(error, DuckError::Sql { .. }), "{error}");
    assert!(error.to_string().contains("data.duckdb"), "{error}");
    assert_eq!((store.flushed_seq(), store.row_count()), (1, 1));
    meddle(&store, "ALTER TABLE $t RENAME COLUMN other TO seq");
    store.flush(&one(2)).expect("the next try");
    assert_eq!(lines(&store, "SELECT seq, version FROM $t"), ["2|2"]);
}

#[test]
fn rows_that_went_missing_are_noticed() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    // A row from the future stands where the new one is counted.
    meddle(&store, "INSERT INTO $t SELECT * REPLACE ('x' AS key, 99 AS seq) FROM $t");
    let error = store.flush(&one(2)).expect_err("one row too many");
    assert!(matches!(error, DuckError::Count { expected: 1, found: 2, .. }), "{error}");
    assert_eq!(lines(&store, "SELECT seq FROM $t ORDER BY seq"), ["1", "99"]);
    meddle(&store, "DELETE FROM $t WHERE seq = 99");
    store.flush(&one(2)).expect("the next try");
    assert_eq!(lines(&store, "SELECT seq, version FROM $t"), ["2|2"]);
}

#[test]
fn doubled_rows_become_one_again() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    meddle(&store, "INSERT INTO $t SELECT * FROM $t");
    drop(store);
    let store = place.dated();
    assert_eq!(store.row_count(), 2);
    store.flush(&one(2)).expect("a flush");
    assert_eq!((store.row_count(), lines(&store, "SELECT seq FROM $t").len()), (1, 1));
}

#[test]
fn another_flushed_seq_in_the_file_is_believed() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    meddle(&store, "UPDATE $state SET flushed_seq = 0");
    assert!(matches!(store.flush(&one(2)), Err(DuckError::Count { .. })));
    assert_eq!(store.flushed_seq(), 0, "read again from the file");
}

#[test]
fn a_commit_that_took_place_after_all_is_no_error() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    // The file is further than the store knows: so it looks when a commit fails and yet takes place.
    meddle(&store, "UPDATE $state SET flushed_seq = 2");
    let outcome = store.flush(&one(2)).expect("it is there");
    assert_eq!(outcome.flushed_seq, 2);
}

#[test]
fn a_checkpoint_waits_for_nobody_and_loses_nothing() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    let other = place.engine.connect().expect("a connection");
    let update = format!("BEGIN; UPDATE {} SET version = 7", store.shared().current.sql());
    other.execute_batch(&update).expect("a write beside");
    let error = store.checkpoint().expect_err("another transaction writes");
    assert!(matches!(error, DuckError::Checkpoint { .. }), "{error}");
    other.execute_batch("ROLLBACK").expect("rolled back");
    store.checkpoint().expect("a checkpoint");
    store.flush(&one(2)).expect("a flush");
}

#[test]
fn a_failed_checkpoint_keeps_everything() {
    for point in ["before_header", "before_truncate", "after_free_list_write"] {
        let place = Place::new();
        let store = place.dated();
        store.flush(&one(1)).expect("a flush");
        let set = |value: &str| {
            let conn = place.engine.connect().expect("a connection");
            conn.execute_batch(&format!("SET GLOBAL debug_checkpoint_abort = '{value}'")).expect(value);
        };
        set(point);
        let error = store.checkpoint().expect_err(point);
        assert!(matches!(error, DuckError::Checkpoint { .. }), "{point}: {error}");
        set("none");
        store.flush(&one(2)).expect(point);
        store.checkpoint().expect(point);
        assert_eq!(lines(&store, "SELECT seq, version FROM $t"), ["2|2"], "{point}");
        store.close().expect(point);
        assert_eq!(place.dated().flushed_seq(), 2, "{point}");
    }
}

#[test]
fn a_store_that_lost_its_file_comes_back() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    detach(&place, &store);
    assert!(matches!(store.flush(&one(2)), Err(DuckError::Sql { .. })));
    store.flush(&one(2)).expect("the next try");
    assert_eq!(lines(&store, "SELECT seq, version FROM $t"), ["2|2"]);
}

#[test]
fn a_file_that_vanished_is_not_made_again() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    store.checkpoint().expect("a checkpoint");
    detach(&place, &store);
    std::fs::remove_file(place.path("data.duckdb")).expect("removed");
    for _ in 0..3 {
        store.flush(&one(2)).expect_err("no file");
        assert!(!place.path("data.duckdb").exists());
        assert_eq!(store.flushed_seq(), 1);
    }
    assert!(matches!(store.flush(&one(2)), Err(DuckError::Missing { .. })));
}

/// Of a file that a failure had left detached, closing said that all was well, which passed for a checkpoint: the segments of
/// its records went.
#[test]
fn a_file_that_cannot_be_attached_any_more_does_not_close_well() {
    let place = Place::new();
    let store = with_its_file_away(&place);
    assert!(matches!(store.close(), Err(DuckError::Close(_))));
    // Where it is back in time, closing makes up for it.
    let place = Place::new();
    let store = with_its_file_away(&place);
    std::fs::rename(place.path("away"), place.path("data.duckdb")).expect("put back");
    assert!(store.wal_bytes() > 0);
    store.close().expect("closed");
    assert_eq!((store.wal_bytes(), place.dated().flushed_seq()), (0, 1));
}

#[test]
fn closed_without_a_checkpoint_everything_is_in_the_log_beside() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&one(1)).expect("a flush");
    store.close_without_checkpoint().expect("closed");
    assert!(store.wal_bytes() > 0);
    let store = place.dated();
    assert_eq!((store.flushed_seq(), store.row_count()), (1, 1));
}

#[test]
fn the_engine_reaches_nothing_by_itself() {
    let place = Place::new();
    let store = place.dated();
    let settings = "SELECT name || '=' || value FROM duckdb_settings() WHERE name IN \
         ('autoload_known_extensions', 'autoinstall_known_extensions', 'allow_community_extensions', \
          'allow_persistent_secrets', 'threads') ORDER BY name";
    assert_eq!(
        lines(&store, settings),
        [
            "allow_community_extensions=false",
            "allow_persistent_secrets=false",
            "autoinstall_known_extensions=false",
            "autoload_known_extensions=false",
            "threads=1"
        ]
    );
}

#[test]
fn a_reader_in_the_middle_delays_the_return_and_no_more() {
    let place = Place::new();
    let store = place.dated();
    let rows = (1..=10_000).map(|seq| write(&format!("k{seq}"), None, Some("{}"), seq));
    store.flush(&latest(rows.collect())).expect("a flush");
    let path = place.path("data.duckdb");
    let mut rows = 0;
    let reader = store.reader().expect("a reader");
    reader
        .scan(&mut |chunk| {
            if rows == 0 {
                place.engine.detach(&path, &store.shared().current.alias).expect("detached");
                // The reader holds the file, so it cannot be attached again yet.
                store.flush(&one(10_001)).expect_err("no file");
                store.flush(&one(10_001)).expect_err("still none");
                assert_eq!(store.flushed_seq(), 10_000);
            }
            rows += chunk.len();
            ControlFlow::Continue(())
        })
        .expect("the reader goes on");
    assert_eq!(rows, 10_000);
    store.flush(&one(10_001)).expect("the next try");
    assert_eq!(reader.key("a").expect("the same reader").len(), 1);
}
