//! The log: where it goes, that it can be moved away, and that no record's content is in it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, run_to_exit, wait_for};

/// In every name, key and value that these tests send.
const MARKER: &str = "s3cr3t";

/// The log files, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(dir).map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect());
    let mut files: Vec<PathBuf> = entries.unwrap_or_default();
    files.sort();
    files
}

fn text(dir: &Path) -> String {
    files(dir).iter().map(|file| fs::read_to_string(file).expect("a log file")).collect()
}

/// The daemon has worked on the signal when it logs this.
fn reload(daemon: &Daemon, log: impl Fn() -> String) {
    let lines = |log: &str| log.matches("configuration was read again").count();
    let before = lines(&log());
    daemon.signal(Signal::HUP);
    wait_for("the configuration is read again", PATIENCE, || (lines(&log()) > before).then_some(()));
}

/// Sends what is right and much that is wrong, all of it with the marker.
fn provoke(conn: &mut Conn) {
    let secret = |text: &str| format!("{MARKER}_{text}");
    let store = |key: &str, data: Value| json!({"op": "store", "storage": "jobs", "key": secret(key), "process_name": secret("p"), "data": data});
    conn.ok(store("key", json!({"name": MARKER, "status": MARKER, "status_int": MARKER})));
    conn.ok(json!({"op": "store", "storage": "settings", "key": MARKER, "data": {MARKER: MARKER}, "value": MARKER}));
    conn.refused(store("key", json!({"n": MARKER})), "bad_request");
    let mut stale = store("key", json!({}));
    stale["if_seq"] = json!(77);
    conn.refused(&stale, "conflict");
    conn.refused(json!({"op": MARKER}), "unknown_op");
    conn.refused(json!({"op": "get_key", "storage": MARKER, "key": MARKER}), "unknown_storage");
    conn.refused(format!("{{\"op\":\"store\",\"key\":\"{MARKER}"), "bad_json");
    conn.refused(
        json!({"op": "store", "storage": "jobs", "key": MARKER.repeat(300), "data": {}}),
        "bad_request",
    );
    conn.refused(
        json!({"op": "store", "storage": "jobs", "key": MARKER, "data": {}, MARKER: 1}),
        "bad_request",
    );
    conn.refused(format!("{{\"key\":\"{}\"}}", MARKER.repeat(1000)), "line_too_long");
    let mut long = store("long", json!({}));
    long["process_name"] = json!(format!("{MARKER}/{}", "/".repeat(200)));
    conn.ok(&long);
    // The database's directory cannot be made: a file is in its way.
    conn.refused(json!({"op": "flush", "storage": "broken"}), "internal");
}

fn marked_config(daemon: &str) -> Config {
    Config::new()
        .daemon(daemon)
        .limits("max_line_bytes = 4096")
        .dated("jobs", "extra_schema = { n = \"int64\" }\nparquet_path = \"{dir}/parquet\"")
        .collection("settings", "")
        .dated("broken", "db_path = \"{dir}/in_the_way/{date}/data.duckdb\"")
}

#[test]
fn no_record_is_in_the_log() {
    for format in ["text", "json"] {
        let lines = format!("log_format = \"{format}\"\nlog_level = \"info\"");
        let site = Site::new(&marked_config(&lines));
        fs::write(site.path("in_the_way"), "").expect("a file");
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.ok(json!({"op": "store", "storage": "broken", "key": MARKER, "data": {"x": MARKER}}));
        provoke(&mut conn);
        conn.refused(json!({"op": "export_parquet", "storage": "jobs"}), "bad_request");
        daemon.signal(Signal::USR1);
        let log = wait_for("stats in the log", PATIENCE, || {
            let log = daemon.log();
            log.contains("pending_writes").then_some(log)
        });
        assert!(log.contains("the flush failed"), "what is not done is told: {log}");
        // Killed, so that the next start has something to recover, and stopped with what cannot be exported.
        daemon.kill();
        let daemon = site.start();
        daemon.connect().ok(json!({"op": "ping"}));
        daemon.signal(Signal::TERM);
        wait_for("the export on shutdown", PATIENCE, || daemon.log().contains("too long").then_some(()));
        let log = daemon.log();
        assert!(log.contains("recovered"), "{log}");
        assert!(!log.contains(MARKER), "{format}: {log}");
    }
}

#[test]
fn json_lines_are_json_each() {
    let site = Site::new(&Config::both().daemon("log_format = \"json\""));
    let daemon = site.start();
    reload(&daemon, || daemon.log());
    for line in daemon.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(event["timestamp"].is_string() && event["fields"]["message"].is_string(), "{event}");
        assert_eq!(event["level"], "INFO", "{event}");
    }
}

#[test]
fn a_moved_log_goes_on_in_a_file_of_the_configured_name() {
    let site = Site::new(&Config::both().daemon("log_dir = \"{dir}/log\""));
    let daemon = site.start();
    let dir = site.path("log");
    reload(&daemon, || text(&dir));
    let names = files(&dir);
    let [name] = &names[..] else { panic!("one file: {names:?}") };
    let plain = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert!(
        plain.len() == "fastpersistd.2025-01-15.log".len() && plain.starts_with("fastpersistd.20"),
        "{plain}"
    );
    assert_eq!(daemon.log(), "", "nothing on standard error");
    // As logrotate does it.
    fs::rename(name, site.path("rotated")).expect("moved");
    reload(&daemon, || text(&dir));
    assert_eq!(files(&dir), names);
    let old = fs::read_to_string(site.path("rotated")).expect("the old file");
    assert_eq!(old.matches("configuration was read again").count(), 1, "{old}");
    fs::remove_dir_all(&dir).expect("removed");
    reload(&daemon, || text(&dir));
    assert_eq!(files(&dir), names, "the directory is made again");
    daemon.stop();
    assert!(text(&dir).contains("stopping"), "{}", text(&dir));
}

