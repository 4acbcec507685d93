//! Leaves nothing behind, however the comparison ends.
//!
//! A server that outlives its measurement takes processor time from every later one. `Drop` stops
//! servers and removes directories on return and on error; this module does it when a signal comes.
//!
//! Invariant: a child is started and registered under one lock, and the signal thread keeps that
//! lock until the process ends, so no child can be started behind its back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{CompareError, Context};

/// A child that the signal thread may kill too.
pub(crate) type SharedChild = Arc<Mutex<Child>>;

static LEFT_BEHIND: Mutex<LeftBehind> =
    Mutex::new(LeftBehind { children: Vec::new(), directories: Vec::new() });

struct LeftBehind {
    children: Vec<Weak<Mutex<Child>>>,
    directories: Vec<PathBuf>,
}

/// A panic elsewhere must not keep children alive, so a poisoned lock is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on, SIGINT, SIGTERM and SIGHUP clean up before they end the process.
pub(crate) fn on_signals() -> Result<(), CompareError> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context(|| "cannot listen for signals".to_owned())?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let left = lock(&LEFT_BEHIND);
            for child in left.children.iter().filter_map(Weak::upgrade) {
                let mut child = lock(&child);
                // Already gone is as good as killed.
                let _ = child.kill();
                let _ = child.wait();
            }
            for directory in &left.directories {
                let _ = std::fs::remove_dir_all(directory);
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// After an error: a signal that killed the servers is its cause, and then this never returns.
pub(crate) fn let_a_signal_end_this() {
    drop(lock(&LEFT_BEHIND));
}

/// Starts a child that dies with this process.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<SharedChild> {
    let mut left = lock(&LEFT_BEHIND);
    left.children.retain(|child| child.strong_count() > 0);
    let child = Arc::new(Mutex::new(command.spawn()?));
    left.children.push(Arc::downgrade(&child));
    Ok(child)
}

/// Has a directory removed when a signal ends the process.
pub(crate) fn register_directory(path: &Path) {
    lock(&LEFT_BEHIND).directories.push(path.to_owned());
}
