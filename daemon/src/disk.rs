//! Every file operation on which durability rests, behind one small trait: the fault seam.
//!
//! Tests put their own [`Disk`] here and fail the n-th operation, or forget what was not synced.
//! Nothing else in the daemon creates, writes, renames or removes a file that must survive a crash
//! (DuckDB's own files are DuckDB's business).
//!
//! What is relied on: `fdatasync` returns only when the file's bytes and its length are on stable
//! storage; a directory's names are stable once the directory is synced; a rename replaces in one step.

mod ownership;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use ownership::{Owner, give_directory, give_files, give_tree, owner_of};

/// What others than owner and group may do with the files in a storage's directory: nothing. Who may read
/// the data is for `[[access]]` to say.
const FILE_MODE_MASK: u32 = 0o027;

/// Sets the mode of everything that the process makes from now on.
pub fn set_file_mode_mask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(FILE_MODE_MASK));
}

/// The operations on directories and names. Each fails with what the operating system says.
#[allow(clippy::missing_errors_doc)]
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file that must not exist yet. Its name is durable only after [`sync_dir`](Self::sync_dir).
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists, for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Reads at most the first `limit` bytes of a file.
    fn read_head(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// Reads at most the last `limit` bytes of a file.
    fn read_tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// Gives a file another name, in one step, replacing what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates one directory; that it exists already is no error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory that is empty.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory; none where the directory does not exist.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Bytes that an unprivileged writer can still use on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// The bug that a test has planted in whoever uses this disk.
    #[cfg(test)]
    fn planted(&self) -> Option<crate::planted::Bug> {
        None
    }

    /// Whether a crash at any operation copies all files, so that nothing may write DuckDB's beside it.
    #[cfg(test)]
    fn copies_at_a_crash(&self) -> bool {
        false
    }
}

/// The operations on one open file. Each fails with what the operating system says.
#[allow(clippy::missing_errors_doc)]
pub trait DiskFile: Send + fmt::Debug {
    /// Writes all bytes at an offset.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Brings what was written, and the file's length, to stable storage. After an error the file must
    /// not be synced again: the kernel may have dropped the bytes and would then report success.
    fn sync(&mut self) -> io::Result<()>;
    /// Reserves space and sets the length; the new bytes read as NUL.
    fn preallocate(&mut self, length: u64) -> io::Result<()>;
    /// Sets the length.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The disk as the operating system gives it.
#[derive(Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The disk, ready to be shared.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().write(true).open(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_head(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(limit);
        File::open(path)?.take(limit as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    fn read_tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let behind = file.metadata()?.len().saturating_sub(limit as u64);
        file.seek(SeekFrom::Start(behind))?;
        let mut tail = Vec::with_capacity(limit);
        file.take(limit as u64).read_to_end(&mut tail)?;
        Ok(tail)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            done => done,
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, length)?)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

/// Creates a directory and its missing parents, each of them durable.
///
/// # Errors
/// When a directory cannot be made or its parent cannot be synced.
pub fn create_dir_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    if path.is_dir() {
        // Whoever made it may have ended before it was durable. Below a directory that is not ours to read it is not
        // ours either.
        return match disk.sync_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    create_dir_durably(disk, parent)?;
    disk.create_dir(path)?;
    disk.sync_dir(parent)
}

/// Writes a whole file so that after a crash it is either there, complete, or not there at all.
///
/// # Errors
/// When any step fails; the file under its final name is then as it was.
pub fn write_durably(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = temporary_beside(path);
    match disk.remove(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(&beside)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&beside, path)?;
    disk.sync_dir(parent_of(path))
}

/// Writes a whole file that anybody may read, in one step for its readers. Nothing is synced: this is for files that
/// are worth nothing after a crash.
///
/// # Errors
/// When any step fails; the file under its final name is then as it was.
pub fn publish(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = temporary_beside(path);
    match disk.remove(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    disk.create(&beside)?.write_at(0, bytes)?;
    // The daemon's own mask leaves nothing to others.
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o644))?;
    disk.rename(&beside, path)
}

/// The name under which a file is written before it gets its own: a reader's `*.jsonl` or `*.parquet`
/// does not see it.
pub fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY_SUFFIX);
    path.with_file_name(name)
}

/// How the name of an unfinished file ends.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// The directory in which a path stands.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether an error says that the disk, or the user's share of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// For `map_err`: an error that tells the file.
pub fn naming(file: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let file = file.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{file}: {error}"))
}

/// The device and inode of a path: the same for two names of one directory.
///
/// # Errors
/// When the path cannot be looked up.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
