//! The lines that answer requests, written without building a tree.
//!
//! A reply is begun with [`begin_ok`], gets its fields, and is ended with [`end`]; an error is one call
//! of [`error`]. [`RecordView`] writes a record the way every read returns it.

use crate::error::WireError;
use crate::json;
use crate::time::{Date, Timestamp};
use crate::value::Value;

/// Begins `{"id":…,"ok":true`; fields may follow, then [`end`].
pub fn begin_ok(out: &mut Vec<u8>, id: Option<&str>) {
    begin(out, id, b"\"ok\":true");
}

fn begin(out: &mut Vec<u8>, id: Option<&str>, rest: &[u8]) {
    out.push(b'{');
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id.as_bytes());
        out.push(b',');
    }
    out.extend_from_slice(rest);
}

/// Ends a reply line.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}

/// Begins a field: `,"name":`. The name must need no escapes.
pub fn field(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Writes a whole error reply.
pub fn error(out: &mut Vec<u8>, id: Option<&str>, error: &WireError) {
    begin(out, id, b"\"ok\":false,\"error\":");
    error.write_json(out);
    end(out);
}

/// Writes the field `warnings`, where there are any.
pub fn warnings(out: &mut Vec<u8>, warnings: &[String]) {
    if !warnings.is_empty() {
        field(out, "warnings");
        array(out, warnings, |out, warning| json::write_string(out, warning));
    }
}

/// Writes an array.
pub fn array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// The names of a record, by model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NamesView<'a> {
    /// A record of a dated storage.
    Dated {
        /// The partition.
        date: Date,
        /// The process, or null.
        process_name: Option<&'a str>,
    },
    /// A record of a collection storage.
    Collection {
        /// The collection, which may be empty.
        collection_name: &'a str,
        /// The item, which may be empty.
        item_name: &'a str,
    },
}

/// A record, as every read returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordView<'a> {
    /// The record's key.
    pub key: &'a str,
    /// The further names and the model.
    pub names: NamesView<'a>,
    /// Collection only: the typed value.
    pub value: Option<Value<'a>>,
    /// The document, byte for byte.
    pub data: &'a str,
    /// The record's own instant.
    pub timestamp: Option<Timestamp>,
    /// `data`'s status.
    pub status: Option<&'a str>,
    /// `data`'s numeric status.
    pub status_int: Option<i32>,
    /// Who wrote it, by their own word.
    pub username: Option<&'a str>,
    /// When the daemon took it.
    pub updated_at: Timestamp,
    /// Its place in the partition.
    pub seq: u64,
}

impl RecordView<'_> {
    /// Writes the record as a JSON object.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self.names {
            NamesView::Dated { date, process_name } => {
                out.extend_from_slice(b"{\"date\":\"");
                date.write(out);
                out.extend_from_slice(b"\",\"key\":");
                json::write_string(out, self.key);
                field(out, "process_name");
                json::write_opt_string(out, process_name);
            }
            NamesView::Collection { collection_name, item_name } => {
                out.extend_from_slice(b"{\"key\":");
                json::write_string(out, self.key);
                field(out, "collection_name");
                json::write_string(out, collection_name);
                field(out, "item_name");
                json::write_string(out, item_name);
                field(out, "value");
                match &self.value {
                    Some(value) => value.write_json(out),
                    None => out.extend_from_slice(b"null"),
                }
            }
        }
        field(out, "data");
        out.extend_from_slice(self.data.as_bytes());
        field(out, "timestamp");
        write_opt_timestamp(out, self.timestamp);
        field(out, "status");
        json::write_opt_string(out, self.status);
        field(out, "status_int");
        match self.status_int {
            Some(value) => json::write_i64(out, i64::from(value)),
            None => out.extend_from_slice(b"null"),
        }
        field(out, "username");
        json::write_opt_string(out, self.username);
        field(out, "updated_at");
        write_opt_timestamp(out, Some(self.updated_at));
        field(out, "seq");
        json::write_u64(out, self.seq);
        out.push(b'}');
    }
}

/// Writes an instant as a string, or `null`.
pub fn write_opt_timestamp(out: &mut Vec<u8>, timestamp: Option<Timestamp>) {
    match timestamp {
        Some(timestamp) => {
            out.push(b'"');
            timestamp.write(out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}
