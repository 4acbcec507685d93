//! The log on a disk that fails when it is told to.

mod rolling;
mod starts;

use std::sync::atomic::Ordering;

use fastpersist_protocol::time::Timestamp;

use super::failing::FailingDisk;
use super::recover::Told;
use super::*;
use crate::disk::RealDisk;
use crate::storage::schema::Model;

fn log(disk: FailingDisk, place: Place) -> (Wal, Arc<Latch>) {
    let latch = Arc::new(Latch::default());
    let limits = SegmentLimits { max_bytes: 1 << 20, max_age: Duration::from_secs(300) };
    let clock = Arc::new(crate::clock::RealClock::default());
    (Wal::new(Arc::new(disk), clock, place, limits, Arc::clone(&latch), Vec::new()), latch)
}

fn today() -> Date {
    Date::parse("2025-01-15").expect("a date")
}

#[test]
fn a_failed_sync_is_final_whoever_asks_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let (mut wal, latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    wal.sync().expect("a sync");
    wal.append(b"{}\n", 2, 1, today()).expect("an append");
    failures.syncs.store(1, Ordering::SeqCst);
    assert!(matches!(wal.sync(), Err(WalError::Failed(_))));
    assert!(latch.reason().is_some_and(|reason| reason.contains("fdatasync")), "{:?}", latch.reason());
    // The disk would say yes now, and it would be a lie.
    assert!(matches!(wal.sync(), Err(WalError::Failed(_))));
    assert!(matches!(wal.append(b"{}\n", 3, 1, today()), Err(WalError::Failed(_))));
}

#[test]
fn a_full_disk_refuses_cleanly_and_lets_go_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    for place in [Place::Fixed(dir.path().join("fixed")), Place::Daily(dir.path().join("daily"))] {
        let disk = FailingDisk::default();
        disk.failures.creates_full.store(1, Ordering::SeqCst);
        let (mut wal, latch) = log(disk, place.clone());
        assert!(matches!(wal.append(b"{}\n", 1, 1, today()), Err(WalError::Full(_))), "{place:?}");
        assert!(!wal.has_room(), "{place:?}: no store is tried right after");
        let begun = Instant::now();
        while !wal.has_room() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{place:?}: there is room, and it is not seen"
            );
            std::thread::yield_now();
        }
        wal.append(b"{}\n", 1, 1, today()).expect("room again");
        wal.sync().expect("a sync");
        assert_eq!(latch.reason(), None);
    }
}

/// A line of a dated storage's log, written when all before it were durable.
fn line(seq: u64) -> Vec<u8> {
    line_when(seq, seq - 1)
}

