//! Subscriptions: every change once, in order, from now or from any place on; whoever does not read slows down nobody.

mod bounds;
mod lost;
mod seams;
mod watch;

use std::{fmt::Display, thread};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, Site};

/// A connection with one subscription on it.
struct Subscriber {
    conn: Conn,
    /// What `subscribe` answered.
    answer: Value,
}

impl Subscriber {
    /// Subscribes with these fields beside `op` and `id`.
    fn begin(daemon: &Daemon, fields: Value) -> Self {
        Self::on(daemon.connect(), fields)
    }

    fn on(mut conn: Conn, fields: Value) -> Self {
        let answer = conn.ok(subscribe(9, fields));
        Self { conn, answer }
    }

    fn event(&mut self) -> Value {
        let event = self.conn.answer();
        assert_eq!(event["id"], 9, "{event}");
        event
    }

    /// The place of the next change, which must be one.
    fn seq(&mut self) -> u64 {
        let event = self.event();
        seq_of(&event).unwrap_or_else(|| panic!("no change: {event}"))
    }

    /// The next changes must stand at these places.
    fn expect(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            assert_eq!(self.seq(), seq);
        }
    }
}

fn subscribe(id: impl Into<Value>, mut fields: Value) -> Value {
    fields["op"] = json!("subscribe");
    fields["id"] = id.into();
    fields
}

fn seq_of(event: &Value) -> Option<u64> {
    match event["event"].as_str()? {
        "store" => event["record"]["seq"].as_u64(),
        "delete" => event["seq"].as_u64(),
        _ => None,
    }
}

fn store(key: impl Display) -> Value {
    json!({"op": "store", "key": key.to_string(), "data": {"k": key.to_string()}})
}

/// A batch of so many stores.
fn batch(from: u64, count: u64) -> Value {
    let ops: Vec<_> = (from..from + count).map(|n| store(format_args!("k{}", n % 5000))).collect();
    json!({"op": "batch", "ops": ops})
}

/// A site with one storage of this model, and a daemon on it.
fn start(model: &str, lines: &str) -> (Site, Daemon) {
    let config = match model {
        "dated" => Config::new().dated("jobs", lines),
        _ => Config::new().collection("settings", lines),
    };
    let site = Site::new(&config);
    let daemon = site.start();
    (site, daemon)
}

#[test]
fn changes_come_as_they_become_durable_and_records_as_reads_return_them() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    let at = |mut line: Value| {
        line["date"] = json!("2025-01-15");
        line
    };
    conn.ok(at(store("before")));
    let mut subscriber = Subscriber::begin(&daemon, json!({"date": "2025-01-15"}));
    assert_eq!(subscriber.answer, json!({"id": 9, "ok": true, "seq": 1}));
    conn.ok(at(json!({"op": "store", "key": "k", "process_name": "w", "data": {"n": 1e3, "status": "é\n"}})));
    let read = conn.ok(at(json!({"op": "get_key_process", "key": "k", "process_name": "w"})));
    assert_eq!(subscriber.event(), json!({"id": 9, "event": "store", "record": read["record"]}));
    conn.ok(at(
        json!({"op": "store", "key": "k", "process_name": "w", "data": {}, "durability": "buffered"}),
    ));
    subscriber.expect([3]);
    conn.ok(at(json!({"op": "delete", "key": "k", "process_name": "w"})));
    let deleted = subscriber.event();
    let updated_at = &deleted["updated_at"];
    assert!(crate::harness::is_stamp(updated_at), "{deleted}");
    let expected = json!({"id": 9, "event": "delete", "date": "2025-01-15", "key": "k", "process_name": "w",
        "updated_at": updated_at, "seq": 4});
    assert_eq!(deleted, expected);
    // What changes nothing is no change.
    conn.ok(at(json!({"op": "delete", "key": "k", "process_name": "w"})));
    conn.ok(at(json!({"op": "batch", "ops": [store("a"), store("b"), {"op": "delete", "key": "a"}]})));
    subscriber.expect([5, 6, 7]);
}

#[test]
fn a_collection_tells_its_names_and_values() {
    let (_site, daemon) = start("collection", "");
    let mut conn = daemon.connect();
    let address = json!({"key": "u", "collection_name": "c", "item_name": "i"});
    let with = |op: &str, more: Value| {
        let mut line = address.clone();
        line["op"] = json!(op);
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    conn.ok(with("store", json!({"data": {}, "value": 1.0})));
    let read = conn.ok(with("get_item", json!({})));
    conn.ok(with("delete", json!({})));
    let mut subscriber = Subscriber::begin(&daemon, json!({"from_seq": 1}));
    assert_eq!(subscriber.answer, json!({"id": 9, "ok": true, "seq": 2}));
    assert_eq!(subscriber.event(), json!({"id": 9, "event": "store", "record": read["record"]}));
    let deleted = subscriber.event();
    let expected = json!({"id": 9, "event": "delete", "key": "u", "collection_name": "c", "item_name": "i",
        "updated_at": deleted["updated_at"], "seq": 2});
    assert_eq!(deleted, expected);
}

#[test]
fn it_begins_where_it_is_asked_to() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    conn.all_ok((1..=10).map(store));
    for (from, first) in [(0, 1), (1, 1), (7, 7), (10, 10), (11, 11)] {
        let mut subscriber = Subscriber::begin(&daemon, json!({"from_seq": from}));
        assert_eq!(subscriber.answer["seq"], 10);
        subscriber.expect(first..=10);
    }
    let mut later = Subscriber::begin(&daemon, json!({"from_seq": 13}));
    let mut next = Subscriber::begin(&daemon, json!({}));
    conn.all_ok((11..=14).map(store));
    later.expect([13, 14]);
    next.expect([11, 12, 13, 14]);
}

