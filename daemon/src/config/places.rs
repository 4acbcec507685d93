//! Where files are: no storage's files lie among another's, nor an export among what it was made from, and the
//! log's directory can be had.
//!
//! Nothing is made here; what cannot be told without making it is left to the start.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::{Config, ConfigError, StorageConfig};

/// File systems of the kernel's own, in which nobody can make a directory.
const KERNEL_FILE_SYSTEMS: [i64; 2] = [rustix::fs::PROC_SUPER_MAGIC, 0x6265_6572];

/// Which storages' files would get among each other's, and what would be right.
pub(super) fn conflict(storages: &[StorageConfig]) -> Option<String> {
    let alone = storages.iter().find_map(own_parquet);
    let pairs = || storages.iter().flat_map(|one| storages.iter().map(move |other| (one, other)));
    alone.or_else(|| pairs().filter(|(one, other)| one.name != other.name).find_map(|(a, b)| between(a, b)))
}

fn own_parquet(storage: &StorageConfig) -> Option<String> {
    let path = storage.parquet_path.as_ref()?;
    let name = &storage.name;
    is_within(path, &storage.base_dir).then(|| {
        format!(
            "storage.{name}.parquet_path = {:?} is in the storage's own base_dir; give it a directory beside it",
            path.display().to_string()
        )
    })
}

/// What of `b` lies where `a` has its files.
fn between(a: &StorageConfig, b: &StorageConfig) -> Option<String> {
    let (one, other) = (&a.name, &b.name);
    let own = "each storage needs a directory of its own";
    if resolved(&a.base_dir) == resolved(&b.base_dir) {
        let dir = a.base_dir.display();
        return Some(format!("storage.{one}.base_dir and storage.{other}.base_dir are both {dir}; {own}"));
    }
    if is_within(&b.base_dir, &a.base_dir) {
        let dir = b.base_dir.display();
        return Some(format!(
            "storage.{other}.base_dir = \"{dir}\" is inside the base_dir of storage.{one}; {own}"
        ));
    }
    if let Some(path) = &b.parquet_path {
        let shown = path.display();
        if is_within(path, &a.base_dir) {
            return Some(format!(
                "storage.{other}.parquet_path = \"{shown}\" is inside the base_dir of storage.{one}; give it a directory beside it"
            ));
        }
        if a.parquet_path.as_ref().is_some_and(|root| resolved(root) == resolved(path)) {
            return Some(format!(
                "storage.{one}.parquet_path and storage.{other}.parquet_path are both {shown}; an export of one would remove files of the other"
            ));
        }
    }
    let databases = Path::new(&b.db_path);
    if databases.is_absolute() && a.db_path == b.db_path {
        return Some(format!("storage.{one}.db_path and storage.{other}.db_path are both {:?}", a.db_path));
    }
    if databases.is_absolute() && is_within(&before_date(databases), &a.base_dir) {
        return Some(format!(
            "storage.{other}.db_path = {:?} is inside the base_dir of storage.{one}; {own}",
            b.db_path
        ));
    }
    None
}

/// The part of a path that is the same for all dates.
fn before_date(path: &Path) -> PathBuf {
    let has_date = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains("{date}");
    path.components().take_while(|part| !has_date(part)).collect()
}

fn is_within(path: &Path, directory: &Path) -> bool {
    resolved(path).starts_with(resolved(directory))
}

/// The path without `.`, `..` and, as far as it exists, links.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    let mut missing: Vec<OsString> = Vec::new();
    let mut above = plain.as_path();
    while let (Some(parent), Some(name)) = (above.parent(), above.file_name()) {
        missing.push(name.to_owned());
        if let Ok(real) = parent.canonicalize() {
            return missing.iter().rev().fold(real, |path, name| path.join(name));
        }
        above = parent;
    }
    plain
}

impl Config {
    /// Fails where it is certain that the log's directory cannot be had; the start would find out too, by
    /// making it.
    ///
    /// # Errors
    /// [`ConfigError`] says what is in its place.
    pub fn check_log_dir(&self) -> Result<(), ConfigError> {
        let Some((directory, exists)) = self.log_dir_and_what_exists() else { return Ok(()) };
        let fail = |what: &str| {
            let message = format!(
                "daemon.log_dir = {:?} cannot be used: {} {what}; name a directory, or one that can be made",
                directory.display().to_string(),
                exists.display()
            );
            Err(ConfigError { file: self.file.clone(), message })
        };
        if !exists.is_dir() {
            return fail("is no directory");
        }
        let of_the_kernel = rustix::fs::statfs(&exists)
            .is_ok_and(|file_system| KERNEL_FILE_SYSTEMS.contains(&file_system.f_type));
        if of_the_kernel { fail("is the kernel's own") } else { Ok(()) }
    }

    /// Why the log's directory may not be had by whoever runs this.
    pub(super) fn log_dir_warning(&self) -> Option<String> {
        let (directory, exists) = self.log_dir_and_what_exists()?;
        let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&exists, wanted).err().map(|error| {
            let (directory, exists) = (directory.display(), exists.display());
            format!("daemon.log_dir = \"{directory}\": this user cannot write in {exists}: {error}")
        })
    }

    /// The log's directory, and it or what of the path to it is there.
    fn log_dir_and_what_exists(&self) -> Option<(&Path, PathBuf)> {
        let directory = self.daemon.log_dir.as_deref()?;
        let absolute = std::path::absolute(directory).ok()?;
        let exists = absolute.ancestors().find(|path| path.symlink_metadata().is_ok())?.to_owned();
        Some((directory, exists))
    }
}
