//! The transcripts of a page, top to bottom, on one connection to one daemon.

use serde_json::Value;

use super::{DURABILITY, PROTOCOL, page::Block, pattern::value_matches, to_run};
use crate::harness::{Config, Conn, Site};

/// Nothing is flushed before the page says so.
fn config() -> Config {
    let quiet = "duckdb_flush_interval_seconds = 3600";
    let exported = format!("{quiet}\nparquet_path = \"{{dir}}/parquet\"");
    Config::new().dated("jobs", quiet).collection("settings", &exported)
}

fn run(conn: &mut Conn, block: &Block) {
    let mut lines = block.text.lines().peekable();
    while let Some(line) = lines.next() {
        let request = line.strip_prefix("> ").unwrap_or_else(|| panic!("{block}: no request: {line}"));
        conn.send(request);
        let mut answers = 0;
        // Behind the answer there may be events.
        while let Some(expected) = lines.peek().and_then(|line| line.strip_prefix("< ")) {
            lines.next();
            answers += 1;
            let pattern: Value =
                serde_json::from_str(expected).unwrap_or_else(|e| panic!("{block}: {expected}: {e}"));
            let came = conn.answer();
            assert!(value_matches(&pattern, &came), "{block}\n> {request}\n< {expected}\nbut came\n< {came}");
        }
        assert!(answers > 0, "{block}: no answer to {request}");
    }
}

fn every_transcript_is_answered_so(page: &str) {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for block in to_run(page, "transcript") {
        run(&mut conn, &block);
    }
    drop(conn);
    daemon.stop();
}

#[test]
fn those_of_the_protocol() {
    every_transcript_is_answered_so(PROTOCOL);
}

#[test]
fn those_of_the_promises() {
    every_transcript_is_answered_so(DURABILITY);
}
