//! Clients that write without a pause and remember what was answered: the last value of each of their keys.

use std::{collections::BTreeMap, thread, time::Duration};

use serde_json::{Value, json};

use super::load::{Load, StopsAll, date};
use crate::harness::{Conn, Random};

/// Of each writer, in each date.
const KEYS: u64 = 400;
/// Of each writer in the collection: with their documents twice what its cache holds.
const ITEMS: u64 = 4000;
/// Older dates that are written to again, so that they are opened again.
const OLD_DAYS: u64 = 6;

/// What one writer was answered.
#[derive(Default)]
pub(super) struct Ledger {
    /// By day and key.
    pub(super) jobs: BTreeMap<(u64, u64), Option<u64>>,
    pub(super) settings: BTreeMap<u64, Option<u64>>,
    /// Rows of the history.
    pub(super) history: u64,
}

/// The key of a writer, in both storages.
pub(super) fn key(writer: u64, key: u64) -> String {
    format!("w{writer}/{key:04}")
}

struct Writer<'l> {
    load: &'l Load,
    number: u64,
    random: Random,
    conn: Conn,
    ledger: Ledger,
    /// Every write's value, and its number as a producer.
    next: u64,
    sent_items: u64,
}

/// What a request does when it is answered.
enum Effect {
    Jobs(u64, Vec<(u64, Option<u64>)>),
    Settings(Vec<(u64, Option<u64>)>),
}

/// Writes until the load stops.
pub(super) fn run(load: &Load, number: u64, random: Random) -> Ledger {
    let _stops = StopsAll(load);
    let conn = load.connect();
    let mut writer = Writer { load, number, random, conn, ledger: Ledger::default(), next: 0, sent_items: 0 };
    while !load.is_stopped() {
        writer.burst();
    }
    writer.ledger
}

