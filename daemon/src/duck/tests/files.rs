//! Files: made, opened again, refused.

use std::path::Path;

use super::*;

const COLUMNS: &str = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_index) \
     FROM duckdb_columns() WHERE NOT internal AND table_name = ";

#[test]
fn tables_have_exactly_the_columns_of_the_contract() {
    let place = Place::new();
    let store = place.dated_with(&[("price", "float64"), ("day", "date64")]).expect("a store");
    assert_eq!(
        lines(&store, &format!("{COLUMNS} 'storage'")),
        ["key VARCHAR, process_name VARCHAR, data JSON, timestamp TIMESTAMP, status VARCHAR, \
          status_int INTEGER, username VARCHAR, updated_at TIMESTAMP, version INTEGER, seq UBIGINT, \
          price DOUBLE, day DATE"]
    );
    let store = place.collection();
    let columns = "key VARCHAR, collection_name VARCHAR, item_name VARCHAR, data JSON, value_int BIGINT, \
         value_float DOUBLE, value_string VARCHAR, value_bool BOOLEAN, timestamp TIMESTAMP, status VARCHAR, \
         status_int INTEGER, username VARCHAR, updated_at TIMESTAMP, version INTEGER, seq UBIGINT";
    assert_eq!(lines(&store, &format!("{COLUMNS} 'storage_latest'")), [columns]);
    assert_eq!(
        lines(&store, &format!("{COLUMNS} 'storage_history'")),
        [format!("{columns}, deleted BOOLEAN")]
    );
    let state = "SELECT column_name, data_type FROM duckdb_columns() \
         WHERE table_name = 'fastpersist_state' AND database_name = 'store_1' ORDER BY column_index";
    assert_eq!(lines(&store, state), ["format|INTEGER", "flushed_seq|UBIGINT"]);
    assert!(lines(&store, "SELECT * FROM duckdb_indexes()").is_empty());
    assert!(lines(&store, "SELECT * FROM duckdb_constraints() WHERE constraint_type <> 'CHECK'").is_empty());
}

#[test]
fn what_was_flushed_is_there_after_a_crash_and_after_a_close() {
    let place = Place::new();
    assert!(!place.dated_files().exist());
    let store = place.dated();
    assert!(place.dated_files().exist());
    store.flush(&latest(vec![write("a", None, Some("{}"), 7)])).expect("a flush");
    assert!(store.wal_bytes() > 0);
    // Dropped without a checkpoint: as after a crash, DuckDB's log is all there is.
    drop(store);
    let store = place.dated();
    assert_eq!((store.flushed_seq(), store.row_count()), (7, 1));
    store.checkpoint().expect("a checkpoint");
    assert_eq!(store.wal_bytes(), 0);
    store.flush(&latest(vec![write("b", None, Some("{}"), 8)])).expect("a flush");
    store.close().expect("closed");
    store.close().expect("closing twice is no error");
    assert!(matches!(store.flush(&latest(Vec::new())), Err(DuckError::Closed { .. })));
    assert!(matches!(store.checkpoint(), Err(DuckError::Closed { .. })));
    let store = place.dated();
    assert_eq!((store.flushed_seq(), store.row_count(), store.wal_bytes()), (8, 2, 0));
}

