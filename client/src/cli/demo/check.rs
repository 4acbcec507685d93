//! What the demo holds against the store: the flights themselves, and what the writers were answered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use fastpersist_client::{DatedStorage, blocking};
use parquet::file::reader::{FileReader as _, SerializedFileReader};

use super::flights::Flight;
use crate::cli::failure::{Failure, Outcome};

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) stored: u64,
    /// Keys whose write was answered and that are not there, or not as they were written.
    pub(super) lost: Vec<String>,
    /// Keys that are there more than once.
    pub(super) doubled: Vec<String>,
    /// Keys that nobody wrote.
    pub(super) strange: Vec<String>,
}

impl Findings {
    pub(super) fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.strange.is_empty()
    }
}

/// Reads every flight back and compares: there, once, byte for byte, under the `seq` that was answered. That is 0
/// where the answer was lost in the kill, and the one to the repetition only says that it was there already.
pub(super) fn records(
    jobs: &DatedStorage<blocking::Client>,
    flights: &[Flight],
    answered: &BTreeMap<String, u64>,
) -> Outcome<Findings> {
    let mut findings = Findings::default();
    let stored = all_keys(jobs)?;
    findings.stored = stored.len() as u64;
    for key in &stored {
        if !flights.iter().any(|flight| flight.key == *key) {
            findings.strange.push(key.clone());
        }
    }
    for flight in flights {
        let found = jobs.get_key(&flight.key)?;
        if found.len() > 1 {
            findings.doubled.push(flight.key.clone());
        }
        let as_written = found.iter().any(|record| {
            record.data_json() == flight.json
                && record.process_name.as_deref() == Some(&flight.airport)
                && answered.get(&flight.key).is_some_and(|seq| [0, record.seq].contains(seq))
        });
        if !as_written {
            findings.lost.push(flight.key.clone());
        }
    }
    Ok(findings)
}

pub(super) fn all_keys(jobs: &DatedStorage<blocking::Client>) -> Outcome<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let mut request = jobs.keys();
        if let Some(last) = keys.last() {
            request = request.after(last.as_str());
        }
        let page = request.send()?;
        let empty = page.keys.is_empty();
        keys.extend(page.keys);
        if !page.more || empty {
            return Ok(keys);
        }
    }
}

/// A Parquet file as its own footer describes it.
pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) rows: u64,
}

/// Every Parquet file below a directory, sorted by path, with paths from there.
pub(super) fn parquet_files(dir: &Path) -> Outcome<Vec<ParquetFile>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Nothing was exported; that it should have been is for the caller to say.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::io(dir.display(), &error)),
        };
        for entry in entries {
            let path = entry.map_err(|error| Failure::io(dir.display(), &error))?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                files.push(describe(path)?);
            }
        }
    }
    for file in &mut files {
        if let Ok(short) = file.path.strip_prefix(dir) {
            file.path = short.to_path_buf();
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn describe(path: PathBuf) -> Outcome<ParquetFile> {
    let failure = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    let file = File::open(&path).map_err(|error| failure(&error))?;
    let bytes = file.metadata().map_err(|error| failure(&error))?.len();
    let reader = SerializedFileReader::new(file).map_err(|error| failure(&error))?;
    let rows = reader.metadata().file_metadata().num_rows();
    Ok(ParquetFile { bytes, rows: u64::try_from(rows).unwrap_or(0), path })
}
