//! How far a load has come, in a small file, so that it can go on after an interruption.
//!
//! Invariant: the file is written whole or not at all, and never ahead of what the daemon has answered.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::failure::{Failure, Outcome};

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// The input that this is about.
    pub(crate) source: String,
    /// Its records that are done: stored, or found bad and reported.
    pub(crate) records: u64,
    pub(crate) stored: u64,
    pub(crate) failed: u64,
}

/// The file, where there is one.
pub(crate) struct StateFile {
    path: Option<PathBuf>,
}

impl StateFile {
    /// Opens the file and reads how far an earlier load of `source` has come.
    pub(crate) fn open(path: Option<&Path>, source: &str) -> Outcome<(Self, Progress)> {
        let fresh = Progress { source: source.to_owned(), records: 0, stored: 0, failed: 0 };
        let Some(path) = path else { return Ok((Self { path: None }, fresh)) };
        let progress = match fs::read(path) {
            Ok(bytes) => read(path, &bytes, source)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => fresh,
            Err(error) => return Err(Failure::io(path.display(), &error)),
        };
        Ok((Self { path: Some(path.to_path_buf()) }, progress))
    }

    /// Replaces the file's content: written beside, synced, renamed, and the directory synced.
    pub(crate) fn save(&self, progress: &Progress) -> Outcome {
        let Some(path) = &self.path else { return Ok(()) };
        replace(path, progress).map_err(|error| Failure::io(path.display(), &error))
    }
}

fn read(path: &Path, bytes: &[u8], source: &str) -> Outcome<Progress> {
    let progress: Progress = serde_json::from_slice(bytes)
        .map_err(|error| Failure::usage(format!("{} is no state of a load: {error}", path.display())))?;
    if progress.source == source {
        return Ok(progress);
    }
    Err(Failure::usage(format!("{} belongs to the load of {:?}", path.display(), progress.source))
        .with_hint("name another file with --resume, or remove this one to begin anew"))
}

fn replace(path: &Path, progress: &Progress) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&mut file, progress)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (file, fresh) = StateFile::open(Some(&path), "a.csv").unwrap();
        assert_eq!((fresh.records, path.exists()), (0, false));
        let progress = Progress { records: 7, stored: 6, failed: 1, ..fresh };
        file.save(&progress).unwrap();
        assert_eq!(StateFile::open(Some(&path), "a.csv").unwrap().1, progress);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_state_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (file, fresh) = StateFile::open(Some(&path), "a.csv").unwrap();
        file.save(&fresh).unwrap();
        let failure = StateFile::open(Some(&path), "b.csv").err().unwrap().to_string();
        assert!(failure.contains("belongs to the load of \"a.csv\""), "{failure}");
        fs::write(&path, "{}").unwrap();
        let failure = StateFile::open(Some(&path), "a.csv").err().unwrap().to_string();
        assert!(failure.contains("is no state of a load"), "{failure}");
    }
}
