//! Holds the running daemon against what every writer sent and was answered.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    ledger::{Fate, Ledger},
    rows,
    steps::{self, DATES, ITEMS},
};
use crate::{
    harness::{Conn, Random, Site, python},
    runs::Tally,
};

/// A log that a writer goes on writing.
struct Followed {
    log: PathBuf,
    /// How much of it has been read.
    read: u64,
    /// All steps below have been checked.
    checked: u64,
}

impl Followed {
    fn read_into(&mut self, ledger: &mut Ledger, tally: &mut Tally) {
        let mut text = String::new();
        if let Ok(mut log) = File::open(&self.log) {
            log.seek(SeekFrom::Start(self.read)).expect("seek in the log");
            log.read_to_string(&mut text).expect("read the log");
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        text[..whole].lines().for_each(|line| ledger.note(line));
        tally.wrong.append(&mut ledger.misread);
    }
}

/// All writers, and what has been checked.
pub(super) struct Checker {
    followed: Vec<Followed>,
    ledgers: Vec<Ledger>,
    /// The highest `seq` of a backup that was answered.
    backed_up: u64,
}

impl Checker {
    pub(super) fn new<'a>(logs: impl Iterator<Item = &'a Path>) -> Self {
        let followed: Vec<_> =
            logs.map(|log| Followed { log: log.to_path_buf(), read: 0, checked: 0 }).collect();
        let ledgers = (0..followed.len() as u64).map(Ledger::new).collect();
        Self { followed, ledgers, backed_up: 0 }
    }

    fn read_logs(&mut self, tally: &mut Tally) {
        for (followed, ledger) in self.followed.iter_mut().zip(&mut self.ledgers) {
            followed.read_into(ledger, tally);
        }
    }

    /// After a restart, while the writers go on: everything that was settled since the last time, and nothing twice, so
    /// that the work of a round does not grow with their number.
    pub(super) fn check_new(&mut self, conn: &mut Conn, random: &mut Random, tally: &mut Tally) {
        self.read_logs(tally);
        for (followed, ledger) in self.followed.iter_mut().zip(&mut self.ledgers) {
            let (from, to) = (followed.checked, ledger.settled().max(followed.checked));
            for date in DATES {
                check_keys(ledger, conn, date, from, to, tally);
            }
            if to > from {
                check_records(ledger, conn, (0..25).map(|_| random.between(from, to - 1)), tally);
            }
            followed.checked = to;
            for (item, kind) in ITEMS {
                let Some(at_least) = ledger.item(kind).map(|values| *values.start()) else { continue };
                let name = steps::name(ledger.number);
                let request =
                    json!({"op": "get_item", "storage": "settings", "key": name, "item_name": item});
                let answer = conn.ok(request);
                followed.read_into(ledger, tally);
                match answer["record"]["value"].as_u64() {
                    Some(value) if value < at_least => {
                        tally.lost.push(format!("{name} {item}: step {at_least}, it is still {value}"));
                    }
                    Some(value) if value < ledger.sent && steps::step(value) == kind => {}
                    Some(value) => {
                        tally.wrong.push(format!("{name} {item}: no step of its kind wrote {value}"));
                    }
                    None => tally.lost.push(format!("{name} {item}: step {at_least}, got {answer}")),
                }
            }
        }
    }

    /// When nobody writes any more: all keys ever, and the record of each where no other reader will look.
    pub(super) fn check_all(&mut self, conn: &mut Conn, tally: &mut Tally) {
        self.read_logs(tally);
        for ledger in &mut self.ledgers {
            for date in DATES {
                check_keys(ledger, conn, date, 0, ledger.sent, tally);
            }
            if !python::available() {
                check_records(ledger, conn, 0..ledger.sent, tally);
            }
            let request = json!({"op": "get_key", "storage": "settings", "key": steps::name(ledger.number)});
            let records = conn.ok(request)["records"].clone();
            let found = records.as_array().expect("a list").iter();
            let values: BTreeMap<_, _> =
                found.map(|record| (record["item_name"].as_str(), &record["value"])).collect();
            if values.get(&Some("pair-a")) != values.get(&Some("pair-b")) {
                tally.wrong.push(format!("half a batch: {records}"));
            }
        }
    }

    /// Some records of each writer, read from a daemon that has just started.
    pub(super) fn check_sample(&self, conn: &mut Conn, random: &mut Random, count: usize, tally: &mut Tally) {
        for ledger in self.ledgers.iter().filter(|ledger| ledger.sent > 0) {
            let steps: Vec<_> = (0..count).map(|_| random.between(0, ledger.sent - 1)).collect();
            check_records(ledger, conn, steps.into_iter(), tally);
        }
    }

