//! `history`: every write to an item, newest first, whether it still lies in memory or in DuckDB already.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site, binary};

/// Nothing is flushed by itself.
const QUIET: &str = "duckdb_flush_interval_seconds = 3600\nbatch_size = 1000000";

fn start(lines: &str) -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::new().dated("jobs", "").collection("settings", lines));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn store(item: &str, value: u64) -> Value {
    json!({"op": "store", "storage": "settings", "key": "k", "collection_name": "c", "item_name": item,
        "data": {"n": value}, "value": value})
}

fn delete(item: &str) -> Value {
    json!({"op": "delete", "storage": "settings", "key": "k", "collection_name": "c", "item_name": item})
}

/// A page: the records, and whether there are more.
fn page(conn: &mut Conn, item: &str, further: &Value) -> (Vec<Value>, bool) {
    let mut request = json!({"op": "history", "storage": "settings", "key": "k", "collection_name": "c", "item_name": item});
    for (name, value) in further.as_object().expect("fields") {
        request[name] = value.clone();
    }
    let answer = conn.ok(request);
    (answer["records"].as_array().expect("records").clone(), answer["more"].as_bool().expect("more"))
}

fn seqs(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["seq"].as_u64().expect("a seq")).collect()
}

/// The whole history, page by page.
fn walk(conn: &mut Conn, item: &str, limit: u64) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let mut further = json!({"limit": limit});
        if let Some(last) = all.last() {
            further["before_seq"] = last["seq"].clone();
        }
        let (records, more) = page(conn, item, &further);
        assert!(records.len() as u64 <= limit);
        assert!(!records.is_empty() || !more, "an empty page with more behind it");
        all.extend(records);
        if !more {
            return all;
        }
    }
}

#[test]
fn every_write_is_told_newest_first_and_a_deletion_shows() {
    let (_site, _daemon, mut conn) = start(QUIET);
    conn.ok(store("a", 1));
    conn.ok(store("b", 2));
    conn.ok(delete("a"));
    conn.ok(store("a", 4));
    let (records, more) = page(&mut conn, "a", &json!({}));
    assert_eq!((seqs(&records), more), (vec![4, 3, 1], false));
    assert_eq!((&records[0]["value"], &records[0]["data"]), (&json!(4), &json!({"n": 4})));
    assert_eq!(records[0].get("deleted"), None);
    let gone = &records[1];
    assert_eq!((&gone["deleted"], gone.get("data"), gone.get("value")), (&json!(true), None, None));
    assert_eq!(
        (&gone["key"], &gone["collection_name"], &gone["item_name"]),
        (&json!("k"), &json!("c"), &json!("a"))
    );
    let nothing = conn.ok(json!({"op": "history", "storage": "settings", "key": "nobody"}));
    assert_eq!((&nothing["records"], &nothing["more"]), (&json!([]), &json!(false)));
}

#[test]
fn a_follower_is_told_the_same_as_the_history() {
    let (_site, daemon, mut conn) = start(QUIET);
    let mut follower = daemon.connect();
    follower.ok(json!({"op": "subscribe", "id": 1, "storage": "settings"}));
    conn.ok(store("i", 7));
    conn.ok(delete("i"));
    let stored = follower.answer();
    let mut deleted = follower.answer();
    for flushed in [false, true] {
        if flushed {
            conn.ok(json!({"op": "flush"}));
        }
        let (records, _) = page(&mut conn, "i", &json!({}));
        assert_eq!(records[1], stored["record"], "flushed: {flushed}");
        for (name, value) in
            records[0].as_object().expect("fields").iter().filter(|(name, _)| *name != "deleted")
        {
            assert_eq!(&deleted[name], value, "{name}, flushed: {flushed}");
        }
        assert_eq!(records[0]["deleted"], true);
    }
    // And nothing more than that.
    let fields = deleted.as_object_mut().expect("fields");
    for name in ["id", "event", "key", "collection_name", "item_name", "updated_at", "seq"] {
        assert!(fields.remove(name).is_some(), "{name}");
    }
    assert!(fields.is_empty(), "{fields:?}");
}

#[test]
fn memory_and_duckdb_are_one() {
    let (site, daemon, mut conn) = start(QUIET);
    for value in 1..=10 {
        conn.ok(store("a", value));
    }
    conn.ok(delete("a"));
    conn.ok(json!({"op": "flush", "storage": "settings"}));
    for value in 12..=20 {
        conn.ok(store("a", value));
    }
    let all: Vec<u64> = (1..=20).rev().collect();
    for limit in [1, 2, 3, 8, 9, 10, 19, 20, 21] {
        assert_eq!(seqs(&walk(&mut conn, "a", limit)), all, "limit {limit}");
    }
    let (records, more) = page(&mut conn, "a", &json!({"limit": 9}));
    assert_eq!((records.len(), more), (9, true), "what is behind the seam counts as more");
    let (records, more) = page(&mut conn, "a", &json!({"before_seq": 5, "limit": 4}));
    assert_eq!((seqs(&records), more), (vec![4, 3, 2, 1], false));
    assert_eq!(seqs(&page(&mut conn, "a", &json!({"before_seq": u64::MAX})).0), all);
    assert_eq!(page(&mut conn, "a", &json!({"before_seq": 1})).0.len(), 0);
    let deleted: Vec<_> = walk(&mut conn, "a", 7).into_iter().filter(|r| r["deleted"] == true).collect();
    assert_eq!(seqs(&deleted), [11]);
    drop(conn);
    daemon.kill();
    let daemon = site.start();
    assert_eq!(seqs(&walk(&mut daemon.connect(), "a", 6)), all, "after a kill");
    daemon.stop();
    let daemon = site.start();
    assert_eq!(seqs(&walk(&mut daemon.connect(), "a", 6)), all, "from DuckDB alone");
}

