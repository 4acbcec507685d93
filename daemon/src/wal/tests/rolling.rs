//! When a segment is sealed, what the log says of its segments, and when they go.

use super::*;
use crate::clock::simulated::SimulatedClock;
use crate::wal::failing::Failures;

const HOUR: Duration = Duration::from_secs(3600);

/// A log on a clock and a disk that a test moves and fails.
struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<SimulatedClock>,
    failures: Arc<Failures>,
    wal: Wal,
    seq: u64,
}

impl Bench {
    fn new(is_daily: bool, max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().to_owned();
        let place = if is_daily { Place::Daily(base) } else { Place::Fixed(base) };
        let disk = FailingDisk::default();
        let failures = Arc::clone(&disk.failures);
        let clock = Arc::new(SimulatedClock::new(Timestamp::parse("2025-01-15T10:00:00Z").expect("a time")));
        let limits = SegmentLimits { max_bytes, max_age: HOUR };
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let wal = Wal::new(Arc::new(disk), shared, place, limits, Arc::default(), Vec::new());
        Self { dir, clock, failures, wal, seq: 0 }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn append_on(&mut self, lines: &[u8], day: &str) -> Result<(), WalError> {
        self.seq += 1;
        self.wal.append(lines, self.seq, 1, Date::parse(day).expect("a date"))
    }

    /// A group of one record and ten bytes.
    fn append(&mut self) {
        self.append_on(b"123456789\n", "2025-01-15").expect("appended");
    }

    /// The segments below the log's directory, and the bytes of their lines.
    fn segments(&self) -> Vec<(String, u64)> {
        let below = |path: &Path| path.strip_prefix(self.dir.path()).expect("below").display().to_string();
        self.wal.segments().iter().map(|(path, bytes)| (below(path), *bytes)).collect()
    }

    fn files(&self) -> Vec<String> {
        RealDisk.list(self.dir.path()).expect("listed")
    }

    /// Waits until a spare is ready or has failed.
    fn settle(&mut self) {
        let begun = Instant::now();
        while self.wal.spare.is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the spare does not end");
            self.wal.poll_spare();
            std::thread::yield_now();
        }
    }
}

fn named(segments: &[(&str, u64)]) -> Vec<(String, u64)> {
    segments.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
}

#[test]
fn a_segment_is_sealed_when_it_is_as_large_as_it_may_be() {
    let mut bench = Bench::new(false, 20);
    assert!(bench.segments().is_empty());
    assert_eq!(bench.wal.last_seq(), 0);
    for _ in 0..5 {
        bench.append();
    }
    let expected = [("wal_000001.jsonl", 20), ("wal_000002.jsonl", 20), ("wal_000003.jsonl", 10)];
    assert_eq!(bench.segments(), named(&expected));
    let gauges = bench.wal.gauges();
    assert_eq!((gauges.active_bytes, gauges.active_records, gauges.total_bytes), (10, 1, 50));
    assert_eq!((gauges.files_count, gauges.sequence), (3, 3));
    assert_eq!(bench.wal.last_seq(), 5);
    for (seq, segment) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let expected = bench.path(&segment::file_name(segment));
        assert_eq!(bench.wal.segment_of(seq), Some(expected), "{seq}");
    }
    assert_eq!(bench.wal.segment_of(6), None);
    bench.wal.seal().expect("sealed");
    let gauges = bench.wal.gauges();
    assert_eq!((gauges.active_bytes, gauges.active_records, gauges.files_count), (0, 0, 3));
    assert_eq!((bench.wal.last_seq(), gauges.total_bytes), (5, 50));
    assert_eq!(bench.wal.segment_of(5), Some(bench.path("wal_000003.jsonl")));
}

#[test]
fn a_segment_is_sealed_when_it_is_old_and_not_when_it_is_empty() {
    let mut bench = Bench::new(false, 1000);
    bench.wal.seal_if_old().expect("nothing to do");
    bench.append();
    bench.clock.advance(HOUR.checked_sub(Duration::from_secs(1)).expect("less"));
    bench.wal.seal_if_old().expect("not yet");
    assert_eq!(bench.wal.gauges().active_bytes, 10);
    bench.append();
    assert_eq!(bench.segments(), named(&[("wal_000001.jsonl", 20)]));
    bench.clock.advance(Duration::from_secs(1));
    bench.append();
    assert_eq!(bench.segments(), named(&[("wal_000001.jsonl", 20), ("wal_000002.jsonl", 10)]));
    bench.clock.advance(HOUR);
    bench.wal.seal_if_old().expect("sealed");
    assert_eq!(bench.wal.gauges().active_bytes, 0);
    assert!(bench.wal.active.is_none(), "the next write begins another");
    // It is sealed by the clock on the wall.
    let sealed_at = bench.wal.sealed.back().expect("sealed").sealed_at;
    assert_eq!(sealed_at, bench.clock.system_time());
}

