//! `export_parquet`: Hive partitions, replaced and never doubled, read back by pyarrow and DuckDB.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Site, files, python};

fn dated() -> Config {
    Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\"")
}

/// The exported files, relative to the Parquet root.
pub(crate) fn exported(site: &Site) -> Vec<String> {
    let root = site.path("parquet");
    files::tree(&root)
        .iter()
        .map(|path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned())
        .collect()
}

fn store(conn: &mut Conn, date: &str, process_name: &Value, key: &str) {
    conn.ok(
        json!({"op": "store", "date": date, "key": key, "process_name": process_name, "data": {"key": key}}),
    );
}

fn file(process: &str, date: &str) -> String {
    format!("process_name={process}/date={date}/data.parquet")
}

#[test]
fn one_file_per_process_and_date_and_nothing_else() {
    let site = Site::new(&dated());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (date, process) in [
        ("2025-01-15", json!("worker1")),
        ("2025-01-15", json!("worker2")),
        ("2025-01-16", json!("worker1")),
        ("2025-01-16", json!(null)),
    ] {
        store(&mut conn, date, &process, "k");
    }
    conn.ok(json!({"op": "export_parquet"}));
    let expected = [
        file("__HIVE_DEFAULT_PARTITION__", "2025-01-16"),
        file("worker1", "2025-01-15"),
        file("worker1", "2025-01-16"),
        file("worker2", "2025-01-15"),
    ];
    assert_eq!(exported(&site), expected, "no temporary file is left either");
    for path in files::tree(&site.path("parquet")) {
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{}", path.display());
    }
}

#[test]
fn readers_find_every_record_with_its_columns() {
    if !python::available() {
        return;
    }
    let site = Site::new(&dated());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({
        "op": "store", "date": "2025-01-15", "key": "a", "process_name": "worker1", "username": "ann",
        "timestamp": "2025-01-15T10:30:00.000001Z", "data": {"status": "done", "status_int": 7, "n": 1}
    }));
    store(&mut conn, "2025-01-15", &json!(null), "b");
    store(&mut conn, "2025-01-16", &json!("worker2"), "c");
    conn.ok(json!({"op": "delete", "date": "2025-01-16", "key": "c", "process_name": "worker2"}));
    store(&mut conn, "2025-01-16", &json!("worker2"), "d");
    conn.ok(json!({"op": "export_parquet"}));
    let root = site.path("parquet");
    let sql = "SELECT key, process_name, CAST(date AS VARCHAR), data::VARCHAR, epoch_us(timestamp::TIMESTAMP), status, \
               status_int, username, seq FROM {files} ORDER BY key";
    let rows = python::parquet_rows(&root, sql);
    let first = json!([
        "a",
        "worker1",
        "2025-01-15",
        "{\"status\":\"done\",\"status_int\":7,\"n\":1}",
        1_736_937_000_000_001_i64,
        "done",
        7,
        "ann",
        1
    ]);
    assert_eq!(json!(rows[0]), first);
    assert_eq!(rows[1][..4], [json!("b"), Value::Null, json!("2025-01-15"), json!("{\"key\":\"b\"}")]);
    assert_eq!(rows[2][..3], [json!("d"), json!("worker2"), json!("2025-01-16")]);
    assert_eq!(rows.len(), 3);
    // The other reader, with the partitions that pyarrow makes of the directories.
    let script = "import json, sys\nimport pyarrow.dataset as ds\n\
        table = ds.dataset(sys.argv[1], format='parquet', partitioning='hive').to_table().sort_by('key')\n\
        print(json.dumps(table.select(['key', 'process_name', 'date', 'seq']).to_pylist(), default=str))";
    let rows = python::run(script, &[&root.to_string_lossy()]);
    let expected = json!([
        {"key": "a", "process_name": "worker1", "date": "2025-01-15", "seq": 1},
        {"key": "b", "process_name": null, "date": "2025-01-15", "seq": 2},
        {"key": "d", "process_name": "worker2", "date": "2025-01-16", "seq": 3}
    ]);
    assert_eq!(rows, expected);
}

