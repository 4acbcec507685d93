//! Giving what root made to the user who will work with it: the daemon's user could not open it otherwise.
//!
//! Invariant: a link that the other user has laid leads nowhere. Symbolic links are not followed, and a file
//! with a second name, which may be anywhere, stays root's.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

/// A user and a group.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    uid: Uid,
    gid: Gid,
}

/// To whom a directory belongs.
///
/// # Errors
/// When it cannot be looked up.
pub fn owner_of(directory: &Path) -> io::Result<Owner> {
    let stat = rustix::fs::stat(directory)?;
    Ok(Owner { uid: Uid::from_raw(stat.st_uid), gid: Gid::from_raw(stat.st_gid) })
}

/// Gives a directory and all in it that is root's to `owner`, durably. Only root can, and for anybody else
/// there is nothing to do: what they made is theirs.
///
/// # Errors
/// When something cannot be looked up or given.
pub fn give_tree(path: &Path, owner: Owner) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    give_entries(directory.as_fd(), owner, &|_| true)?;
    give_open(directory.as_fd(), &rustix::fs::fstat(&directory)?, owner)?;
    Ok(rustix::fs::syncfs(&directory)?)
}

/// As [`give_tree`], for the files in a directory whose name begins with `prefix`.
///
/// # Errors
/// When something cannot be looked up or given.
pub fn give_files(directory: &Path, prefix: &str, owner: Owner) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let directory = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    give_entries(directory.as_fd(), owner, &|name| name.to_bytes().starts_with(prefix.as_bytes()))?;
    Ok(rustix::fs::syncfs(&directory)?)
}

/// As [`give_tree`], without what is in the directory.
///
/// # Errors
/// When it cannot be looked up or given.
pub fn give_directory(path: &Path, owner: Owner) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    give_open(directory.as_fd(), &rustix::fs::fstat(&directory)?, owner)?;
    Ok(rustix::fs::syncfs(&directory)?)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn give_entries(directory: BorrowedFd<'_>, owner: Owner, wanted: &dyn Fn(&CStr) -> bool) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." || !wanted(name) {
            continue;
        }
        match give_entry(directory, name, owner) {
            // Gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

fn give_entry(directory: BorrowedFd<'_>, name: &CStr, owner: Owner) -> io::Result<()> {
    // Only the place: a database file that is truly opened and closed loses its locks.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&entry)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = rustix::fs::openat(&entry, c".", flags, Mode::empty())?;
        give_entries(below.as_fd(), owner, &|_| true)?;
    }
    give_open(entry.as_fd(), &stat, owner)
}

fn give_open(entry: BorrowedFd<'_>, stat: &Stat, owner: Owner) -> io::Result<()> {
    let may_be_given = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => stat.st_nlink == 1,
        _ => false,
    };
    let is_given = stat.st_uid == owner.uid.as_raw() && stat.st_gid == owner.gid.as_raw();
    if stat.st_uid != 0 || !may_be_given || is_given {
        return Ok(());
    }
    Ok(rustix::fs::chownat(entry, c"", Some(owner.uid), Some(owner.gid), AtFlags::EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_roots_is_given_and_no_link_leads_elsewhere() {
        if !is_root() {
            eprintln!("skipped: only root can give files to somebody else");
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("tree/below")).expect("made");
        for name in ["tree/below/made", "elsewhere", "linked"] {
            std::fs::write(path(name), "x").expect("written");
        }
        std::fs::write(path("tree/somebodys"), "x").expect("written");
        std::os::unix::fs::chown(path("tree/somebodys"), Some(77), Some(77)).expect("given");
        symlink(path("elsewhere"), path("tree/symlink")).expect("linked");
        std::fs::hard_link(path("linked"), path("tree/link")).expect("linked");
        let owner = Owner { uid: Uid::from_raw(4242), gid: Gid::from_raw(4243) };
        give_tree(&path("tree"), owner).expect("given");
        let ids_of = |name: &str| {
            let metadata = std::fs::symlink_metadata(path(name)).expect("there");
            (metadata.uid(), metadata.gid())
        };
        for name in ["tree", "tree/below", "tree/below/made"] {
            assert_eq!(ids_of(name), (4242, 4243), "{name}");
        }
        assert_eq!(ids_of("tree/somebodys"), (77, 77), "it was not root's");
        for name in ["elsewhere", "tree/symlink", "linked"] {
            assert_eq!(ids_of(name).0, 0, "{name}");
        }
    }

    #[test]
    fn beside_others_only_the_files_of_that_name_are_given() {
        if !is_root() {
            eprintln!("skipped: only root can give files to somebody else");
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["data.duckdb", "data.duckdb.wal", "other"] {
            std::fs::write(dir.path().join(name), "x").expect("written");
        }
        let owner = Owner { uid: Uid::from_raw(4242), gid: Gid::from_raw(4242) };
        give_files(dir.path(), "data.duckdb", owner).expect("given");
        let uid = |name: &str| std::fs::metadata(dir.path().join(name)).expect("there").uid();
        assert_eq!(["data.duckdb", "data.duckdb.wal", "other"].map(uid), [4242, 4242, 0]);
        assert_eq!(std::fs::metadata(dir.path()).expect("there").uid(), 0);
    }
}
