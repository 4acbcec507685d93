//! One segment: its space, its lines, its end.

use std::sync::atomic::Ordering;

use super::super::failing::FailingDisk;
use super::*;

const LARGE: u64 = 1 << 20;

fn begin(disk: &dyn Disk, directory: &Path, preallocate_bytes: u64, spare: Option<ReadySpare>) -> Active {
    Active::begin(disk, directory, 1, preallocate_bytes, spare, Duration::from_secs(3)).expect("begun")
}

fn length(active: &Active) -> u64 {
    std::fs::metadata(active.path()).expect("there").len()
}

fn contents(active: &Active) -> Vec<u8> {
    std::fs::read(active.path()).expect("read")
}

fn spare(disk: &Arc<dyn Disk>, directory: &Path, bytes: u64, space: Space) -> io::Result<ReadySpare> {
    Spare::begin(disk, directory, bytes, space).expect("a thread").check()
}

#[test]
fn names_and_numbers_are_inverse() {
    for number in [1, 999_999, 1_000_000] {
        assert_eq!(number_of(&file_name(number)), Some(number));
    }
    for other in ["wal_1.jsonl", "wal_000001.jsonl.tmp", "torn-wal_000001.jsonl", "wal_00000x.jsonl"] {
        assert_eq!(number_of(other), None, "{other}");
    }
}

#[test]
fn space_is_reserved_where_it_is_worth_it_and_never_too_much() {
    let disk = FailingDisk::default();
    for (asked, had) in [
        (MIN_PREALLOCATED_BYTES - 1, 0),
        (MIN_PREALLOCATED_BYTES, MIN_PREALLOCATED_BYTES),
        (LARGE, LARGE),
        (MAX_PREALLOCATED_BYTES + 1, MAX_PREALLOCATED_BYTES),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let active = begin(&disk, dir.path(), asked, None);
        assert_eq!(length(&active), had, "{asked}");
        assert_eq!(active.path(), dir.path().join("wal_000001.jsonl"));
        assert_eq!(active.opened_at(), Duration::from_secs(3));
        assert_eq!((active.bytes(), active.records(), active.last_seq()), (0, 0, 0));
    }
}

#[test]
fn lines_stand_one_behind_the_other_and_what_is_behind_them_is_trimmed() {
    for in_background in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut active = begin(&FailingDisk::default(), dir.path(), LARGE, None);
        active.append(b"one\n", 1, 1).expect("appended");
        active.append(b"two, three\n", 3, 2).expect("appended");
        active.sync().expect("synced");
        assert_eq!((active.bytes(), active.records(), active.last_seq()), (15, 3, 3));
        assert!(contents(&active).starts_with(b"one\ntwo, three\n\0"));
        let path = active.path().to_owned();
        let sealed = active.seal(SystemTime::UNIX_EPOCH, in_background);
        let expected = Sealed { path, last_seq: 3, bytes: 15, sealed_at: SystemTime::UNIX_EPOCH };
        assert_eq!(sealed, expected);
        let begun = std::time::Instant::now();
        while std::fs::metadata(&sealed.path).expect("there").len() != 15 {
            assert!(in_background && begun.elapsed() < Duration::from_secs(10), "it is not trimmed");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_segment_without_space_in_advance_needs_no_trim() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let mut active = begin(&disk, dir.path(), 1, None);
    active.append(b"one\n", 1, 1).expect("appended");
    disk.failures.truncates.store(1, Ordering::SeqCst);
    active.seal(SystemTime::UNIX_EPOCH, false);
    assert_eq!(disk.failures.truncates.load(Ordering::SeqCst), 1, "nothing is cut");
}

#[test]
fn half_a_group_is_taken_back_or_nothing_more_is_said_of_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let mut active = begin(&disk, dir.path(), LARGE, None);
    active.append(b"one\n", 1, 1).expect("appended");
    disk.failures.writes.store(1, Ordering::SeqCst);
    let error = active.append(b"two, and more\n", 2, 1).expect_err("it fails");
    assert!(matches!(error, AppendError::TakenBack(_)), "{error}");
    assert_eq!((active.bytes(), active.last_seq(), contents(&active)), (4, 1, b"one\n".to_vec()));
    active.append(b"2\n", 2, 1).expect("there is room again");
    assert_eq!(contents(&active), b"one\n2\n");
    disk.failures.writes.store(1, Ordering::SeqCst);
    disk.failures.truncates.store(1, Ordering::SeqCst);
    let error = active.append(b"three\n", 3, 1).expect_err("it fails");
    assert!(matches!(error, AppendError::Stuck(_)), "{error}");
    assert_eq!((active.bytes(), active.last_seq()), (6, 2));
}

/// How far the file system was told to write; what is behind is only reserved.
fn written(active: &Active) -> u64 {
    active.written
}

