//! Damaged databases are had back at the start; where something would be lost, `fastpersist repair` says what, and
//! mends it only with consent.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::json;

use crate::harness::{
    Conn, Site, binary,
    faults::{
        DATABASES, DAY, Fault, all_there, config, data, flip_blocks, health, remove_log, set_aside,
        settings_seqs, stopped, write,
    },
    files, python,
};

/// `fastpersist repair` on one storage.
pub(crate) fn repair(site: &Site, storage: &str, options: &[&str]) -> Output {
    let mut command = Command::new(binary("fastpersist"));
    command.args(["repair", "--storage", storage, "--config"]).arg(site.config_file()).args(options);
    command.output().expect("run fastpersist")
}

/// What it said, where it ended as it should have.
pub(crate) fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

pub(crate) fn storage_of(file: &str) -> &str {
    file.split('/').next().unwrap()
}

#[test]
fn a_damaged_database_is_rebuilt_from_log_or_history() {
    for file in DATABASES {
        for fault in Fault::ALL {
            let what = format!("{file}, {fault:?}");
            let site = stopped(60);
            let path = site.path(file);
            let history = fs::metadata(site.path(DATABASES[2])).unwrap().ino();
            fault.apply(&path);
            let mut daemon = site.start();
            let mut conn = daemon.connect();
            all_there(&mut conn, 1..=60, &what);
            write(&mut conn, 61..=70);
            conn.ok(json!({"op": "flush"}));
            health(&mut conn, true, &[]);
            daemon.assert_running();
            daemon.stop();
            let aside = set_aside(&path);
            assert_eq!(aside.is_empty(), fault == Fault::Gone, "{what}: {aside:?}");
            for aside in aside {
                let name = aside.to_string_lossy();
                assert!(
                    name.ends_with("Z-does-not-open") || name.ends_with("Z-does-not-open-2"),
                    "{what}: {name}"
                );
            }
            if file == DATABASES[1] {
                let same = fs::metadata(site.path(DATABASES[2])).unwrap().ino() == history;
                assert!(same, "{what}: the history was sound and stays");
            }
            all_there(&mut site.start().connect(), 1..=70, &what);
        }
    }
}

/// Copies a partition's database files as a backup of them, with its manifest.
fn back_up(site: &Site, storage: &str, seq: u64) {
    let (model, directory, tables) = if storage == "jobs" {
        ("dated", site.path("jobs").join(DAY), vec![("data.duckdb", "storage")])
    } else {
        let files =
            vec![("storage_history.duckdb", "storage_history"), ("storage_latest.duckdb", "storage_latest")];
        ("collection", site.path("settings"), files)
    };
    let to = site.path(storage).join(DAY);
    fs::create_dir_all(&to).unwrap();
    let entry = |(file, table): &(&str, &str)| {
        let copy = to.join(format!("{file}.backup"));
        fs::copy(directory.join(file), &copy).unwrap();
        let sum = Command::new("sha256sum").arg(&copy).output().expect("run sha256sum");
        let sha256 = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap().to_owned();
        let bytes = fs::metadata(&copy).unwrap().len();
        json!({"file": format!("{file}.backup"), "table": table, "rows": 0, "rows_checksum": "0", "bytes": bytes, "sha256": sha256})
    };
    let files: Vec<_> = tables.iter().map(entry).collect();
    let at = "2025-01-16T00:00:00.000000Z";
    let manifest = json!({"format": 1, "backup": DAY, "storage": storage, "model": model, "seq": seq, "created_at": at,
        "last_updated_at": at, "fastpersistd_version": "0", "duckdb_version": "0", "files": files});
    fs::write(to.join("backup.json"), manifest.to_string()).unwrap();
}

/// A killed daemon's directory: 60 records that are only in DuckDB, and 20 that are only in the log.
fn half_logged(with_backup: bool) -> Site {
    let site = stopped(60);
    for (storage, seq) in [("jobs", 60), ("settings", settings_seqs(1..=60))] {
        if with_backup {
            back_up(&site, storage, seq);
        }
        remove_log(&site.path(storage), seq);
    }
    let daemon = site.start();
    write(&mut daemon.connect(), 61..=80);
    daemon.kill();
    site
}

