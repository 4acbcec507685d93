//! Ending early what only delays the daemon's end: copies for backups, reads for exports.
//!
//! Invariant: once it is called, nothing that takes long begins any more; what runs is interrupted again and
//! again, because DuckDB forgets an interrupt that comes between two statements.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use duckdb::{Connection, InterruptHandle};
use parking_lot::Mutex;

use super::engine::Engine;
use super::error::DuckError;

/// Who must be interrupted when the daemon cannot wait.
#[derive(Default)]
pub(super) struct Hurry {
    called: AtomicBool,
    running: Mutex<Vec<Arc<InterruptHandle>>>,
}

impl fmt::Debug for Hurry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hurry").field("called", &self.called).finish_non_exhaustive()
    }
}

/// A connection whose statements may be interrupted, as long as this lives.
pub(super) struct Interruptible<'e> {
    engine: &'e Engine,
    handle: Arc<InterruptHandle>,
}

impl Engine {
    /// Interrupts what may be interrupted, now; and nothing of it begins any more.
    pub fn hurry(&self) {
        self.hurry.called.store(true, Ordering::Relaxed);
        for handle in &*self.hurry.running.lock() {
            handle.interrupt();
        }
    }

    /// Whether nothing that takes long is to be begun any more.
    pub fn is_hurried(&self) -> bool {
        self.hurry.called.load(Ordering::Relaxed)
    }

    /// For whoever is about to begin something that takes long.
    pub(super) fn check_hurry(&self) -> Result<(), DuckError> {
        if self.is_hurried() { Err(DuckError::Hurried) } else { Ok(()) }
    }

    /// Lets a connection's statements be interrupted.
    pub(super) fn interruptible(&self, conn: &Connection) -> Interruptible<'_> {
        let handle = conn.interrupt_handle();
        self.hurry.running.lock().push(Arc::clone(&handle));
        Interruptible { engine: self, handle }
    }
}

impl Drop for Interruptible<'_> {
    fn drop(&mut self) {
        self.engine.hurry.running.lock().retain(|handle| !Arc::ptr_eq(handle, &self.handle));
    }
}
