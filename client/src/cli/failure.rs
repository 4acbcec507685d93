//! What ends a verb before its time: an exit code, what was wrong, and what to do about it.
//!
//! Invariant: every failure has one of the exit codes that the documentation lists, and a message.

use std::fmt;
use std::io;
use std::process::ExitCode;

use fastpersist_client::{Error, ErrorCode, SOCKET_VARIABLE};

/// The exit codes, those of `sysexits.h` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nobody reads the output any more, so there is nothing left to do.
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 69,
    Io = 74,
    Forbidden = 77,
    Configuration = 78,
}

/// Why a verb ended.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    hint: Option<String>,
}

/// What a verb returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A file or stream that cannot be read or written.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(Exit::Io, format!("{what}: {error}"))
    }

    /// The output cannot be written. A closed pipe, as with `| head`, is no error.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, String::new()),
            _ => Self::io("standard output", error),
        }
    }

    /// What the person can do now.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says it on standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.exit != Exit::Done {
            eprintln!("fastpersist: {self}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: exit_of(&error), message: error.to_string(), hint: hint_for(&error) }
    }
}

pub(crate) fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Forbidden,
        Error::Connect { .. } | Error::Disconnected { .. } => Exit::Unreachable,
        Error::Daemon(error) if error.code == ErrorCode::Forbidden => Exit::Forbidden,
        _ => Exit::Failed,
    }
}

/// The daemon's reason without the place in the batch, which means nothing to whoever reads line numbers.
pub(crate) fn reason(error: &Error) -> String {
    let Error::Daemon(error) = error else { return error.to_string() };
    let place = error.index.map(|index| format!("op {index} of the batch: "));
    let stripped = place.and_then(|place| error.message.strip_prefix(&place));
    stripped.unwrap_or(&error.message).to_owned()
}

fn hint_for(error: &Error) -> Option<String> {
    let hint = match error {
        Error::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "the socket belongs to another user; daemon.socket_mode and daemon.socket_group say who may open it"
                .to_owned()
        }
        Error::Connect { .. } => {
            format!("start the daemon with `fastpersistd`, or name its socket with --socket or {SOCKET_VARIABLE}")
        }
        Error::Disconnected { .. } => {
            "the daemon stopped or was restarted; a write under way may be stored or not".to_owned()
        }
        Error::Timeout { .. } => "--timeout-ms allows more time; a write may be stored or not".to_owned(),
        Error::Daemon(error) => match error.code {
            ErrorCode::UnknownStorage => "`fastpersist info` lists the storages; --storage names one".to_owned(),
            ErrorCode::Forbidden => "[[access]] in the daemon's configuration gives roles".to_owned(),
            ErrorCode::ReadOnly => "the daemon's log says what failed; a restart makes it writable".to_owned(),
            ErrorCode::OutcomeUnknown => "read the record to see whether it is stored".to_owned(),
            ErrorCode::Locked => "--wait-ms waits for it".to_owned(),
            _ if error.retryable => "try again in a moment".to_owned(),
            _ => return None,
        },
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(Failure::output(&io::ErrorKind::BrokenPipe.into()).exit, Exit::Done);
        assert_eq!(Failure::output(&io::ErrorKind::StorageFull.into()).exit, Exit::Io);
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let failure = Failure::failed("it is broken").with_hint("mend it");
        assert_eq!(failure.to_string(), "it is broken\n  mend it");
    }
}
