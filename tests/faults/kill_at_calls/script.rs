//! The fixed script, and what must be there after each of its answers.
//!
//! Invariant: the one client waits for each answer, so at a kill at most one request is in doubt.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::harness::Config;

pub(super) const DATES: [&str; 2] = ["2025-01-15", "2025-01-16"];
/// The key of all items in the collection.
pub(super) const KEY: &str = "s";

/// How many requests there are.
pub(super) const REQUESTS: usize = 60;

/// Flushed only when asked; a segment takes a few records, and goes when it is flushed.
pub(super) fn config() -> Config {
    let lines = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nmax_wal_size = 8192\nwal_retain_days = 0";
    Config::new()
        .dated("jobs", &format!("{lines}\nparquet_path = \"{{dir}}/parquet\""))
        .collection("settings", lines)
}

/// What is done, one after the other.
pub(super) fn requests() -> Vec<Value> {
    (1..=REQUESTS as u64).map(request).collect()
}

fn request(n: u64) -> Value {
    match n {
        12 | 29 | 47 => return json!({"op": "flush"}),
        21 | 50 => return json!({"op": "backup", "storage": "settings"}),
        25 | 54 => return json!({"op": "export_parquet", "storage": "jobs"}),
        _ => {}
    }
    let date = DATES[usize::from(n / 8 % 2 == 1)];
    let store = |key: String| json!({"op": "store", "key": key, "process_name": "p", "data": data(n)});
    let item = |name: u64| json!({"op": "store", "key": KEY, "item_name": format!("i{name}"), "data": data(n), "value": n});
    let in_jobs = |op: Value| with(op, &[("storage", json!("jobs")), ("date", json!(date))]);
    let in_settings = |op: Value| with(op, &[("storage", json!("settings"))]);
    match n % 8 {
        1 => in_jobs(with(store(format!("k{n}")), &[("durability", json!("buffered"))])),
        2 => {
            let ops = json!([
                store(format!("k{n}/0")),
                store(format!("k{n}/1")),
                {"op": "delete", "key": format!("k{}", n - 1), "process_name": "p"}
            ]);
            in_jobs(json!({"op": "batch", "ops": ops}))
        }
        3 => in_settings(item(n % 3)),
        4 => in_settings(json!({"op": "batch", "ops": [item(3), item(4), item(n % 3)]})),
        5 => in_jobs(json!({"op": "delete", "key": format!("k{}", n - 5), "process_name": "p"})),
        6 => in_jobs(store("again".to_owned())),
        7 => in_settings(json!({"op": "delete", "key": KEY, "item_name": format!("i{}", n % 3)})),
        _ => in_jobs(store(format!("k{n}"))),
    }
}

fn with(mut request: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        request[*name] = value.clone();
    }
    request
}

/// A document that fills a segment in a few.
fn data(n: u64) -> Value {
    json!({"n": n, "pad": "0123456789abcdef".repeat(20 + (n as usize * 7) % 90)})
}

/// What the storages hold.
#[derive(Clone, Default)]
pub(super) struct State {
    /// The last seq of each partition, by date; the collection's is that of "".
    seqs: BTreeMap<String, u64>,
    /// Date and key, or "" and item, with the `n` and the seq of what is there.
    live: BTreeMap<(String, String), (u64, u64)>,
    history: BTreeSet<String>,
    /// The seq of the last backup that was answered.
    pub(super) backed_up: u64,
}

impl State {
    /// Takes a write, and gives the seqs that its answer must have.
    pub(super) fn apply(&mut self, request: &Value) -> Vec<Option<u64>> {
        let partition = request["date"].as_str().unwrap_or_default().to_owned();
        match request["op"].as_str() {
            Some("batch") => {
                let ops = request["ops"].as_array().expect("a list");
                ops.iter().map(|op| self.apply_one(&partition, op)).collect()
            }
            Some("store" | "delete") => vec![self.apply_one(&partition, request)],
            _ => Vec::new(),
        }
    }

    fn apply_one(&mut self, partition: &str, op: &Value) -> Option<u64> {
        let name = op["item_name"].as_str().or(op["key"].as_str()).expect("a name").to_owned();
        let place = (partition.to_owned(), name.clone());
        let is_store = op["op"] == "store";
        if !is_store && !self.live.contains_key(&place) {
            return None;
        }
        let seq = self.seqs.entry(partition.to_owned()).or_default();
        *seq += 1;
        let n = op["data"]["n"].as_u64();
        if let Some(n) = n {
            self.live.insert(place, (n, *seq));
        } else {
            self.live.remove(&place);
        }
        if partition.is_empty() {
            self.history.insert(history_line(&name, n, *seq));
        }
        Some(*seq)
    }

    /// Notes that a backup was answered.
    pub(super) fn back_up(&mut self) {
        self.backed_up = self.seqs.get("").copied().unwrap_or_default();
    }

    /// Everything that there is, a line each.
    pub(super) fn lines(&self) -> BTreeSet<String> {
        let live = self.live.iter().map(|((date, name), (n, seq))| live_line(date, name, *n, *seq));
        live.chain(self.history.iter().cloned()).collect()
    }
}

/// How a record, or the latest value of an item, is told.
pub(super) fn live_line(date: &str, name: &str, n: u64, seq: u64) -> String {
    let place = if date.is_empty() { "latest" } else { date };
    format!("{place} {name}: n {n}, seq {seq}")
}

/// How a write in the history is told; a deletion has no `n`.
pub(super) fn history_line(item: &str, n: Option<u64>, seq: u64) -> String {
    n.map_or_else(|| format!("history {seq}: {item} deleted"), |n| format!("history {seq}: {item}, n {n}"))
}
