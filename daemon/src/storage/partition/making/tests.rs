//! What a kill in the middle of the first flush leaves, and what becomes of it.

use std::fs;

use fastpersist_protocol::time::Date;

use super::*;
use crate::disk::RealDisk;
use crate::storage::backups::tests::Place;
use crate::storage::partition::Partition;
use crate::storage::{Kind, Storage};
use crate::wal::commit::Submission;

async fn partition(storage: &Storage) -> Arc<Partition> {
    match &storage.kind {
        Kind::Dated(dated) => {
            dated.partition(Date::parse("2025-01-15").expect("a date")).await.expect("opened")
        }
        Kind::Collection(collection) => Arc::clone(collection.partition()),
    }
}

/// Stores one record, and closes the storage, which brings it into the files.
async fn store_and_close(place: &Place, model: &str) {
    let storage = place.open();
    let partition = partition(&storage).await;
    let mut submission = Submission::default();
    let first = submission.writes.len();
    submission.push(crate::storage::backups::tests::record(1, model == "dated"), None);
    submission.end_unit(first, false);
    submission.sync = true;
    partition.submit(submission).await.expect("answered");
    drop(partition);
    storage.close().await.expect("closed");
}

fn files_of(place: &Place, model: &str) -> Files {
    if model == "dated" { place.date("2025-01-15") } else { place.collection() }
}

fn make_now(place: &Place, files: &Files) {
    let schema = Arc::new(place.config.storages[0].schema.clone());
    make(&RealDisk, &place.engine, &schema, files).expect("made");
}

/// The files have the one record, and nothing else tells of databases.
fn check(place: &Place, files: &Files) {
    let schema = Arc::new(place.config.storages[0].schema.clone());
    let store = Store::open(Arc::clone(&place.engine), schema, files.clone()).expect("it opens");
    assert_eq!((store.flushed_seq(), store.row_count()), (1, 1));
    store.close().expect("closed");
    for file in files.paths() {
        let names = RealDisk.list(disk::parent_of(file)).expect("listed");
        let databases = names.iter().filter(|name| name.contains(".duckdb"));
        assert_eq!(databases.count(), files.paths().count(), "{names:?}");
    }
}

/// Found by `kill_at_calls`: a file with one of DuckDB's three headers was set aside as damaged.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_first_flush_that_was_killed_nothing_is_left() {
    for model in ["dated", "collection"] {
        let place = Place::new(model);
        let files = files_of(&place, model);
        make_now(&place, &files);
        for file in files.paths() {
            let bytes = fs::read(file).expect("read");
            fs::remove_file(file).expect("removed");
            fs::write(new_name(file), &bytes[..4096]).expect("written");
            fs::write(format!("{}.wal", new_name(file).display()), "half").expect("written");
        }
        store_and_close(&place, model).await;
        check(&place, &files);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_was_killed_between_its_two_names_has_both_afterwards() {
    for starts in [true, false] {
        let place = Place::new("collection");
        let files = place.collection();
        make_now(&place, &files);
        let latest = files.paths().last().expect("two files").to_owned();
        let before = fs::read(&latest).expect("read");
        fs::rename(&latest, new_name(&latest)).expect("renamed");
        if starts {
            finish(&RealDisk, &files).expect("finished");
        } else {
            // The flush that comes after one that failed there.
            make_now(&place, &files);
        }
        assert_eq!(fs::read(&latest).expect("there"), before, "the file that was waiting");
        store_and_close(&place, "collection").await;
        check(&place, &files);
    }
}

/// A file that is there is never replaced by a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_beside_a_database_only_goes() {
    let place = Place::new("dated");
    let files = files_of(&place, "dated");
    store_and_close(&place, "dated").await;
    let file = files.paths().next().expect("a file");
    let before = fs::read(file).expect("read");
    for starts in [true, false] {
        fs::write(new_name(file), "of long ago").expect("written");
        if starts {
            finish(&RealDisk, &files).expect("finished");
        } else {
            make_now(&place, &files);
        }
        assert_eq!(fs::read(file).expect("read"), before);
        check(&place, &files);
    }
}

/// Another partition that looks for its columns takes part in every file that is attached: the checkpoint of a new file
/// was refused, and a storage did not close. Found by `power`, with the file that DuckDB wrote behind everybody's back.
#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_whole_while_others_look_for_columns() {
    let place = Place::new("dated");
    let schema = Arc::new(place.config.storages[0].schema.clone());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for date in ["2024-12-01", "2024-12-02"] {
            let (files, schema, place, stop) = (place.date(date), &schema, &place, &stop);
            scope.spawn(move || {
                make_now(place, &files);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let store = Store::open(Arc::clone(&place.engine), Arc::clone(schema), files.clone());
                    store.and_then(|store| store.close()).ok();
                }
            });
        }
        for day in 1..=31 {
            let files = place.date(&format!("2025-01-{day:02}"));
            make_now(&place, &files);
            let store = Store::open(Arc::clone(&place.engine), Arc::clone(&schema), files).expect("it opens");
            assert_eq!((store.flushed_seq(), store.row_count()), (0, 0));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
