//! Everything that can go wrong between a caller and the daemon, as one type.
//!
//! Invariant: a request fails with exactly one [`Error`], and that error says whether the daemon
//! refused it ([`Error::Daemon`]: nothing was stored, unless the code is `outcome_unknown` or `internal`) or
//! whether the way there or back broke; [`Error::is_outcome_unknown`] tells about writes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::error::ErrorCode;
use serde::Deserialize;

/// Why a request was not done, or why nobody knows whether it was.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The daemon answered with an error.
    #[error(transparent)]
    Daemon(Box<DaemonError>),
    /// Nobody listens on the socket, or it may not be opened. Nothing was sent.
    #[error("cannot connect to {socket}: {source}")]
    Connect {
        /// The socket that was tried; all of them, where there were several.
        socket: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The connection broke while the request was under way.
    #[error("the connection broke before the answer came: {reason}")]
    Disconnected {
        /// What ended the connection.
        reason: Arc<str>,
    },
    /// The answer did not come within the time allowed.
    #[error("no answer within {after:?}")]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// What came back is not of this protocol, or lacks what the operation answers.
    #[error("the answer cannot be understood: {0}")]
    Protocol(String),
    /// Data could not be turned into JSON, or a record's data not into the type asked for.
    #[error("{0}")]
    Data(String),
}

/// The error that the daemon answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonError {
    /// What kind of error. A code that this client does not know yet shows as [`ErrorCode::Internal`],
    /// with the code itself in front of the message.
    pub code: ErrorCode,
    /// What was wrong and what would be right, for people.
    pub message: String,
    /// Whether the same request may succeed when it is sent again unchanged.
    pub retryable: bool,
    /// On a `conflict`: the record's present `seq`, 0 where there is no record.
    pub current_seq: Option<u64>,
    /// In a batch: which operation was refused, from 0.
    pub index: Option<u64>,
    /// The field that was wrong.
    pub field: Option<String>,
    /// The column that a value does not fit.
    pub column: Option<String>,
    /// On a `compacted`: the oldest change that is kept.
    pub oldest_seq: Option<u64>,
    /// On a `locked`: the process that holds the lock.
    pub pid: Option<u64>,
    /// On a `locked`: the user of that process.
    pub uid: Option<u64>,
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for DaemonError {}

/// The error object as it stands on the wire; further fields may come with newer daemons.
#[derive(Deserialize)]
pub(crate) struct WireError {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    retryable: bool,
    current_seq: Option<u64>,
    index: Option<u64>,
    field: Option<String>,
    column: Option<String>,
    oldest_seq: Option<u64>,
    pid: Option<u64>,
    uid: Option<u64>,
}

impl WireError {
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code == code
    }
}

impl From<WireError> for DaemonError {
    fn from(wire: WireError) -> Self {
        let (code, message) = match ErrorCode::from_wire(&wire.code) {
            Some(code) => (code, wire.message),
            None => (ErrorCode::Internal, format!("{}: {}", wire.code, wire.message)),
        };
        Self {
            code,
            message,
            retryable: wire.retryable,
            current_seq: wire.current_seq,
            index: wire.index,
            field: wire.field,
            column: wire.column,
            oldest_seq: wire.oldest_seq,
            pid: wire.pid,
            uid: wire.uid,
        }
    }
}

impl Error {
    /// The daemon's error code, where the daemon answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Daemon(error) => Some(error.code),
            _ => None,
        }
    }

    /// Whether the same request may succeed when it is sent again unchanged: the daemon says so, it
    /// could not be reached, the connection broke, or the answer took too long.
    ///
    /// Ask [`is_outcome_unknown`](Self::is_outcome_unknown) too before a write is sent again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Daemon(error) => error.retryable,
            Self::Connect { .. } | Self::Disconnected { .. } | Self::Timeout { .. } => true,
            Self::Protocol(_) | Self::Data(_) => false,
        }
    }

    /// Whether a write that failed so may be stored all the same.
    ///
    /// The clients send a write again by themselves, under its number, before they fail with such an error
    /// ([`ConnectOptions::retry_writes_for`](crate::ConnectOptions::retry_writes_for)). To send a plain store
    /// once more after that is harmless for the record itself: it ends up stored once, under a new `seq`. A
    /// collection's history may have it twice, and an `if_seq` may conflict with the request's own first try.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Daemon(error) => matches!(error.code, ErrorCode::OutcomeUnknown | ErrorCode::Internal),
            Self::Disconnected { .. } | Self::Timeout { .. } | Self::Protocol(_) => true,
            Self::Connect { .. } | Self::Data(_) => false,
        }
    }

    pub(crate) fn connect(socket: impl fmt::Display, source: io::Error) -> Self {
        Self::Connect { socket: socket.to_string(), source: Arc::new(source) }
    }

    pub(crate) fn disconnected(reason: impl fmt::Display) -> Self {
        Self::Disconnected { reason: reason.to_string().into() }
    }

    /// This error of a write that was sent before: what became of it then, nobody knows.
    pub(crate) fn unanswered(self) -> Self {
        if self.is_outcome_unknown() {
            return self;
        }
        Self::disconnected(format_args!("later tries failed too: {self}"))
    }

    /// A wait that was cut short is told as the time that the caller allows.
    pub(crate) fn allowing(self, limit: Option<Duration>) -> Self {
        match (self, limit) {
            (Self::Timeout { .. }, Some(after)) => Self::Timeout { after },
            (error, _) => error,
        }
    }

    pub(crate) fn data(what: &str, error: impl fmt::Display) -> Self {
        Self::Data(format!("{what}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(json: &str) -> Error {
        let wire: WireError = serde_json::from_str(json).unwrap();
        Error::Daemon(Box::new(wire.into()))
    }

    #[test]
    fn a_daemon_error_keeps_its_details() {
        let error = daemon(
            r#"{"code":"conflict","message":"seq is 7","retryable":false,"current_seq":7,"index":2,"new":1}"#,
        );
        assert_eq!(error.code(), Some(ErrorCode::Conflict));
        assert_eq!(error.to_string(), "conflict: seq is 7");
        assert!(!error.is_retryable());
        assert!(!error.is_outcome_unknown());
        let Error::Daemon(inner) = error else { panic!("a daemon error") };
        assert_eq!((inner.current_seq, inner.index), (Some(7), Some(2)));
    }

    #[test]
    fn a_code_from_the_future_is_internal_and_keeps_its_name() {
        let error = daemon(r#"{"code":"too_warm","message":"open a window","retryable":true}"#);
        assert_eq!(error.code(), Some(ErrorCode::Internal));
        assert_eq!(error.to_string(), "internal: too_warm: open a window");
        assert!(error.is_retryable());
    }

    #[test]
    fn what_may_be_stored_all_the_same_is_told_apart() {
        let refused = Error::connect("/x", io::ErrorKind::NotFound.into());
        assert!(refused.is_retryable());
        assert!(!refused.is_outcome_unknown());
        for error in [Error::disconnected("eof"), Error::Timeout { after: Duration::from_secs(1) }] {
            assert!(error.is_retryable());
            assert!(error.is_outcome_unknown());
        }
        for (code, is_unknown) in
            [("outcome_unknown", true), ("internal", true), ("too_warm", true), ("disk_full", false)]
        {
            let error = daemon(&format!("{{\"code\":\"{code}\"}}"));
            assert_eq!(error.is_outcome_unknown(), is_unknown, "{code}");
        }
    }
}
