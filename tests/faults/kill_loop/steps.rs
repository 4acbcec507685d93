//! What a writer does at its n-th step: known to the writer and to the checker, so only numbers need to be logged.

use serde_json::{Value, json};

/// One request of a writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A new record in the dated storage.
    Store,
    /// The same with `"durability":"buffered"`, which a process's death must not hurt either.
    Buffered,
    /// Three new records in one batch.
    Batch,
    /// The next value of the writer's counter in the collection.
    Counter,
    /// Two items of the collection in one batch, always with the same value.
    Pair,
    /// Takes back what step `n - 15` stored.
    Delete,
}

/// How many steps after a store its delete comes, if it has one.
const DELETE_AFTER: u64 = 15;

pub(super) fn step(n: u64) -> Step {
    match n % 16 {
        3 | 11 => Step::Buffered,
        4 | 5 | 12 | 13 => Step::Counter,
        6 | 14 => Step::Batch,
        7 => Step::Pair,
        15 => Step::Delete,
        _ => Step::Store,
    }
}

/// The step that deletes what step `n` stores.
pub(super) fn deleted_by(n: u64) -> Option<u64> {
    (n.is_multiple_of(16)).then_some(n + DELETE_AFTER)
}

/// Both halves of the work go to both dates.
pub(super) fn date(n: u64) -> &'static str {
    DATES[usize::from((n / 16) % 2 == 1)]
}

/// The items of the collection that each writer has, and the steps that write them.
pub(super) const ITEMS: [(&str, Step); 3] =
    [("counter", Step::Counter), ("pair-a", Step::Pair), ("pair-b", Step::Pair)];

pub(super) const DATES: [&str; 2] = ["2025-01-15", "2025-01-16"];

/// A writer's name: the first part of its keys.
pub(super) fn name(writer: u64) -> String {
    format!("w{writer}")
}

/// The keys that step `n` stores in the dated storage, so written that they sort by `n`.
pub(super) fn keys(writer: u64, n: u64) -> Vec<String> {
    let key = format!("{}/{n:07}", name(writer));
    match step(n) {
        Step::Store | Step::Buffered => vec![key],
        Step::Batch => (0..3).map(|part| format!("{key}/{part}")).collect(),
        _ => Vec::new(),
    }
}

/// The step that stored a key.
pub(super) fn step_of(key: &str) -> u64 {
    key.split('/')
        .nth(1)
        .and_then(|part| part.parse().ok())
        .unwrap_or_else(|| panic!("{key} is no writer's key"))
}

/// The writer who stored a key.
pub(super) fn writer_of(key: &str) -> u64 {
    let number = key.strip_prefix('w').and_then(|key| key.split('/').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{key} is no writer's key"))
}

pub(super) fn request(writer: u64, n: u64) -> Value {
    let name = name(writer);
    match step(n) {
        Step::Store => store(writer, n),
        Step::Buffered => {
            let mut request = store(writer, n);
            request["durability"] = json!("buffered");
            request
        }
        Step::Batch => {
            let op =
                |key: &String| json!({"op": "store", "key": key, "process_name": name, "data": {"n": n}});
            let ops: Vec<_> = keys(writer, n).iter().map(op).collect();
            json!({"op": "batch", "storage": "jobs", "date": date(n), "ops": ops})
        }
        Step::Counter => {
            json!({"op": "store", "storage": "settings", "key": name, "item_name": "counter", "data": {"n": n}, "value": n})
        }
        Step::Pair => {
            let op = |item: &str| json!({"op": "store", "key": name, "item_name": item, "data": {"n": n}, "value": n});
            json!({"op": "batch", "storage": "settings", "ops": [op("pair-a"), op("pair-b")]})
        }
        Step::Delete => {
            let key = &keys(writer, n - DELETE_AFTER)[0];
            json!({"op": "delete", "storage": "jobs", "date": date(n), "key": key, "process_name": name})
        }
    }
}

fn store(writer: u64, n: u64) -> Value {
    let key = &keys(writer, n)[0];
    json!({"op": "store", "storage": "jobs", "date": date(n), "key": key, "process_name": name(writer), "data": {"n": n}})
}
