//! What happens to one file.
//!
//! Invariant: a fault that [passes](Fault::passes) leaves the file's content as it was.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::Random;

/// The calls that read a file.
const READS: &str = "read,pread64,readv,preadv,preadv2,sendfile,copy_file_range";

/// A fault of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// One bit is another one.
    Bit,
    /// A few bytes are others.
    Bytes,
    /// A block of 4 KiB is noise.
    Block,
    /// It ends somewhere before its end.
    Cut,
    /// It is empty.
    Empty,
    /// It is gone.
    Missing,
    /// There is a directory of its name.
    Directory,
    /// Whose daemon it is may not read it.
    Forbidden,
    /// Each read of it fails with EIO, in the daemon that `strace` has.
    Failing,
}

impl Fault {
    pub(super) const ALL: [Self; 9] = [
        Self::Bit,
        Self::Bytes,
        Self::Block,
        Self::Cut,
        Self::Empty,
        Self::Missing,
        Self::Directory,
        Self::Forbidden,
        Self::Failing,
    ];

    /// Whether nothing of the file's content is lost.
    pub(super) fn passes(self) -> bool {
        matches!(self, Self::Directory | Self::Forbidden | Self::Failing)
    }
}

/// A fault that was injected, with what there was before.
pub(super) struct Injected {
    pub(super) file: PathBuf,
    pub(super) fault: Fault,
    pub(super) before: Vec<u8>,
    mode: u32,
    /// Whether reads of it fail.
    fails: Cell<bool>,
    /// Whether the daemon has written on since.
    pub(super) outdated: Cell<bool>,
}

impl Injected {
    pub(super) fn inject(file: &Path, fault: Fault, random: &mut Random) -> Self {
        let before = fs::read(file).unwrap();
        let mode = fs::metadata(file).unwrap().permissions().mode();
        let open = || fs::File::options().write(true).open(file).unwrap();
        let length = before.len() as u64;
        let at = if length == 0 { 0 } else { random.between(0, length - 1) };
        match fault {
            Fault::Bit if length > 0 => {
                let byte = before[at as usize] ^ (1 << random.between(0, 7));
                open().write_all_at(&[byte], at).unwrap();
            }
            Fault::Bytes | Fault::Block if length > 0 => {
                let (at, count) = if fault == Fault::Bytes {
                    (at, random.between(2, 16))
                } else {
                    (at / 4096 * 4096, 4096)
                };
                let noise: Vec<u8> =
                    (0..count.min(length - at)).map(|_| random.between(0, 255) as u8).collect();
                open().write_all_at(&noise, at).unwrap();
            }
            Fault::Bit | Fault::Bytes | Fault::Block | Fault::Failing => {}
            Fault::Cut => open().set_len(at).unwrap(),
            Fault::Empty => open().set_len(0).unwrap(),
            Fault::Missing => fs::remove_file(file).unwrap(),
            Fault::Directory => {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
                // A name in it: what is not empty is not removed by mistake.
                fs::write(file.join("x"), "x").unwrap();
            }
            Fault::Forbidden => fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap(),
        }
        let (fails, outdated) = (Cell::new(fault == Fault::Failing), Cell::new(false));
        Self { file: file.to_owned(), fault, before, mode, fails, outdated }
    }

    /// Whether the file is other than it was before the fault.
    pub(super) fn is_there(&self) -> bool {
        match self.fault {
            Fault::Directory => self.file.is_dir(),
            Fault::Forbidden => fs::metadata(&self.file)
                .is_ok_and(|metadata| metadata.permissions().mode().trailing_zeros() >= 9),
            Fault::Missing => !self.file.exists(),
            Fault::Failing => self.fails.get(),
            _ => fs::read(&self.file).is_ok_and(|now| now != self.before),
        }
    }

    /// Takes back a fault that cost no content.
    pub(super) fn undo(&self) {
        match self.fault {
            Fault::Directory if self.file.is_dir() => {
                fs::remove_dir_all(&self.file).unwrap();
                // DuckDB's own log as it was would be played back into a database that has gone on: it makes rows twice.
                if !(self.outdated.get() && self.file.extension().is_some_and(|extension| extension == "wal"))
                {
                    fs::write(&self.file, &self.before).unwrap();
                }
            }
            Fault::Forbidden if self.file.exists() => {
                fs::set_permissions(&self.file, fs::Permissions::from_mode(self.mode)).unwrap();
            }
            Fault::Failing => self.fails.set(false),
            _ => {}
        }
    }

    /// `strace` for a daemon whose reads of the file fail.
    pub(super) fn strace(&self) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "--quiet=all", "-o", "/dev/null", "-P"]).arg(&self.file);
        command.args(["-e", &format!("trace={READS}"), "-e", &format!("inject={READS}:error=EIO")]);
        command
    }

    /// As [`undo`](Self::undo), of whatever fault: what a person does whom a message told to.
    pub(super) fn put_back(&self) {
        self.undo();
        fs::write(&self.file, &self.before).unwrap();
    }
}

#[test]
fn each_fault_is_one_and_passes_or_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    for fault in Fault::ALL {
        for seed in 0..20 {
            fs::write(&file, vec![7; 10_000]).unwrap();
            let injected = Injected::inject(&file, fault, &mut Random::seeded(seed));
            assert!(injected.is_there(), "{fault:?} {seed}");
            injected.undo();
            assert_eq!(injected.is_there(), !fault.passes(), "{fault:?} {seed}");
            if !fault.passes() {
                injected.put_back();
            }
            assert_eq!(fs::read(&file).unwrap(), injected.before);
        }
    }
}
