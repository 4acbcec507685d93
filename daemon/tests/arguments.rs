//! The daemon's arguments, on the real binary. That this test is here also makes cargo build the binary
//! for the workspace's test crate.

#![allow(clippy::expect_used)]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fastpersistd")).args(arguments).output().expect("the daemon runs")
}

#[test]
fn help_names_every_option_and_version_the_version() {
    let help = String::from_utf8(run(&["--help"]).stdout).expect("UTF-8");
    for option in ["--config", "--base-dir", "--socket", "--check-config", "--log-level"] {
        assert!(help.contains(option), "{option} is missing in:\n{help}");
    }
    let version = String::from_utf8(run(&["--version"]).stdout).expect("UTF-8");
    assert_eq!(version.trim(), format!("fastpersistd {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    assert_eq!(run(&["--no-such-option"]).status.code(), Some(2));
}

#[test]
fn check_config_says_what_is_wrong_and_exits_78() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "[daemon]\nsockett = \"x\"\n").expect("written");
    let output = run(&["--check-config", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(78));
    let message = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(message.contains("config.toml") && message.contains("sockett"), "{message}");
}
