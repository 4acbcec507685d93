//! Records as Arrow columns, in the order of a table's columns.
//!
//! Invariant: a finished batch has the table's columns exactly, and no value was changed on its way: `data`
//! goes in as text, and DuckDB's appender takes text for a JSON column without parsing it.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Date32Builder, Float32Builder, Float64Builder, Int8Builder,
    Int16Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
    UInt8Builder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use fastpersist_protocol::time::{Date, Timestamp};
use fastpersist_protocol::value::Value;

use super::schema::{Kind, Table};
use crate::storage::record::{Names, Record, Writer};
use crate::storage::schema::{ExtraType, ExtraValue, Schema};

/// DuckDB works on vectors of this many rows; a larger batch would only be cut up again.
pub(super) const BATCH_ROWS: usize = 2048;
/// A batch is finished early when it holds this much text.
const BATCH_BYTES: usize = 8 << 20;

/// A batch for one table, being filled.
pub(super) struct Rows<'a> {
    schema: &'a Schema,
    arrow: SchemaRef,
    bytes: usize,
    key: StringBuilder,
    names: Vec<StringBuilder>,
    data: StringBuilder,
    values: Option<Values>,
    timestamp: TimestampMicrosecondBuilder,
    status: StringBuilder,
    status_int: Int32Builder,
    username: StringBuilder,
    updated_at: TimestampMicrosecondBuilder,
    version: Int32Builder,
    seq: UInt64Builder,
    deleted: Option<BooleanBuilder>,
    extra: Vec<Extra>,
    writer: Option<Writers>,
}

impl<'a> Rows<'a> {
    /// An empty batch.
    pub(super) fn new(table: &Table, schema: &'a Schema) -> Self {
        let kind = table.kind;
        Self {
            schema,
            arrow: table.arrow(),
            bytes: 0,
            key: StringBuilder::new(),
            names: kind.name_columns().iter().map(|_| StringBuilder::new()).collect(),
            data: StringBuilder::new(),
            values: (kind != Kind::Storage).then(Values::default),
            timestamp: TimestampMicrosecondBuilder::new(),
            status: StringBuilder::new(),
            status_int: Int32Builder::new(),
            username: StringBuilder::new(),
            updated_at: TimestampMicrosecondBuilder::new(),
            version: Int32Builder::new(),
            seq: UInt64Builder::new(),
            deleted: (kind == Kind::History).then(BooleanBuilder::new),
            extra: schema.extra.iter().map(|column| Extra::new(column.kind)).collect(),
            writer: schema.record_writer.then(Writers::default),
        }
    }

    /// Adds a record; a deletion has no data.
    pub(super) fn push(&mut self, record: &Record, version: i32) {
        let columns = record.columns();
        self.bytes += record.size_bytes();
        self.key.append_value(columns.key);
        push_names(&mut self.names, columns.names);
        self.data.append_option((!columns.deleted).then_some(columns.data));
        if let Some(values) = &mut self.values {
            values.push(columns.value.as_ref());
        }
        self.timestamp.append_option(columns.timestamp.map(Timestamp::as_micros));
        self.status.append_option(columns.status);
        self.status_int.append_option(columns.status_int);
        self.username.append_option(columns.username);
        self.updated_at.append_value(columns.updated_at.as_micros());
        self.version.append_value(version);
        self.seq.append_value(columns.seq);
        if let Some(deleted) = &mut self.deleted {
            deleted.append_value(columns.deleted);
        }
        if !self.extra.is_empty() {
            for (builder, value) in self.extra.iter_mut().zip(self.schema.extra_values(columns.data)) {
                builder.push(value);
            }
        }
        if let Some(writers) = &mut self.writer {
            writers.push(columns.writer);
        }
    }

    /// Whether the batch should be taken now.
    pub(super) fn is_full(&self) -> bool {
        self.seq.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The rows in the batch.
    pub(super) fn len(&self) -> usize {
        self.seq.len()
    }

    /// The size of the records in the batch, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the batch and leaves an empty one; `None` where there are no rows.
    pub(super) fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.seq.is_empty() {
            return Ok(None);
        }
        self.bytes = 0;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.arrow.fields().len());
        columns.push(Arc::new(self.key.finish()));
        columns.extend(self.names.iter_mut().map(|names| Arc::new(names.finish()) as ArrayRef));
        columns.push(Arc::new(self.data.finish()));
        if let Some(values) = &mut self.values {
            columns.push(Arc::new(values.int.finish()));
            columns.push(Arc::new(values.float.finish()));
            columns.push(Arc::new(values.string.finish()));
            columns.push(Arc::new(values.bool.finish()));
        }
        columns.push(Arc::new(self.timestamp.finish()));
        columns.push(Arc::new(self.status.finish()));
        columns.push(Arc::new(self.status_int.finish()));
        columns.push(Arc::new(self.username.finish()));
        columns.push(Arc::new(self.updated_at.finish()));
        columns.push(Arc::new(self.version.finish()));
        columns.push(Arc::new(self.seq.finish()));
        columns.extend(self.deleted.iter_mut().map(|deleted| Arc::new(deleted.finish()) as ArrayRef));
        columns.extend(self.extra.iter_mut().map(Extra::finish));
        if let Some(writers) = &mut self.writer {
            columns.push(Arc::new(writers.uid.finish()));
            columns.push(Arc::new(writers.unit.finish()));
        }
        RecordBatch::try_new(Arc::clone(&self.arrow), columns).map(Some)
    }
}

