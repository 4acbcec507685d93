//! The command line without a daemon: help, usage errors, exit codes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const VERBS: &[&str] = &[
    "store",
    "get",
    "get-item",
    "keys",
    "collections",
    "dates",
    "history",
    "diff",
    "watch",
    "delete",
    "batch",
    "lock",
    "flush",
    "export",
    "backup",
    "list-backups",
    "verify-backup",
    "restore",
    "stats",
    "info",
    "ping",
    "check-config",
    "health",
    "rebuild-history",
    "rebuild-latest",
    "load",
    "import",
    "bench",
    "demo",
    "completions",
];

fn run(arguments: &[&str]) -> Output {
    run_with_input(arguments, "")
}

fn run_with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fastpersist"))
        .args(arguments)
        .env("FASTPERSIST_SOCKET", "/nonexistent/fastpersistd.sock")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_verb_has_help_with_an_example() {
    for verb in VERBS {
        let output = run(&[verb, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{verb}");
        let help = stdout(&output);
        assert!(help.contains("Example:\n"), "{verb}: {help}");
        assert!(help.contains("fastpersist "), "{verb}: {help}");
    }
}

#[test]
fn the_overview_names_every_verb() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for verb in VERBS {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))),
            "{verb}: {help}"
        );
    }
    for hidden in ["demo-writer", "generate-docs"] {
        assert!(!help.contains(hidden), "{help}");
    }
}

#[test]
fn nobody_listening_is_69_and_says_what_to_do() {
    let reached: &[&[&str]] = &[
        &["store", "k", "{}"],
        &["get", "k"],
        &["get-item", "k"],
        &["keys"],
        &["collections", "k"],
        &["dates"],
        &["watch"],
        &["delete", "k"],
        &["batch", "-"],
        &["flush"],
        &["export"],
        &["backup"],
        &["list-backups"],
        &["verify-backup", "2025-01-15"],
        &["stats"],
        &["info"],
        &["ping"],
        &["load", "-"],
        &["import", "--from", "/tmp"],
        &["bench"],
    ];
    for arguments in reached {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {}", stderr(&output));
        let message = stderr(&output);
        assert!(message.contains("/nonexistent/fastpersistd.sock"), "{message}");
        assert!(message.contains("FASTPERSIST_SOCKET"), "{message}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_option_comes_before_the_variable() {
    let output = run(&["--socket", "/nonexistent/other.sock", "ping"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("/nonexistent/other.sock"));
    let output = run(&["ping", "--socket", "@fastpersist-test-nobody"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("@fastpersist-test-nobody"));
}

#[test]
fn usage_errors_are_2_and_reach_nobody() {
    let wrong: &[&[&str]] = &[
        &[],
        &["no-such-verb"],
        &["store", "k"],
        &["store", "k", "not json"],
        &["store", "k", "[1]"],
        &["store", "k", "{}", "--date", "2025-02-30"],
        &["store", "k", "{}", "--value", "bare"],
        &["store", "k", "{}", "--timestamp", "soon"],
        &["store", "k", "{}", "--process-name", "p", "--collection", "c"],
        &["store", "k", "{}", "--if-seq", "-1"],
        &["keys", "--limit", "0"],
        &["watch", "--date", "2025-02-30"],
        &["watch", "--limit", "0"],
        &["watch", "--keep-going"],
        &["--json", "--text", "ping"],
        &["ping", "--timeout-ms", "0"],
        &["load", "/dev/null"],
        &["load", "-", "--format", "csv"],
        &["load", "-", "--process-field", "p"],
        &["load", "-", "--key", "{a"],
        &["load", "-", "--batch-size", "0"],
        &["import"],
        &["import", "--from", "/tmp", "--batch-size", "0"],
        &["bench", "--model", "graph"],
        &["completions", "abacus"],
        &["backup", "--date", "2025-02-30"],
        &["verify-backup"],
        &["restore"],
        &["restore", "--to", "x", "--at", "soon"],
        &["restore", "--to", "x", "--seq", "1", "--at", "2025-01-15"],
    ];
    for arguments in wrong {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_74() {
    for arguments in [["batch", "/nonexistent/ops.ndjson"], ["load", "/nonexistent/records.ndjson"]] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(74), "{}", stderr(&output));
        assert!(stderr(&output).contains("/nonexistent/"), "{}", stderr(&output));
    }
}

#[test]
fn a_bad_line_of_a_batch_is_named_before_anything_is_sent() {
    let output = run_with_input(
        &["batch", "-"],
        "{\"op\":\"store\",\"key\":\"a\",\"data\":{}}\n\n{\"op\":\"store\",\"key\":\"\",\"data\":{}}\n",
    );
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("line 3: "), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was stored"), "{}", stderr(&output));
}
