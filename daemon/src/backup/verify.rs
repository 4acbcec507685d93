//! Reading a backup again: every byte, and through DuckDB every row.
//!
//! The files' SHA-256 decides first. A file that has the bytes with which it was verified is what it was, so
//! when DuckDB still cannot open it, that is DuckDB's trouble and no damage.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::BackupError;
use super::manifest::{BackupFile, Found};
use crate::duck::{self, Engine};

/// How much of a file is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Compares a backup's files with its manifest. Blocks for as long as it takes to read them.
///
/// # Errors
/// [`BackupError::Damaged`] for whatever differs, [`BackupError::Duck`] where DuckDB cannot open a file that
/// has the right bytes.
pub fn verify(engine: &Arc<Engine>, found: &Found) -> Result<(), BackupError> {
    let manifest = &found.manifest;
    let damaged = |what: String| BackupError::Damaged { name: manifest.backup.to_string(), what };
    for (entry, path) in manifest.files.iter().zip(&found.paths) {
        check_bytes(entry, path).map_err(damaged)?;
    }
    // Another DuckDB may hash differently.
    let comparable = duck::library_version() == manifest.duckdb_version;
    for (entry, path) in manifest.files.iter().zip(&found.paths) {
        let contents = duck::read_contents(engine, &entry.table, path)?;
        let mut differences = Vec::new();
        let mut compare = |what: &str, expected: &str, found: &str| {
            if expected != found {
                differences
                    .push(format!("{}: {what} {found} where the manifest says {expected}", entry.file));
            }
        };
        compare("rows", &entry.rows.to_string(), &contents.rows.to_string());
        compare("seq", &manifest.seq.to_string(), &contents.flushed_seq.to_string());
        if comparable {
            compare("rows_checksum", &entry.rows_checksum, &contents.checksum);
        }
        if !differences.is_empty() {
            return Err(damaged(differences.join("; ")));
        }
    }
    Ok(())
}

/// Compares the bytes of a backup's files with its manifest, for as long as `go_on` says so; answers what
/// differs, in words. A file that has the bytes with which it was verified is what it was.
pub fn check_files(found: &Found, go_on: &dyn Fn() -> bool) -> Option<String> {
    for (entry, path) in found.manifest.files.iter().zip(&found.paths) {
        let differs = match sha256_while(path, go_on) {
            Ok(Some((bytes, sha256))) => compare_bytes(entry, bytes, &sha256).err(),
            Ok(None) => return None,
            Err(error) => Some(format!("{} cannot be read: {error}", entry.file)),
        };
        if differs.is_some() {
            return differs;
        }
    }
    None
}

/// What differs, in words.
pub(crate) fn check_bytes(entry: &BackupFile, path: &Path) -> Result<(), String> {
    let (bytes, sha256) =
        sha256_of(path).map_err(|error| format!("{} cannot be read: {error}", entry.file))?;
    compare_bytes(entry, bytes, &sha256)
}

/// As [`check_bytes`], for a file that was read already.
pub(crate) fn compare_bytes(entry: &BackupFile, bytes: u64, sha256: &str) -> Result<(), String> {
    if bytes != entry.bytes {
        return Err(format!("{} has {bytes} bytes where the manifest says {}", entry.file, entry.bytes));
    }
    if sha256 != entry.sha256 {
        return Err(format!(
            "{} has the SHA-256 {sha256} where the manifest says {}",
            entry.file, entry.sha256
        ));
    }
    Ok(())
}

/// A file's length and SHA-256. The file must not be one that the daemon has attached.
pub(crate) fn sha256_of(path: &Path) -> io::Result<(u64, String)> {
    Ok(sha256_while(path, &|| true)?.unwrap_or_default())
}

/// As [`sha256_of`]; `None` where it was not to go on.
fn sha256_while(path: &Path, go_on: &dyn Fn() -> bool) -> io::Result<Option<(u64, String)>> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    while go_on() {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(Some((bytes, hex(&hasher.finalize()))));
        }
        hasher.update(&chunk[..length]);
        bytes += length as u64;
    }
    Ok(None)
}

/// Bytes as `sha256sum` prints them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
