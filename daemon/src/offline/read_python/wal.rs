//! The library's log: lines without place or checksum, the last of which may be torn.
//!
//! Where the library stops reading a file at the first bad line, this goes on behind it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use fastpersist_protocol::json::{Kind, Raw, Scanner};
use fastpersist_protocol::request::Document;
use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::value::Value;

use super::entry::{Entry, EntryNames};
use super::json::{MAX_DEPTH, finite};
use crate::storage::schema::Model;

/// No line is read further; the daemon takes far less.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// One line of a file.
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: u64,
    /// Its text, or why it has none.
    pub(super) text: Result<&'a str, String>,
    /// Whether its end is missing.
    pub(super) unfinished: bool,
}

/// Shows the lines of a file until `on_line` says false. Empty ones are left out.
pub(super) fn lines(path: &Path, on_line: &mut dyn FnMut(Line<'_>) -> bool) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        number += 1;
        if file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        let unfinished = !bytes.ends_with(b"\n");
        let text = if unfinished && bytes.len() as u64 == MAX_LINE_BYTES {
            skip_line(&mut file)?;
            Err(format!("the line has more than {MAX_LINE_BYTES} bytes"))
        } else {
            std::str::from_utf8(&bytes).map(str::trim).map_err(|error| format!("it is not UTF-8: {error}"))
        };
        let empty = text.as_ref().is_ok_and(|text| text.is_empty());
        if !empty && !on_line(Line { number, text, unfinished }) {
            return Ok(());
        }
    }
}

fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = file.fill_buf()?;
        let (used, done) = match memchr::memchr(b'\n', buffer) {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(used);
        if done {
            return Ok(());
        }
    }
}

/// What one line says. With it comes how many numbers had to become strings.
///
/// # Errors
/// What is wrong with the line, for people.
pub(super) fn entry(model: Model, line: &Line<'_>) -> Result<(Entry<'static>, u64), String> {
    let text = line.text.clone()?;
    let (text, not_finite) = finite(text);
    let mut fields = Fields::default();
    let mut scanner = Scanner::new(&text, MAX_DEPTH);
    let read = scanner.object(|scanner, name| {
        let value = scanner.value()?;
        fields.set(&name, value);
        Ok(())
    });
    read.and_then(|_| scanner.end()).map_err(|error| {
        if line.unfinished {
            "it is torn: its write was never finished".to_owned()
        } else {
            format!("it is no JSON object: {error}")
        }
    })?;
    let data = fields.data.ok_or("it has no data")?;
    let data = match data.kind {
        Kind::Object => data.text.to_owned(),
        _ => return Err(format!("its data is {}, not an object", data.kind_name())),
    };
    let document = Document::new(&data, MAX_DEPTH).map_err(|error| error.to_string())?;
    let instant = |raw: Option<Raw<'_>>| raw.and_then(|raw| Timestamp::parse(&raw.as_str()?));
    let entry = Entry {
        key: text_of(fields.key).ok_or("it has no key")?.into(),
        names: names(model, &fields),
        value: if model == Model::Collection { value(fields.value)? } else { None },
        timestamp: instant(present(fields.timestamp)).or_else(|| instant(document.timestamp)),
        status: present(document.status)
            .filter(|raw| raw.as_str().is_none())
            .and_then(|raw| text_of(Some(raw)))
            .map(Cow::Owned),
        status_int: present(document.status_int).and_then(|raw| match raw.kind {
            Kind::Bool => raw.as_bool().map(i32::from),
            Kind::String { .. } => raw.as_str()?.parse().ok(),
            _ => None,
        }),
        username: text_of(fields.username).or_else(|| text_of(document.username)).map(Cow::Owned),
        updated_at: None,
        data: data.into(),
    };
    Ok((entry, not_finite))
}

fn names(model: Model, fields: &Fields<'_>) -> EntryNames<'static> {
    match model {
        Model::Dated => EntryNames::Dated(match fields.process_name {
            // Lines of old versions have none; the library takes them for the empty name.
            None => Some(Cow::Borrowed("")),
            raw => text_of(raw).map(Cow::Owned),
        }),
        Model::Collection => EntryNames::Collection(
            text_of(fields.collection_name).unwrap_or_default().into(),
            text_of(fields.item_name).unwrap_or_default().into(),
        ),
    }
}

#[derive(Default)]
struct Fields<'a> {
    key: Option<Raw<'a>>,
    process_name: Option<Raw<'a>>,
    collection_name: Option<Raw<'a>>,
    item_name: Option<Raw<'a>>,
    data: Option<Raw<'a>>,
    value: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    username: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn set(&mut self, name: &str, raw: Raw<'a>) {
        let field = match name {
            "key" => &mut self.key,
            "process_name" => &mut self.process_name,
            "collection_name" => &mut self.collection_name,
            "item_name" => &mut self.item_name,
            "data" => &mut self.data,
            "value" => &mut self.value,
            "timestamp" => &mut self.timestamp,
            "username" => &mut self.username,
            _ => return,
        };
        *field = Some(raw);
    }
}

fn present(raw: Option<Raw<'_>>) -> Option<Raw<'_>> {
    raw.filter(|raw| !raw.is_null())
}

/// A scalar as DuckDB puts it into a text column.
fn text_of(raw: Option<Raw<'_>>) -> Option<String> {
    let raw = present(raw)?;
    match raw.kind {
        Kind::String { .. } => raw.as_str().map(Cow::into_owned),
        Kind::Number { .. } | Kind::Bool => Some(raw.text.to_owned()),
        _ => None,
    }
}

fn value(raw: Option<Raw<'_>>) -> Result<Option<Value<'static>>, String> {
    let Some(raw) = present(raw) else { return Ok(None) };
    let value = match raw.kind {
        Kind::String { .. } => raw.as_str().map(|text| Value::String(text.into_owned().into())),
        Kind::Bool => raw.as_bool().map(Value::Bool),
        Kind::Number { integer: true } => raw.as_i64().map(Value::Int),
        Kind::Number { integer: false } => raw.as_f64().map(Value::Float),
        _ => return Err(format!("its value is {}, which no column takes", raw.kind_name())),
    };
    value.map(Some).ok_or_else(|| format!("its value {} is outside what 64 bits hold", raw.text))
}
