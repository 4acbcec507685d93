//! How many dates are open.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::closing::Closing;
use super::*;
use crate::storage::backups::tests::Place;
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
    drop(not_yet);
    assert_eq!(removing.join().expect("no panic").expect("removed"), 1);
    assert!(!segment.exists());
    let opened = dated(&storage).partition(date).await.expect("opened");
    assert_eq!(opened.appended_seq(), 5);
    drop(opened);
    storage.close().await.expect("closed");
}
