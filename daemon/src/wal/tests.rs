//! The log on a disk that fails when it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::{DiskFile, RealDisk};
use crate::storage::schema::Model;

/// The real disk, but the next syncs and writes of files fail as often as is asked for.
#[derive(Debug, Default)]
struct FailingDisk {
    syncs: Arc<AtomicUsize>,
    creates_full: Arc<AtomicUsize>,
    preallocates_full: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FailingFile {
    file: Box<dyn DiskFile>,
    syncs: Arc<AtomicUsize>,
    preallocates_full: Arc<AtomicUsize>,
}

/// Whether one of the failures that were asked for is due.
fn is_due(failures: &AtomicUsize) -> bool {
    failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Disk for FailingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if is_due(&self.creates_full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = RealDisk.create(path)?;
        let (syncs, preallocates_full) = (Arc::clone(&self.syncs), Arc::clone(&self.preallocates_full));
        Ok(Box::new(FailingFile { file, syncs, preallocates_full }))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }
    fn read_head(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        RealDisk.read_head(path, limit)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

impl DiskFile for FailingFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        if is_due(&self.syncs) { Err(io::Error::other("a failed sync")) } else { self.file.sync() }
    }
    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        if is_due(&self.preallocates_full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.preallocate(length)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

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
    let syncs = Arc::clone(&disk.syncs);
    let (mut wal, latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    wal.sync().expect("a sync");
    wal.append(b"{}\n", 2, 1, today()).expect("an append");
    syncs.store(1, Ordering::SeqCst);
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
        disk.creates_full.store(1, Ordering::SeqCst);
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

/// A line of a dated storage's log.
fn line(seq: u64) -> Vec<u8> {
    let (body, mut out) = (
        format!(r#"{{"op":"store","key":"k{seq}","data":{{}},"updated_at":"2025-01-15T10:30:00Z""#),
        Vec::new(),
    );
    entry::finish_line(body.as_bytes(), entry::hash_body(body.as_bytes()), seq, seq - 1, &mut out);
    out
}

/// Found by a power cut: the clock had been set back over midnight, and of the segment that was begun then nothing
/// was readable. By its label it stood before one of the day after, and the daemon refused to start over damage.
#[test]
fn a_torn_segment_of_a_clock_that_went_back_is_the_end_of_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let days = ["2025-01-15", "2025-01-16"].map(|day| dir.path().join(day));
    for day in &days {
        std::fs::create_dir(day).expect("made");
    }
    std::fs::write(days[0].join("wal_000001.jsonl"), [line(1), line(2)].concat()).expect("written");
    std::fs::write(days[1].join("wal_000001.jsonl"), line(3)).expect("written");
    let torn = days[0].join("wal_000002.jsonl");
    std::fs::write(&torn, &line(4)[..40]).expect("written");
    let mut found = Vec::new();
    let mut recover = || {
        let disk = RealDisk::shared();
        found.clear();
        let recovered = recover::recover(&disk, &days, Model::Dated, 0, None, |entry| found.push(entry.seq))
            .map(|r| r.torn_count);
        (found.clone(), recovered)
    };
    let (found, recovered) = recover();
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(recovered.expect("it starts"), 1);
    assert!(!torn.exists(), "it was cut off");
    // Where a record is missing it may have been in there.
    std::fs::write(&torn, &line(4)[..40]).expect("written");
    std::fs::write(days[1].join("wal_000001.jsonl"), line(4)).expect("written");
    assert!(matches!(recover().1, Err(recover::RecoverError::Damaged { .. })));
}

/// A daemon that was killed on a full disk did not start again: there was no room to write its last segment a second time.
#[test]
fn a_log_is_recovered_on_a_full_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let segment = dir.path().join("wal_000001.jsonl");
    let written = [line(1), line(2)].concat();
    std::fs::write(&segment, [written.clone(), vec![0; 1000]].concat()).expect("written");
    let full = FailingDisk::default();
    full.creates_full.store(1, Ordering::SeqCst);
    let disk: Arc<dyn Disk> = Arc::new(full);
    let directories = [dir.path().to_owned()];
    let mut found = Vec::new();
    let recovered =
        recover::recover(&disk, &directories, Model::Dated, 0, None, |entry| found.push(entry.seq));
    assert_eq!(recovered.expect("it starts").last_seq, 2);
    assert_eq!(found, [1, 2]);
    assert_eq!(std::fs::read(&segment).expect("read"), written, "without the room that was made ready");
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "and nothing beside it");
}

/// Taking it back gave back the room that deletions need on a full disk.
#[test]
fn a_group_that_does_not_fit_leaves_the_room_to_smaller_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let full = Arc::clone(&disk.preallocates_full);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    let segment = wal.segments()[0].0.clone();
    let length = || std::fs::metadata(&segment).expect("it is there").len();
    let reserved = length();
    full.store(1, Ordering::SeqCst);
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
    let full = Arc::clone(&disk.preallocates_full);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    let half = vec![b'x'; 600 << 10];
    wal.append(&half, 1, 1, today()).expect("an append, with which the next segment is prepared");
    wal.wait_for_spare();
    full.store(1, Ordering::SeqCst);
    wal.append(&half, 2, 1, today()).expect("it stands in the next segment");
    assert_eq!(wal.segments().len(), 2);
    assert!(wal.has_room());
}

/// After five minutes on a full disk deletions were refused: the segment was too old for them.
#[test]
fn an_old_segment_goes_on_where_there_is_no_room_for_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FailingDisk::default();
    let full = Arc::clone(&disk.creates_full);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    wal.limits.max_age = Duration::ZERO;
    wal.append(b"{}\n", 1, 1, today()).expect("an append");
    full.store(1, Ordering::SeqCst);
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
    let full = Arc::clone(&disk.creates_full);
    let (mut wal, _latch) = log(disk, Place::Fixed(dir.path().to_owned()));
    full.store(1, Ordering::SeqCst);
    wal.append(b"{}\n", 1, 1, today()).expect_err("there is no segment");
    let large = vec![b'x'; 900 << 10];
    wal.append(&large, 1, 1, today()).expect("an append, with which the next segment is prepared");
    wal.wait_for_spare();
    full.store(usize::MAX, Ordering::SeqCst);
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
