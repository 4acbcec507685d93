//! The typed value of a collection's item.

use std::borrow::Cow;

use crate::json;

/// A value that comes back with the type with which it was stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A 64-bit integer.
    Int(i64),
    /// A finite double.
    Float(f64),
    /// A text.
    String(Cow<'a, str>),
    /// A boolean.
    Bool(bool),
}

impl Value<'_> {
    /// Writes the value as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(value) => json::write_i64(out, *value),
            Self::Float(value) => json::write_f64(out, *value),
            Self::String(value) => json::write_string(out, value),
            Self::Bool(value) => json::write_bool(out, *value),
        }
    }
}