#[test]
fn no_gap_and_no_repeat_while_writes_and_flushes_go_on() {
    let (_site, daemon, _conn) = start("batch_size = 50");
    let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut conn = daemon.connect();
            for round in 0..60 {
                let answers = conn.all_ok((0..50).map(|n| store("a", round * 50 + n)));
                answered.store(answers[49]["seq"].as_u64().expect("a seq"), Ordering::SeqCst);
                if round % 3 == 0 {
                    conn.ok(json!({"op": "flush", "storage": "settings"}));
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        let mut conn = daemon.connect();
        while !over.load(Ordering::SeqCst) {
            let at_least = answered.load(Ordering::SeqCst);
            let found = seqs(&page(&mut conn, "a", &json!({"limit": 10000})).0);
            let newest = found.first().copied().unwrap_or(0);
            assert!(newest >= at_least, "{at_least} was answered, and the newest is {newest}");
            assert!(found.iter().copied().eq((1..=newest).rev()), "a gap or a repeat: {found:?}");
        }
    });
    assert_eq!(answered.load(Ordering::SeqCst), 3000);
}

#[test]
fn all_items_of_a_key_are_told_together() {
    let (_site, _daemon, mut conn) = start(QUIET);
    for (item, value) in [("a", 1), ("b", 2), ("a", 3)] {
        conn.ok(store(item, value));
    }
    conn.ok(json!({"op": "flush", "storage": "settings"}));
    conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}}));
    conn.ok(json!({"op": "store", "storage": "settings", "key": "other", "data": {}}));
    conn.ok(delete("b"));
    let ask = |further: &str| {
        format!(r#"{{"op":"history","storage":"settings","key":"k","all_items":true{further}}}"#)
    };
    let answer = conn.ok(ask(""));
    let records = answer["records"].as_array().unwrap();
    assert_eq!(seqs(records), [6, 4, 3, 2, 1]);
    let items: Vec<_> = records.iter().map(|record| record["item_name"].as_str().unwrap()).collect();
    assert_eq!(items, ["b", "", "a", "b", "a"]);
    let error = conn.refused(ask(r#","item_name":"a""#), "bad_request");
    assert_eq!(error["field"], "all_items");
}

#[test]
fn a_page_of_large_documents_ends_early() {
    let (_site, _daemon, mut conn) = start(QUIET);
    let text = "x".repeat(600_000);
    let large = |value: u64| {
        json!({"op": "store", "storage": "settings", "key": "k", "collection_name": "c", "item_name": "a",
            "data": {"text": text}, "value": value})
    };
    for value in 1..=12 {
        conn.ok(large(value));
    }
    conn.ok(json!({"op": "flush", "storage": "settings"}));
    for value in 13..=24 {
        conn.ok(large(value));
    }
    let (records, more) = page(&mut conn, "a", &json!({}));
    assert!(more && (1..12).contains(&records.len()), "{} of 24 at once", records.len());
    let all: Vec<u64> = (1..=24).rev().collect();
    assert_eq!(seqs(&walk(&mut conn, "a", 100)), all);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let (_site, _daemon, mut conn) = start(QUIET);
    let error = conn.refused(json!({"op": "history", "storage": "jobs", "key": "k"}), "bad_request");
    assert!(error["message"].as_str().unwrap().contains("collection storages"), "{error}");
    for (field, value) in [
        ("limit", json!(0)),
        ("limit", json!(10_001)),
        ("before_seq", json!(-1)),
        ("all_items", json!("yes")),
    ] {
        let mut request = json!({"op": "history", "storage": "settings", "key": "k"});
        request[field] = value;
        assert_eq!(conn.refused(&request, "bad_request")["field"], field, "{request}");
    }
    conn.refused(json!({"op": "history", "storage": "settings"}), "bad_request");
}

/// What `fastpersist` prints, line by line as JSON.
fn fastpersist(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(binary("fastpersist"));
    let output = command.args(["-s", "settings"]).args(arguments).env("FASTPERSIST_SOCKET", site.socket());
    let output = output.output().expect("run fastpersist");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn the_command_prints_a_history_over_many_pages() {
    let (site, _daemon, mut conn) = start(QUIET);
    conn.all_ok((1..=2500).map(|n| store("a", n)));
    let all = fastpersist(&site, &["history", "k", "-c", "c", "-i", "a"]);
    assert_eq!(seqs(&all), (1..=2500).rev().collect::<Vec<u64>>());
    let some =
        fastpersist(&site, &["history", "k", "--all-items", "--limit", "1200", "--before-seq", "2001"]);
    assert_eq!(seqs(&some), (801..=2000).rev().collect::<Vec<u64>>());
}

#[test]
fn the_command_shows_what_changed_between_two_moments() {
    let (site, _daemon, mut conn) = start(QUIET);
    let item = |name: &str, data: Value, value: Value| {
        json!({"op": "store", "storage": "settings", "key": "k", "collection_name": "c", "item_name": name,
            "data": data, "value": value})
    };
    conn.ok(item("kept", json!({"same": 1}), json!(1)));
    conn.ok(item("changed", json!({"a": 1, "list": [1, 2], "old": true}), json!(32)));
    conn.ok(item("removed", json!({"x": 1}), Value::Null));
    conn.ok(json!({"op": "flush", "storage": "settings"}));
    let middle = conn.ok(json!({"op": "history", "storage": "settings", "key": "k", "collection_name": "c",
        "item_name": "removed"}))["records"][0]["updated_at"]
        .clone();
    conn.ok(item("changed", json!({"a": 1, "list": [1, 3], "new": "y"}), json!(33)));
    conn.ok(item("added", json!({"n": 12}), json!("v")));
    conn.ok(json!({"op": "delete", "storage": "settings", "key": "k", "collection_name": "c", "item_name": "removed"}));
    conn.ok(item("fleeting", json!({}), json!(1)));
    conn.ok(json!({"op": "delete", "storage": "settings", "key": "k", "collection_name": "c", "item_name": "fleeting"}));
    let expected = [
        json!({"key": "k", "collection_name": "c", "item_name": "added", "change": "added", "to_seq": 5,
            "changes": [{"path": "/value", "to": "v"}, {"path": "/data/n", "to": 12}]}),
        json!({"key": "k", "collection_name": "c", "item_name": "changed", "change": "changed", "from_seq": 2, "to_seq": 4,
            "changes": [{"path": "/value", "from": 32, "to": 33}, {"path": "/data/list/1", "from": 2, "to": 3},
                {"path": "/data/new", "to": "y"}, {"path": "/data/old", "from": true}]}),
        json!({"key": "k", "collection_name": "c", "item_name": "removed", "change": "removed", "from_seq": 3, "to_seq": 6,
            "changes": [{"path": "/data/x", "from": 1}]}),
    ];
    let middle = middle.as_str().expect("a time");
    for from in ["3", middle] {
        assert_eq!(fastpersist(&site, &["diff", "k", "--from", from]), expected, "from {from}");
    }
    let until_four = fastpersist(&site, &["diff", "k", "--from", "3", "--to", "4"]);
    assert_eq!(until_four, expected[1..2], "only what had happened by then");
    let one =
        fastpersist(&site, &["diff", "k", "-c", "c", "-i", "added", "--from", "0", "--to", "2035-01-01"]);
    assert_eq!(one, expected[..1]);
    let since_ever = fastpersist(&site, &["diff", "k", "--from", "2001-01-01", "--to", "1"]);
    assert_eq!((since_ever.len(), &since_ever[0]["item_name"]), (1, &json!("kept")));
    assert!(fastpersist(&site, &["diff", "k", "-c", "other", "--from", "0"]).is_empty());
}

#[test]
fn many_large_histories_at_once_are_all_answered() {
    let (_site, daemon, mut conn) = start(&format!("{QUIET}\ncache_max_bytes = 100000"));
    let large = "x".repeat(900_000);
    for n in 0..60 {
        let mut store = store("i", n);
        store["data"]["large"] = json!(large);
        conn.ok(store);
    }
    conn.ok(json!({"op": "flush"}));
    let asked =
        json!({"op": "history", "storage": "settings", "key": "k", "collection_name": "c", "item_name": "i"});
    let mut readers: Vec<_> = (0..16).map(|_| daemon.connect()).collect();
    for reader in &mut readers {
        reader.send(&asked);
    }
    for reader in &mut readers {
        let answer = reader.text();
        // Not parsed, and not shown: it has megabytes.
        assert!(answer.starts_with("{\"ok\":true"), "{}", answer.chars().take(400).collect::<String>());
    }
}

#[test]
fn a_history_is_whole_while_a_large_flush_is_committed() {
    let (_site, daemon, mut conn) = start(QUIET);
    let many = |item: &str, from: u64| {
        let ops: Vec<_> = (from..from + 10_000)
            .map(|n| json!({"op": "store", "key": "k", "collection_name": "c", "item_name": item, "data": {}, "value": n}))
            .collect();
        json!({"op": "batch", "storage": "settings", "ops": ops})
    };
    conn.ok(many("old", 0));
    conn.ok(json!({"op": "flush"}));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut conn = daemon.connect();
            for round in 0..20 {
                conn.ok(many("new", round * 20_000));
                conn.ok(many("new", round * 20_000 + 10_000));
                conn.ok(json!({"op": "flush"}));
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let (records, more) = page(&mut conn, "old", &json!({"limit": 1}));
            assert_eq!((records.len(), more), (1, true), "what was flushed long ago");
        }
    });
}
