//! What the judges must find: logs and tables that are wrong in one place each.

use std::io::Write as _;

use serde_json::json;

use super::{
    checker::Checker,
    config,
    ledger::Ledger,
    rows::{self, Extent, Record, Write},
    steps::{self, DATES, ITEMS, Step},
};
use crate::{
    harness::{Random, Site},
    runs::Tally,
};

const SENT: u64 = 64;

/// A writer's log, tables that agree with it, and what is wrong with them.
struct Tables {
    ledger: Ledger,
    records: Vec<Record>,
    history: Vec<Write>,
}

impl Tables {
    /// All steps are answered but the last batch and the last pair; those are not there.
    fn sound() -> Self {
        let mut ledger = Ledger::new(0);
        ledger.note(&format!("sent {SENT}"));
        let (mut records, mut history) = (Vec::new(), Vec::new());
        let (mut seqs, mut last) = ([0; 2], 0);
        for n in (0..SENT).filter(|n| ![54, 55].contains(n)) {
            let items = ITEMS.iter().filter(|(_, kind)| steps::step(n) == *kind);
            let mut answered: Vec<_> = Vec::new();
            for (item, _) in items {
                last += 1;
                let version = history.iter().filter(|write: &&Write| write.1 == *item).count() as u64 + 1;
                history.push((steps::name(0), (*item).to_owned(), n, last, version));
                answered.push(last);
            }
            let day = usize::from(steps::date(n) == DATES[1]);
            for key in steps::keys(0, n) {
                seqs[day] += 1;
                records.push((key, n, 1, seqs[day]));
                answered.push(seqs[day]);
            }
            if steps::step(n) == Step::Delete {
                seqs[day] += 1;
                answered.push(seqs[day]);
                records.retain(|record| steps::deleted_by(record.1) != Some(n));
            }
            let answered: Vec<_> = answered.iter().map(u64::to_string).collect();
            ledger.note(&format!("answered {n} {}", answered.join(" ")));
        }
        Self { ledger, records, history }
    }

    /// How many things the judges find lost, and how many wrong.
    fn judged(mut self) -> (usize, usize) {
        let mut tally = Tally::new("doctored");
        let ledgers = std::slice::from_mut(&mut self.ledger);
        for date in DATES {
            let own = self.records.iter().filter(|record| steps::date(steps::step_of(&record.0)) == date);
            rows::judge_records(ledgers, date, &own.cloned().collect::<Vec<_>>(), Extent::All, &mut tally);
        }
        let last = |item: &str| self.history.iter().rev().find(|write| write.1 == item);
        let latest: Vec<_> = ITEMS.iter().filter_map(|(item, _)| last(item)).collect();
        let latest: Vec<_> = latest
            .into_iter()
            .map(|(key, item, value, seq, _)| (key.clone(), item.clone(), *value, *seq))
            .collect();
        rows::judge_history(ledgers, &self.history, &latest, &mut tally);
        (tally.lost.len(), tally.wrong.len())
    }
}

/// What the judges find when `spoil` had its way.
fn spoiled(spoil: impl FnOnce(&mut Tables)) -> (usize, usize) {
    let mut tables = Tables::sound();
    spoil(&mut tables);
    tables.judged()
}

