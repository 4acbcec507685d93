//! A flush that DuckDB has no memory for goes on in halves, also where the second does not go; and nothing is checkpointed
//! where there is no room.

use std::fmt::Write as _;
use std::sync::Arc;

use fastpersist_protocol::time::{Date, Timestamp};

use super::*;
use crate::duck::tests::lines;
use crate::storage::Kind;
use crate::storage::backups::tests::Place;
use crate::storage::record::{Columns, Names, Record};
use crate::wal::commit::Submission;
use crate::wal::failing::FailingDisk;

/// More than all the memory that DuckDB has in these tests.
const TOO_LARGE_BYTES: usize = 160 << 20;

/// So many documents of three megabytes are more, too.
const LARGE: u64 = 60;

/// A text that does not get smaller.
fn text(bytes: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(bytes + 16);
    text.push('"');
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let _ = write!(text, "{state:016x}");
    }
    text.push('"');
    text
}

async fn write(partition: &Arc<Partition>, key: &str, names: Names<'_>, data: Option<&str>) {
    let record = Record::new(&Columns {
        key,
        names,
        data: data.unwrap_or("null"),
        value: None,
        timestamp: None,
        status: None,
        status_int: None,
        username: None,
        updated_at: Timestamp::EPOCH,
        seq: 0,
        deleted: data.is_none(),
        writer: None,
    });
    let mut submission = Submission::default();
    submission.push(record, None);
    submission.end_unit(0, false);
    submission.sync = true;
    partition.submit(submission).await.expect("answered");
}

/// What the first half had brought was taken for not flushed, and counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_flush_whose_second_half_fails_the_first_is_known_to_be_flushed() {
    let place = Place::new("dated");
    let files = place.date("2025-01-15");
    let storage = place.open();
    let Kind::Dated(dated) = &storage.kind else { panic!("a dated storage") };
    let partition = dated.partition(Date::parse("2025-01-15").expect("a date")).await.expect("opened");
    let names = || Names::Dated { process_name: None };
    for key in ["a", "b", "c"] {
        write(&partition, key, names(), Some("1")).await;
    }
    write(&partition, "large", names(), Some(&text(TOO_LARGE_BYTES, 1))).await;
    let error = partition.flush_in_background().await.expect_err("there is no memory for it");
    assert!(matches!(&error, FlushError::Duck(error) if query::is_out_of_memory(error)), "{error}");
    let store = partition.store().expect("open");
    assert_eq!((store.flushed_seq(), store.row_count()), (3, 3), "the first half is in DuckDB");
    drop(store);
    write(&partition, "a", names(), Some("2")).await;
    write(&partition, "b", names(), None).await;
    write(&partition, "large", names(), None).await;
    partition.flush_in_background().await.expect("now there is room");
    drop(partition);
    storage.close().await.expect("closed");
    drop(storage);
    let schema = Arc::new(place.config.storages[0].schema.clone());
    let store = Store::open(Arc::clone(&place.engine), schema, files).expect("it opens");
    assert_eq!((store.flushed_seq(), store.row_count()), (7, 2));
    let rows = lines(&store, "SELECT key, data, version, seq FROM $t ORDER BY key");
    assert_eq!(rows, ["a|2|2|5", "c|1|1|3"]);
}

/// What was known of an address before the flush is no longer true for its second half.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_in_both_halves_has_one_latest_value() {
    let place = Place::new("collection");
    let storage = place.open();
    let Kind::Collection(collection) = &storage.kind else { panic!("a collection storage") };
    let partition = Arc::clone(collection.partition());
    let names = || Names::Collection { collection_name: "c", item_name: "i" };
    write(&partition, "both", names(), Some("1")).await;
    for n in 0..LARGE {
        write(&partition, &format!("large{n}"), names(), Some(&text(3 << 20, n + 1))).await;
    }
    write(&partition, "both", names(), Some("2")).await;
    partition.flush_in_background().await.expect("in halves");
    drop(partition);
    storage.close().await.expect("closed");
    drop(storage);
    let schema = Arc::new(place.config.storages[0].schema.clone());
    let store = Store::open(Arc::clone(&place.engine), schema, place.collection()).expect("it opens");
    assert_eq!((store.flushed_seq(), store.row_count()), (LARGE + 2, LARGE + 1));
    let both = lines(&store, "SELECT data, version, seq FROM $t WHERE key = 'both'");
    assert_eq!(both, [format!("2|2|{}", LARGE + 2)]);
}

/// A checkpoint on a full disk can lose rows. The one for which segments wait, and the one at the end, were made all the
/// same, and then the segments went.
#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_is_checkpointed_and_the_log_stays() {
    let mut place = Place::new("dated");
    place.config.storages[0].wal_retain = Duration::ZERO;
    place.config.storages[0].backup = false;
    let date = Date::parse("2025-01-15").expect("a date");
    let directory = place.config.storages[0].base_dir.join("2025-01-15");
    let segments = || {
        let names =
            std::fs::read_dir(&directory).expect("listed").map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| crate::wal::segment::number_of(&name.to_string_lossy()).is_some()).count()
    };
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let storage = place.open_on(Arc::new(disk));
    let Kind::Dated(dated) = &storage.kind else { panic!("a dated storage") };
    let partition = dated.partition(date).await.expect("opened");
    write(&partition, "a", Names::Dated { process_name: None }, Some("{}")).await;
    partition.flush_in_background().await.expect("a flush");
    *failures.free_bytes.lock() = Some(1 << 20);
    tokio::task::block_in_place(|| partition.tidy()).expect("sealed");
    let store = partition.store().expect("open");
    assert!(store.wal_bytes() > 0 && segments() == 1);
    drop((store, partition));
    storage.close().await.expect("closed");
    drop(storage);
    assert_eq!(segments(), 1, "what is not checkpointed stays");
    assert!(!directory.join("settled").exists(), "the next start has something to do");
    let storage = place.open();
    let Kind::Dated(dated) = &storage.kind else { panic!("a dated storage") };
    let partition = dated.partition(date).await.expect("opened");
    assert_eq!(partition.appended_seq(), 1);
    // No checkpoint is made while memory is being filled.
    let begun = Instant::now();
    while !partition.gauges().complete {
        assert!(begun.elapsed() < Duration::from_secs(10), "memory is not filled");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(partition);
    storage.close().await.expect("closed");
    assert_eq!(segments(), 0, "with room it goes");
    assert!(directory.join("settled").exists());
}
