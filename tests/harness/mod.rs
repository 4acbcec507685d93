//! What every test stands on: a real daemon in a directory of its own, a raw socket, and readers that know
//! nothing of the daemon's code.

pub(crate) mod child;
pub(crate) mod clock;
mod config;
mod daemon;
pub(crate) mod faults;
pub(crate) mod files;
mod manager;
pub(crate) mod python;
mod random;
mod receiver;
mod socket;
pub(crate) mod strace;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

pub(crate) use config::Config;
pub(crate) use daemon::{Daemon, Exit, Site, bare_command, run_to_exit, run_to_exit_with};
pub(crate) use manager::Manager;
pub(crate) use random::Random;
pub(crate) use receiver::Receiver;
pub(crate) use socket::{Conn, is_stamp, joined, raw};

/// Longer than anything takes on a loaded machine with two cores; reached only by what hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until `probe` has an answer, and fails with `what` was awaited when `limit` is over.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The program `name` that this build made: it lies beside the test's own directory (`TARGET/release/deps`).
pub(crate) fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("FASTPERSIST_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().expect("the path of the test binary");
            own.ancestors().nth(2).expect("TARGET/release/deps/NAME").to_path_buf()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo test --release --workspace`, or name the directory in FASTPERSIST_BIN_DIR",
        path.display()
    );
    path
}

/// True where the tests may become another user. Says so where they may not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can become another user to test access");
    }
    root
}