/// Adds a record's names to the columns below the key.
pub(super) fn push_names(builders: &mut [StringBuilder], names: Names<'_>) {
    let names = match names {
        Names::Dated { process_name } => [process_name, None],
        Names::Collection { collection_name, item_name } => [Some(collection_name), Some(item_name)],
    };
    for (builder, name) in builders.iter_mut().zip(names) {
        builder.append_option(name);
    }
}

/// The four columns of the typed value; at most one of them is not NULL.
#[derive(Default)]
struct Values {
    int: Int64Builder,
    float: Float64Builder,
    string: StringBuilder,
    bool: BooleanBuilder,
}

impl Values {
    fn push(&mut self, value: Option<&Value<'_>>) {
        let (mut int, mut float, mut string, mut bool) = (None, None, None, None);
        match value {
            None => {}
            Some(Value::Int(value)) => int = Some(*value),
            Some(Value::Float(value)) => float = Some(*value),
            Some(Value::String(value)) => string = Some(value),
            Some(Value::Bool(value)) => bool = Some(*value),
        }
        self.int.append_option(int);
        self.float.append_option(float);
        self.string.append_option(string);
        self.bool.append_option(bool);
    }
}

/// Where the records came from. The number of a process is given to others later, so only the log tells it.
#[derive(Default)]
struct Writers {
    uid: UInt32Builder,
    unit: StringBuilder,
}

impl Writers {
    fn push(&mut self, writer: Option<Writer<'_>>) {
        self.uid.append_option(writer.map(|writer| writer.uid));
        self.unit.append_option(writer.and_then(|writer| writer.unit));
    }
}

/// The content of an extra value of one variant.
macro_rules! pick {
    ($value:expr, $variant:path) => {
        match $value {
            Some($variant(value)) => Some(value),
            _ => None,
        }
    };
}

/// The same for a narrower integer.
macro_rules! pick_int {
    ($value:expr, $variant:path) => {
        pick!($value, $variant).and_then(|value| value.try_into().ok())
    };
}

/// One extra column.
enum Extra {
    String(StringBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
}

impl Extra {
    fn new(kind: ExtraType) -> Self {
        match kind {
            ExtraType::String => Self::String(StringBuilder::new()),
            ExtraType::Int(8) => Self::Int8(Int8Builder::new()),
            ExtraType::Int(16) => Self::Int16(Int16Builder::new()),
            ExtraType::Int(32) => Self::Int32(Int32Builder::new()),
            ExtraType::Int(_) => Self::Int64(Int64Builder::new()),
            ExtraType::UInt(8) => Self::UInt8(UInt8Builder::new()),
            ExtraType::UInt(16) => Self::UInt16(UInt16Builder::new()),
            ExtraType::UInt(32) => Self::UInt32(UInt32Builder::new()),
            ExtraType::UInt(_) => Self::UInt64(UInt64Builder::new()),
            ExtraType::Float32 => Self::Float32(Float32Builder::new()),
            ExtraType::Float64 => Self::Float64(Float64Builder::new()),
            ExtraType::Bool => Self::Bool(BooleanBuilder::new()),
            ExtraType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            ExtraType::Date => Self::Date(Date32Builder::new()),
        }
    }

    /// The schema reads a value with the column's own type and checks its range, so what does not fit
    /// cannot come here; it would become NULL rather than another value.
    fn push(&mut self, value: Option<ExtraValue>) {
        match self {
            Self::String(builder) => builder.append_option(pick!(value, ExtraValue::String)),
            Self::Int8(builder) => builder.append_option(pick_int!(value, ExtraValue::Int)),
            Self::Int16(builder) => builder.append_option(pick_int!(value, ExtraValue::Int)),
            Self::Int32(builder) => builder.append_option(pick_int!(value, ExtraValue::Int)),
            Self::Int64(builder) => builder.append_option(pick!(value, ExtraValue::Int)),
            Self::UInt8(builder) => builder.append_option(pick_int!(value, ExtraValue::UInt)),
            Self::UInt16(builder) => builder.append_option(pick_int!(value, ExtraValue::UInt)),
            Self::UInt32(builder) => builder.append_option(pick_int!(value, ExtraValue::UInt)),
            Self::UInt64(builder) => builder.append_option(pick!(value, ExtraValue::UInt)),
            Self::Float32(builder) => {
                builder.append_option(pick!(value, ExtraValue::Float).map(|value| value as f32));
            }
            Self::Float64(builder) => builder.append_option(pick!(value, ExtraValue::Float)),
            Self::Bool(builder) => builder.append_option(pick!(value, ExtraValue::Bool)),
            Self::Timestamp(builder) => {
                builder.append_option(pick!(value, ExtraValue::Timestamp).map(Timestamp::as_micros));
            }
            Self::Date(builder) => {
                builder.append_option(pick!(value, ExtraValue::Date).map(Date::epoch_days));
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::String(builder) => Arc::new(builder.finish()),
            Self::Int8(builder) => Arc::new(builder.finish()),
            Self::Int16(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::UInt8(builder) => Arc::new(builder.finish()),
            Self::UInt16(builder) => Arc::new(builder.finish()),
            Self::UInt32(builder) => Arc::new(builder.finish()),
            Self::UInt64(builder) => Arc::new(builder.finish()),
            Self::Float32(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
        }
    }
}