    /// Notes what a backup was answered.
    pub(super) fn backed_up(&mut self, answer: &Value) {
        let seqs = answer["backups"].as_array().into_iter().flatten().filter_map(|one| one["seq"].as_u64());
        self.backed_up = seqs.chain([self.backed_up]).max().unwrap_or_default();
    }

    /// Every backup that is listed can be used, and the last one that was answered is still there.
    pub(super) fn check_backups(&self, conn: &mut Conn, tally: &mut Tally) {
        let listed = conn.ok(json!({"op": "list_backups", "storage": "settings"}))["backups"].clone();
        let backups = listed.as_array().expect("a list");
        for backup in backups {
            let request = json!({"op": "verify_backup", "storage": "settings", "backup": backup["backup"]});
            let verified = conn.ask(request);
            if backup["verified"] != true || verified["ok"] != true || verified["seq"] != backup["seq"] {
                tally.wrong.push(format!("{backup} is listed, and verified it is {verified}"));
            }
        }
        let newest = backups.iter().filter_map(|backup| backup["seq"].as_u64()).max().unwrap_or_default();
        if newest < self.backed_up {
            tally.lost.push(format!("the backup with seq {} is not listed: {listed}", self.backed_up));
        }
    }

    /// Every Parquet file that a reader would find.
    pub(super) fn check_exported(&mut self, site: &Site, tally: &mut Tally) {
        self.read_logs(tally);
        rows::judge_exported(&mut self.ledgers, site, rows::Extent::Some, tally);
    }

    /// Every row of the stopped daemon's files, read without it.
    pub(super) fn check_files(&mut self, site: &Site, tally: &mut Tally) {
        rows::judge_files(&mut self.ledgers, site, tally);
    }

    /// How much there was to lose: what was answered, sent, and read again by those who wrote it.
    pub(super) fn figures(&self) -> [u64; 3] {
        let sum = |count: fn(&Ledger) -> u64| self.ledgers.iter().map(count).sum::<u64>();
        [sum(|ledger| ledger.answered.len() as u64), sum(|ledger| ledger.sent), sum(|ledger| ledger.reread)]
    }
}

/// Every key of the steps from `from` to `to` on `date`, for what must be there and what must not.
fn check_keys(ledger: &mut Ledger, conn: &mut Conn, date: &str, from: u64, to: u64, tally: &mut Tally) {
    if from == to {
        return;
    }
    let name = steps::name(ledger.number);
    let mut found: BTreeMap<u64, usize> = BTreeMap::new();
    let mut after = from.checked_sub(1).map_or_else(|| format!("{name}/"), |n| format!("{name}/{n:07}~"));
    loop {
        let request = json!({
            "op": "keys", "storage": "jobs", "date": date, "prefix": format!("{name}/"), "after": after, "limit": 5000
        });
        let page = conn.ok(request);
        let keys = page["keys"].as_array().expect("a list").iter().map(|key| key.as_str().expect("a key"));
        let mut beyond = page["more"] == false;
        for key in keys {
            if key <= after.as_str() {
                tally.wrong.push(format!("{key} twice or out of order on {date}"));
            }
            key.clone_into(&mut after);
            let n = steps::step_of(key);
            beyond |= n >= to;
            if n < to {
                *found.entry(n).or_default() += 1;
            }
        }
        if beyond {
            break;
        }
    }
    for n in (from..to).filter(|n| steps::date(*n) == date) {
        rows::add(tally, ledger.judge(n, found.remove(&n).unwrap_or_default(), true));
    }
    if let Some((n, _)) = found.first_key_value() {
        tally.wrong.push(format!("{name}, step {n} on {date}: nobody wrote it there"));
    }
}

/// Reads records that must be there, and looks into them.
fn check_records(ledger: &Ledger, conn: &mut Conn, steps: impl Iterator<Item = u64>, tally: &mut Tally) {
    let expected: Vec<_> = steps
        .filter(|n| ledger.fate(*n) == Fate::There)
        .flat_map(|n| {
            let keys = steps::keys(ledger.number, n).into_iter().zip(ledger.answered[&n].clone());
            keys.map(move |(key, seq)| (n, key, seq))
        })
        .collect();
    let name = steps::name(ledger.number);
    let reads = expected.iter().map(|(n, key, _)| {
        json!({"op": "get_key_process", "storage": "jobs", "date": steps::date(*n), "key": key, "process_name": name})
    });
    for (got, (n, key, seq)) in conn.all_ok(reads).iter().zip(&expected) {
        let record = &got["record"];
        if record.is_null() {
            tally.lost.push(format!("{key} on {}", steps::date(*n)));
        } else if record["data"]["n"] != *n || record["seq"] != *seq {
            tally.wrong.push(format!("{key} was answered {seq} and is {record}"));
        }
    }
}
