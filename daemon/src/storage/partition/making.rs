//! New database files, made whole under another name.
//!
//! DuckDB writes a new file in several steps, and one that has only some of them does not open. Under the name of
//! a database it would look like damage; as `FILE.new` it is known for what it is.
//!
//! What gets the name is a copy. DuckDB keeps a file that was detached as long as any transaction takes part in it, and
//! a file that was only renamed would then be open twice in one process. To rename it was tried, too: `power` found one
//! bad block in 50,000 runs, which its own copies may have been to blame for at that time.
//!
//! Invariants: what stands under a database's name was whole and durable when it got the name; what stands under the
//! name of a new file never had a record.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aside;
use super::flush::{FlushError, sync_names};
use crate::disk::{self, Disk};
use crate::duck::{DuckError, Engine, Files, Store};
use crate::storage::schema::Schema;

/// How the name of a database file ends that is being made.
const NEW_SUFFIX: &str = ".new";
/// How long a new file may wait for its checkpoint before the flush fails, and is tried again …
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5);
/// … and how long it is between two tries.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(2);

fn new_name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(NEW_SUFFIX);
    name.into()
}

/// Makes the files, and their directory, where there are none; their names are durable afterwards.
///
/// # Errors
/// [`FlushError::Directory`] when a name cannot be given or made durable, [`FlushError::Duck`] when DuckDB cannot
/// write them. What is half made is tidied up, now or by the next call.
pub(super) fn make(
    disk: &dyn Disk,
    engine: &Arc<Engine>,
    schema: &Arc<Schema>,
    files: &Files,
) -> Result<(), FlushError> {
    for file in files.paths() {
        disk::create_dir_durably(disk, disk::parent_of(file)).map_err(FlushError::Directory)?;
    }
    if !files.exist() {
        let new = files.map(new_name);
        // A kill may have left some.
        remove(disk, &new).map_err(FlushError::Directory)?;
        if let Err(error) = make_new(engine, schema, &new) {
            // On a full disk every byte counts.
            if let Err(error) = remove(disk, &new) {
                tracing::warn!(%error, "an unfinished database file could not be removed");
            }
            return Err(FlushError::Duck(error));
        }
        let mut pairs = new.paths().zip(files.paths());
        pairs.try_for_each(|(new, file)| put(disk, new, file)).map_err(FlushError::Directory)?;
    }
    finish(disk, files).map_err(FlushError::Directory)?;
    // Of two new files that belong together one could be gone.
    sync_names(disk, files).map_err(FlushError::Directory)
}

/// Has DuckDB write the files; afterwards everything is in them, and nothing in a log beside them.
fn make_new(engine: &Arc<Engine>, schema: &Arc<Schema>, new: &Files) -> Result<(), DuckError> {
    let store = Store::open(Arc::clone(engine), Arc::clone(schema), new.clone())?;
    let begun = Instant::now();
    loop {
        match store.checkpoint() {
            // Another partition looks for its columns, which takes part in every file that is attached.
            Err(error) if error.is_put_off() && begun.elapsed() < CHECKPOINT_PATIENCE => {
                std::thread::sleep(CHECKPOINT_PAUSE);
            }
            // The store is dropped and not closed: that would be a checkpoint more, which may have to wait again.
            done => return done,
        }
    }
}

fn put(disk: &dyn Disk, new: &Path, file: &Path) -> io::Result<()> {
    disk::write_durably(disk, file, &disk.read(new)?)
}

/// Where something came in between: gives a collection's second file its name, and removes what is no longer needed.
///
/// # Errors
/// When a file cannot be read, written or removed.
pub(super) fn finish(disk: &dyn Disk, files: &Files) -> io::Result<()> {
    if !files.exist() {
        return Ok(());
    }
    let new = files.map(new_name);
    for (new, file) in new.paths().zip(files.paths()).filter(|(new, _)| new.exists()) {
        // One file has its name only when all of them were whole.
        if !file.exists() {
            put(disk, new, file)?;
        }
        aside::remove_unfinished(disk, new)?;
    }
    Ok(())
}

fn remove(disk: &dyn Disk, new: &Files) -> io::Result<()> {
    new.paths().try_for_each(|file| aside::remove_unfinished(disk, file))
}

#[cfg(test)]
mod tests;
