//! Backups: whole, verified, named only then; and the log stays until there is one.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::harness::{
    Config, Conn, PATIENCE, Site, binary, faults::health, files, is_stamp, python, wait_for,
};

/// Nothing is flushed or backed up by itself.
const QUIET: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

fn settings(lines: &str) -> Site {
    Site::new(&Config::new().collection("settings", &format!("{QUIET}\n{lines}")))
}

fn jobs(lines: &str) -> Site {
    Site::new(&Config::new().dated("jobs", &format!("{QUIET}\n{lines}")))
}

fn store(conn: &mut Conn, keys: std::ops::Range<u64>) {
    conn.all_ok(keys.map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {"n": n}})));
}

/// Takes the one backup that there is to take, and gives what the answer says of it.
fn back_up(conn: &mut Conn) -> Value {
    let mut answer = conn.ok(json!({"op": "backup"}));
    let taken = answer["backups"].as_array_mut().expect("a list");
    assert_eq!(taken.len(), 1, "{taken:?}");
    taken.remove(0)
}

fn listed(conn: &mut Conn) -> Vec<Value> {
    conn.ok(json!({"op": "list_backups"}))["backups"].as_array().expect("a list").clone()
}

fn name(backup: &Value) -> &str {
    backup["backup"].as_str().expect("a name")
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `fastpersist` with these arguments; its exit code and what it printed.
pub(crate) fn command_line(site: &Site, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary("fastpersist"))
        .args(arguments)
        .env("FASTPERSIST_SOCKET", site.socket())
        .output()
        .expect("start fastpersist");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn flip_a_byte(file: &Path) {
    let mut bytes = fs::read(file).expect("read the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("write the file");
}

#[test]
fn a_collections_backup_stands_in_the_directory_of_its_day_with_a_manifest() {
    let site = settings("");
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(conn.ok(json!({"op": "backup"}))["backups"], json!([]), "nothing was ever stored");
    store(&mut conn, 0..300);
    store(&mut conn, 0..100);
    conn.ok(json!({"op": "delete", "key": "k0"}));
    let backup = back_up(&mut conn);
    assert_eq!(
        (&backup["seq"], &backup["rows"], &backup["verified"]),
        (&json!(401), &json!(299), &json!(true))
    );
    assert!(is_stamp(&backup["created_at"]), "{backup}");
    assert_eq!(listed(&mut conn), std::slice::from_ref(&backup));
    let verified = conn.ok(json!({"op": "verify_backup", "backup": name(&backup)}));
    for field in ["backup", "seq", "rows", "bytes", "created_at"] {
        assert_eq!(verified[field], backup[field], "{field}");
    }
    let directory = site.path("settings").join(name(&backup));
    let names: Vec<_> = names_in(&directory).into_iter().filter(|name| !name.starts_with("wal_")).collect();
    assert_eq!(names, ["backup.json", "storage_history.duckdb.backup", "storage_latest.duckdb.backup"]);
    let manifest: Value = serde_json::from_slice(&fs::read(directory.join("backup.json")).unwrap()).unwrap();
    assert_eq!((&manifest["seq"], &manifest["storage"]), (&json!(401), &json!("settings")));
    assert_eq!((&manifest["files"][0]["rows"], &manifest["files"][1]["rows"]), (&json!(401), &json!(299)));
    // A second one of the same day takes its place.
    store(&mut conn, 0..1);
    assert_eq!(back_up(&mut conn)["seq"], 402);
    assert_eq!(listed(&mut conn).len(), 1);
}

#[test]
fn a_backup_is_read_by_others_and_its_checksum_is_that_of_sha256sum() {
    if !python::available() {
        return;
    }
    let site = settings("");
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, 0..50);
    store(&mut conn, 0..50);
    let directory = site.path("settings").join(name(&back_up(&mut conn)));
    let history = directory.join("storage_history.duckdb.backup");
    assert_eq!(python::value(&history, "SELECT count(*) FROM storage_history"), 100);
    assert_eq!(python::value(&history, "SELECT flushed_seq FROM fastpersist_state"), 100);
    let latest = directory.join("storage_latest.duckdb.backup");
    let versions = python::rows(&latest, "SELECT count(*), min(version), max(version) FROM storage_latest");
    assert_eq!(versions, [[json!(50), json!(2), json!(2)]]);
    let script = "import hashlib, json, os, sys\n\
        directory = sys.argv[1]\n\
        files = json.load(open(os.path.join(directory, 'backup.json')))['files']\n\
        read = lambda f: open(os.path.join(directory, f['file']), 'rb').read()\n\
        print(json.dumps([hashlib.sha256(read(f)).hexdigest() == f['sha256'] and len(read(f)) == f['bytes'] for f in files]))";
    assert_eq!(python::run(script, &[&directory.to_string_lossy()]), json!([true, true]));
}

#[test]
fn dated_backups_are_one_for_each_date_that_changed_where_they_are_switched_on() {
    let site = jobs("backup = true");
    let daemon = site.start();
    let mut conn = daemon.connect();
    let store = |date: &str, key: &str| json!({"op": "store", "date": date, "key": key, "data": {}});
    conn.all_ok([store("2025-01-14", "a"), store("2025-01-15", "a"), store("2025-01-15", "b")]);
    let seqs = |answer: &Value| {
        let backups = answer["backups"].as_array().unwrap().iter();
        backups.map(|one| (name(one).to_owned(), one["seq"].as_u64().unwrap())).collect::<Vec<_>>()
    };
    let (first, second) = ("2025-01-14".to_owned(), "2025-01-15".to_owned());
    let all = conn.ok(json!({"op": "backup"}));
    assert_eq!(seqs(&all), [(first.clone(), 1), (second.clone(), 2)]);
    assert_eq!(seqs(&conn.ok(json!({"op": "backup"}))), [], "nothing changed");
    conn.ok(store("2025-01-14", "b"));
    assert_eq!(seqs(&conn.ok(json!({"op": "backup"}))), [(first.clone(), 2)]);
    assert_eq!(seqs(&conn.ok(json!({"op": "backup", "date": "2025-01-15"}))), [(second.clone(), 2)]);
    conn.refused(json!({"op": "backup", "date": "2025-01-01"}), "not_found");
    assert!(site.path("jobs/2025-01-15/data.duckdb.backup").is_file());
    // Closed dates that have not changed stay closed, also in the next life.
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(seqs(&conn.ok(json!({"op": "backup"}))), []);
    assert!(site.path("jobs/2025-01-15/settled").is_file(), "the date was opened for nothing");
    assert_eq!(listed(&mut conn).len(), 2);
}

#[test]
fn what_cannot_be_backed_up_or_found_is_refused_clearly() {
    let site = Site::new(&Config::new().dated("jobs", QUIET).collection("settings", QUIET));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    let off = conn.refused(json!({"op": "backup", "storage": "jobs"}), "bad_request");
    assert!(off["message"].as_str().unwrap().contains("storage.jobs.backup = true"), "{off}");
    conn.refused(json!({"op": "backup", "storage": "settings", "date": "2025-01-15"}), "bad_request");
    for name in ["2025-01-15", "yesterday", "../jobs", "/etc", "2025-01-15/..", "2025-02-30"] {
        conn.refused(json!({"op": "verify_backup", "storage": "settings", "backup": name}), "not_found");
    }
    assert_eq!(conn.ok(json!({"op": "list_backups", "storage": "jobs"}))["backups"], json!([]));
}

#[test]
fn a_damaged_backup_is_told_and_never_used_again_until_a_new_one_is_taken() {
    let site = settings("");
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, 0..200);
    let backup = back_up(&mut conn);
    let file = site.path("settings").join(name(&backup)).join("storage_history.duckdb.backup");
    flip_a_byte(&file);
    let verify = json!({"op": "verify_backup", "backup": name(&backup)});
    let error = conn.refused(&verify, "not_found");
    assert!(error["damaged"].as_str().unwrap().contains("storage_history.duckdb.backup"), "{error}");
    assert_eq!(listed(&mut conn)[0]["verified"], false);
    health(&mut conn, false, &["backup_damaged"]);
    conn.refused(&verify, "not_found");
    let (code, out, said) = restore_dry(&site);
    assert!(code == 0 && out.contains("backup: none is used"), "{out}{said}");
    // Mended, it counts again; and cut short it does not, without being read.
    flip_a_byte(&file);
    conn.ok(&verify);
    assert_eq!(listed(&mut conn)[0]["verified"], true);
    health(&mut conn, false, &[]);
    File::options().write(true).open(&file).unwrap().set_len(100).unwrap();
    assert_eq!(listed(&mut conn)[0]["verified"], false);
    health(&mut conn, false, &["backup_damaged"]);
    back_up(&mut conn);
    conn.ok(&verify);
    assert_eq!(listed(&mut conn)[0]["verified"], true);
    health(&mut conn, false, &[]);
    // Rot that nobody has asked about is found by the deep look.
    flip_a_byte(&file);
    health(&mut conn, false, &[]);
    health(&mut conn, true, &["backup_damaged"]);
    assert_eq!(listed(&mut conn)[0]["verified"], false);
    back_up(&mut conn);
    // Without its manifest nobody knows what a backup is.
    std::fs::write(file.with_file_name("backup.json"), "{").unwrap();
    health(&mut conn, false, &["backup_damaged"]);
    assert!(conn.refused(&verify, "not_found")["damaged"].is_string());
    back_up(&mut conn);
    health(&mut conn, true, &[]);
}

