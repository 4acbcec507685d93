//! The documents are true: every block in them is run here, or stands in `BY_HAND` with the reason why not.
//!
//! In a ```sh block a line `# → text` is a line that the commands print, in this order; `…` in it is anything. In a
//! transcript `> ` is sent and `< ` comes back, and the value `"…"` is anything. A line `// …` in Rust leaves some out.

mod example_config;
mod examples;
mod page;
mod pattern;
mod service;
mod shell;
mod start;
mod tables;
mod transcript;
mod wal_line;

use std::process::Command;

use serde_json::Value;

use crate::harness::binary;
use page::{Block, INDENTED, blocks, read, root};

const README: &str = "README.md";
const PROTOCOL: &str = "protocol/PROTOCOL.md";
const DESIGN: &str = "daemon/DESIGN.md";
const DURABILITY: &str = "daemon/DURABILITY.md";
const BENCH: &str = "bench/README.md";
const TESTS: &str = "tests/README.md";
const SERVICE: &str = "systemd/README.md";
const MUTANTS: &str = "tests/mutants.md";
const COVERAGE: &str = "tests/coverage.md";
const PAGES: [&str; 9] = [README, PROTOCOL, DESIGN, DURABILITY, BENCH, TESTS, SERVICE, MUTANTS, COVERAGE];

/// What runs the blocks of a kind, wherever one stands that is not in `BY_HAND`.
const RUN: [(&str, &str, &str); 10] = [
    (README, "sh", "shell"),
    (README, "rust", "examples"),
    (README, "toml", "tables"),
    (PROTOCOL, "transcript", "transcript"),
    (DESIGN, "json", "wal_line"),
    (DURABILITY, "transcript", "transcript"),
    (BENCH, INDENTED, "bench_commands_exist"),
    (TESTS, "sh", "cargo_commands_name_what_is_there"),
    (SERVICE, "sh", "service"),
    (SERVICE, "ini", "service"),
];

/// Blocks that are not simply run: page, how the block begins, and why.
const BY_HAND: [(&str, &str, &str); 16] = [
    (README, "  shell      Rust", "a picture"),
    (README, "cargo run ", "takes 25 minutes at first; checked by name, and `start` starts the same program"),
    (README, "cargo test ", "is what runs this; checked by name"),
    (README, "fastpersistd 0.1.0 listens on ", "`start` compares it with what is printed"),
    (README, "fastpersist demo", "`start` runs it, with a bound"),
    (README, "check           842 stored", "`start` compares it with what the demo prints"),
    (SERVICE, "systemctl stop ", "needs a systemd that runs"),
    (SERVICE, "install -d -o fastpersistd -g fastpersistd -m 0750 ", "needs the service's user"),
    (SERVICE, "install -d -o fastpersistd -g fastpersistd -m 0755 ", "needs the service's user"),
    (SERVICE, "systemd-sysusers ", "needs a systemd that runs; the package's scripts do the same"),
    (MUTANTS, "CARGO_PROFILE_DEV_DEBUG=0 ", "takes two hours"),
    (COVERAGE, "FASTPERSIST_FAULTS=1500 ", "needs cargo-tarpaulin, and minutes"),
    (COVERAGE, "FASTPERSIST_FAULTS=20 ", "needs cargo-tarpaulin, and an hour"),
    (COVERAGE, "[target.", "names a build's own directory"),
    (DESIGN, " client  client  client", "a picture"),
    (DESIGN, "BASE/fastpersistd.lock", "names of files; disk_layout, segments and torn_tail find them"),
];

fn by_hand(block: &Block) -> bool {
    BY_HAND.iter().any(|(page, begin, _)| *page == block.page && block.text.starts_with(begin))
}

/// The blocks of one kind on a page that are run.
fn to_run(page: &str, kind: &str) -> Vec<Block> {
    blocks(page).into_iter().filter(|block| block.kind == kind && !by_hand(block)).collect()
}

#[test]
fn every_block_is_run_or_said_why_not() {
    let all: Vec<_> = PAGES.iter().flat_map(|page| blocks(page)).collect();
    for block in &all {
        let run = RUN.iter().any(|(page, kind, _)| *page == block.page && *kind == block.kind);
        assert!(run || by_hand(block), "{block}: nothing runs a block of the kind {:?}", block.kind);
    }
    for (page, begin, _) in BY_HAND {
        let found = all.iter().filter(|block| block.page == page && block.text.starts_with(begin)).count();
        assert_eq!(found, 1, "blocks of {page} that begin with {begin:?}");
    }
    for (page, kind, module) in RUN {
        assert!(!to_run(page, kind).is_empty(), "{module} has nothing to run on {page}: no {kind:?}");
    }
}

#[test]
fn links_lead_somewhere() {
    for page in PAGES {
        let text = read(page);
        let here = root().join(page);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let target = here.parent().expect("a directory").join(link.split('#').next().unwrap_or_default());
            assert!(target.exists(), "{page} links to {link}");
        }
    }
}

/// The workspace as cargo knows it: the names of its packages, and of its programs.
fn workspace() -> (Vec<String>, Vec<String>) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
    let output = command.output().expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON of cargo");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let targets = packages.iter().flat_map(|package| package["targets"].as_array().expect("targets"));
    let programs = targets.filter(|target| target["kind"] == serde_json::json!(["bin"])).map(name).collect();
    (packages.iter().map(name).collect(), programs)
}

#[test]
fn cargo_commands_name_what_is_there() {
    let (packages, programs) = workspace();
    let mut seen = 0;
    for block in [README, TESTS].into_iter().flat_map(blocks).filter(|block| block.kind == "sh") {
        for line in block.text.lines().filter(|line| line.contains("cargo ")) {
            seen += 1;
            let words: Vec<_> = line.split_whitespace().skip_while(|word| *word != "cargo").collect();
            assert!(["run", "test", "build", "deny"].contains(&words[1]), "{block}: {line}");
            for pair in words.windows(2) {
                match pair {
                    ["--bin", name] => assert!(programs.iter().any(|p| p == name), "{block}: no {name}"),
                    ["-p", name] => assert!(packages.iter().any(|p| p == name), "{block}: no {name}"),
                    _ => {}
                }
            }
        }
    }
    assert!(seen >= 2, "the README starts and tests the daemon with cargo");
}

#[test]
fn bench_commands_exist() {
    let help = |arguments: &[&str]| {
        let output = Command::new(binary("compare")).args(arguments).arg("--help").output();
        let output = output.expect("run compare --help");
        assert!(
            output.status.success(),
            "compare {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for block in to_run(BENCH, INDENTED) {
        for line in block.text.lines() {
            // What the command does stands behind two spaces or more.
            let command = line.trim().split("  ").next().unwrap_or_default();
            let mut words = command.split(' ');
            assert_eq!(words.next(), Some("bench/compare"), "{block}: {line}");
            let words: Vec<_> = words.collect();
            let verb: Vec<_> = words.first().copied().into_iter().filter(|w| !w.starts_with('-')).collect();
            let known = help(&verb);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(
                    known.contains(&format!("{option} ")) || known.contains(&format!("{option}\n")),
                    "{line}"
                );
            }
        }
    }
    assert!(root().join("bench/compare").is_file());
}