#[test]
fn the_checker_finds_what_is_lost_and_what_is_doubled() {
    assert_eq!(spoiled(|_| {}), (0, 0));
    let lost = spoiled(|tables| drop(tables.records.remove(5)));
    assert_eq!(lost, (1, 0), "an answered record is lost");
    let batch = spoiled(|tables| tables.records.retain(|record| !record.0.ends_with("0000006/1")));
    assert_eq!(batch, (1, 0), "a record of an answered batch is lost");
    let half = spoiled(|tables| tables.records.push(("w0/0000054/1".to_owned(), 54, 1, 900)));
    assert_eq!(half, (0, 1), "of a batch that was not answered a part is there");
    let doubled = spoiled(|tables| tables.records.push(tables.records[5].clone()));
    assert_eq!(doubled, (0, 2), "a record and its seq are there twice");
    let twice = spoiled(|tables| tables.records[5].2 = 2);
    assert_eq!(twice, (0, 1), "a write was applied twice");
    let other = spoiled(|tables| tables.records[5].1 += 1);
    assert_eq!(other, (0, 1), "another document");
    let place = spoiled(|tables| tables.records[5].3 = 900);
    assert_eq!(place, (0, 1), "another seq than was answered");
    let back = spoiled(|tables| tables.records.push(("w0/0000000".to_owned(), 0, 1, 1)));
    assert_eq!(back, (0, 1), "a deleted record is back");
    let never = spoiled(|tables| tables.records.push(("w0/0000080".to_owned(), 80, 1, 900)));
    assert_eq!(never, (0, 1), "nobody sent it");
}

#[test]
fn the_checker_finds_what_is_wrong_with_the_history() {
    let counter = |tables: &Tables| tables.history.iter().rposition(|write| write.1 == "counter").unwrap();
    let lost = spoiled(|tables| drop(tables.history.remove(counter(tables))));
    assert_eq!(lost, (1, 0), "an answered write is not in the history");
    let doubled = spoiled(|tables| {
        let mut write = tables.history[counter(tables)].clone();
        (write.3, write.4) = (900, write.4 + 1);
        tables.history.push(write);
    });
    assert_eq!(doubled, (0, 2), "a write is there twice: out of order, and with a seq that it was not given");
    let half = spoiled(|tables| tables.history.push(("w0".to_owned(), "pair-a".to_owned(), 55, 900, 4)));
    assert_eq!(half, (0, 1), "half a batch");
}

#[test]
fn what_was_seen_once_of_an_unanswered_write_stays_so() {
    let mut ledger = Tables::sound().ledger;
    assert_eq!(ledger.judge(54, 3, true), Ok(()));
    assert_eq!(ledger.judge(54, 3, true), Ok(()));
    assert!(ledger.judge(54, 0, true).is_err(), "it was there before a kill");
}

/// The same against the daemon: a log that tells of one answer more than there was.
#[test]
fn the_checker_misses_in_the_daemon_what_only_a_log_tells_of() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let mut log = std::fs::File::create(site.path("writer0.log")).unwrap();
    writeln!(log, "sent 96").unwrap();
    for n in (0..96).filter(|n| *n != 2) {
        let answer = conn.ok(steps::request(0, n));
        let seqs = answer["seqs"].as_array().cloned().unwrap_or_else(|| vec![answer["seq"].clone()]);
        let seqs: Vec<_> = seqs.iter().map(ToString::to_string).collect();
        writeln!(log, "answered {n} {}", seqs.join(" ")).unwrap();
    }
    let found = |conn: &mut _| {
        let mut tally = Tally::new("doctored");
        let path = site.path("writer0.log");
        let mut checker = Checker::new([path.as_path()].into_iter());
        checker.check_new(conn, &mut Random::new(), &mut tally);
        let new = tally.lost.len();
        checker.check_all(conn, &mut tally);
        (new, tally.lost.len() - new, tally.wrong.len())
    };
    assert_eq!(found(&mut conn), (0, 0, 0));
    writeln!(log, "answered 2 90").unwrap();
    let (new, all, wrong) = found(&mut conn);
    assert!(new > 0 && all > 0 && wrong == 0, "found {new} and {all} lost, {wrong} wrong");
    // One that was answered and then stored again, as a write would be that a start has replayed twice.
    conn.ok(json!({
        "op": "store", "storage": "settings", "key": "w0", "item_name": "pair-a", "data": {}, "value": 4
    }));
    let (_, _, wrong) = found(&mut conn);
    assert!(wrong > 0, "an item went back to what no step of its kind wrote");
}