#[test]
fn a_damaged_database_is_rebuilt_from_backup_and_log() {
    for file in DATABASES {
        for fault in Fault::ALL {
            let what = format!("{file}, {fault:?}");
            let site = half_logged(true);
            fault.apply(&site.path(file));
            let daemon = site.start();
            let mut conn = daemon.connect();
            all_there(&mut conn, 1..=80, &what);
            write(&mut conn, 81..=90);
            conn.ok(json!({"op": "flush"}));
            health(&mut conn, true, &[]);
            daemon.kill();
            all_there(&mut site.start().connect(), 1..=90, &what);
            let backup = site.path(storage_of(file)).join(DAY).join("backup.json");
            assert!(backup.is_file(), "{what}: a backup is copied, never moved");
        }
    }
}

#[test]
fn a_backup_that_is_not_what_its_manifest_says_is_not_used() {
    let site = half_logged(true);
    let copy = site.path("jobs").join(DAY).join("data.duckdb.backup");
    flip_blocks(&copy);
    Fault::Header.apply(&site.path(DATABASES[0]));
    let exit = site.refused_start();
    assert!(exit.stderr.contains("is not what its manifest says"), "{}", exit.stderr);
    assert!(exit.stderr.contains("fastpersist repair --storage jobs"), "{}", exit.stderr);
}

#[test]
fn where_something_would_be_lost_the_daemon_refuses_and_repair_asks() {
    for (file, storage) in [(DATABASES[0], "jobs"), (DATABASES[2], "settings")] {
        let site = half_logged(false);
        Fault::Header.apply(&site.path(file));
        let before = files::snapshot(&site.path(storage));
        let exit = site.refused_start();
        assert!(exit.stderr.contains(&format!("fastpersist repair --storage {storage}")), "{}", exit.stderr);
        let lost = if storage == "jobs" {
            "records 1 to 60 (60) would be lost"
        } else {
            "older values and deletions would be lost"
        };
        for (options, code) in [(&["--dry-run"][..], 0), (&[][..], 78)] {
            let text = said(&repair(&site, storage, options), code);
            assert!(text.contains(lost) && text.contains(file), "{text}");
        }
        let mut changed = files::changed(&before, &files::snapshot(&site.path(storage)));
        changed.retain(|path| !path.to_string_lossy().contains("lock"));
        assert_eq!(changed, [] as [std::path::PathBuf; 0], "nobody has agreed");
        said(&repair(&site, storage, &["--accept-loss"]), 0);
        assert_eq!(set_aside(&site.path(file)).len(), 1);
        let daemon = site.start();
        let mut conn = daemon.connect();
        if storage == "settings" {
            all_there(&mut conn, 1..=80, file);
        } else {
            let keys = conn.ok(json!({"op": "keys", "storage": "jobs", "date": DAY, "limit": 1000}));
            assert_eq!(keys["keys"].as_array().unwrap().len(), 20);
            let next =
                conn.ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": "next", "data": {}}));
            assert_eq!(next["seq"], 81, "no place is given again");
        }
        conn.ok(json!({"op": "flush"}));
        health(&mut conn, true, &[]);
        daemon.stop();
        assert!(said(&repair(&site, storage, &[]), 0).contains("nothing is damaged"));
    }
}

/// Eight records of which none is flushed, in one segment.
fn eight() -> Site {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 1..=8 {
        conn.ok(
            json!({"op": "store", "storage": "jobs", "date": DAY, "key": format!("k{n}"), "data": data(n)}),
        );
    }
    daemon.kill();
    site
}

fn found(conn: &mut Conn) -> Vec<u64> {
    let mut there = |n: &u64| {
        let got =
            conn.ok(json!({"op": "get_key_process", "storage": "jobs", "date": DAY, "key": format!("k{n}")}));
        got["record"]["data"] == data(*n)
    };
    (1..=8).filter(|n| there(n)).collect()
}

fn segment(site: &Site) -> std::path::PathBuf {
    files::segments(&site.path("jobs"))[0].clone()
}

fn damage_line(segment: &Path, index: usize) -> usize {
    let (start, line) = files::wal_lines(segment).swap_remove(index);
    let mut bytes = fs::read(segment).unwrap();
    bytes[start + line.len() / 2] ^= 1;
    fs::write(segment, bytes).unwrap();
    start
}

