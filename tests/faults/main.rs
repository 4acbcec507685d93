//! The fault instruments that work on the real program from outside. Each breaks one kind of thing in a running
//! `fastpersistd`, or in what it left, and checks what the answers promised; `tests/README.md` tells them all, with the
//! long runs and their figures. Those that need the seam in `disk.rs` are in the daemon's own crate.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// DuckDB is a name and no code.
#![allow(clippy::doc_markdown)]

mod answered;
#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other tests")]
mod harness;
mod runs;

mod bad_clients;
mod clocks;
mod damaged_files;
mod directories;
mod full_disk;
mod history_check;
mod hostile_lines;
mod kill_at_calls;
mod kill_loop;
mod races;
mod soak;
mod stopped;

/// The parts that this program's own processes play.
fn play(role: &str, socket: &str) {
    match role {
        "history-clients" => history_check::client::run(socket),
        "full-disk" => full_disk::play(),
        "kill-writer" => kill_loop::writer::run(socket),
        other => panic!("no role {other}"),
    }
}
