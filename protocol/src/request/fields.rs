//! The fields of a request line, found in one pass and taken out one by one with their checks.
//!
//! Invariant: a field that no operation takes is never overlooked; [`Fields::only`] compares what is
//! there with what the operation knows.

use std::borrow::Cow;

use super::{Document, Durability, Producer, StatsFormat};
use crate::error::WireError;
use crate::json::{JsonError, Kind, Raw, Scanner};
use crate::time::{Date, Timestamp};
use crate::value::Value;
use crate::{MAX_KEY_BYTES, MAX_NAME_BYTES};

macro_rules! fields {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// A field that some operation takes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($name,)* }

        impl Field {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            fn find(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            const fn bit(self) -> u64 {
                1 << self as u64
            }
        }

        const FIELD_COUNT: usize = Field::ALL.len();
    };
}

fields! {
    Op = "op", Id = "id", Storage = "storage", Date = "date", Key = "key",
    ProcessName = "process_name", CollectionName = "collection_name", ItemName = "item_name",
    Data = "data", Value = "value", Timestamp = "timestamp", Username = "username",
    Durability = "durability", IfSeq = "if_seq", Ops = "ops", Prefix = "prefix", After = "after",
    Limit = "limit", Path = "path", Backup = "backup", Deep = "deep", Format = "format",
    Producer = "producer", ProducerSeq = "producer_seq", BeforeSeq = "before_seq", Sql = "sql",
    Params = "params", From = "from", To = "to", Fresh = "fresh", MaxRows = "max_rows",
    TimeoutMs = "timeout_ms", ResultKind = "result", FromSeq = "from_seq", Subscription = "subscription",
    AllItems = "all_items", Name = "name", WaitMs = "wait_ms", TtlMs = "ttl_ms", Token = "token",
    UpdatedAt = "updated_at", Status = "status", StatusInt = "status_int",
}

type Taken<T> = Result<T, WireError>;

/// The fields of one object, still unchecked but valid JSON.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    values: [Option<Raw<'a>>; FIELD_COUNT],
    present: u64,
    document: Option<Document<'a>>,
    /// The first field that no operation has, or that stands twice.
    fault: Option<WireError>,
}

impl<'a> Fields<'a> {
    /// Reads one object; the cursor then stands behind it.
    pub(super) fn scan(scanner: &mut Scanner<'a>) -> Result<Self, JsonError> {
        let mut fields = Self { values: [None; FIELD_COUNT], present: 0, document: None, fault: None };
        scanner.object(|scanner, name| fields.add(scanner, &name))?;
        Ok(fields)
    }

    fn add(&mut self, scanner: &mut Scanner<'a>, name: &str) -> Result<(), JsonError> {
        let field = Field::find(name);
        let value = if field == Some(Field::Data) && scanner.at_object() {
            let document = Document::scan(scanner)?;
            self.document = Some(document);
            Raw { text: document.text, kind: Kind::Object }
        } else {
            scanner.value()?
        };
        match field {
            None => self.note(|| {
                let name = short(name);
                WireError::field(&name, format!("unknown field {name:?}"))
            }),
            Some(field) if self.present & field.bit() != 0 => {
                self.note(|| WireError::field(name, format!("field {name:?} is given twice")));
            }
            Some(field) => {
                self.present |= field.bit();
                self.values[field as usize] = Some(value);
            }
        }
        Ok(())
    }

    fn note(&mut self, fault: impl FnOnce() -> WireError) {
        if self.fault.is_none() {
            self.fault = Some(fault());
        }
    }

