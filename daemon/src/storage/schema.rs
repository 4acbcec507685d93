//! What the records of a storage look like: its model, its `extra_schema` columns, and whether their writers are kept.
//!
//! Invariant: an extra value that [`ExtraColumn::read`] lets through fits its DuckDB column exactly, so
//! no accepted write can make a later flush fail.

use std::fmt;

use fastpersist_protocol::json::{Kind, Raw};
use fastpersist_protocol::time::{Date, Timestamp};

/// The two models of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// date → key → process → data
    Dated,
    /// key → collection → item → data and value
    Collection,
}

impl Model {
    /// The model's name in configuration and replies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dated => "dated",
            Self::Collection => "collection",
        }
    }

    /// The columns that every table of the model has, in order; extra columns follow.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Dated => &[
                "key",
                "process_name",
                "data",
                "timestamp",
                "status",
                "status_int",
                "username",
                "updated_at",
                "version",
                "seq",
            ],
            Self::Collection => &[
                "key",
                "collection_name",
                "item_name",
                "data",
                "value_int",
                "value_float",
                "value_string",
                "value_bool",
                "timestamp",
                "status",
                "status_int",
                "username",
                "updated_at",
                "version",
                "seq",
                "deleted",
            ],
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of an extra column, named as Arrow names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraType {
    /// `string`
    String,
    /// `int8` … `int64`, by width in bits
    Int(u8),
    /// `uint8` … `uint64`, by width in bits
    UInt(u8),
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// `bool`
    Bool,
    /// `timestamp[s]`, `[ms]`, `[us]`, `[ns]`: all kept to the microsecond
    Timestamp,
    /// `date32`, `date64`
    Date,
}

impl ExtraType {
    /// Every name that the configuration may use.
    pub const NAMES: &'static [&'static str] = &[
        "string",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float32",
        "float64",
        "bool",
        "timestamp[s]",
        "timestamp[ms]",
        "timestamp[us]",
        "timestamp[ns]",
        "date32",
        "date64",
    ];

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Self::String,
            "int8" => Self::Int(8),
            "int16" => Self::Int(16),
            "int32" => Self::Int(32),
            "int64" => Self::Int(64),
            "uint8" => Self::UInt(8),
            "uint16" => Self::UInt(16),
            "uint32" => Self::UInt(32),
            "uint64" => Self::UInt(64),
            "float32" => Self::Float32,
            "float64" => Self::Float64,
            "bool" => Self::Bool,
            "timestamp[s]" | "timestamp[ms]" | "timestamp[us]" | "timestamp[ns]" => Self::Timestamp,
            "date32" | "date64" => Self::Date,
            _ => return None,
        })
    }
}

/// A value for an extra column.
#[derive(Debug, Clone, PartialEq)]
pub enum ExtraValue {
    /// For `string`.
    String(String),
    /// For the signed integers.
    Int(i64),
    /// For the unsigned integers.
    UInt(u64),
    /// For the floats.
    Float(f64),
    /// For `bool`.
    Bool(bool),
    /// For the timestamps.
    Timestamp(Timestamp),
    /// For the dates.
    Date(Date),
}

/// One extra column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraColumn {
    /// The column's name, and the field's name in `data`.
    pub name: String,
    /// Its type.
    pub kind: ExtraType,
    /// The type's name as it was configured.
    pub type_name: String,
}

impl ExtraColumn {
    /// The value of one field of `data`: `Ok(None)` for null, `Err` when it does not fit the type.
    ///
    /// # Errors
    /// `Err(())` when the value has another type or is out of range.
    #[allow(clippy::result_unit_err)] // The caller knows the column and words the message.
    pub fn read(&self, raw: &Raw<'_>) -> Result<Option<ExtraValue>, ()> {
        if raw.kind == Kind::Null {
            return Ok(None);
        }
        let value = match self.kind {
            ExtraType::String => raw.as_str().map(|text| ExtraValue::String(text.into_owned())),
            ExtraType::Int(bits) => {
                raw.as_i64().filter(|value| fits_signed(*value, bits)).map(ExtraValue::Int)
            }
            ExtraType::UInt(bits) => {
                raw.as_u64().filter(|value| bits == 64 || value >> bits == 0).map(ExtraValue::UInt)
            }
            ExtraType::Float32 => {
                raw.as_f64().filter(|value| (*value as f32).is_finite()).map(ExtraValue::Float)
            }
            ExtraType::Float64 => raw.as_f64().map(ExtraValue::Float),
            ExtraType::Bool => raw.as_bool().map(ExtraValue::Bool),
            ExtraType::Timestamp => {
                raw.as_str().and_then(|text| Timestamp::parse(&text)).map(ExtraValue::Timestamp)
            }
            ExtraType::Date => raw.as_str().and_then(|text| read_date(&text)).map(ExtraValue::Date),
        };
        value.map(Some).ok_or(())
    }
}

