//! DuckDB's values as JSON.
//!
//! Integers that fit 64 bits are numbers, wider ones and decimals strings; date-times are as everywhere in the
//! protocol; JSON is embedded, blobs are base64, lists are arrays, structs are objects; NaN and the infinities are
//! strings. What has no form of its own (times, intervals, UUIDs, bits) is the text that DuckDB writes.

use std::io::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use fastpersist_protocol::json::{self, Scanner, write_string};

use super::types::Shape;

mod text;

/// JSON that is nested deeper is written as a string: few readers take it.
const MAX_JSON_DEPTH: usize = 500;

type Out = Vec<u8>;

/// Writes one value.
pub(super) fn write(shape: &Shape, array: &dyn Array, row: usize, out: &mut Out) {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match shape {
        Shape::Boolean => boolean(array, row, out),
        Shape::Integer => integer(array, row, out),
        Shape::Float => float(array, row, out),
        Shape::Text => write_string(out, string(array, row)),
        Shape::Json => embedded(string(array, row), out),
        Shape::Hugeint => wide(i128::from_le_bytes(bytes16(array, row)), out),
        Shape::UHugeint => {
            let value = u128::from_le_bytes(bytes16(array, row));
            match i128::try_from(value) {
                Ok(value) => wide(value, out),
                Err(_) => quoted(out, |out| drop(write!(out, "{value}"))),
            }
        }
        Shape::Bignum => text::bignum(bytes(array, row), out),
        Shape::Decimal => decimal(array, row, out),
        Shape::Blob => quoted(out, |out| text::base64(bytes(array, row), out)),
        Shape::Bit => quoted(out, |out| text::bits(bytes(array, row), out)),
        Shape::Uuid => quoted(out, |out| text::uuid(u128::from_be_bytes(bytes16(array, row)), out)),
        Shape::Date | Shape::Time | Shape::TimeTz | Shape::Timestamp | Shape::Interval => {
            quoted(out, |out| temporal(shape, array, row, out));
        }
        Shape::Enum => write_string(out, enumerated(array, row)),
        Shape::List(_) | Shape::Struct(_) | Shape::Map(..) | Shape::Union(_) => {
            nested(shape, array, row, out);
        }
        Shape::Unknown => out.extend_from_slice(b"null"),
    }
}