#[test]
fn its_files_are_for_owner_and_group_from_the_first_on() {
    let site = Site::new(&Config::both().daemon("log_dir = \"{dir}/log\""));
    let daemon = site.start();
    let log = site.path("log");
    let modes = || -> Vec<u32> {
        files(&log).iter().map(|file| fs::metadata(file).unwrap().permissions().mode() & 0o777).collect()
    };
    assert_eq!(modes(), [0o640]);
    fs::remove_file(&files(&log)[0]).unwrap();
    daemon.signal(Signal::HUP);
    wait_for("the file is made again", PATIENCE, || (!files(&log).is_empty()).then_some(()));
    assert_eq!(modes(), [0o640]);
}

#[test]
fn a_log_that_cannot_be_reopened_goes_on_in_the_old_file() {
    let site = Site::new(&Config::both().daemon("log_dir = \"{dir}/log\""));
    let mut daemon = site.start();
    fs::rename(site.path("log"), site.path("old")).expect("moved");
    fs::write(site.path("log"), "in the way").expect("a file");
    reload(&daemon, || text(&site.path("old")));
    wait_for("the complaint", PATIENCE, || daemon.log().contains("daemon.log_dir").then_some(()));
    assert!(text(&site.path("old")).contains("daemon.log_dir"), "{}", text(&site.path("old")));
    daemon.assert_running();
    daemon.connect().ok(json!({"op": "ping"}));
}

#[test]
fn a_log_directory_that_cannot_be_made_is_a_mistake_in_the_configuration() {
    let site = Site::new(&Config::both().daemon("log_dir = \"{dir}/file/log\""));
    fs::write(site.path("file"), "").expect("a file");
    let exit = run_to_exit(site.command());
    assert_eq!(exit.code, Some(78), "{}", exit.stderr);
    assert!(exit.stderr.contains("daemon.log_dir"), "{}", exit.stderr);
}

#[test]
fn only_so_many_files_are_kept() {
    let site = Site::new(&Config::both().daemon("log_dir = \"{dir}/log\"\nmax_log_files = 3"));
    let dir = site.path("log");
    fs::create_dir(&dir).expect("the directory");
    for day in 1..=9 {
        fs::write(dir.join(format!("fastpersistd.2025-01-0{day}.log")), "old\n").expect("an old file");
    }
    let daemon = site.start();
    reload(&daemon, || text(&dir));
    let left = files(&dir);
    assert!(left.len() <= 3, "{left:?}");
    assert!(text(&dir).contains("configuration was read again"), "today's is one of them: {left:?}");
}

#[test]
fn the_level_changes_when_the_configuration_is_read_again() {
    let level = |level: &str| Config::both().daemon(&format!("log_level = \"{level}\""));
    let site = Site::new(&level("error"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    // A backup that went well is told at info.
    let mut backed_up = || {
        conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}}));
        conn.ok(json!({"op": "backup", "storage": "settings"}));
        daemon.log().matches("backed up and verified").count()
    };
    assert_eq!(backed_up(), 0, "at error, that is not told");
    // What a signal asks for is told at every level.
    daemon.signal(Signal::USR1);
    wait_for("stats in the log", PATIENCE, || daemon.log().contains("asked by a signal").then_some(()));
    site.configure(&level("loud"));
    reload(&daemon, || daemon.log());
    assert_eq!(backed_up(), 0, "the old level stays");
    site.configure(&level("info"));
    reload(&daemon, || daemon.log());
    assert_eq!(backed_up(), 1);
    // What cannot change keeps the level, too.
    site.configure(&level("error").limits("max_line_bytes = 2048"));
    reload(&daemon, || daemon.log());
    assert_eq!(backed_up(), 2);
}

#[test]
fn a_failed_start_is_told_once() {
    let site = Site::new(&Config::both());
    let _first = site.start();
    let mut second = site.command();
    second.arg("--socket").arg(site.path("second.sock"));
    let exit = run_to_exit(second);
    assert_eq!(exit.code, Some(78));
    let told = exit.stderr.lines().filter(|line| line.contains("jobs")).count();
    assert_eq!(told, 1, "{}", exit.stderr);
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    let site = Site::new(&Config::both());
    let stderr = site.path("stderr.log");
    fs::write(&stderr, "").expect("a file");
    let file = fs::metadata(&stderr).expect("its inode");
    let journal = |inode: u64| {
        let mut command = site.command();
        command.env("JOURNAL_STREAM", format!("{}:{inode}", file.dev()));
        let daemon = site.start_as(command, site.socket());
        reload(&daemon, || daemon.log());
        let line = daemon.log().lines().last().expect("a line").to_owned();
        daemon.stop();
        line
    };
    let line = journal(file.ino());
    assert!(line.starts_with("<6> INFO the configuration was read again"), "{line:?}");
    let line = journal(file.ino() + 1);
    assert!(line.starts_with("20"), "redirected since, it is no journal: {line:?}");
}
