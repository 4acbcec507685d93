//! `check_health` finds what is wrong, and the rebuilds mend it while the daemon goes on.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    Config, Conn, Site,
    faults::{DAY, all_there, config, flip, flip_blocks, health, set_aside, settings_seqs, stopped, write},
    files, python,
};

#[test]
fn all_is_well() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    health(&mut conn, true, &[]);
    write(&mut conn, 1..=50);
    health(&mut conn, true, &[]);
    conn.ok(json!({"op": "flush"}));
    let items = (1..=50u64).filter(|n| n % 7 != 0).count() as u64;
    let seqs = settings_seqs(1..=50);
    for deep in [false, true] {
        let answer = health(&mut conn, deep, &[]);
        let checked = &answer["checked"];
        assert_eq!((checked["files"].as_u64(), checked["rows"].as_u64()), (Some(3), Some(50 + items + seqs)));
        assert!(checked["wal_segments"].as_u64() >= Some(2), "{answer}");
        assert_eq!(checked["wal_records"], if deep { 50 + seqs } else { 0 }, "{answer}");
        assert_eq!(answer["torn_count"], 0);
    }
    let one = conn.ok(json!({"op": "check_health", "storage": "jobs"}));
    assert_eq!(one["checked"]["rows"], 50, "{one}");
    conn.refused(json!({"op": "check_health", "storage": "nobody"}), "unknown_storage");
    daemon.stop();
    // What was closed is looked at too.
    let daemon = site.start();
    let answer = health(&mut daemon.connect(), true, &[]);
    assert_eq!(answer["checked"]["wal_records"], 50 + seqs, "{answer}");
}

#[test]
fn a_backup_that_is_missing_is_told_until_there_is_one() {
    let site = Site::new(&Config::new().dated("jobs", "backup = true"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "date": DAY, "key": "k", "data": {}}));
    health(&mut conn, false, &["backup_missing"]);
    conn.ok(json!({"op": "backup"}));
    health(&mut conn, true, &[]);
}