#[test]
fn a_collection_begins_a_segment_each_day_and_a_date_does_not() {
    for is_daily in [true, false] {
        let mut bench = Bench::new(is_daily, 1000);
        for day in ["2025-01-15", "2025-01-15", "2025-01-16", "2025-01-15"] {
            bench.append_on(b"123456789\n", day).expect("appended");
        }
        let expected = if is_daily {
            // The clock went back, and the second one of that day is no other's.
            named(&[
                ("2025-01-15/wal_000001.jsonl", 20),
                ("2025-01-16/wal_000001.jsonl", 10),
                ("2025-01-15/wal_000002.jsonl", 10),
            ])
        } else {
            named(&[("wal_000001.jsonl", 40)])
        };
        assert_eq!(bench.segments(), expected);
    }
}

#[test]
fn numbers_go_on_behind_what_is_there() {
    let mut bench = Bench::new(false, 1);
    for name in ["wal_000007.jsonl", "wal_000003.jsonl", "torn-5-wal_000009.jsonl"] {
        std::fs::write(bench.path(name), "{}\n").expect("written");
    }
    bench.append();
    bench.append();
    assert_eq!(bench.segments(), named(&[("wal_000008.jsonl", 10), ("wal_000009.jsonl", 10)]));
}

#[test]
fn a_segment_that_got_nothing_is_removed() {
    let mut bench = Bench::new(true, 1000);
    bench.failures.writes.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Full(_))));
    let day = bench.path("2025-01-15");
    assert_eq!(RealDisk.list(&day).expect("listed"), ["wal_000001.jsonl"]);
    assert!(bench.segments().is_empty());
    assert_eq!(bench.wal.gauges().files_count, 0);
    bench.append_on(b"123456789\n", "2025-01-16").expect("appended");
    assert!(RealDisk.list(&day).expect("listed").is_empty());
    assert_eq!(bench.segments(), named(&[("2025-01-16/wal_000001.jsonl", 10)]));
}

#[test]
fn an_empty_segment_is_used_however_old_it_is() {
    let mut bench = Bench::new(false, 1000);
    bench.failures.writes.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Full(_))));
    bench.clock.advance(HOUR);
    bench.wal.seal_if_old().expect("nothing to do");
    assert_eq!(bench.files(), ["wal_000001.jsonl"]);
    bench.append();
    assert_eq!(bench.segments(), named(&[("wal_000001.jsonl", 10)]));
}

#[test]
fn only_what_is_written_is_synced_and_what_is_sealed_was() {
    let mut bench = Bench::new(false, 1000);
    bench.failures.syncs.store(1, Ordering::SeqCst);
    bench.wal.sync().expect("there is nothing to sync");
    bench.failures.syncs.store(0, Ordering::SeqCst);
    bench.append();
    bench.wal.sync().expect("synced");
    bench.failures.syncs.store(1, Ordering::SeqCst);
    bench.wal.sync().expect("it is synced already");
    bench.append();
    assert!(bench.wal.seal().is_err(), "its last bytes cannot be synced");
    assert!(bench.wal.latch.reason().is_some_and(|reason| reason.contains("wal_000001.jsonl")));
    assert_eq!(bench.wal.syncing().elapsed(), None);
}

#[test]
fn a_write_that_fails_in_part_closes_the_log_unless_the_disk_is_full() {
    let mut bench = Bench::new(false, 1000);
    bench.append();
    bench.failures.writes.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Full(_))));
    assert_eq!(bench.wal.latch.reason(), None);
    assert!(bench.wal.full_since.is_some());
    bench.append();
    bench.failures.writes.store(1, Ordering::SeqCst);
    bench.failures.truncates.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Failed(_))));
    assert!(bench.wal.latch.reason().is_some_and(|reason| reason.contains("a write to")));
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Failed(_))));
}

#[test]
fn a_write_that_fails_for_another_reason_is_final_though_it_was_taken_back() {
    let mut bench = Bench::new(false, 1000);
    bench.append();
    bench.failures.writes_broken.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Failed(_))));
    assert!(bench.wal.latch.reason().is_some_and(|reason| reason.contains("a write to")));
}

#[test]
fn while_it_is_synced_that_shows() {
    let mut bench = Bench::new(false, 1000);
    bench.append();
    let (mark, failures) = (bench.wal.syncing(), Arc::clone(&bench.failures));
    assert_eq!(mark.elapsed(), None);
    let held = failures.no_sync_yet.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| bench.wal.sync().expect("synced"));
        let begun = Instant::now();
        while mark.elapsed().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the sync does not show");
            std::thread::yield_now();
        }
        drop(held);
    });
    assert_eq!(mark.elapsed(), None);
}