fn quoted(out: &mut Out, write: impl FnOnce(&mut Out)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Lossless conversion has booleans as bytes.
fn boolean(array: &dyn Array, row: usize, out: &mut Out) {
    let value = match array.as_primitive_opt::<Int8Type>() {
        Some(bytes) => bytes.value(row) != 0,
        None => array.as_boolean_opt().is_some_and(|array| array.value(row)),
    };
    json::write_bool(out, value);
}

fn integer(array: &dyn Array, row: usize, out: &mut Out) {
    let signed = match array.data_type() {
        DataType::Int8 => i64::from(array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => i64::from(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => i64::from(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        DataType::UInt8 => i64::from(array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => i64::from(array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => i64::from(array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => return json::write_u64(out, array.as_primitive::<UInt64Type>().value(row)),
        _ => return out.extend_from_slice(b"null"),
    };
    json::write_i64(out, signed);
}

/// A 128-bit integer: a number where it fits 64 bits.
fn wide(value: i128, out: &mut Out) {
    if let Ok(value) = u64::try_from(value) {
        json::write_u64(out, value);
    } else if let Ok(value) = i64::try_from(value) {
        json::write_i64(out, value);
    } else {
        quoted(out, |out| drop(write!(out, "{value}")));
    }
}

fn float(array: &dyn Array, row: usize, out: &mut Out) {
    let (value, is_double) = match array.as_primitive_opt::<Float64Type>() {
        Some(array) => (array.value(row), true),
        None => {
            (array.as_primitive_opt::<Float32Type>().map_or(0.0, |array| f64::from(array.value(row))), false)
        }
    };
    if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else if is_double {
        json::write_f64(out, value);
    } else {
        // The shortest text of the narrow type, not of its widened value.
        let _ = write!(out, "{:?}", value as f32);
    }
}

fn string(array: &dyn Array, row: usize) -> &str {
    match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().value(row),
        DataType::Utf8 => array.as_string::<i32>().value(row),
        DataType::Utf8View => array.as_string_view().value(row),
        _ => "",
    }
}

fn bytes(array: &dyn Array, row: usize) -> &[u8] {
    match array.data_type() {
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        DataType::Binary => array.as_binary::<i32>().value(row),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().value(row),
        _ => &[],
    }
}

fn bytes16(array: &dyn Array, row: usize) -> [u8; 16] {
    bytes(array, row).try_into().unwrap_or_default()
}

/// JSON inside the answer, on its one line. What DuckDB takes for JSON and JSON's own rules do not, such as
/// `NaN`, is a string.
fn embedded(text: &str, out: &mut Out) {
    let mut scanner = Scanner::new(text, MAX_JSON_DEPTH);
    if scanner.value().and_then(|_| scanner.end()).is_err() {
        return write_string(out, text);
    }
    // In valid JSON a line end stands only between its parts.
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
}

fn decimal(array: &dyn Array, row: usize, out: &mut Out) {
    let Some(values) = array.as_primitive_opt::<Decimal128Type>() else {
        return out.extend_from_slice(b"null");
    };
    quoted(out, |out| out.extend_from_slice(values.value_as_string(row).as_bytes()));
}

fn enumerated(array: &dyn Array, row: usize) -> &str {
    let (key, values) = match array.data_type() {
        DataType::Dictionary(key, _) if **key == DataType::UInt8 => {
            let array = array.as_dictionary::<UInt8Type>();
            (array.key(row), array.values())
        }
        DataType::Dictionary(key, _) if **key == DataType::UInt16 => {
            let array = array.as_dictionary::<UInt16Type>();
            (array.key(row), array.values())
        }
        DataType::Dictionary(key, _) if **key == DataType::UInt32 => {
            let array = array.as_dictionary::<UInt32Type>();
            (array.key(row), array.values())
        }
        _ => return string(array, row),
    };
    key.map_or("", |key| string(values.as_ref(), key))
}

fn temporal(shape: &Shape, array: &dyn Array, row: usize, out: &mut Out) {
    match (shape, array.data_type()) {
        (_, DataType::Date32) => text::date(array.as_primitive::<Date32Type>().value(row), out),
        (_, DataType::Timestamp(unit, _)) => {
            let (value, per_second) = match unit {
                TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().value(row), 1),
                TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().value(row), 1_000),
                TimeUnit::Microsecond => {
                    (array.as_primitive::<TimestampMicrosecondType>().value(row), 1_000_000)
                }
                TimeUnit::Nanosecond => {
                    (array.as_primitive::<TimestampNanosecondType>().value(row), 1_000_000_000)
                }
            };
            text::timestamp(value, per_second, out);
        }
        (_, DataType::Time64(TimeUnit::Microsecond)) => {
            text::time(array.as_primitive::<Time64MicrosecondType>().value(row) * 1_000, out);
        }
        (_, DataType::Time64(TimeUnit::Nanosecond)) => {
            text::time(array.as_primitive::<Time64NanosecondType>().value(row), out);
        }
        (_, DataType::Interval(_)) => {
            if let Some(values) = array.as_primitive_opt::<IntervalMonthDayNanoType>() {
                text::interval(values.value(row), out);
            }
        }
        (Shape::TimeTz, DataType::FixedSizeBinary(_)) => {
            let bits = bytes(array, row).try_into().map_or(0, u64::from_le_bytes);
            text::time_with_offset(bits, out);
        }
        _ => {}
    }
}

fn nested(shape: &Shape, array: &dyn Array, row: usize, out: &mut Out) {
    match shape {
        Shape::List(item) => {
            let Some(items) = items(array, row) else { return out.extend_from_slice(b"null") };
            list(out, items.len(), |at, out| write(item, items.as_ref(), at, out));
        }
        Shape::Struct(members) => {
            let Some(array) = array.as_struct_opt() else { return out.extend_from_slice(b"null") };
            // `row(1, 2)` has members without names.
            if members.iter().all(|(name, _)| name.is_empty()) {
                list(out, members.len(), |at, out| write(&members[at].1, array.column(at), row, out));
                return;
            }
            object(out, members.len(), |at, out| {
                let (name, member) = &members[at];
                write_string(out, name);
                out.push(b':');
                write(member, array.column(at), row, out);
            });
        }
        Shape::Map(key, value) => {
            let Some(array) = array.as_map_opt() else { return out.extend_from_slice(b"null") };
            map(key, value, &array.value(row), out);
        }
        Shape::Union(members) => {
            let Some(array) = array.as_any().downcast_ref::<arrow::array::UnionArray>() else {
                return out.extend_from_slice(b"null");
            };
            let member = array.type_id(row);
            match members.get(member as usize) {
                Some(shape) => write(shape, array.child(member), array.value_offset(row), out),
                None => out.extend_from_slice(b"null"),
            }
        }
        _ => out.extend_from_slice(b"null"),
    }
}

/// A map with text for keys is an object; with other keys it is an array of objects.
fn map(key: &Shape, value: &Shape, entries: &arrow::array::StructArray, out: &mut Out) {
    let (keys, values) = (entries.column(0), entries.column(1));
    if *key == Shape::Text || *key == Shape::Enum {
        object(out, entries.len(), |at, out| {
            write(key, keys.as_ref(), at, out);
            out.push(b':');
            write(value, values.as_ref(), at, out);
        });
        return;
    }
    list(out, entries.len(), |at, out| {
        out.extend_from_slice(b"{\"key\":");
        write(key, keys.as_ref(), at, out);
        out.extend_from_slice(b",\"value\":");
        write(value, values.as_ref(), at, out);
        out.push(b'}');
    });
}

fn items(array: &dyn Array, row: usize) -> Option<arrow::array::ArrayRef> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => Some(array.as_fixed_size_list().value(row)),
        _ => None,
    }
}

fn list(out: &mut Out, len: usize, item: impl FnMut(usize, &mut Out)) {
    out.push(b'[');
    separated(out, len, item);
    out.push(b']');
}

fn object(out: &mut Out, len: usize, member: impl FnMut(usize, &mut Out)) {
    out.push(b'{');
    separated(out, len, member);
    out.push(b'}');
}

fn separated(out: &mut Out, len: usize, mut write: impl FnMut(usize, &mut Out)) {
    for at in 0..len {
        if at > 0 {
            out.push(b',');
        }
        write(at, out);
    }
}
