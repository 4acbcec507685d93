//! The failure latch of a storage's log: once something failed that cannot be undone, no write is
//! taken until a restart.
//!
//! Invariant: it closes once and never opens again. The first reason stays.

use std::sync::OnceLock;

/// Open until the first irreparable failure.
#[derive(Debug, Default)]
pub struct Latch {
    reason: OnceLock<String>,
}

impl Latch {
    /// Closes the latch, unless it is closed already.
    pub fn close(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
    }

    /// Why the latch is closed; `None` while it is open.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let latch = Latch::default();
        assert_eq!(latch.reason(), None);
        latch.close("first");
        latch.close("second");
        assert_eq!(latch.reason(), Some("first"));
    }
}
