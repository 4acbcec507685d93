//! The room on a disk: taken away, and given back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{Daemon, Random, Site};

use super::Mode;

/// What bounds the room of a run.
pub(super) enum Room {
    /// A file system of its own, and the file that fills it.
    Disk { ballast: PathBuf },
    /// A limit for the size of each file.
    Limit { bytes: u64, is_on: bool },
}

impl Room {
    pub(super) fn new(mode: Mode, disk: &Path, random: &mut Random) -> Self {
        match mode {
            Mode::LimitedLog => Self::Limit { bytes: random.between(8, 1000) << 10, is_on: false },
            Mode::LimitedDatabase => Self::Limit { bytes: random.between(1100, 3000) << 10, is_on: false },
            _ => Self::Disk { ballast: disk.join("ballast") },
        }
    }

    /// Leaves so many bytes, at most.
    pub(super) fn fill(&mut self, daemon: &Daemon, left_bytes: u64) {
        match self {
            Self::Disk { ballast } => {
                let file = fs::File::create(&*ballast).expect("create the ballast");
                let stat = rustix::fs::fstatvfs(&file).expect("look at the disk");
                let free = stat.f_bavail * stat.f_frsize;
                let flags = rustix::fs::FallocateFlags::empty();
                let wanted = free.saturating_sub(left_bytes);
                // Somebody may have been faster; then it is full anyhow.
                if wanted > 0 {
                    let _ = rustix::fs::fallocate(&file, flags, 0, wanted);
                }
            }
            Self::Limit { bytes, is_on } => {
                *is_on = true;
                limit(daemon, Some(*bytes));
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub(super) fn make(&mut self, daemon: Option<&Daemon>) {
        match self {
            Self::Disk { ballast } => drop(fs::remove_file(ballast)),
            Self::Limit { is_on, .. } => {
                *is_on = false;
                if let Some(daemon) = daemon {
                    limit(daemon, None);
                }
            }
        }
    }

    /// The daemon's command line, with the limit where there is one now.
    pub(super) fn command(&self, site: &Site) -> Command {
        let daemon = site.command();
        let Self::Limit { bytes, is_on: true } = self else { return daemon };
        // Of the shell the unit is 512 or 1,024 bytes; of this program it is a byte.
        let mut command = Command::new("prlimit");
        command.arg(format!("--fsize={bytes}:")).arg(daemon.get_program()).args(daemon.get_args());
        command.env_clear();
        command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }
}

fn limit(daemon: &Daemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(daemon.pid() as i32).expect("a process");
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("set its limit");
}
