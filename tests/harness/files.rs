//! Files as anyone finds them: trees, copies and WAL lines.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Every file below `dir`, sorted. A directory that is not there has none.
pub(crate) fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("read a directory entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every file below `dir` with its bytes, to see afterwards that nobody touched one.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    tree(dir).into_iter().filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
}

/// The names below `before` and `after` that are not the same in both. Said as names: the bytes would drown a report.
pub(crate) fn changed(
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
) -> Vec<PathBuf> {
    let names = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name));
    let mut names: Vec<_> = names.cloned().collect();
    names.sort();
    names.dedup();
    names
}

/// Copies a tree, without sockets and the like.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make the copy's directory");
    for path in tree(from) {
        if !path.is_file() {
            continue;
        }
        let target = to.join(path.strip_prefix(from).expect("a path below its root"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("make a directory");
        fs::copy(&path, &target).expect("copy a file");
    }
}

/// The WAL segments below `dir`, in order of date and number.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        stem.starts_with("wal_") && path.extension().is_some_and(|end| end == "jsonl")
    };
    tree(dir).into_iter().filter(is_segment).collect()
}

/// The lines of one segment with their offsets: all before the first NUL, the room made ready for later lines.
pub(crate) fn wal_lines(segment: &Path) -> Vec<(usize, Vec<u8>)> {
    let bytes = fs::read(segment).expect("read a WAL segment");
    let written = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut lines = Vec::new();
    let mut at = 0;
    for line in bytes[..written].split_inclusive(|byte| *byte == b'\n') {
        lines.push((at, line.to_vec()));
        at += line.len();
    }
    lines
}

/// The `seq` of every line of a segment that holds no batch.
pub(crate) fn wal_seqs(segment: &Path) -> Vec<u64> {
    let seq = |(offset, line): (usize, Vec<u8>)| {
        let entry: Value = serde_json::from_slice(&line)
            .unwrap_or_else(|e| panic!("{} at {offset} is no JSON: {e}", segment.display()));
        assert!(entry.get("crc").is_some(), "no crc in {entry}");
        entry["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {entry}"))
    };
    wal_lines(segment).into_iter().map(seq).collect()
}