    /// Checks that nothing but `allowed` is there.
    pub(super) fn only(&mut self, op: &str, allowed: &[Field]) -> Taken<()> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mask = allowed.iter().fold(0, |mask, field| mask | field.bit());
        let surplus = self.present & !mask;
        match Field::ALL.iter().find(|field| surplus & field.bit() != 0) {
            None => Ok(()),
            Some(field) => Err(WireError::field(
                field.name(),
                format!("{op:?} does not take the field {:?}", field.name()),
            )),
        }
    }

    /// The value of a field, where it is there and not null.
    pub(super) fn get(&self, field: Field) -> Option<Raw<'a>> {
        self.values[field as usize].filter(|raw| !raw.is_null())
    }

    /// The value of a field as it stands, null included.
    pub(super) fn get_raw(&self, field: Field) -> Option<Raw<'a>> {
        self.values[field as usize]
    }

    /// A string field.
    pub(super) fn string(&self, field: Field) -> Taken<Option<Cow<'a, str>>> {
        let Some(raw) = self.get(field) else { return Ok(None) };
        raw.as_str().map(Some).ok_or_else(|| mistyped(field, "a string", &raw))
    }

    /// A name field: a string of bounded length.
    pub(super) fn name(&self, field: Field) -> Taken<Option<Cow<'a, str>>> {
        let name = self.string(field)?;
        if let Some(name) = &name {
            check_name(field.name(), name, MAX_NAME_BYTES)?;
        }
        Ok(name)
    }

    /// The key, which must be there.
    pub(super) fn key(&self) -> Taken<Cow<'a, str>> {
        let key = self.string(Field::Key)?.ok_or_else(|| missing(Field::Key, "a string"))?;
        if key.is_empty() {
            return Err(WireError::field("key", "key is empty; it must have 1 to 1024 bytes"));
        }
        check_name("key", &key, MAX_KEY_BYTES)?;
        Ok(key)
    }

    /// The field `date`.
    pub(super) fn date(&self) -> Taken<Option<Date>> {
        self.date_of(Field::Date)
    }

    /// A date field.
    pub(super) fn date_of(&self, field: Field) -> Taken<Option<Date>> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        Date::parse(&text).map(Some).ok_or_else(|| {
            let name = field.name();
            WireError::field(
                name,
                format!("{name} {:?} is no calendar date like \"2025-01-15\"", short(&text)),
            )
        })
    }

    /// Who writes, and the write's number there: both or neither.
    pub(super) fn producer(&self) -> Taken<Option<Producer<'a>>> {
        match (self.name(Field::Producer)?, self.unsigned(Field::ProducerSeq)?) {
            (None, None) => Ok(None),
            (Some(name), Some(seq)) if seq > 0 && !name.is_empty() => Ok(Some(Producer { name, seq })),
            (Some(name), Some(_)) if name.is_empty() => {
                Err(WireError::field("producer", "producer is empty; it must have 1 to 255 bytes"))
            }
            (_, Some(0)) => Err(WireError::field("producer_seq", "producer_seq must be 1 or more")),
            (Some(_), _) => Err(missing(Field::ProducerSeq, "an integer from 1 on")),
            (None, Some(_)) => Err(missing(Field::Producer, "a string")),
        }
    }

    /// An unsigned integer field.
    pub(super) fn unsigned(&self, field: Field) -> Taken<Option<u64>> {
        let Some(raw) = self.get(field) else { return Ok(None) };
        let first = if field == Field::Limit { "1" } else { "0" };
        raw.as_u64().map(Some).ok_or_else(|| mistyped(field, &format!("an integer from {first} on"), &raw))
    }

    /// A boolean field.
    pub(super) fn boolean(&self, field: Field, default: bool) -> Taken<bool> {
        let Some(raw) = self.get(field) else { return Ok(default) };
        raw.as_bool().ok_or_else(|| mistyped(field, "true or false", &raw))
    }

    /// `format` of `stats`, which is `"json"` when it is left out.
    pub(super) fn stats_format(&self) -> Taken<StatsFormat> {
        match self.string(Field::Format)?.as_deref() {
            None | Some("json") => Ok(StatsFormat::Json),
            Some("openmetrics") => Ok(StatsFormat::OpenMetrics),
            Some(other) => Err(WireError::field(
                "format",
                format!("format {:?} is neither \"json\" nor \"openmetrics\"", short(other)),
            )),
        }
    }

    /// An instant.
    pub(super) fn instant(&self, field: Field) -> Taken<Option<Timestamp>> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        Timestamp::parse(&text).map(Some).ok_or_else(|| {
            let name = field.name();
            WireError::field(
                name,
                format!(
                    "{name} {:?} cannot be read; right is for example \"2025-01-15T10:30:00Z\"",
                    short(&text)
                ),
            )
        })
    }

    /// A 32-bit integer.
    pub(super) fn int32(&self, field: Field) -> Taken<Option<i32>> {
        let Some(raw) = self.get(field) else { return Ok(None) };
        let number = raw.as_i64().and_then(|number| i32::try_from(number).ok());
        number.map(Some).ok_or_else(|| mistyped(field, "a 32-bit integer", &raw))
    }

    /// `durability`, which is `"sync"` when it is left out.
    pub(super) fn durability(&self) -> Taken<Durability> {
        match self.string(Field::Durability)?.as_deref() {
            None | Some("sync") => Ok(Durability::Sync),
            Some("buffered") => Ok(Durability::Buffered),
            Some(other) => Err(WireError::field(
                "durability",
                format!("durability {:?} is neither \"sync\" nor \"buffered\"", short(other)),
            )),
        }
    }

    /// The document, which must be there.
    pub(super) fn document(&self) -> Taken<Document<'a>> {
        match (self.document, self.get_raw(Field::Data)) {
            (Some(document), _) => Ok(document),
            (None, Some(raw)) => Err(mistyped(Field::Data, "an object", &raw)),
            (None, None) => Err(missing(Field::Data, "an object")),
        }
    }

    /// The typed value.
    pub(super) fn value(&self) -> Taken<Option<Value<'a>>> {
        let Some(raw) = self.get(Field::Value) else { return Ok(None) };
        let value = match raw.kind {
            Kind::String { .. } => raw.as_str().map(Value::String),
            Kind::Bool => raw.as_bool().map(Value::Bool),
            Kind::Number { integer: true } => raw.as_i64().map(Value::Int),
            Kind::Number { integer: false } => raw.as_f64().map(Value::Float),
            _ => return Err(mistyped(Field::Value, "an integer, float, string, boolean or null", &raw)),
        };
        value.map(Some).ok_or_else(|| {
            WireError::field("value", format!("value {} is outside what 64 bits hold", short(raw.text)))
        })
    }
}

fn check_name(field: &str, name: &str, max_bytes: usize) -> Taken<()> {
    if name.len() > max_bytes {
        let message = format!("{field} has {} bytes; at most {max_bytes} are allowed", name.len());
        return Err(WireError::field(field, message));
    }
    if name.contains('\0') {
        return Err(WireError::field(field, format!("{field} must not contain a NUL")));
    }
    Ok(())
}

/// A field that must be there and is not.
pub(super) fn missing(field: Field, wanted: &str) -> WireError {
    WireError::field(field.name(), format!("the field {:?} is missing; it must be {wanted}", field.name()))
}

/// A field of the wrong type.
pub(super) fn mistyped(field: Field, wanted: &str, raw: &Raw<'_>) -> WireError {
    WireError::field(
        field.name(),
        format!("{} must be {wanted}, but is {} ({})", field.name(), raw.kind_name(), short(raw.text)),
    )
}

/// The beginning of a text, short enough for a message: a client's line must not come back in it whole.
pub(super) fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(40) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
    }
}
