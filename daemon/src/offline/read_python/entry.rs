//! One value of one record, from a row or from a line, on its way out.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use fastpersist_protocol::json::{self as wire, Scanner};
use fastpersist_protocol::request::Document;
use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::value::Value;

use super::clock::RowClock;
use super::json::{MAX_DEPTH, finite, meaning};
use crate::duck::foreign::ForeignRow;
use crate::storage::schema::Model;

/// Fields that the library adds to a document, or takes from it, on its way into the table.
const ADDED: [&str; 4] = ["timestamp", "username", "process_name", "value"];

/// The names below the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum EntryNames<'a> {
    Dated(Option<Cow<'a, str>>),
    Collection(Cow<'a, str>, Cow<'a, str>),
}

/// One value of one record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) names: EntryNames<'a>,
    pub(super) data: Cow<'a, str>,
    pub(super) value: Option<Value<'a>>,
    pub(super) timestamp: Option<Timestamp>,
    /// Where it is not what `data` says.
    pub(super) status: Option<Cow<'a, str>>,
    /// Where it is not what `data` says.
    pub(super) status_int: Option<i32>,
    pub(super) username: Option<Cow<'a, str>>,
    /// A line does not tell it.
    pub(super) updated_at: Option<Timestamp>,
}

/// 128 bits that stand for something longer.
pub(super) type Digest = u128;

fn digest(what: &impl Hash) -> Digest {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        what.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

impl<'a> Entry<'a> {
    /// What a row says. With it comes how many numbers had to become strings.
    ///
    /// # Errors
    /// What is wrong with the row, for people.
    pub(super) fn of_row(
        model: Model,
        row: &'a ForeignRow<'_>,
        clock: &mut RowClock,
    ) -> Result<(Self, u64), String> {
        let (data, mut not_finite) = finite(row.data.unwrap_or("{}"));
        let data = match row.extra {
            Some(extra) => with_columns(data, extra)?,
            None => data,
        };
        let document = Document::new(&data, MAX_DEPTH)
            .map_err(|error| format!("its data is no JSON object: {error}"))?;
        let told = document.timestamp.and_then(|raw| Timestamp::parse(&raw.as_str()?));
        let (timestamp, updated_at) = clock.read(row.timestamp, row.updated_at, told);
        let names = match model {
            Model::Dated => EntryNames::Dated(row.process_name.map(Cow::Borrowed)),
            Model::Collection => EntryNames::Collection(
                row.collection_name.unwrap_or_default().into(),
                row.item_name.unwrap_or_default().into(),
            ),
        };
        let value = match &row.value {
            Some(Value::Float(float)) if !float.is_finite() => {
                not_finite += 1;
                let name = if float.is_nan() {
                    "NaN"
                } else if *float > 0.0 {
                    "Infinity"
                } else {
                    "-Infinity"
                };
                Some(Value::String(name.into()))
            }
            value => value.clone(),
        };
        let entry = Self {
            key: row.key.ok_or("its key is null")?.into(),
            names,
            value,
            timestamp,
            status: row.status.map(Cow::Borrowed),
            status_int: row.status_int,
            username: row.username.map(Cow::Borrowed),
            updated_at: updated_at.or(timestamp),
            data,
        };
        Ok((entry, not_finite))
    }

    /// Which record it belongs to.
    pub(super) fn address(&self) -> Digest {
        digest(&(&self.key, &self.names))
    }

    /// What it says, whether it comes from a row or from a line.
    pub(super) fn identity(&self) -> Digest {
        let value = match &self.value {
            // The table has no booleans.
            Some(Value::Bool(value)) => (1, u64::from(*value), ""),
            Some(Value::Int(value)) => (1, *value as u64, ""),
            Some(Value::Float(value)) => (2, value.to_bits(), ""),
            Some(Value::String(value)) => (3, 0, &**value),
            None => (0, 0, ""),
        };
        let timestamp = self.timestamp.map(Timestamp::as_micros);
        digest(&(&self.key, &self.names, value, timestamp, &self.username, meaning(&self.data, &ADDED)))
    }

    /// Appends it as an operation of `import`.
    pub(super) fn write(&self, updated_at: Timestamp, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"op\":\"store\",\"key\":");
        wire::write_string(out, &self.key);
        let mut text = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.push(b',');
                wire::write_string(out, name);
                out.push(b':');
                wire::write_string(out, value);
            }
        };
        match &self.names {
            EntryNames::Dated(process) => text("process_name", process.as_deref()),
            EntryNames::Collection(collection, item) => {
                text("collection_name", Some(collection));
                text("item_name", Some(item));
            }
        }
        text("timestamp", self.timestamp.map(|at| at.to_string()).as_deref());
        text("username", self.username.as_deref());
        text("status", self.status.as_deref());
        text("updated_at", Some(&updated_at.to_string()));
        if let Some(status_int) = self.status_int {
            out.extend_from_slice(b",\"status_int\":");
            wire::write_i64(out, i64::from(status_int));
        }
        if let Some(value) = &self.value {
            out.extend_from_slice(b",\"value\":");
            value.write_json(out);
        }
        out.extend_from_slice(b",\"data\":");
        // Nothing but space can hold a line end in JSON.
        out.extend(self.data.bytes().map(|byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte }));
        out.push(b'}');
    }
}

/// The document with those columns in it that it has not by itself.
fn with_columns<'a>(data: Cow<'a, str>, columns: &str) -> Result<Cow<'a, str>, String> {
    let (columns, _) = finite(columns);
    let mut missing = Vec::new();
    let scanned = Scanner::new(&columns, MAX_DEPTH).object(|scanner, name| {
        let value = scanner.value()?;
        if !value.is_null() {
            missing.push((name, value));
        }
        Ok(())
    });
    scanned.map_err(|error| format!("its extra columns are no JSON: {error}"))?;
    let mut kept = Vec::new();
    let scanned = Scanner::new(&data, MAX_DEPTH).object(|scanner, name| {
        let value = scanner.value()?;
        missing.retain(|(column, _)| *column != name || value.is_null());
        kept.push((name, value));
        Ok(())
    });
    scanned.map_err(|error| format!("its data is no JSON object: {error}"))?;
    if missing.is_empty() {
        return Ok(data);
    }
    kept.retain(|(name, _)| !missing.iter().any(|(column, _)| column == name));
    let mut out = Vec::with_capacity(data.len() + columns.len());
    for (name, value) in kept.iter().chain(&missing) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        wire::write_string(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value.text.as_bytes());
    }
    out.push(b'}');
    String::from_utf8(out).map(Cow::Owned).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_stands_only_in_a_column_comes_into_the_document() {
        let merged = |data: &'static str, columns| with_columns(data.into(), columns).unwrap().into_owned();
        assert_eq!(merged(r#"{"a":1}"#, r#"{"a":2,"b":null}"#), r#"{"a":1}"#);
        assert_eq!(merged(r#"{"a":null,"c":"x"}"#, r#"{"a":2,"b":"y"}"#), r#"{"c":"x","a":2,"b":"y"}"#);
        assert_eq!(merged("{}", r#"{"b":true}"#), r#"{"b":true}"#);
        assert!(with_columns("[]".into(), "{}").is_err());
    }
}
