//! One line to one [`Request`].

use std::borrow::Cow;

use super::fields::{Field, Fields, missing, mistyped, short};
use super::{Address, Delete, History, Imported, Op, Placed, Query, Request, ResultKind, Store, Write};
use crate::error::{ErrorCode, WireError};
use crate::json::{JsonError, Kind, Scanner};

/// The limits that parsing itself must know.
#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// `limits.max_json_depth`: open arrays and objects, the request's own included.
    pub max_json_depth: usize,
    /// `limits.max_batch_ops`.
    pub max_batch_ops: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { max_json_depth: 64, max_batch_ops: 10_000 }
    }
}

/// What a line says: its id, wherever that could be read, and the request or what is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<'a> {
    /// The request's `id` as it was written.
    pub id: Option<&'a str>,
    /// The request, checked.
    pub request: Result<Request<'a>, WireError>,
}

/// Reads one line, without its newline.
///
/// Errors are `bad_json` for what is no JSON object within the nesting limit, `unknown_op` and
/// `bad_request` for the rest; the latter name the field, and inside a batch the operation's index.
pub fn parse(line: &[u8], limits: ParseLimits) -> Parsed<'_> {
    let mut fields = match scan(line, limits) {
        Ok(fields) => fields,
        Err(error) => return Parsed { id: None, request: Err(error) },
    };
    match fields.get_raw(Field::Id) {
        Some(raw) if matches!(raw.kind, Kind::Object | Kind::Array) => {
            Parsed { id: None, request: Err(mistyped(Field::Id, "a string, number, boolean or null", &raw)) }
        }
        raw => Parsed { id: raw.map(|raw| raw.text), request: request(&mut fields, limits) },
    }
}

fn scan(line: &[u8], limits: ParseLimits) -> Result<Fields<'_>, WireError> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let message = format!("the line is not UTF-8 at byte {}", error.valid_up_to());
        WireError::new(ErrorCode::BadJson, message)
    })?;
    let mut scanner = Scanner::new(text, limits.max_json_depth);
    let fields = Fields::scan(&mut scanner).map_err(bad_json)?;
    scanner.end().map_err(bad_json)?;
    Ok(fields)
}

fn bad_json(error: JsonError) -> WireError {
    WireError::new(ErrorCode::BadJson, format!("{error}; a request is one JSON object on one line"))
}

type Reading<T> = Result<T, WireError>;

fn request<'a>(fields: &mut Fields<'a>, limits: ParseLimits) -> Reading<Request<'a>> {
    let op = fields.string(Field::Op)?.ok_or_else(|| missing(Field::Op, "a string"))?;
    let op = read_op(&op, fields, limits)?;
    Ok(Request { storage: fields.name(Field::Storage)?, op })
}

/// The fields that every request may have, and `own`.
macro_rules! allow {
    ($($own:ident)*) => { &[Field::Op, Field::Id, Field::Storage, $(Field::$own,)*] };
}

fn read_op<'a>(op: &str, fields: &mut Fields<'a>, limits: ParseLimits) -> Reading<Op<'a>> {
    match op {
        "store" => {
            fields.only(
                op,
                allow![Date Key ProcessName CollectionName ItemName Data Value Timestamp
                Username Durability IfSeq Producer ProducerSeq],
            )?;
            Ok(Op::Store(placed(fields, store(fields)?)?))
        }
        "delete" => {
            fields.only(
                op,
                allow![Date Key ProcessName CollectionName ItemName Durability IfSeq
                Producer ProducerSeq],
            )?;
            Ok(Op::Delete(placed(fields, delete(fields)?)?))
        }
        "batch" => {
            fields.only(op, allow![Date Durability Ops Producer ProducerSeq])?;
            Ok(Op::Batch(placed(fields, ops(fields, limits, batch_op)?)?))
        }
        "get_key_process" => {
            fields.only(op, allow![Date Key ProcessName])?;
            let process_name = fields.name(Field::ProcessName)?;
            Ok(Op::GetKeyProcess { date: fields.date()?, key: fields.key()?, process_name })
        }
        "get_key" => {
            fields.only(op, allow![Date Key CollectionName])?;
            let collection_name = fields.name(Field::CollectionName)?;
            Ok(Op::GetKey { date: fields.date()?, key: fields.key()?, collection_name })
        }
        "get_item" => {
            fields.only(op, allow![Key CollectionName ItemName])?;
            let collection_name = fields.name(Field::CollectionName)?.unwrap_or_default();
            let item_name = fields.name(Field::ItemName)?.unwrap_or_default();
            Ok(Op::GetItem { key: fields.key()?, collection_name, item_name })
        }
        "keys" => {
            fields.only(op, allow![Date Prefix After Limit])?;
            keys(fields)
        }
        "collections" => {
            fields.only(op, allow![Key])?;
            Ok(Op::Collections { key: fields.key()? })
        }
        "dates" => bare(op, fields, Op::Dates),
        "flush" => bare(op, fields, Op::Flush),
        "stats" => {
            fields.only(op, allow![Format])?;
            Ok(Op::Stats { format: fields.stats_format()? })
        }
        "info" => bare(op, fields, Op::Info),
        "ping" => bare(op, fields, Op::Ping),
        "export_parquet" => {
            fields.only(op, allow![Path])?;
            Ok(Op::ExportParquet { path: fields.name(Field::Path)? })
        }
        other => sharing_op(other, fields, limits),
    }
}

