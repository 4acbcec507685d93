//! Where records came from: two columns at the very end, which come and go with the key.

use super::*;
use crate::duck::backup::truncate_collection;
use crate::storage::record::Writer;

const NAMES: &str = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_index) \
     FROM duckdb_columns() WHERE NOT internal AND column_index > 10 AND table_name = ";

fn with_writers(model: Model, extra: &[(&str, &str)]) -> Arc<Schema> {
    Arc::new(Schema { record_writer: true, ..Schema::clone(&schema(model, extra)) })
}

fn by(uid: u32, unit: Option<&'static str>, record: &Record) -> Record {
    Record::new(&Columns { writer: Some(Writer { uid, pid: Some(9), unit }), ..record.columns() })
}

fn collection(place: &Place, schema: &Arc<Schema>) -> Store {
    Store::open(Arc::clone(&place.engine), Arc::clone(schema), place.collection_files()).expect("a store")
}

/// Writes by two, and a deletion by one of them.
fn three() -> Vec<Record> {
    let put = |key: &str, data, seq| record(key, item("c", "i"), data, seq);
    vec![
        by(1000, Some("a.service"), &put("a", Some("{}"), 1)),
        by(0, None, &put("b", Some("{}"), 2)),
        by(u32::MAX, Some("b.scope"), &put("a", None, 3)),
        by(7, Some("c.service"), &put("a", Some("{}"), 4)),
    ]
}

const HISTORY: &str = "SELECT seq, writer_uid, writer_unit FROM $h ORDER BY seq";
const LATEST: &str = "SELECT key, writer_uid::BIGINT, writer_unit FROM $t ORDER BY key";

/// `lines` has no name for DuckDB's type UINTEGER.
fn history_lines(store: &Store) -> Vec<String> {
    lines(store, &HISTORY.replace("writer_uid", "writer_uid::BIGINT"))
}

#[test]
fn the_columns_stand_behind_all_others_in_every_table() {
    let place = Place::new();
    let extra = [("n", "int64")];
    let files = place.dated_files();
    let dated =
        Store::open(Arc::clone(&place.engine), with_writers(Model::Dated, &extra), files).expect("a store");
    let ends = lines(&dated, &format!("{NAMES} 'storage'"));
    assert_eq!(ends, ["n BIGINT, writer_uid UINTEGER, writer_unit VARCHAR"]);
    let other = Place::new();
    let store = collection(&other, &with_writers(Model::Collection, &extra));
    for table in ["storage_history", "storage_latest"] {
        let ends = lines(&store, &format!("{NAMES} '{table}'"));
        assert!(ends[0].ends_with(", n BIGINT, writer_uid UINTEGER, writer_unit VARCHAR"), "{ends:?}");
    }
}

#[test]
fn they_come_when_the_key_is_switched_on_and_stay_when_it_is_switched_off() {
    let place = Place::new();
    let (with, without) = (with_writers(Model::Dated, &[]), schema(Model::Dated, &[]));
    let open = |schema: &Arc<Schema>| {
        Store::open(Arc::clone(&place.engine), Arc::clone(schema), place.dated_files()).expect("a store")
    };
    let row = |key: &str, seq, uid| {
        let mut row = write(key, None, Some("{}"), seq);
        row.record = by(uid, Some("x.service"), &row.record);
        row
    };
    // A log may tell writers that the storage does not ask for any more.
    for (schema, key, seq) in [(&without, "a", 1), (&with, "b", 2), (&without, "c", 3), (&with, "d", 4)] {
        let store = open(schema);
        store.flush(&latest(vec![row(key, seq, seq as u32)])).expect("a flush");
    }
    assert_eq!(lines(&open(&with), LATEST), ["a|NULL|NULL", "b|2|x.service", "c|NULL|NULL", "d|4|x.service"]);
}

#[test]
fn an_extra_column_of_another_type_is_in_the_way() {
    let place = Place::new();
    drop(place.dated_with(&[("writer_uid", "string")]).expect("a store"));
    let opened = Store::open(Arc::clone(&place.engine), with_writers(Model::Dated, &[]), place.dated_files());
    let text = opened.expect_err("another type").to_string();
    assert!(text.contains("\"writer_uid\"") && text.contains("record_writer = false"), "{text}");
}

#[test]
fn a_record_without_a_writer_has_null_in_them() {
    let place = Place::new();
    let store = collection(&place, &with_writers(Model::Collection, &[]));
    let mut records = three();
    records.push(record("z", item("c", "i"), Some("{}"), 5));
    store.flush(&history(records)).expect("a flush");
    let expected = ["1|1000|a.service", "2|0|NULL", "3|4294967295|b.scope", "4|7|c.service", "5|NULL|NULL"];
    assert_eq!(history_lines(&store), expected);
    assert_eq!(lines(&store, LATEST), ["a|7|c.service", "b|0|NULL", "z|NULL|NULL"]);
}

#[test]
fn tables_that_are_made_anew_keep_them() {
    let place = Place::new();
    let with = with_writers(Model::Collection, &[]);
    let store = collection(&place, &with);
    store.flush(&history(three())).expect("a flush");
    let (history_before, latest_before) = (history_lines(&store), lines(&store, LATEST));
    meddle(&store, "UPDATE $t SET writer_uid = 1, writer_unit = NULL");
    store.rebuild_latest().expect("rebuilt");
    assert_eq!(lines(&store, LATEST), latest_before);

    // Rows that the history lost come back from the log.
    let history_sql = store.shared().history.as_ref().expect("a history").sql();
    meddle(&store, &format!("DELETE FROM {history_sql} WHERE seq IN (1, 3)"));
    let mut left = Some(three());
    store.fill_history(&mut || Ok::<_, DuckError>(left.take())).expect("filled in");
    assert_eq!(history_lines(&store), history_before);
    store.close().expect("closed");

    // Each file from the other one.
    for (what, source, target) in [
        (Derive::LatestFromHistory, "history.duckdb", "latest.duckdb"),
        (Derive::HistoryFromLatest, "latest.duckdb", "history.duckdb"),
    ] {
        std::fs::remove_file(place.path(target)).expect("removed");
        derive(&place.engine, &with, what, [&place.path(source), &place.path(target)], &[]).expect(target);
    }
    let store = collection(&place, &with);
    assert_eq!(lines(&store, LATEST), latest_before);
    assert_eq!(history_lines(&store), ["2|0|NULL", "4|7|c.service"]);
}

#[test]
fn a_copy_has_them_also_when_it_is_cut_back() {
    let place = Place::new();
    let with = with_writers(Model::Collection, &[]);
    let store = collection(&place, &with);
    store.flush(&history(three())).expect("a flush");
    let copies = [place.path("history.copy"), place.path("latest.copy")];
    store.snapshot(&copies).expect("a snapshot").copy().expect("copies");
    truncate_collection(&place.engine, &with, [&copies[0], &copies[1]], 2).expect("cut back");
    let files = Files::Collection { history: copies[0].clone(), latest: copies[1].clone() };
    let copy = Store::open(Arc::clone(&place.engine), with, files).expect("a store");
    assert_eq!(history_lines(&copy), ["1|1000|a.service", "2|0|NULL"]);
    assert_eq!(lines(&copy, LATEST), ["a|1000|a.service", "b|0|NULL"]);
}