fn fits_signed(value: i64, bits: u8) -> bool {
    let unused = 64 - u32::from(bits);
    (value << unused) >> unused == value
}

/// A date, or the UTC day of an instant.
fn read_date(text: &str) -> Option<Date> {
    Date::parse(text).or_else(|| Timestamp::parse(text).map(Timestamp::date))
}

/// The columns that say where a record came from, behind all others.
pub const WRITER_COLUMNS: [&str; 2] = ["writer_uid", "writer_unit"];

/// What the records of one storage look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The storage's model.
    pub model: Model,
    /// The extra columns, in the order of the configuration.
    pub extra: Vec<ExtraColumn>,
    /// Whether it is kept where each record came from.
    pub record_writer: bool,
}

impl Schema {
    /// The extra values of a document, in the order of the columns. A value that does not fit becomes
    /// null: writes are checked when they arrive, so this happens only after `extra_schema` changed.
    pub fn extra_values(&self, data: &str) -> Vec<Option<ExtraValue>> {
        let mut values = vec![None; self.extra.len()];
        self.visit_extra(data, |index, raw| values[index] = self.extra[index].read(raw).unwrap_or(None));
        values
    }

    /// The first extra column whose value in `data` does not fit, with the value as it stands there.
    pub fn first_misfit<'s>(&'s self, data: &str) -> Option<(&'s ExtraColumn, String)> {
        let mut misfits: Vec<Option<String>> = vec![None; self.extra.len()];
        self.visit_extra(data, |index, raw| {
            misfits[index] = self.extra[index].read(raw).is_err().then(|| raw.text.to_owned());
        });
        self.extra.iter().zip(misfits).find_map(|(column, misfit)| Some((column, misfit?)))
    }

    /// Shows `visit` every field of `data` that has an extra column; of repeated ones the last counts.
    fn visit_extra(&self, data: &str, mut visit: impl FnMut(usize, &Raw<'_>)) {
        if self.extra.is_empty() {
            return;
        }
        let mut scanner = fastpersist_protocol::json::Scanner::new(data, usize::MAX);
        // `data` is valid JSON by the record's invariant; a deletion's is empty and has no fields.
        let _ = scanner.object(|scanner, name| {
            let value = scanner.value()?;
            if let Some(index) = self.extra.iter().position(|column| column.name == *name) {
                visit(index, &value);
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, &str)]) -> Schema {
        let extra = columns
            .iter()
            .map(|(name, kind)| ExtraColumn {
                name: (*name).to_owned(),
                kind: ExtraType::from_name(kind).expect("a type"),
                type_name: (*kind).to_owned(),
            })
            .collect();
        Schema { model: Model::Dated, extra, record_writer: false }
    }

    #[test]
    fn every_type_has_its_bounds() {
        for (kind, fits, misfits) in [
            ("int8", "-128", "128"),
            ("int64", "9223372036854775807", "9223372036854775808"),
            ("uint8", "255", "256"),
            ("uint64", "18446744073709551615", "-1"),
            ("int32", "1", "1.0"),
            ("float32", "3.4e38", "3.5e38"),
            ("float64", "1", "1e999"),
            ("bool", "true", "1"),
            ("string", "\"x\"", "1"),
            ("timestamp[ns]", "\"2025-01-15T10:30:00Z\"", "\"soon\""),
            ("date32", "\"2025-01-15\"", "\"2025-02-30\""),
        ] {
            let schema = schema(&[("c", kind)]);
            assert_eq!(schema.first_misfit(&format!("{{\"c\":{fits}}}")), None, "{kind} {fits}");
            let data = format!("{{\"c\":{misfits}}}");
            let (column, text) = schema.first_misfit(&data).expect(kind);
            assert_eq!((column.name.as_str(), text.as_str()), ("c", misfits));
        }
    }

    #[test]
    fn missing_and_null_are_null_and_the_last_of_two_counts() {
        let schema = schema(&[("a", "int64"), ("b", "string"), ("c", "bool")]);
        let values = schema.extra_values(r#"{"b":null,"a":"x","a":2}"#);
        assert_eq!(values, [Some(ExtraValue::Int(2)), None, None]);
        assert_eq!(schema.first_misfit(r#"{"a":"x","a":2}"#), None);
    }
}
