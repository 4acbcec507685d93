//! The limits on what many clients have together: locks, producers, subscriptions, dates, room in memory.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ground::{DAY, Ground, line_of, store};
use crate::harness::{Config, Conn};

pub(super) fn locks() -> u64 {
    let mut ground = Ground::new("max_locks = 3");
    let mut conn = ground.connect();
    let lock = |name: &str| json!({"op": "lock", "name": name});
    let tokens = ["a", "b", "c"].map(|name| conn.ok(lock(name))["token"].clone());
    let error = ground.connect().refused(lock("d"), "busy");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("max_locks")), "{error}");
    conn.refused(lock("d"), "busy");
    ground.others_go_on();
    conn.ok(json!({"op": "unlock", "name": "a", "token": tokens[0]}));
    conn.ok(lock("d"));
    2
}

pub(super) fn producers() -> u64 {
    let mut ground = Ground::new("max_producers = 3");
    let mut conn = ground.connect();
    let write = |conn: &mut Conn, producer: &str| {
        let mut request = store("k");
        request["producer"] = json!(producer);
        request["producer_seq"] = json!(1);
        conn.ok(request)
    };
    for producer in ["a", "b", "c"] {
        assert_eq!(write(&mut conn, producer).get("duplicate"), None);
    }
    for producer in ["a", "b", "c"] {
        assert_eq!(write(&mut conn, producer)["duplicate"], true, "all of them are remembered");
    }
    assert_eq!(write(&mut conn, "d").get("duplicate"), None);
    for producer in ["b", "c", "d"] {
        assert_eq!(write(&mut conn, producer)["duplicate"], true, "{producer}");
    }
    assert_eq!(write(&mut conn, "a").get("duplicate"), None, "the idlest was forgotten");
    ground.others_go_on();
    1
}

fn subscribe(id: u64) -> Value {
    json!({"op": "subscribe", "id": id, "storage": "jobs", "date": DAY})
}

pub(super) fn subscriptions() -> u64 {
    subscribers("max_subscriptions = 3", "max_subscriptions")
}

pub(super) fn subscriptions_per_uid() -> u64 {
    subscribers("max_subscriptions = 4\nmax_subscriptions_per_uid = 3", "max_subscriptions_per_uid")
}

fn subscribers(limits: &str, name: &str) -> u64 {
    let mut ground = Ground::new(limits);
    let mut conns = [ground.connect(), ground.connect()];
    for id in 0..3 {
        conns[id as usize % 2].ok(subscribe(id));
    }
    for conn in &mut conns {
        let error = conn.refused(subscribe(9), "busy");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(name)), "{error}");
    }
    ground.others_go_on();
    // Those that there are go on, and one that ends makes room.
    conns[0].ok(json!({"op": "unsubscribe", "subscription": 2}));
    conns[1].ok(subscribe(9));
    ground.connect().ok(store("k"));
    assert_eq!(conns[0].answer()["record"]["key"], "k");
    assert_eq!(conns[1].answer()["record"]["key"], "k");
    2
}

/// Nothing is flushed by itself.
const QUIET: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

pub(super) fn open_dates() -> u64 {
    let limits = "max_open_dates = 2\nbusy_wait_ms = 300";
    let mut ground =
        Ground::on(&Config::new().limits(limits).dated("jobs", QUIET).collection("settings", ""));
    let mut conn = ground.connect();
    let store = |day: usize| json!({"op": "store", "storage": "jobs", "date": format!("2025-02-{day:02}"), "key": "k", "data": {"day": day}});
    for day in 1..=6 {
        conn.ok(store(day));
        ground.others_go_on();
    }
    let open = ground.stats()["storages"]["jobs"]["open_partitions"].as_u64().expect("a number");
    assert!(open <= 2, "{open} dates are open");
    for day in 1..=6 {
        let get = json!({"op": "get_key_process", "storage": "jobs", "date": format!("2025-02-{day:02}"), "key": "k"});
        assert_eq!(conn.ok(get)["record"]["data"]["day"], day);
    }
    // Two that cannot be closed: a third has to wait, and is told.
    let in_the_way = [7, 8].map(|day| {
        conn.ok(store(day));
        let file = ground.site.path(&format!("jobs/2025-02-{day:02}/data.duckdb"));
        std::fs::create_dir(&file).expect("put a directory in the way");
        file
    });
    told_after(Duration::from_millis(300), || drop(conn.refused(store(9), "busy")));
    ground.others_go_on();
    for file in in_the_way {
        std::fs::remove_dir(file).expect("clear the way");
    }
    conn.ok(store(9));
    1
}

/// What is told must be told after so long: not before, and not much later.
fn told_after(wait: Duration, ask: impl FnOnce()) {
    let begun = Instant::now();
    ask();
    let waited = begun.elapsed();
    assert!(waited >= wait, "it was told after {waited:?}, before {wait:?} were over");
    assert!(waited < wait + Duration::from_secs(5), "it was told only after {waited:?}");
}

pub(super) fn busy_wait() -> u64 {
    let quiet = format!("{QUIET}\nmax_pending_bytes = 10000");
    let config = Config::new().limits("busy_wait_ms = 700").dated("jobs", &quiet).collection("settings", "");
    let mut ground = Ground::on(&config);
    let mut conn = ground.connect();
    conn.ok(line_of(5_000, "a"));
    // It cannot be flushed, so nothing makes room.
    let in_the_way = ground.site.path(&format!("jobs/{DAY}/data.duckdb"));
    std::fs::create_dir(&in_the_way).expect("a directory in the way");
    conn.ok(line_of(10_000, "b"));
    told_after(Duration::from_millis(700), || drop(conn.refused(line_of(5_000, "c"), "busy")));
    ground.others_go_on();
    conn.ok(json!({"op": "get_key_process", "storage": "jobs", "date": DAY, "key": "a"}));
    std::fs::remove_dir(in_the_way).expect("clear the way");
    // The flush that failed is tried again by itself, and a writer that asks again gets through.
    let begun = Instant::now();
    while conn.ask(line_of(5_000, "c"))["ok"] != true {
        assert!(begun.elapsed() < Duration::from_secs(30), "there is no room again");
    }
    let keys = conn.ok(json!({"op": "keys", "storage": "jobs", "date": DAY}));
    assert_eq!(keys["keys"], json!(["a", "b", "c"]));
    1
}
