//! Files of closed dates, attached only for the queries that read them.
//!
//! A date that the daemon has open is read through its own attachment, which a query keeps open by holding the
//! partition. A date that is closed and settled is attached here, read-only, once for all queries that want it.
//! To open it as a partition instead would read its whole data into memory and take a place among
//! `max_open_dates`.
//!
//! Invariant: a file is attached at most once in this process. Whoever opens the date to write asks for the
//! file first ([`Borrowing::reclaim`]): the queries that have it are ended, and begin again behind the opening.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::running::{Cancelled, Running};
use crate::duck::engine::Engine;
use crate::duck::error::DuckError;

/// How long whoever opens a date waits for the queries that read it.
const RECLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// How often they are interrupted meanwhile.
const NUDGE_INTERVAL: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Entry {
    alias: String,
    readers: Vec<Arc<Running>>,
}

/// The files that are attached for queries.
#[derive(Debug, Default)]
pub struct Borrowing {
    files: Mutex<HashMap<PathBuf, Entry>>,
    returned: Condvar,
}

impl Borrowing {
    /// Waits until no query has the file attached, and ends those that have.
    ///
    /// # Errors
    /// [`DuckError::Borrowed`] when one of them does not end.
    pub(in crate::duck) fn reclaim(&self, path: &Path) -> Result<(), DuckError> {
        let begun = Instant::now();
        let mut files = self.files.lock();
        while let Some(entry) = files.get(path) {
            if begun.elapsed() > RECLAIM_TIMEOUT {
                return Err(DuckError::Borrowed { file: path.to_owned() });
            }
            entry.readers.iter().for_each(|running| running.cancel(Cancelled::Preempted));
            self.returned.wait_for(&mut files, NUDGE_INTERVAL);
        }
        Ok(())
    }

    /// Whether a query has the file attached.
    pub fn has(&self, path: &Path) -> bool {
        self.files.lock().contains_key(path)
    }

    /// How many files are attached for queries.
    pub fn len(&self) -> usize {
        self.files.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file that is attached for one query; dropped, it is given back.
#[derive(Debug)]
pub struct Borrowed {
    engine: Arc<Engine>,
    path: PathBuf,
    alias: String,
    running: Arc<Running>,
}

impl Borrowed {
    /// Attaches a file read-only, or takes part in an attachment that is there. The caller sees to it that
    /// nobody opens the same file meanwhile.
    ///
    /// # Errors
    /// [`DuckError::Open`] for a file that DuckDB cannot read.
    pub fn new(engine: &Arc<Engine>, path: PathBuf, running: &Arc<Running>) -> Result<Self, DuckError> {
        let mut files = engine.borrowing().files.lock();
        let alias = if let Some(entry) = files.get_mut(&path) {
            entry.readers.push(Arc::clone(running));
            entry.alias.clone()
        } else {
            let alias = engine.new_alias();
            engine.attach_for_query(&path, &alias)?;
            let readers = vec![Arc::clone(running)];
            files.insert(path.clone(), Entry { alias: alias.clone(), readers });
            alias
        };
        drop(files);
        Ok(Self { engine: Arc::clone(engine), path, alias, running: Arc::clone(running) })
    }

    /// The name under which it is attached.
    pub(super) fn alias(&self) -> &str {
        &self.alias
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let borrowing = self.engine.borrowing();
        let mut files = borrowing.files.lock();
        let Some(entry) = files.get_mut(&self.path) else { return };
        if let Some(at) = entry.readers.iter().position(|reader| Arc::ptr_eq(reader, &self.running)) {
            entry.readers.swap_remove(at);
        }
        if entry.readers.is_empty() {
            if let Err(error) = self.engine.detach(&self.path, &self.alias) {
                // The next attachment of the file says what is wrong with it.
                tracing::warn!(file = %self.path.display(), %error, "a file stays attached behind a query");
            }
            files.remove(&self.path);
            borrowing.returned.notify_all();
        }
    }
}