/// The operations with which processes ask and wait for one another.
fn sharing_op<'a>(op: &str, fields: &mut Fields<'a>, limits: ParseLimits) -> Reading<Op<'a>> {
    match op {
        "history" => {
            fields.only(op, allow![Key CollectionName ItemName AllItems Limit BeforeSeq])?;
            Ok(Op::History(history(fields)?))
        }
        "query" => {
            fields.only(op, allow![Sql Params From To Fresh MaxRows TimeoutMs ResultKind])?;
            Ok(Op::Query(query(fields)?))
        }
        "subscribe" => {
            fields.only(op, allow![Date Prefix FromSeq])?;
            let prefix = fields.string(Field::Prefix)?.unwrap_or_default();
            Ok(Op::Subscribe { date: fields.date()?, prefix, from_seq: fields.unsigned(Field::FromSeq)? })
        }
        "unsubscribe" => {
            fields.only(op, allow![Subscription])?;
            let id = fields.get_raw(Field::Subscription);
            let subscription = id.ok_or_else(|| missing(Field::Subscription, "the id of the subscribe"))?;
            Ok(Op::Unsubscribe { subscription })
        }
        "lock" => {
            fields.only(op, allow![Name WaitMs TtlMs])?;
            let (wait_ms, ttl_ms) = (fields.unsigned(Field::WaitMs)?, fields.unsigned(Field::TtlMs)?);
            Ok(Op::Lock { name: lock_name(fields)?, wait_ms, ttl_ms })
        }
        "unlock" => {
            fields.only(op, allow![Name Token])?;
            let token = fields.unsigned(Field::Token)?;
            let token = token.ok_or_else(|| missing(Field::Token, "the token that lock gave"))?;
            Ok(Op::Unlock { name: lock_name(fields)?, token })
        }
        other => keeping_op(other, fields, limits),
    }
}

fn history<'a>(fields: &Fields<'a>) -> Reading<History<'a>> {
    let collection_name = fields.name(Field::CollectionName)?;
    let item_name = fields.name(Field::ItemName)?;
    let all_items = fields.boolean(Field::AllItems, false)?;
    if all_items && (collection_name.is_some() || item_name.is_some()) {
        let message = "all_items asks for every item of the key, so no collection_name or item_name may stand beside it";
        return Err(WireError::field("all_items", message));
    }
    Ok(History {
        key: fields.key()?,
        collection_name: collection_name.unwrap_or_default(),
        item_name: item_name.unwrap_or_default(),
        all_items,
        limit: limit(fields, super::MAX_HISTORY_LIMIT)?,
        before_seq: fields.unsigned(Field::BeforeSeq)?,
    })
}

fn lock_name<'a>(fields: &Fields<'a>) -> Reading<Cow<'a, str>> {
    match fields.name(Field::Name)? {
        Some(name) if !name.is_empty() => Ok(name),
        Some(_) => Err(WireError::field("name", "name is empty; it must have 1 to 255 bytes")),
        None => Err(missing(Field::Name, "the lock's name")),
    }
}

