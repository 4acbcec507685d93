//! Knows what every writer sent and what it was answered, and holds the store against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::steps::{self, DATES, Step};
use crate::harness::{Conn, Random, Site, python};

/// What one writer has logged.
struct Writer {
    number: u64,
    log: PathBuf,
    /// How much of the log has been read.
    read: u64,
    /// All steps below have been sent.
    sent: u64,
    /// The answered steps with the seqs that they were given.
    answered: BTreeMap<u64, Vec<u64>>,
    refused: BTreeSet<u64>,
    /// All steps below have been checked.
    checked: u64,
}

/// What must be true of a step's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    There,
    Gone,
    /// It was not answered: there, or not, but whole.
    Either,
}

impl Writer {
    fn read_log(&mut self) {
        let mut text = String::new();
        if let Ok(mut log) = File::open(&self.log) {
            log.seek(SeekFrom::Start(self.read)).expect("seek in the log");
            log.read_to_string(&mut text).expect("read the log");
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in text[..whole].lines() {
            let mut words = line.split(' ');
            let word = words.next().expect("a word");
            let mut numbers =
                words.filter(|word| !word.is_empty()).map(|word| word.parse::<u64>().expect("a number"));
            let n = numbers.next().expect("a step");
            match word {
                "sent" => self.sent = n,
                "answered" => drop(self.answered.insert(n, numbers.collect())),
                _ => drop(self.refused.insert(n)),
            }
        }
    }

    /// The fate of what step `n` stored, deletes aside.
    fn fate_of_step(&self, n: u64) -> Fate {
        if self.answered.contains_key(&n) {
            Fate::There
        } else if self.refused.contains(&n) || n >= self.sent {
            Fate::Gone
        } else {
            Fate::Either
        }
    }

    /// The fate of what step `n` stored in the dated storage.
    fn fate(&self, n: u64) -> Fate {
        let stored = self.fate_of_step(n);
        match steps::deleted_by(n).map(|delete| self.fate_of_step(delete)) {
            // A delete that was answered counts whatever became of the store before it.
            Some(Fate::There) => Fate::Gone,
            Some(Fate::Either) if stored != Fate::Gone => Fate::Either,
            _ => stored,
        }
    }

    /// The steps whose fate no later answer can change, as far as the log goes.
    fn settled(&self) -> u64 {
        self.answered.keys().next_back().map_or(0, |last| last.saturating_sub(32) / 32 * 32)
    }

    /// Every key of the steps in `range` on `date`, once, for what must be there, and none that must not.
    fn check_keys(&self, conn: &mut Conn, date: &str, from: u64, to: u64) {
        let name = steps::name(self.number);
        let mut found = BTreeSet::new();
        let mut after = from.checked_sub(1).map_or_else(|| format!("{name}/"), |n| format!("{name}/{n:07}~"));
        loop {
            let request = json!({
                "op": "keys", "storage": "jobs", "date": date, "prefix": format!("{name}/"), "after": after, "limit": 5000
            });
            let page = conn.ok(request);
            let keys: Vec<_> =
                page["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
            let beyond = keys.last().is_none_or(|last| steps::step_of(last) >= to);
            after = keys.last().cloned().unwrap_or_default();
            found.extend(keys.into_iter().filter(|key| steps::step_of(key) < to));
            if page["more"] == false || beyond {
                break;
            }
        }
        self.check_found(&found, date, from, to);
    }

    fn check_found(&self, found: &BTreeSet<String>, date: &str, from: u64, to: u64) {
        let mut known = 0;
        for n in (from..to).filter(|n| steps::date(*n) == date) {
            let keys = steps::keys(self.number, n);
            let there = keys.iter().filter(|key| found.contains(*key)).count();
            let right = match self.fate(n) {
                Fate::There => there == keys.len(),
                Fate::Gone => there == 0,
                Fate::Either => there == 0 || there == keys.len(),
            };
            assert!(
                right,
                "writer {}, step {n}: {there} of {keys:?} there, should be {:?}",
                self.number,
                self.fate(n)
            );
            known += there;
        }
        assert_eq!(known, found.len(), "keys that nobody wrote on {date}");
    }

    /// Reads some records that must be there, and looks into them.
    fn check_records(&self, conn: &mut Conn, steps: impl Iterator<Item = u64>) {
        let expected: Vec<_> = steps
            .filter(|n| self.fate(*n) == Fate::There)
            .flat_map(|n| {
                steps::keys(self.number, n)
                    .into_iter()
                    .zip(self.answered[&n].clone())
                    .map(move |(key, seq)| (n, key, seq))
            })
            .collect();
        let name = steps::name(self.number);
        let reads = expected.iter().map(|(n, key, _)| {
            json!({"op": "get_key_process", "storage": "jobs", "date": steps::date(*n), "key": key, "process_name": name})
        });
        for (got, (n, key, seq)) in conn.all_ok(reads).iter().zip(&expected) {
            let record = &got["record"];
            assert_eq!((&record["data"]["n"], &record["seq"]), (&json!(n), &json!(seq)), "{key}: {got}");
        }
    }

    /// The last answered step of a kind that has an item in the collection.
    fn last_answered(&self, kind: Step) -> Option<u64> {
        self.answered.keys().rev().copied().find(|n| steps::step(*n) == kind)
    }
}

/// All writers, and what has been checked.
pub(super) struct Checker {
    writers: Vec<Writer>,
}

impl Checker {
    pub(super) fn new<'a>(logs: impl Iterator<Item = &'a Path>) -> Self {
        let writer = |(number, log): (usize, &Path)| Writer {
            number: number as u64,
            log: log.to_path_buf(),
            read: 0,
            sent: 0,
            answered: BTreeMap::new(),
            refused: BTreeSet::new(),
            checked: 0,
        };
        Self { writers: logs.enumerate().map(writer).collect() }
    }

    /// After a restart: everything that was settled since the last one, while the writers go on writing.
    pub(super) fn check_new(&mut self, conn: &mut Conn, random: &mut Random, round: u64) {
        for writer in &mut self.writers {
            writer.read_log();
            let (from, to) = (writer.checked, writer.settled().max(writer.checked));
            for date in DATES {
                writer.check_keys(conn, date, from, to);
            }
            if to > from {
                writer.check_records(conn, (0..25).map(|_| random.between(from, to - 1)));
            }
            writer.checked = to;
            for (kind, item) in [(Step::Counter, "counter"), (Step::Pair, "pair-a"), (Step::Pair, "pair-b")] {
                let Some(at_least) = writer.last_answered(kind) else { continue };
                let request = json!({"op": "get_item", "storage": "settings", "key": steps::name(writer.number), "item_name": item});
                let value = conn.ok(request)["record"]["value"].as_u64().expect("a value");
                writer.read_log();
                assert!(
                    (at_least..writer.sent).contains(&value),
                    "round {round}: {item} is {value}, was {at_least}"
                );
                assert!(
                    steps::step(value) == kind,
                    "round {round}: {item} is {value}, which no step of its kind wrote"
                );
            }
        }
    }

    /// When nobody writes any more: all keys ever, and the record of each where no other reader will look.
    pub(super) fn check_all(&mut self, conn: &mut Conn) {
        for writer in &mut self.writers {
            writer.read_log();
            for date in DATES {
                writer.check_keys(conn, date, 0, writer.sent);
            }
            if !python::available() {
                writer.check_records(conn, 0..writer.sent);
            }
            let request = json!({"op": "get_key", "storage": "settings", "key": steps::name(writer.number)});
            let records = conn.ok(request)["records"].clone();
            let value = |item: &str| {
                records
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|record| record["item_name"] == item)
                    .map(|record| record["value"].clone())
            };
            assert_eq!(value("pair-a"), value("pair-b"), "half a batch: {records}");
        }
    }

