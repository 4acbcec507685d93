//! Directories made by hand: what the library leaves when it is killed before its first flush.

use std::fs;

use serde_json::{Value, json};

use super::{config, fastpersist, import, import_all, write};
use crate::harness::Site;

/// A line of a dated log.
fn line(key: &str, process: Option<&str>, data: &Value, timestamp: &str) -> String {
    json!({"key": key, "process_name": process, "data": data, "username": null, "timestamp": timestamp})
        .to_string()
}

#[test]
fn the_log_alone_gives_the_last_value_of_each_record_and_tells_what_is_torn() {
    let site = Site::new(&config());
    let daemon = site.start();
    let source = site.path("source");
    let first = [
        line("a", None, &json!({"n": 1}), "2025-01-15T10:00:00+00:00"),
        line("a", Some("p"), &json!({"n": 2, "status": "on"}), "2025-01-15T10:00:01.5+02:00"),
        "{\"key\": \"lost\", \"data\": {\"n\"".to_owned() + &line("b", None, &json!({}), "2025-01-15"),
        "{\"key\": \"nan\", \"process_name\": null, \"data\": {\"x\": NaN, \"s\": \"NaN\"}, \"timestamp\": null}".into(),
        "{\"key\": \"old\", \"data\": {\"n\": 3}}".into(),
    ];
    // The library sorts by number, not by name.
    write(&source.join("2025-01-15/wal_000002.jsonl"), &(first.join("\n") + "\n"));
    let second = line("a", None, &json!({"n": 9, "price": "dear"}), "2025-01-15T11:00:00+00:00")
        + "\n"
        + &line("a", None, &json!({"n": 4, "price": 2}), "2020-01-01T00:00:00+00:00")
        + "\n{\"key\": \"torn\", \"process_name\": null, \"da";
    write(&source.join("2025-01-15/wal_1000000.jsonl"), &second);
    write(&source.join("2025-01-16/wal_000001.jsonl"), &(line("b", None, &json!({}), "2025-01-16") + "\n"));

    let (code, summary) = import(&site, &source, "jobs");
    assert_eq!(code, Some(1), "{summary}");
    let read = &summary["read"];
    assert_eq!((&read["wal_files"], &read["wal_lines"]), (&json!(3), &json!(9)), "{summary}");
    assert_eq!((&read["replaced"], &read["not_finite"]), (&json!(2), &json!(1)), "{summary}");
    assert_eq!((&summary["stored"], &summary["could_not"]), (&json!(5), &json!(2)), "{summary}");
    let places: Vec<_> = summary["problems"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&places[0]["file"], &places[0]["number"]),
        (&json!("2025-01-15/wal_000002.jsonl"), &json!(3))
    );
    assert_eq!(
        (&places[1]["file"], &places[1]["number"]),
        (&json!("2025-01-15/wal_1000000.jsonl"), &json!(3))
    );
    assert!(places[1]["reason"].as_str().unwrap().contains("torn"), "{summary}");

    let mut conn = daemon.connect();
    let mut get = |key: &str| {
        conn.ok(json!({"op": "get_key", "storage": "jobs", "date": "2025-01-15", "key": key}))["records"]
            .clone()
    };
    let a = get("a");
    assert_eq!((&a[0]["process_name"], &a[0]["data"]), (&Value::Null, &json!({"n": 4, "price": 2})));
    assert_eq!(a[0]["timestamp"], "2020-01-01T00:00:00.000000Z");
    assert_eq!((&a[1]["process_name"], &a[1]["status"]), (&json!("p"), &json!("on")));
    assert_eq!(a[1]["timestamp"], "2025-01-15T08:00:01.500000Z");
    assert_eq!(get("nan")[0]["data"], json!({"x": "NaN", "s": "NaN"}));
    assert_eq!(get("old")[0]["process_name"], "", "lines of old versions have no process name");
    assert_eq!(
        conn.ok(json!({"op": "dates", "storage": "jobs"}))["dates"],
        json!(["2025-01-15", "2025-01-16"])
    );

    let (_, again) = import(&site, &source, "jobs");
    assert_eq!((&again["stored"], &again["already_there"]), (&json!(0), &json!(5)), "{again}");
}