#[test]
fn what_cannot_be_begun_for_now_may_be_tried_again() {
    let mut bench = Bench::new(false, 1000);
    bench.failures.creates.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Unavailable(_))));
    assert!(bench.wal.has_room(), "the disk is not full");
    bench.append();
    assert_eq!(bench.wal.latch.reason(), None);
}

#[test]
fn the_next_segment_is_prepared_when_this_one_is_half_full() {
    let max_bytes = 128 * 1024;
    let group = vec![b'x'; 32 * 1024];
    let mut bench = Bench::new(false, max_bytes);
    bench.append_on(&group, "2025-01-15").expect("appended");
    assert!(bench.wal.spare.is_none() && bench.wal.ready.is_none(), "there is time");
    bench.append_on(&group, "2025-01-15").expect("appended");
    bench.settle();
    assert!(bench.wal.ready.is_some());
    bench.append_on(&group, "2025-01-15").expect("appended");
    assert!(bench.wal.spare.is_none(), "one is enough");
    bench.append_on(&group, "2025-01-15").expect("appended");
    assert_eq!(bench.files(), ["wal_000001.jsonl", "wal_next.jsonl.tmp"]);
    bench.failures.creates.store(1, Ordering::SeqCst);
    bench.append_on(&group, "2025-01-15").expect("nothing is made any more");
    assert_eq!(bench.files(), ["wal_000001.jsonl", "wal_000002.jsonl"]);
    assert!(bench.wal.ready.is_none(), "it was used");
}

#[test]
fn closing_leaves_no_spare_behind() {
    let mut bench = Bench::new(false, 128 * 1024);
    bench.append_on(&vec![b'x'; 70 * 1024], "2025-01-15").expect("appended");
    bench.wal.close().expect("closed");
    assert_eq!(bench.files(), ["wal_000001.jsonl"]);
    assert_eq!(std::fs::metadata(bench.path("wal_000001.jsonl")).expect("there").len(), 70 * 1024);
}

#[test]
fn where_the_next_segment_has_no_room_stores_are_refused_and_what_is_left_is_used() {
    let mut bench = Bench::new(false, 128 * 1024);
    bench.append();
    assert!(bench.wal.has_room());
    bench.failures.preallocates_full.store(usize::MAX, Ordering::SeqCst);
    bench.append_on(&vec![b'x'; 70 * 1024], "2025-01-15").expect("there is room in this one");
    bench.settle();
    assert!(!bench.wal.has_room());
    bench.append();
    bench.settle();
    // It is tried again, and not all the time.
    let tries = || usize::MAX - bench.failures.preallocates_full.load(Ordering::SeqCst);
    let before = tries();
    assert!(!bench.wal.has_room());
    assert_eq!(tries(), before, "it is too early");
    bench.wal.full_since = Instant::now().checked_sub(FULL_RETRY);
    assert!(!bench.wal.has_room());
    assert_eq!(tries(), before + 1);
    bench.failures.preallocates_full.store(0, Ordering::SeqCst);
    bench.wal.full_since = Instant::now().checked_sub(FULL_RETRY);
    assert!(bench.wal.has_room());
    assert!(bench.wal.ready.is_some());
}

#[test]
fn a_full_disk_may_be_full_for_the_next_segment_itself() {
    let mut bench = Bench::new(false, 128 * 1024);
    bench.failures.preallocates_full.store(1, Ordering::SeqCst);
    assert!(matches!(bench.append_on(b"123456789\n", "2025-01-15"), Err(WalError::Full(_))));
    assert!(bench.wal.full_since.is_some());
    bench.append();
    assert!(bench.wal.full_since.is_none(), "there is room again");
    // A spare that fails for another reason is only made later.
    bench.failures.creates.store(1, Ordering::SeqCst);
    bench.append_on(&vec![b'x'; 70 * 1024], "2025-01-15").expect("appended");
    bench.settle();
    assert!(bench.wal.ready.is_none() && bench.wal.full_since.is_none());
}

