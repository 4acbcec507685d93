//! How many dates are open.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::closing::Closing;
use super::*;
use crate::disk::{Disk, RealDisk};
use crate::storage::backups::tests::Place;
use crate::storage::health::ProblemKind;
use crate::storage::{Kind, Storage};
use crate::wal::failing::FailingDisk;

const MAX: usize = 2;

fn dated(storage: &Storage) -> &Dated {
    match &storage.kind {
        Kind::Dated(dated) => dated,
        Kind::Collection(_) => panic!("a dated storage"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn no_more_dates_are_open_than_may_be_however_many_are_opened_at_once() {
    let mut place = Place::new("dated");
    place.config.limits.max_open_dates = MAX;
    place.config.limits.busy_wait = Duration::from_secs(60);
    let dates: Vec<_> =
        (1..=8).map(|day| Date::parse(&format!("2025-01-{day:02}")).expect("a date")).collect();
    for date in &dates {
        place.fill(place.date(&date.to_string()), 5);
    }
    let storage = Arc::new(place.open());
    let opening: Vec<_> = dates
        .iter()
        .map(|date| {
            let (storage, date) = (Arc::clone(&storage), *date);
            tokio::spawn(async move {
                let partition = dated(&storage).partition(date).await.expect("opened");
                // As it is right after an opening: everyone who found room at once is here.
                (partition.date(), dated(&storage).open.lock().len())
            })
        })
        .collect();
    for (opened, date) in opening.into_iter().zip(&dates) {
        let (found, open) = opened.await.expect("no panic");
        assert_eq!(found, Some(*date));
        assert!(open <= MAX, "{open} dates are open");
    }
    let open = dated(&storage).open.lock().len();
    assert!(open <= MAX, "{open} dates are open");
    assert_eq!(dated(&storage).between.load(Ordering::Relaxed), 0);
    // A date that is closed leaves nothing behind.
    let begun = Instant::now();
    while dated(&storage).slots.lock().len() > MAX {
        assert!(begun.elapsed() < Duration::from_secs(10), "slots stay");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    storage.close().await.expect("closed");
}

/// A query gives up waiting when its time is over, also while it waits for another date to close. The half-closed
/// date was found open after that, without its database: a query saw none of its records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_date_that_nobody_waits_for_any_more_is_closed_to_the_end() {
    let place = Place::new("dated");
    let date = Date::parse("2025-01-15").expect("a date");
    place.fill(place.date("2025-01-15"), 5);
    let storage = place.open();
    let dated = dated(&storage);
    for round in 0..20 {
        drop(dated.partition(date).await.expect("opened"));
        let mut closing = Box::pin(dated.close_if_unused(date, Duration::ZERO));
        let begun = Instant::now();
        while dated.is_open(date) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not begin to close");
            let polled = tokio::time::timeout(Duration::from_micros(10), &mut closing).await;
            if let Ok(Closing::InUse) = polled {
                // Its keeper looks at it now and then.
                closing = Box::pin(dated.close_if_unused(date, Duration::ZERO));
            }
        }
        drop(closing);
        let again = dated.partition(date).await.expect("opened again");
        assert!(again.duck_store().is_some(), "round {round}: it is open without its database");
        assert_eq!(again.appended_seq(), 5);
    }
    storage.close().await.expect("closed");
}

/// Retention took the segments of a closed date away while an export opened it, which then found one of them gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_date_is_not_opened_while_its_old_segments_go() {
    let mut place = Place::new("dated");
    place.config.storages[0].wal_retain = Duration::ZERO;
    place.fill(place.date("2025-01-15"), 5);
    let date = Date::parse("2025-01-15").expect("a date");
    let directory = place.config.storages[0].base_dir.join("2025-01-15");
    let segment = directory.join(segment::file_name(1));
    std::fs::write(&segment, "of an earlier run").expect("written");
    let old = std::fs::File::options().append(true).open(&segment).expect("opened");
    old.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(86_400)).expect("set");
    std::fs::write(directory.join(SETTLED_FILE), "5\n").expect("written");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let storage = Arc::new(place.open_on(Arc::new(disk)));
    let not_yet = failures.no_remove_yet.lock();
    let removing = Arc::clone(&storage);
    let removing = std::thread::spawn(move || dated(&removing).remove_old_segments());
    let is_held = || dated(&storage).slots.lock().get(&date).is_some_and(|slot| slot.try_lock().is_err());
    let begun = Instant::now();
    while !is_held() {
        assert!(begun.elapsed() < Duration::from_secs(10), "whoever comes could open it");
        std::thread::yield_now();
    }
    assert!(segment.exists());
    // A health check waits for it. It told that the date was opened and closed all the time.
    let checked = Arc::clone(&storage);
    let checking = tokio::spawn(async move { checked.check_health(false, &[]).await });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(20) && !checking.is_finished() {
        std::thread::yield_now();
    }
    drop(not_yet);
    let report = checking.await.expect("no panic");
    assert!(report.problems.iter().all(|one| one.kind != ProblemKind::FileInUse), "{report:?}");
    assert_eq!(removing.join().expect("no panic").expect("removed"), 1);
    assert!(!segment.exists());
    let opened = dated(&storage).partition(date).await.expect("opened");
    assert_eq!(opened.appended_seq(), 5);
    drop(opened);
    storage.close().await.expect("closed");
}

