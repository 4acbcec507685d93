//! Contract 9: flags, file, defaults; and that a mistake ends with 78 and a message that helps.

use std::{fs, os::unix::fs::symlink};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Config, Exit, PATIENCE, Site, bare_command, files, run_to_exit, wait_for};

/// The start is refused, and the message names the file and every one of `words`.
fn refused(config: &Config, words: &[&str]) -> Exit {
    let site = Site::new(config);
    let file = site.config_file();
    let exit = site.refused_start();
    let text = fs::read_to_string(&file).unwrap();
    for word in words.iter().copied().chain([file.to_str().unwrap()]) {
        assert!(exit.stderr.contains(word), "{word:?} is not named for\n{text}\nbut: {}", exit.stderr);
    }
    let mut check = site.command();
    check.arg("--check-config");
    let exit = run_to_exit(check);
    assert_eq!(exit.code, Some(78), "--check-config agrees: {}", exit.stderr);
    assert!(!site.path("jobs").exists() && !site.path("sock").exists(), "nothing was made");
    exit
}

#[test]
fn an_unknown_key_is_named_wherever_it_stands() {
    refused(&Config::both().daemon("sokcet_mode = \"0660\""), &["sokcet_mode"]);
    refused(&Config::both().limits("max_conections = 4"), &["max_conections"]);
    refused(&Config::new().dated("jobs", "cache_max_byte = 4"), &["cache_max_byte"]);
    refused(&Config::both().text("[[access]]\nuid = 1\nrole = \"reader\"\nstorage = \"jobs\""), &["storage"]);
    refused(&Config::both().text("[deamon]\nlog_level = \"info\""), &["deamon"]);
}

#[test]
fn a_bad_value_is_named_with_what_would_be_right() {
    let dated = |lines: &str| Config::new().dated("jobs", lines);
    refused(
        &Config::both().daemon("default_role = \"king\""),
        &["default_role", "reader", "writer", "admin"],
    );
    refused(&Config::both().daemon("socket_mode = \"abc\""), &["socket_mode"]);
    refused(&Config::both().daemon("log_level = \"loud\""), &["log_level", "info"]);
    refused(&Config::both().daemon("log_format = \"xml\""), &["log_format", "json"]);
    refused(&Config::both().limits("max_connections = \"many\""), &["max_connections"]);
    refused(&Config::both().limits("max_connections = -1"), &["max_connections"]);
    refused(&Config::both().limits("max_connections = 0"), &["max_connections"]);
    refused(&Config::both().limits("max_line_bytes = 0"), &["max_line_bytes"]);
    refused(&Config::both().limits("max_batch_ops = 1.5"), &["max_batch_ops"]);
    refused(&dated("timezone = \"Europe/Atlantis\""), &["timezone", "Europe/Atlantis"]);
    refused(&dated("max_wal_size = 0"), &["max_wal_size"]);
    refused(&dated("batch_size = 0"), &["batch_size"]);
    refused(&dated("wal_retain_days = -1"), &["wal_retain_days"]);
    refused(&dated("export_at = \"25:00\""), &["export_at", "25:00"]);
    refused(&dated("db_path = \"{dir}/one.duckdb\""), &["db_path", "{date}"]);
    refused(&Config::both().text("[[access]]\nuid = 1\nrole = \"owner\""), &["role", "reader"]);
    refused(&Config::both().text("[[access]]\nrole = \"reader\""), &["access"]);
}

#[test]
fn a_storage_needs_a_model() {
    refused(&Config::new().text("[storage.x]\nbase_dir = \"{dir}/x\""), &["model"]);
    refused(
        &Config::new().text("[storage.x]\nmodel = \"tree\"\nbase_dir = \"{dir}/x\""),
        &["model", "dated", "collection"],
    );
    refused(&Config::new(), &["storage"]);
}

#[test]
fn extra_schema_takes_known_types_and_new_names_only() {
    let schema = |model: &str, entry: &str| {
        let storage = format!(
            "[storage.x]\nmodel = \"{model}\"\nbase_dir = \"{{dir}}/x\"\nextra_schema = {{ {entry} }}"
        );
        Config::new().text(&storage)
    };
    refused(&schema("dated", "price = \"money\""), &["price", "float64"]);
    refused(&schema("dated", "price = 64"), &["price"]);
    for name in [
        "key",
        "process_name",
        "data",
        "timestamp",
        "status",
        "status_int",
        "username",
        "updated_at",
        "version",
        "seq",
    ] {
        refused(&schema("dated", &format!("{name} = \"string\"")), &["extra_schema", name]);
    }
    for name in ["collection_name", "item_name", "value_int", "value_bool", "deleted"] {
        refused(&schema("collection", &format!("{name} = \"string\"")), &["extra_schema", name]);
    }
    // DuckDB does not tell upper from lower case in a column's name.
    refused(&schema("dated", "Status = \"string\""), &["extra_schema", "Status"]);
}

