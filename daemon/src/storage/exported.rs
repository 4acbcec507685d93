//! The note that says how far a partition was exported, and to where.
//!
//! Invariant: the note is written when the files are in place, and tells of the configured Parquet root only.
//! Without it, or with another root, the partition is exported again.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};

/// The file's name in the partition's directory.
const FILE: &str = "exported";

#[derive(Serialize, Deserialize)]
struct Note<'a> {
    seq: u64,
    parquet_path: std::borrow::Cow<'a, Path>,
}

/// Notes that everything up to `seq` is below `root`.
///
/// # Errors
/// When the note cannot be written.
pub fn note(disk: &dyn Disk, directory: &Path, seq: u64, root: &Path) -> io::Result<()> {
    let note = Note { seq, parquet_path: root.into() };
    disk::write_durably(disk, &directory.join(FILE), &serde_json::to_vec(&note)?)
}

/// Whether everything up to `seq` is below `root`. A note that cannot be read tells nothing.
pub fn covers(disk: &dyn Disk, directory: &Path, seq: u64, root: &Path) -> bool {
    let Ok(bytes) = disk.read(&directory.join(FILE)) else { return false };
    serde_json::from_slice::<Note<'_>>(&bytes).is_ok_and(|note| note.seq >= seq && note.parquet_path == root)
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
        note(&RealDisk, dir.path(), 7, here).expect("noted");
        for (seq, root, expected) in [(7, here, true), (6, here, true), (8, here, false), (7, there, false)] {
            assert_eq!(covers(&RealDisk, dir.path(), seq, root), expected, "{seq} {}", root.display());
        }
        std::fs::write(dir.path().join(FILE), "7").expect("write");
        assert!(!covers(&RealDisk, dir.path(), 7, here), "nobody knows where to");
    }
}