    /// Some records of each writer, read from a daemon that has just started.
    pub(super) fn check_sample(&self, conn: &mut Conn, random: &mut Random, count: usize) {
        for writer in self.writers.iter().filter(|writer| writer.sent > 0) {
            let steps: BTreeSet<_> = (0..count).map(|_| random.between(0, writer.sent - 1)).collect();
            writer.check_records(conn, steps.into_iter());
        }
    }

    /// Every row of the stopped daemon's files, read without it.
    pub(super) fn check_files(&self, site: &Site) {
        if !python::available() {
            return;
        }
        for date in DATES {
            self.check_dated(&site.path(&format!("jobs/{date}/data.duckdb")), date);
        }
        self.check_history(
            &site.path("settings/storage_history.duckdb"),
            &site.path("settings/storage_latest.duckdb"),
        );
    }

    fn check_dated(&self, file: &Path, date: &str) {
        if !file.is_file() {
            assert!(self.writers.iter().all(|writer| writer.sent < 64), "{} is missing", file.display());
            return;
        }
        let rows =
            python::rows(file, "SELECT key, (data->>'n')::BIGINT, version, seq FROM storage ORDER BY key");
        let mut found = vec![BTreeSet::new(); self.writers.len()];
        let mut seqs = BTreeSet::new();
        for row in &rows {
            let key = row[0].as_str().unwrap();
            let n = steps::step_of(key);
            let number = key[1..].split('/').next().unwrap().parse::<usize>().unwrap();
            let writer = &self.writers[number];
            assert_eq!(
                (&row[1], &row[2]),
                (&json!(n), &json!(1)),
                "{key} holds what was written, once: {row:?}"
            );
            let seq = row[3].as_u64().unwrap();
            assert!(seqs.insert(seq), "seq {seq} twice on {date}");
            if let Some(answered) = writer.answered.get(&n) {
                assert!(answered.contains(&seq), "{key} has seq {seq}, was answered {answered:?}");
            }
            assert!(found[number].insert(key.to_owned()), "{key} twice on {date}");
        }
        for (writer, found) in self.writers.iter().zip(&found) {
            writer.check_found(found, date, 0, writer.sent);
        }
    }

