//! Parameters: JSON values by their type.

use duckdb::ToSql;
use duckdb::types::{ToSqlOutput, Value};

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// One that fits only without a sign.
    UInt(u64),
    /// One that fits 128 bits.
    Huge(i128),
    /// Any other number, as the nearest double.
    Double(f64),
    /// A string; an array or an object as its JSON text.
    Text(String),
}

impl ToSql for Parameter {
    fn to_sql(&self) -> duckdb::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Boolean(*value),
            Self::Int(value) => Value::BigInt(*value),
            Self::UInt(value) => Value::UBigInt(*value),
            Self::Huge(value) => Value::HugeInt(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Text(value) => return Ok(value.as_str().into()),
        };
        Ok(ToSqlOutput::Owned(value))
    }
}
