//! Which backups are old enough to go, and their removal.
//!
//! Invariant: of a storage's verified backups the newest stays, whatever the clock says: the one with the
//! highest `seq` for a collection, the one taken last for a dated storage.

use std::path::PathBuf;

use chrono_tz::Tz;
use fastpersist_protocol::time::Date;

use super::manifest::{self, DAMAGED_FILE, Found, MANIFEST_FILE, ManifestError, REMOVED_FILE};
use crate::disk::Disk;
use crate::schedule::day_of;
use crate::storage::schema::Model;

/// What the retention goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The storage's model.
    pub model: Model,
    /// Its clock.
    pub timezone: Tz,
    /// Today, by that clock.
    pub today: Date,
    /// `retain_days`: backups that were taken longer ago may go.
    pub retain_days: u32,
}

/// The backups that may go.
pub fn expired(found: Vec<Found>, rule: Rule) -> Vec<Found> {
    let newest = found
        .iter()
        .filter(|one| one.is_verified())
        .max_by_key(|one| match rule.model {
            Model::Collection => (one.manifest.seq, one.manifest.created_at),
            // The sequences of two dates have nothing to do with one another.
            Model::Dated => (0, one.manifest.created_at),
        })
        .map(|one| one.directory.clone());
    let is_old = |one: &Found| {
        let day = day_of(one.manifest.created_at, rule.timezone);
        i64::from(rule.today.epoch_days()) - i64::from(day.epoch_days()) > i64::from(rule.retain_days)
    };
    found.into_iter().filter(|one| is_old(one) && Some(&one.directory) != newest.as_ref()).collect()
}

/// Removes a backup's files. From the first step on it does not count any more; what is interrupted is finished
/// by [`finish`]. The manifest of a date stays under another name: it says how far the date had been backed
/// up, so that it is not backed up anew for nothing.
///
/// # Errors
/// When a file cannot be renamed or removed; it is tried again the next time.
pub fn remove(disk: &dyn Disk, found: &Found, model: Model) -> Result<(), ManifestError> {
    for name in [MANIFEST_FILE, DAMAGED_FILE] {
        manifest::rename(disk, &found.directory, name, REMOVED_FILE)?;
    }
    finish(disk, found, model)
}

/// Removes what is left of a backup that was to be removed.
///
/// # Errors
/// When a file cannot be removed.
pub fn finish(disk: &dyn Disk, found: &Found, model: Model) -> Result<(), ManifestError> {
    let own = found.manifest.files.iter().map(|entry| found.directory.join(&entry.file));
    let manifest = (model == Model::Collection).then(|| found.directory.join(REMOVED_FILE));
    remove_all(disk, own)?;
    if let Some(manifest) = manifest {
        // A power cut must not bring back a file that no manifest tells of: it would be told as a damaged backup.
        disk.sync_dir(&found.directory).map_err(ManifestError::io(&found.directory))?;
        remove_all(disk, [manifest])?;
    }
    Ok(())
}

fn remove_all(disk: &dyn Disk, files: impl IntoIterator<Item = PathBuf>) -> Result<(), ManifestError> {
    for file in files {
        match disk.remove(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ManifestError::io(&file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
