//! The transcripts of PROTOCOL.md, top to bottom, on one connection to one daemon.

use serde_json::Value;

use super::{PROTOCOL, page::Block, pattern::value_matches, to_run};
use crate::harness::{Config, Conn, Site};

/// Nothing is flushed before the page says so.
fn config() -> Config {
    let quiet = "duckdb_flush_interval_seconds = 3600";
    let exported = format!("{quiet}\nparquet_path = \"{{dir}}/parquet\"");
    Config::new().dated("jobs", quiet).collection("settings", &exported)
}

fn run(conn: &mut Conn, block: &Block) {
    let mut lines = block.text.lines();
    while let Some(line) = lines.next() {
        let request = line.strip_prefix("> ").unwrap_or_else(|| panic!("{block}: no request: {line}"));
        let expected = lines.next().and_then(|line| line.strip_prefix("< "));
        let expected = expected.unwrap_or_else(|| panic!("{block}: no answer to {request}"));
        let pattern: Value =
            serde_json::from_str(expected).unwrap_or_else(|e| panic!("{block}: {expected}: {e}"));
        let answer = conn.ask(request);
        assert!(value_matches(&pattern, &answer), "{block}\n> {request}\n< {expected}\nbut came\n< {answer}");
    }
}

#[test]
fn every_transcript_is_what_the_daemon_answers() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for block in to_run(PROTOCOL, "transcript") {
        run(&mut conn, &block);
    }
    drop(conn);
    daemon.stop();
}
