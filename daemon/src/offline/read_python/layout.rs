//! What lies in a directory of the library, by the names of its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fastpersist_protocol::time::Date;

use crate::storage::schema::Model;

/// The names of a collection's databases.
pub(super) const HISTORY: &str = "storage_history.duckdb";
pub(super) const LATEST: &str = "storage_latest.duckdb";

/// The files of one date.
#[derive(Debug)]
pub(super) struct Day {
    pub(super) date: Date,
    /// Dated only: files that end in `.duckdb`.
    pub(super) databases: Vec<PathBuf>,
    /// The log's files, in their order.
    pub(super) wal: Vec<PathBuf>,
}

/// A directory of the library.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    pub(super) model: Model,
    /// By date.
    pub(super) days: Vec<Day>,
}

/// Why a directory cannot be one of the library.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It cannot be listed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// Why it could not.
        source: io::Error,
    },
    /// It is one of ours.
    #[error("{} is a directory of fastpersistd itself, not of the Python library", .0.display())]
    Own(PathBuf),
    /// It has none of its files.
    #[error(
        "{} has nothing of the Python library in it: no storage_history.duckdb, and no directory named by a \
         date with a database or wal_*.jsonl in it",
        .0.display()
    )]
    Nothing(PathBuf),
}

impl Layout {
    /// Looks at the names in `root`. It may also be the directory of a single date.
    pub(super) fn find(root: &Path) -> Result<Self, LayoutError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LayoutError::Io { path, source }
        };
        // Its own name may be a date, which `.` hides.
        let root = root.canonicalize().map_err(failed(root))?;
        let mut days = Vec::new();
        for entry in names(&root).map_err(failed(&root))? {
            let path = root.join(&entry);
            if let Some(date) = Date::parse(&entry).filter(|_| path.is_dir()) {
                days.extend(Day::find(date, &path).map_err(failed(&path))?);
            }
        }
        if root.join(crate::dir_lock::LOCK_FILE).exists() {
            return Err(LayoutError::Own(root));
        }
        let collection = [HISTORY, LATEST].iter().any(|name| root.join(name).is_file());
        let own_date = root.file_name().and_then(|name| Date::parse(name.to_str()?));
        if let Some(date) = own_date.filter(|_| days.is_empty() && !collection) {
            days.extend(Day::find(date, &root).map_err(failed(&root))?);
        }
        if days.is_empty() && !collection {
            return Err(LayoutError::Nothing(root));
        }
        days.sort_by_key(|day| day.date);
        let has_databases = days.iter().any(|day| !day.databases.is_empty());
        let model = if collection || (!has_databases && days.iter().any(Day::is_of_a_collection)) {
            Model::Collection
        } else {
            Model::Dated
        };
        Ok(Self { root, model, days })
    }

    /// A file's name for people: below the directory.
    pub(super) fn short(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

impl Day {
    /// `None` where nothing of the library is in it, as in a date that was closed and holds backups only.
    fn find(date: Date, dir: &Path) -> io::Result<Option<Self>> {
        let mut databases = Vec::new();
        let mut wal = Vec::new();
        for name in names(dir)? {
            let number = name.strip_prefix("wal_").and_then(|rest| rest.strip_suffix(".jsonl"));
            if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                wal.push((number, dir.join(&name)));
            } else if name.ends_with(".duckdb") {
                databases.push(dir.join(&name));
            }
        }
        wal.sort();
        databases.sort();
        let wal: Vec<_> = wal.into_iter().map(|(_, path)| path).collect();
        Ok((!wal.is_empty() || !databases.is_empty()).then_some(Self { date, databases, wal }))
    }

    /// Whether the first line of its log has the names of a collection.
    fn is_of_a_collection(&self) -> bool {
        let mut found = false;
        if let Some(first) = self.wal.first() {
            let _ = super::wal::lines(first, &mut |line| {
                found |= line.text.is_ok_and(|text| text.contains("\"collection_name\":"));
                !found && line.number < 10
            });
        }
        found
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
