//! Files that a transaction holds although they were detached.

use std::sync::mpsc;

use super::*;

/// A transaction that takes part in every file that is attached now.
const LOOK_AROUND: &str = "BEGIN TRANSACTION; SELECT count(*) FROM duckdb_columns()";

#[test]
fn a_file_that_a_transaction_still_holds_is_waited_for() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&latest(vec![write("a", None, Some("{}"), 1)])).expect("a flush");
    let other = place.engine.connect().expect("a connection");
    other.execute_batch(LOOK_AROUND).expect("a look");
    drop(store);
    let at_once = || place.engine.try_attach(&place.path("data.duckdb"), &place.engine.new_alias(), "");
    let error = at_once().expect_err("held");
    assert!(error.is_in_use() && error.is_held() && !error.is_damage(), "{error}");
    assert!(!error.to_string().contains("aside"), "{error}");
    std::thread::scope(|scope| {
        let (began, begins) = mpsc::channel();
        let place = &place;
        let opening = scope.spawn(move || {
            began.send(()).expect("nobody waits");
            place.dated_with(&[]).map(|store| store.row_count())
        });
        begins.recv().expect("the thread died");
        // Still held: whoever began to open it waits.
        at_once().expect_err("held");
        other.execute_batch("ROLLBACK").expect("over");
        assert_eq!(opening.join().expect("no panic").expect("opened"), 1);
    });
}

#[test]
fn a_file_that_stays_held_is_in_use_in_the_end() {
    let place = Place::new();
    let store = place.dated();
    let other = place.engine.connect().expect("a connection");
    other.execute_batch(LOOK_AROUND).expect("a look");
    drop(store);
    let error = place.dated_with(&[]).map(drop).expect_err("held");
    assert!(error.is_in_use(), "{error}");
    other.execute_batch("ROLLBACK").expect("over");
    place.dated_with(&[]).expect("opened");
}

#[test]
fn other_files_open_and_close_while_tables_are_made_anew_or_filled() {
    let place = Place::new();
    let collection = place.collection();
    let first = record("k", item("c", "i"), Some("{}"), 1);
    collection.flush(&history(vec![first.clone()])).expect("a flush");
    let file = place.path("data.duckdb");
    let reopen = || {
        let alias = place.engine.new_alias();
        place.engine.detach(&file, "other").expect("detached");
        place.engine.try_attach(&file, &alias, "").expect("not held");
        place.engine.detach(&file, &alias).expect("detached");
        place.engine.try_attach(&file, "other", "").expect("not held");
    };
    place.dated().close().expect("closed");
    place.engine.try_attach(&file, "other", "").expect("attached");
    let mut looks = 0;
    collection
        .rebuild_latest_and(&mut || {
            reopen();
            looks += 1;
        })
        .expect("rebuilt");
    let mut batches = vec![vec![first]];
    let mut next = || {
        reopen();
        looks += 1;
        Ok::<_, DuckError>(batches.pop())
    };
    collection.fill_history(&mut next).expect("filled");
    assert_eq!(looks, 3);
}
