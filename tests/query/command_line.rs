//! `fastpersist sql`: a query from the arguments, a file or a pipe, and its rows in every format.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::start;
use crate::harness::{Config, Daemon, Site, binary};

fn fill(config: &Config) -> (Site, Daemon) {
    let (site, daemon, mut conn) = start(config);
    for (date, key, n) in [("2025-01-15", "a", 1), ("2025-01-16", "b", 2)] {
        conn.ok(json!({"op": "store", "date": date, "key": key, "data": {"n": n, "text": "x,\"y\""}}));
    }
    (site, daemon)
}

fn sql(site: &Site, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary("fastpersist"));
    command.arg("sql").args(args).args(["--from", "2025-01-01", "--to", "2025-01-31"]);
    command.env("FASTPERSIST_SOCKET", site.socket());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run fastpersist");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends")
}

fn printed(site: &Site, args: &[&str], input: &str) -> Vec<u8> {
    let output = sql(site, args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const ROWS: &str =
    "SELECT date, key, (data->>'$.n')::BIGINT AS n, data->>'$.text' AS t FROM storage ORDER BY key";

/// A parameter over several lines was sent as several requests, with the rights of whoever asked.
#[test]
fn a_parameter_is_one_whatever_lines_it_has() {
    let (site, daemon) = fill(&Config::new().dated("jobs", ""));
    let param = "[\n{\"op\":\"delete\",\"storage\":\"jobs\",\"date\":\"2025-01-15\",\"key\":\"a\"}\n]";
    let printed = printed(&site, &["SELECT ? AS p", "--param", param, "--format", "ndjson"], "");
    let row: Value = serde_json::from_slice(&printed).expect("one row");
    let back: Value =
        serde_json::from_str(row["p"].as_str().expect("a list arrives as its text")).expect("JSON");
    assert_eq!(back[0]["op"], "delete");
    let kept = daemon.connect().ok(json!({"op": "get_key", "date": "2025-01-15", "key": "a"}));
    assert_eq!(kept["records"][0]["data"]["n"], 1);
}

#[test]
fn rows_are_printed_in_every_format() {
    let (site, _daemon) = fill(&Config::new().dated("jobs", ""));
    let text = |format: &str| {
        let printed = printed(&site, &[ROWS, "--format", format], "");
        String::from_utf8(printed).expect("text")
    };
    assert_eq!(text("csv"), "date,key,n,t\n2025-01-15,a,1,\"x,\"\"y\"\"\"\n2025-01-16,b,2,\"x,\"\"y\"\"\"\n");
    let lines = text("ndjson");
    let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first, json!({"date": "2025-01-15", "key": "a", "n": 1, "t": "x,\"y\""}));
    assert_eq!(lines.lines().count(), 2);
    let all: Value = serde_json::from_str(&text("json")).expect("JSON");
    assert_eq!(all[1]["key"], "b");
    let table = text("table");
    assert!(table.contains("│ 2025-01-15 ┆ a") && table.contains("2 rows, "), "{table}");
    let parquet = printed(&site, &[ROWS, "--format", "parquet"], "");
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"), "{} bytes", parquet.len());
    let arrow = printed(&site, &[ROWS, "--format", "arrow"], "");
    assert!(arrow.starts_with(&[0xff; 4]), "the continuation mark of an Arrow stream");
}

#[test]
fn the_sql_comes_from_the_arguments_a_file_or_a_pipe() {
    let (site, _daemon) = fill(&Config::new().dated("jobs", ""));
    let count = "SELECT count(*) AS n FROM storage WHERE key = ? OR (data->>'$.n')::INTEGER = ?";
    let params = ["--param", "a", "--param", "2"];
    let file = site.path("count.sql");
    fs::write(&file, count).expect("written");
    let file = file.display().to_string();
    for (source, input) in [(vec![count], ""), (vec!["-f", file.as_str()], ""), (vec![], count)] {
        let args = [source, params.to_vec()].concat();
        assert_eq!(printed(&site, &args, input), b"{\"n\":2}\n", "{args:?}");
    }
}

#[test]
fn what_is_refused_or_cut_is_said_beside_the_rows() {
    let (site, _daemon) = fill(&Config::new().dated("jobs", ""));
    let refused = sql(&site, &["DELETE FROM storage"], "");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("query_rejected") && said.contains("SELECT"), "{said}");
    let cut = sql(&site, &["SELECT key FROM storage ORDER BY key", "--max-rows", "1"], "");
    assert_eq!(cut.stdout, b"{\"key\":\"a\"}\n");
    assert!(String::from_utf8_lossy(&cut.stderr).contains("more rows"), "{cut:?}");
    let none = sql(&site, &["SELECT 1", "-f", "/no/such/file"], "");
    assert_eq!(none.status.code(), Some(2), "SQL and a file are one too many");
    assert_eq!(sql(&site, &["-f", "/no/such/file"], "").status.code(), Some(74));
}
