//! A disk for the tests of the log and of the seam: the real one, but what a test asks for fails, and a bug may be planted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::planted::Bug;

/// How many of the next operations fail, by kind.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    pub(crate) syncs: AtomicUsize,
    pub(crate) creates_full: AtomicUsize,
    pub(crate) creates: AtomicUsize,
    pub(crate) removes: AtomicUsize,
    /// Half is written before it fails.
    pub(crate) writes: AtomicUsize,
    /// The same, and not for lack of room.
    pub(crate) writes_broken: AtomicUsize,
    pub(crate) truncates: AtomicUsize,
    pub(crate) dir_syncs_denied: AtomicUsize,
    pub(crate) dir_syncs: AtomicUsize,
    pub(crate) reads: AtomicUsize,
    pub(crate) preallocates_full: AtomicUsize,
    pub(crate) preallocates_unsupported: AtomicUsize,
    /// The disk says that so much is free.
    pub(crate) free_bytes: Mutex<Option<u64>>,
    /// No space is had as long as a test holds this.
    pub(crate) no_space_yet: Mutex<()>,
    /// Nothing is removed as long as a test holds this.
    pub(crate) no_remove_yet: Mutex<()>,
    /// No sync returns as long as a test holds this.
    pub(crate) no_sync_yet: Mutex<()>,
}

/// The real disk, but the next operations fail as often as is asked for.
#[derive(Debug, Default)]
pub(crate) struct FailingDisk {
    pub(crate) failures: Arc<Failures>,
    pub(crate) bug: Option<Bug>,
}

#[derive(Debug)]
struct FailingFile {
    file: Box<dyn DiskFile>,
    failures: Arc<Failures>,
}

/// Whether one of the failures that were asked for is due.
fn is_due(failures: &AtomicUsize) -> bool {
    failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn fail_if_due(failures: &AtomicUsize) -> io::Result<()> {
    if is_due(failures) { Err(io::Error::other("a failure that was asked for")) } else { Ok(()) }
}

impl Disk for FailingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if is_due(&self.failures.creates_full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        fail_if_due(&self.failures.creates)?;
        let file = RealDisk.create(path)?;
        Ok(Box::new(FailingFile { file, failures: Arc::clone(&self.failures) }))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fail_if_due(&self.failures.reads)?;
        RealDisk.read(path)
    }
    fn read_head(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        RealDisk.read_head(path, limit)
    }
    fn read_tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        RealDisk.read_tail(path, limit)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        drop(self.failures.no_remove_yet.lock());
        fail_if_due(&self.failures.removes)?;
        RealDisk.remove(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if is_due(&self.failures.dir_syncs_denied) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        fail_if_due(&self.failures.dir_syncs)?;
        RealDisk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.failures.free_bytes.lock().map_or_else(|| RealDisk.free_bytes(path), Ok)
    }
    fn planted(&self) -> Option<Bug> {
        self.bug
    }
}

impl DiskFile for FailingFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if is_due(&self.failures.writes) {
            self.file.write_at(offset, &bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        fail_if_due(&self.failures.writes_broken)?;
        self.file.write_at(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        drop(self.failures.no_sync_yet.lock());
        fail_if_due(&self.failures.syncs)?;
        self.file.sync()
    }
    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        drop(self.failures.no_space_yet.lock());
        if is_due(&self.failures.preallocates_full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if is_due(&self.failures.preallocates_unsupported) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.file.preallocate(length)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        fail_if_due(&self.failures.truncates)?;
        self.file.truncate(length)
    }
}