fn query<'a>(fields: &Fields<'a>) -> Reading<Query<'a>> {
    let sql = fields.string(Field::Sql)?.ok_or_else(|| missing(Field::Sql, "one SELECT"))?;
    let params = fields.get(Field::Params);
    if let Some(raw) = params.filter(|raw| raw.kind != Kind::Array) {
        return Err(mistyped(Field::Params, "an array", &raw));
    }
    let positive = |field: Field| match fields.unsigned(field)? {
        Some(0) => Err(WireError::field(field.name(), format!("{} must be 1 or more", field.name()))),
        number => Ok(number),
    };
    let result = match fields.string(Field::ResultKind)?.as_deref() {
        None | Some("rows") => ResultKind::Rows,
        Some("fd") => ResultKind::Fd,
        Some(other) => {
            return Err(WireError::field(
                "result",
                format!("result {:?} is neither \"rows\" nor \"fd\"", short(other)),
            ));
        }
    };
    Ok(Query {
        sql,
        params,
        from: fields.date_of(Field::From)?,
        to: fields.date_of(Field::To)?,
        fresh: fields.boolean(Field::Fresh, true)?,
        max_rows: positive(Field::MaxRows)?,
        timeout_ms: positive(Field::TimeoutMs)?,
        result,
    })
}

/// How many are asked for, from 1 to `most`.
fn limit(fields: &Fields<'_>, most: u64) -> Reading<Option<u64>> {
    let limit = fields.unsigned(Field::Limit)?;
    if limit.is_some_and(|limit| limit == 0 || limit > most) {
        return Err(WireError::field("limit", format!("limit must be from 1 to {most}")));
    }
    Ok(limit)
}

/// The operations that look after a storage.
fn keeping_op<'a>(op: &str, fields: &mut Fields<'a>, limits: ParseLimits) -> Reading<Op<'a>> {
    match op {
        "backup" => {
            fields.only(op, allow![Date])?;
            Ok(Op::Backup { date: fields.date()? })
        }
        "list_backups" => bare(op, fields, Op::ListBackups),
        "verify_backup" => {
            fields.only(op, allow![Backup])?;
            let backup = fields.name(Field::Backup)?;
            Ok(Op::VerifyBackup { backup: backup.ok_or_else(|| missing(Field::Backup, "a backup's name"))? })
        }
        "check_health" => {
            fields.only(op, allow![Deep])?;
            Ok(Op::CheckHealth { deep: fields.boolean(Field::Deep, false)? })
        }
        "rebuild_history_from_wal" => {
            fields.only(op, allow![Date])?;
            let date = fields.date()?.ok_or_else(|| missing(Field::Date, "a day like \"2025-01-15\""))?;
            Ok(Op::RebuildHistoryFromWal { date })
        }
        "rebuild_latest_from_history" => bare(op, fields, Op::RebuildLatestFromHistory),
        "import" => {
            fields.only(op, allow![Date Durability Ops])?;
            Ok(Op::Import(placed(fields, ops(fields, limits, import_op)?)?))
        }
        other => Err(WireError::new(
            ErrorCode::UnknownOp,
            format!("unknown op {:?}; PROTOCOL.md lists the operations", short(other)),
        )),
    }
}

fn bare<'a>(name: &str, fields: &mut Fields<'a>, op: Op<'a>) -> Reading<Op<'a>> {
    fields.only(name, allow![])?;
    Ok(op)
}

fn placed<'a, T>(fields: &Fields<'a>, write: T) -> Reading<Placed<'a, T>> {
    let producer = fields.producer()?;
    Ok(Placed { date: fields.date()?, durability: fields.durability()?, producer, write })
}

fn address<'a>(fields: &Fields<'a>) -> Reading<Address<'a>> {
    Ok(Address {
        key: fields.key()?,
        process_name: fields.name(Field::ProcessName)?,
        collection_name: fields.name(Field::CollectionName)?,
        item_name: fields.name(Field::ItemName)?,
    })
}

fn store<'a>(fields: &Fields<'a>) -> Reading<Store<'a>> {
    Ok(Store {
        address: address(fields)?,
        data: fields.document()?,
        value: fields.value()?,
        timestamp: fields.instant(Field::Timestamp)?,
        username: fields.name(Field::Username)?,
        if_seq: fields.unsigned(Field::IfSeq)?,
    })
}

fn delete<'a>(fields: &Fields<'a>) -> Reading<Delete<'a>> {
    Ok(Delete { address: address(fields)?, if_seq: fields.unsigned(Field::IfSeq)? })
}

