//! The disk is full, in the middle of writing, of a flush or of a backup: each write is stored or refused, reads and
//! deletions go on, a daemon that is killed starts again, and when there is room everything goes on by itself.
//!
//! A small tmpfs is mounted where nobody else sees it, in a process of its own: with its end the mount is gone, however
//! it ends. A limit for file sizes (RLIMIT_FSIZE) is a full disk that needs no root.

mod disk;
mod run;

use std::process::{Command, Stdio};

use super::runs::{self, Tally};
use crate::harness::{Random, child, is_root};
pub(crate) use run::play;

/// What is full, and when it gets so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A small disk, while clients write.
    Writing,
    /// A small disk, after a flush has found that there is enough room.
    Flushing,
    /// A small disk, while a backup or an export is made.
    Copying,
    /// No file may be as long as a segment of the log.
    LimitedLog,
    /// No file may be as long as DuckDB's get.
    LimitedDatabase,
}

impl Mode {
    const ALL: [Self; 5] =
        [Self::Writing, Self::Flushing, Self::Copying, Self::LimitedLog, Self::LimitedDatabase];

    fn of(seed: u64) -> Self {
        Self::ALL[seed as usize % Self::ALL.len()]
    }

    fn is_limit(self) -> bool {
        matches!(self, Self::LimitedLog | Self::LimitedDatabase)
    }
}

/// The seed of a run in a process of its own.
const SEED: &str = "FASTPERSIST_FULL_DISK_SEED";
/// Where its disk is mounted; unset where it is none of its own.
const DISK: &str = "FASTPERSIST_FULL_DISK";
/// How a line begins that tells what is not as promised.
const WRONG: &str = "wrong:";

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_room_is_all_it_takes() {
    let mut tally = Tally::new("full_disk");
    let can_mount = is_root() && can_mount();
    let (mut refusals, mut checkpoints) = (0, 0);
    for seed in runs::seeds(5, 50) {
        let mode = Mode::of(seed);
        if !can_mount && !mode.is_limit() {
            eprintln!("skipped: seed {seed}, {mode:?}: it needs root and unshare for a disk of its own");
            continue;
        }
        tally.runs += 1;
        let said = run_apart(seed, mode);
        for line in said.lines() {
            if let Some(count) = line.strip_prefix("refused:") {
                let count: u64 = count.trim().parse().expect("a number");
                refusals += count;
                tally.injected += u64::from(count > 0);
            } else if let Some(count) = line.strip_prefix("checkpoints:") {
                checkpoints += count.trim().parse::<u64>().expect("a number");
            } else if let Some(wrong) = line.split_once(WRONG) {
                let list = if wrong.1.contains("is not there") { &mut tally.lost } else { &mut tally.wrong };
                eprintln!("{seed} {mode:?}: {}", wrong.1);
                list.push(format!("FASTPERSIST_SEED={seed} {mode:?}: {}", wrong.1));
            }
        }
    }
    println!(
        "full_disk: {refusals} requests were refused and {checkpoints} checkpoints failed for lack of room"
    );
    tally.end();
}

fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "--propagation", "private", "true"]).status();
    tried.is_ok_and(|status| status.success())
}

/// One run in a process of its own; what it said.
fn run_apart(seed: u64, mode: Mode) -> String {
    let exe = std::env::current_exe().expect("the test binary");
    let played = child::command(&exe, "full-disk", "");
    let mount = tempfile::tempdir().expect("a temporary directory");
    let mut command = if mode.is_limit() {
        played
    } else {
        let size = Random::seeded(seed ^ 0xd15c).between(64, 128);
        let script =
            format!("mount -t tmpfs -o size={size}m fastpersist-test \"${DISK}\" && exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.arg(played.get_program()).args(played.get_args());
        command.envs(played.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env(DISK, mount.path());
        command
    };
    let output = command.env(SEED, seed.to_string()).stdin(Stdio::null()).output().expect("start a process");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in errors.lines().filter(|line| line.starts_with("note:")) {
        eprintln!("{seed} {mode:?}: {line}");
    }
    if output.status.success() {
        return said;
    }
    let last: Vec<_> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
    format!("{said}\n{WRONG} {}", last[last.len().saturating_sub(30)..].join(" | "))
}