#[test]
fn two_storages_in_one_directory_are_refused() {
    let two = |second: &str| {
        Config::new().text(&format!(
            "[storage.one]\nmodel = \"dated\"\nbase_dir = \"{{dir}}/same\"\n\
             [storage.two]\nmodel = \"collection\"\nbase_dir = \"{second}\""
        ))
    };
    for second in ["{dir}/same", "{dir}/same/", "{dir}/./same"] {
        refused(&two(second), &["base_dir", "one", "two"]);
    }
    // By another name, which only the file system knows.
    let site = Site::new(&two("{dir}/link"));
    fs::create_dir(site.path("same")).unwrap();
    symlink(site.path("same"), site.path("link")).unwrap();
    site.refused_start();
}

#[test]
fn files_of_one_kind_among_those_of_another_are_refused() {
    let two = |first: &str, second: &str| Config::new().dated("jobs", first).dated("more", second);
    for own in ["{dir}/jobs", "{dir}/jobs/parquet", "{dir}/x/../jobs/parquet"] {
        refused(&two(&format!("parquet_path = \"{own}\""), ""), &["storage.jobs.parquet_path", "base_dir"]);
    }
    refused(
        &two("parquet_path = \"{dir}/more/parquet\"", ""),
        &["storage.jobs.parquet_path", "storage.more"],
    );
    refused(&two("", "db_path = \"{dir}/jobs/{date}/b.duckdb\""), &["storage.more.db_path", "storage.jobs"]);
    let inside = |inner: &str| {
        Config::new()
            .dated("jobs", "")
            .text(&format!("[storage.in]\nmodel = \"collection\"\nbase_dir = \"{inner}\""))
    };
    refused(&inside("{dir}/jobs/inner"), &["storage.in.base_dir", "storage.jobs"]);
    refused(&inside("{dir}"), &["storage.jobs.base_dir", "storage.in"]);
    let beside = two("parquet_path = \"{dir}/jobs-parquet\"", "db_path = \"{dir}/more/{date}/b.duckdb\"");
    Site::new(&beside).start().stop();
}

#[test]
fn check_config_finds_a_log_directory_that_cannot_be_had() {
    for (directory, what) in
        [("/proc/x", "/proc"), ("{dir}/config.toml", "config.toml"), ("{dir}/config.toml/log", "config.toml")]
    {
        let site = Site::new(&Config::both().daemon(&format!("log_dir = \"{directory}\"")));
        let mut command = site.command();
        command.arg("--check-config");
        let exit = run_to_exit(command);
        assert_eq!(exit.code, Some(78), "{directory}: {}", exit.stderr);
        assert!(exit.stderr.contains("daemon.log_dir") && exit.stderr.contains(what), "{}", exit.stderr);
        site.refused_start();
    }
}

#[test]
fn what_is_no_toml_or_not_there_is_refused() {
    refused(&Config::both().text("this is no toml"), &[]);
    let site = Site::new(&Config::both());
    fs::remove_file(site.config_file()).unwrap();
    let exit = site.refused_start();
    assert!(exit.stderr.contains("config.toml"), "{}", exit.stderr);
}

#[test]
fn check_config_says_yes_and_makes_nothing() {
    let config = Config::both()
        .daemon("log_format = \"json\"\nlog_level = \"debug\"\ndefault_role = \"reader\"\nsocket_mode = \"0660\"")
        .limits("max_connections = 10\nmax_output_bytes = 1000000")
        .dated("more", "timezone = \"Europe/Berlin\"\nexport_at = \"02:30\"\nextra_schema = { id = \"int64\" }\nparquet_path = \"{dir}/p\"")
        .text("[[access]]\nuid = 1\nrole = \"reader\"\nstorages = [\"jobs\"]");
    let site = Site::new(&config);
    let mut command = site.command();
    command.arg("--check-config");
    let exit = run_to_exit(command);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let left: Vec<_> = fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["config.toml"]);
}

