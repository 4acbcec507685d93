//! What was answered, and whether it is all there: shared by the instruments that break files and fill disks.
//!
//! The model is told each request with its answer. What a daemon says later must be equal to it, record by record and
//! history included; and a record that was read once must never read otherwise again, `updated_at` included.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};

use crate::harness::{Conn, Site, python};

/// Key, process name or collection, item.
type Address = (String, Option<String>, String);

struct Write {
    address: Address,
    /// The store as it was sent; `None` for a deletion.
    stored: Option<Value>,
    /// The record as the daemon first told it.
    told: Option<Value>,
}

/// The answered writes: by partition (a date of `jobs`, or "" for `settings`) and seq.
#[derive(Default)]
pub(crate) struct Answered {
    partitions: BTreeMap<String, BTreeMap<u64, Write>>,
}

/// Records that a tool has said it cannot have back: by partition.
pub(crate) type Lost = BTreeMap<String, BTreeSet<u64>>;

impl Answered {
    /// Notes a request and its answer; what was not answered `ok` is not there.
    pub(crate) fn note(&mut self, request: &Value, answer: &Value) {
        if answer["ok"] != true {
            return;
        }
        let partition = request["date"].as_str().unwrap_or_default().to_owned();
        if request["op"] == "batch" {
            let ops = request["ops"].as_array().expect("operations").iter();
            let seqs = answer["seqs"].as_array().unwrap_or_else(|| panic!("no seqs in {answer}"));
            for (op, seq) in ops.zip(seqs) {
                self.put(&partition, op, seq);
            }
        } else {
            self.put(&partition, request, &answer["seq"]);
        }
    }

    fn put(&mut self, partition: &str, op: &Value, seq: &Value) {
        // A deletion of what is not there.
        let Some(seq) = seq.as_u64() else { return };
        let stored = (op["op"] == "store").then(|| op.clone());
        let write = Write { address: address(op), stored, told: None };
        let before = self.partitions.entry(partition.to_owned()).or_default().insert(seq, write);
        assert!(before.is_none(), "seq {seq} of {partition:?} was given twice");
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = (&str, BTreeSet<u64>)> {
        self.partitions.iter().map(|(name, writes)| (name.as_str(), writes.keys().copied().collect()))
    }

    /// Of the live records: how many, the sum of their seqs, and of their documents' lengths.
    pub(crate) fn live_figures(&self, is_collection: bool) -> Value {
        let (mut count, mut seqs, mut bytes) = (0, 0, 0);
        for (_, writes) in self.partitions.iter().filter(|(name, _)| name.is_empty() == is_collection) {
            let newest: BTreeMap<&Address, u64> =
                writes.iter().map(|(seq, write)| (&write.address, *seq)).collect();
            for seq in newest.into_values() {
                let Some(stored) = &writes[&seq].stored else { continue };
                count += 1;
                seqs += seq;
                bytes += stored["data"].to_string().chars().count();
            }
        }
        json!([count, seqs, bytes])
    }

    /// Addresses of which something was lost: nothing is certain of them.
    fn doubtful(&self, partition: &str, lost: &Lost) -> BTreeSet<Address> {
        let seqs = lost.get(partition).into_iter().flatten();
        seqs.filter_map(|seq| Some(self.partitions[partition].get(seq)?.address.clone())).collect()
    }

    /// Reads everything through the daemon; what is not as it was answered.
    pub(crate) fn check(&mut self, conn: &mut Conn, lost: &Lost) -> Vec<String> {
        let mut wrong = Vec::new();
        let doubtful: BTreeMap<String, BTreeSet<Address>> =
            self.partitions.keys().map(|name| (name.clone(), self.doubtful(name, lost))).collect();
        for (name, writes) in &mut self.partitions {
            let mut found = latest(conn, name, &mut wrong);
            let mut newest: BTreeMap<&Address, u64> = BTreeMap::new();
            for (seq, write) in &*writes {
                newest.insert(&write.address, *seq);
            }
            let newest: BTreeSet<u64> = newest.into_values().collect();
            for seq in newest {
                let write = writes.get_mut(&seq).expect("it is there");
                let read = found.remove(&write.address);
                if !doubtful[name].contains(&write.address) {
                    wrong.extend(compare(name, seq, write, read.as_ref(), false));
                }
            }
            wrong.extend(found.keys().map(|address| format!("{name:?}: {address:?} was never stored")));
            if name.is_empty() {
                check_history(conn, writes, lost.get(name), &mut wrong);
            }
        }
        wrong.truncate(20);
        wrong
    }
}

fn address(op: &Value) -> Address {
    let text = |name: &str| op[name].as_str().map(str::to_owned);
    let key = text("key").expect("a key");
    match text("item_name") {
        Some(item) => (key, Some(text("collection_name").unwrap_or_default()), item),
        None => (key, text("process_name"), String::new()),
    }
}

/// A storage's name and, where it is dated, the date.
fn place(partition: &str, mut request: Value) -> Value {
    request["storage"] = if partition.is_empty() { "settings" } else { "jobs" }.into();
    if !partition.is_empty() {
        request["date"] = partition.into();
    }
    request
}

/// A read that was refused is told beside what is missing because of it.
fn refused(answer: &Value, wrong: &mut Vec<String>) {
    if answer["ok"] != true {
        wrong.push(format!("a read was refused: {answer}"));
    }
}

/// Every key of a partition.
fn keys(conn: &mut Conn, partition: &str, wrong: &mut Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let after = all.last().cloned().unwrap_or_default();
        let request = place(partition, json!({"op": "keys", "limit": 5000, "after": after}));
        let mut page = conn.ask(&request);
        refused(&page, wrong);
        let found: Vec<String> = serde_json::from_value(page["keys"].take()).unwrap_or_default();
        all.extend(found);
        if page["more"] != true {
            return all;
        }
    }
}

