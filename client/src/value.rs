//! The typed value of a collection's item, owned.
//!
//! Invariant: a value comes back with the type with which it was stored. `true` is no 1, and 1.0 is a
//! float although it has no fraction.

use std::borrow::Cow;
use std::fmt;

use fastpersist_protocol::value::Value as WireValue;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// An integer, a float, a text or a boolean. The absence of a value is `Option::None`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A 64-bit integer.
    Int(i64),
    /// A double. One that is not finite cannot be stored.
    Float(f64),
    /// A text.
    String(String),
    /// A boolean.
    Bool(bool),
}

impl Value {
    pub(crate) fn as_wire(&self) -> WireValue<'_> {
        match self {
            Self::Int(value) => WireValue::Int(*value),
            Self::Float(value) => WireValue::Float(*value),
            Self::String(value) => WireValue::String(Cow::Borrowed(value)),
            Self::Bool(value) => WireValue::Bool(*value),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            // As on the wire: a float looks like one.
            Self::Float(value) => write!(f, "{value:?}"),
            Self::String(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

macro_rules! from {
    ($($source:ty => $variant:ident),* $(,)?) => {
        $(impl From<$source> for Value {
            fn from(value: $source) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from! { i64 => Int, i32 => Int, u32 => Int, f64 => Float, String => String, &str => String, bool => Bool }

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::String(value) => serializer.serialize_str(value),
            Self::Bool(value) => serializer.serialize_bool(*value),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar)
    }
}

struct Scalar;

impl Visitor<'_> for Scalar {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer of 64 bits, a float, a string or a boolean")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value).map(Value::Int).map_err(|_| E::custom("an integer outside 64 bits"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_type_comes_back_as_itself() {
        for (json, value) in [
            ("true", Some(Value::Bool(true))),
            ("1", Some(Value::Int(1))),
            ("1.0", Some(Value::Float(1.0))),
            ("-9223372036854775808", Some(Value::Int(i64::MIN))),
            ("\"1\"", Some(Value::from("1"))),
            ("null", None),
        ] {
            assert_eq!(read(json), value, "{json}");
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
    }

    /// The next smaller double came back.
    #[test]
    fn a_float_comes_back_to_its_last_digit() {
        assert_eq!(read("922327203685471.575808"), Some(Value::Float(922_327_203_685_471.6)));
        for bits in (0..64).map(|n| 0x3ff0_0000_0000_0001_u64.rotate_left(n)) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                assert_eq!(
                    read(&serde_json::to_string(&value).unwrap()),
                    Some(Value::Float(value)),
                    "{value:e}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_scalar_of_64_bits_is_refused() {
        for json in ["9223372036854775808", "[]", "{}"] {
            assert!(serde_json::from_str::<Value>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_float_looks_like_one() {
        assert_eq!(Value::from(2.0).to_string(), "2.0");
        assert_eq!(Value::from(2).to_string(), "2");
    }
}
