//! The note that says how far a partition was exported, to where, and which files that made.
//!
//! Invariant: the note is written when the files are in place and removed before one of them is replaced, and tells of the
//! configured Parquet root only. Without it, or with another root, the partition is exported again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backup::verify::sha256_of;
use crate::disk::{self, Disk};
use crate::export::PublishedFile;

/// The file's name in the partition's directory.
const FILE: &str = "exported";

#[derive(Serialize, Deserialize)]
struct Note {
    seq: u64,
    parquet_path: PathBuf,
    /// What was put in place. Notes of older versions do not tell.
    #[serde(default)]
    files: Vec<NotedFile>,
}

#[derive(Serialize, Deserialize)]
struct NotedFile {
    /// Below the root.
    file: PathBuf,
    bytes: u64,
    sha256: String,
}

/// Notes that everything up to `seq` is below `root`, in these files.
///
/// # Errors
/// When the note cannot be written.
pub fn note(
    disk: &dyn Disk,
    directory: &Path,
    seq: u64,
    root: &Path,
    published: &[PublishedFile],
) -> io::Result<()> {
    let noted = |file: &PublishedFile| NotedFile {
        file: file.path.strip_prefix(root).unwrap_or(&file.path).to_owned(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
    };
    let note = Note { seq, parquet_path: root.to_owned(), files: published.iter().map(noted).collect() };
    disk::write_durably(disk, &directory.join(FILE), &serde_json::to_vec(&note)?)
}

/// Takes the note away; that there is none is no error.
///
/// # Errors
/// When it cannot be removed.
pub fn forget(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    match disk.remove(&directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => disk.sync_dir(directory),
    }
}

/// Whether everything up to `seq` is below `root`. A note that cannot be read tells nothing.
pub fn covers(disk: &dyn Disk, directory: &Path, seq: u64, root: &Path) -> bool {
    read(disk, directory, root).is_some_and(|note| note.seq >= seq)
}

fn read(disk: &dyn Disk, directory: &Path, root: &Path) -> Option<Note> {
    let bytes = disk.read(&directory.join(FILE)).ok()?;
    serde_json::from_slice::<Note>(&bytes).ok().filter(|note| note.parquet_path == root)
}

/// Which exported files are not what was written, in words. Their lengths are compared, and, when it is `deep`, all
/// their bytes, for as long as `go_on` says so.
pub fn differences(
    disk: &dyn Disk,
    directory: &Path,
    root: &Path,
    deep: bool,
    go_on: &dyn Fn() -> bool,
) -> Vec<String> {
    let files = read(disk, directory, root).map(|note| note.files).unwrap_or_default();
    files
        .iter()
        .take_while(|_| go_on())
        .filter_map(|noted| {
            let path = root.join(&noted.file);
            noted.differs(&path, deep).map(|how| format!("{} {how}", path.display()))
        })
        .collect()
}

impl NotedFile {
    fn differs(&self, path: &Path, deep: bool) -> Option<String> {
        let found = match std::fs::metadata(path) {
            Ok(metadata) if !deep || metadata.len() != self.bytes => Ok((metadata.len(), None)),
            Ok(_) => sha256_of(path).map(|(bytes, sha256)| (bytes, Some(sha256))),
            Err(error) => Err(error),
        };
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is not there".to_owned()),
            Err(error) => Some(format!("cannot be read: {error}")),
            Ok((bytes, _)) if bytes != self.bytes => {
                Some(format!("has {bytes} bytes, and {} were written", self.bytes))
            }
            Ok((_, Some(sha256))) if sha256 != self.sha256 => {
                Some("has other bytes than were written".to_owned())
            }
            Ok(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_note_is_about_one_place_and_one_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let (here, there) = (Path::new("/parquet"), Path::new("/elsewhere"));
        assert!(!covers(&RealDisk, dir.path(), 0, here), "there is none");
        note(&RealDisk, dir.path(), 7, here, &[]).expect("noted");
        for (seq, root, expected) in [(7, here, true), (6, here, true), (8, here, false), (7, there, false)] {
            assert_eq!(covers(&RealDisk, dir.path(), seq, root), expected, "{seq} {}", root.display());
        }
        std::fs::write(dir.path().join(FILE), "7").expect("write");
        assert!(!covers(&RealDisk, dir.path(), 7, here), "nobody knows where to");
        // As an older version wrote it.
        std::fs::write(dir.path().join(FILE), r#"{"seq":7,"parquet_path":"/parquet"}"#).expect("write");
        assert!(covers(&RealDisk, dir.path(), 7, here));
        forget(&RealDisk, dir.path()).expect("removed");
        forget(&RealDisk, dir.path()).expect("nothing to remove");
        assert!(!covers(&RealDisk, dir.path(), 7, here));
    }

    #[test]
    fn what_became_of_an_exported_file_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data.parquet");
        std::fs::write(&path, "whole").expect("write");
        let (bytes, sha256) = sha256_of(&path).expect("read");
        let published = PublishedFile { path: path.clone(), bytes, sha256 };
        note(&RealDisk, dir.path(), 7, dir.path(), &[published]).expect("noted");
        let told = |deep| differences(&RealDisk, dir.path(), dir.path(), deep, &|| true).join(" ");
        assert_eq!(told(true), "");
        std::fs::write(&path, "whose").expect("write");
        assert_eq!(told(false), "", "only a deep look reads it");
        assert!(told(true).contains("other bytes"));
        std::fs::write(&path, "").expect("write");
        assert!(told(false).contains("0 bytes"));
        std::fs::remove_file(&path).expect("remove");
        assert!(told(false).contains("is not there"));
    }
}