/// The records of all keys.
fn latest(conn: &mut Conn, partition: &str, wrong: &mut Vec<String>) -> BTreeMap<Address, Value> {
    let keys = keys(conn, partition, wrong);
    let mut found = BTreeMap::new();
    for some in keys.chunks(200) {
        let requests = some.iter().map(|key| place(partition, json!({"op": "get_key", "key": key})));
        for mut answer in conn.pipeline(requests) {
            refused(&answer, wrong);
            for record in answer["records"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                found.insert(address(&record), record);
            }
        }
    }
    found
}

/// Compares what was read with what was answered.
fn compare(
    partition: &str,
    seq: u64,
    write: &mut Write,
    read: Option<&Value>,
    in_history: bool,
) -> Option<String> {
    let place = format!("{partition:?} record {seq} {:?}", write.address);
    let Some(stored) = &write.stored else {
        return match read {
            None if in_history => Some(format!("{place}: the deletion is not in the history")),
            Some(read) if !in_history || read["deleted"] != true => {
                Some(format!("{place} was deleted, read {read}"))
            }
            _ => None,
        };
    };
    let Some(read) = read else { return Some(format!("{place} is not there")) };
    let same = read["seq"] == seq
        && read["data"] == stored["data"]
        && read["value"] == stored["value"]
        && read["status"] == stored["data"]["status"]
        && read["username"] == stored["username"];
    if !same {
        return Some(format!("{place}: {stored} was stored, read {read}"));
    }
    match &write.told {
        Some(told) if told != read => Some(format!("{place}: it was {told}, now {read}")),
        _ => {
            write.told = Some(read.clone());
            None
        }
    }
}

/// Every write to every item, through the daemon.
fn check_history(
    conn: &mut Conn,
    writes: &mut BTreeMap<u64, Write>,
    lost: Option<&BTreeSet<u64>>,
    wrong: &mut Vec<String>,
) {
    let keys: BTreeSet<String> = writes.values().map(|write| write.address.0.clone()).collect();
    let mut found: BTreeMap<u64, Value> = BTreeMap::new();
    let mut open: Vec<(String, Option<u64>)> = keys.into_iter().map(|key| (key, None)).collect();
    while !open.is_empty() {
        let requests = open.iter().map(|(key, before)| {
            let mut request = json!({"op": "history", "storage": "settings", "key": key, "all_items": true, "limit": 10_000});
            if let Some(before) = before {
                request["before_seq"] = (*before).into();
            }
            request
        });
        let pages = conn.pipeline(requests);
        let mut further = Vec::new();
        for ((key, _), mut page) in open.into_iter().zip(pages) {
            refused(&page, wrong);
            let mut before = None;
            for record in page["records"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                let seq = record["seq"].as_u64().expect("a seq");
                before = Some(seq);
                if found.insert(seq, record).is_some() {
                    wrong.push(format!("history: record {seq} comes twice"));
                }
            }
            if page["more"] == true {
                further.push((key, before));
            }
        }
        open = further;
    }
    for (seq, write) in &mut *writes {
        let read = found.remove(seq);
        if lost.is_none_or(|lost| !lost.contains(seq)) {
            wrong.extend(compare("history", *seq, write, read.as_ref(), true));
        }
    }
    wrong.extend(found.keys().map(|seq| format!("history: record {seq} was never answered")));
}

/// Reads the tables as anybody may, and gives what is not as it was answered. For a daemon that has stopped.
const READ: &str = "import duckdb, json, sys\n\
    def rows(file, sql):\n\
    \x20   con = duckdb.connect(file, read_only=True)\n\
    \x20   try: return con.execute(sql).fetchall()\n\
    \x20   finally: con.close()\n\
    print(json.dumps([rows(f, s) for f, s in zip(sys.argv[1::2], sys.argv[2::2])], default=str))";

