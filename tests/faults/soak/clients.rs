//! All who do not only write: who reads, asks, follows, locks, comes and goes, and keeps house.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    load::{Load, StopsAll, date},
    writers::key,
};
use crate::harness::{Conn, Random, Receiver};

/// What a backup, an export or a deep look may take at most.
const KEEPING: Duration = Duration::from_secs(600);

/// A request of the good client: when, and how long it took.
pub(super) type Latency = (Duration, Duration);

/// Twenty requests a second, writes and reads in turn, each of which has to be answered: how long does each take?
pub(super) fn good(load: &Load, mut random: Random) -> Vec<Latency> {
    let _stops = StopsAll(load);
    let mut conn = load.connect();
    let mut latencies = Vec::new();
    while load.goes_on() {
        let key = format!("good/{}", random.between(0, 99));
        let n = latencies.len();
        let (begun, at) = (Instant::now(), load.elapsed());
        let asked = match n % 4 {
            0 => {
                json!({"op": "store", "storage": "jobs", "date": date(load.days() - 1), "key": key, "data": {"n": n}})
            }
            1 => json!({"op": "get_key", "storage": "jobs", "date": date(load.days() - 1), "key": key}),
            2 => json!({"op": "store", "storage": "settings", "key": key, "data": {}, "value": n}),
            _ => json!({"op": "get_item", "storage": "settings", "key": key}),
        };
        if load.judge("the good client", &conn.ask(asked), &[]) {
            latencies.push((at, begun.elapsed()));
        }
        load.pause(Duration::from_millis(50));
    }
    latencies
}

/// Reads of every kind, of what is hot and of what is not.
pub(super) fn reader(load: &Load, mut random: Random) {
    let _stops = StopsAll(load);
    let mut conn = load.connect();
    while load.goes_on() {
        let name = key(random.between(0, 3), random.between(0, 4500));
        let day = date(random.between(load.days().saturating_sub(3), load.days()));
        let ask = |op: &str, more: &[(&str, Value)]| {
            let mut asked = json!({"op": op});
            for (name, value) in more {
                asked[*name] = value.clone();
            }
            asked
        };
        let (jobs, settings, name, day) = (json!("jobs"), json!("settings"), json!(name), json!(day));
        let asked = match random.between(1, 12) {
            1 => ask(
                "keys",
                &[("storage", settings), ("prefix", json!("w1/")), ("after", name), ("limit", json!(50))],
            ),
            2 => ask("keys", &[("storage", jobs), ("date", day), ("limit", json!(100))]),
            3 => ask("history", &[("storage", settings), ("key", name), ("limit", json!(20))]),
            4 => ask("collections", &[("storage", settings), ("key", name)]),
            5 => ask("dates", &[("storage", jobs)]),
            6..=8 => ask("get_key", &[("storage", jobs), ("date", day), ("key", name)]),
            9 => ask("get_key_process", &[("storage", jobs), ("date", day), ("key", name)]),
            _ => ask("get_item", &[("storage", settings), ("key", name)]),
        };
        let answer = conn.ask(&asked);
        load.judge(&asked.to_string(), &answer, &[]);
        load.count("reads", 1);
        load.pause(Duration::from_millis(random.between(0, 10)));
    }
}

