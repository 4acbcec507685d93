//! The rows of a query as Arrow columns.
//!
//! Numbers, booleans, dates and date-times keep their types; whatever else there is becomes text, as JSON has it.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array,
    Int64Array, LargeStringArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Field, Schema};
use fastpersist_client::{Date, QueryResult, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::format::rows;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::plain;

/// All rows as one batch.
pub(super) fn record_batch(result: &QueryResult) -> Outcome<RecordBatch> {
    let rows = rows(result)?;
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (index, column) in result.columns.iter().enumerate() {
        let values: Vec<&RawValue> = rows.iter().filter_map(|row| row.get(index).copied()).collect();
        let array = array(&column.kind, &values);
        fields.push(Field::new(&column.name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|error| Failure::failed(format!("the rows do not make columns: {error}")))
}

fn array(kind: &str, values: &[&RawValue]) -> ArrayRef {
    match kind {
        "BOOLEAN" => Arc::new(values.iter().map(|value| number::<bool>(value)).collect::<BooleanArray>()),
        "TINYINT" => Arc::new(values.iter().map(|value| number(value)).collect::<Int8Array>()),
        "SMALLINT" => Arc::new(values.iter().map(|value| number(value)).collect::<Int16Array>()),
        "INTEGER" => Arc::new(values.iter().map(|value| number(value)).collect::<Int32Array>()),
        "BIGINT" => Arc::new(values.iter().map(|value| number(value)).collect::<Int64Array>()),
        "UTINYINT" => Arc::new(values.iter().map(|value| number(value)).collect::<UInt8Array>()),
        "USMALLINT" => Arc::new(values.iter().map(|value| number(value)).collect::<UInt16Array>()),
        "UINTEGER" => Arc::new(values.iter().map(|value| number(value)).collect::<UInt32Array>()),
        "UBIGINT" => Arc::new(values.iter().map(|value| number(value)).collect::<UInt64Array>()),
        "FLOAT" => {
            let values = values.iter().map(|value| float(value).map(|value| value as f32));
            Arc::new(values.collect::<Float32Array>())
        }
        "DOUBLE" => Arc::new(values.iter().map(|value| float(value)).collect::<Float64Array>()),
        "DATE" => {
            let day = |value: &&RawValue| Date::parse(&plain(value.get())).map(Date::epoch_days);
            Arc::new(values.iter().map(day).collect::<Date32Array>())
        }
        kind if kind.starts_with("TIMESTAMP") && kind != "TIMESTAMP_NS" => {
            let instant = |value: &&RawValue| Timestamp::parse(&plain(value.get())).map(Timestamp::as_micros);
            let array = values.iter().map(instant).collect::<TimestampMicrosecondArray>();
            Arc::new(array.with_timezone("UTC"))
        }
        _ => {
            let text = |value: &&RawValue| (value.get() != "null").then(|| plain(value.get()));
            Arc::new(values.iter().map(text).collect::<LargeStringArray>())
        }
    }
}

fn number<'de, T: Deserialize<'de>>(value: &'de RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// NaN and the infinities are strings in JSON.
fn float(value: &RawValue) -> Option<f64> {
    match value.get() {
        "\"NaN\"" => Some(f64::NAN),
        "\"Infinity\"" => Some(f64::INFINITY),
        "\"-Infinity\"" => Some(f64::NEG_INFINITY),
        _ => number(value),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn types_are_kept_where_arrow_has_them() {
        let result = r#"{"columns":[{"name":"n","type":"BIGINT"},{"name":"f","type":"DOUBLE"},{"name":"d","type":"DATE"},
            {"name":"t","type":"TIMESTAMP"},{"name":"j","type":"JSON"},{"name":"h","type":"HUGEINT"}],
            "rows":[[9007199254740993,"NaN","2025-01-15","2025-01-15T10:30:00.000001Z",{"a":1},"18446744073709551616"],
            [null,null,null,null,null,null]],"truncated":false,"elapsed_ms":0}"#;
        let batch = record_batch(&serde_json::from_str(result).unwrap()).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
        assert!(batch.column(1).as_primitive::<Float64Type>().value(0).is_nan());
        assert_eq!(*batch.column(2).data_type(), DataType::Date32);
        let micros = batch.column(3).as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(micros, 1_736_937_000_000_001);
        assert_eq!(batch.column(4).as_string::<i64>().value(0), "{\"a\":1}");
        assert_eq!(batch.column(5).as_string::<i64>().value(0), "18446744073709551616");
        assert!(batch.columns().iter().all(|column| column.null_count() == 1));
    }
}