fn line_when(seq: u64, durable_seq: u64) -> Vec<u8> {
    let (body, mut out) = (
        format!(r#"{{"op":"store","key":"k{seq}","data":{{}},"updated_at":"2025-01-15T10:30:00Z""#),
        Vec::new(),
    );
    entry::finish_line(body.as_bytes(), entry::hash_body(body.as_bytes()), seq, durable_seq, &mut out);
    out
}

/// A collection's log of two days, of which each segment has these bytes.
struct Written {
    dir: tempfile::TempDir,
    days: [PathBuf; 2],
}

impl Written {
    fn new(segments: &[(usize, u64, &[u8])]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let days = ["2025-01-15", "2025-01-16"].map(|day| dir.path().join(day));
        for day in &days {
            std::fs::create_dir(day).expect("made");
        }
        for (day, number, bytes) in segments {
            std::fs::write(days[*day].join(segment::file_name(*number)), bytes).expect("written");
        }
        Self { dir, days }
    }

    /// What comes at a start, and how it ends.
    fn recover(&self, flushed_seq: u64) -> (Vec<u64>, Result<recover::Recovered, recover::RecoverError>) {
        self.recover_when(Told { flushed_seq, ..Told::default() })
    }

    fn recover_when(&self, told: Told) -> (Vec<u64>, Result<recover::Recovered, recover::RecoverError>) {
        let mut found = Vec::new();
        let disk = RealDisk::shared();
        let recovered = recover::recover(&disk, &self.days, Model::Dated, told, |entry| {
            found.push(entry.seq);
        });
        (found, recovered)
    }

    fn is_damaged_at(&self, flushed_seq: u64, file: &str, at: usize) -> bool {
        let path = self.dir.path().join(file).display().to_string();
        match self.recover(flushed_seq).1 {
            Err(recover::RecoverError::Damaged { file, offset, .. }) => file == path && offset == at,
            _ => false,
        }
    }
}

/// Found by repeated and swapped lines: a segment was passed over as wholly flushed because the one behind it begins with
/// a record that is, though that line belonged elsewhere; and unflushed records were in it.
#[test]
fn a_segment_is_passed_over_only_where_its_own_end_agrees() {
    let lines = |seqs: &[u64]| seqs.iter().flat_map(|seq| line(*seq)).collect::<Vec<_>>();
    let sound = Written::new(&[(0, 1, &lines(&[1, 2])), (0, 2, &lines(&[3, 4])), (1, 1, &lines(&[5, 6]))]);
    assert_eq!(sound.recover(4).0, [5, 6]);
    // Line 2 stands again where the third one begins, so that it comes before the second.
    let repeated =
        Written::new(&[(0, 1, &lines(&[1, 2])), (0, 2, &lines(&[3, 4])), (1, 1, &lines(&[2, 5, 6]))]);
    assert!(repeated.is_damaged_at(4, "2025-01-16/wal_000001.jsonl", 0), "{:?}", repeated.recover(4));
    let second_line = line(2).len();
    let swapped = Written::new(&[(0, 1, &lines(&[1, 4, 3])), (1, 1, &lines(&[2]))]);
    assert!(swapped.is_damaged_at(3, "2025-01-15/wal_000001.jsonl", second_line), "{:?}", swapped.recover(3));
}

/// Found by lost sectors: of the oldest segment the beginning was gone, which the database had; and what was readable
/// behind it was cut off as torn, with records that had been answered.
#[test]
fn a_lost_sector_of_flushed_records_takes_no_others_with_it() {
    let group: Vec<u8> = (1..10).flat_map(|seq| line_when(seq, 0)).collect();
    let mut bytes = group.clone();
    bytes[..512].fill(0);
    for flushed_seq in [5, 7] {
        let written = Written::new(&[(0, 1, &bytes)]);
        assert!(written.is_damaged_at(flushed_seq, "2025-01-15/wal_000001.jsonl", 0), "{flushed_seq}");
    }
    // Where the database has nothing of it, it is a torn write.
    let written = Written::new(&[(0, 1, &bytes)]);
    assert_eq!(written.recover(0).1.expect("it starts").torn_count, 1);
}

/// As the next one, but there is nothing before it.
#[test]
fn a_torn_segment_of_a_clock_that_went_back_is_kept_beside() {
    let written = Written::new(&[(0, 1, &line(2)[..40]), (1, 1, &line(1))]);
    for torn_count in [1, 0] {
        let (found, recovered) = written.recover(0);
        assert_eq!((found, recovered.expect("it starts").torn_count), (vec![1], torn_count));
    }
    let kept = std::fs::read(written.days[0].join("torn-0-wal_000001.jsonl")).expect("it is kept");
    assert_eq!(kept, line(2)[..40]);
}

/// Found by a power cut: the clock had been set back over midnight, and of the segment that was begun then nothing
/// was readable. By its label it stood before one of the day after, and the daemon refused to start over damage.
#[test]
fn a_torn_segment_of_a_clock_that_went_back_is_the_end_of_the_log() {
    let segments: [(usize, u64, &[u8]); 3] =
        [(0, 1, &[line(1), line(2)].concat()), (1, 1, &line(3)), (0, 2, &line(4)[..40])];
    let written = Written::new(&segments);
    let (found, recovered) = written.recover(0);
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(recovered.expect("it starts").torn_count, 1);
    assert!(!written.days[0].join(segment::file_name(2)).exists(), "it was cut off");
    // Where a record is missing it may have been in there.
    let written = Written::new(&[segments[0], (1, 1, &line(4)), segments[2]]);
    assert!(matches!(written.recover(0).1, Err(recover::RecoverError::Damaged { .. })));
}

/// A daemon that was killed on a full disk did not start again: there was no room to write its last segment a second time.
#[test]
fn a_log_is_recovered_on_a_full_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let segment = dir.path().join("wal_000001.jsonl");
    let written = [line(1), line(2)].concat();
    std::fs::write(&segment, [written.clone(), vec![0; 1000]].concat()).expect("written");
    let full = FailingDisk::default();
    full.failures.creates_full.store(1, Ordering::SeqCst);
    let disk: Arc<dyn Disk> = Arc::new(full);
    let directories = [dir.path().to_owned()];
    let mut found = Vec::new();
    let recovered =
        recover::recover(&disk, &directories, Model::Dated, Told::default(), |entry| found.push(entry.seq));
    assert_eq!(recovered.expect("it starts").last_seq, 2);
    assert_eq!(found, [1, 2]);
    assert_eq!(std::fs::read(&segment).expect("read"), written, "without the room that was made ready");
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "and nothing beside it");
}

