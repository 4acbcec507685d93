//! Directories that the library makes by itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::{Value, json};

use super::{config, import, import_all};
use crate::harness::{Site, binary, files, python};

const SCRIPT: &str = include_str!("make_source.py");

/// Where `.ci/run` installs the library: beside the programs' directory.
fn packages() -> PathBuf {
    binary("fastpersist").ancestors().nth(2).expect("TARGET/release/NAME").join("python-library")
}

fn run_python(script: &str, args: &[&str]) -> std::process::Output {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).args(args).env("PYTHONPATH", packages());
    // A zone with a summer time, because the library writes local times.
    command.env("TZ", "America/New_York").output().expect("start python3")
}

fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = python::available() && run_python("import ionbus_fast_persist", &[]).status.success();
        if !found {
            eprintln!(
                "skipped: no python3 with the package ionbus-fast-persist to make directories of its own"
            );
        }
        found
    })
}

/// Has the library make a directory; gives what it says that it holds.
fn make(how: &str, model: &str, dir: &Path) -> Vec<Value> {
    let output = run_python(SCRIPT, &[how, model, &dir.to_string_lossy()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = printed.lines().last().unwrap_or("null");
    serde_json::from_str(told).map_or_else(
        |e| panic!("{printed:?}: {e}: {said}"),
        |told: Value| told.as_array().cloned().unwrap_or_default(),
    )
}

/// The record's document as the library has it: with the fields that it adds, and date-times in its own form.
/// A line of the log has none of that, so both sides are brought into one form.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let added = ["timestamp", "username", "process_name"];
            let own = fields.iter().filter(|(name, _)| !added.contains(&name.as_str()));
            own.map(|(name, value)| (name.clone(), plain(value))).collect()
        }
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::String(text) => json!(instant(text).unwrap_or_else(|| text.clone())),
        other => other.clone(),
    }
}