#[test]
fn files_are_compressed_and_have_statistics() {
    if !python::available() {
        return;
    }
    let site = Site::new(&dated());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for key in ["a", "m", "z"] {
        store(&mut conn, "2025-01-15", &json!("p"), key);
    }
    conn.ok(json!({"op": "export_parquet"}));
    let script = "import json, sys\nimport pyarrow.parquet as pq\n\
        group = pq.ParquetFile(sys.argv[1]).metadata.row_group(0)\n\
        columns = [group.column(n) for n in range(group.num_columns)]\n\
        key = next(c for c in columns if c.path_in_schema == 'key')\n\
        codecs = sorted({c.compression for c in columns})\n\
        print(json.dumps([codecs, key.statistics.min, key.statistics.max]))";
    let path = site.path("parquet").join(file("p", "2025-01-15"));
    assert_eq!(python::run(script, &[&path.to_string_lossy()]), json!([["ZSTD"], "a", "z"]));
}

#[test]
fn exporting_twice_replaces_and_never_doubles() {
    let site = Site::new(&dated());
    let mut daemon = site.start();
    for round in 0..3 {
        let mut conn = daemon.connect();
        for n in 0..10 {
            store(&mut conn, "2025-01-15", &json!("p"), &format!("k{n}"));
        }
        for _ in 0..2 {
            conn.ok(json!({"op": "export_parquet"}));
            assert_eq!(exported(&site), [file("p", "2025-01-15")]);
        }
        if python::available() {
            let rows = python::parquet_rows(
                &site.path("parquet"),
                "SELECT count(*), count(DISTINCT key) FROM {files}",
            );
            assert_eq!(json!(rows), json!([[10, 10]]), "round {round}");
        }
        drop(conn);
        daemon.stop();
        daemon = site.start();
    }
}

#[test]
fn a_process_that_leaves_a_date_loses_its_file() {
    let site = Site::new(&dated());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for date in ["2025-01-15", "2025-01-16"] {
        for process in [json!("a"), json!("b"), json!(null)] {
            store(&mut conn, date, &process, "k");
        }
    }
    conn.ok(json!({"op": "export_parquet"}));
    assert_eq!(exported(&site).len(), 6);
    for process in [json!("b"), json!(null)] {
        conn.ok(json!({"op": "delete", "date": "2025-01-15", "key": "k", "process_name": process}));
    }
    conn.ok(json!({"op": "export_parquet"}));
    let expected = [
        file("__HIVE_DEFAULT_PARTITION__", "2025-01-16"),
        file("a", "2025-01-15"),
        file("a", "2025-01-16"),
        file("b", "2025-01-16"),
    ];
    assert_eq!(exported(&site), expected);
    // The last one of a date, after a restart, when the date has been closed.
    conn.ok(json!({"op": "delete", "date": "2025-01-15", "key": "k", "process_name": "a"}));
    drop(conn);
    daemon.stop();
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "export_parquet"}));
    assert!(!exported(&site).iter().any(|path| path.contains("2025-01-15")), "{:?}", exported(&site));
}

#[test]
fn what_is_not_ours_stays_where_it_is() {
    let site = Site::new(&dated());
    fs::create_dir_all(site.path("parquet/mine")).unwrap();
    fs::write(site.path("parquet/mine/notes.txt"), "keep me").unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, "2025-01-15", &json!("p"), "k");
    conn.ok(json!({"op": "export_parquet"}));
    conn.ok(json!({"op": "delete", "date": "2025-01-15", "key": "k", "process_name": "p"}));
    conn.ok(json!({"op": "export_parquet"}));
    assert_eq!(exported(&site), ["mine/notes.txt"]);
}

#[test]
fn shutdown_exports() {
    let site = Site::new(&dated());
    let daemon = site.start();
    store(&mut daemon.connect(), "2025-01-15", &json!("p"), "k");
    daemon.stop();
    assert_eq!(exported(&site), [file("p", "2025-01-15")]);
}

#[test]
fn the_path_is_a_name_below_the_root() {
    let site = Site::new(&dated());
    let daemon = site.start();
    let mut conn = daemon.connect();
    store(&mut conn, "2025-01-15", &json!("p"), "k");
    conn.ok(json!({"op": "export_parquet", "path": "nightly"}));
    assert_eq!(exported(&site), [format!("nightly/{}", file("p", "2025-01-15"))]);
    let outside = ["../outside", "..", ".", "/tmp/outside", "a/../../outside", "a/b", "", "a\u{0}b", "./x"];
    for path in outside {
        // A name with a slash may be taken as one below the root, but never one that leads out of it.
        let answer = conn.ask(json!({"op": "export_parquet", "path": path}));
        if answer["ok"] == true {
            assert_eq!(path, "a/b", "{answer}");
        } else {
            assert_eq!(answer["error"]["code"], "bad_request", "{path}: {answer}");
        }
    }
    conn.refused(json!({"op": "export_parquet", "path": 7}), "bad_request");
    let strangers: Vec<PathBuf> = files::tree(&site.path(""))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "parquet"))
        .collect();
    assert!(strangers.iter().all(|path| path.starts_with(site.path("parquet"))), "{strangers:?}");
    assert!(!std::path::Path::new("/tmp/outside").exists());
}

