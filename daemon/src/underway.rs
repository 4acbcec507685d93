//! What is under way right now, and for how long: so that the watchdog can tell a daemon that works from one
//! that hangs in the disk.
//!
//! Invariant: marking costs one reading of the clock and two relaxed stores, for it stands in the way of
//! every commit. One thing at a time per mark: whoever begins holds the lock or the lead that says so.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Times are kept as milliseconds after this, so that they fit an atomic.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A mark for one kind of work: when the piece that is under way began; 0 while there is none.
#[derive(Debug, Default)]
pub struct Underway(AtomicU64);

impl Underway {
    /// Marks the work as under way until the guard is dropped.
    pub fn begin(&self) -> UnderwayGuard<'_> {
        self.0.store(now_ms(), Ordering::Relaxed);
        UnderwayGuard(self)
    }

    /// For how long the present piece of work has been under way; `None` while there is none.
    pub fn elapsed(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            began_ms => Some(Duration::from_millis(now_ms().saturating_sub(began_ms))),
        }
    }
}

/// Work that is under way as long as this lives.
#[derive(Debug)]
pub struct UnderwayGuard<'a>(&'a Underway);

impl Drop for UnderwayGuard<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

/// Never 0, which says that nothing is under way.
fn now_ms() -> u64 {
    EPOCH.elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_under_way_as_long_as_the_guard_lives() {
        let mark = Underway::default();
        assert_eq!(mark.elapsed(), None);
        let guard = mark.begin();
        let first = mark.elapsed().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(mark.elapsed().unwrap() >= first + Duration::from_millis(19));
        drop(guard);
        assert_eq!(mark.elapsed(), None);
    }

    #[test]
    fn a_panic_ends_it() {
        let mark = Underway::default();
        let work = std::panic::AssertUnwindSafe(|| {
            let _guard = mark.begin();
            panic!("the work fails");
        });
        assert!(std::panic::catch_unwind(work).is_err());
        assert_eq!(mark.elapsed(), None);
    }
}