fn restore_dry(site: &Site) -> (i32, String, String) {
    let (config, to) = (site.config_file(), site.path("restored"));
    let (config, to) = (config.to_string_lossy(), to.to_string_lossy());
    command_line(site, &["restore", "--config", &config, "--to", &to, "--dry-run"])
}

#[test]
fn a_start_finishes_a_backup_that_was_about_to_get_its_name_and_removes_others() {
    let site = settings("");
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, 0..100);
    let backup = back_up(&mut conn);
    daemon.kill();
    let directory = site.path("settings").join(name(&backup));
    let rename = |from: &str, to: &str| fs::rename(directory.join(from), directory.join(to)).unwrap();
    // As a crash between the manifest's first name and the files' names leaves it, with one file renamed.
    rename("backup.json", "backup.json.next");
    rename("storage_latest.duckdb.backup", "storage_latest.duckdb.backup.tmp");
    let (code, out, _) = restore_dry(&site);
    assert!(code == 0 && out.contains("record 100"), "a restore sees it without the daemon: {out}");
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(listed(&mut conn), std::slice::from_ref(&backup));
    conn.ok(json!({"op": "verify_backup", "backup": name(&backup)}));
    daemon.kill();
    // As a crash while the copies were being made leaves it.
    fs::write(directory.join("storage_history.duckdb.backup.tmp"), "half").unwrap();
    fs::write(directory.join("storage_history.duckdb.backup.tmp.wal"), "half").unwrap();
    let daemon = site.start();
    assert!(
        names_in(&directory).iter().all(|name| !name.contains("backup.tmp")),
        "{:?}",
        names_in(&directory)
    );
    daemon.connect().ok(json!({"op": "verify_backup", "backup": name(&backup)}));
}

