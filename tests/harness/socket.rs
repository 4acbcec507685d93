//! One connection, as raw as `socat`: lines out, lines in, every wait bounded.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{BufRead, BufReader, ErrorKind, Write},
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
};

use serde_json::{Value, value::RawValue};

use super::PATIENCE;

/// A connection to the daemon.
pub(crate) struct Conn {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Conn {
    /// Connects to a path, or to `@name` in the abstract namespace.
    pub(crate) fn try_connect(socket: &str) -> std::io::Result<Self> {
        let writer = match socket.strip_prefix('@') {
            Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => UnixStream::connect(socket)?,
        };
        writer.set_read_timeout(Some(PATIENCE))?;
        writer.set_write_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { writer, reader })
    }

    pub(crate) fn connect(socket: &str) -> Self {
        Self::try_connect(socket).unwrap_or_else(|e| panic!("cannot connect to {socket}: {e}"))
    }

    /// The stream itself, for what no orderly client does.
    pub(crate) fn stream(&mut self) -> &mut UnixStream {
        &mut self.writer
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("send to the daemon");
    }

    /// Sends one line.
    pub(crate) fn send(&mut self, line: impl Display) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// No more from us: the answers that are owed may still come.
    pub(crate) fn half_close(&mut self) {
        self.writer.shutdown(Shutdown::Write).expect("half-close");
    }

    /// The next line without its end, or `None` when the daemon has closed the connection.
    pub(crate) fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) if line.is_empty() => None,
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Some(String::from_utf8(line).expect("an answer in UTF-8"))
            }
            Ok(_) => None,
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => None,
            Err(e) => panic!("no answer within {PATIENCE:?}: {e}"),
        }
    }

    /// The next answer as text.
    pub(crate) fn text(&mut self) -> String {
        self.next().expect("an answer, but the daemon closed the connection")
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("an answer that is no JSON: {text:?}: {e}"))
    }

    /// Sends one request and gives its answer, whichever it is.
    pub(crate) fn ask(&mut self, line: impl Display) -> Value {
        self.send(line);
        self.answer()
    }

    /// Sends one request that must succeed.
    pub(crate) fn ok(&mut self, line: impl Display) -> Value {
        let line = line.to_string();
        let answer = self.ask(&line);
        assert_eq!(answer["ok"], true, "asked {}, got {answer}", shortened(&line));
        answer
    }

    /// Sends one request that must fail with `code`, and gives the error object.
    pub(crate) fn refused(&mut self, line: impl Display, code: &str) -> Value {
        let line = line.to_string();
        let answer = self.ask(&line);
        check_refusal(&shortened(&line), &answer, code)
    }

    /// The next answer, which must be the refusal `code` of what was sent before.
    pub(crate) fn refusal(&mut self, what: &str, code: &str) -> Value {
        let answer = self.answer();
        check_refusal(what, &answer, code)
    }

    /// Sends all requests before it reads the first answer. For no more than a few thousand small ones.
    pub(crate) fn pipeline(&mut self, lines: impl IntoIterator<Item = impl Display>) -> Vec<Value> {
        let sent = self.send_all(lines);
        (0..sent).map(|_| self.answer()).collect()
    }

    /// Sends all requests in one piece, and says how many they were.
    pub(crate) fn send_all(&mut self, lines: impl IntoIterator<Item = impl Display>) -> usize {
        let (bytes, sent) = joined(lines);
        self.send_bytes(&bytes);
        sent
    }

    /// As `pipeline`, in portions, for any number of requests that must all succeed.
    pub(crate) fn all_ok(&mut self, lines: impl IntoIterator<Item = impl Display>) -> Vec<Value> {
        let mut lines = lines.into_iter().peekable();
        let mut answers = Vec::new();
        while lines.peek().is_some() {
            answers.extend(self.pipeline(lines.by_ref().take(500)));
        }
        for answer in &answers {
            assert_eq!(answer["ok"], true, "{answer}");
        }
        answers
    }

    /// Asks without the daemon's part being certain: `None` when it went away before it answered.
    pub(crate) fn try_ask(&mut self, line: impl Display) -> Option<Value> {
        self.writer.write_all(format!("{line}\n").as_bytes()).ok()?;
        let text = self.next()?;
        Some(
            serde_json::from_str(&text)
                .unwrap_or_else(|e| panic!("an answer that is no JSON: {text:?}: {e}")),
        )
    }
}

/// The lines as bytes, and their number.
pub(crate) fn joined(lines: impl IntoIterator<Item = impl Display>) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut count = 0;
    for line in lines {
        writeln!(bytes, "{line}").expect("write to memory");
        count += 1;
    }
    (bytes, count)
}

/// Every failure has a code, a message for people and says whether trying again may help.
fn check_refusal(what: &str, answer: &Value, code: &str) -> Value {
    assert_eq!(answer["ok"], false, "{what} should be refused as {code}, got {answer}");
    let error = &answer["error"];
    assert_eq!(error["code"], code, "asked {what}, got {answer}");
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "no message in {answer}");
    let retryable = matches!(code, "busy" | "timeout" | "shutting_down" | "locked");
    assert_eq!(error["retryable"], retryable, "{answer}");
    error.clone()
}

/// Enough of a request to know it by.
fn shortened(line: &str) -> String {
    if line.len() <= 300 {
        line.to_owned()
    } else {
        format!("{} … ({} bytes)", line.chars().take(200).collect::<String>(), line.len())
    }
}

/// The bytes of a member of a JSON object, wherever it lies: `raw(text, &["record", "data"])`.
pub(crate) fn raw(text: &str, path: &[&str]) -> String {
    let mut rest = text.to_owned();
    for name in path {
        let mut members: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&rest).unwrap_or_else(|e| panic!("{rest:?} is no JSON object: {e}"));
        let member = members.remove(*name).unwrap_or_else(|| panic!("no {name} in {rest}"));
        member.get().clone_into(&mut rest);
    }
    rest
}

/// Whether a value is a time in the one form that answers have: `2025-01-15T10:30:00.000000Z`.
pub(crate) fn is_stamp(value: &Value) -> bool {
    let pattern = b"dddd-dd-ddTdd:dd:dd.ddddddZ";
    let Some(text) = value.as_str() else { return false };
    text.len() == pattern.len()
        && text
            .bytes()
            .zip(pattern)
            .all(|(byte, want)| if *want == b'd' { byte.is_ascii_digit() } else { byte == *want })
}