#[test]
fn what_the_storage_refuses_is_told_and_its_neighbours_are_stored() {
    let site = Site::new(&config());
    let daemon = site.start();
    let source = site.path("source");
    let data = |n: usize| match n {
        7 | 300..310 => json!({"n": n, "price": "dear"}),
        _ => json!({"n": n, "price": 1.5}),
    };
    let lines: Vec<String> =
        (0..500).map(|n| line(&format!("k{n:03}"), None, &data(n), "2025-01-15")).collect();
    let long = line(&"k".repeat(1025), None, &json!({}), "2025-01-15");
    write(&source.join("2025-01-15/wal_000001.jsonl"), &(lines.join("\n") + "\n" + &long + "\n"));

    let dry = ["import", "--from", &source.to_string_lossy(), "--storage", "jobs", "--dry-run"];
    fastpersist(&site, &dry);
    let mut conn = daemon.connect();
    assert_eq!(
        conn.ok(json!({"op": "dates", "storage": "jobs"}))["dates"],
        json!([]),
        "a dry run stores nothing"
    );

    let (code, summary) = import(&site, &source, "jobs");
    assert_eq!(
        (code, &summary["stored"], &summary["could_not"]),
        (Some(1), &json!(489), &json!(12)),
        "{summary}"
    );
    let numbers: Vec<_> =
        summary["problems"].as_array().unwrap().iter().map(|p| p["number"].as_u64().unwrap()).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [8, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310, 501]);
    let keys = conn.ok(json!({"op": "keys", "storage": "jobs", "date": "2025-01-15"}))["keys"].clone();
    assert_eq!(keys.as_array().unwrap().len(), 489);
}

#[test]
fn a_collection_keeps_its_order_and_types_and_an_interrupted_import_goes_on() {
    let site = Site::new(&config());
    let daemon = site.start();
    let source = site.path("source");
    let line = |item: &str, value: Value, at: &str| {
        json!({"key": "k", "collection_name": "c", "item_name": item, "data": {"value": "own"}, "value": value,
            "username": "ann", "timestamp": at})
        .to_string()
    };
    let mut lines = vec![
        line("i", json!(1), "2025-01-15T10:00:00+00:00"),
        line("i", json!(1.0), "2030-01-15T10:00:00+00:00"),
        line("i", json!(true), "2020-01-15T10:00:00+00:00"),
        line("i", json!("text"), "2020-01-15T10:00:00+00:00"),
    ];
    let file = source.join("2025-01-15/wal_000001.jsonl");
    write(&file, &(lines[..2].join("\n") + "\n"));
    assert_eq!(import_all(&site, &source, "settings")["stored"], 2);
    lines.push(line("j", json!(i64::MIN), "2025-01-15"));
    lines.push(line("i", json!(null), "2020-01-15T10:00:00+00:00"));
    lines.push(line("i", json!(false), "2020-01-15T10:00:00+00:00"));
    write(&file, &(lines.join("\n") + "\n"));
    let summary = import_all(&site, &source, "settings");
    assert_eq!((&summary["stored"], &summary["already_there"]), (&json!(5), &json!(2)), "{summary}");
    assert_eq!(import_all(&site, &source, "settings")["stored"], 0);

    let mut conn = daemon.connect();
    let mut get = |item: &str| {
        let ask = json!({"op": "get_item", "storage": "settings", "key": "k", "collection_name": "c", "item_name": item});
        conn.ok(ask)["record"].clone()
    };
    let item = get("i");
    assert_eq!(
        (&item["value"], &item["seq"]),
        (&json!(false), &json!(7)),
        "the last line is the latest value"
    );
    assert_eq!(item["timestamp"], "2020-01-15T10:00:00.000000Z");
    assert_eq!((&item["username"], &item["data"]), (&json!("ann"), &json!({"value": "own"})));
    assert_eq!(get("j")["value"], i64::MIN);
}

#[test]
fn a_directory_that_is_none_is_refused_and_a_file_that_is_none_is_told() {
    let site = Site::new(&config());
    let daemon = site.start();
    let run = |from: &str, storage: &str| {
        let from = site.path(from).to_string_lossy().into_owned();
        let output = fastpersist(&site, &["import", "--from", &from, "--storage", storage]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    fs::create_dir(site.path("empty")).unwrap();
    let (code, said) = run("empty", "jobs");
    assert!(code == Some(1) && said.contains("nothing of the Python library"), "{code:?} {said}");
    daemon.connect().ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    let (code, said) = run("jobs", "jobs");
    assert!(code == Some(1) && said.contains("fastpersistd itself"), "{code:?} {said}");
    write(
        &site.path("source/2025-01-15/wal_000001.jsonl"),
        &(line("a", None, &json!({}), "2025-01-15") + "\n"),
    );
    let (code, said) = run("source", "settings");
    assert!(code == Some(2) && said.contains("is a dated directory"), "{code:?} {said}");

    write(&site.path("source/2025-01-15/data.duckdb"), "this is no database");
    let (code, summary) = import(&site, &site.path("source"), "jobs");
    assert_eq!(
        (code, &summary["stored"], &summary["could_not"]),
        (Some(1), &json!(1), &json!(1)),
        "{summary}"
    );
    assert_eq!(summary["problems"][0]["file"], "2025-01-15/data.duckdb", "{summary}");
}
