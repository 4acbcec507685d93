//! What a group comes to that the log does not take.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastpersist_protocol::time::{Date, Timestamp};

use super::refuse_done;
use crate::storage::Kind;
use crate::storage::backups::tests::Place;
use crate::storage::record::{Columns, Names, Record};
use crate::wal::commit::{Producer, Refusal, Seqs, Submission, UnitResult};
use crate::wal::failing::FailingDisk;

fn add(
    submission: &mut Submission,
    key: &str,
    deleted: bool,
    if_seq: Option<u64>,
    producer_seq: Option<u64>,
) {
    submission.producer = producer_seq.map(|seq| Box::new(Producer { name: Arc::from("loader"), seq }));
    let record = Record::new(&Columns {
        key,
        names: Names::Dated { process_name: None },
        data: "{}",
        value: None,
        timestamp: None,
        status: None,
        status_int: None,
        username: None,
        updated_at: Timestamp::from_micros(0).expect("in range"),
        seq: 0,
        deleted,
        writer: None,
    });
    let first = submission.writes.len();
    submission.push(record, if_seq);
    submission.end_unit(first, false);
    submission.sync = true;
}

/// One conflicted with a store that was never made, a deletion went with its neighbours, and what had long been stored
/// was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_group_that_has_no_room_deletions_go_on_and_nothing_is_said_of_what_is_not_there() {
    let place = Place::new("dated");
    let disk = Arc::new(FailingDisk::default());
    let failures = Arc::clone(&disk.failures);
    let storage = place.open_on(disk);
    let Kind::Dated(dated) = &storage.kind else { panic!("a dated storage") };
    let partition = dated.partition(Date::parse("2025-01-15").expect("a date")).await.expect("opened");
    let mut first = Submission::default();
    add(&mut first, "old", false, None, Some(1));
    let one = |seq| UnitResult::Done(Seqs::One(Some(seq)));
    assert_eq!(partition.submit(first).await.expect("answered"), [one(1)]);

    let group = || {
        let mut group = Submission::default();
        add(&mut group, "new", false, Some(0), None);
        add(&mut group, "new", false, Some(0), None);
        add(&mut group, "old", false, Some(7), None);
        add(&mut group, "old", true, None, None);
        add(&mut group, "old", false, None, Some(1));
        group
    };
    let conflict =
        |if_seq, current_seq| UnitResult::Refused(Refusal::Conflict { if_seq, current_seq, index: 0 });
    let refused = || UnitResult::Refused(Refusal::DiskFull);
    let repeated = || UnitResult::Duplicate { seq: Some(1) };
    failures.writes.store(1, Ordering::SeqCst);
    let results = partition.submit(group()).await.expect("answered");
    assert_eq!(results, [refused(), refused(), refused(), one(2), repeated()]);

    // There is no room even for a deletion.
    failures.writes.store(2, Ordering::SeqCst);
    let mut none = Submission::default();
    add(&mut none, "newer", false, None, None);
    add(&mut none, "old", false, None, Some(1));
    assert_eq!(partition.submit(none).await.expect("answered"), [refused(), repeated()]);
    let results = vec![vec![one(3), repeated(), conflict(0, 2), conflict(0, 3), conflict(7, 0)]];
    let results = refuse_done(results, &Refusal::DiskFull, 3);
    assert_eq!(results, [[refused(), repeated(), conflict(0, 2), refused(), refused()]]);
    failures.writes.store(0, Ordering::SeqCst);

    // And when there is room again, places go on where they were, and the condition finds what there is.
    let begun = std::time::Instant::now();
    let results = loop {
        let results = partition.submit(group()).await.expect("answered");
        if results[0] != refused() {
            break results;
        }
        assert!(begun.elapsed().as_secs() < 10, "it does not go on");
    };
    let nothing = UnitResult::Done(Seqs::One(None));
    assert_eq!(results, [one(3), conflict(0, 3), conflict(7, 0), nothing, repeated()]);
    drop(partition);
    storage.close().await.expect("closed");
}
