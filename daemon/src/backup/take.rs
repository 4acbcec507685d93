//! Taking a backup: copy, read again, compare, and only then give it its name.
//!
//! Invariant: whatever goes wrong, the backup that stood there before is untouched until the new one is
//! complete, compared and durable, and nothing half-made stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastpersist_protocol::time::Date;

use super::manifest::{self, BackupFile, FORMAT, Manifest, NEXT_FILE};
use super::verify::sha256_of;
use super::{BackupError, FILE_SUFFIX};
use crate::clock::Clock;
use crate::config::StorageConfig;
use crate::disk::{self, Disk};
use crate::duck::{self, Contents, DuckError, Engine, Files, Snapshot};

/// What must stay free beside the copy: DuckDB writes more than it keeps.
const FREE_FLOOR_BYTES: u64 = 16 << 20;

/// One backup to be taken.
#[derive(Debug)]
pub struct Job<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// DuckDB.
    pub engine: &'a Arc<Engine>,
    /// The storage.
    pub config: &'a StorageConfig,
    /// The backup's name.
    pub name: Date,
    /// The database files.
    pub files: &'a Files,
}

impl Job<'_> {
    /// Where the backup will stand.
    pub fn directory(&self) -> PathBuf {
        self.config.base_dir.join(self.name.to_string())
    }

    /// Takes the backup of what `snapshot` pins, to be copied to the files that it is given: all that the store has
    /// flushed. Blocks for as long as it takes; flushes and reads go on meanwhile.
    ///
    /// # Errors
    /// See [`BackupError`]; the backup that was there before is still there.
    pub fn run(
        &self,
        snapshot: impl FnOnce(&[PathBuf]) -> Result<Snapshot, DuckError>,
    ) -> Result<Manifest, BackupError> {
        let directory = self.directory();
        disk::create_dir_durably(self.disk, &directory).map_err(BackupError::io(&directory))?;
        // What an interrupted one left is in the way.
        manifest::roll_forward(self.disk, &directory)?;
        self.check_room(&directory)?;
        let taken = self.copy(snapshot, &directory).and_then(|manifest| {
            self.publish(&directory, &manifest)?;
            Ok(manifest)
        });
        if taken.is_err()
            && let Err(error) = manifest::roll_forward(self.disk, &directory)
        {
            tracing::warn!(storage = %self.config.name, %error, "what a failed backup left could not be removed");
        }
        self.engine.release_cache();
        taken
    }

    fn check_room(&self, directory: &Path) -> Result<(), BackupError> {
        let length = |file: &Path| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        let log = |file: &Path| {
            let mut log = file.as_os_str().to_owned();
            log.push(".wal");
            length(Path::new(&log))
        };
        let source_bytes: u64 = self.files.paths().map(|file| length(file) + log(file)).sum();
        let needed_bytes = FREE_FLOOR_BYTES + source_bytes;
        match self.disk.free_bytes(directory) {
            Ok(free_bytes) if free_bytes < needed_bytes => {
                Err(BackupError::NoRoom { free_bytes, needed_bytes })
            }
            // Not knowing is no reason to stop.
            _ => Ok(()),
        }
    }

    fn copy(
        &self,
        snapshot: impl FnOnce(&[PathBuf]) -> Result<Snapshot, DuckError>,
        directory: &Path,
    ) -> Result<Manifest, BackupError> {
        let names: Vec<_> = self.files.paths().map(name_of).collect();
        let copies: Vec<_> = names.iter().map(|name| disk::temporary_beside(&directory.join(name))).collect();
        let snapshot = snapshot(&copies)?;
        let (seq, created_at) = (snapshot.seq(), self.clock.now());
        // Of a deletion that left no row only this is known: it was before now.
        let newest = snapshot.newest()?.filter(|newest| newest.seq == seq);
        let last_updated_at = newest.map_or(created_at, |newest| newest.updated_at);
        let sources = snapshot.copy()?;
        let mut files = Vec::new();
        for ((name, copy), source) in names.into_iter().zip(&copies).zip(sources) {
            files.push(self.check(name, copy, source)?);
        }
        Ok(Manifest {
            format: FORMAT,
            backup: self.name,
            storage: self.config.name.clone(),
            model: self.config.model().to_string(),
            seq,
            created_at,
            last_updated_at,
            fastpersistd_version: env!("CARGO_PKG_VERSION").to_owned(),
            duckdb_version: duck::library_version().to_owned(),
            files,
        })
    }

    /// Makes a copy durable, opens it, and compares it with what was copied.
    fn check(&self, name: String, copy: &Path, source: Contents) -> Result<BackupFile, BackupError> {
        self.disk.open(copy).and_then(|mut file| file.sync()).map_err(BackupError::io(copy))?;
        let found = duck::read_contents(self.engine, source.table, copy)?;
        if found != source {
            return Err(BackupError::Differs {
                what: format!(
                    "{name} has {} rows up to record {} with the checksum {}, {} has {} up to {} with {}",
                    found.rows,
                    found.flushed_seq,
                    found.checksum,
                    source.table,
                    source.rows,
                    source.flushed_seq,
                    source.checksum
                ),
            });
        }
        let (bytes, sha256) = sha256_of(copy).map_err(BackupError::io(copy))?;
        let Contents { table, rows, checksum, .. } = source;
        Ok(BackupFile { file: name, table: table.to_owned(), rows, rows_checksum: checksum, bytes, sha256 })
    }

    /// From the moment at which the manifest has its first name the backup is there, whatever happens.
    fn publish(&self, directory: &Path, manifest: &Manifest) -> Result<(), BackupError> {
        self.disk.sync_dir(directory).map_err(BackupError::io(directory))?;
        let next = directory.join(NEXT_FILE);
        disk::write_durably(self.disk, &next, &manifest.to_bytes()).map_err(BackupError::io(&next))?;
        Ok(manifest::give_names(self.disk, directory, manifest)?)
    }
}

/// The name of a database file's backup.
fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}{FILE_SUFFIX}")
}
