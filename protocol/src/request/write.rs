//! One [`Request`] to one line: the inverse of parsing, for clients.

use super::{
    Address, Delete, Durability, History, Imported, Op, Placed, Query, Request, ResultKind, StatsFormat,
    Store, Write,
};
use crate::json;
use crate::time::Date;

/// An object that is being written, field by field.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        json::write_string(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, name: &str, value: &str) {
        json::write_string(self.name(name), value);
    }

    /// JSON that is handed in as text. Where it is valid, its line breaks stand between tokens, and a space is as
    /// good. On the wire each would end the line, and what follows would be taken for a request of its own.
    fn json(&mut self, name: &str, json: &str) {
        let out = self.name(name);
        let begin = out.len();
        out.extend_from_slice(json.as_bytes());
        for byte in &mut out[begin..] {
            if *byte == b'\n' {
                *byte = b' ';
            }
        }
    }

    fn opt_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn opt_number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            json::write_u64(self.name(name), value);
        }
    }

    fn opt_date(&mut self, date: Option<Date>) {
        self.opt_named_date("date", date);
    }

    fn opt_named_date(&mut self, name: &str, date: Option<Date>) {
        if let Some(date) = date {
            self.text(name, &date.to_string());
        }
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

impl Request<'_> {
    /// Appends the request as one line, newline included. `id` must be a valid JSON scalar; it, `data` and
    /// `params` are written as they are, but for line breaks, which become spaces.
    pub fn write_line(&self, id: Option<&str>, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        object.text("op", self.op.name());
        if let Some(id) = id {
            object.json("id", id);
        }
        object.opt_text("storage", self.storage.as_deref());
        self.op.write_fields(&mut object);
        object.close();
        out.push(b'\n');
    }
}

impl Op<'_> {
    fn write_fields(&self, object: &mut Object<'_>) {
        match self {
            Self::Store(placed) => {
                write_placed(placed, object);
                write_store(&placed.write, object);
            }
            Self::Delete(placed) => {
                write_placed(placed, object);
                write_delete(&placed.write, object);
            }
            Self::Batch(placed) => {
                write_placed(placed, object);
                write_ops(&placed.write, object.name("ops"));
            }
            Self::Import(placed) => {
                write_placed(placed, object);
                write_imported(&placed.write, object.name("ops"));
            }
            Self::GetKeyProcess { date, key, process_name } => {
                object.opt_date(*date);
                object.text("key", key);
                object.opt_text("process_name", process_name.as_deref());
            }
            Self::GetKey { date, key, collection_name } => {
                object.opt_date(*date);
                object.text("key", key);
                object.opt_text("collection_name", collection_name.as_deref());
            }
            Self::GetItem { key, collection_name, item_name } => {
                object.text("key", key);
                object.text("collection_name", collection_name);
                object.text("item_name", item_name);
            }
            Self::Keys { date, prefix, after, limit } => {
                object.opt_date(*date);
                object.text("prefix", prefix);
                object.opt_text("after", after.as_deref());
                object.opt_number("limit", *limit);
            }
            Self::Collections { key } => object.text("key", key),
            Self::History { .. }
            | Self::Query(_)
            | Self::Subscribe { .. }
            | Self::Unsubscribe { .. }
            | Self::Lock { .. }
            | Self::Unlock { .. } => self.write_sharing_fields(object),
            Self::ExportParquet { path } => object.opt_text("path", path.as_deref()),
            Self::Backup { date } => object.opt_date(*date),
            Self::VerifyBackup { backup } => object.text("backup", backup),
            Self::CheckHealth { deep } => json::write_bool(object.name("deep"), *deep),
            Self::RebuildHistoryFromWal { date } => object.opt_date(Some(*date)),
            Self::Stats { format: StatsFormat::OpenMetrics } => object.text("format", "openmetrics"),
            Self::Dates
            | Self::Flush
            | Self::ListBackups
            | Self::RebuildLatestFromHistory
            | Self::Stats { format: StatsFormat::Json }
            | Self::Info
            | Self::Ping => {}
        }
    }
}

impl Op<'_> {
    /// The fields of the operations with which processes ask and wait for one another.
    fn write_sharing_fields(&self, object: &mut Object<'_>) {
        match self {
            Self::History(history) => write_history(history, object),
            Self::Query(query) => write_query(query, object),
            Self::Subscribe { date, prefix, from_seq } => {
                object.opt_date(*date);
                object.text("prefix", prefix);
                object.opt_number("from_seq", *from_seq);
            }
            Self::Unsubscribe { subscription } => {
                object.json("subscription", subscription.text);
            }
            Self::Lock { name, wait_ms, ttl_ms } => {
                object.text("name", name);
                object.opt_number("wait_ms", *wait_ms);
                object.opt_number("ttl_ms", *ttl_ms);
            }
            Self::Unlock { name, token } => {
                object.text("name", name);
                object.opt_number("token", Some(*token));
            }
            _ => {}
        }
    }
}