/// A date-time in UTC; what is none stays as it is.
fn instant(text: &str) -> Option<String> {
    if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
    }
    let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .or_else(|_| chrono::NaiveDate::parse_from_str(text, "%Y%m%d"));
    if let Ok(date) = date {
        return Some(format!("{date}T00:00:00.000000Z"));
    }
    let naive = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    Some(naive.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

fn check_dated(site: &Site, told: &[Value]) {
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(told.len(), 72, "two dates with 36 records each");
    for want in told {
        let ask = json!({"op": "get_key_process", "storage": "jobs", "date": want["date"], "key": want["key"],
            "process_name": want["process_name"]});
        let record = &conn.ok(&ask)["record"];
        for field in ["timestamp", "username"] {
            assert_eq!(record[field], want[field], "{field} of {want}: {record}");
        }
        assert_eq!(plain(&record["data"]), plain(&want["data"]), "{want}: {record}");
        let status = match &want["data"]["status"] {
            Value::Number(number) => json!(number.to_string()),
            other => other.clone(),
        };
        assert_eq!(record["status"], status, "{record}");
        let status_int = match &want["data"]["status_int"] {
            Value::Bool(set) => json!(i64::from(*set)),
            other => other.clone(),
        };
        assert_eq!(record["status_int"], status_int, "{record}");
    }
    let mut keys = 0;
    for date in ["2025-01-15", "2025-01-16"] {
        let ask = json!({"op": "keys", "storage": "jobs", "date": date});
        keys += conn.ok(&ask)["keys"].as_array().unwrap().len();
    }
    assert_eq!(keys, 20, "nothing else is there");
    daemon.stop();
}

/// Every record of a closed directory keeps the `updated_at` that its row has, in UTC.
fn check_updated_at(site: &Site, source: &Path) {
    let sql = "SELECT key, process_name, max(updated_at)::VARCHAR FROM storage GROUP BY ALL ORDER BY ALL";
    let theirs = python::rows(&source.join("2025-01-15/data.duckdb"), sql);
    let ours = python::rows(&site.path("jobs/2025-01-15/data.duckdb"), sql);
    assert_eq!(theirs.len(), ours.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let at = |row: &[Value]| {
            let text = row[2].as_str().unwrap().to_owned();
            chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f").unwrap()
        };
        let hours = (at(ours) - at(theirs)).num_minutes();
        assert!(hours == 300 || hours == 240, "{theirs:?} {ours:?}");
        assert_eq!((at(ours) - at(theirs)).subsec_nanos(), 0, "to the microsecond");
    }
}

#[test]
fn a_dated_directory_of_the_library_comes_over_record_by_record() {
    if !available() {
        return;
    }
    for how in ["closed", "killed"] {
        let site = Site::new(&config());
        let source = site.path("source");
        let told = make(how, "dated", &source);
        let daemon = site.start();
        let summary = import_all(&site, &source, "jobs");
        assert_eq!(summary["stored"], 72, "{how}: {summary}");
        // Of the six null process names of a date, each flush made one more row.
        let duplicates = if how == "closed" { 36 } else { 24 };
        assert_eq!(summary["read"]["duplicate_rows"], duplicates, "{how}: {summary}");
        assert_eq!(import_all(&site, &source, "jobs")["already_there"], 72, "{how}");
        daemon.stop();
        check_dated(&site, &told);
        if how == "closed" {
            check_updated_at(&site, &source);
        }
    }
}

/// The history as our database has it, by item, in order.
fn history(site: &Site) -> BTreeMap<String, Vec<Vec<Value>>> {
    let sql = "SELECT item_name, collection_name, value_int, value_float, value_string, value_bool, \
        strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%fZ'), username, data::VARCHAR, deleted, updated_at::VARCHAR \
        FROM storage_history ORDER BY seq";
    let mut items: BTreeMap<String, Vec<Vec<Value>>> = BTreeMap::new();
    for row in python::rows(&site.path("settings/storage_history.duckdb"), sql) {
        items.entry(row[0].as_str().unwrap().to_owned()).or_default().push(row);
    }
    items
}

fn check_collection(site: &Site, told: &[Value]) {
    let items = history(site);
    assert_eq!(items.values().map(Vec::len).sum::<usize>(), told.len(), "every value once");
    let mut turns: BTreeMap<&str, usize> = BTreeMap::new();
    for want in told {
        let name = want["item_name"].as_str().unwrap();
        let turn = turns.entry(name).or_default();
        let row = &items[name][*turn];
        *turn += 1;
        let value = &row[2..6];
        let expected = match &want["value"] {
            // What is in the table only, has lost its type there.
            Value::Bool(set) if want["flushed"] == true => {
                [json!(i64::from(*set)), json!(null), json!(null), json!(null)]
            }
            Value::Bool(set) => [json!(null), json!(null), json!(null), json!(set)],
            Value::Number(number) if number.is_f64() => {
                [json!(null), json!(number), json!(null), json!(null)]
            }
            Value::Number(number) => [json!(number), json!(null), json!(null), json!(null)],
            Value::String(text) => [json!(null), json!(null), json!(text), json!(null)],
            _ => [json!(null), json!(null), json!(null), json!(null)],
        };
        assert_eq!(value, expected, "{want}: {row:?}");
        assert_eq!((&row[1], &row[6]), (&want["collection_name"], &want["timestamp"]), "{want}");
        assert_eq!((&row[7], &row[9]), (&want["username"], &json!(false)), "{want}");
        let data: Value = serde_json::from_str(row[8].as_str().unwrap()).unwrap();
        assert_eq!(plain(&data), plain(&want["data"]), "{want}");
    }
    for rows in items.values() {
        assert!(rows.is_sorted_by(|a, b| a[10].as_str() < b[10].as_str()), "updated_at grows: {rows:?}");
    }
}

#[test]
fn a_collection_of_the_library_comes_over_with_its_history() {
    if !available() {
        return;
    }
    for how in ["closed", "killed"] {
        let site = Site::new(&config());
        let source = site.path("source");
        let told = make(how, "collection", &source);
        assert_eq!(told.len(), 36);
        let daemon = site.start();
        assert_eq!(import_all(&site, &source, "settings")["stored"], 36, "{how}");
        let again = import_all(&site, &source, "settings");
        assert_eq!((&again["stored"], &again["already_there"]), (&json!(0), &json!(36)), "{how}");
        daemon.stop();
        check_collection(&site, &told);
    }
}

#[test]
fn a_line_that_the_database_has_already_is_not_stored_twice() {
    if !available() {
        return;
    }
    let site = Site::new(&config());
    let source = site.path("source");
    let mut told = make("killed", "collection", &source);
    let wal = files::segments(&source);
    assert_eq!(wal.len(), 1, "{wal:?}");
    let lines = fs::read(&wal[0]).unwrap();
    // A fresh lock is one of a living process to the library.
    fs::remove_file(source.join(".lock_2025-01-15")).unwrap();
    make("recovered", "collection", &source);
    assert!(!wal[0].exists(), "it was recovered");
    // As a crash between the commit and the removal leaves it, and with one more line that is torn.
    fs::write(&wal[0], [&lines[..], &lines[..40]].concat()).unwrap();
    let daemon = site.start();
    let (code, summary) = import(&site, &source, "settings");
    assert_eq!((code, &summary["could_not"]), (Some(1), &json!(1)), "{summary}");
    assert_eq!(summary["read"]["wal_lines_in_database"], 9, "{summary}");
    assert_eq!(summary["stored"], 36, "{summary}");
    daemon.stop();
    // The lines know which values are booleans.
    told.iter_mut().filter(|want| want["data"]["turn"] == 3).for_each(|want| want["flushed"] = json!(false));
    check_collection(&site, &told);
}