fn keys<'a>(fields: &Fields<'a>) -> Reading<Op<'a>> {
    let limit = limit(fields, super::MAX_KEYS_LIMIT)?;
    Ok(Op::Keys {
        date: fields.date()?,
        prefix: fields.string(Field::Prefix)?.unwrap_or_default(),
        after: fields.string(Field::After)?,
        limit,
    })
}

/// The operations of a batch or an import, each read by `read`.
fn ops<'a, T>(
    fields: &Fields<'a>,
    limits: ParseLimits,
    read: fn(&mut Fields<'a>) -> Reading<T>,
) -> Reading<Vec<T>> {
    let raw = fields.get_raw(Field::Ops).ok_or_else(|| missing(Field::Ops, "an array of operations"))?;
    if raw.kind != Kind::Array {
        return Err(mistyped(Field::Ops, "an array of operations", &raw));
    }
    let mut writes = Vec::new();
    let mut fault = None;
    // The whole line is already known to be valid; the first bad operation ends the walk's work, and
    // the walk itself only goes on to count.
    let mut count = 0usize;
    let mut scanner = Scanner::new(raw.text, limits.max_json_depth);
    let walk = scanner.array(|scanner| {
        if fault.is_some() || count >= limits.max_batch_ops {
            scanner.value()?;
        } else if scanner.at_object() {
            match read(&mut Fields::scan(scanner)?) {
                Ok(write) => writes.push(write),
                Err(error) => fault = Some(indexed(error, count)),
            }
        } else {
            let raw = scanner.value()?;
            fault = Some(indexed(mistyped(Field::Ops, "an array of objects", &raw), count));
        }
        count += 1;
        Ok(())
    });
    walk.map_err(bad_json)?;
    if count > limits.max_batch_ops {
        let message = format!("the batch has {count} ops; at most {} are allowed", limits.max_batch_ops);
        return Err(WireError::field("ops", message));
    }
    fault.map_or(Ok(writes), Err)
}

fn indexed(error: WireError, index: usize) -> WireError {
    let message = format!("op {index} of the batch: {}", error.message);
    WireError { message, ..error }.with_number("index", index as u64)
}

fn batch_op<'a>(fields: &mut Fields<'a>) -> Reading<Write<'a>> {
    let op = fields.string(Field::Op)?.ok_or_else(|| missing(Field::Op, "\"store\" or \"delete\""))?;
    match &*op {
        "store" => {
            fields.only(
                "store in a batch",
                &[
                    Field::Op,
                    Field::Key,
                    Field::ProcessName,
                    Field::CollectionName,
                    Field::ItemName,
                    Field::Data,
                    Field::Value,
                    Field::Timestamp,
                    Field::Username,
                    Field::IfSeq,
                ],
            )?;
            Ok(Write::Store(store(fields)?))
        }
        "delete" => {
            fields.only(
                "delete in a batch",
                &[
                    Field::Op,
                    Field::Key,
                    Field::ProcessName,
                    Field::CollectionName,
                    Field::ItemName,
                    Field::IfSeq,
                ],
            )?;
            Ok(Write::Delete(delete(fields)?))
        }
        other => {
            let message = format!("{:?} cannot stand in a batch; \"store\" and \"delete\" can", short(other));
            Err(WireError::field("op", message))
        }
    }
}

fn import_op<'a>(fields: &mut Fields<'a>) -> Reading<Imported<'a>> {
    let op = fields.string(Field::Op)?.ok_or_else(|| missing(Field::Op, "\"store\""))?;
    if op != "store" {
        let message = format!("{:?} cannot stand in an import; \"store\" can", short(&op));
        return Err(WireError::field("op", message));
    }
    fields.only(
        "store in an import",
        &[
            Field::Op,
            Field::Key,
            Field::ProcessName,
            Field::CollectionName,
            Field::ItemName,
            Field::Data,
            Field::Value,
            Field::Timestamp,
            Field::Username,
            Field::UpdatedAt,
            Field::Status,
            Field::StatusInt,
        ],
    )?;
    Ok(Imported {
        store: store(fields)?,
        updated_at: fields.instant(Field::UpdatedAt)?,
        status: fields.string(Field::Status)?,
        status_int: fields.int32(Field::StatusInt)?,
    })
}