/// Where the database file of a closed date was gone, and no backup was taken, the log was all that the date had; and
/// retention took it when it was old enough. It did so too where the note told no record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_closed_date_goes_from_the_front_and_only_where_the_database_has_it() {
    const DAY: Duration = Duration::from_secs(86_400);
    for (note, has_database, ages_days, expected) in [
        ("5\n", true, [9, 9], 2),
        ("5\n", true, [9, 0], 1),
        // The first one is young: it may be the one that was written last.
        ("5\n", true, [0, 9], 0),
        ("5\n", false, [9, 9], 0),
        // Another state of the file was put in its place, and the log is all that has the rest.
        ("9\n", true, [9, 9], 0),
        ("x", true, [9, 9], 0),
    ] {
        let mut place = Place::new("dated");
        place.config.storages[0].wal_retain = DAY;
        place.config.storages[0].backup = false;
        place.fill(place.date("2025-01-15"), 5);
        let directory = place.config.storages[0].base_dir.join("2025-01-15");
        std::fs::write(directory.join(SETTLED_FILE), note).expect("written");
        let storage = place.open();
        let now = dated(&storage).shared.clock.system_time();
        for (number, age_days) in (1..).zip(ages_days) {
            let segment = directory.join(segment::file_name(number));
            std::fs::write(&segment, "of an earlier run").expect("written");
            let file = std::fs::File::options().append(true).open(&segment).expect("opened");
            file.set_modified(now - age_days * DAY).expect("set");
        }
        if !has_database {
            std::fs::remove_file(directory.join("data.duckdb")).expect("removed");
        }
        let removed = dated(&storage).remove_old_segments().expect("looked at");
        let names = RealDisk.list(&directory).expect("listed");
        let left = names.iter().filter(|name| segment::number_of(name).is_some()).count();
        assert_eq!(
            (removed, left),
            (expected, 2 - expected as usize),
            "{note:?} {has_database} {ages_days:?}"
        );
    }
}

/// A database file from before, as a mount that was away for a while brings it back: the notes tell that there were more
/// records. It passed for all that there was, and their places were given again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_ends_before_its_notes_is_not_taken_for_all_that_there_was() {
    let date = Date::parse("2025-01-15").expect("a date");
    for note in [SETTLED_FILE, "log_removed_through"] {
        let place = Place::new("dated");
        place.fill(place.date("2025-01-15"), 5);
        let note = place.config.storages[0].base_dir.join("2025-01-15").join(note);
        std::fs::write(&note, "9\n").expect("written");
        let storage = place.open();
        // The second time, too.
        for _ in 0..2 {
            let error = dated(&storage).partition(date).await.expect_err("records 6 to 9 are missing");
            let told = error.to_string();
            assert!(told.contains("complete up to record 5, and there were 9"), "{told}");
            assert!(told.contains("fastpersist repair"), "{told}");
        }
        std::fs::write(&note, "5\n").expect("written");
        let opened = dated(&storage).partition(date).await.expect("opened");
        assert_eq!(opened.appended_seq(), 5);
        drop(opened);
        storage.close().await.expect("closed");
    }
}
