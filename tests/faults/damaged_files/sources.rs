//! Where a record still is, by looking into the files past the daemon: what no source has may be told as lost.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::harness::{Site, files};

/// The places whose records the log has.
fn logged(directory: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for segment in files::segments(directory) {
        for (_, line) in files::wal_lines(&segment) {
            let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
            let Some(first) = line["seq"].as_u64() else { continue };
            let count = line["ops"].as_array().map_or(1, Vec::len) as u64;
            found.extend(first..first + count);
        }
    }
    found
}

/// Up to which record there is a backup that is not the file `broken`, nor of its day.
fn backed_up(directory: &Path, broken: &Path) -> u64 {
    let manifests = files::tree(directory).into_iter().filter(|path| path.ends_with("backup.json"));
    let whole = manifests.filter(|path| path.parent() != broken.parent() || !is_backup(broken));
    let seq = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok()?["seq"].as_u64();
    whole.filter_map(seq).max().unwrap_or(0)
}

fn is_backup(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".backup") || name.starts_with("backup.json")
}

/// Which of a partition's records are in no file but its database.
pub(super) fn only_in_database(
    site: &Site,
    partition: &str,
    seqs: &BTreeSet<u64>,
    broken: &Path,
) -> BTreeSet<u64> {
    let directory =
        if partition.is_empty() { site.path("settings") } else { site.path("jobs").join(partition) };
    let (logged, backed_up) = (logged(&directory), backed_up(&directory, broken));
    seqs.iter().copied().filter(|seq| *seq > backed_up && !logged.contains(seq)).collect()
}
