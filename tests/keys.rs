//! `keys`: sorted by bytes, by prefix, page by page, from memory and DuckDB as one.

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site};

fn start(config: &Config) -> (Site, Daemon, Conn) {
    let site = Site::new(config);
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn store_all(conn: &mut Conn, keys: &[&str]) {
    for key in keys {
        conn.ok(json!({"op": "store", "key": key, "data": {}}));
    }
}

fn models() -> [Config; 2] {
    [
        Config::new().dated("only", "cache_max_bytes = 1"),
        Config::new().collection("only", "cache_max_bytes = 1"),
    ]
}

#[test]
fn keys_are_sorted_by_their_bytes() {
    // U+FF5E sorts before U+1F600 by bytes, and behind it by UTF-16 units.
    let sorted =
        ["\u{1}", " ", "10", "9", "A", "Z", "_", "a", "a ", "a\u{2}b", "aa", "ab", "z", "é", "～", "😀"];
    let mut sorted = sorted.map(str::to_owned);
    sorted.sort();
    for config in models() {
        let (_site, _daemon, mut conn) = start(&config);
        let shuffled: Vec<&str> = (0..16).map(|n| sorted[(n * 7) % 16].as_str()).collect();
        store_all(&mut conn, &shuffled);
        for when in ["in memory", "flushed"] {
            let got = conn.ok(json!({"op": "keys"}));
            assert_eq!(got["keys"], json!(sorted), "{when}");
            assert_eq!(got["more"], false, "{when}");
            conn.ok(json!({"op": "flush"}));
        }
    }
}

#[test]
fn a_prefix_is_taken_literally() {
    for config in models() {
        let (_site, _daemon, mut conn) = start(&config);
        store_all(
            &mut conn,
            &["task_1", "task_2", "task%", "taskX1", "tasj", "tasl", "é1", "é2", "ê", "Task_1", "*", "'"],
        );
        for when in ["in memory", "flushed"] {
            let keys = |conn: &mut Conn, prefix: &str| {
                conn.ok(json!({"op": "keys", "prefix": prefix}))["keys"].clone()
            };
            assert_eq!(keys(&mut conn, "task_"), json!(["task_1", "task_2"]), "{when}");
            assert_eq!(keys(&mut conn, "task%"), json!(["task%"]), "{when}");
            assert_eq!(keys(&mut conn, "task"), json!(["task%", "taskX1", "task_1", "task_2"]), "{when}");
            assert_eq!(keys(&mut conn, "é"), json!(["é1", "é2"]), "{when}");
            assert_eq!(keys(&mut conn, "*"), json!(["*"]), "{when}");
            assert_eq!(keys(&mut conn, "'"), json!(["'"]), "{when}");
            assert_eq!(keys(&mut conn, "nothing"), json!([]), "{when}");
            assert_eq!(keys(&mut conn, "").as_array().unwrap().len(), 12, "{when}");
            conn.ok(json!({"op": "flush"}));
        }
    }
}

#[test]
fn limit_after_and_more_page_through_all() {
    for config in models() {
        let (_site, _daemon, mut conn) = start(&config);
        // Two of three are flushed, the others are in memory: a page has both.
        let stores = |rest: usize| {
            (0..2500)
                .filter(move |n| (n % 3 == 0) == (rest == 0))
                .map(|n| json!({"op": "store", "key": format!("k{n:04}"), "data": {}}))
        };
        conn.all_ok(stores(1));
        conn.ok(json!({"op": "flush"}));
        conn.all_ok(stores(0));
        // Outside the prefix on both sides.
        store_all(&mut conn, &["j", "l"]);
        for limit in [1000, 1249, 1250, 2500, 2501] {
            let mut found: Vec<Value> = Vec::new();
            let mut request = json!({"op": "keys", "prefix": "k", "limit": limit});
            loop {
                let page = conn.ok(&request);
                let keys = page["keys"].as_array().unwrap();
                found.extend(keys.iter().cloned());
                assert_eq!(page["more"], found.len() < 2500, "limit {limit}, {} found", found.len());
                if page["more"] == false {
                    break;
                }
                assert_eq!(keys.len(), limit, "a page that is not the last is full");
                request["after"] = keys[limit - 1].clone();
            }
            let expected: Vec<_> = (0..2500).map(|n| json!(format!("k{n:04}"))).collect();
            assert!(found == expected, "limit {limit}: each key once and in order");
        }
    }
}

#[test]
fn after_need_not_exist_and_lies_outside() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("only", ""));
    store_all(&mut conn, &["a", "b", "c", "d"]);
    let keys = |conn: &mut Conn, request: Value| conn.ok(request)["keys"].clone();
    assert_eq!(keys(&mut conn, json!({"op": "keys", "after": "b"})), json!(["c", "d"]));
    assert_eq!(keys(&mut conn, json!({"op": "keys", "after": "bb"})), json!(["c", "d"]));
    assert_eq!(keys(&mut conn, json!({"op": "keys", "after": "d"})), json!([]));
    assert_eq!(keys(&mut conn, json!({"op": "keys", "after": "A", "prefix": "c"})), json!(["c"]));
    assert_eq!(keys(&mut conn, json!({"op": "keys", "after": "x", "prefix": "c"})), json!([]));
    let one = conn.ok(json!({"op": "keys", "limit": 1}));
    assert_eq!(one, json!({"ok": true, "keys": ["a"], "more": true}));
}

#[test]
fn a_key_stands_once_whatever_lies_under_it() {
    let (_site, _daemon, mut conn) = start(&Config::both());
    for name in ["p", "q", "r"] {
        conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "process_name": name, "data": {}}));
        conn.ok(
            json!({"op": "store", "storage": "settings", "key": "k", "collection_name": name, "data": {}}),
        );
    }
    for storage in ["jobs", "settings"] {
        assert_eq!(conn.ok(json!({"op": "keys", "storage": storage}))["keys"], json!(["k"]));
    }
    // And on each date for itself.
    assert_eq!(conn.ok(json!({"op": "keys", "storage": "jobs", "date": "2001-01-01"}))["keys"], json!([]));
}

#[test]
fn deleted_keys_are_gone_also_those_in_duckdb() {
    for config in models() {
        let (_site, _daemon, mut conn) = start(&config);
        store_all(&mut conn, &["a", "b", "c", "d"]);
        conn.ok(json!({"op": "flush"}));
        conn.ok(json!({"op": "delete", "key": "b"}));
        conn.ok(json!({"op": "delete", "key": "d"}));
        conn.ok(json!({"op": "store", "key": "d", "data": {}}));
        assert_eq!(conn.ok(json!({"op": "keys"}))["keys"], json!(["a", "c", "d"]));
        let page = conn.ok(json!({"op": "keys", "limit": 2}));
        assert_eq!(page, json!({"ok": true, "keys": ["a", "c"], "more": true}));
        conn.ok(json!({"op": "flush"}));
        assert_eq!(conn.ok(json!({"op": "keys"}))["keys"], json!(["a", "c", "d"]));
    }
}
