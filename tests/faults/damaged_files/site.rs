//! A site with everything on disk that a storage can have, and the kinds of files in it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::answered::Answered;
use crate::harness::{Config, Conn, Daemon, PATIENCE, Random, Site, faults, files, wait_for};

/// Days that are over. Nobody writes to the first two at the end: they are closed and settled.
pub(crate) const DATES: [&str; 3] = ["2025-01-14", "2025-01-15", "2025-01-16"];

/// A kind of file: its name, and whether a path below the site is one.
pub(super) type Kind = (&'static str, fn(&str) -> bool);

/// Every kind that there is, WAL segments aside.
pub(super) const KINDS: [Kind; 20] = [
    ("data.duckdb", |path| path.ends_with("/data.duckdb")),
    ("history", |path| path.ends_with("/storage_history.duckdb")),
    ("latest", |path| path.ends_with("/storage_latest.duckdb")),
    ("data.duckdb.wal", |path| path.ends_with("/data.duckdb.wal")),
    ("history.wal", |path| path.ends_with("/storage_history.duckdb.wal")),
    ("latest.wal", |path| path.ends_with("/storage_latest.duckdb.wal")),
    ("data.duckdb.backup", |path| path.ends_with("/data.duckdb.backup")),
    ("history.backup", |path| path.ends_with("/storage_history.duckdb.backup")),
    ("latest.backup", |path| path.ends_with("/storage_latest.duckdb.backup")),
    ("manifest of a date", |path| path.starts_with("jobs/") && path.ends_with("/backup.json")),
    ("manifest of a day", |path| path.starts_with("settings/") && path.ends_with("/backup.json")),
    ("Parquet of a date", |path| path.starts_with("parquet-jobs/")),
    ("Parquet of a collection", |path| path.starts_with("parquet-settings/")),
    ("settled", |path| path.ends_with("/settled")),
    ("log_removed_through of a date", |path| {
        path.starts_with("jobs/") && path.ends_with("/log_removed_through")
    }),
    ("log_removed_through", |path| path == "settings/log_removed_through"),
    ("exported of a date", |path| path.starts_with("jobs/") && path.ends_with("/exported")),
    ("exported", |path| path == "settings/exported"),
    ("lock_tokens", |path| path.ends_with("/lock_tokens")),
    ("any", |path| !path.contains("/wal_") && path.contains('/')),
];

/// What is written, and how much of the log stays.
pub(super) struct Shape {
    /// Flushed segments go at once; else they stay for days.
    pub(super) log_goes: bool,
    /// The last writes but some are flushed, and lie in DuckDB's own log.
    pub(super) flushed: bool,
}

pub(super) fn config(shape: &Shape) -> Config {
    let retain = if shape.log_goes { "wal_retain_days = 0" } else { "wal_retain_days = 1" };
    let lines = |name: &str| {
        format!(
            "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nmax_wal_size = 65536\n{retain}\n\
             parquet_path = \"{{dir}}/parquet-{name}\"\nextra_schema = {{ customer_id = \"int64\", price = \"float64\" }}"
        )
    };
    Config::new()
        .dated("jobs", &format!("{}\nbackup = true", lines("jobs")))
        .collection("settings", &lines("settings"))
}

/// A document that does not compress away, with columns of its own.
pub(super) fn data(n: u64) -> Value {
    let mut data = faults::data(n);
    data["customer_id"] = n.into();
    data["price"] = json!(n as f64 / 4.0);
    if n.is_multiple_of(3) {
        data["status"] = format!("s{}", n % 5).into();
    }
    data
}

/// Stores and deletes in both models, some of them in batches.
pub(crate) fn requests(random: &mut Random, dates: &[&str], count: u64) -> Vec<Value> {
    let mut all = Vec::new();
    for _ in 0..count {
        let n = random.between(1, 1 << 40);
        let key = format!("k{:03}", n % 120);
        let date = random.pick(dates);
        let process = random.pick(&[json!("worker1"), json!("worker 2/ü"), Value::Null]);
        let item = random.pick(&["a", "b"]);
        let value = random.pick(&[json!(n), Value::Null]);
        let job = match n % 9 {
            0 => json!({"op": "delete", "key": key, "process_name": process}),
            _ => {
                json!({"op": "store", "key": key, "process_name": process, "data": data(n), "username": "ann"})
            }
        };
        let setting = match n % 8 {
            0 => json!({"op": "delete", "key": key, "collection_name": "c", "item_name": item}),
            _ => {
                json!({"op": "store", "key": key, "collection_name": "c", "item_name": item, "data": data(n), "value": value})
            }
        };
        let with = |mut op: Value, storage: &str, date: Option<&str>| {
            op["storage"] = storage.into();
            if let Some(date) = date {
                op["date"] = date.into();
            }
            op
        };
        if n.is_multiple_of(5) {
            let mut second = setting.clone();
            second["key"] = format!("{key}-b").into();
            all.push(with(json!({"op": "batch", "ops": [setting, second]}), "settings", None));
        } else {
            all.push(with(setting, "settings", None));
        }
        all.push(with(job, "jobs", Some(date)));
    }
    all
}

/// Sends requests that must all be answered, and notes the answers.
pub(super) fn write(
    conn: &mut Conn,
    answered: &mut Answered,
    random: &mut Random,
    dates: &[&str],
    count: u64,
) {
    let requests = requests(random, dates, count);
    let answers = conn.all_ok(&requests);
    for (request, answer) in requests.iter().zip(&answers) {
        answered.note(request, answer);
    }
}

/// Builds everything up; the daemon still runs, and some of what it answered is only in its log.
pub(super) fn build(
    site: &Site,
    start: &dyn Fn() -> Daemon,
    shape: &Shape,
    random: &mut Random,
    answered: &mut Answered,
) -> Daemon {
    let daemon = start();
    let mut conn = daemon.connect();
    let token = conn.ok(json!({"op": "lock", "name": "site"}))["token"].clone();
    conn.ok(json!({"op": "unlock", "name": "site", "token": token}));
    write(&mut conn, answered, random, &DATES, 250);
    let both = |conn: &mut Conn, op: &str| {
        for storage in ["jobs", "settings"] {
            conn.ok(json!({"op": op, "storage": storage}));
        }
    };
    both(&mut conn, "backup");
    write(&mut conn, answered, random, &DATES, 100);
    both(&mut conn, "export_parquet");
    if shape.log_goes {
        wait_for("sealed segments go", PATIENCE, || {
            (files::segments(&site.path("settings")).len() <= 1).then_some(())
        });
    }
    drop(conn);
    daemon.stop();
    let daemon = start();
    let mut conn = daemon.connect();
    write(&mut conn, answered, random, &DATES[2..], 60);
    if shape.flushed {
        both(&mut conn, "flush");
    }
    write(&mut conn, answered, random, &DATES[2..], 40);
    daemon
}

/// The files of a kind, by their paths below the site.
pub(super) fn candidates(site: &Site, kind: Kind) -> Vec<PathBuf> {
    let root = site.path("");
    let below = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    files::tree(&root).into_iter().filter(|path| kind.1(&below(path))).collect()
}
