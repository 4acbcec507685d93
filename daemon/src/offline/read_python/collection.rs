//! A collection: every value of every item, in order. First the history, then the latest values that are not
//! in it, then the lines of the log that are in neither.
//!
//! Invariant: of one item, each record that is put out has a later `updated_at` than the one before. By that
//! the daemon knows what it has already.

use std::collections::{HashMap, HashSet};

use fastpersist_protocol::time::Timestamp;
use fastpersist_protocol::value::Value;

use super::clock::RowClock;
use super::entry::{Digest, Entry};
use super::layout::{HISTORY, LATEST};
use super::{Fatal, Reading, next};
use crate::duck::foreign::{ForeignDatabase, ForeignRow, ForeignTable};
use crate::storage::schema::Model;

/// Lines that say the same.
#[derive(Default)]
struct Lines {
    count: u64,
    /// Whether their value is a boolean, which the table stores as an integer.
    boolean: bool,
}

/// What is known while the directory is read.
#[derive(Default)]
struct State {
    /// The lines that no row has repeated yet, by what they say.
    lines: HashMap<Digest, Lines>,
    /// The addresses that occur in the log; only their rows have to be compared.
    in_log: HashSet<Digest>,
    /// When the last value of an item was taken. A number that two items share moves one of them on in vain.
    taken: HashMap<u64, Timestamp>,
}

impl State {
    /// When a value counts as taken: later than the one before.
    fn place(&mut self, address: Digest, wanted: Timestamp) -> (Timestamp, bool) {
        let taken = self.taken.entry(address as u64).or_insert(Timestamp::EPOCH);
        let moved = wanted <= *taken;
        *taken = if moved { next(*taken) } else { wanted };
        (*taken, moved)
    }
}

pub(super) fn read(reading: &mut Reading<'_, '_>) -> Result<(), Fatal> {
    let mut state = State::default();
    let mut lines = 0;
    let layout = reading.layout;
    let wal = || layout.days.iter().flat_map(|day| &day.wal);
    for file in wal() {
        reading.wal_file(file, Model::Collection, true, &mut |_, _, entry| {
            lines += 1;
            state.in_log.insert(entry.address());
            let same = state.lines.entry(entry.identity()).or_default();
            same.count += 1;
            same.boolean = matches!(entry.value, Some(Value::Bool(_)));
        });
    }
    reading.report.partition(None, lines);
    databases(reading, &mut state)?;
    for file in wal() {
        let short = layout.short(file);
        reading.report.source(&short, "line");
        reading.wal_file(file, Model::Collection, false, &mut |reading, number, entry| {
            let left = state.lines.get_mut(&entry.identity()).filter(|lines| lines.count > 0);
            let Some(left) = left else {
                reading.report.counts.wal_lines_in_database += 1;
                return;
            };
            left.count -= 1;
            let wanted = entry.updated_at.unwrap_or(Timestamp::EPOCH);
            let (updated_at, _) = state.place(entry.address(), wanted);
            reading.report.record(number, entry, updated_at);
        });
    }
    Ok(())
}

fn databases(reading: &mut Reading<'_, '_>, state: &mut State) -> Result<(), Fatal> {
    // Both in one instance, to be compared.
    let (_scratch, database) = reading.database()?;
    let history = open(reading, &database, HISTORY, "history", "storage_history")?;
    let latest = open(reading, &database, LATEST, "latest", "storage_latest")?;
    if let Some(history) = &history {
        let mut clock = RowClock::new(reading.zone);
        let read = database.rows(history, &mut |row| one_row(reading, state, HISTORY, row, &mut clock));
        told(reading, HISTORY, read);
    }
    let Some(latest) = &latest else { return Ok(()) };
    reading.report.source(LATEST, "row");
    let mut clock = RowClock::new(reading.zone);
    let Some(history) = &history else {
        let read = database.rows(latest, &mut |row| one_row(reading, state, LATEST, row, &mut clock));
        told(reading, LATEST, read);
        return Ok(());
    };
    let read = database.rows_without_history(latest, history, &mut |row| {
        let Some(entry) = reading.row(LATEST, Model::Collection, row, &mut clock) else { return };
        let taken = state.taken.get(&(entry.address() as u64)).copied();
        if taken.is_some_and(|taken| entry.updated_at.unwrap_or(Timestamp::EPOCH) < taken) {
            let reason = "it is not in the history, and older than what is there";
            reading.report.problem(LATEST, Some(("row", row.number)), reason);
            return;
        }
        reading.report.counts.only_in_latest += 1;
        put(reading, state, &entry, row.number);
    });
    told(reading, LATEST, read);
    Ok(())
}

fn open(
    reading: &mut Reading<'_, '_>,
    database: &ForeignDatabase,
    file: &'static str,
    alias: &'static str,
    table: &'static str,
) -> Result<Option<ForeignTable>, Fatal> {
    let path = reading.layout.root.join(file);
    if !path.exists() {
        return Ok(None);
    }
    match database.open(&path, alias, table, Model::Collection) {
        Ok(table) => {
            let count = database.count(&table).unwrap_or(0);
            reading.report.counts.databases += 1;
            reading.report.counts.rows += count;
            if file == HISTORY {
                reading.report.partition(None, count);
                reading.report.source(HISTORY, "row");
            }
            Ok(Some(table))
        }
        Err(error) => {
            reading.cannot_open(file, &error)?;
            Ok(None)
        }
    }
}

fn one_row(
    reading: &mut Reading<'_, '_>,
    state: &mut State,
    file: &str,
    row: &ForeignRow<'_>,
    clock: &mut RowClock,
) {
    let Some(mut entry) = reading.row(file, Model::Collection, row, clock) else { return };
    if state.in_log.contains(&entry.address()) {
        let line = state.lines.get_mut(&entry.identity()).filter(|lines| lines.count > 0);
        if let Some(line) = line {
            line.count -= 1;
            if let (true, Some(Value::Int(value))) = (line.boolean, &entry.value) {
                entry.value = Some(Value::Bool(*value != 0));
            }
        }
    }
    put(reading, state, &entry, row.number);
}

fn put(reading: &mut Reading<'_, '_>, state: &mut State, entry: &Entry<'_>, number: u64) {
    let wanted = entry.updated_at.unwrap_or(Timestamp::EPOCH);
    let (updated_at, moved) = state.place(entry.address(), wanted);
    reading.report.counts.moved_on += u64::from(moved);
    reading.report.record(number, entry, updated_at);
}

fn told(reading: &mut Reading<'_, '_>, file: &str, read: Result<(), crate::duck::DuckError>) {
    if let Err(error) = read {
        reading.report.problem(file, None, &error.to_string());
    }
}
