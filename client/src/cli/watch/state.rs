//! The file that says how far a watch has come.
//!
//! Invariant: the file is replaced in one step, so it always tells one state, an older or a newer one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fastpersist_client::{Begun, Change, Date};
use serde::{Deserialize, Serialize};

use crate::cli::failure::{Exit, Failure, Outcome};

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    storage: Option<String>,
    date: Option<String>,
    last_seq: u64,
}

pub(super) struct State {
    path: PathBuf,
    storage: Option<String>,
    date: Option<Date>,
    last_seq: Option<u64>,
    noted: Option<Noted>,
}

impl State {
    /// Reads the file, where it is there. It must be of the same storage, and of the same date where one is
    /// asked for.
    pub(super) fn open(path: &Path, storage: Option<&str>, date: Option<Date>) -> Outcome<Self> {
        let noted = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::io(path.display(), &error)),
            Ok(bytes) => Some(serde_json::from_slice::<Noted>(&bytes).map_err(|error| {
                Failure::new(Exit::Configuration, format!("{} is no state file: {error}", path.display()))
            })?),
        };
        let mut state = Self {
            path: path.to_owned(),
            storage: storage.map(str::to_owned),
            date,
            last_seq: noted.as_ref().map(|noted| noted.last_seq),
            noted: noted.clone(),
        };
        let Some(noted) = noted else { return Ok(state) };
        let noted_date = noted.date.as_deref().and_then(Date::parse);
        state.date = date.or(noted_date);
        if noted.storage.as_deref() != storage || state.date != noted_date {
            let of = [noted.storage, noted.date].into_iter().flatten().collect::<Vec<_>>().join(", ");
            let message = format!("{} is of another watch ({of})", path.display());
            return Err(Failure::usage(message).with_hint("--state names a file of this one, or a new one"));
        }
        Ok(state)
    }

    pub(super) fn date(&self) -> Option<Date> {
        self.date
    }

    /// Behind what was handled; `None` where nothing is known of it.
    pub(super) fn next_seq(&self) -> Option<u64> {
        self.last_seq.map(|seq| seq + 1)
    }

    /// The daemon tells from here on: also what is not handled now is not missed by the next start.
    pub(super) fn begin(&mut self, begun: Begun, from_seq: Option<u64>) -> Outcome {
        self.date = self.date.or(begun.date);
        let first = from_seq.map_or(begun.seq, |from_seq| from_seq.saturating_sub(1));
        self.last_seq.get_or_insert(first);
        self.note()
    }

    /// A change is handled.
    pub(super) fn handled(&mut self, change: &Change) {
        self.last_seq = Some(change.seq());
        self.date = change.date();
    }

    /// Whether the file tells what is handled.
    pub(super) fn is_noted(&self) -> bool {
        self.last_seq == self.noted.as_ref().map(|noted| noted.last_seq)
    }

    /// Writes what is handled, where that is not in the file already.
    pub(super) fn note(&mut self) -> Outcome {
        let Some(last_seq) = self.last_seq else { return Ok(()) };
        let date = self.date.map(|date| date.to_string());
        let noted = Noted { storage: self.storage.clone(), date, last_seq };
        if self.noted.as_ref() == Some(&noted) {
            return Ok(());
        }
        let written = serde_json::to_vec(&noted).map_err(io::Error::other);
        let written = written.and_then(|json| replace(&self.path, &json));
        written.map_err(|error| Failure::io(self.path.display(), &error))?;
        self.noted = Some(noted);
        Ok(())
    }
}

/// Replaces a file in one step.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_again_and_only_by_the_same_watch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let date = Date::parse("2025-01-15");
        let mut state = State::open(&path, Some("jobs"), None).unwrap();
        assert_eq!(state.next_seq(), None);
        (state.date, state.last_seq) = (date, Some(7));
        state.note().unwrap();
        for asked in [None, date] {
            let again = State::open(&path, Some("jobs"), asked).unwrap();
            assert_eq!((again.next_seq(), again.date()), (Some(8), date));
        }
        assert!(State::open(&path, Some("other"), None).is_err());
        assert!(State::open(&path, None, None).is_err());
        assert!(State::open(&path, Some("jobs"), Date::parse("2025-01-16")).is_err());
        fs::write(&path, "{}").unwrap();
        assert!(State::open(&path, Some("jobs"), None).is_err());
    }
}
