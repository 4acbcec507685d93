//! The manifest beside a backup, and which backups there are.
//!
//! `backup.json` names the files, how many rows they have, their lengths and checksums. It is written last:
//! first as `backup.json.next`, which is the moment from which the backup is there, then the files get their
//! names, then the manifest gets its own. Whoever finds `backup.json.next` finishes that ([`roll_forward`]).
//!
//! | name | says |
//! |---|---|
//! | `backup.json` | a backup that was verified |
//! | `backup.json.next` | the same, its files may still end in `.tmp` |
//! | `backup.json.damaged` | a backup that was found to differ from its manifest; it is never used |
//! | `backup.json.removed` | retention took the files away; it stays for a date, to say how far it was backed up |
//!
//! Invariants: a manifest under one of these names is whole; backups are put in order by `seq`, for the
//! wall clock that names them may jump; nothing here changes a file but [`roll_forward`], [`mark_damaged`]
//! and [`mark_sound`].

use std::io;
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::{Date, Timestamp};
use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};

/// The layout of the manifest that this program writes and reads.
pub const FORMAT: u32 = 1;
/// The manifest of a verified backup.
pub const MANIFEST_FILE: &str = "backup.json";
/// The manifest while the backup's files get their names.
pub const NEXT_FILE: &str = "backup.json.next";
/// The manifest of a backup that was found damaged.
pub const DAMAGED_FILE: &str = "backup.json.damaged";
/// The manifest of a backup whose files were removed by retention.
pub const REMOVED_FILE: &str = "backup.json.removed";

/// What a backup consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The manifest's layout, [`FORMAT`].
    pub format: u32,
    /// The backup's name: its day.
    #[serde(with = "as_text")]
    pub backup: Date,
    /// The storage.
    pub storage: String,
    /// The storage's model.
    pub model: String,
    /// The last record that it holds.
    pub seq: u64,
    /// When it was taken.
    #[serde(with = "as_text")]
    pub created_at: Timestamp,
    /// No record in it was written later than this.
    #[serde(with = "as_text")]
    pub last_updated_at: Timestamp,
    /// The program that wrote it.
    pub fastpersistd_version: String,
    /// Its DuckDB. The rows' checksums are those of this version; another one may hash differently.
    pub duckdb_version: String,
    /// The database files.
    pub files: Vec<BackupFile>,
}

/// One database file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its name, in the manifest's directory.
    pub file: String,
    /// The table in it.
    pub table: String,
    /// The table's rows.
    pub rows: u64,
    /// The sum of the rows' hashes, a decimal number: it does not depend on their order.
    pub rows_checksum: String,
    /// The file's length.
    pub bytes: u64,
    /// The file's SHA-256, as `sha256sum` prints it.
    pub sha256: String,
}

impl Manifest {
    /// The rows of the table that reads are answered from: the live records.
    pub fn rows(&self) -> u64 {
        self.files.last().map_or(0, |file| file.rows)
    }

    /// The length of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The manifest as the file has it.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers alone cannot fail to be written.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Texts for what the protocol writes as text.
mod as_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Date, Timestamp};

    pub(super) trait Parse: Sized {
        fn parse_text(text: &str) -> Option<Self>;
    }

    impl Parse for Date {
        fn parse_text(text: &str) -> Option<Self> {
            Self::parse(text)
        }
    }

    impl Parse for Timestamp {
        fn parse_text(text: &str) -> Option<Self> {
            Self::parse(text)
        }
    }

    pub(super) fn serialize<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, T: Parse, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        T::parse_text(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no date or time")))
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read, or a file could not be given its name.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no manifest of this program.
    #[error("{}: {what}; take a new backup, and move this one away", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl ManifestError {
    pub(super) fn io(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, source }
    }
}

/// What is known of a backup without reading its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was verified when it was taken, and its files have the lengths that they had then.
    Verified,
    /// It was found to differ from its manifest, or a file is missing or has another length.
    Damaged,
    /// Its files were removed by retention.
    Removed,
}

/// A backup, found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub directory: PathBuf,
    /// What it consists of.
    pub manifest: Manifest,
    /// What is known of it.
    pub state: State,
    /// Its files, in the manifest's order. Where the daemon stopped while they got their names, these are
    /// still the temporary ones.
    pub paths: Vec<PathBuf>,
}

impl Found {
    /// Whether it may be restored from.
    pub fn is_verified(&self) -> bool {
        self.state == State::Verified
    }
}

/// Reads the manifest of that name in a directory; `None` where there is none.
///
/// # Errors
/// See [`ManifestError`].
pub fn read(disk: &dyn Disk, directory: &Path, name: &str) -> Result<Option<Manifest>, ManifestError> {
    let file = directory.join(name);
    let bytes = match disk.read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(ManifestError::io(&file))?,
    };
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| ManifestError::Content { file: file.clone(), what: error.to_string() })?;
    let content = |what: String| Err(ManifestError::Content { file: file.clone(), what });
    if manifest.format != FORMAT {
        return content(format!("its format is {}, and this program reads {FORMAT}", manifest.format));
    }
    // They become paths.
    let plain = |name: &str| !name.contains(['/', '\0']) && name.ends_with(super::FILE_SUFFIX);
    if manifest.files.is_empty() || !manifest.files.iter().all(|entry| plain(&entry.file)) {
        return content("its files are not those of a backup".to_owned());
    }
    Ok(Some(manifest))
}