#[test]
fn for_middling_groups_the_space_behind_them_is_written_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let mut active = begin(&disk, dir.path(), LARGE, None);
    let group = vec![b'x'; 2000];
    active.append(&group, 1, 1).expect("appended");
    assert_eq!(written(&active), 2000 + WRITE_AHEAD_BYTES);
    active.append(&group, 2, 1).expect("appended");
    assert_eq!(written(&active), 2000 + WRITE_AHEAD_BYTES, "it reaches");
    for seq in 3.. {
        if active.bytes() + 2000 > LARGE {
            break;
        }
        active.append(&group, seq, 1).expect("appended");
        assert_eq!(length(&active), LARGE, "it stays as long as it was");
        assert!(written(&active) <= LARGE && written(&active) >= active.bytes());
    }
    assert!(active.bytes() > LARGE - 2000);
    assert!(contents(&active)[active.bytes() as usize..].iter().all(|byte| *byte == 0));
    active.append(&group, 9999, 1).expect("it grows");
    active.append(&group, 10_000, 1).expect("it grows");
    assert_eq!(length(&active), active.bytes());
}

#[test]
fn for_the_smallest_and_the_largest_groups_nothing_is_written_ahead() {
    for (bytes, ahead) in [(1023, 0), (1024, WRITE_AHEAD_BYTES), (65_535, WRITE_AHEAD_BYTES), (65_536, 0)] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut active = begin(&FailingDisk::default(), dir.path(), LARGE, None);
        active.append(&vec![b'x'; bytes], 1, 1).expect("appended");
        assert_eq!(written(&active), bytes as u64 + ahead, "{bytes}");
        let space = if ahead > 0 { Space::Written } else { Space::Reserved };
        assert_eq!(active.best_space(), space, "{bytes}");
        active.append(&vec![b'x'; bytes], 2, 1).expect("appended");
        assert_eq!(active.best_space(), space, "by the average: {bytes}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut grows = begin(&FailingDisk::default(), dir.path(), 1, None);
    grows.append(&vec![b'x'; 2000], 1, 1).expect("appended");
    assert_eq!(
        (written(&grows), length(&grows)),
        (0, 2000),
        "without reserved space there is nothing to write"
    );
}

#[test]
fn a_spare_becomes_the_segment_and_one_for_another_directory_goes() {
    let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let disk: Arc<dyn Disk> = Arc::new(FailingDisk::default());
    for space in [Space::Reserved, Space::Written] {
        let ready = spare(&disk, dir.path(), LARGE, space).expect("prepared");
        assert!(dir.path().join(SPARE_NAME).exists());
        let active = begin(&*disk, dir.path(), 7, Some(ready));
        assert_eq!(disk.list(dir.path()).expect("listed"), ["wal_000001.jsonl"]);
        assert_eq!(length(&active), LARGE, "it is the one that was prepared");
        assert_eq!(written(&active), if space == Space::Written { LARGE } else { 0 });
        let ready = spare(&disk, other.path(), LARGE, space).expect("prepared");
        let active = begin(&*disk, dir.path(), 7, Some(ready));
        assert_eq!((length(&active), disk.list(other.path()).expect("listed").len()), (0, 0));
    }
}

#[test]
fn a_spare_says_when_it_is_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let failing = FailingDisk::default();
    let failures = Arc::clone(&failing.failures);
    let disk: Arc<dyn Disk> = Arc::new(failing);
    let held = failures.no_space_yet.lock();
    let spare = Spare::begin(&disk, dir.path(), LARGE, Space::Written).expect("a thread");
    assert!(!spare.is_finished());
    drop(held);
    let begun = std::time::Instant::now();
    while !spare.is_finished() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::yield_now();
    }
    assert_eq!(spare.check().expect("prepared").into_path(), dir.path().join(SPARE_NAME));
}

#[test]
fn a_spare_is_made_anew_over_an_old_one_and_none_is_left_where_there_is_no_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let failing = FailingDisk::default();
    let failures = Arc::clone(&failing.failures);
    let disk: Arc<dyn Disk> = Arc::new(failing);
    std::fs::write(dir.path().join(SPARE_NAME), "old").expect("written");
    spare(&disk, dir.path(), 1, Space::Reserved).expect("prepared");
    assert_eq!(std::fs::read(dir.path().join(SPARE_NAME)).expect("there"), b"");
    failures.preallocates_full.store(1, Ordering::SeqCst);
    let error = spare(&disk, dir.path(), LARGE, Space::Reserved).expect_err("no room");
    assert!(disk::is_full(&error));
    assert!(disk.list(dir.path()).expect("listed").is_empty(), "nothing is left");
    // Half of what is written with NUL does not fit.
    failures.writes.store(1, Ordering::SeqCst);
    spare(&disk, dir.path(), LARGE, Space::Written).expect_err("no room");
    assert!(disk.list(dir.path()).expect("listed").is_empty(), "nothing is left");
    failures.removes.store(1, Ordering::SeqCst);
    let error = spare(&disk, dir.path(), 1, Space::Reserved).expect_err("the old one cannot be removed");
    assert!(!disk::is_full(&error));
}

#[test]
fn a_file_system_that_cannot_reserve_space_has_segments_that_grow() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    disk.failures.preallocates_unsupported.store(1, Ordering::SeqCst);
    let mut active = begin(&disk, dir.path(), LARGE, None);
    assert_eq!((length(&active), written(&active)), (0, 0));
    active.append(&vec![b'x'; 2000], 1, 1).expect("appended");
    assert_eq!(length(&active), 2000);
}