    fn check_history(&self, history: &Path, latest: &Path) {
        let sql = "SELECT key, item_name, value_int, seq, version FROM storage_history ORDER BY seq";
        let mut items: BTreeMap<(String, String), Vec<(u64, u64)>> = BTreeMap::new();
        let mut seqs = BTreeSet::new();
        for row in python::rows(history, sql) {
            let text = |cell: &Value| cell.as_str().unwrap().to_owned();
            let number = |cell: &Value| cell.as_u64().unwrap();
            let writes = items.entry((text(&row[0]), text(&row[1]))).or_default();
            writes.push((number(&row[2]), number(&row[3])));
            assert!(seqs.insert(number(&row[3])), "seq twice in history: {row:?}");
            assert_eq!(number(&row[4]), writes.len() as u64, "version counts the writes: {row:?}");
        }
        for writer in &self.writers {
            for (item, kind, part) in
                [("counter", Step::Counter, 0), ("pair-a", Step::Pair, 0), ("pair-b", Step::Pair, 1)]
            {
                let writes = items.remove(&(steps::name(writer.number), item.to_owned())).unwrap_or_default();
                writer.check_writes(item, kind, part, &writes);
                let sql = format!(
                    "SELECT value_int, seq FROM storage_latest WHERE key = 'w{}' AND item_name = '{item}'",
                    writer.number
                );
                let last: Vec<_> = writes.last().map(|(n, seq)| json!([n, seq])).into_iter().collect();
                assert_eq!(json!(python::rows(latest, &sql)), json!(last), "the latest of {item}");
            }
        }
        assert!(items.is_empty(), "history of what nobody wrote: {:?}", items.keys());
    }

    /// How much there was to lose.
    pub(super) fn report(&self, rounds: u64) {
        let sum = |count: fn(&Writer) -> u64| self.writers.iter().map(count).sum::<u64>();
        let (answered, sent) = (sum(|writer| writer.answered.len() as u64), sum(|writer| writer.sent));
        eprintln!("{rounds} kills, {answered} requests answered of {sent} sent");
        assert!(answered > rounds, "hardly anything was written: the loop has tested nothing");
    }
}

impl Writer {
    /// The history of one item: each answered write once, with its seq, in the order in which it was sent.
    fn check_writes(&self, item: &str, kind: Step, part: usize, writes: &[(u64, u64)]) {
        let name = steps::name(self.number);
        assert!(writes.is_sorted_by(|a, b| a.0 < b.0), "{name} {item}: out of order or twice in history");
        let found: BTreeMap<u64, u64> = writes.iter().copied().collect();
        for n in (0..self.sent).filter(|n| steps::step(*n) == kind) {
            match self.fate_of_step(n) {
                Fate::There => {
                    assert_eq!(
                        found.get(&n),
                        Some(&self.answered[&n][part]),
                        "{name} {item}: the write of step {n}"
                    );
                }
                Fate::Gone => assert!(!found.contains_key(&n), "{name} {item}: step {n} was refused"),
                Fate::Either => {}
            }
        }
        assert!(
            writes.iter().all(|(n, _)| steps::step(*n) == kind && *n < self.sent),
            "{name} {item}: never sent"
        );
    }
}