#[test]
fn without_a_parquet_path_there_is_nothing_to_export_to() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let error = conn.refused(json!({"op": "export_parquet"}), "not_found");
    assert!(error["message"].as_str().unwrap().contains("parquet_path"), "what would be right: {error}");
}

#[test]
fn a_collection_is_exported_by_collection_name() {
    let site = Site::new(&Config::new().collection("settings", "parquet_path = \"{dir}/parquet\""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (collection, item, value) in [
        ("info", "age", json!(1)),
        ("info", "age", json!(32)),
        ("info", "ok", json!(true)),
        ("other", "x", json!("y")),
        ("gone", "x", json!(1)),
    ] {
        conn.ok(json!({"op": "store", "key": "k", "collection_name": collection, "item_name": item, "data": {}, "value": value}));
    }
    conn.ok(json!({"op": "export_parquet"}));
    conn.ok(json!({"op": "delete", "key": "k", "collection_name": "gone", "item_name": "x"}));
    conn.ok(json!({"op": "export_parquet"}));
    conn.ok(json!({"op": "export_parquet"}));
    let mut directories: Vec<_> =
        exported(&site).iter().map(|path| path.split('/').next().unwrap().to_owned()).collect();
    directories.dedup();
    assert_eq!(directories, ["collection_name=info", "collection_name=other"]);
    if python::available() {
        let sql = "SELECT collection_name, item_name, value_int, value_string, value_bool FROM {files} ORDER BY ALL";
        let rows = python::parquet_rows(&site.path("parquet"), sql);
        let expected = json!([
            ["info", "age", 32, null, null],
            ["info", "ok", null, null, true],
            ["other", "x", null, "y", null]
        ]);
        assert_eq!(json!(rows), expected);
    }
}

/// Stores one record in each of some dates.
fn store_days(conn: &mut Conn, days: std::ops::RangeInclusive<u32>) {
    for day in days {
        store(conn, &format!("2025-01-{day:02}"), &json!("w"), "k");
    }
}

/// The exported days of January, in order.
fn exported_days(site: &Site) -> Vec<u32> {
    let day = |file: &String| file.split("date=2025-01-").nth(1)?.get(..2)?.parse().ok();
    let mut days: Vec<u32> = exported(site).iter().filter_map(day).collect();
    days.sort_unstable();
    days
}

#[test]
fn on_shutdown_every_date_is_exported_however_few_may_be_open() {
    let site = Site::new(&dated().limits("max_open_dates = 2"));
    let daemon = site.start();
    store_days(&mut daemon.connect(), 1..=12);
    daemon.stop();
    assert_eq!(exported_days(&site), (1..=12).collect::<Vec<_>>());
    let modified = || {
        let files = exported(&site).into_iter();
        files
            .map(|file| fs::metadata(site.path("parquet").join(file)).unwrap().modified().unwrap())
            .collect::<Vec<_>>()
    };
    let before = modified();
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "get_key", "date": "2025-01-03", "key": "k"}));
    daemon.stop();
    assert_eq!(modified(), before, "what did not change is not exported again");
}

#[test]
fn what_was_not_exported_because_of_a_crash_or_a_failure_is_exported_later() {
    let site = Site::new(&dated().limits("max_open_dates = 1"));
    let daemon = site.start();
    store_days(&mut daemon.connect(), 1..=3);
    daemon.kill();
    let daemon = site.start();
    store_days(&mut daemon.connect(), 4..=5);
    // No directory can be made below a file.
    fs::write(site.path("parquet"), "in the way").unwrap();
    daemon.stop();
    fs::remove_file(site.path("parquet")).unwrap();
    site.start().stop();
    assert_eq!(exported_days(&site), [1, 2, 3, 4, 5]);
}
