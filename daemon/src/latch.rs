//! What keeps a storage from writing: something failed that cannot be undone, or its directory is not where it was.
//!
//! Invariants: a failure closes the latch once, it never opens again, and the first reason stays. That the directory
//! is gone, or another one stands in its place, passes: what is written then would be lost, or in two places, so
//! nothing is, and when the directory is back everything goes on.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk;

/// Open until the first irreparable failure, and while the directory is in place.
#[derive(Debug, Default)]
pub struct Latch {
    reason: OnceLock<String>,
    directory: Option<Directory>,
}

/// A directory, and which one it is.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    identity: (u64, u64),
    /// What the last look found.
    astray: AtomicBool,
}

/// The storage's directory is not the one that was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path} is not there any more, or is not the directory that was opened; put that one back, or mount it again"
)]
pub struct Astray {
    path: String,
}

impl Latch {
    /// For a storage in this directory, which is the right one now.
    pub fn of(path: PathBuf) -> Self {
        // One that is not there yet cannot be told from another.
        let identity = disk::identity(&path).ok();
        let directory = identity.map(|identity| Directory { path, identity, astray: AtomicBool::new(false) });
        Self { reason: OnceLock::new(), directory }
    }

    /// Closes the latch, unless it is closed already.
    pub fn close(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
    }

    /// Why the latch is closed; `None` while it is open.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Whether the directory was in place when somebody last looked.
    ///
    /// # Errors
    /// [`Astray`] when it was not.
    pub fn check_directory(&self) -> Result<(), Astray> {
        match &self.directory {
            Some(directory) if directory.astray.load(Ordering::Relaxed) => Err(directory.astray()),
            _ => Ok(()),
        }
    }

    /// Looks whether the directory is in place.
    ///
    /// # Errors
    /// [`Astray`] when it is not.
    pub fn look_at_directory(&self) -> Result<(), Astray> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let astray = Astray::look(&directory.path, directory.identity).is_err();
        let was = directory.astray.swap(astray, Ordering::Relaxed);
        if astray && !was {
            tracing::error!("{}; until then nothing is written", directory.astray());
        } else if was && !astray {
            tracing::info!(directory = %directory.path.display(), "the directory is back; writes go on");
        }
        self.check_directory()
    }
}

impl Directory {
    fn astray(&self) -> Astray {
        Astray { path: self.path.display().to_string() }
    }
}

impl Astray {
    /// Looks whether the directory at `path` is the one with this [identity](disk::identity).
    ///
    /// # Errors
    /// When it is not, or is away.
    pub fn look(path: &Path, identity: (u64, u64)) -> Result<(), Self> {
        if disk::identity(path).ok() == Some(identity) {
            return Ok(());
        }
        Err(Self { path: path.display().to_string() })
    }

    /// Whether an error is one of these, which passes when the directory is back.
    pub fn is_in(error: &std::io::Error) -> bool {
        error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
    }
}

impl From<Astray> for std::io::Error {
    fn from(astray: Astray) -> Self {
        Self::new(std::io::ErrorKind::NotFound, astray)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let latch = Latch::default();
        assert_eq!(latch.reason(), None);
        latch.close("first");
        latch.close("second");
        assert_eq!(latch.reason(), Some("first"));
        assert_eq!(latch.look_at_directory(), Ok(()), "one without a directory misses none");
    }

    #[test]
    fn a_directory_is_missed_while_it_or_another_one_is_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, away) = (dir.path().join("storage"), dir.path().join("away"));
        std::fs::create_dir(&path).expect("made");
        let latch = Latch::of(path.clone());
        assert_eq!(latch.look_at_directory(), Ok(()));
        std::fs::rename(&path, &away).expect("moved");
        assert_eq!(latch.check_directory(), Ok(()), "nobody has looked");
        let astray = latch.look_at_directory().expect_err("gone");
        assert!(astray.to_string().contains("storage"), "{astray}");
        std::fs::create_dir(&path).expect("another one");
        assert_eq!(latch.look_at_directory(), Err(astray.clone()));
        std::fs::remove_dir(&path).expect("removed");
        std::os::unix::fs::symlink(dir.path(), &path).expect("another one, by a link");
        assert_eq!(latch.look_at_directory(), Err(astray.clone()));
        assert_eq!(latch.check_directory(), Err(astray));
        assert_eq!(latch.reason(), None, "it passes");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&away, &path).expect("the same one, by a link");
        assert_eq!(latch.look_at_directory(), Ok(()));
        assert_eq!(latch.check_directory(), Ok(()));
    }
}