/// The backup in a directory, as it stands; nothing is changed. One that was removed is answered too.
///
/// # Errors
/// See [`ManifestError`].
pub fn find(disk: &dyn Disk, directory: &Path) -> Result<Option<Found>, ManifestError> {
    for (name, state) in [
        (NEXT_FILE, State::Verified),
        (MANIFEST_FILE, State::Verified),
        (DAMAGED_FILE, State::Damaged),
        (REMOVED_FILE, State::Removed),
    ] {
        let Some(manifest) = read(disk, directory, name)? else { continue };
        let place = |entry: &BackupFile| {
            let path = directory.join(&entry.file);
            let temporary = disk::temporary_beside(&path);
            if name == NEXT_FILE && temporary.exists() { temporary } else { path }
        };
        let paths: Vec<_> = manifest.files.iter().map(place).collect();
        let whole =
            manifest.files.iter().zip(&paths).all(|(entry, path)| {
                std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == entry.bytes)
            });
        let state = if state == State::Verified && !whole { State::Damaged } else { state };
        return Ok(Some(Found { directory: directory.to_owned(), manifest, state, paths }));
    }
    Ok(None)
}

/// Every backup of a storage but those that were removed, by name. A manifest that cannot be read is logged
/// and passed over.
///
/// # Errors
/// When the storage's directory cannot be listed.
pub fn list(disk: &dyn Disk, base_dir: &Path) -> Result<Vec<Found>, ManifestError> {
    let mut found = Vec::new();
    for name in disk.list(base_dir).map_err(ManifestError::io(base_dir))? {
        if Date::parse(&name).is_none() {
            continue;
        }
        match find(disk, &base_dir.join(&name)) {
            Ok(one) => found.extend(one.filter(|one| one.state != State::Removed)),
            Err(error) => tracing::warn!(%error, "a backup's manifest cannot be used"),
        }
    }
    Ok(found)
}

/// A collection's newest backup that may be restored from: the one with the highest `seq`.
///
/// # Errors
/// When the storage's directory cannot be listed.
pub fn newest_verified(disk: &dyn Disk, base_dir: &Path) -> Result<Option<Found>, ManifestError> {
    let found = list(disk, base_dir)?.into_iter().filter(Found::is_verified);
    Ok(found.max_by_key(|one| (one.manifest.seq, one.manifest.created_at)))
}

/// The backup of one date of a dated storage, if it may be restored from.
///
/// # Errors
/// See [`ManifestError`].
pub fn verified_of_date(
    disk: &dyn Disk,
    base_dir: &Path,
    date: Date,
) -> Result<Option<Found>, ManifestError> {
    Ok(find(disk, &base_dir.join(date.to_string()))?.filter(Found::is_verified))
}

/// Finishes a backup whose files were about to get their names, and removes what an interrupted one left.
/// Only for whoever holds the storage's lock.
///
/// # Errors
/// When a file cannot be renamed or removed; it is tried again the next time.
pub fn roll_forward(disk: &dyn Disk, directory: &Path) -> Result<(), ManifestError> {
    let names = disk.list(directory).map_err(ManifestError::io(directory))?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(NEXT_FILE)
        && let Some(manifest) = read(disk, directory, NEXT_FILE)?
    {
        give_names(disk, directory, &manifest)?;
    }
    for name in names.iter().filter(|name| is_leftover(name)) {
        let path = directory.join(name);
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ManifestError::Io { file: path, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a name is that of something that an interrupted backup leaves: the copies, DuckDB's logs beside
/// them, and a manifest that was being written.
fn is_leftover(name: &str) -> bool {
    let stem = [".wal", ".wal.checkpoint", ".wal.recovery"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let Some(stem) = stem.strip_suffix(disk::TEMPORARY_SUFFIX) else { return false };
    stem.ends_with(super::FILE_SUFFIX) || stem == NEXT_FILE
}

/// Gives a backup's files and then its manifest their names. May be repeated.
pub(super) fn give_names(
    disk: &dyn Disk,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), ManifestError> {
    for entry in &manifest.files {
        let path = directory.join(&entry.file);
        let temporary = disk::temporary_beside(&path);
        if temporary.exists() {
            disk.rename(&temporary, &path).map_err(ManifestError::io(&temporary))?;
        }
    }
    let sync = || disk.sync_dir(directory).map_err(ManifestError::io(directory));
    sync()?;
    // What is said of the backup that was replaced is no longer true.
    for old in [DAMAGED_FILE, REMOVED_FILE] {
        match disk.remove(&directory.join(old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ManifestError::Io { file: directory.join(old), source: error });
            }
            _ => {}
        }
    }
    rename(disk, directory, NEXT_FILE, MANIFEST_FILE)
}

/// Notes that a backup differs from its manifest: it is never used from now on.
///
/// # Errors
/// When the manifest cannot be renamed.
pub fn mark_damaged(disk: &dyn Disk, directory: &Path) -> Result<(), ManifestError> {
    rename(disk, directory, MANIFEST_FILE, DAMAGED_FILE)
}

/// Takes such a note back, for a backup that was read again and is as its manifest says.
///
/// # Errors
/// When the manifest cannot be renamed.
pub fn mark_sound(disk: &dyn Disk, directory: &Path) -> Result<(), ManifestError> {
    rename(disk, directory, DAMAGED_FILE, MANIFEST_FILE)
}

pub(super) fn rename(disk: &dyn Disk, directory: &Path, from: &str, to: &str) -> Result<(), ManifestError> {
    let from = directory.join(from);
    match disk.rename(&from, &directory.join(to)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(ManifestError::io(&from))?,
    }
    disk.sync_dir(directory).map_err(ManifestError::io(directory))
}
