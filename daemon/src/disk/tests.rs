//! The operations on real files.

use std::sync::atomic::Ordering;

use super::*;
use crate::wal::failing::FailingDisk;

const DISK: RealDisk = RealDisk;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn a_file_is_made_once_and_written_where_it_is_said() {
    let dir = dir();
    let path = dir.path().join("file");
    let mut file = DISK.create(&path).expect("made");
    file.write_at(2, b"cd").expect("written");
    file.write_at(0, b"ab").expect("written");
    file.sync().expect("synced");
    assert_eq!(DISK.read(&path).expect("read"), b"abcd");
    assert_eq!(DISK.create(&path).expect_err("it exists").kind(), io::ErrorKind::AlreadyExists);
    let mut file = DISK.open(&path).expect("opened");
    file.preallocate(4096).expect("space");
    assert_eq!(fs::metadata(&path).expect("there").len(), 4096);
    file.truncate(3).expect("cut");
    assert_eq!(DISK.read(&path).expect("read"), b"abc");
    assert_eq!(DISK.open(&dir.path().join("none")).expect_err("none").kind(), io::ErrorKind::NotFound);
    assert_eq!(DISK.read(&dir.path().join("none")).expect_err("none").kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_head_and_the_tail_are_as_long_as_is_asked_for() {
    let dir = dir();
    let path = dir.path().join("file");
    fs::write(&path, b"0123456789").expect("written");
    for (limit, head, tail) in [(3, &b"012"[..], &b"789"[..]), (10, b"0123456789", b"0123456789")] {
        assert_eq!(DISK.read_head(&path, limit).expect("read"), head);
        assert_eq!(DISK.read_tail(&path, limit).expect("read"), tail);
    }
    assert_eq!(DISK.read_head(&path, 99).expect("read"), b"0123456789");
    assert_eq!(DISK.read_tail(&path, 99).expect("read"), b"0123456789");
}

#[test]
fn names_are_listed_in_order_changed_and_removed() {
    let dir = dir();
    for name in ["b", "a", "c"] {
        fs::write(dir.path().join(name), name).expect("written");
    }
    DISK.rename(&dir.path().join("c"), &dir.path().join("a")).expect("renamed");
    assert_eq!(DISK.list(dir.path()).expect("listed"), ["a", "b"]);
    assert_eq!(DISK.read(&dir.path().join("a")).expect("read"), b"c", "it is replaced");
    DISK.remove(&dir.path().join("b")).expect("removed");
    assert_eq!(DISK.list(dir.path()).expect("listed"), ["a"]);
    assert!(DISK.list(&dir.path().join("none")).expect("none is no error").is_empty());
    assert!(DISK.list(&dir.path().join("a")).is_err(), "it is a file");
}

#[test]
fn a_directory_may_be_there_already_and_a_file_in_its_place_may_not() {
    let dir = dir();
    let (made, file) = (dir.path().join("made"), dir.path().join("file"));
    DISK.create_dir(&made).expect("made");
    DISK.create_dir(&made).expect("it is there");
    fs::write(&file, "").expect("written");
    assert!(DISK.create_dir(&file).is_err());
    assert!(DISK.remove_dir(dir.path()).is_err(), "it is not empty");
    DISK.remove_dir(&made).expect("removed");
    assert!(!made.exists());
    assert!(DISK.sync_dir(&made).is_err());
    DISK.sync_dir(dir.path()).expect("synced");
}

#[test]
fn a_directory_is_made_with_all_above_it() {
    let dir = dir();
    let deep = dir.path().join("a/b/c");
    create_dir_durably(&DISK, &deep).expect("made");
    create_dir_durably(&DISK, &deep).expect("it is there");
    assert!(deep.is_dir());
    fs::write(dir.path().join("file"), "").expect("written");
    assert!(create_dir_durably(&DISK, &dir.path().join("file/below")).is_err());
}

#[test]
fn a_file_is_written_whole_over_what_was_there_and_what_was_left() {
    let dir = dir();
    let path = dir.path().join("file");
    fs::write(temporary_beside(&path), "left by a crash, and longer").expect("written");
    write_durably(&DISK, &path, b"first").expect("written");
    write_durably(&DISK, &path, b"new").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"new");
    assert_eq!(DISK.list(dir.path()).expect("listed"), ["file"]);
    fs::create_dir(temporary_beside(&path)).expect("made");
    let error = write_durably(&DISK, &path, b"cannot").expect_err("it cannot be written");
    assert_ne!(error.kind(), io::ErrorKind::AlreadyExists, "it is told that the old one cannot be removed");
    assert_eq!(fs::read(&path).expect("read"), b"new", "it is as it was");
}

#[test]
fn what_is_published_anybody_may_read() {
    let dir = dir();
    let path = dir.path().join("figures");
    fs::write(temporary_beside(&path), "left").expect("written");
    publish(&DISK, &path, b"1").expect("published");
    publish(&DISK, &path, b"2").expect("published");
    assert_eq!(fs::read(&path).expect("read"), b"2");
    assert_eq!(mode_of(&path), 0o644);
    assert_eq!(DISK.list(dir.path()).expect("listed"), ["figures"]);
    fs::create_dir(temporary_beside(&path)).expect("made");
    let error = publish(&DISK, &path, b"3").expect_err("it cannot be written");
    assert_ne!(error.kind(), io::ErrorKind::AlreadyExists, "it is told that the old one cannot be removed");
}

#[test]
fn names_beside_and_above() {
    assert_eq!(temporary_beside(Path::new("/a/wal.jsonl")), Path::new("/a/wal.jsonl.tmp"));
    for (path, parent) in [("/a/b", "/a"), ("b", "."), ("/", ".")] {
        assert_eq!(parent_of(Path::new(path)), Path::new(parent), "{path}");
    }
}

#[test]
fn what_is_full_and_what_fails_otherwise() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        assert!(is_full(&io::Error::from_raw_os_error(errno)), "{errno}");
    }
    for errno in [libc::EIO, libc::EMFILE, libc::EROFS] {
        assert!(!is_full(&io::Error::from_raw_os_error(errno)), "{errno}");
    }
}

