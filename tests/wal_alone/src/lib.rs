//! The daemon's log without the daemon: the sources of `daemon/src/wal` and what they stand on, and their tests.
//!
//! The daemon's own test program links DuckDB, which takes minutes. To change the log in a hundred places and test each
//! change (`tests/mutants.md`), and to count which lines the tests reach (`tests/coverage.md`), it must take seconds:
//!
//! ```sh
//! cargo test --release -p fastpersist-wal-alone --lib
//! ```
//!
//! Invariant: no code of its own. Each module has the same path as in the daemon, so the sources are the same.

// What the sources are to keep to is checked where they belong.
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, clippy::all, clippy::pedantic)]

#[cfg(test)]
use daemon::planted;
use daemon::{clock, disk, latch, storage, underway, wal};

#[path = "../../../daemon/src"]
mod daemon {
    pub mod clock;
    pub mod disk;
    pub mod latch;
    #[cfg(test)]
    pub(crate) mod planted;
    pub mod underway;
    pub mod wal;

    pub mod storage {
        pub mod producers;
        pub mod record;
        pub mod schema;

        #[cfg(test)]
        pub(crate) mod faults {
            pub(crate) mod chance;
            pub(crate) mod runs;
        }
    }
}
