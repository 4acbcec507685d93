//! One reply line to a typed answer or an error.
//!
//! Invariant: a line that does not say `"ok":true` is never taken for success.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{Error, WireError};

/// How every reply to a request without an `id` begins when it succeeded.
const SUCCESS: &[u8] = br#"{"ok":true"#;
const TOO_MANY_CONNECTIONS: &str = "too_many_connections";

#[derive(Deserialize)]
struct Head {
    ok: bool,
    error: Option<WireError>,
}

/// A reply as JSON text, for requests that have no method of their own.
#[derive(Debug, Clone)]
pub struct Reply {
    json: Box<RawValue>,
}

impl Reply {
    /// The whole reply, one JSON object with `"ok":true`, byte for byte.
    pub fn json(&self) -> &str {
        self.json.get()
    }

    /// The reply as a type of your own; fields that it does not have are ignored.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the reply does not fit the type.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.json()).map_err(|error| not_understood(self.json().as_bytes(), &error))
    }
}

/// The body of a successful reply; the error of another.
pub(crate) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, Error> {
    check(line)?;
    serde_json::from_slice(line).map_err(|error| not_understood(line, &error))
}

/// The whole of a successful reply; the error of another.
pub(crate) fn whole(line: &[u8]) -> Result<Reply, Error> {
    decode::<Box<RawValue>>(line).map(|json| Reply { json })
}

/// Whether the daemon closes the connection behind this line, so that it answers every request on it.
pub(crate) fn closes_connection(line: &[u8]) -> bool {
    if line.starts_with(SUCCESS) {
        return false;
    }
    let head: Option<Head> = serde_json::from_slice(line).ok();
    head.and_then(|head| head.error).is_some_and(|error| error.is(TOO_MANY_CONNECTIONS))
}

pub(crate) fn check(line: &[u8]) -> Result<(), Error> {
    if line.starts_with(SUCCESS) {
        return Ok(());
    }
    let head: Head = serde_json::from_slice(line).map_err(|error| not_understood(line, &error))?;
    match (head.ok, head.error) {
        (true, None) => Ok(()),
        (false, Some(error)) => Err(Error::Daemon(Box::new(error.into()))),
        _ => Err(Error::Protocol(format!("{:?} is neither success nor error", beginning(line)))),
    }
}

fn not_understood(line: &[u8], error: &serde_json::Error) -> Error {
    Error::Protocol(format!("{error}, in the reply {:?}", beginning(line)))
}

/// As much of a line as fits a message.
fn beginning(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    match text.char_indices().nth(200) {
        None => text.into_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use fastpersist_protocol::error::ErrorCode;

    use super::*;
    use crate::outcome::{BatchOutcome, DeleteOutcome, StoreOutcome};

    #[test]
    fn outcomes_are_read_wherever_ok_stands() {
        let store: StoreOutcome = decode(br#"{"ok":true,"seq":1,"durable":true}"#).unwrap();
        assert_eq!((store.seq, store.durable, store.warnings.len()), (1, true, 0));
        let store: StoreOutcome =
            decode(br#"{ "seq":2, "durable":false, "warnings":["w"], "ok":true }"#).unwrap();
        assert_eq!((store.seq, store.warnings), (2, vec!["w".to_owned()]));
        let delete: DeleteOutcome =
            decode(br#"{"ok":true,"seq":null,"deleted":false,"durable":true}"#).unwrap();
        assert_eq!((delete.seq, delete.deleted), (None, false));
        let batch: BatchOutcome = decode(br#"{"ok":true,"seqs":[3,null],"durable":true}"#).unwrap();
        assert_eq!(batch.seqs, [Some(3), None]);
    }

    #[test]
    fn an_error_is_never_success() {
        let line = br#"{"ok":false,"error":{"code":"busy","message":"wait","retryable":true}}"#;
        let error = decode::<StoreOutcome>(line).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Busy));
        for line in
            [&b"{}"[..], b"{\"ok\":false}", b"[]", b"", b"\xff", b"{\"ok\":true,\"error\":{\"code\":\"x\"}"]
        {
            let error = decode::<StoreOutcome>(line).unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_reply_without_its_fields_is_a_protocol_error() {
        let error = decode::<StoreOutcome>(br#"{"ok":true,"durable":true}"#).unwrap_err().to_string();
        assert!(error.contains("missing field `seq`"), "{error}");
    }

    #[test]
    fn only_too_many_connections_speaks_for_the_whole_connection() {
        assert!(closes_connection(br#"{"ok":false,"error":{"code":"too_many_connections","message":""}}"#));
        assert!(!closes_connection(
            br#"{"ok":false,"error":{"code":"busy","message":"too_many_connections"}}"#
        ));
        assert!(!closes_connection(br#"{"ok":true,"code":"too_many_connections"}"#));
    }
}
