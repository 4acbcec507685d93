//! Judges whole tables, as readers that know nothing of the daemon find them in its files.
//!
//! Invariant: nothing here asks the daemon, so what it says of itself hides nothing, and a test can hand in rows that are wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};

use super::{
    ledger::{Fate, Ledger, Wrong},
    steps::{self, DATES, ITEMS, Step},
};
use crate::{
    harness::{Site, files, python},
    runs::Tally,
};

/// A row of the dated storage: key, `n` of its document, version, seq.
pub(super) type Record = (String, u64, u64, u64);

/// A row of the history: key, item, value, seq, version.
pub(super) type Write = (String, String, u64, u64, u64);

/// How far a file must have come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// It has everything that was ever answered.
    All,
    /// It was made at some moment: what it has is right, and what came later is not in it.
    Some,
}

/// Adds what a judge found.
pub(super) fn add(tally: &mut Tally, found: Result<(), Wrong>) {
    match found {
        Ok(()) => {}
        Err(Wrong::Lost(what)) => tally.lost.push(what),
        Err(Wrong::Other(what)) => tally.wrong.push(what),
    }
}

/// The records of `date`, all of them.
pub(super) fn judge_records(
    ledgers: &mut [Ledger],
    date: &str,
    rows: &[Record],
    extent: Extent,
    tally: &mut Tally,
) {
    let mut found: BTreeMap<(u64, u64), BTreeSet<&str>> = BTreeMap::new();
    let mut seqs = BTreeSet::new();
    for row @ (key, data, version, seq) in rows {
        let (number, n) = (steps::writer_of(key), steps::step_of(key));
        let ledger = &ledgers[number as usize];
        if (*data, *version, steps::date(n)) != (n, 1, date) || n >= ledger.sent {
            tally.wrong.push(format!("on {date} is not what was written, once: {row:?}"));
        }
        if !seqs.insert(seq) {
            tally.wrong.push(format!("seq {seq} twice on {date}: {row:?}"));
        }
        if ledger.answered.get(&n).is_some_and(|answered| !answered.contains(seq)) {
            tally.wrong.push(format!("on {date} {row:?} was answered {:?}", ledger.answered[&n]));
        }
        if !found.entry((number, n)).or_default().insert(key) {
            tally.wrong.push(format!("{key} twice on {date}"));
        }
    }
    for ledger in ledgers {
        for n in (0..ledger.sent).filter(|n| steps::date(*n) == date) {
            let there = found.get(&(ledger.number, n)).map_or(0, BTreeSet::len);
            let whole = steps::keys(ledger.number, n).len();
            match extent {
                Extent::All => add(tally, ledger.judge(n, there, true)),
                Extent::Some if there != 0 && there != whole => {
                    tally.wrong.push(format!("half of step {n} of writer {} on {date}", ledger.number));
                }
                Extent::Some => {}
            }
        }
    }
}

/// The history of everybody's items, and the latest values beside it: key, item, value, seq.
pub(super) fn judge_history(
    ledgers: &[Ledger],
    history: &[Write],
    latest: &[(String, String, u64, u64)],
    tally: &mut Tally,
) {
    let mut items: BTreeMap<(&str, &str), Vec<(u64, u64)>> = BTreeMap::new();
    let mut last_seq = 0;
    for row @ (key, item, value, seq, version) in history {
        if *seq <= last_seq {
            tally.wrong.push(format!("seq twice in history: {row:?}"));
        }
        last_seq = *seq;
        let writes = items.entry((key, item)).or_default();
        writes.push((*value, *seq));
        if *version != writes.len() as u64 {
            tally.wrong.push(format!("version does not count the writes: {row:?}, write {}", writes.len()));
        }
    }
    let expected: BTreeSet<_> = items
        .iter()
        .filter_map(|((key, item), writes)| {
            writes.last().map(|(value, seq)| ((*key).to_owned(), (*item).to_owned(), *value, *seq))
        })
        .collect();
    if expected != latest.iter().cloned().collect() || expected.len() != latest.len() {
        tally.wrong.push(format!("the latest values are {latest:?}, in the history {expected:?}"));
    }
    for ledger in ledgers {
        let name = steps::name(ledger.number);
        for (item, kind) in ITEMS {
            let key = items.keys().copied().find(|key| *key == (name.as_str(), item));
            let writes = key.and_then(|key| items.remove(&key)).unwrap_or_default();
            judge_writes(ledger, item, kind, &writes, tally);
        }
        let pair = |item| {
            let is_own = |row: &&Write| row.0 == name && row.1 == item;
            history.iter().filter(is_own).map(|row| row.2).collect::<Vec<_>>()
        };
        if pair("pair-a") != pair("pair-b") {
            tally.wrong.push(format!("half a batch in the history of writer {}", ledger.number));
        }
    }
    if !items.is_empty() {
        tally.wrong.push(format!("history of what nobody wrote: {:?}", items.keys()));
    }
}

