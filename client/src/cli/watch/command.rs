//! The command that is run for each change.

use std::io::{self, Write as _};
use std::process::{Command, ExitStatus, Stdio};

use fastpersist_client::{Change, Record};

use crate::cli::failure::{Failure, Outcome};

/// Runs a command for each change, and says what its failure means.
pub(super) struct Handler {
    command: String,
    storage: Option<String>,
    keep_going: bool,
}

impl Handler {
    pub(super) fn new(command: &str, storage: Option<&str>, keep_going: bool) -> Self {
        Self { command: command.to_owned(), storage: storage.map(str::to_owned), keep_going }
    }

    /// Waits until the command has ended; answers how.
    pub(super) fn run(&self, change: &Change, json: &str) -> Outcome<ExitStatus> {
        self.status(change, json).map_err(|error| Failure::io(&self.command, &error))
    }

    /// Says that the command has failed, which is the end unless it is to go on.
    pub(super) fn complain(&self, change: &Change, status: ExitStatus) -> Outcome {
        let message = format!("the command for change {} ended with {status}", change.seq());
        if self.keep_going {
            eprintln!("fastpersist: {message}");
            return Ok(());
        }
        let hint = "the change counts as not handled; --keep-going goes on behind a failure";
        Err(Failure::failed(message).with_hint(hint))
    }

    fn status(&self, change: &Change, json: &str) -> io::Result<ExitStatus> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.command).stdin(Stdio::piped());
        for name in NAMES {
            command.env_remove(name);
        }
        command.envs(variables(change));
        if let Some(storage) = &self.storage {
            command.env(STORAGE, storage);
        }
        let mut child = command.spawn()?;
        let written = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(format!("{json}\n").as_bytes()),
            None => Ok(()),
        };
        let status = child.wait()?;
        match written {
            // It need not read its input.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(status),
        }
    }
}

const STORAGE: &str = "FASTPERSIST_STORAGE";
/// What a command may find; taken out first, so that it finds nothing of somebody else's.
const NAMES: [&str; 7] = [
    "FASTPERSIST_EVENT",
    "FASTPERSIST_SEQ",
    "FASTPERSIST_KEY",
    "FASTPERSIST_DATE",
    "FASTPERSIST_PROCESS_NAME",
    "FASTPERSIST_COLLECTION_NAME",
    "FASTPERSIST_ITEM_NAME",
];

/// What a change has.
fn variables(change: &Change) -> Vec<(&'static str, String)> {
    let (event, process, collection, item) = match change {
        Change::Store(Record::Dated(record)) => ("store", record.process_name.clone(), None, None),
        Change::Store(Record::Collection(record)) => {
            ("store", None, Some(record.collection_name.clone()), Some(record.item_name.clone()))
        }
        Change::Delete(gone) => {
            ("delete", gone.process_name.clone(), gone.collection_name.clone(), gone.item_name.clone())
        }
        _ => ("", None, None, None),
    };
    let date = change.date().map(|date| date.to_string());
    let values = [
        Some(event.to_owned()),
        Some(change.seq().to_string()),
        Some(change.key().to_owned()),
        date,
        process,
        collection,
        item,
    ];
    NAMES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
}