impl Writer<'_> {
    fn burst(&mut self) {
        let day = self.day();
        let mut requests: Vec<_> = (0..self.random.between(1, 24)).map(|_| self.job(day)).collect();
        while self.sent_items < self.load.items_due() && requests.len() < 48 {
            requests.push(self.item());
        }
        self.conn.send_all(requests.iter().map(|(request, _)| request));
        let mut last = None;
        let mut written = 0;
        for (request, effect) in requests {
            let answer = self.conn.answer();
            if self.load.judge(&request.to_string(), &answer, &[]) {
                written += self.note(&request, &answer, effect);
                last = Some(request);
            } else {
                // It says that there is no room for the moment.
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.load.count("writes", written);
        if self.random.between(1, 200) == 1
            && let Some(request) = last.filter(|request| request.get("producer").is_some())
        {
            let again = self.conn.ask(&request);
            let told = again["duplicate"] == true || again["deleted"] == false;
            if self.load.judge("a repetition", &again, &[]) && !told {
                self.load.wrong(format!("{request} was sent again and answered {again}"));
            }
            self.load.count("repeated", 1);
        }
    }

    /// Mostly the newest date.
    fn day(&mut self) -> u64 {
        let newest = self.load.days() - 1;
        match self.random.between(1, 400) {
            1 => self.random.between(0, newest.min(OLD_DAYS)),
            2..80 => newest.saturating_sub(1),
            _ => newest,
        }
    }

    fn data(&mut self, n: u64) -> Value {
        json!({"n": n, "pad": "0123456789abcdef".repeat(self.random.between(4, 24) as usize)})
    }

    fn job(&mut self, day: u64) -> (Value, Effect) {
        let what = self.random.between(1, 20);
        let ops = if what == 1 { self.random.between(2, 20) } else { 1 };
        let mut ops: Vec<_> = (0..ops).map(|_| self.op(KEYS, what == 2)).collect();
        let effect = Effect::Jobs(day, ops.iter().map(|(_, key, value)| (*key, *value)).collect());
        let mut request = match ops.len() {
            1 => ops.swap_remove(0).0,
            _ => json!({"op": "batch", "ops": ops.into_iter().map(|(op, ..)| op).collect::<Vec<_>>()}),
        };
        request["storage"] = json!("jobs");
        request["date"] = json!(date(day));
        if what > 15 {
            request["durability"] = json!("buffered");
        }
        if what < 8 {
            request["producer"] = json!(format!("writer-{}", self.number));
            request["producer_seq"] = json!(self.next);
        }
        (request, effect)
    }

    fn item(&mut self) -> (Value, Effect) {
        self.sent_items += 1;
        let delete = self.random.between(1, 20) == 1;
        let (mut request, key, value) = self.op(ITEMS, delete);
        request["storage"] = json!("settings");
        if let Some(value) = value {
            request["value"] = json!(value);
        }
        if self.random.between(1, 20) == 1 {
            // Names that nobody uses again: they must not pile up.
            request["producer"] = json!(format!("~{}-{}", self.number, self.next));
            request["producer_seq"] = json!(1);
        }
        (request, Effect::Settings(vec![(key, value)]))
    }

    /// One store or deletion, its key, and the value that the key then has.
    fn op(&mut self, keys: u64, delete: bool) -> (Value, u64, Option<u64>) {
        self.next += 1;
        let key = self.random.between(0, keys - 1);
        let name = self::key(self.number, key);
        if delete {
            return (json!({"op": "delete", "key": name}), key, None);
        }
        let n = self.next;
        (json!({"op": "store", "key": name, "data": self.data(n)}), key, Some(n))
    }

    /// Takes down what an answer promised, and says how many writes that was.
    fn note(&mut self, request: &Value, answer: &Value, effect: Effect) -> u64 {
        if answer.get("duplicate").is_some() {
            self.load.wrong(format!("{request} was sent once and answered {answer}"));
        }
        match effect {
            Effect::Jobs(day, written) => {
                let count = written.len() as u64;
                self.ledger.jobs.extend(written.into_iter().map(|(key, value)| ((day, key), value)));
                count
            }
            Effect::Settings(written) => {
                self.ledger.history += u64::from(!answer["seq"].is_null());
                self.ledger.settings.extend(written);
                1
            }
        }
    }
}

/// All that was answered is there, by SQL over every date and by key for a sample.
pub(super) fn check(conn: &mut Conn, ledgers: &[Ledger], random: &mut Random) -> (u64, Vec<String>) {
    let mut lost = Vec::new();
    let mut checked = 0;
    let days = ledgers.iter().flat_map(|ledger| ledger.jobs.keys()).map(|(day, _)| *day).max().unwrap_or(0);
    for day in 0..=days {
        let mut expected = BTreeMap::new();
        for (ledger, number) in ledgers.iter().zip(0..) {
            let of_day = ledger.jobs.range((day, 0)..(day + 1, 0));
            expected.extend(of_day.filter_map(|((_, k), n)| n.map(|n| (key(number, *k), n))));
        }
        let sql = "SELECT key, (data->>'$.n')::BIGINT FROM storage WHERE key LIKE 'w%'";
        let asked = json!({"op": "query", "storage": "jobs", "from": date(day), "sql": sql});
        checked += expected.len() as u64;
        compare(&date(day), &rows(conn, &asked), &expected, &mut lost);
    }
    let mut expected = BTreeMap::new();
    for (ledger, number) in ledgers.iter().zip(0..) {
        expected.extend(ledger.settings.iter().filter_map(|(k, n)| n.map(|n| (key(number, *k), n))));
    }
    let sql = "SELECT key, value_int FROM storage_latest WHERE key LIKE 'w%'";
    let asked = json!({"op": "query", "storage": "settings", "sql": sql});
    checked += expected.len() as u64;
    compare("the collection", &rows(conn, &asked), &expected, &mut lost);
    let history: u64 = ledgers.iter().map(|ledger| ledger.history).sum();
    let sql = "SELECT count(*) FROM storage_history WHERE key LIKE 'w%'";
    let found = conn.ok(json!({"op": "query", "storage": "settings", "sql": sql}));
    if found["rows"] != json!([[history]]) {
        lost.push(format!("the history has {}, {history} writes were answered", found["rows"]));
    }
    for _ in 0..500 {
        let number = random.between(0, ledgers.len() as u64 - 1);
        let ledger = &ledgers[number as usize];
        let k = random.between(0, ITEMS - 1);
        let asked = json!({"op": "get_item", "storage": "settings", "key": key(number, k)});
        let (found, expected) = (conn.ok(&asked), ledger.settings.get(&k).copied().flatten());
        if found["record"]["data"]["n"] != json!(expected) {
            lost.push(format!("{asked}: {expected:?} was answered, {found} is there"));
        }
        let day = random.between(0, days);
        let k = random.between(0, KEYS - 1);
        let asked =
            json!({"op": "get_key_process", "storage": "jobs", "date": date(day), "key": key(number, k)});
        let (found, expected) = (conn.ok(&asked), ledger.jobs.get(&(day, k)).copied().flatten());
        if found["record"]["data"]["n"] != json!(expected) {
            lost.push(format!("{asked}: {expected:?} was answered, {found} is there"));
        }
        checked += 2;
    }
    (checked, lost)
}

fn rows(conn: &mut Conn, asked: &Value) -> BTreeMap<String, u64> {
    let answer = conn.ok(asked);
    assert_eq!(answer["truncated"], false, "{asked}");
    let row = |row: &Value| (row[0].as_str().expect("a key").to_owned(), row[1].as_u64().expect("a number"));
    answer["rows"].as_array().expect("rows").iter().map(row).collect()
}

fn compare(
    place: &str,
    found: &BTreeMap<String, u64>,
    expected: &BTreeMap<String, u64>,
    lost: &mut Vec<String>,
) {
    for (key, n) in expected.iter().filter(|(key, n)| found.get(*key) != Some(n)).take(3) {
        lost.push(format!("{place}: {key} was answered {n}, and has {:?}", found.get(key)));
    }
    for (key, n) in found.iter().filter(|(key, _)| !expected.contains_key(*key)).take(3) {
        lost.push(format!("{place}: {key} has {n}, and was never written or is deleted"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_stale_and_a_risen_record_are_told_apart() {
        let pairs = |pairs: &[(&str, u64)]| pairs.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect();
        let mut lost = Vec::new();
        let expected: BTreeMap<_, _> = pairs(&[("a", 1), ("b", 2), ("c", 3)]);
        compare("x", &expected, &expected, &mut lost);
        assert_eq!(lost, [] as [String; 0]);
        compare("x", &pairs(&[("a", 1), ("b", 1), ("d", 9)]), &expected, &mut lost);
        assert_eq!(
            lost,
            [
                "x: b was answered 2, and has Some(1)",
                "x: c was answered 3, and has None",
                "x: d has 9, and was never written or is deleted"
            ]
        );
    }
}
