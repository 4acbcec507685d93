//! One date: of each address one value. What the log says replaces what the table says, and of several
//! lines the last one counts, as when the library recovers.

use std::collections::HashMap;

use fastpersist_protocol::time::Timestamp;

use super::clock::RowClock;
use super::entry::{Digest, Entry};
use super::layout::Day;
use super::{Fatal, Reading};
use crate::duck::foreign::{ForeignDatabase, ForeignTable};
use crate::storage::schema::Model;

const ALIAS: &str = "source";
const TABLE: &str = "storage";

/// The last line of one address.
struct Last {
    /// Its place among all lines of the date.
    place: u64,
    identity: Digest,
    /// Whether the table says the same already.
    in_database: bool,
    /// When the row that it replaces was taken.
    replaces: Option<Timestamp>,
}

type LastLines = HashMap<Digest, Last>;

pub(super) fn read(reading: &mut Reading<'_, '_>, day: &Day) -> Result<(), Fatal> {
    let mut last = LastLines::new();
    let mut lines = 0;
    each_line(reading, day, true, &mut |_, place, _, entry| {
        lines = place;
        let before = last.insert(
            entry.address(),
            Last { place, identity: entry.identity(), in_database: false, replaces: None },
        );
        u64::from(before.is_some())
    });
    reading.report.partition(Some(day.date), lines);
    for file in &day.databases {
        let short = reading.layout.short(file);
        let (_scratch, database) = reading.database()?;
        match database.open(file, ALIAS, TABLE, Model::Dated) {
            Ok(table) => rows(reading, day, &short, &database, &table, &mut last),
            Err(error) => reading.cannot_open(&short, &error)?,
        }
    }
    if last.is_empty() {
        return Ok(());
    }
    let mut shown = None;
    each_line(reading, day, false, &mut |reading, place, (file, number), entry| {
        let Some(line) = last.get(&entry.address()).filter(|line| line.place == place) else { return 0 };
        if line.in_database {
            reading.report.counts.wal_lines_in_database += 1;
            return 0;
        }
        if shown != Some(file) {
            shown = Some(file);
            let short = reading.layout.short(&day.wal[file]);
            reading.report.source(&short, "line");
        }
        let after = line.replaces.map(super::next);
        let updated_at = entry.updated_at.max(after).unwrap_or(Timestamp::EPOCH);
        reading.report.record(number, entry, updated_at);
        0
    });
    Ok(())
}

/// Called with the place of a line among all, its file and number, and what it says; returns how many values
/// it replaces.
type OnLine<'f> = dyn FnMut(&mut Reading<'_, '_>, u64, (usize, u64), &Entry<'_>) -> u64 + 'f;

/// Shows the lines of a date. They are read twice, so that they need not be kept; counted and told is what
/// the first time finds.
fn each_line(reading: &mut Reading<'_, '_>, day: &Day, first: bool, on_line: &mut OnLine<'_>) {
    let mut place = 0;
    for (index, file) in day.wal.iter().enumerate() {
        reading.wal_file(file, Model::Dated, first, &mut |reading, number, entry| {
            place += 1;
            let replaced = on_line(reading, place, (index, number), entry);
            reading.report.counts.replaced += replaced;
        });
    }
}

fn rows(
    reading: &mut Reading<'_, '_>,
    day: &Day,
    short: &str,
    database: &ForeignDatabase,
    table: &ForeignTable,
    last: &mut LastLines,
) {
    let count = database.count(table).unwrap_or(0);
    reading.report.counts.databases += 1;
    reading.report.counts.rows += count;
    reading.report.partition(Some(day.date), count);
    reading.report.source(short, "row");
    let mut clock = RowClock::new(reading.zone);
    let mut shown = 0;
    let mut on_row = |row: &crate::duck::foreign::ForeignRow<'_>| {
        shown += 1;
        let Some(entry) = reading.row(short, Model::Dated, row, &mut clock) else { return };
        let updated_at = entry.updated_at.unwrap_or(Timestamp::EPOCH);
        match last.get_mut(&entry.address()) {
            Some(line) if line.identity == entry.identity() => line.in_database = true,
            Some(line) => {
                line.replaces = Some(updated_at);
                reading.report.counts.replaced += 1;
                return;
            }
            None => {}
        }
        reading.report.record(row.number, &entry, updated_at);
    };
    // Where even that cannot be told, the daemon keeps the newest.
    let read = match database.has_duplicates(table) {
        Ok(true) => database.newest_rows(table, &mut on_row),
        _ => database.rows(table, &mut on_row),
    };
    match read {
        Ok(()) => reading.report.counts.duplicate_rows += count.saturating_sub(shown),
        Err(error) => {
            reading.report.problem(short, None, &format!("read up to row {shown} of {count}: {error}"));
        }
    }
}
