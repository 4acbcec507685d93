//! The durable file operations of the export.
//!
//! Invariant: when an operation has returned, what it did survives a power loss: the file is synced before
//! it is renamed, and every directory whose entries changed is synced too.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::ExportError;

/// Where a file is written before it takes its place: hidden, and of another kind, so that nobody who looks
/// for `*.parquet` finds it.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Creates a file, replacing what an interrupted export left, and the directories above it.
pub(super) fn create(path: &Path) -> Result<File, ExportError> {
    if let Some(directory) = path.parent() {
        create_directories(directory).map_err(failed("creating", directory))?;
    }
    File::create(path).map_err(failed("creating", path))
}

/// Gives a written file its place.
pub(super) fn publish(file: &File, from: &Path, to: &Path) -> Result<(), ExportError> {
    file.sync_all().map_err(failed("syncing", from))?;
    fs::rename(from, to).map_err(failed("renaming to", to))?;
    sync_parent(to)
}

/// The names in a directory; none where there is no such directory.
pub(super) fn list(directory: &Path) -> Result<Vec<OsString>, ExportError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("listing", directory)(error)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    names.collect::<Result<_, _>>().map_err(failed("listing", directory))
}

/// Removes a file, what an interrupted export left beside it, and the directories above it, below `root`,
/// that are empty then. Whether there was such a file.
pub(super) fn remove(path: &Path, root: &Path) -> Result<bool, ExportError> {
    let left = remove_file(&beside(path))?;
    let removed = remove_file(path)?;
    let mut changed = removed || left;
    for directory in path.ancestors().skip(1).take_while(|directory| *directory != root) {
        if changed && directory.exists() {
            sync(directory)?;
        }
        match fs::remove_dir(directory) {
            Ok(()) => changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(removed),
            Err(error) => return Err(failed("removing", directory)(error)),
        }
    }
    if changed {
        sync(root)?;
    }
    Ok(removed)
}

/// Removes a file that may not be there.
pub(super) fn remove_file(path: &Path) -> Result<bool, ExportError> {
    match fs::remove_file(path) {
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

/// Creates a directory with those above it, each of them synced into its parent.
fn create_directories(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = directory.parent() else { return Err(error) };
            create_directories(parent)?;
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    directory.parent().map_or(Ok(()), sync_directory)
}

fn sync_parent(path: &Path) -> Result<(), ExportError> {
    path.parent().map_or(Ok(()), sync)
}

fn sync(directory: &Path) -> Result<(), ExportError> {
    sync_directory(directory).map_err(failed("syncing", directory))
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    // The parent of a bare name is the empty path.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}
