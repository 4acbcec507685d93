//! `cache_max_bytes`: flushed records leave memory, and reads do not notice.

use serde_json::{Value, json};

use crate::{
    flush::stat,
    harness::{Config, Conn, PATIENCE, Random, Site, wait_for},
};

#[test]
fn flushed_records_leave_memory_and_reads_stay_right() {
    let bound = 100_000;
    let site = Site::new(&Config::new().dated("jobs", &format!("cache_max_bytes = {bound}")));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let pad = "x".repeat(200);
    let count = 3000;
    conn.all_ok(
        (0..count).map(|n| json!({"op": "store", "key": format!("k{n:04}"), "data": {"n": n, "pad": pad}})),
    );
    conn.ok(json!({"op": "flush"}));
    wait_for("the cache is within its bound", PATIENCE, || {
        let stats = conn.ok(json!({"op": "stats"}));
        (stat(&stats, "cache_bytes") <= bound).then_some(())
    });
    let reads = (0..count).map(|n| json!({"op": "get_key_process", "key": format!("k{n:04}")}));
    for (n, got) in conn.all_ok(reads).iter().enumerate() {
        assert_eq!(got["record"]["data"]["n"], n);
        assert_eq!(got["record"]["seq"], n + 1);
    }
    // What was read may have come back into memory, but not more than fits.
    wait_for("the cache is within its bound after reading everything", PATIENCE, || {
        let stats = conn.ok(json!({"op": "stats"}));
        (stat(&stats, "cache_bytes") <= bound).then_some(())
    });
    assert_eq!(conn.ok(json!({"op": "get_key", "key": "missing"}))["records"], json!([]));
}

#[test]
fn memory_and_duckdb_are_read_as_one() {
    let site = Site::new(&Config::new().dated("jobs", "cache_max_bytes = 1"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for name in ["a", "b", "c", "d"] {
        conn.ok(json!({"op": "store", "key": "k", "process_name": name, "data": {"from": "disk"}}));
    }
    conn.ok(json!({"op": "store", "key": "k", "data": {"from": "disk"}}));
    conn.ok(json!({"op": "flush"}));
    conn.ok(json!({"op": "store", "key": "k", "process_name": "b", "data": {"from": "memory"}}));
    conn.ok(json!({"op": "delete", "key": "k", "process_name": "c"}));
    conn.ok(json!({"op": "store", "key": "k", "process_name": "bb", "data": {"from": "memory"}}));
    let got = conn.ok(json!({"op": "get_key", "key": "k"}));
    let found: Vec<(Value, Value)> = got["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| (record["process_name"].clone(), record["data"]["from"].clone()))
        .collect();
    let expected = [
        (json!(null), json!("disk")),
        (json!("a"), json!("disk")),
        (json!("b"), json!("memory")),
        (json!("bb"), json!("memory")),
        (json!("d"), json!("disk")),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_cold_collection_is_read_whole() {
    let site = Site::new(&Config::new().collection("settings", "cache_max_bytes = 1"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let store = |collection: &str, item: usize, value: usize| {
        json!({
            "op": "store", "key": "k", "collection_name": collection, "item_name": format!("i{item:02}"),
            "data": {}, "value": value
        })
    };
    conn.all_ok((0..50).flat_map(|n| [store("a", n, n), store("b", n, n)]));
    conn.ok(json!({"op": "flush"}));
    // One item is touched while its collection is cold; all others must still come with it.
    conn.ok(store("a", 7, 700));
    let values = |conn: &mut Conn, collection: &str| -> Vec<u64> {
        let got = conn.ok(json!({"op": "get_key", "key": "k", "collection_name": collection}));
        got["records"].as_array().unwrap().iter().map(|record| record["value"].as_u64().unwrap()).collect()
    };
    let mut expected: Vec<u64> = (0..50).collect();
    assert_eq!(values(&mut conn, "b"), expected);
    expected[7] = 700;
    assert_eq!(values(&mut conn, "a"), expected);
    conn.ok(json!({"op": "delete", "key": "k", "collection_name": "a", "item_name": "i00"}));
    assert_eq!(values(&mut conn, "a"), expected[1..]);
    conn.ok(json!({"op": "flush"}));
    assert_eq!(values(&mut conn, "a"), expected[1..]);
    assert_eq!(conn.ok(json!({"op": "get_key", "key": "k"}))["records"].as_array().unwrap().len(), 99);
}

/// What the daemon must answer, kept beside it.
type Model = std::collections::BTreeMap<(u64, u64), u64>;

#[test]
fn random_writes_and_reads_agree_with_a_map() {
    let mut random = Random::new();
    let lines = "cache_max_bytes = 3000\nbatch_size = 30";
    let site = Site::new(&Config::new().dated("only", lines));
    let mut daemon = site.start();
    let mut model = Model::new();
    for round in 0..6 {
        let mut conn = daemon.connect();
        for n in 0..150 {
            random_step(&mut conn, &mut random, &mut model, round * 1000 + n);
        }
        let names: Vec<_> = {
            let mut keys: Vec<_> = model.keys().map(|(key, _)| format!("k{key:02}")).collect();
            keys.dedup();
            keys
        };
        assert_eq!(conn.ok(json!({"op": "keys", "date": "2025-01-15"}))["keys"], json!(names));
        drop(conn);
        if round % 2 == 0 {
            daemon.kill();
        } else {
            daemon.stop();
        }
        daemon = site.start();
    }
}

fn random_step(conn: &mut Conn, random: &mut Random, model: &mut Model, n: u64) {
    let (key, process) = (random.between(0, 30), random.between(0, 2));
    let mut request =
        json!({"date": "2025-01-15", "key": format!("k{key:02}"), "process_name": format!("p{process}")});
    match random.between(0, 9) {
        0..=3 => {
            request["op"] = json!("store");
            request["data"] = json!({"n": n, "pad": "x".repeat(random.between(0, 100) as usize)});
            conn.ok(request);
            model.insert((key, process), n);
        }
        4..=5 => {
            request["op"] = json!("delete");
            let there = model.remove(&(key, process)).is_some();
            assert_eq!(conn.ok(request)["deleted"], there, "k{key:02} p{process}");
        }
        6 => drop(conn.ok(json!({"op": "flush"}))),
        7 => {
            let got = conn.ok(json!({"op": "get_key", "date": "2025-01-15", "key": format!("k{key:02}")}));
            let found =
                got["records"].as_array().unwrap().iter().map(|record| record["data"]["n"].as_u64().unwrap());
            let expected = model.range((key, 0)..(key + 1, 0)).map(|(_, n)| *n);
            assert!(found.eq(expected), "k{key:02}: {got}");
        }
        _ => {
            request["op"] = json!("get_key_process");
            let record = conn.ok(request)["record"].clone();
            assert_eq!(
                record["data"]["n"].as_u64(),
                model.get(&(key, process)).copied(),
                "k{key:02} p{process}"
            );
        }
    }
}
