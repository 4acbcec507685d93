//! Rows of DuckDB as records.

use arrow::array::{Array, AsArray, BooleanArray, LargeStringArray, PrimitiveArray, StructArray};
use arrow::datatypes::{
    ArrowPrimitiveType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, UInt64Type,
};
use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::value::Value;

use super::OwnedNames;
use crate::duck::error::DuckError;
use crate::duck::schema::{Kind, Table};
use crate::storage::record::{Columns, Names, Record};
use crate::storage::schema::Model;

/// The columns behind the address, in the order in which [`decode`] reads them.
const SHARED: [&str; 7] =
    ["data::VARCHAR", "timestamp", "status", "status_int", "username", "updated_at", "seq"];
/// The typed value's columns, behind those.
const VALUES: [&str; 4] = ["value_int", "value_float", "value_string", "value_bool"];

/// Behind those, in a history.
const DELETED: &str = "deleted";

/// The SELECT list that [`decode`] reads.
pub(super) fn columns(table: &Table) -> String {
    let mut columns = vec!["key"];
    columns.extend(table.kind.name_columns());
    columns.extend(SHARED);
    if table.kind.model() == Model::Collection {
        columns.extend(VALUES);
    }
    if table.kind == Kind::History {
        columns.push(DELETED);
    }
    columns.join(", ")
}

/// Copies a chunk's rows into records.
pub(super) fn decode(table: &Table, chunk: &StructArray) -> Result<Vec<Record>, DuckError> {
    let addresses = Addresses::new(table, chunk)?;
    let first = 1 + table.kind.name_columns().len();
    let data = text(table, chunk, first, "data")?;
    let timestamp = number::<TimestampMicrosecondType>(table, chunk, first + 1, "timestamp")?;
    let status = text(table, chunk, first + 2, "status")?;
    let status_int = number::<Int32Type>(table, chunk, first + 3, "status_int")?;
    let username = text(table, chunk, first + 4, "username")?;
    let updated_at = number::<TimestampMicrosecondType>(table, chunk, first + 5, "updated_at")?;
    let seq = number::<UInt64Type>(table, chunk, first + 6, "seq")?;
    let values = match table.kind.model() {
        Model::Dated => None,
        Model::Collection => Some(Values::new(table, chunk, first + 7)?),
    };
    let deleted = match table.kind {
        Kind::History => Some(boolean(table, chunk, first + 7 + VALUES.len(), DELETED)?),
        Kind::Storage | Kind::Latest => None,
    };
    let mut records = Vec::with_capacity(chunk.len());
    for row in 0..chunk.len() {
        let is_deleted = deleted.is_some_and(|deleted| deleted.is_valid(row) && deleted.value(row));
        let instant = |column: &PrimitiveArray<TimestampMicrosecondType>| {
            column.is_valid(row).then(|| Timestamp::from_micros(column.value(row))).flatten()
        };
        records.push(Record::new(&Columns {
            key: addresses.key(row),
            names: addresses.names(row),
            data: match get(data, row) {
                None if is_deleted => "",
                data => data.ok_or_else(|| wrong(table, "data"))?,
            },
            value: values.as_ref().and_then(|values| values.get(row)),
            timestamp: instant(timestamp),
            status: get(status, row),
            status_int: status_int.is_valid(row).then(|| status_int.value(row)),
            username: get(username, row),
            updated_at: instant(updated_at).ok_or_else(|| wrong(table, "updated_at"))?,
            seq: seq.value(row),
            deleted: is_deleted,
            // No read tells it, and what DuckDB has is not written to it again.
            writer: None,
        }));
    }
    Ok(records)
}

/// Adds a chunk's addresses to `out`; the chunk has the key and the names.
pub(super) fn names(
    table: &Table,
    chunk: &StructArray,
    out: &mut Vec<(String, OwnedNames)>,
) -> Result<(), DuckError> {
    let addresses = Addresses::new(table, chunk)?;
    out.extend((0..chunk.len()).map(|row| (addresses.key(row).to_owned(), addresses.names(row).into())));
    Ok(())
}

/// A text column of a chunk.
pub(super) fn text<'a>(
    table: &Table,
    chunk: &'a StructArray,
    index: usize,
    name: &'static str,
) -> Result<&'a LargeStringArray, DuckError> {
    let column = chunk.columns().get(index).and_then(|column| column.as_string_opt::<i64>());
    column.ok_or_else(|| wrong(table, name))
}

fn number<'a, T: ArrowPrimitiveType>(
    table: &Table,
    chunk: &'a StructArray,
    index: usize,
    name: &'static str,
) -> Result<&'a PrimitiveArray<T>, DuckError> {
    let column = chunk.columns().get(index).and_then(|column| column.as_primitive_opt::<T>());
    column.ok_or_else(|| wrong(table, name))
}

fn boolean<'a>(
    table: &Table,
    chunk: &'a StructArray,
    index: usize,
    name: &'static str,
) -> Result<&'a BooleanArray, DuckError> {
    let column = chunk.columns().get(index).and_then(|column| column.as_boolean_opt());
    column.ok_or_else(|| wrong(table, name))
}

fn wrong(table: &Table, column: &'static str) -> DuckError {
    DuckError::Row { file: table.file.clone(), column }
}

fn get(column: &LargeStringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

struct Addresses<'a> {
    key: &'a LargeStringArray,
    first: &'a LargeStringArray,
    /// Collection only.
    second: Option<&'a LargeStringArray>,
}

impl<'a> Addresses<'a> {
    fn new(table: &Table, chunk: &'a StructArray) -> Result<Self, DuckError> {
        let key = text(table, chunk, 0, "key")?;
        Ok(match table.kind.model() {
            Model::Dated => Self { key, first: text(table, chunk, 1, "process_name")?, second: None },
            Model::Collection => Self {
                key,
                first: text(table, chunk, 1, "collection_name")?,
                second: Some(text(table, chunk, 2, "item_name")?),
            },
        })
    }

    fn key(&self, row: usize) -> &'a str {
        get(self.key, row).unwrap_or_default()
    }

    fn names(&self, row: usize) -> Names<'a> {
        let first = get(self.first, row);
        match self.second {
            None => Names::Dated { process_name: first },
            Some(second) => Names::Collection {
                collection_name: first.unwrap_or_default(),
                item_name: get(second, row).unwrap_or_default(),
            },
        }
    }
}

struct Values<'a> {
    int: &'a PrimitiveArray<Int64Type>,
    float: &'a PrimitiveArray<Float64Type>,
    string: &'a LargeStringArray,
    bool: &'a BooleanArray,
}

impl<'a> Values<'a> {
    fn new(table: &Table, chunk: &'a StructArray, first: usize) -> Result<Self, DuckError> {
        Ok(Self {
            int: number(table, chunk, first, "value_int")?,
            float: number(table, chunk, first + 1, "value_float")?,
            string: text(table, chunk, first + 2, "value_string")?,
            bool: boolean(table, chunk, first + 3, "value_bool")?,
        })
    }

    fn get(&self, row: usize) -> Option<Value<'a>> {
        if self.int.is_valid(row) {
            return Some(Value::Int(self.int.value(row)));
        }
        if self.float.is_valid(row) {
            return Some(Value::Float(self.float.value(row)));
        }
        if self.bool.is_valid(row) {
            return Some(Value::Bool(self.bool.value(row)));
        }
        get(self.string, row).map(|text| Value::String(text.into()))
    }
}