/// SELECTs over both models, as rows and as memory that is handed over.
pub(super) fn asker(load: &Load, mut random: Random, handed_over: bool) {
    let _stops = StopsAll(load);
    let mut conn = load.connect();
    while load.goes_on() {
        let newest = load.days() - 1;
        let mut asked = match random.between(1, 6) {
            1 => {
                json!({"storage": "settings", "sql": "SELECT count(*), sum(value_int), max(seq) FROM storage_history"})
            }
            2 => {
                json!({"storage": "settings", "sql": "SELECT key, value_int, data FROM storage_latest ORDER BY seq DESC LIMIT 2000"})
            }
            3 => {
                json!({"storage": "settings", "sql": "SELECT key, count(*) AS n FROM storage_history GROUP BY key ORDER BY n DESC LIMIT 20"})
            }
            4 => json!({"storage": "jobs", "from": date(newest.saturating_sub(5)), "to": date(newest),
                "sql": "SELECT date, count(*), max(seq) FROM storage GROUP BY date"}),
            5 => {
                json!({"storage": "jobs", "from": date(random.between(load.recent(), newest)), "sql": "SELECT * FROM storage WHERE key > 'w2/'"})
            }
            _ => {
                json!({"storage": "jobs", "from": date(newest), "sql": "SELECT key, data FROM storage ORDER BY key"})
            }
        };
        asked["op"] = json!("query");
        asked["fresh"] = json!(random.between(1, 4) > 1);
        let answer = if handed_over {
            asked["result"] = json!("fd");
            conn.send(&asked);
            let mut receiver = Receiver::new(&mut conn);
            let answer = receiver.answer();
            if random.between(1, 5) == 1 {
                // Held for a moment, as by one who works on it.
                load.pause(Duration::from_millis(500));
            }
            answer
        } else {
            conn.ask(&asked)
        };
        load.judge(&asked.to_string(), &answer, &[]);
        load.count("queries", 1);
        load.pause(Duration::from_millis(random.between(0, 200)));
    }
}

/// Subscribes to the collection, reads each change, and goes again.
pub(super) fn follower(load: &Load, mut random: Random) {
    let _stops = StopsAll(load);
    while load.goes_on() {
        let mut conn = load.connect();
        let asked = json!({"op": "subscribe", "id": 1, "storage": "settings"});
        let answer = conn.ask(&asked);
        if !load.judge("a subscription", &answer, &[]) {
            load.pause(Duration::from_millis(100));
            continue;
        }
        load.count("subscriptions", 1);
        let begins = answer["seq"].as_u64().expect("where it begins");
        for last in begins..begins + random.between(1, 3000) {
            let event = conn.answer();
            let seq = event["record"]["seq"].as_u64().or_else(|| event["seq"].as_u64());
            if event["event"] == "dropped" {
                load.count("dropped", 1);
                break;
            }
            if seq != Some(last + 1) {
                load.wrong(format!("behind change {last} came {event}"));
            }
            if !load.goes_on() {
                break;
            }
        }
        load.count("events", 1);
        if random.between(1, 2) == 1 {
            conn.send(json!({"op": "unsubscribe", "subscription": 1}));
        }
    }
}

/// Subscribes to a date's changes from the first on and does not read them; then reads what there is, and goes.
pub(super) fn sleeper(load: &Load, mut random: Random) {
    let _stops = StopsAll(load);
    while load.goes_on() {
        let mut conn = load.connect();
        let day = date(load.days() - 1);
        let asked = json!({"op": "subscribe", "id": 1, "storage": "jobs", "date": day});
        if !load.judge("a subscription", &conn.ask(&asked), &["compacted"]) {
            load.pause(Duration::from_millis(200));
            continue;
        }
        load.count("subscriptions", 1);
        load.pause(Duration::from_millis(random.between(1000, 10_000)));
        if random.between(1, 3) == 1 {
            continue;
        }
        // An answer comes between the events, so it ends the reading.
        conn.send(json!({"op": "ping", "id": 2}));
        let mut last = None;
        loop {
            let line = conn.answer();
            if line["id"] == 2 {
                break;
            }
            if line["event"] == "dropped" {
                load.count("dropped", 1);
                continue;
            }
            let seq = line["record"]["seq"].as_u64().or_else(|| line["seq"].as_u64());
            if last.is_some_and(|last: u64| seq != Some(last + 1)) {
                load.wrong(format!("behind change {last:?} came {line}"));
            }
            last = seq;
        }
    }
}

