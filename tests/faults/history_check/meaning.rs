//! What a request and its answer say about records. An answer that no correct request may get is told at once.

use serde_json::Value;

use super::{
    record::{Became, Change, Seen, Step},
    space::{Address, Partition, put},
};

/// What a call says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It did and showed nothing, or it was a read without an answer.
    Nothing,
    /// All at once, in this order.
    Wrote(Vec<(Address, Step)>),
    /// All at once.
    Saw(Vec<(Address, Seen)>),
}

/// Reads a call; `answer` is null where there was none.
pub(super) fn meaning(request: &Value, answer: &Value) -> Result<Meaning, String> {
    let partition = Partition::of(request).ok_or("a request to no storage of ours")?;
    let op = request["op"].as_str().unwrap_or_default();
    if matches!(op, "store" | "delete" | "batch") {
        return write(partition, request, answer);
    }
    match (answer, answer["error"]["code"].as_str()) {
        (Value::Null, _) | (_, Some("busy" | "shutting_down")) => Ok(Meaning::Nothing),
        (_, None) => read(partition, op, request, answer).map(Meaning::Saw),
        (_, Some(_)) => Err("a read that was refused".to_owned()),
    }
}

fn write(partition: Partition, request: &Value, answer: &Value) -> Result<Meaning, String> {
    let ops = match &request["ops"] {
        Value::Array(ops) => ops.clone(),
        _ => vec![request.clone()],
    };
    let steps = ops.iter().map(|op| step(partition, op)).collect::<Option<Vec<_>>>();
    let mut steps = steps.ok_or("a write that is none of ours")?;
    let error = &answer["error"];
    match (answer, error["code"].as_str()) {
        (Value::Null, _) => Ok(Meaning::Wrote(steps)),
        (_, Some("busy" | "shutting_down")) => Ok(Meaning::Nothing),
        (_, Some("conflict")) => conflict(&steps, error),
        (_, Some(_)) => Err("a write that was refused".to_owned()),
        (_, None) => {
            if answer["ok"] != true {
                return Err("neither done nor refused".to_owned());
            }
            let seqs = match &answer["seqs"] {
                Value::Array(seqs) => seqs.clone(),
                _ => vec![answer["seq"].clone()],
            };
            if seqs.len() != steps.len() {
                return Err("not one seq for each operation".to_owned());
            }
            for ((_, step), seq) in steps.iter_mut().zip(&seqs) {
                step.became = became(step, seq)?;
            }
            let sync = request["durability"] != "buffered";
            if answer["durable"] != sync {
                return Err("another durability than was asked for".to_owned());
            }
            in_a_row(&steps)?;
            Ok(Meaning::Wrote(steps))
        }
    }
}

fn step(partition: Partition, op: &Value) -> Option<(Address, Step)> {
    let address = Address::of(partition, op)?;
    let change = match op["op"].as_str()? {
        "delete" => Change::Delete,
        _ => Change::Store(op["data"]["token"].as_u64()?),
    };
    Some((address, Step { change, if_seq: op["if_seq"].as_u64(), became: Became::Unknown }))
}

fn became(step: &Step, seq: &Value) -> Result<Became, String> {
    match (seq.as_u64(), step) {
        (Some(0), _) => Err("no seq is 0".to_owned()),
        (Some(seq), _) => Ok(Became::Seq(seq)),
        (None, Step { change: Change::Store(_), .. }) => Err("a store without a seq".to_owned()),
        (None, Step { if_seq: Some(1..), .. }) => {
            Err("nothing was deleted, and yet there was the seq".to_owned())
        }
        (None, _) => Ok(Became::Nothing),
    }
}

/// A batch's seqs follow each other.
fn in_a_row(steps: &[(Address, Step)]) -> Result<(), String> {
    let seqs: Vec<_> = seqs(steps).collect();
    let follow = seqs.windows(2).all(|pair| pair[1] == pair[0] + 1);
    if follow { Ok(()) } else { Err(format!("a batch's seqs do not follow each other: {seqs:?}")) }
}

pub(super) fn seqs(steps: &[(Address, Step)]) -> impl Iterator<Item = u64> {
    steps.iter().filter_map(|(_, step)| match step.became {
        Became::Seq(seq) => Some(seq),
        _ => None,
    })
}

/// What a conflict shows of the record with which it was.
fn conflict(steps: &[(Address, Step)], error: &Value) -> Result<Meaning, String> {
    let current = error["current_seq"].as_u64().ok_or("a conflict without current_seq")?;
    let index = error["index"].as_u64().unwrap_or(0) as usize;
    let (address, step) = steps.get(index).ok_or("a conflict with an operation that there is not")?;
    match step.if_seq {
        None => return Err("a conflict without if_seq".to_owned()),
        Some(seq) if seq == current => return Err("a conflict, and yet the seq is that".to_owned()),
        Some(_) => {}
    }
    // Behind an operation of the batch on the same record it shows what was never stored.
    let is_changed = steps[..index].iter().any(|(other, _)| other == address);
    Ok(if is_changed { Meaning::Nothing } else { Meaning::Saw(vec![(*address, Seen::Seq(current))]) })
}

fn read(
    partition: Partition,
    op: &str,
    request: &Value,
    answer: &Value,
) -> Result<Vec<(Address, Seen)>, String> {
    let (asked, found): (Vec<Address>, Vec<Value>) = match op {
        "get_key_process" | "get_item" => {
            let record = &answer["record"];
            let asked = Address::of(partition, request).ok_or("a read of no record of ours")?;
            (vec![asked], if record.is_null() { Vec::new() } else { vec![record.clone()] })
        }
        "get_key" => {
            let of_key = |address: &Address| request["key"] == address.key();
            let found = answer["records"].as_array().ok_or("no records")?;
            (partition.addresses().filter(of_key).collect(), found.clone())
        }
        "query" => (partition.addresses().collect(), rows(answer)?),
        _ => return Err("a request that is none of ours".to_owned()),
    };
    let mut seen: Vec<_> = asked.into_iter().map(|address| (address, Seen::Absent)).collect();
    for record in &found {
        let address = Address::of(partition, record).ok_or("a record that nobody stored")?;
        let (_, place) =
            seen.iter_mut().find(|(of, _)| *of == address).ok_or("a record that was not asked for")?;
        if *place != Seen::Absent {
            return Err("the same record twice".to_owned());
        }
        let token = record["data"]["token"].as_u64();
        let (token, seq) = token.zip(record["seq"].as_u64()).ok_or("a record that nobody stored")?;
        let value = record.get("value").and_then(Value::as_u64);
        if value.is_some_and(|value| value != token) {
            return Err("the value of one write with the data of another".to_owned());
        }
        *place = Seen::Record { token, seq };
    }
    Ok(seen)
}

/// The rows of a query as records.
fn rows(answer: &Value) -> Result<Vec<Value>, String> {
    let columns = answer["columns"].as_array().ok_or("no columns")?;
    let rows = answer["rows"].as_array().ok_or("no rows")?;
    let record = |row: &Value| {
        let mut record = Value::Object(serde_json::Map::new());
        for (at, column) in columns.iter().enumerate() {
            let mut field = serde_json::Map::new();
            field.insert(column["name"].as_str()?.to_owned(), row[at].clone());
            put(&mut record, Value::Object(field));
        }
        Some(record)
    };
    rows.iter().map(|row| record(row).ok_or_else(|| "a row without names".to_owned())).collect()
}
