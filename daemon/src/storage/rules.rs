//! From a request to a record: the rules of both models.
//!
//! Invariant: what comes out has passed every check that its model and its `extra_schema` ask for.

use fastpersist_protocol::json::Raw;
use fastpersist_protocol::request::{Address, Delete, Imported, Store};
use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::{MAX_NAME_BYTES, json};

use super::record::{Columns, Names, Record, Writer};
use super::schema::{Model, Schema};

/// What a request breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A field of the other model.
    #[error("{field} does not belong to a {model} storage; {right}")]
    WrongField {
        /// The field.
        field: &'static str,
        /// The storage's model.
        model: Model,
        /// What the model has instead.
        right: &'static str,
    },
    /// A value that does not fit its extra column.
    #[error("data.{column} = {value} does not fit the column's type {type_name}")]
    Misfit {
        /// The column.
        column: String,
        /// Its type, as configured.
        type_name: String,
        /// The value, as it was sent.
        value: String,
    },
}

/// What a request does not say itself.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// When the daemon took it.
    pub at: Timestamp,
    /// From whom.
    pub from: Writer<'a>,
}

impl<'a> Taken<'a> {
    /// The writer, where the storage keeps that.
    fn writer(&self, schema: &Schema) -> Option<Writer<'a>> {
        schema.record_writer.then_some(self.from)
    }
}

const DATED_NAMES: &str = "its records have date, key and process_name";
const COLLECTION_NAMES: &str = "its records have key, collection_name and item_name";

/// Checks that the names given are those of the model.
fn check_names(model: Model, address: &Address<'_>) -> Result<(), RuleError> {
    let wrong = match model {
        Model::Dated if address.collection_name.is_some() => Some("collection_name"),
        Model::Dated if address.item_name.is_some() => Some("item_name"),
        Model::Collection if address.process_name.is_some() => Some("process_name"),
        _ => None,
    };
    wrong.map_or(Ok(()), |field| Err(wrong_field(model, field)))
}

/// A field that belongs to the other model.
pub fn wrong_field(model: Model, field: &'static str) -> RuleError {
    let right = match model {
        Model::Dated => DATED_NAMES,
        Model::Collection => COLLECTION_NAMES,
    };
    RuleError::WrongField { field, model, right }
}

/// A store, as the record that it asks for.
///
/// What in `data` has the wrong type for its column leaves the column null, and says so in `warnings`.
/// `scratch` is where the record is put together; it is used again and again.
///
/// # Errors
/// See [`RuleError`].
pub fn record_of_store(
    schema: &Schema,
    store: &Store<'_>,
    taken: Taken<'_>,
    warnings: &mut Vec<String>,
    scratch: &mut Vec<u8>,
) -> Result<Record, RuleError> {
    let own = Own {
        updated_at: taken.at,
        timestamp: Some(taken.at),
        status: None,
        status_int: None,
        writer: taken.writer(schema),
    };
    build(schema, store, &own, warnings, scratch)
}

/// A record of an import. Nothing is made up for it: without a timestamp it has none. Its writer is who imports.
///
/// # Errors
/// See [`RuleError`].
pub fn record_of_import(
    schema: &Schema,
    imported: &Imported<'_>,
    taken: Taken<'_>,
    warnings: &mut Vec<String>,
    scratch: &mut Vec<u8>,
) -> Result<Record, RuleError> {
    let own = Own {
        updated_at: imported.updated_at.unwrap_or(taken.at),
        timestamp: None,
        status: imported.status.as_deref(),
        status_int: imported.status_int,
        writer: taken.writer(schema),
    };
    build(schema, &imported.store, &own, warnings, scratch)
}

/// What a record has that its store does not say.
struct Own<'a> {
    updated_at: Timestamp,
    /// Where the store and its document have none.
    timestamp: Option<Timestamp>,
    /// Instead of the document's.
    status: Option<&'a str>,
    /// Instead of the document's.
    status_int: Option<i32>,
    writer: Option<Writer<'a>>,
}

fn build(
    schema: &Schema,
    store: &Store<'_>,
    own: &Own<'_>,
    warnings: &mut Vec<String>,
    scratch: &mut Vec<u8>,
) -> Result<Record, RuleError> {
    check_names(schema.model, &store.address)?;
    if schema.model == Model::Dated && store.value.is_some() {
        return Err(wrong_field(schema.model, "value"));
    }
    if let Some((column, value)) = schema.first_misfit(store.data.text) {
        return Err(RuleError::Misfit {
            column: column.name.clone(),
            type_name: column.type_name.clone(),
            value: value.chars().take(60).collect(),
        });
    }
    let data = &store.data;
    let process_name = match (&store.address.process_name, schema.model) {
        (None, Model::Dated) => name_in_data("process_name", data.process_name, warnings),
        (own, _) => own.clone(),
    };
    let username = match &store.username {
        None => name_in_data("username", data.username, warnings),
        own => own.clone(),
    };
    let timestamp = match (store.timestamp, present(data.timestamp)) {
        (Some(own), _) => Some(own),
        (None, Some(raw)) => timestamp_in_data(&raw, warnings),
        (None, None) => own.timestamp,
    };
    let status = present(data.status).filter(|_| own.status.is_none()).and_then(|raw| {
        let text = raw.as_str();
        if text.is_none() {
            warnings.push(misfit_warning("status", "a string", &raw));
        }
        text
    });
    let status_int = present(data.status_int).filter(|_| own.status_int.is_none()).and_then(|raw| {
        let number = raw.as_i64().and_then(|number| i32::try_from(number).ok());
        if number.is_none() {
            warnings.push(misfit_warning("status_int", "a 32-bit integer", &raw));
        }
        number
    });
    let columns = Columns {
        key: &store.address.key,
        names: names(schema.model, &store.address, process_name.as_deref()),
        data: data.text,
        value: store.value.clone(),
        timestamp,
        status: own.status.or(status.as_deref()),
        status_int: own.status_int.or(status_int),
        username: username.as_deref(),
        updated_at: own.updated_at,
        seq: 0,
        deleted: false,
        writer: own.writer,
    };
    Ok(Record::build(&columns, scratch))
}