#[test]
fn damage_in_the_log_costs_what_it_hit_and_no_more() {
    let site = eight();
    let at = damage_line(&segment(&site), 2);
    let exit = site.refused_start();
    assert!(exit.stderr.contains("fastpersist repair --storage jobs"), "{}", exit.stderr);
    let text = said(&repair(&site, "jobs", &["--dry-run"]), 0);
    assert!(text.contains("wal_000001.jsonl") && text.contains(&format!("byte {at}")), "{text}");
    assert!(text.contains("record 3 would be lost") && text.contains("\n1 record would be lost"), "{text}");
    site.refused_start();
    said(&repair(&site, "jobs", &[]), 78);
    site.refused_start();
    let damaged = fs::read(segment(&site)).unwrap();
    said(&repair(&site, "jobs", &["--accept-loss"]), 0);
    let kept: Vec<_> = files::tree(&site.path("jobs"))
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("damaged-"))
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read(&kept[0]).unwrap(), damaged, "it is kept as it was");
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(found(&mut conn), [1, 2, 4, 5, 6, 7, 8]);
    let next = conn.ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": "next", "data": {}}));
    assert_eq!(next["seq"], 9);
    health(&mut conn, true, &[]);
    // The log replaces the database below: so far both have everything.
    conn.ok(json!({"op": "flush", "storage": "jobs"}));
    for n in 6..=8 {
        let key = format!("k{n}");
        conn.ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": key, "data": data(n)}));
    }
    daemon.kill();
    // A second time it is damage again: what was accepted is one record, once.
    damage_line(files::segments(&site.path("jobs")).last().unwrap(), 2);
    site.refused_start();
    assert!(said(&repair(&site, "jobs", &["--accept-loss"]), 0).contains("record 11 would be lost"));
    assert_eq!(found(&mut site.start().connect()), [1, 2, 4, 5, 6, 7, 8]);
    let text = said(&restore(&site), 0);
    assert!(text.contains("up to record 12") && text.contains("given up in a repair: 2 records"), "{text}");
    let copy = Site::new(&config());
    files::copy_tree(&site.path("restored"), &copy.path("jobs"));
    let daemon = copy.start();
    let mut conn = daemon.connect();
    assert_eq!(found(&mut conn), [1, 2, 4, 5, 6, 7, 8]);
    health(&mut conn, true, &[]);
}

/// A file of DuckDB without any table.
const EMPTY: &str = "import duckdb, sys\n\
    duckdb.connect().execute(f\"ATTACH '{sys.argv[1]}' AS x (STORAGE_VERSION 'v1.2.0'); CHECKPOINT x\")\n\
    print(0)";

/// What a start leaves that ended before it had made the tables. Repair gave up on it, and the daemon asked for a repair.
#[test]
fn a_database_without_its_table_is_had_back_beside_damage_in_the_log() {
    if !python::available() {
        return;
    }
    for is_damaged in [false, true] {
        let site = eight();
        let database = site.path(DATABASES[0]);
        let _ = fs::remove_file(&database);
        python::run(EMPTY, &[&database.to_string_lossy()]);
        if is_damaged {
            damage_line(&segment(&site), 2);
            site.refused_start();
        }
        let text = said(&repair(&site, "jobs", &["--accept-loss"]), 0);
        assert_eq!(text.contains("record 3 would be lost"), is_damaged, "{text}");
        let daemon = site.start();
        let expected: Vec<u64> = (1..=8).filter(|n| !is_damaged || *n != 3).collect();
        assert_eq!(found(&mut daemon.connect()), expected);
        health(&mut daemon.connect(), true, &[]);
        daemon.stop();
    }
}

/// `fastpersist restore` of the day from what there is, into `restored`.
fn restore(site: &Site) -> Output {
    let mut command = Command::new(binary("fastpersist"));
    command.args(["restore", "--storage", "jobs", "--date", DAY, "--config"]).arg(site.config_file());
    command.arg("--to").arg(site.path("restored")).output().expect("run fastpersist")
}

#[test]
fn damage_to_what_the_database_has_costs_nothing() {
    let site = eight();
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "flush", "storage": "jobs"}));
    conn.ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": "k8", "data": data(8)}));
    daemon.kill();
    damage_line(&segment(&site), 2);
    let text = said(&repair(&site, "jobs", &["--accept-loss"]), 0);
    assert!(text.contains("nothing would be lost") && text.contains("the database has them"), "{text}");
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(found(&mut conn), [1, 2, 3, 4, 5, 6, 7, 8]);
    health(&mut conn, true, &[]);
    conn.ok(json!({"op": "flush", "storage": "jobs"}));
    daemon.kill();
    // From now on the log cannot replace the database: it lacks what only the database has.
    let text = said(&restore(&site), 1);
    assert!(text.contains("the WAL has no records 3 to 3"), "{text}");
    Fault::Header.apply(&site.path(DATABASES[0]));
    site.refused_start();
    let text = said(&repair(&site, "jobs", &["--accept-loss"]), 0);
    assert!(text.contains("record 3 would be lost"), "{text}");
    assert_eq!(found(&mut site.start().connect()), [1, 2, 4, 5, 6, 7, 8]);
}

