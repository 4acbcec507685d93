//! `systemd/config.toml`: every key that there is, with its default, and the daemon takes it.

use std::collections::BTreeMap;

use super::{
    page::{read, root},
    tables::default_of,
};
use crate::harness::{bare_command, run_to_exit};

const EXAMPLE: &str = "systemd/config.toml";
const KEYS: &str = "daemon/src/config/raw.rs";

/// Keys whose value is not a default of the source, and why it stands there all the same.
const SET: [(&str, &str); 4] = [
    ("socket", "where the socket unit listens"),
    ("model", "every storage has one"),
    ("base_dir", "below the StateDirectory"),
    ("wal_retain_days", "depends on the model; checked by itself"),
];

/// A key as it stands in the example.
struct Setting {
    key: String,
    value: String,
    commented: bool,
}

/// The settings of the example, by table.
fn example() -> BTreeMap<String, Vec<Setting>> {
    let mut tables: BTreeMap<String, Vec<Setting>> = BTreeMap::new();
    let mut table = String::new();
    for line in read(EXAMPLE).lines() {
        let (text, commented) = line.strip_prefix("# ").map_or((line, false), |text| (text, true));
        if text.starts_with('[') && text.ends_with(']') {
            text.trim_matches(['[', ']']).clone_into(&mut table);
        } else if let Some((key, value)) = text.split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            let value = value.split("  #").next().unwrap_or(value).trim().to_owned();
            tables.entry(table.clone()).or_default().push(Setting { key: key.to_owned(), value, commented });
        }
    }
    tables
}

/// The keys that the daemon knows in one table.
fn known(structure: &str) -> Vec<String> {
    let source = read(KEYS);
    let body = source.split(&format!("struct {structure} {{")).nth(1).expect("the structure");
    let body = body.split("\n}").next().expect("its end");
    let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub(super) "));
    fields.map(|field| field.split(':').next().expect("NAME: TYPE").to_owned()).collect()
}

#[test]
fn it_names_every_key() {
    let tables = example();
    for (table, structure) in [
        ("daemon", "RawDaemon"),
        ("limits", "RawLimits"),
        ("metrics", "RawMetrics"),
        ("access", "RawAccess"),
        ("storage.jobs", "RawStorage"),
    ] {
        let mut named: Vec<_> = tables[table].iter().map(|setting| setting.key.clone()).collect();
        let mut known = known(structure);
        named.sort_unstable();
        named.dedup();
        known.sort_unstable();
        assert_eq!(named, known, "[{table}] of {EXAMPLE} against {structure} of {KEYS}");
    }
    assert_eq!(tables.len(), 6, "tables of {EXAMPLE}: {:?}", tables.keys());
}

#[test]
fn its_values_are_the_defaults() {
    let mut compared = 0;
    for (table, settings) in example() {
        for Setting { key, value, commented } in settings {
            if commented || SET.iter().any(|(set, _)| *set == key) {
                continue;
            }
            let default = match (key.as_str(), table.as_str()) {
                ("backup", "storage.jobs") => "false".to_owned(),
                ("backup", "storage.settings") => "true".to_owned(),
                ("log_format", _) => "\"text\"".to_owned(),
                // Read in another function than the one that has the key.
                ("db_path", _) => "\"data.duckdb\"".to_owned(),
                _ => default_of(&key),
            };
            assert_eq!(value, default, "[{table}] {key} in {EXAMPLE}");
            compared += 1;
        }
    }
    assert!(compared > 30, "only {compared} defaults were compared");
}

#[test]
fn the_daemon_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let check = |file: &std::path::Path| {
        let mut command = bare_command(dir.path());
        command.arg("--check-config").arg("--config").arg(file);
        run_to_exit(command)
    };
    let exit = check(&root().join(EXAMPLE));
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);

    // What is a comment is right as well, but for users and groups that another machine has.
    let mut access = false;
    let uncommented = read(EXAMPLE).lines().fold(String::new(), |mut text, line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        access = bare == "[[access]]" || access && line.starts_with('#');
        let is_setting = bare.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '`']));
        let named = bare.starts_with("socket_group");
        text.push_str(if is_setting && !access && !named { bare } else { line });
        text.push('\n');
        text
    });
    let file = dir.path().join("uncommented.toml");
    std::fs::write(&file, &uncommented).unwrap();
    let exit = check(&file);
    assert_eq!(exit.code, Some(0), "{uncommented}\n{}", exit.stderr);
    assert!(uncommented.contains("\nextra_schema = "), "{uncommented}");
}

/// The defaults that depend on the model, as the source has them.
#[test]
fn its_retention_is_that_of_the_model() {
    let tables = example();
    let of = |table: &str, key: &str| {
        let setting = tables[table].iter().find(|setting| setting.key == key);
        setting.unwrap_or_else(|| panic!("[{table}] has no {key}")).value.clone()
    };
    let source = read("daemon/src/config/check.rs");
    assert!(source.contains("let default_wal_days = if model == Model::Dated { 1 } else { retain_days };"));
    assert_eq!(of("storage.jobs", "wal_retain_days"), "1");
    assert_eq!(of("storage.settings", "wal_retain_days"), of("storage.jobs", "retain_days"));
    assert!(source.contains("raw.backup.unwrap_or(model == Model::Collection)"));
}