/// A delete, as the record that marks the deletion.
///
/// # Errors
/// See [`RuleError`].
pub fn record_of_delete(schema: &Schema, delete: &Delete<'_>, taken: Taken<'_>) -> Result<Record, RuleError> {
    check_names(schema.model, &delete.address)?;
    Ok(Record::new(&Columns {
        key: &delete.address.key,
        names: names(schema.model, &delete.address, delete.address.process_name.as_deref()),
        data: "",
        value: None,
        timestamp: Some(taken.at),
        status: None,
        status_int: None,
        username: None,
        updated_at: taken.at,
        seq: 0,
        deleted: true,
        writer: taken.writer(schema),
    }))
}

fn names<'a>(model: Model, address: &'a Address<'_>, process_name: Option<&'a str>) -> Names<'a> {
    match model {
        Model::Dated => Names::Dated { process_name },
        Model::Collection => Names::Collection {
            collection_name: address.collection_name.as_deref().unwrap_or(""),
            item_name: address.item_name.as_deref().unwrap_or(""),
        },
    }
}

fn present(raw: Option<Raw<'_>>) -> Option<Raw<'_>> {
    raw.filter(|raw| !raw.is_null())
}

fn name_in_data<'a>(
    field: &str,
    raw: Option<Raw<'a>>,
    warnings: &mut Vec<String>,
) -> Option<std::borrow::Cow<'a, str>> {
    let raw = present(raw)?;
    let name = raw.as_str().filter(|name| name.len() <= MAX_NAME_BYTES && !name.contains('\0'));
    if name.is_none() {
        warnings.push(misfit_warning(field, "a string of at most 255 bytes without NUL", &raw));
    }
    name
}

fn timestamp_in_data(raw: &Raw<'_>, warnings: &mut Vec<String>) -> Option<Timestamp> {
    let timestamp = raw.as_str().and_then(|text| Timestamp::parse(&text));
    if timestamp.is_none() {
        warnings.push(misfit_warning("timestamp", "an ISO 8601 date-time", raw));
    }
    timestamp
}

fn misfit_warning(field: &str, wanted: &str, raw: &Raw<'_>) -> String {
    let text: String = raw.text.chars().take(40).collect();
    let mut quoted = Vec::new();
    json::write_string(&mut quoted, &text);
    format!("data.{field} is not {wanted} ({}); its column is null", String::from_utf8_lossy(&quoted))
}

#[cfg(test)]
mod tests {
    use fastpersist_protocol::request::{Op, ParseLimits, parse};

    use super::*;

    fn store(model: Model, line: &str) -> (Result<Record, RuleError>, Vec<String>) {
        let request = parse(line.as_bytes(), ParseLimits::default()).request.expect("a request");
        let Op::Store(placed) = request.op else { panic!("a store") };
        let schema = Schema { model, extra: Vec::new(), record_writer: false };
        let at = Timestamp::from_micros(5).expect("in range");
        let taken = Taken { at, from: Writer { uid: 1, pid: None, unit: None } };
        let mut warnings = Vec::new();
        let record = record_of_store(&schema, &placed.write, taken, &mut warnings, &mut Vec::new());
        (record, warnings)
    }

    #[test]
    fn the_request_wins_over_data_and_data_over_null() {
        let line = r#"{"op":"store","key":"k","username":"u","data":{"process_name":"p","username":"x",
            "timestamp":"2025-01-15","status":"done","status_int":-2147483648}}"#;
        let (record, warnings) = store(Model::Dated, line);
        let record = record.expect("a record");
        let columns = record.columns();
        assert_eq!(columns.names, Names::Dated { process_name: Some("p") });
        assert_eq!(columns.username, Some("u"));
        assert_eq!(columns.timestamp.map(|t| t.to_string()).as_deref(), Some("2025-01-15T00:00:00.000000Z"));
        assert_eq!((columns.status, columns.status_int), (Some("done"), Some(i32::MIN)));
        assert!(warnings.is_empty());
    }

    #[test]
    fn wrong_types_in_data_leave_null_and_a_warning_each() {
        let line = r#"{"op":"store","key":"k","data":{"process_name":1,"username":[],"timestamp":"soon",
            "status":true,"status_int":2147483648}}"#;
        let (record, warnings) = store(Model::Dated, line);
        let record = record.expect("a record");
        let columns = record.columns();
        assert_eq!(columns.names, Names::Dated { process_name: None });
        assert_eq!((columns.username, columns.timestamp), (None, None));
        assert_eq!((columns.status, columns.status_int), (None, None));
        assert_eq!(warnings.len(), 5, "{warnings:?}");
    }

    #[test]
    fn fields_of_the_other_model_are_refused_by_name() {
        for (model, field) in [
            (Model::Dated, "collection_name"),
            (Model::Dated, "item_name"),
            (Model::Dated, "value"),
            (Model::Collection, "process_name"),
        ] {
            let line = format!(r#"{{"op":"store","key":"k","data":{{}},"{field}":"x"}}"#);
            let (record, _) = store(model, &line);
            let error = record.expect_err("refused");
            assert_eq!(
                error,
                wrong_field(
                    model,
                    match field {
                        "collection_name" => "collection_name",
                        "item_name" => "item_name",
                        "value" => "value",
                        _ => "process_name",
                    }
                )
            );
        }
    }
}
