//! The durable file operations of the export.
//!
//! Invariant: when an operation has returned, what it did survives a power loss: the file is synced before
//! it is renamed, and every directory whose entries changed is synced too.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::ExportError;
use crate::backup::verify::hex;
use crate::disk::{self, Disk, DiskFile};

/// Where a file is written before it takes its place: hidden, and of another kind, so that nobody who looks
/// for `*.parquet` finds it.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// A file that is written from its beginning to its end.
#[derive(Debug)]
pub(super) struct Appended {
    file: Box<dyn DiskFile>,
    bytes: u64,
    hasher: Sha256,
}

impl io::Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.bytes, bytes)?;
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Creates a file, replacing what an interrupted export left, and the directories above it.
pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<Appended, ExportError> {
    let directory = disk::parent_of(path);
    disk::create_dir_durably(disk, directory).map_err(failed("creating", directory))?;
    remove_file(disk, path)?;
    let file = disk.create(path).map_err(failed("creating", path))?;
    Ok(Appended { file, bytes: 0, hasher: Sha256::new() })
}

/// Gives a written file its place; its length and SHA-256.
pub(super) fn publish(
    disk: &dyn Disk,
    mut written: Appended,
    from: &Path,
    to: &Path,
) -> Result<(u64, String), ExportError> {
    written.file.sync().map_err(failed("syncing", from))?;
    disk.rename(from, to).map_err(failed("renaming to", to))?;
    sync(disk, disk::parent_of(to))?;
    Ok((written.bytes, hex(&written.hasher.finalize())))
}

/// The names in a directory; none where there is no such directory.
pub(super) fn list(disk: &dyn Disk, directory: &Path) -> Result<Vec<String>, ExportError> {
    disk.list(directory).map_err(failed("listing", directory))
}

/// Removes a file, what an interrupted export left beside it, and the directories above it, below `root`,
/// that are empty then. Whether there was such a file.
pub(super) fn remove(disk: &dyn Disk, path: &Path, root: &Path) -> Result<bool, ExportError> {
    let left = remove_file(disk, &beside(path))?;
    let removed = remove_file(disk, path)?;
    let mut changed = removed || left;
    for directory in path.ancestors().skip(1).take_while(|directory| *directory != root) {
        if changed && directory.exists() {
            sync(disk, directory)?;
        }
        match disk.remove_dir(directory) {
            Ok(()) => changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(removed),
            Err(error) => return Err(failed("removing", directory)(error)),
        }
    }
    if changed {
        sync(disk, root)?;
    }
    Ok(removed)
}

/// Removes a file that may not be there.
pub(super) fn remove_file(disk: &dyn Disk, path: &Path) -> Result<bool, ExportError> {
    match disk.remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // The directory of a partition that has no such date.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(failed("removing", path)(error)),
    }
}

/// For `map_err`: the system's word about a path.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Io { action, path, source }
}

fn sync(disk: &dyn Disk, directory: &Path) -> Result<(), ExportError> {
    disk.sync_dir(directory).map_err(failed("syncing", directory))
}
