//! What the documents list: configuration, defaults, limits, error codes, and the modules here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{DURABILITY, PROTOCOL, README, TESTS, page::read, to_run};
use crate::harness::{Config, Site, bare_command, run_to_exit};

/// Where the defaults stand.
const DEFAULTS: &str = "daemon/src/config/check.rs";
const CODES: &str = "protocol/src/error.rs";

/// The default that the source has for a key: the next argument behind `raw.KEY`, or the next text, or whether it is on.
pub(super) fn default_of(key: &str) -> String {
    let source = read(DEFAULTS);
    let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let field = format!("raw.{key}");
    let mut ends = source.match_indices(&field).map(|(at, _)| &source[at + field.len()..]);
    let rest = ends.find(|rest| rest.starts_with([',', '.', ')']));
    let rest = rest.unwrap_or_else(|| panic!("{DEFAULTS} does not read {key}"));
    let flag = rest.strip_prefix(".unwrap_or(").and_then(|rest| rest.split(')').next());
    if let Some(flag @ ("true" | "false")) = flag {
        return flag.to_owned();
    }
    let argument = rest.strip_prefix(", ").and_then(|rest| rest.split(',').next());
    match argument.and_then(number) {
        Some(number) => number.to_string(),
        None => format!("\"{}\"", rest.split('"').nth(1).unwrap_or_default()),
    }
}

/// A number as Rust or a person writes it: `10_000`, `10,000`, `8 << 20`, `8 MiB`.
fn number(text: &str) -> Option<u64> {
    let plain = |text: &str| text.replace(['_', ','], "").parse::<u64>().ok();
    match (text.split_once(" << "), text.strip_suffix(" MiB")) {
        (Some((value, bits)), _) => Some(plain(value)? << plain(bits)?),
        (_, Some(mebibytes)) => Some(plain(mebibytes)? << 20),
        _ => plain(text),
    }
}

/// The rows of the table whose head begins so: their cells, without the code marks.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<Vec<String>> = rows.take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "{page} has no table {head}");
    rows
}

/// The words of a text that are marked as code.
fn marked(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_configuration_is_right() {
    for block in to_run(README, "toml") {
        let site = Site::new(&Config::new());
        fs::write(site.config_file(), &block.text).unwrap();
        let mut command = bare_command(&site.path(""));
        command.arg("--check-config").arg("--config").arg(site.config_file());
        let exit = run_to_exit(command);
        assert_eq!(exit.code, Some(0), "{block}: {}", exit.stderr);
    }
}

#[test]
fn what_the_configuration_calls_a_default_is_one() {
    let mut seen = 0;
    for block in to_run(README, "toml") {
        for line in block.text.lines() {
            let Some((setting, comment)) = line.split_once(" # ") else { continue };
            if comment.starts_with("default") {
                let (key, value) = setting.trim().split_once(" = ").expect("KEY = VALUE");
                assert_eq!(default_of(key), value, "{block}: {key}");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} defaults are marked");
}

#[test]
fn the_limits_have_the_defaults_of_the_table() {
    for row in table(PROTOCOL, "| limit |") {
        let names = marked(&row[0]);
        let values: Vec<_> = row[1].split(", ").collect();
        assert_eq!(names.len(), values.len(), "{row:?}");
        for (name, value) in names.iter().zip(values) {
            let value = number(value).unwrap_or_else(|| panic!("{name}: {value} is no number"));
            assert_eq!(default_of(name), value.to_string(), "{PROTOCOL}: {name}");
        }
    }
    assert!(read(PROTOCOL).contains("`output_stall_timeout_ms` (5 s)"));
    assert_eq!(default_of("output_stall_timeout_ms"), "5000");
}

#[test]
fn the_error_codes_are_those_of_the_protocol() {
    let source = read(CODES);
    let mut real: BTreeMap<&str, bool> = BTreeMap::new();
    for line in source.lines() {
        if let Some((code, retryable)) = line.split_once(", retryable: ") {
            real.insert(code.split('"').nth(1).unwrap_or_default(), retryable == "true;");
        }
    }
    real.retain(|code, _| !code.is_empty());
    let rows = table(PROTOCOL, "| code |");
    let listed: BTreeMap<&str, bool> = rows.iter().map(|row| (marked(&row[0])[0], row[1] == "yes")).collect();
    assert_eq!(listed.len(), rows.len(), "no code twice");
    assert_eq!(listed, real, "{PROTOCOL} against {CODES}");
}

#[test]
fn every_module_of_the_tests_has_its_line() {
    let modules = modules("tests/main.rs");
    let rows = table(TESTS, "| module |");
    let mut listed: Vec<_> = rows.iter().flat_map(|row| marked(&row[0])).collect();
    listed.sort_unstable();
    assert_eq!(listed, modules, "{TESTS} against tests/main.rs");
}

/// The modules that a test program is made of, sorted.
fn modules(main: &str) -> Vec<String> {
    let text = read(main);
    let names = text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let mut modules: Vec<_> =
        names.filter(|name| !["answered", "harness", "runs"].contains(name)).map(str::to_owned).collect();
    modules.sort_unstable();
    modules
}

#[test]
fn every_promise_against_a_fault_names_instruments_that_are_there() {
    let listed = table(TESTS, "| instrument |");
    let listed: BTreeSet<_> = listed.iter().map(|row| marked(&row[0])[0]).collect();
    let promises = table(DURABILITY, "| fault |");
    let shown: BTreeSet<_> = promises.iter().flat_map(|row| marked(&row[2])).collect();
    assert_eq!(shown, listed, "{DURABILITY} against {TESTS}");
    for module in modules("tests/faults/main.rs") {
        assert!(listed.contains(module.as_str()), "{TESTS} does not tell of the instrument {module}");
    }
}