#[test]
fn a_flag_that_does_not_exist_is_a_usage_error() {
    let site = Site::new(&Config::both());
    let mut command = site.command();
    command.arg("--no-such-flag");
    assert_eq!(run_to_exit(command).code, Some(2));
}

/// A site without a configuration file, for the embedded default. `None` where the machine has a file of its own.
fn bare_site() -> Option<Site> {
    if fs::exists("/etc/fastpersistd/config.toml").unwrap() {
        eprintln!("skipped: this machine has a configuration of its own");
        return None;
    }
    let site = Site::new(&Config::new());
    fs::remove_file(site.config_file()).unwrap();
    Some(site)
}

#[test]
fn with_a_base_dir_alone_the_default_has_two_storages_and_a_socket() {
    let Some(site) = bare_site() else { return };
    let mut command = bare_command(&site.path(""));
    command.arg("--base-dir").arg(site.path("base"));
    let socket = site.path("base/fastpersistd.sock").to_string_lossy().into_owned();
    let daemon = site.start_as(command, &socket);
    assert!(daemon.stdout().contains(&socket), "it says where it listens: {:?}", daemon.stdout());
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "dated", "date": "2025-01-15", "key": "k", "data": {}}));
    conn.ok(json!({"op": "store", "storage": "collection", "key": "k", "data": {}, "value": 1}));
    conn.ok(json!({"op": "get_item", "storage": "collection", "key": "k"}));
    drop(conn);
    daemon.stop();
    assert!(!files::segments(&site.path("base")).is_empty());
}

#[test]
fn without_flags_it_lives_in_the_users_directories() {
    let Some(site) = bare_site() else { return };
    fs::create_dir(site.path("run")).unwrap();
    let cases = [
        (Some("state"), Some("run"), "run/fastpersistd/fastpersistd.sock", "state/fastpersistd"),
        (Some("state2"), None, "state2/fastpersistd/fastpersistd.sock", "state2/fastpersistd"),
        (None, None, ".local/state/fastpersistd/fastpersistd.sock", ".local/state/fastpersistd"),
    ];
    for (state, run, socket, base) in cases {
        let mut command = bare_command(&site.path(""));
        if let Some(state) = state {
            command.env("XDG_STATE_HOME", site.path(state));
        }
        if let Some(run) = run {
            command.env("XDG_RUNTIME_DIR", site.path(run));
        }
        let daemon = site.start_as(command, &site.path(socket).to_string_lossy());
        daemon.connect().ok(json!({"op": "store", "storage": "dated", "key": "k", "data": {}}));
        daemon.stop();
        assert!(!files::segments(&site.path(base)).is_empty(), "{base}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let site = Site::new(&Config::both());
    let mut command = site.command();
    command.arg("--socket").arg(site.path("other.sock"));
    let daemon = site.start_as(command, &site.path("other.sock").to_string_lossy());
    daemon.connect().ok(json!({"op": "ping"}));
    assert!(!site.path("sock").exists(), "not at the socket of the file");
}

#[test]
fn sighup_refuses_by_name_what_cannot_change_and_goes_on() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "key": "k", "data": {}}));
    let moved = Config::new().text("[storage.jobs]\nmodel = \"dated\"\nbase_dir = \"{dir}/elsewhere\"");
    site.configure(&moved);
    let before = daemon.log().len();
    daemon.signal(Signal::HUP);
    wait_for("the log names base_dir", PATIENCE, || {
        daemon.log()[before..].contains("base_dir").then_some(())
    });
    conn.ok(json!({"op": "store", "key": "k2", "data": {}}));
    assert_eq!(conn.ok(json!({"op": "keys"}))["keys"], json!(["k", "k2"]));
    assert!(!site.path("elsewhere").exists());
    // A file that cannot be read changes nothing either.
    site.configure(&Config::new().text("no toml"));
    daemon.signal(Signal::HUP);
    conn.ok(json!({"op": "store", "key": "k3", "data": {}}));
    drop(conn);
    daemon.stop();
}

#[test]
fn sigusr1_writes_the_stats_to_the_log() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let before = daemon.log().len();
    daemon.signal(Signal::USR1);
    wait_for("stats in the log", PATIENCE, || {
        daemon.log()[before..].contains("pending_writes").then_some(())
    });
    daemon.connect().ok(json!({"op": "ping"}));
}