#[test]
fn a_segment_that_is_missing_between_others() {
    let site = stopped(400);
    for storage in ["jobs", "settings"] {
        let segments = files::segments(&site.path(storage));
        assert!(segments.len() >= 3, "{segments:?}");
        fs::remove_file(&segments[1]).unwrap();
    }
    // The log is not needed: everything is in DuckDB.
    let daemon = site.start();
    all_there(&mut daemon.connect(), 1..=400, "flushed");
    daemon.stop();
    let text = said(&repair(&site, "settings", &["--accept-loss"]), 0);
    assert!(text.contains("a line is missing here") && text.contains("nothing would be lost"), "{text}");
    let daemon = site.start();
    health(&mut daemon.connect(), true, &["wal_damaged"]);
    daemon.stop();
    said(&repair(&site, "jobs", &["--accept-loss"]), 0);
    let daemon = site.start();
    let mut conn = daemon.connect();
    health(&mut conn, true, &[]);
    all_there(&mut conn, 1..=400, "repaired");
}

#[test]
fn a_running_daemon_is_left_alone() {
    let site = eight();
    let daemon = site.start();
    let text = said(&repair(&site, "jobs", &["--accept-loss"]), 78);
    assert!(text.contains(&daemon.pid().to_string()), "{text}");
    daemon.stop();
    assert!(said(&repair(&site, "jobs", &[]), 0).contains("nothing is damaged"));
    said(&repair(&site, "nobody", &[]), 78);
}

#[test]
fn a_file_over_which_three_starts_ended_is_not_opened_a_fourth_time() {
    let site = stopped(60);
    let daemon = site.start();
    let now = daemon
        .connect()
        .ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": "k0060", "data": data(60)}));
    assert_eq!(now["ok"], true);
    let record =
        daemon.connect().ok(json!({"op": "get_key_process", "storage": "jobs", "date": DAY, "key": "k0060"}));
    let moment = record["record"]["updated_at"].as_str().unwrap().to_owned();
    daemon.stop();
    for file in DATABASES {
        let path = site.path(file);
        // Each start that DuckDB ends leaves a line; none of them was this one.
        fs::write(format!("{}.opening", path.display()), format!("{moment}\n{moment}\n{moment}\n")).unwrap();
        let daemon = site.start();
        all_there(&mut daemon.connect(), 1..=60, file);
        daemon.stop();
        let aside = set_aside(&path);
        assert!(
            aside.iter().any(|path| path.to_string_lossy().ends_with("crashed-at-open")),
            "{file}: {aside:?}"
        );
        assert!(!Path::new(&format!("{}.opening", path.display())).exists());
    }
}

#[test]
fn a_settled_date_that_is_damaged_holds_up_nobody_else() {
    let site = stopped(60);
    remove_log(&site.path("jobs"), 60);
    Fault::Header.apply(&site.path(DATABASES[0]));
    for _ in 0..2 {
        let daemon = site.start();
        let mut conn = daemon.connect();
        let read = json!({"op": "get_key_process", "storage": "jobs", "date": DAY, "key": "k0001"});
        let refusal = conn.refused(read, "internal");
        assert!(refusal.to_string().contains("fastpersist repair --storage jobs"), "{refusal}");
        health(&mut conn, false, &["file_damaged"]);
        conn.ok(json!({"op": "store", "storage": "jobs", "date": "2025-01-16", "key": "k", "data": {}}));
        daemon.stop();
    }
    let text = said(&repair(&site, "jobs", &["--accept-loss"]), 0);
    assert!(text.contains("records 1 to 60 (60) would be lost"), "{text}");
    let daemon = site.start();
    let mut conn = daemon.connect();
    health(&mut conn, true, &[]);
    let next = conn.ok(json!({"op": "store", "storage": "jobs", "date": DAY, "key": "next", "data": {}}));
    assert_eq!(next["seq"], 61, "no place is given again");
}