/// The first segments of a storage, made to look as if they had been sealed long ago.
fn age(segments: &[PathBuf]) {
    let long_ago = SystemTime::now() - Duration::from_secs(40 * 86_400);
    for segment in segments {
        File::options().write(true).open(segment).unwrap().set_modified(long_ago).unwrap();
    }
}

#[test]
fn the_log_stays_whatever_its_age_until_a_backup_has_it() {
    let lines = "max_wal_size = 65536\nwal_retain_days = 1";
    for (root, site) in [("settings", settings(lines)), ("jobs", jobs(&format!("backup = true\n{lines}")))] {
        let daemon = site.start();
        let mut conn = daemon.connect();
        for _ in 0..6 {
            store(&mut conn, 0..500);
        }
        conn.ok(json!({"op": "flush"}));
        daemon.kill();
        let before = files::segments(&site.path(root));
        assert!(before.len() > 3, "{before:?}");
        age(&before);
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.ok(json!({"op": "flush"}));
        // Time enough for the log to be tidied twice, were it allowed.
        let begun = std::time::Instant::now();
        wait_for("two and a half seconds", PATIENCE, || {
            assert!(before.iter().all(|segment| segment.is_file()), "a segment went without a backup");
            (begun.elapsed() > Duration::from_millis(2500)).then_some(())
        });
        back_up(&mut conn);
        wait_for("the old segments go once there is a backup", PATIENCE, || {
            (files::segments(&site.path(root)).len() < before.len() - 2).then_some(())
        });
    }
}

#[test]
fn the_command_line_shows_backups_to_people_and_to_programs() {
    let site = settings("");
    let daemon = site.start();
    store(&mut daemon.connect(), 0..10);
    let (code, out, _) = command_line(&site, &["--text", "list-backups"]);
    assert_eq!((code, out.trim()), (0, "there are no backups"));
    let (code, out, _) = command_line(&site, &["backup"]);
    let taken: Value = serde_json::from_str(&out).expect("one JSON line");
    assert_eq!((code, &taken["seq"]), (0, &json!(10)));
    let (code, out, _) = command_line(&site, &["list-backups"]);
    assert_eq!((code, serde_json::from_str::<Value>(out.trim()).unwrap()), (0, taken.clone()));
    let (_, out, _) = command_line(&site, &["--text", "list-backups"]);
    assert!(out.contains(name(&taken)) && out.contains("verified"), "{out}");
    let (code, out, _) = command_line(&site, &["--text", "verify-backup", name(&taken)]);
    assert!(code == 0 && out.contains("10 rows up to record 10"), "{out}");
    let (code, _, said) = command_line(&site, &["verify-backup", "2001-01-01"]);
    assert!(code == 1 && said.contains("2001-01-01"), "{said}");
}
