//! The few records over which everybody contends, and how requests and answers name them.

use std::fmt;

use serde_json::{Value, json};

use crate::harness::faults::DAY;

/// A sequence of its own: one date of the dated storage, or the collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Partition {
    Jobs,
    Settings,
}

pub(super) const KEYS: [&str; 6] = ["k1", "k2", "k3", "k4", "k5", "k6"];
/// The process names of a key of `jobs`; the empty one stands for null.
const PROCESSES: [&str; 3] = ["", "a", "b"];
/// The collections and items of a key of `settings`.
const ITEMS: [(&str, &str); 3] = [("", ""), ("", "i"), ("c", "i")];

/// A record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) partition: Partition,
    key: usize,
    name: usize,
}

impl Partition {
    pub(super) const ALL: [Self; 2] = [Self::Jobs, Self::Settings];

    pub(super) fn of(request: &Value) -> Option<Self> {
        match request["storage"].as_str()? {
            "jobs" => Some(Self::Jobs),
            "settings" => Some(Self::Settings),
            _ => None,
        }
    }

    /// A request to this partition; `fields` are put into it.
    pub(super) fn request(self, op: &str, fields: Value) -> Value {
        let mut request = match self {
            Self::Jobs => json!({"op": op, "storage": "jobs", "date": DAY}),
            Self::Settings => json!({"op": op, "storage": "settings"}),
        };
        put(&mut request, fields);
        request
    }

    /// All that lies, or could lie, in it.
    pub(super) fn addresses(self) -> impl Iterator<Item = Address> {
        let at = move |n| Address { partition: self, key: n / PROCESSES.len(), name: n % PROCESSES.len() };
        (0..KEYS.len() * PROCESSES.len()).map(at)
    }

    /// Everything at once, as DuckDB has it.
    pub(super) fn query(self) -> Value {
        match self {
            Self::Jobs => json!({
                "op": "query", "storage": "jobs", "from": DAY, "to": DAY,
                "sql": "SELECT key, process_name, data, seq FROM storage"
            }),
            Self::Settings => json!({
                "op": "query", "storage": "settings",
                "sql": "SELECT key, collection_name, item_name, data, seq FROM storage_latest"
            }),
        }
    }
}

impl Address {
    /// The record that `fields` name: those of a request, of an operation in a batch, or of a record.
    pub(super) fn of(partition: Partition, fields: &Value) -> Option<Self> {
        let text = |name: &str| fields[name].as_str().unwrap_or("");
        let key = KEYS.iter().position(|key| *key == text("key"))?;
        let name = match partition {
            Partition::Jobs => PROCESSES.iter().position(|name| *name == text("process_name")),
            Partition::Settings => {
                ITEMS.iter().position(|item| *item == (text("collection_name"), text("item_name")))
            }
        };
        Some(Self { partition, key, name: name? })
    }

    pub(super) fn key(self) -> &'static str {
        KEYS[self.key]
    }

    /// An operation on this record, as it stands in a batch.
    pub(super) fn op(self, op: &str, further: Value) -> Value {
        let mut fields = match (self.partition, PROCESSES[self.name], ITEMS[self.name]) {
            (Partition::Jobs, "", _) => json!({"op": op, "key": self.key()}),
            (Partition::Jobs, name, _) => json!({"op": op, "key": self.key(), "process_name": name}),
            (Partition::Settings, _, (collection, item)) => {
                json!({"op": op, "key": self.key(), "collection_name": collection, "item_name": item})
            }
        };
        put(&mut fields, further);
        fields
    }

    /// The same as a request of its own.
    pub(super) fn request(self, op: &str, further: Value) -> Value {
        self.partition.request(op, self.op(op, further))
    }

    pub(super) fn read(self) -> Value {
        let op = match self.partition {
            Partition::Jobs => "get_key_process",
            Partition::Settings => "get_item",
        };
        self.request(op, json!({}))
    }

    /// What is stored under `token`: nobody else ever stores the same.
    pub(super) fn store(self, token: u64) -> Value {
        match self.partition {
            Partition::Jobs => self.op("store", json!({"data": {"token": token}})),
            Partition::Settings => self.op("store", json!({"data": {"token": token}, "value": token})),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        match self.partition {
            Partition::Jobs => write!(f, "jobs {key}/{}", PROCESSES[self.name]),
            Partition::Settings => {
                let (collection, item) = ITEMS[self.name];
                write!(f, "settings {key}/{collection}/{item}")
            }
        }
    }
}

/// Puts fields into an object.
pub(super) fn put(object: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("{fields} is no object") };
    for (name, value) in fields {
        object[name] = value;
    }
}