/// It was no backup any more, and nobody was told, though its files were there.
#[test]
fn a_backup_without_its_manifest_is_told_until_there_is_another() {
    let site =
        Site::new(&Config::new().dated("jobs", "backup = true").collection("settings", "backup = true"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    write(&mut conn, 1..=5);
    let back_up = |conn: &mut Conn| {
        ["jobs", "settings"].map(|storage| conn.ok(json!({"op": "backup", "storage": storage})))
    };
    back_up(&mut conn);
    health(&mut conn, true, &[]);
    let manifests = || {
        let tree = ["jobs", "settings"].map(|storage| files::tree(&site.path(storage))).concat();
        tree.into_iter().filter(|path| path.ends_with("backup.json")).collect::<Vec<_>>()
    };
    let found = manifests();
    assert_eq!(found.len(), 2);
    for manifest in &found {
        fs::remove_file(manifest).unwrap();
    }
    let told = health(&mut conn, false, &["backup_damaged", "backup_damaged"])["problems"].to_string();
    for manifest in &found {
        let directory = manifest.parent().unwrap().display().to_string();
        assert!(told.contains(&directory), "{directory}: {told}");
    }
    back_up(&mut conn);
    health(&mut conn, true, &[]);
    assert_eq!(manifests(), found);
}

#[test]
fn a_torn_write_is_counted_and_is_no_problem() {
    let site = Site::new(&config());
    let daemon = site.start();
    write(&mut daemon.connect(), 1..=3);
    daemon.kill();
    let segment = files::segments(&site.path("jobs"))[0].clone();
    let (at, line) = files::wal_lines(&segment).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[at + line.len()..at + line.len() + 10].copy_from_slice(b"{\"op\":\"sto");
    fs::write(&segment, bytes).unwrap();
    for _ in 0..2 {
        let daemon = site.start();
        assert_eq!(health(&mut daemon.connect(), true, &[])["torn_count"], 1);
        daemon.stop();
    }
}

#[test]
fn damage_in_an_open_file_is_found_and_mended_by_a_restart() {
    let site = stopped(400);
    let daemon = site.start();
    let mut conn = daemon.connect();
    all_there(&mut conn, 1..=400, "before");
    let latest = site.path("settings/storage_latest.duckdb");
    flip_blocks(&latest);
    let answer = health(&mut conn, true, &["file_damaged"]);
    let problem = &answer["problems"][0];
    assert_eq!((&problem["storage"], &problem["date"]), (&json!("settings"), &Value::Null));
    assert!(problem["message"].as_str().unwrap().contains("storage_latest.duckdb"), "{problem}");
    // It stays so, also for a quick look, and writes and reads go on.
    health(&mut conn, false, &["file_damaged"]);
    write(&mut conn, 401..=420);
    all_there(&mut conn, 1..=420, "with damage");
    daemon.kill();
    assert!(site.path("settings/storage_latest.duckdb.suspect").is_file());
    let daemon = site.start();
    let mut conn = daemon.connect();
    all_there(&mut conn, 1..=420, "rebuilt");
    health(&mut conn, true, &[]);
    let aside = set_aside(&latest);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(set_aside(&site.path("settings/storage_history.duckdb")).is_empty(), "the history is sound");
}

#[test]
fn latest_values_are_made_anew_while_the_daemon_goes_on() {
    let site = stopped(400);
    let daemon = site.start();
    let mut conn = daemon.connect();
    flip_blocks(&site.path("settings/storage_latest.duckdb"));
    health(&mut conn, true, &["file_damaged"]);
    write(&mut conn, 401..=405);
    let items = (1..=405u64).filter(|n| n % 7 != 0).count();
    let answer = conn.ok(json!({"op": "rebuild_latest_from_history", "storage": "settings"}));
    assert_eq!(answer["rows"], items);
    health(&mut conn, true, &[]);
    write(&mut conn, 406..=410);
    all_there(&mut conn, 1..=410, "made anew");
    daemon.stop();
    let daemon = site.start();
    all_there(&mut daemon.connect(), 1..=410, "after a restart");
    let mut conn = daemon.connect();
    conn.refused(json!({"op": "rebuild_latest_from_history", "storage": "jobs"}), "bad_request");
    conn.refused(json!({"op": "rebuild_history_from_wal", "storage": "jobs", "date": DAY}), "bad_request");
    daemon.stop();
    if python::available() {
        let history = site.path("settings/storage_history.duckdb");
        let newest = "SELECT key, version, seq FROM storage_history h WHERE NOT deleted AND seq = \
             (SELECT max(seq) FROM storage_history o WHERE o.key = h.key) ORDER BY key";
        let latest = python::rows(
            &site.path("settings/storage_latest.duckdb"),
            "SELECT key, version, seq FROM storage_latest ORDER BY key",
        );
        assert_eq!(python::rows(&history, newest), latest);
    }
}

/// Runs SQL on a database file, as somebody with another program would.
fn meddle(site: &Site, file: &str, sql: &str) {
    let script = "import duckdb, sys\n\
        con = duckdb.connect(sys.argv[1])\n\
        con.execute(sys.argv[2])\n\
        con.close()\n\
        print('null')";
    python::run(script, &[&site.path(file).to_string_lossy(), sql]);
}

#[test]
fn a_history_gets_back_what_the_log_has() {
    if !python::available() {
        return;
    }
    let site = stopped(60);
    let history = site.path("settings/storage_history.duckdb");
    let rows = || {
        python::rows(
            &history,
            "SELECT seq, key, version, deleted, data::VARCHAR FROM storage_history ORDER BY seq",
        )
    };
    let whole = rows();
    meddle(
        &site,
        "settings/storage_history.duckdb",
        "DELETE FROM storage_history WHERE seq % 4 = 1 OR seq > 70",
    );
    assert!(rows().len() < whole.len());
    let daemon = site.start();
    let mut conn = daemon.connect();
    health(&mut conn, false, &["row_count_mismatch"]);
    conn.refused(
        json!({"op": "rebuild_history_from_wal", "storage": "settings", "date": "1999-01-01"}),
        "not_found",
    );
    let segment = files::segments(&site.path("settings"))[0].clone();
    let day = segment.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    let lost = whole.iter().filter(|row| row[0].as_u64().is_some_and(|seq| seq % 4 == 1 || seq > 70)).count();
    for inserted in [lost, 0] {
        let ask = json!({"op": "rebuild_history_from_wal", "storage": "settings", "date": day});
        let answer = conn.ok(ask);
        assert_eq!((&answer["records"], &answer["inserted"]), (&json!(whole.len()), &json!(inserted)));
    }
    health(&mut conn, true, &[]);
    daemon.stop();
    assert_eq!(rows(), whole);
}

#[test]
fn what_is_wrong_with_a_closed_date_is_found() {
    let lines = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";
    let site = Site::new(&Config::new().dated("jobs", lines));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for day in 1..=3 {
        for n in 0..400 {
            let data = crate::harness::faults::data(n);
            conn.send(json!({"op": "store", "date": format!("2025-01-0{day}"), "key": format!("k{n}"), "data": data}));
        }
        for _ in 0..400 {
            assert_eq!(conn.answer()["ok"], true);
        }
    }
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    let answer = health(&mut conn, true, &[]);
    assert_eq!((&answer["checked"]["files"], &answer["checked"]["rows"]), (&json!(3), &json!(1200)));
    flip_blocks(&site.path("jobs/2025-01-01/data.duckdb"));
    fs::rename(site.path("jobs/2025-01-02/data.duckdb"), site.path("aside")).unwrap();
    let segment = files::segments(&site.path("jobs/2025-01-03"))[0].clone();
    flip(&segment, 2000, 1);
    let answer = health(&mut conn, true, &["file_damaged", "file_missing", "wal_damaged"]);
    for (problem, date) in answer["problems"].as_array().unwrap().iter().zip(1..) {
        assert_eq!(problem["date"], format!("2025-01-0{date}"), "{answer}");
    }
    // Whoever needs such a date gets it: both are rebuilt from the log when they are opened.
    for day in 1..=2 {
        for n in 0..400 {
            let got = conn.ok(
                json!({"op": "get_key_process", "date": format!("2025-01-0{day}"), "key": format!("k{n}")}),
            );
            assert_eq!(got["record"]["data"]["n"], n);
        }
    }
    conn.ok(json!({"op": "flush"}));
    health(&mut conn, true, &["wal_damaged"]);
}

/// A power cut brought a removed segment back, and not the one behind it.
#[test]
fn what_was_removed_from_the_log_is_not_missing_in_it() {
    let site = Site::new(&Config::new().dated("jobs", "wal_retain_days = 30"));
    for n in 1..=3 {
        let daemon = site.start();
        daemon.connect().ok(json!({"op": "store", "date": DAY, "key": format!("k{n}"), "data": {}}));
        daemon.stop();
    }
    let directory = site.path("jobs").join(DAY);
    let segments = files::segments(&directory);
    assert_eq!(segments.len(), 3);
    fs::remove_file(&segments[1]).unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (removed_through, problems) in [("2", &[][..]), ("1", &["wal_damaged"])] {
        fs::write(directory.join("log_removed_through"), removed_through).unwrap();
        health(&mut conn, true, problems);
    }
}

#[test]
fn notes_beside_the_log_that_tell_nothing_are_told() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let store = json!({"op": "store", "date": DAY, "key": "k", "data": {}});
    daemon.connect().ok(&store);
    daemon.stop();
    let directory = site.path("jobs").join(DAY);
    // The number, and its CRC-32.
    assert_eq!(fs::read_to_string(directory.join("settled")).unwrap(), "1 83dcefb7\n");
    fs::write(directory.join("settled"), "x").unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    let answer = health(&mut conn, false, &["file_unreadable"]);
    assert!(answer["problems"][0]["message"].as_str().unwrap().contains("settled"), "{answer}");
    conn.ok(&store);
    health(&mut conn, false, &[]);
    fs::write(directory.join("log_removed_through"), "x").unwrap();
    let answer = health(&mut conn, false, &["file_unreadable"]);
    assert!(answer["problems"][0]["message"].as_str().unwrap().contains("log_removed_through"), "{answer}");
}

#[test]
fn exported_files_that_are_not_what_was_written_are_told() {
    let site = Site::new(&Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "date": DAY, "key": "k", "process_name": "p", "data": {"n": 1}}));
    conn.ok(json!({"op": "export_parquet"}));
    health(&mut conn, true, &[]);
    let file = site.path("parquet/process_name=p/date=2025-01-15/data.parquet");
    let length = fs::metadata(&file).unwrap().len();
    for damage in [
        |file: &std::path::Path, at| flip(file, at, 1),
        |file: &std::path::Path, _| fs::remove_file(file).unwrap(),
    ] {
        damage(&file, length / 2);
        let answer = health(&mut conn, true, &["export_damaged"]);
        let message = answer["problems"][0]["message"].as_str().unwrap();
        assert!(message.contains("data.parquet") && message.contains("export_parquet"), "{answer}");
        conn.ok(json!({"op": "export_parquet"}));
        health(&mut conn, true, &[]);
    }
    // A record that goes takes its file with it, and nobody misses that.
    conn.ok(json!({"op": "delete", "date": DAY, "key": "k", "process_name": "p"}));
    conn.ok(json!({"op": "export_parquet"}));
    health(&mut conn, true, &[]);
    daemon.stop();
    health(&mut site.start().connect(), true, &[]);
}
