//! What goes out: one JSON line for each record, each problem, and at last the counts.
//!
//! `{"row":7,"op":{…}}` is a record from row (or line) 7 of the last `{"source":…}`; its `op` is an operation
//! of `import`. `{"partition":…}` begins a date and says how many values are expected in it.

use std::io::{self, BufWriter, Write};

use fastpersist_protocol::json as wire;
use fastpersist_protocol::time::{Date, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::entry::Entry;
use crate::storage::schema::Model;

/// What was read, merged, and not read.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// DuckDB files that were read.
    pub(super) databases: u64,
    /// Files of the log that were read.
    pub(super) wal_files: u64,
    /// Rows in them.
    pub(super) rows: u64,
    /// Lines in them that are not empty.
    pub(super) wal_lines: u64,
    /// Rows of which a newer one has the same address, as happens with a null process name.
    pub(super) duplicate_rows: u64,
    /// Lines that say what a row says too.
    pub(super) wal_lines_in_database: u64,
    /// Rows and lines with the address of a later line, where only the last value counts.
    pub(super) replaced: u64,
    /// Rows of the latest values that the history has not.
    pub(super) only_in_latest: u64,
    /// NaN and infinities that became strings.
    pub(super) not_finite: u64,
    /// Records whose `updated_at` was moved on, because it was not later than that of the value before.
    pub(super) moved_on: u64,
    /// Records that were put out.
    pub(super) records: u64,
    /// What could not be read: files, rows, lines.
    pub(super) unreadable: u64,
}

/// Standard output. A failure to write is kept until the end, for there is nobody to tell.
pub(super) struct Report<'o> {
    pub(super) counts: Counts,
    out: BufWriter<&'o mut dyn Write>,
    line: Vec<u8>,
    failed: Option<io::Error>,
}

impl<'o> Report<'o> {
    pub(super) fn new(out: &'o mut dyn Write) -> Self {
        let out = BufWriter::with_capacity(1 << 17, out);
        Self { counts: Counts::default(), out, line: Vec::new(), failed: None }
    }

    fn put(&mut self, line: &serde_json::Value) {
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        self.write(&bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(bytes).err();
        }
    }

    pub(super) fn begin(&mut self, model: Model) {
        self.put(&json!({"model": model.as_str()}));
    }

    pub(super) fn partition(&mut self, date: Option<Date>, expected: u64) {
        self.put(&json!({"partition": {"date": date.map(|date| date.to_string()), "expected": expected}}));
    }

    /// Where the next records come from; `unit` is `row` or `line`.
    pub(super) fn source(&mut self, file: &str, unit: &'static str) {
        self.put(&json!({"source": {"file": file, "unit": unit}}));
    }

    pub(super) fn record(&mut self, number: u64, entry: &Entry<'_>, updated_at: Timestamp) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.extend_from_slice(b"{\"row\":");
        wire::write_u64(&mut line, number);
        line.extend_from_slice(b",\"op\":");
        entry.write(updated_at, &mut line);
        line.extend_from_slice(b"}\n");
        self.write(&line);
        self.line = line;
        self.counts.records += 1;
    }

    /// Tells what could not be read: a file, or one row or line of it.
    pub(super) fn problem(&mut self, file: &str, place: Option<(&'static str, u64)>, reason: &str) {
        self.counts.unreadable += 1;
        let (unit, number) = place.unzip();
        self.put(&json!({"problem": {"file": file, "unit": unit, "number": number, "reason": reason}}));
    }

    /// Whether whoever read the output is gone.
    pub(super) fn is_broken(&self) -> bool {
        self.failed.is_some()
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.put(&json!({"summary": self.counts}));
        match self.failed {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}
