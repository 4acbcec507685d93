//! Many clients at once: every write has its own seq, none is lost, none is mixed up with another.

use std::{collections::BTreeSet, thread};

use serde_json::json;

use crate::harness::{Config, Site};

#[test]
fn many_connections_write_without_losing_or_mixing() {
    // Flushes go on all the time, segments are sealed all the time.
    let lines = "batch_size = 200\nmax_wal_size = 65536\nwal_retain_days = 0";
    let site = Site::new(&Config::new().dated("jobs", lines).collection("settings", lines));
    let daemon = site.start();
    let (writers, each) = (12_u64, 300_u64);
    let mut seqs = BTreeSet::new();
    thread::scope(|scope| {
        let write = |writer: u64| {
            let mut conn = daemon.connect();
            move || {
                let stores = (0..each).map(|n| {
                    json!({
                        "op": "store", "storage": "jobs", "date": "2025-01-15", "key": format!("w{writer}/{n}"),
                        "process_name": format!("w{writer}"), "data": {"writer": writer, "n": n}
                    })
                });
                conn.all_ok(stores).iter().map(|answer| answer["seq"].as_u64().unwrap()).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(write(writer))).collect();
        for thread in threads {
            let own = thread.join().unwrap();
            assert!(own.is_sorted(), "one connection's writes keep their order");
            seqs.extend(own);
        }
    });
    assert!(seqs.into_iter().eq(1..=writers * each), "every seq once, none left out");
    let mut conn = daemon.connect();
    for writer in 0..writers {
        let reads = (0..each).map(|n| {
            json!({
                "op": "get_key_process", "storage": "jobs", "date": "2025-01-15", "key": format!("w{writer}/{n}"),
                "process_name": format!("w{writer}")
            })
        });
        for (n, got) in conn.all_ok(reads).iter().enumerate() {
            assert_eq!(got["record"]["data"], json!({"writer": writer, "n": n}));
        }
    }
}

#[test]
fn two_storages_and_two_dates_do_not_see_each_other() {
    let site =
        Site::new(&Config::new().dated("a", "").dated("b", "").collection("c", "").collection("d", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in ["a", "b", "c", "d"] {
        conn.ok(json!({"op": "store", "storage": storage, "key": "k", "data": {"from": storage}}));
        conn.ok(json!({"op": "store", "storage": storage, "key": storage, "data": {}}));
    }
    for storage in ["a", "b", "c", "d"] {
        let got = conn.ok(json!({"op": "get_key", "storage": storage, "key": "k"}));
        assert_eq!(got["records"].as_array().unwrap().len(), 1);
        assert_eq!(got["records"][0]["data"]["from"], storage);
        assert_eq!(got["records"][0]["seq"], 1);
        assert_eq!(conn.ok(json!({"op": "keys", "storage": storage}))["keys"], json!([storage, "k"]));
    }
}
