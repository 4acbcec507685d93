//! One chunk of another program's rows.

use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, PrimitiveArray, StructArray};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use fastpersist_protocol::value::Value;

use super::ForeignTable;
use crate::duck::error::DuckError;

/// The columns behind the row's number and the extra columns, with the types that they are read as. `MICROS`
/// is a timestamp in microseconds.
pub(super) const COLUMNS: [(&str, &str); 13] = [
    ("key", "VARCHAR"),
    ("process_name", "VARCHAR"),
    ("collection_name", "VARCHAR"),
    ("item_name", "VARCHAR"),
    ("data", "VARCHAR"),
    ("timestamp", "MICROS"),
    ("status", "VARCHAR"),
    ("status_int", "INTEGER"),
    ("username", "VARCHAR"),
    ("updated_at", "MICROS"),
    ("value_int", "BIGINT"),
    ("value_float", "DOUBLE"),
    ("value_string", "VARCHAR"),
];

/// One row; what its table does not have, or has in another type, is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignRow<'a> {
    /// The row's number, from 1.
    pub number: u64,
    /// The columns that the library does not know by itself, as a JSON object.
    pub extra: Option<&'a str>,
    /// The key.
    pub key: Option<&'a str>,
    /// Dated only.
    pub process_name: Option<&'a str>,
    /// Collection only.
    pub collection_name: Option<&'a str>,
    /// Collection only.
    pub item_name: Option<&'a str>,
    /// The document.
    pub data: Option<&'a str>,
    /// In microseconds, without a time zone.
    pub timestamp: Option<i64>,
    /// The status.
    pub status: Option<&'a str>,
    /// The numeric status.
    pub status_int: Option<i32>,
    /// The user.
    pub username: Option<&'a str>,
    /// In microseconds, without a time zone.
    pub updated_at: Option<i64>,
    /// The typed value.
    pub value: Option<Value<'a>>,
}

/// Shows each row of a chunk.
pub(super) fn each(
    table: &ForeignTable,
    chunk: &StructArray,
    on_row: &mut dyn FnMut(&ForeignRow<'_>),
) -> Result<(), DuckError> {
    let columns = chunk.columns();
    let wrong = || DuckError::Row { file: table.file.clone(), column: "of an unexpected type" };
    let texts = |index: usize| texts(columns, index).ok_or_else(wrong);
    let ints =
        |index: usize| columns.get(index).and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(wrong);
    let (number, extra) = (ints(0)?, texts(1)?);
    let (key, process, collection, item) = (texts(2)?, texts(3)?, texts(4)?, texts(5)?);
    let (data, timestamp, status) = (texts(6)?, ints(7)?, texts(8)?);
    let status_int = columns.get(9).and_then(|c| c.as_primitive_opt::<Int32Type>()).ok_or_else(wrong)?;
    let (username, updated_at, int) = (texts(10)?, ints(11)?, ints(12)?);
    let float = columns.get(13).and_then(|c| c.as_primitive_opt::<Float64Type>()).ok_or_else(wrong)?;
    let string = texts(14)?;
    for row in 0..chunk.len() {
        let value = match (int_at(int, row), text(string, row)) {
            (Some(int), _) => Some(Value::Int(int)),
            (None, _) if float.is_valid(row) => Some(Value::Float(float.value(row))),
            (None, string) => string.map(|text| Value::String(text.into())),
        };
        on_row(&ForeignRow {
            number: int_at(number, row).map_or(0, |number| number as u64 + 1),
            extra: text(extra, row),
            key: text(key, row),
            process_name: text(process, row),
            collection_name: text(collection, row),
            item_name: text(item, row),
            data: text(data, row),
            timestamp: int_at(timestamp, row),
            status: text(status, row),
            status_int: status_int.is_valid(row).then(|| status_int.value(row)),
            username: text(username, row),
            updated_at: int_at(updated_at, row),
            value,
        });
    }
    Ok(())
}

fn texts(columns: &[ArrayRef], index: usize) -> Option<&LargeStringArray> {
    columns.get(index)?.as_string_opt::<i64>()
}

fn text(column: &LargeStringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn int_at(column: &PrimitiveArray<Int64Type>, row: usize) -> Option<i64> {
    column.is_valid(row).then(|| column.value(row))
}