#[test]
fn old_segments_go_when_they_are_not_needed_and_it_is_noted_first() {
    let mut bench = Bench::new(false, 20);
    for _ in 0..6 {
        bench.append();
    }
    bench.wal.close().expect("sealed");
    assert_eq!(bench.wal.remove_old(1, Duration::ZERO).expect("nothing goes"), 0);
    assert_eq!(bench.wal.count_removable(2, Duration::ZERO), 1);
    assert_eq!(bench.wal.count_removable(4, HOUR), 0, "they are too young");
    assert_eq!(horizon::removed_through(&RealDisk, bench.dir.path()).expect("none"), 0);
    assert_eq!(bench.wal.remove_old(4, Duration::ZERO).expect("removed"), 2);
    assert_eq!(bench.segments(), named(&[("wal_000003.jsonl", 20)]));
    assert_eq!(bench.files(), [horizon::REMOVED_FILE, "wal_000003.jsonl"]);
    assert_eq!(horizon::removed_through(&RealDisk, bench.dir.path()).expect("noted"), 4);
    // What cannot be removed stays in the list; what somebody else removed does not.
    bench.failures.removes.store(2, Ordering::SeqCst);
    bench.wal.remove_old(6, Duration::ZERO).expect_err("it cannot be noted");
    bench.wal.remove_old(6, Duration::ZERO).expect_err("nor now");
    bench.failures.removes.store(0, Ordering::SeqCst);
    horizon::note_removed(&RealDisk, bench.dir.path(), 6).expect("noted");
    bench.failures.removes.store(1, Ordering::SeqCst);
    bench.wal.remove_old(6, Duration::ZERO).expect_err("it cannot be removed");
    assert_eq!(bench.segments().len(), 1);
    std::fs::remove_file(bench.path("wal_000003.jsonl")).expect("removed");
    assert_eq!(bench.wal.remove_old(6, Duration::ZERO).expect("it is gone"), 1);
    assert!(bench.segments().is_empty());
}

#[test]
fn places_are_below_their_base() {
    let (base, day) = (PathBuf::from("/base"), Date::parse("2025-01-15").expect("a date"));
    for (place, directory) in [
        (Place::Fixed(base.clone()), PathBuf::from("/base")),
        (Place::Daily(base.clone()), PathBuf::from("/base/2025-01-15")),
    ] {
        assert_eq!((place.base(), place.directory(day)), (base.as_path(), directory));
    }
}

/// Sealed, it gave the file system back what deletions needed.
#[test]
fn where_there_is_no_room_for_another_segment_an_old_one_stays_open() {
    let mut bench = Bench::new(false, 1 << 20);
    bench.append();
    bench.clock.advance(HOUR);
    *bench.failures.free_bytes.lock() = Some(9);
    bench.wal.seal_if_old().expect("left");
    assert_eq!(bench.wal.gauges().active_bytes, 10);
    bench.failures.creates_full.store(1, Ordering::SeqCst);
    bench.append();
    assert_eq!(bench.segments(), named(&[("wal_000001.jsonl", 20)]));
    // Twenty bytes are used, and the others come back when it is sealed.
    *bench.failures.free_bytes.lock() = Some(19);
    bench.wal.seal_if_old().expect("left");
    assert_eq!(bench.wal.gauges().active_bytes, 20);
    *bench.failures.free_bytes.lock() = Some(20);
    bench.wal.seal_if_old().expect("sealed");
    assert_eq!(bench.wal.gauges().active_bytes, 0);
}

#[test]
fn where_the_next_segment_is_ready_an_old_one_is_sealed_on_a_full_disk() {
    let mut bench = Bench::new(false, 30);
    bench.append();
    bench.append();
    bench.settle();
    bench.clock.advance(HOUR);
    *bench.failures.free_bytes.lock() = Some(0);
    bench.wal.seal_if_old().expect("sealed");
    assert_eq!(bench.wal.gauges().active_bytes, 0);
    bench.append();
    assert_eq!(bench.segments(), named(&[("wal_000001.jsonl", 20), ("wal_000002.jsonl", 10)]));
}

/// A power cut brought back what had been refused.
#[test]
fn what_is_taken_back_is_taken_back_durably() {
    let mut bench = Bench::new(false, 100);
    bench.append();
    bench.wal.sync().expect("synced");
    bench.failures.writes.store(1, Ordering::SeqCst);
    bench.failures.syncs.store(1, Ordering::SeqCst);
    let failed = bench.append_on(b"123456789\n", "2025-01-15");
    assert!(matches!(failed, Err(WalError::Failed(_))), "a sync that fails is final: {failed:?}");
    assert_eq!(bench.failures.syncs.load(Ordering::SeqCst), 0);
}

/// A second one would be prepared under its name.
#[test]
fn where_a_segment_is_ready_there_is_room_whatever_was_full_before() {
    let mut bench = Bench::new(false, 40);
    bench.append();
    bench.append();
    bench.settle();
    assert!(bench.wal.ready.is_some());
    bench.wal.full_since = Some(Instant::now());
    assert!(bench.wal.has_room());
    assert_eq!((bench.wal.full_since, bench.wal.spare.is_some()), (None, false));
    // And nobody waits for long to find that out.
    bench.wal.full_since = Instant::now().checked_sub(2 * FULL_RETRY);
    assert!(bench.wal.has_room() && bench.wal.ready.is_some() && bench.wal.spare.is_none());
}
