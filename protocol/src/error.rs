//! Error codes and the error part of a reply.
//!
//! A code is for programs and never changes its meaning; the message is for people and may.

use std::fmt;

use crate::json;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, retryable: $retry:literal;)*) => {
        /// Why a request was not done. Stable: programs may branch on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the same request may succeed when it is sent again unchanged.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }

            /// The code with this wire name, or `None`.
            pub fn from_wire(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// The line is not one JSON object within the nesting limit.
    BadJson = "bad_json", retryable: false;
    /// A field is missing, unknown, of the wrong type or out of range.
    BadRequest = "bad_request", retryable: false;
    /// The `op` is not one that this daemon knows.
    UnknownOp = "unknown_op", retryable: false;
    /// No storage of that name is configured, or none was named where several are.
    UnknownStorage = "unknown_storage", retryable: false;
    /// The line is longer than `limits.max_line_bytes`; it was skipped to its end.
    LineTooLong = "line_too_long", retryable: false;
    /// The caller's role does not allow this operation.
    Forbidden = "forbidden", retryable: false;
    /// A connection limit is reached; the connection is closed after this error.
    TooManyConnections = "too_many_connections", retryable: false;
    /// `if_seq` did not match the record; nothing was stored.
    Conflict = "conflict", retryable: false;
    /// A lock is held by somebody else and the wait is over.
    Locked = "locked", retryable: true;
    /// A bound is reached for the moment; nothing was stored.
    Busy = "busy", retryable: true;
    /// The disk has no room; nothing was stored.
    DiskFull = "disk_full", retryable: false;
    /// The storage takes no writes until a restart, after a failed write or sync.
    ReadOnly = "read_only", retryable: false;
    /// The position asked for is older than what is kept.
    Compacted = "compacted", retryable: false;
    /// The time allowed is over.
    Timeout = "timeout", retryable: true;
    /// The SQL is not one that `query` may run.
    QueryRejected = "query_rejected", retryable: false;
    /// The SQL was allowed and failed while it ran.
    QueryFailed = "query_failed", retryable: false;
    /// What was named (a backup, a lock, a path) is not there.
    NotFound = "not_found", retryable: false;
    /// The write may or may not have reached the disk: a sync failed under it.
    OutcomeUnknown = "outcome_unknown", retryable: false;
    /// The daemon is stopping; another will take the request.
    ShuttingDown = "shutting_down", retryable: true;
    /// Something failed that should not; the daemon's log says what.
    Internal = "internal", retryable: false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A further field of an error object, for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// An integer, such as `current_seq` or `index`.
    Number(u64),
    /// A string, such as `field` or `column`.
    Text(String),
}

/// The error of one reply: code, message and details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct WireError {
    /// What kind of error, for programs.
    pub code: ErrorCode,
    /// What was wrong and what would be right, for people.
    pub message: String,
    /// Further fields, in the order in which they are written.
    pub details: Vec<(&'static str, Detail)>,
}

impl WireError {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// A `bad_request` about one field, which the details name too.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message).with_text("field", field)
    }

    /// Adds a number to the details.
    #[must_use]
    pub fn with_number(mut self, name: &'static str, value: u64) -> Self {
        self.details.push((name, Detail::Number(value)));
        self
    }

    /// Adds a text to the details.
    #[must_use]
    pub fn with_text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, Detail::Text(value.into())));
        self
    }

    /// Writes the error object, `{"code":…,"message":…,"retryable":…,…}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"code\":\"");
        out.extend_from_slice(self.code.as_str().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        json::write_string(out, &self.message);
        out.extend_from_slice(b",\"retryable\":");
        json::write_bool(out, self.code.is_retryable());
        for (name, detail) in &self.details {
            out.push(b',');
            json::write_string(out, name);
            out.push(b':');
            match detail {
                Detail::Number(number) => json::write_u64(out, *number),
                Detail::Text(text) => json::write_string(out, text),
            }
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_wire_name() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.as_str()), Some(*code));
        }
        assert_eq!(ErrorCode::ALL.len(), 20);
        assert_eq!(ErrorCode::from_wire("no_such_code"), None);
    }

    #[test]
    fn the_retryable_codes_are_those_of_the_protocol() {
        let retryable: Vec<_> =
            ErrorCode::ALL.iter().filter(|c| c.is_retryable()).map(|c| c.as_str()).collect();
        assert_eq!(retryable, ["locked", "busy", "timeout", "shutting_down"]);
    }

    #[test]
    fn an_error_is_one_json_object_with_its_details() {
        let error = WireError::new(ErrorCode::Conflict, "a \"quoted\"\nmessage")
            .with_number("current_seq", 7)
            .with_text("field", "if_seq");
        let mut out = Vec::new();
        error.write_json(&mut out);
        let parsed: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
        assert_eq!(
            parsed,
            serde_json::json!({"code":"conflict","message":"a \"quoted\"\nmessage",
                "retryable":false,"current_seq":7,"field":"if_seq"})
        );
    }
}