/// The history of one item: each answered write once, with its seq, in the order in which it was sent.
fn judge_writes(ledger: &Ledger, item: &str, kind: Step, writes: &[(u64, u64)], tally: &mut Tally) {
    let what = format!("writer {}, {item}", ledger.number);
    if !writes.is_sorted_by(|a, b| a.0 < b.0) {
        tally.wrong.push(format!("{what}: out of order or twice in history"));
    }
    if let Some((n, _)) = writes.iter().find(|(n, _)| steps::step(*n) != kind || *n >= ledger.sent) {
        tally.wrong.push(format!("{what}: {n} in history was never sent"));
    }
    let found: BTreeMap<u64, u64> = writes.iter().copied().collect();
    for n in (0..ledger.sent).filter(|n| steps::step(*n) == kind) {
        match ledger.fate_of_step(n) {
            Fate::There if !found.contains_key(&n) => {
                tally.lost.push(format!("{what}: step {n} is not in history"));
            }
            Fate::There if !ledger.answered[&n].contains(&found[&n]) => {
                tally.wrong.push(format!("{what}: step {n} has another seq in history"));
            }
            Fate::Gone if found.contains_key(&n) => {
                tally.wrong.push(format!("{what}: step {n} was refused and is in history"));
            }
            _ => {}
        }
    }
}

fn number(cell: &Value) -> u64 {
    cell.as_u64().unwrap_or_else(|| panic!("{cell} is no number"))
}

fn text(cell: &Value) -> String {
    cell.as_str().unwrap_or_else(|| panic!("{cell} is no text")).to_owned()
}

fn records(rows: &[Vec<Value>]) -> Vec<Record> {
    rows.iter().map(|row| (text(&row[0]), number(&row[1]), number(&row[2]), number(&row[3]))).collect()
}

/// Every row of the stopped daemon's files, its last export and its last backup.
pub(super) fn judge_files(ledgers: &mut [Ledger], site: &Site, tally: &mut Tally) {
    if !python::available() {
        return;
    }
    for date in DATES {
        let file = site.path(&format!("jobs/{date}/data.duckdb"));
        if file.is_file() {
            let sql = "SELECT key, (data->>'n')::BIGINT, version, seq FROM storage ORDER BY key";
            judge_records(ledgers, date, &records(&python::rows(&file, sql)), Extent::All, tally);
        } else if ledgers.iter().any(|ledger| ledger.sent >= 64) {
            tally.lost.push(format!("{} is missing", file.display()));
        }
    }
    judge_exported(ledgers, site, Extent::All, tally);
    let day = |path: &Path| path.file_name().is_some_and(|name| name == "backup.json");
    let backups = files::tree(&site.path("settings")).into_iter().filter(|path| day(path));
    let mut copies = backups.map(|manifest| {
        let name = |name: &str| manifest.with_file_name(format!("{name}.duckdb.backup"));
        (name("storage_history"), name("storage_latest"))
    });
    let own = (site.path("settings/storage_history.duckdb"), site.path("settings/storage_latest.duckdb"));
    // The last backup was made when the daemon stopped; one before midnight would have less.
    for (history, latest) in copies.next_back().into_iter().chain([own]) {
        let sql = "SELECT key, item_name, value_int, seq, version FROM storage_history ORDER BY seq";
        let history: Vec<_> = python::rows(&history, sql)
            .iter()
            .map(|row| (text(&row[0]), text(&row[1]), number(&row[2]), number(&row[3]), number(&row[4])))
            .collect();
        let sql = "SELECT key, item_name, value_int, seq FROM storage_latest";
        let latest: Vec<_> = python::rows(&latest, sql)
            .iter()
            .map(|row| (text(&row[0]), text(&row[1]), number(&row[2]), number(&row[3])))
            .collect();
        judge_history(ledgers, &history, &latest, tally);
    }
}

/// Every Parquet file that stands under its final name is whole, and what is in it was written.
pub(super) fn judge_exported(ledgers: &mut [Ledger], site: &Site, extent: Extent, tally: &mut Tally) {
    let root = site.path("parquet");
    let is_final = |path: &Path| path.extension().is_some_and(|end| end == "parquet");
    let finals: Vec<_> = files::tree(&root).into_iter().filter(|path| is_final(path)).collect();
    if !python::available() {
        return;
    }
    let sql =
        "SELECT key, (data->>'n')::BIGINT, version, seq, CAST(date AS VARCHAR), process_name FROM {files}";
    let rows = if finals.is_empty() { Vec::new() } else { python::parquet_rows(&root, sql) };
    for date in DATES {
        let (own, names): (Vec<_>, Vec<_>) = rows
            .iter()
            .filter(|row| row[4] == date)
            .map(|row| (row.clone(), json!(steps::name(steps::writer_of(&text(&row[0])))) == row[5]))
            .unzip();
        if names.contains(&false) {
            tally.wrong.push(format!("a record on {date} is in another process's file"));
        }
        judge_records(ledgers, date, &records(&own), extent, tally);
    }
}