/// Takes a lock that others want too, holds it for a moment, and frees it in one of three ways.
pub(super) fn locker(load: &Load, mut random: Random) {
    let _stops = StopsAll(load);
    let mut conn = load.connect();
    let mut highest = 0;
    while load.goes_on() {
        let name = format!("lock-{}", random.between(0, 2));
        let answer = conn.ask(json!({"op": "lock", "name": name, "wait_ms": 300, "ttl_ms": 200}));
        if !load.judge("a lock", &answer, &[]) {
            continue;
        }
        let token = answer["token"].as_u64().expect("a token");
        if token <= highest {
            load.wrong(format!("token {token} came behind {highest}"));
        }
        highest = token;
        load.count("locks", 1);
        load.pause(Duration::from_millis(random.between(0, 30)));
        match random.between(1, 10) {
            1 => conn = load.connect(),
            2 => load.pause(Duration::from_millis(300)),
            _ => {
                let answer = conn.ask(json!({"op": "unlock", "name": name, "token": token}));
                // Its time may have been over on a busy machine.
                load.judge("an unlock", &answer, &["not_found"]);
            }
        }
    }
}

/// Connects, does a little or something rude, and is gone.
pub(super) fn visitor(load: &Load, mut random: Random) {
    let _stops = StopsAll(load);
    while load.goes_on() {
        let mut conn = load.connect();
        load.count("connections", 1);
        match random.between(1, 6) {
            1 => {}
            // Goes in the middle of a line.
            2 => conn.send_bytes(br#"{"op":"store","storage":"settings","key":"hal"#),
            // Goes without its answers. Few keys, and the history has to hold them.
            3 => {
                let store = |n| json!({"op": "store", "storage": "settings", "key": format!("gone/{}", n % 5), "data": {}});
                conn.send_all((0..random.between(1, 10)).map(store));
            }
            4 => {
                let _ = conn.send_all(
                    (0..random.between(1, 50))
                        .map(|n| json!({"op": "get_key", "storage": "settings", "key": key(n % 4, n)})),
                );
                conn.half_close();
                while let Some(answer) = conn.next() {
                    let answer = serde_json::from_str(&answer).expect("JSON");
                    load.judge("a read", &answer, &[]);
                }
            }
            5 => {
                conn.refused(json!({"op": "sotre"}), "unknown_op");
                // Goes while a query runs for it.
                let sql = "SELECT sum(value_int) FROM storage_history";
                let _ = conn.stream().write_all(
                    format!("{}\n", json!({"op": "query", "storage": "settings", "sql": sql})).as_bytes(),
                );
            }
            _ => assert_eq!(conn.ok(json!({"op": "ping"}))["pong"], true),
        }
        drop(conn);
        load.pause(Duration::from_millis(random.between(0, 60)));
    }
}

/// What a person or a timer asks for, now and then.
pub(super) fn keeper(load: &Load, mut random: Random) {
    let _stops = StopsAll(load);
    let mut conn = load.connect();
    // An hour of history takes a while to copy and to compare.
    conn.stream().set_read_timeout(Some(KEEPING)).expect("set a bound");
    while load.goes_on() {
        let asked = match random.between(1, 20) {
            1..=6 => json!({"op": "flush"}),
            7 | 8 => json!({"op": "export_parquet", "storage": "settings"}),
            9 => json!({"op": "export_parquet", "storage": "jobs"}),
            10 | 11 => json!({"op": "backup", "storage": "settings"}),
            12 => json!({"op": "backup", "storage": "jobs"}),
            13 | 14 => json!({"op": "check_health"}),
            15 => json!({"op": "check_health", "deep": true}),
            16 => json!({"op": "list_backups", "storage": "settings"}),
            17 => json!({"op": "rebuild_latest_from_history", "storage": "settings"}),
            18 => json!({"op": "stats", "format": "openmetrics"}),
            _ => json!({"op": "stats"}),
        };
        let answer = conn.ask(&asked);
        if load.judge(&asked.to_string(), &answer, &[]) {
            // Both are right here: a date that is over has no backup yet, and one is opened and closed all the time.
            let expected = |one: &&Value| one["kind"] == "backup_missing" || one["kind"] == "file_in_use";
            let problems = answer["problems"].as_array().map_or(&[][..], Vec::as_slice);
            for problem in problems.iter().filter(|one| !expected(one)) {
                load.wrong(format!("{asked} found {problem}"));
            }
        }
        load.count("keeping", 1);
        load.pause(Duration::from_millis(random.between(200, 2000)));
    }
}

/// The daemon's own figures.
pub(super) fn stats(conn: &mut Conn) -> Value {
    conn.ok(json!({"op": "stats"}))
}