#[test]
fn any_name_of_a_directory_will_do() {
    let place = Place::new();
    for name in ["it's", "a b;--", "sqlite:x", "日本", "100%", "\"q\""] {
        let dir = place.path(name);
        std::fs::create_dir(&dir).expect("a directory");
        let files = Files::Dated { data: dir.join("data.duckdb") };
        let open =
            || Store::open(Arc::clone(&place.engine), schema(Model::Dated, &[]), files.clone()).expect(name);
        open().flush(&latest(vec![write("a", None, Some("{}"), 1)])).expect(name);
        assert_eq!(open().row_count(), 1, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let data = place.dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.duckdb"));
    let error = Store::open(Arc::clone(&place.engine), schema(Model::Dated, &[]), Files::Dated { data });
    assert!(matches!(error, Err(DuckError::Path { .. })));
}

#[test]
fn extra_columns_come_and_go_but_keep_their_type() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&latest(vec![write("a", None, Some(r#"{"n":1}"#), 1)])).expect("a flush");
    drop(store);
    let store = place.dated_with(&[("n", "int64")]).expect("a store");
    store.flush(&latest(vec![write("b", None, Some(r#"{"n":2}"#), 2)])).expect("a flush");
    drop(store);
    // Another one before it in the configuration comes behind it in the file.
    let store = place.dated_with(&[("m", "string"), ("n", "int64")]).expect("a store");
    store.flush(&latest(vec![write("c", None, Some(r#"{"n":3,"m":"x"}"#), 3)])).expect("a flush");
    drop(store);
    let store = place.dated_with(&[("m", "string")]).expect("a store");
    store.flush(&latest(vec![write("d", None, Some(r#"{"n":4,"m":"y"}"#), 4)])).expect("a flush");
    let found = lines(&store, "SELECT key, n, m FROM $t ORDER BY key");
    assert_eq!(found, ["a|NULL|NULL", "b|2|NULL", "c|3|x", "d|NULL|y"]);
    drop(store);
    let error = place.dated_with(&[("n", "string")]).expect_err("another type");
    let text = error.to_string();
    assert!(matches!(error, DuckError::ColumnType { .. }), "{text}");
    assert!(text.contains("\"n\"") && text.contains("data.duckdb"), "{text}");
    // A refused file is free again.
    drop(place.dated());
}

#[test]
fn a_damaged_file_is_named() {
    let place = Place::new();
    for (name, content) in [
        ("text", b"not a database, but long enough to be one".repeat(1000)),
        ("short", b"DUCK".to_vec()),
        ("zeros", vec![0; 1 << 20]),
    ] {
        let data = place.path(name);
        std::fs::write(&data, &content).expect("written");
        let files = Files::Dated { data };
        let error = Store::open(Arc::clone(&place.engine), schema(Model::Dated, &[]), files).expect_err(name);
        assert!(matches!(error, DuckError::Open { .. }), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    drop(place.dated());
    let path = place.path("data.duckdb");
    let mut bytes = std::fs::read(&path).expect("read");
    for byte in &mut bytes[4096..12288] {
        *byte ^= 0x55;
    }
    std::fs::write(&path, bytes).expect("written");
    assert!(matches!(place.dated_with(&[]), Err(DuckError::Open { .. })));
}

#[test]
fn a_file_with_other_tables_is_refused() {
    let place = Place::new();
    let make = |path: &Path, sql: &str| {
        let conn = duckdb::Connection::open(path).expect("a database");
        conn.execute_batch(sql).expect(sql);
    };
    let path = place.path("data.duckdb");
    for sql in [
        "CREATE TABLE storage (key VARCHAR)",
        "CREATE TABLE fastpersist_state (format INTEGER, flushed_seq UBIGINT)",
    ] {
        make(&path, sql);
        assert!(matches!(place.dated_with(&[]), Err(DuckError::Foreign { .. })), "{sql}");
        std::fs::remove_file(&path).expect("removed");
    }
    place.dated().close().expect("closed");
    make(&path, "UPDATE fastpersist_state SET format = 2");
    let error = place.dated_with(&[]).expect_err("a later format").to_string();
    assert!(error.contains("format is 2"), "{error}");
    make(&path, "DELETE FROM fastpersist_state");
    assert!(matches!(place.dated_with(&[]), Err(DuckError::Foreign { .. })));
}

#[test]
fn half_a_collection_is_refused_only_where_something_would_be_lost() {
    for gone in ["latest.duckdb", "history.duckdb"] {
        let place = Place::new();
        place.collection().close().expect("closed");
        std::fs::remove_file(place.path(gone)).expect("removed");
        let store = place.collection();
        let batch = history(vec![record("k", item("", ""), Some("{}"), 1)]);
        store.flush(&batch).expect("a flush");
        store.close().expect("closed");
        std::fs::remove_file(place.path(gone)).expect("removed");
        let error = place.try_collection().expect_err("half a collection");
        assert!(matches!(error, DuckError::Missing { .. }), "{error}");
        assert!(error.to_string().contains(gone), "{error}");
        assert!(!place.path(gone).exists(), "a refused file was not there before");
    }
}

#[test]
fn many_stores_share_one_engine() {
    let place = Place::new();
    let stores: Vec<_> = (0..10)
        .map(|day| {
            let data = place.path(&format!("{day}.duckdb"));
            Store::open(Arc::clone(&place.engine), schema(Model::Dated, &[]), Files::Dated { data })
                .expect("a store")
        })
        .collect();
    std::thread::scope(|scope| {
        for (store, day) in stores.iter().zip(0u64..) {
            scope.spawn(move || {
                for round in 1..=20 {
                    let data = format!(r#"{{"day":{day}}}"#);
                    store.flush(&latest(vec![write("k", None, Some(&data), round)])).expect("a flush");
                    store.checkpoint().expect("a checkpoint");
                }
            });
        }
    });
    for (store, day) in stores.iter().zip(0u64..) {
        let found = lines(store, "SELECT data::VARCHAR, version, seq FROM $t");
        assert_eq!(found, [format!(r#"{{"day":{day}}}|20|20"#)]);
    }
}
