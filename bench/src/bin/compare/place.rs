//! Where the servers keep their files, and what the machine under them is.
//!
//! Invariant: the files are on a file system that has a disk, else a comparison of durable stores
//! would compare nothing.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastpersist_bench::duration_text;
use tempfile::TempDir;

use crate::cleanup;
use crate::error::{CompareError, Context};

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// The magic numbers of `statfs` that one is likely to meet.
const FILE_SYSTEMS: [(u64, &str); 9] = [
    (TMPFS, "tmpfs"),
    (RAMFS, "ramfs"),
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x2FC1_2FC1, "zfs"),
    (0xF2F5_2010, "f2fs"),
    (0x794C_7630, "overlayfs"),
    (0x6969, "nfs"),
];

/// How often the disk is asked for its sync time.
const PROBES: usize = 200;

/// The directories of a run. Both go when this is dropped.
pub(crate) struct Place {
    data: TempDir,
    /// A socket's path may have 107 bytes, and the data may lie deep. Sockets need no disk.
    sockets: TempDir,
    file_system: String,
    next: std::cell::Cell<u32>,
}

impl Place {
    /// Makes the directories: the data's below `wanted`, or else where there is a disk.
    pub(crate) fn new(wanted: Option<&Path>) -> Result<Self, CompareError> {
        let (parent, file_system) = match wanted {
            Some(directory) => (directory.to_owned(), on_disk(directory)?),
            None => first_on_disk()?,
        };
        let make = |parent: &Path| {
            tempfile::Builder::new()
                .prefix("fastpersist-bench-")
                .tempdir_in(parent)
                .context(|| format!("cannot make a directory in {}", parent.display()))
        };
        let place = Self {
            data: make(&parent)?,
            sockets: make(&std::env::temp_dir())?,
            file_system,
            next: std::cell::Cell::new(1),
        };
        cleanup::register_directory(place.data.path());
        cleanup::register_directory(place.sockets.path());
        Ok(place)
    }

    /// A fresh directory for one server's files, and a path for its socket.
    pub(crate) fn room(&self, name: &str) -> Result<Room, CompareError> {
        let number = self.next.replace(self.next.get() + 1);
        let directory = self.data.path().join(format!("{number:03}-{name}"));
        std::fs::create_dir(&directory).context(|| format!("cannot make {}", directory.display()))?;
        Ok(Room { directory, socket: self.sockets.path().join(format!("{number:03}.sock")) })
    }

    /// One line about what the figures were measured on.
    pub(crate) fn machine(&self) -> Result<String, CompareError> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
            .unwrap_or("unknown processor");
        let kernel = read("/proc/sys/kernel/osrelease");
        Ok(format!(
            "{cores} cores ({model}), Linux {}, {}, append + fdatasync {} (median of {PROBES})",
            kernel.trim(),
            self.file_system,
            duration_text(self.sync_time()?)
        ))
    }

    /// What one durable append of a small record costs here.
    fn sync_time(&self) -> Result<Duration, CompareError> {
        let path = self.data.path().join("sync-probe");
        let probe = || -> std::io::Result<Duration> {
            let mut file = File::create(&path)?;
            let mut times = Vec::with_capacity(PROBES);
            for _ in 0..PROBES {
                let started = Instant::now();
                file.write_all(&[b'x'; 256])?;
                file.sync_data()?;
                times.push(started.elapsed());
            }
            times.sort_unstable();
            std::fs::remove_file(&path)?;
            Ok(times[PROBES / 2])
        };
        probe().context(|| format!("cannot write to {}", path.display()))
    }
}

/// One server's part of the place; its files go when this is dropped, so that the disk never
/// holds more than one measurement.
pub(crate) struct Room {
    pub(crate) directory: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Drop for Room {
    fn drop(&mut self) {
        // What stays here goes with the whole place.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn first_on_disk() -> Result<(PathBuf, String), CompareError> {
    let target = PathBuf::from("target");
    if target.is_dir()
        && let Ok(file_system) = on_disk(&target)
    {
        return Ok((target, file_system));
    }
    let temporary = std::env::temp_dir();
    let file_system = on_disk(&temporary)?;
    Ok((temporary, file_system))
}

fn on_disk(directory: &Path) -> Result<String, CompareError> {
    let status = rustix::fs::statfs(directory)
        .map_err(std::io::Error::from)
        .context(|| format!("cannot look at {}", directory.display()))?;
    // The field's type differs between architectures; the magic numbers fit 32 bits.
    let magic = status.f_type as u64 & 0xFFFF_FFFF;
    let kind = FILE_SYSTEMS
        .iter()
        .find(|(known, _)| *known == magic)
        .map_or_else(|| format!("file system {magic:#x}"), |(_, name)| (*name).to_owned());
    if magic == TMPFS || magic == RAMFS {
        return Err(CompareError::InMemory { directory: directory.to_owned(), kind });
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_refused_by_name() {
        let shared_memory = Path::new("/dev/shm");
        if !shared_memory.is_dir() {
            return;
        }
        let message = on_disk(shared_memory).expect_err("/dev/shm lives in memory").to_string();
        assert!(message.contains("tmpfs") && message.contains("--dir"), "{message}");
    }
}