fn write_history(history: &History<'_>, object: &mut Object<'_>) {
    object.text("key", &history.key);
    if history.all_items {
        json::write_bool(object.name("all_items"), true);
    } else {
        object.text("collection_name", &history.collection_name);
        object.text("item_name", &history.item_name);
    }
    object.opt_number("limit", history.limit);
    object.opt_number("before_seq", history.before_seq);
}

fn write_query(query: &Query<'_>, object: &mut Object<'_>) {
    object.text("sql", &query.sql);
    if let Some(params) = &query.params {
        object.json("params", params.text);
    }
    object.opt_named_date("from", query.from);
    object.opt_named_date("to", query.to);
    if !query.fresh {
        json::write_bool(object.name("fresh"), false);
    }
    object.opt_number("max_rows", query.max_rows);
    object.opt_number("timeout_ms", query.timeout_ms);
    if query.result == ResultKind::Fd {
        object.text("result", "fd");
    }
}

fn write_placed<T>(placed: &Placed<'_, T>, object: &mut Object<'_>) {
    object.opt_date(placed.date);
    if let Some(producer) = &placed.producer {
        object.text("producer", &producer.name);
        object.opt_number("producer_seq", Some(producer.seq));
    }
    if placed.durability == Durability::Buffered {
        object.text("durability", "buffered");
    }
}

fn write_address(address: &Address<'_>, object: &mut Object<'_>) {
    object.text("key", &address.key);
    object.opt_text("process_name", address.process_name.as_deref());
    object.opt_text("collection_name", address.collection_name.as_deref());
    object.opt_text("item_name", address.item_name.as_deref());
}

fn write_store(store: &Store<'_>, object: &mut Object<'_>) {
    write_address(&store.address, object);
    object.json("data", store.data.text);
    if let Some(value) = &store.value {
        value.write_json(object.name("value"));
    }
    if let Some(timestamp) = store.timestamp {
        object.text("timestamp", &timestamp.to_string());
    }
    object.opt_text("username", store.username.as_deref());
    object.opt_number("if_seq", store.if_seq);
}

fn write_delete(delete: &Delete<'_>, object: &mut Object<'_>) {
    write_address(&delete.address, object);
    object.opt_number("if_seq", delete.if_seq);
}

fn write_ops(writes: &[Write<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, write) in writes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut object = Object::open(out);
        match write {
            Write::Store(store) => {
                object.text("op", "store");
                write_store(store, &mut object);
            }
            Write::Delete(delete) => {
                object.text("op", "delete");
                write_delete(delete, &mut object);
            }
        }
        object.close();
    }
    out.push(b']');
}

fn write_imported(records: &[Imported<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, imported) in records.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut object = Object::open(out);
        object.text("op", "store");
        write_store(&imported.store, &mut object);
        if let Some(updated_at) = imported.updated_at {
            object.text("updated_at", &updated_at.to_string());
        }
        object.opt_text("status", imported.status.as_deref());
        if let Some(status_int) = imported.status_int {
            json::write_i64(object.name("status_int"), i64::from(status_int));
        }
        object.close();
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Scanner;
    use crate::request::Document;

    /// A parameter with a request on a line of its own was sent as that request, with the rights of whoever asked.
    #[test]
    fn json_over_several_lines_is_sent_on_one() {
        let params = "[\n{\"op\":\"delete\",\"storage\":\"jobs\",\"key\":\"x\"}\r\n, \"a\\nb\"]";
        let query = Query {
            sql: "SELECT ?,\n?".into(),
            params: Some(Scanner::new(params, 8).value().unwrap()),
            from: None,
            to: None,
            fresh: true,
            max_rows: None,
            timeout_ms: None,
            result: ResultKind::Rows,
        };
        let data = Document::new("{\n\"a\":\n1}", 8).unwrap();
        let address =
            Address { key: "k\n".into(), process_name: None, collection_name: None, item_name: None };
        let write = Store { address, data, value: None, timestamp: None, username: None, if_seq: None };
        let placed = Placed { date: None, durability: Durability::Sync, producer: None, write };
        for (op, expected) in [
            (
                Op::Query(query),
                r#"{"op":"query","id":1,"sql":"SELECT ?,\n?","params":[ {"op":"delete","storage":"jobs","key":"x"}_ , "a\nb"]}"#,
            ),
            (Op::Store(placed), r#"{"op":"store","id":1,"key":"k\n","data":{ "a": 1}}"#),
        ] {
            let mut line = Vec::new();
            Request { storage: None, op }.write_line(Some("1"), &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), expected.replace('_', "\r") + "\n");
        }
    }
}
