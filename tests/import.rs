//! A directory of the Python library comes into a storage: every record, nothing twice, and the source stays as
//! it was.
//!
//! The library makes the directories itself where there is a Python with it; the others are made by hand, as the
//! library writes them.

mod by_hand;
mod library;

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::harness::{Config, Site, binary, files};

/// Two storages that flush only when they are told to, or at the end.
fn config() -> Config {
    Config::new()
        .dated("jobs", "extra_schema = { price = \"float64\", on_day = \"date32\" }")
        .collection("settings", "")
}

fn fastpersist(site: &Site, args: &[&str]) -> Output {
    let mut command = Command::new(binary("fastpersist"));
    command.args(args).env("FASTPERSIST_SOCKET", site.socket()).output().expect("run fastpersist")
}

/// Imports and gives the exit code and the summary. Not a byte and not a name of the source may change.
fn import(site: &Site, from: &Path, storage: &str) -> (Option<i32>, Value) {
    let before = files::snapshot(from);
    let names = files::tree(from);
    let output =
        fastpersist(site, &["import", "--from", &from.to_string_lossy(), "--storage", storage, "--json"]);
    assert!(files::snapshot(from) == before, "the import changed a file of its source");
    assert_eq!(files::tree(from), names, "the import left something in its source");
    let printed = String::from_utf8_lossy(&output.stdout);
    let summary = serde_json::from_str(&printed)
        .unwrap_or_else(|e| panic!("{printed:?}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), summary)
}

/// Imports what must come over whole.
fn import_all(site: &Site, from: &Path, storage: &str) -> Value {
    let (code, summary) = import(site, from, storage);
    assert_eq!(code, Some(0), "{summary}");
    assert_eq!(summary["could_not"], 0, "{summary}");
    summary
}

fn write(file: &Path, text: &str) {
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("make the directory");
    std::fs::write(file, text).expect("write the file");
}

#[test]
fn an_import_keeps_the_time_and_leaves_alone_what_is_as_new() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let op = |n: u64, at: &str| {
        json!({"op": "store", "key": "k", "data": {"n": n, "status": 7}, "updated_at": at, "status": "seven",
            "status_int": -7})
    };
    let ops =
        [op(1, "2020-01-01"), op(2, "2020-01-02T00:00:00.000001Z"), op(3, "2020-01-02T00:00:00.000001Z")];
    let ask = json!({"op": "import", "date": "2025-01-15", "ops": ops});
    assert_eq!(conn.ok(&ask)["seqs"], json!([1, 2, null]));
    assert_eq!(conn.ok(&ask)["seqs"], json!([null, null, null]), "a second time nothing is new");
    let get = json!({"op": "get_key_process", "date": "2025-01-15", "key": "k"});
    let record = &conn.ok(&get)["record"];
    assert_eq!(record["data"], json!({"n": 2, "status": 7}));
    assert_eq!(record["updated_at"], "2020-01-02T00:00:00.000001Z");
    assert_eq!((&record["status"], &record["status_int"]), (&json!("seven"), &json!(-7)));
    assert_eq!(record["timestamp"], Value::Null, "nothing is made up");
    conn.ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {"own": true}}));
    assert_eq!(conn.ok(&ask)["seqs"], json!([null, null, null]), "what is written here is newer");

    let bad = json!({"op": "import", "date": "2025-01-15", "ops": [op(4, "2021-01-01"), op(5, "soon")]});
    let error = conn.refused(&bad, "bad_request");
    assert_eq!((&error["index"], &error["field"]), (&json!(1), &json!("updated_at")), "{error}");
    for wrong in
        [json!({"op": "delete", "key": "k"}), json!({"op": "store", "key": "k", "data": {}, "if_seq": 0})]
    {
        conn.refused(json!({"op": "import", "ops": [wrong]}), "bad_request");
    }
    let requests = &conn.ok(json!({"op": "stats"}))["daemon"]["requests"];
    assert_eq!(
        (&requests["import"], requests.get("batch")),
        (&json!(3), None),
        "each is counted once: {requests}"
    );
    // As with every write, what was answered outlives the process.
    daemon.kill();
    let daemon = site.start();
    let record = daemon.connect().ok(json!({"op": "get_key", "date": "2025-01-15", "key": "k"}));
    assert_eq!(record["records"][0]["data"], json!({"own": true}));
}
