//! Standard output: for people or for programs.
//!
//! Invariant: as JSON, each record is one line, and what the daemon sent is printed as it came.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::value::RawValue;

use super::failure::{Failure, Outcome};

/// The fields of a record in the order in which people see them.
const COLUMNS: &[&str] = &[
    "date",
    "key",
    "process_name",
    "collection_name",
    "item_name",
    "deleted",
    "value",
    "data",
    "status",
    "status_int",
    "username",
    "timestamp",
    "updated_at",
    "seq",
];

/// Where a verb prints.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    people: bool,
}

impl Output {
    pub(crate) fn new(json: bool, text: bool) -> Self {
        let stdout = io::stdout();
        let people = text || (!json && stdout.is_terminal());
        Self { out: BufWriter::new(stdout), people }
    }

    /// Whether a person reads it.
    pub(crate) fn is_for_people(&self) -> bool {
        self.people
    }

    /// Whether it goes to a terminal.
    pub(crate) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.out.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    /// Prints what a file holds.
    pub(crate) fn copy(&mut self, from: &mut File) -> Outcome {
        io::copy(from, &mut self.out).map(drop).map_err(|error| Failure::output(&error))
    }

    /// For whoever writes by itself.
    pub(crate) fn writer(&mut self) -> &mut (impl Write + Send) {
        &mut self.out
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Outcome {
        writeln!(self.out, "{text}").map_err(|error| Failure::output(&error))
    }

    /// Prints `text` to people, the reply itself to programs.
    pub(crate) fn reply(&mut self, json: &str, text: impl FnOnce() -> String) -> Outcome {
        if self.people { self.line(text()) } else { self.line(json) }
    }

    /// Prints names: one a line to people, as JSON strings to programs.
    pub(crate) fn names(&mut self, names: &[String]) -> Outcome {
        for name in names {
            if self.people {
                self.line(name)?;
            } else {
                self.line(serde_json::Value::from(name.as_str()))?;
            }
        }
        Ok(())
    }

    /// Prints records.
    pub(crate) fn records(&mut self, records: &[Box<RawValue>]) -> Outcome {
        if !self.people {
            return records.iter().try_for_each(|record| self.line(record));
        }
        match records {
            [] => Ok(()),
            [record] => {
                let rows = fields(record).into_iter().map(|(name, text)| vec![name.to_owned(), text]);
                self.table(&[], rows)
            }
            several => {
                let several: Vec<_> = several.iter().map(|record| fields(record)).collect();
                let used = |name: &&&str| several.iter().any(|record| record.iter().any(|(n, _)| n == *name));
                // Beside `timestamp` it rarely says more, and side by side there is little room.
                let shown = COLUMNS.iter().filter(|name| **name != "updated_at");
                let columns: Vec<&str> = shown.filter(used).copied().collect();
                let cell = |record: &[(&str, String)], column: &str| {
                    let found = record.iter().find(|(name, _)| *name == column);
                    found.map(|(_, text)| text.clone()).unwrap_or_default()
                };
                let rows =
                    several.iter().map(|record| columns.iter().map(|column| cell(record, column)).collect());
                self.table(&columns, rows)
            }
        }
    }

    /// Prints a table; without a head where there are no `columns`.
    pub(crate) fn table(&mut self, columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Outcome {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        if !columns.is_empty() {
            table.set_header(columns);
        }
        table.add_rows(rows);
        self.line(table)
    }

    /// On a terminal, begins a screen of its own for what follows.
    pub(crate) fn begin_screen(&mut self) -> Outcome {
        if !io::stdout().is_terminal() {
            return Ok(());
        }
        self.out.write_all(b"\x1b[2J\x1b[H").map_err(|error| Failure::output(&error))
    }

    /// Lets what is printed so far out.
    pub(crate) fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(|error| Failure::output(&error))
    }

    /// Ends the output.
    pub(crate) fn finish(mut self) -> Outcome {
        self.flush()
    }
}

/// The fields of a record that are not null, as people read them.
fn fields(record: &RawValue) -> Vec<(&'static str, String)> {
    let parsed: BTreeMap<String, &RawValue> = serde_json::from_str(record.get()).unwrap_or_default();
    let shown = |name: &&'static str| {
        let raw = parsed.get(*name)?.get();
        (raw != "null").then(|| (*name, plain(raw)))
    };
    COLUMNS.iter().filter_map(shown).collect()
}

/// A JSON string without its quotes; anything else as it is.
pub(crate) fn plain(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
}

/// A number with a comma between thousands.
pub(crate) fn grouped(number: u64) -> String {
    fastpersist_bench::grouped(number)
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_shows_what_is_not_null_in_a_fixed_order() {
        let record =
            r#"{"seq":7,"key":"a\"b","data":{"n":12345678901234567890123},"status":null,"value":1.0}"#;
        let record: Box<RawValue> = serde_json::from_str(record).unwrap();
        assert_eq!(
            fields(&record),
            [
                ("key", "a\"b".to_owned()),
                ("value", "1.0".to_owned()),
                ("data", r#"{"n":12345678901234567890123}"#.to_owned()),
                ("seq", "7".to_owned()),
            ]
        );
    }

    #[test]
    fn counts_are_english() {
        assert_eq!((count(1, "file"), count(1_200, "row")), ("1 file".to_owned(), "1,200 rows".to_owned()));
    }
}