impl Answered {
    /// Compares the tables of a stopped daemon with what was answered, past the daemon.
    pub(crate) fn check_files(&self, root: &Path, lost: &Lost) -> Vec<String> {
        if !python::available() {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let mut tables = Vec::new();
        for (name, writes) in &self.partitions {
            let doubtful = self.doubtful(name, lost);
            if name.is_empty() {
                let lost = lost.get(name);
                let is_known = |seq: &u64| lost.is_none_or(|lost| !lost.contains(seq));
                let known = writes.iter().filter(|(seq, _)| is_known(seq));
                let history: BTreeMap<u64, Value> =
                    known.map(|(seq, write)| (*seq, row(*seq, write))).collect();
                tables.push((
                    "settings/storage_history.duckdb".to_owned(),
                    HISTORY,
                    history,
                    doubtful.clone(),
                ));
            }
            let mut newest: BTreeMap<&Address, u64> = BTreeMap::new();
            for (seq, write) in writes {
                newest.insert(&write.address, *seq);
            }
            let live = newest.values().filter(|seq| writes[seq].stored.is_some());
            let live = live.filter(|seq| !doubtful.contains(&writes[seq].address));
            let live = live.map(|seq| (*seq, row(*seq, &writes[seq]))).collect();
            let (file, sql) = match name.as_str() {
                "" => ("settings/storage_latest.duckdb".to_owned(), LATEST),
                date => (format!("jobs/{date}/data.duckdb"), DATED),
            };
            tables.push((file, sql, live, doubtful));
        }
        let paths: Vec<String> =
            tables.iter().map(|(file, ..)| root.join(file).to_string_lossy().into_owned()).collect();
        let arguments: Vec<&str> =
            paths.iter().zip(&tables).flat_map(|(path, (_, sql, ..))| [path.as_str(), *sql]).collect();
        let read = python::run(READ, &arguments);
        for (rows, (file, _, mut expected, doubtful)) in read.as_array().expect("tables").iter().zip(tables) {
            for row in rows.as_array().expect("rows") {
                let seq = row[0].as_u64().expect("a seq");
                let text = |n: usize| row[n].as_str().map(str::to_owned);
                let address = (text(1).unwrap_or_default(), text(2), text(3).unwrap_or_default());
                match expected.remove(&seq) {
                    Some(same) if same == *row => {}
                    Some(other) => wrong.push(format!("{file}: should be {other}, is {row}")),
                    None if doubtful.contains(&address) => {}
                    None => wrong.push(format!("{file}: nobody stored {row}, or not last")),
                }
            }
            wrong.extend(expected.values().map(|row| format!("{file}: not there: {row}")));
        }
        wrong.truncate(20);
        wrong
    }
}

const DATED: &str =
    "SELECT seq, key, process_name, '', data::VARCHAR, NULL, customer_id, price, false FROM storage";
const LATEST: &str = "SELECT seq, key, collection_name, item_name, data::VARCHAR, value_int, customer_id, price, false FROM storage_latest";
const HISTORY: &str = "SELECT seq, key, collection_name, item_name, data::VARCHAR, value_int, customer_id, price, deleted FROM storage_history";

/// A row as [`READ`] prints it.
fn row(seq: u64, write: &Write) -> Value {
    let (key, name, item) = &write.address;
    match &write.stored {
        Some(stored) => {
            let data = &stored["data"];
            let value = if item.is_empty() { &Value::Null } else { &stored["value"] };
            json!([seq, key, name, item, data.to_string(), value, data["customer_id"], data["price"], false])
        }
        None => json!([seq, key, name, item, null, null, null, null, true]),
    }
}

#[test]
fn what_is_not_as_it_was_answered_is_found() {
    let store = |n: u64| json!({"op": "store", "storage": "settings", "key": "k", "item_name": "i", "data": {"n": n}, "value": n});
    let mut answered = Answered::default();
    let site = Site::new(&crate::harness::Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 1..=3 {
        answered.note(&store(n), &conn.ok(store(n)));
    }
    let ok: [String; 0] = [];
    assert_eq!(answered.check(&mut conn, &Lost::default()), ok);
    // The daemon knows more than was answered, and other values.
    let fourth = conn.ok(store(4));
    assert_eq!(answered.check(&mut conn, &Lost::default()).len(), 2, "the latest value, and the history");
    answered.note(&store(5), &fourth);
    let wrong = answered.check(&mut conn, &Lost::default());
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    let lost = Lost::from([(String::new(), BTreeSet::from([4]))]);
    assert_eq!(answered.check(&mut conn, &lost), ok, "what is lost was told");
    // And less.
    answered.note(&store(6), &json!({"ok": true, "seq": 9}));
    assert_eq!(answered.check(&mut conn, &Lost::default()).len(), 3);
}
