//! One daemon per storage directory, for the daemon's whole life.
//!
//! The lock is the kernel's (`flock`), so it ends with the process however that ends; the pid in the
//! file is only for the message that a second daemon prints. The file is locked before it is written
//! and never removed: removing it would let two daemons lock two files of the same name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs2::FileExt as _;

/// The lock file's name in each `base_dir`.
pub const LOCK_FILE: &str = "fastpersistd.lock";

/// How long the holder may take to write its pid once it has the lock.
const NAMING: Duration = Duration::from_secs(1);

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon holds it.
    #[error(
        "{directory} is in use by another fastpersistd (pid {holder}); stop that one, or give this one another base_dir"
    )]
    Held {
        /// The directory.
        directory: String,
        /// The holder's pid as it wrote it, or `unknown`.
        holder: String,
    },
    /// The lock file could not be opened or written.
    #[error("cannot lock {path}: {source}; the directory must be writable for the daemon's user")]
    Io {
        /// The lock file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A locked directory; dropping it frees the lock.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
    directory: PathBuf,
}

impl DirLock {
    /// Locks a directory that exists.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another process holds the lock.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join(LOCK_FILE);
        let io_error = |source| LockError::Io { path: path.display().to_string(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_error)?;
        match file.try_lock_exclusive() {
            Ok(()) => {}
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => {
                return Err(LockError::Held {
                    directory: directory.display().to_string(),
                    holder: read_holder(&mut file),
                });
            }
            Err(error) => return Err(io_error(error)),
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(io_error)?;
        Ok(Self { _file: file, directory: directory.to_owned() })
    }

    /// The directory that is locked.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// The pid in the file. The holder locks first and writes its pid a moment later; until then the file is empty or
/// names the one before, which has ended.
fn read_holder(file: &mut File) -> String {
    let begun = Instant::now();
    loop {
        match named_in(file) {
            Some(pid) if is_alive(pid) || begun.elapsed() >= NAMING => return pid.to_string(),
            None if begun.elapsed() >= NAMING => return "unknown".to_owned(),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn named_in(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    // A line without its end may be half of one.
    text.strip_suffix('\n')?.parse().ok()
}

fn is_alive(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return false };
    // One that is not ours may not be asked, and is there.
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_directory_and_the_holder() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = DirLock::acquire(dir.path()).expect("the first lock");
        let Err(LockError::Held { directory, holder }) = DirLock::acquire(dir.path()) else {
            panic!("the second lock must be refused");
        };
        assert_eq!(directory, dir.path().display().to_string());
        assert_eq!(holder, std::process::id().to_string());
        drop(first);
        DirLock::acquire(dir.path()).expect("free again");
    }

    /// Two that start at once: the one that comes too late may come before the first has written its name.
    #[test]
    fn the_holder_is_named_that_has_not_written_its_name_yet() {
        for before in ["", "999999999\n", "12"] {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join(LOCK_FILE);
            std::fs::write(&path, before).expect("written");
            let holder = File::options().read(true).write(true).open(&path).expect("opened");
            holder.lock_exclusive().expect("locked");
            let naming = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                std::fs::write(&path, format!("{}\n", std::process::id())).expect("written");
                holder
            });
            let Err(LockError::Held { holder, .. }) = DirLock::acquire(dir.path()) else {
                panic!("the second lock must be refused");
            };
            assert_eq!(holder, std::process::id().to_string(), "{before:?} was there");
            drop(naming.join());
        }
    }
}