#[test]
fn two_names_of_one_directory_are_the_same() {
    let dir = dir();
    fs::create_dir(dir.path().join("a")).expect("made");
    fs::create_dir(dir.path().join("b")).expect("made");
    let identity = |name: &str| identity(&dir.path().join(name)).expect("there");
    assert_eq!(identity("a"), identity("b/../a"));
    assert_ne!(identity("a"), identity("b"));
    assert_ne!(identity("a"), identity("."));
}

#[test]
fn free_space_is_what_the_system_says() {
    let dir = dir();
    let stat = rustix::fs::statvfs(dir.path()).expect("asked");
    let free = DISK.free_bytes(dir.path()).expect("asked");
    // Others write meanwhile, but not most of it.
    let expected = stat.f_bavail * stat.f_frsize;
    assert!(free / 2 < expected && expected / 2 < free, "{free}, not about {expected}");
}

#[test]
fn below_a_directory_that_may_not_be_read_what_is_there_is_taken_and_other_errors_are_told() {
    let dir = dir();
    let disk = FailingDisk::default();
    disk.failures.dir_syncs_denied.store(1, Ordering::SeqCst);
    create_dir_durably(&disk, dir.path()).expect("it is there, and not ours");
    disk.failures.dir_syncs.store(1, Ordering::SeqCst);
    create_dir_durably(&disk, dir.path()).expect_err("it may not be durable");
    disk.failures.dir_syncs_denied.store(2, Ordering::SeqCst);
    create_dir_durably(&disk, &dir.path().join("new")).expect_err("one that was just made must be durable");
}
