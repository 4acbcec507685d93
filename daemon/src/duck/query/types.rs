//! DuckDB's types: how each is written as JSON, and how it is called.
//!
//! Invariant: every type of DuckDB 1.5 has a [`Shape`]; one that is not known is answered as null, and named
//! `UNKNOWN` among the columns.

use duckdb::core::{LogicalTypeHandle, LogicalTypeId};

use crate::duck::schema::quote_name;

/// How values of a type are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Boolean,
    /// An integer of up to 64 bits.
    Integer,
    Hugeint,
    UHugeint,
    Bignum,
    /// `FLOAT` and `DOUBLE`.
    Float,
    Decimal,
    Text,
    Json,
    Blob,
    Bit,
    Uuid,
    Date,
    Time,
    TimeTz,
    Timestamp,
    Interval,
    Enum,
    List(Box<Shape>),
    Struct(Vec<(String, Shape)>),
    Map(Box<Shape>, Box<Shape>),
    Union(Vec<Shape>),
    Unknown,
}

impl Shape {
    pub(super) fn of(logical: &LogicalTypeHandle) -> Self {
        let child = |index| Box::new(Self::of(&logical.child(index)));
        match logical.id() {
            LogicalTypeId::Boolean => Self::Boolean,
            LogicalTypeId::Tinyint
            | LogicalTypeId::Smallint
            | LogicalTypeId::Integer
            | LogicalTypeId::Bigint
            | LogicalTypeId::UTinyint
            | LogicalTypeId::USmallint
            | LogicalTypeId::UInteger
            | LogicalTypeId::UBigint => Self::Integer,
            LogicalTypeId::Hugeint => Self::Hugeint,
            LogicalTypeId::UHugeint => Self::UHugeint,
            LogicalTypeId::Bignum => Self::Bignum,
            LogicalTypeId::Float | LogicalTypeId::Double => Self::Float,
            LogicalTypeId::Decimal => Self::Decimal,
            LogicalTypeId::Varchar if logical.get_alias().as_deref() == Some("JSON") => Self::Json,
            LogicalTypeId::Varchar => Self::Text,
            LogicalTypeId::Blob | LogicalTypeId::Geometry => Self::Blob,
            LogicalTypeId::Bit => Self::Bit,
            LogicalTypeId::Uuid => Self::Uuid,
            LogicalTypeId::Date => Self::Date,
            LogicalTypeId::Time | LogicalTypeId::TimeNs => Self::Time,
            LogicalTypeId::TimeTZ => Self::TimeTz,
            LogicalTypeId::Timestamp
            | LogicalTypeId::TimestampS
            | LogicalTypeId::TimestampMs
            | LogicalTypeId::TimestampNs
            | LogicalTypeId::TimestampTZ => Self::Timestamp,
            LogicalTypeId::Interval => Self::Interval,
            LogicalTypeId::Enum => Self::Enum,
            LogicalTypeId::List | LogicalTypeId::Array => Self::List(child(0)),
            LogicalTypeId::Map => Self::Map(child(0), child(1)),
            LogicalTypeId::Struct => Self::Struct(
                children(logical).map(|index| (logical.child_name(index), *child(index))).collect(),
            ),
            LogicalTypeId::Union => Self::Union(children(logical).map(|index| *child(index)).collect()),
            _ => Self::Unknown,
        }
    }
}

impl Shape {
    /// The type, or one inside, that Arrow has none for, so that a value would come as something else.
    pub(super) fn without_arrow_type(&self) -> Option<&'static str> {
        match self {
            Self::UHugeint => Some("UHUGEINT"),
            Self::Bignum => Some("BIGNUM"),
            Self::Bit => Some("BIT"),
            Self::TimeTz => Some("TIME WITH TIME ZONE"),
            Self::Unknown => Some("value of an unknown type"),
            Self::List(item) => item.without_arrow_type(),
            Self::Map(key, value) => key.without_arrow_type().or_else(|| value.without_arrow_type()),
            Self::Struct(members) => members.iter().find_map(|(_, shape)| shape.without_arrow_type()),
            Self::Union(members) => members.iter().find_map(Self::without_arrow_type),
            _ => None,
        }
    }
}

fn children(logical: &LogicalTypeHandle) -> std::ops::Range<usize> {
    0..logical.num_children()
}

/// The type's name, as DuckDB writes it; an enum without its values.
pub(super) fn name(logical: &LogicalTypeHandle) -> String {
    if let Some(alias) = logical.get_alias() {
        return alias;
    }
    let child = |index| name(&logical.child(index));
    let members = || {
        let members = children(logical).map(|index| {
            let member = logical.child_name(index);
            if member.is_empty() {
                child(index)
            } else {
                format!("{} {}", member_name(&member), child(index))
            }
        });
        members.collect::<Vec<_>>().join(", ")
    };
    let plain = match logical.id() {
        LogicalTypeId::List => return format!("{}[]", child(0)),
        // The length is not told; `[]` would say that it varies.
        LogicalTypeId::Array => return format!("ARRAY({})", child(0)),
        LogicalTypeId::Map => return format!("MAP({}, {})", child(0), child(1)),
        LogicalTypeId::Struct => return format!("STRUCT({})", members()),
        LogicalTypeId::Union => return format!("UNION({})", members()),
        LogicalTypeId::Decimal => {
            return format!("DECIMAL({},{})", logical.decimal_width(), logical.decimal_scale());
        }
        LogicalTypeId::Boolean => "BOOLEAN",
        LogicalTypeId::Tinyint => "TINYINT",
        LogicalTypeId::Smallint => "SMALLINT",
        LogicalTypeId::Integer => "INTEGER",
        LogicalTypeId::Bigint => "BIGINT",
        LogicalTypeId::UTinyint => "UTINYINT",
        LogicalTypeId::USmallint => "USMALLINT",
        LogicalTypeId::UInteger => "UINTEGER",
        LogicalTypeId::UBigint => "UBIGINT",
        LogicalTypeId::Hugeint => "HUGEINT",
        LogicalTypeId::UHugeint => "UHUGEINT",
        LogicalTypeId::Bignum => "BIGNUM",
        LogicalTypeId::Float => "FLOAT",
        LogicalTypeId::Double => "DOUBLE",
        LogicalTypeId::Varchar => "VARCHAR",
        LogicalTypeId::Blob => "BLOB",
        LogicalTypeId::Geometry => "GEOMETRY",
        LogicalTypeId::Bit => "BIT",
        LogicalTypeId::Uuid => "UUID",
        LogicalTypeId::Date => "DATE",
        LogicalTypeId::Time => "TIME",
        LogicalTypeId::TimeNs => "TIME_NS",
        LogicalTypeId::TimeTZ => "TIME WITH TIME ZONE",
        LogicalTypeId::Timestamp => "TIMESTAMP",
        LogicalTypeId::TimestampS => "TIMESTAMP_S",
        LogicalTypeId::TimestampMs => "TIMESTAMP_MS",
        LogicalTypeId::TimestampNs => "TIMESTAMP_NS",
        LogicalTypeId::TimestampTZ => "TIMESTAMP WITH TIME ZONE",
        LogicalTypeId::Interval => "INTERVAL",
        LogicalTypeId::Enum => "ENUM",
        LogicalTypeId::SqlNull => "\"NULL\"",
        _ => "UNKNOWN",
    };
    plain.to_owned()
}

fn member_name(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { quote_name(name) }
}