/// Only for lack of room is a segment written over: whatever else is wrong with the disk, nobody knows what would become of it.
#[test]
fn a_log_is_not_written_over_on_a_disk_that_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let segment = dir.path().join("wal_000001.jsonl");
    let written = [line(1), vec![0; 1000]].concat();
    std::fs::write(&segment, &written).expect("written");
    let failing = FailingDisk::default();
    failing.failures.creates.store(1, Ordering::SeqCst);
    let disk: Arc<dyn Disk> = Arc::new(failing);
    let directories = [dir.path().to_owned()];
    let recovered = recover::recover(&disk, &directories, Model::Dated, Told::default(), drop);
    assert!(matches!(recovered, Err(recover::RecoverError::Io { .. })), "{recovered:?}");
    assert_eq!(std::fs::read(&segment).expect("read"), written);
}

/// Taking it back gave back the room that deletions need on a full disk.
#[test]
fn a_group_that_does_not_fit_leaves_the_room_to_smaller_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    let segment = wal.segments()[0].0.clone();
    let length = || std::fs::metadata(&segment).expect("it is there").len();
    let reserved = length();
    failures.preallocates_full.store(1, Ordering::SeqCst);
    let large = vec![b'x'; reserved as usize];
    assert!(matches!(wal.append(&large, 2, 1, today()), Err(WalError::Full(_))));
    assert_eq!(length(), reserved);
    wal.append(b"{}\n", 2, 1, today()).expect("there is room for it");
    assert_eq!((wal.segments()[0].1, length()), (6, reserved));
}

/// It was refused, and the segment that was made ready was lost over it.
#[test]
fn a_group_that_does_not_fit_goes_to_the_segment_that_is_ready() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    let half = vec![b'x'; 600 << 10];
    wal.append(&half, 1, 1, today()).expect("an append, with which the next segment is prepared");
    wal.wait_for_spare();
    failures.preallocates_full.store(1, Ordering::SeqCst);
    wal.append(&half, 2, 1, today()).expect("it stands in the next segment");
    assert_eq!(wal.segments().len(), 2);
    assert!(wal.has_room());
}

/// After five minutes on a full disk deletions were refused: the segment was too old for them.
#[test]
fn an_old_segment_goes_on_where_there_is_no_room_for_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.limits.max_age = Duration::ZERO;
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    failures.creates_full.store(1, Ordering::SeqCst);
    wal.append(b"{}\n", 2, 1, today()).expect("there is room in the old one");
    assert_eq!(wal.segments().len(), 1);
    wal.append(b"{}\n", 3, 1, today()).expect("there is room for a new one");
    assert_eq!(wal.segments().len(), 2);
}

/// A segment that a last large group had filled beyond its size took no deletions, though there was room for those.
#[test]
fn a_full_segment_goes_on_where_there_is_no_room_for_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    failures.creates_full.store(1, Ordering::SeqCst);
    wal.append(b"{}\n", 1, 1, today()).expect_err("there is no segment");
    let large = vec![b'x'; 900 << 10];
    wal.append(&large, 1, 1, today()).expect("an append, with which the next segment is prepared");
    wal.wait_for_spare();
    failures.creates_full.store(usize::MAX, Ordering::SeqCst);
    wal.ready = None;
    wal.begin_spare();
    assert!(
        matches!(wal.append(&large, 2, 1, today()), Err(WalError::Full(_))),
        "it would take what deletions need"
    );
    assert!(!wal.has_room());
    wal.append(&large, 2, 1, today()).expect("deletions may take what there is");
    wal.append(b"{}\n", 3, 1, today()).expect("and more than that");
    assert_eq!(wal.segments().len(), 1);
}

/// While the next segment was slow to prepare, stores took all of this one, and nothing was left to deletions.
#[test]
fn the_last_quarter_of_a_segment_waits_for_the_next_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let failures = Arc::clone(&disk.failures);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    assert!(wal.has_room());
    failures.creates_full.store(1, Ordering::SeqCst);
    wal.append(&vec![b'x'; 800 << 10], 2, 1, today())
        .expect("an append, with which the next segment is prepared");
    assert!(!wal.has_room());
    wal.append(b"{}\n", 3, 1, today()).expect("a deletion");
}