#[test]
fn a_prefix_is_one_of_bytes() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    let keys = ["job/1", "job", "job/ä", "other", "job/2", "JOB/3"];
    conn.all_ok(keys.iter().map(store));
    let mut subscriber = Subscriber::begin(&daemon, json!({"prefix": "job/", "from_seq": 1}));
    subscriber.expect([1, 3, 5]);
    conn.all_ok(keys.iter().map(store));
    subscriber.expect([7, 9, 11]);
}

#[test]
fn two_on_one_connection_and_requests_between_them() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    conn.ok(subscribe("all", json!({})));
    conn.ok(subscribe(7, json!({"prefix": "b"})));
    let count = 300;
    thread::scope(|scope| {
        let mut writer = daemon.connect();
        scope.spawn(move || {
            writer.all_ok((0..count).map(|n| store(if n % 2 == 0 { "a" } else { "b" })));
        });
        conn.send_all((0..count).map(|n| json!({"op": "ping", "id": format!("p{n}")})));
        let (mut all, mut some, mut pings) = (Vec::new(), Vec::new(), 0);
        while all.len() < count || some.len() < count / 2 || pings < count {
            let line = conn.answer();
            match &line["id"] {
                id if *id == "all" => all.push(seq_of(&line).unwrap()),
                id if *id == 7 => some.push(seq_of(&line).unwrap()),
                id => {
                    assert_eq!(*id, format!("p{pings}"), "answers stay in order: {line}");
                    pings += 1;
                }
            }
        }
        assert!(all.into_iter().eq(1..=300));
        assert!(some.into_iter().eq((2..=300).step_by(2)));
    });
}

#[test]
fn nothing_comes_after_the_answer_to_unsubscribe() {
    let (_site, daemon) = start("dated", "");
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let mut writer = daemon.connect();
        let stop = &stop;
        scope.spawn(move || {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                writer.ok(batch(n, 20));
                n += 20;
            }
        });
        let mut conn = daemon.connect();
        for round in 0..50 {
            conn.ok(subscribe(9, json!({})));
            for _ in 0..round {
                assert_eq!(conn.answer()["id"], 9);
            }
            conn.send(json!({"op": "unsubscribe", "subscription": 9, "id": "end"}));
            conn.send(json!({"op": "ping", "id": "after"}));
            let mut line = conn.answer();
            while line["id"] == 9 {
                line = conn.answer();
            }
            assert_eq!(line, json!({"id": "end", "ok": true}));
            assert_eq!(conn.answer()["id"], "after");
        }
        conn.refused(json!({"op": "unsubscribe", "subscription": 9}), "not_found");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn the_id_is_needed_and_is_the_one_that_was_sent() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    assert_eq!(conn.refused(json!({"op": "subscribe"}), "bad_request")["field"], "id");
    for id in ["null", "true", "-1.50e3", "\"\\u0061\"", "\"a\""] {
        conn.send(format!("{{\"op\":\"subscribe\",\"id\":{id}}}"));
        let answer = conn.text();
        assert!(answer.starts_with(&format!("{{\"id\":{id},\"ok\":true")), "{answer}");
    }
    conn.refused("{\"op\":\"subscribe\",\"id\":true}", "bad_request");
    daemon.connect().ok(store("k"));
    let mut told: Vec<String> = (0..5).map(|_| conn.text()).collect();
    told.sort_unstable();
    for (line, id) in told.iter().zip(["\"\\u0061\"", "\"a\"", "-1.50e3", "null", "true"]) {
        assert!(line.starts_with(&format!("{{\"id\":{id},\"event\":\"store\",")), "{line}");
    }
    // Byte for byte, as everywhere.
    conn.refused(json!({"op": "unsubscribe", "subscription": -1500.0}), "not_found");
    conn.ok("{\"op\":\"unsubscribe\",\"subscription\":-1.50e3}");
    for wrong in [
        json!({"op": "subscribe", "id": 1, "date": "2025-02-30"}),
        json!({"op": "subscribe", "id": 1, "from_seq": -1}),
        json!({"op": "subscribe", "id": 1, "prefix": 7}),
        json!({"op": "subscribe", "id": 1, "prefix": "x".repeat(1025)}),
        json!({"op": "subscribe", "id": "x".repeat(256)}),
        json!({"op": "subscribe", "id": 1, "key": "k"}),
        json!({"op": "unsubscribe"}),
    ] {
        conn.refused(wrong, "bad_request");
    }
}
