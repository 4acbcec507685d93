//! What a subscriber may cost: nobody waits for it, its memory is bounded, and it is gone when it goes.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::{Subscriber, batch, seq_of, start, store, subscribe};
use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, wait_for};

fn subscriptions(conn: &mut Conn) -> u64 {
    conn.ok(json!({"op": "stats"}))["daemon"]["subscriptions"].as_u64().expect("a number")
}

fn wait_for_subscriptions(daemon: &Daemon, count: u64) {
    let mut conn = daemon.connect();
    wait_for(&format!("{count} subscriptions"), PATIENCE, || {
        (subscriptions(&mut conn) == count).then_some(())
    });
}

/// Writes about 40 MB, far more than any buffer on the way takes.
fn write_much(conn: &mut Conn) -> u64 {
    let pad = "x".repeat(20_000);
    let ops: Vec<_> =
        (0..40).map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {"pad": pad}})).collect();
    let line = json!({"op": "batch", "ops": ops}).to_string();
    (0..50).for_each(|_| drop(conn.ok(&line)));
    40 * 50
}

#[test]
fn one_that_does_not_read_slows_down_nobody_and_gets_everything_later() {
    let (_site, daemon) = start("collection", "max_wal_size = 1048576\nwal_retain_days = 0");
    let mut silent: Vec<_> = (0..8).map(|_| Subscriber::begin(&daemon, json!({}))).collect();
    let mut conn = daemon.connect();
    // The memory that the records themselves take.
    let written = write_much(&mut conn);
    let before = daemon.resident_bytes();
    let again = write_much(&mut conn);
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 120 << 20, "eight that do not read made it grow by {grown} bytes");
    conn.ok(json!({"op": "flush"}));
    for subscriber in &mut silent {
        subscriber.expect(1..=written + again);
    }
    conn.ok(store("k"));
    for subscriber in &mut silent {
        subscriber.expect([written + again + 1]);
    }
}

#[test]
fn one_that_fell_behind_what_is_kept_is_dropped_and_told_where() {
    let (_site, daemon) = start("dated", "max_wal_size = 1048576\nwal_retain_days = 0");
    let mut subscriber = Subscriber::begin(&daemon, json!({}));
    let mut conn = daemon.connect();
    let mut written = write_much(&mut conn);
    conn.ok(json!({"op": "flush"}));
    wait_for("the log's beginning to go", PATIENCE, || {
        let code = &daemon.connect().ask(subscribe(1, json!({"from_seq": 1})))["error"]["code"];
        (*code == "compacted").then_some(())
    });
    let mut next = 1;
    let last = loop {
        let event = subscriber.event();
        let Some(seq) = seq_of(&event) else { break event };
        assert_eq!(seq, next);
        next += 1;
    };
    assert_eq!(last, json!({"id": 9, "event": "dropped", "last_seq": next - 1}));
    // The id is free again, the connection goes on, and what is missing is said.
    let mut line = subscriber.conn;
    let error = line.refused(subscribe(9, json!({"from_seq": next})), "compacted");
    assert!(error["oldest_seq"].as_u64().is_some_and(|oldest| oldest > next), "{error}");
    let mut subscriber = Subscriber::on(line, json!({}));
    assert_eq!(subscriber.answer["seq"], written);
    conn.ok(store("k"));
    written += 1;
    subscriber.expect([written]);
}

#[test]
fn requests_beside_a_subscription_go_on_while_much_is_told() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    (0..20).for_each(|n| drop(conn.ok(batch(n, 1000))));
    let mut subscriber = Subscriber::begin(&daemon, json!({"from_seq": 1}));
    let (mut next, mut pings) = (1, 0);
    subscriber.conn.send(json!({"op": "ping", "id": "p"}));
    while next <= 20_000 {
        let line = subscriber.conn.answer();
        if line["id"] == "p" {
            pings += 1;
            subscriber.conn.send(json!({"op": "ping", "id": "p"}));
        } else {
            assert_eq!(seq_of(&line), Some(next));
            next += 1;
        }
    }
    assert!(pings > 3, "only {pings} answers came between 20,000 events");
}

#[test]
fn there_are_only_so_many_and_those_that_end_make_room() {
    let site = Site::new(&Config::new().dated("jobs", "").limits("max_subscriptions = 3"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let mut other = daemon.connect();
    (0..2).for_each(|id| drop(conn.ok(subscribe(id, json!({})))));
    other.ok(subscribe(0, json!({})));
    let error = other.refused(subscribe(1, json!({})), "busy");
    assert!(error["message"].as_str().unwrap().contains("max_subscriptions"), "{error}");
    conn.ok(json!({"op": "unsubscribe", "subscription": 1}));
    other.ok(subscribe(1, json!({})));
    assert_eq!(subscriptions(&mut conn), 3);
    // A refused one takes no place.
    conn.ok(json!({"op": "unsubscribe", "subscription": 0}));
    (0..5).for_each(|_| drop(conn.refused(subscribe(1, json!({"from_seq": "x"})), "bad_request")));
    conn.ok(subscribe(1, json!({})));
    drop((conn, other));
    wait_for_subscriptions(&daemon, 0);
}

#[test]
fn one_user_may_have_a_share_of_them() {
    let limits = "max_subscriptions = 4\nmax_subscriptions_per_uid = 3";
    let site = Site::new(&Config::new().dated("jobs", "").limits(limits));
    let daemon = site.start();
    let mut conns = [daemon.connect(), daemon.connect()];
    (0..3).for_each(|id| drop(conns[id % 2].ok(subscribe(id, json!({})))));
    for conn in &mut conns {
        let error = conn.refused(subscribe(9, json!({})), "busy");
        assert!(error["message"].as_str().unwrap().contains("max_subscriptions_per_uid"), "{error}");
    }
    conns[1].ok(json!({"op": "unsubscribe", "subscription": 1}));
    conns[0].ok(subscribe(9, json!({})));
    drop(conns);
    wait_for_subscriptions(&daemon, 0);
    let mut conn = daemon.connect();
    (0..3).for_each(|id| drop(conn.ok(subscribe(id, json!({})))));
}

/// The most memory that the daemon ever had.
fn peak_bytes(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

#[test]
fn subscribing_between_large_answers_does_not_lift_their_bound() {
    let (_site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "key": "k", "data": {"pad": "x".repeat(900_000)}}));
    let before = peak_bytes(&daemon);
    let rounds = 300;
    conn.send_all((0..rounds).flat_map(|_| {
        let read = json!({"op": "get_key", "key": "k"});
        [read, subscribe(9, json!({})), json!({"op": "unsubscribe", "subscription": 9})]
    }));
    for _ in 0..rounds * 3 {
        assert!(conn.text().contains("\"ok\":true"));
    }
    let grown = peak_bytes(&daemon) - before;
    assert!(grown < 64 << 20, "answers of {rounds} times 900,000 bytes took {grown} bytes");
}

#[test]
fn one_that_sends_no_more_is_told_on_until_it_is_gone() {
    let (_site, daemon) = start("dated", "");
    let mut subscriber = Subscriber::begin(&daemon, json!({}));
    subscriber.conn.half_close();
    let mut conn = daemon.connect();
    for n in 1..=3 {
        conn.ok(store(n));
        subscriber.expect([n]);
    }
    assert_eq!(subscriptions(&mut conn), 1);
    drop(subscriber);
    // Nothing is written meanwhile: it is not the next event that tells.
    wait_for_subscriptions(&daemon, 0);
}

#[test]
fn subscribers_do_not_keep_a_daemon_from_stopping() {
    let (site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    write_much(&mut conn);
    let silent = Subscriber::begin(&daemon, json!({"from_seq": 1}));
    let mut idle = Subscriber::begin(&daemon, json!({}));
    // The silent one has filled every buffer on the way.
    thread::sleep(Duration::from_millis(100));
    let closed = thread::spawn(move || idle.conn.next());
    daemon.stop();
    assert_eq!(closed.join().unwrap(), None, "the connection ends");
    drop(silent);
    let daemon = site.start();
    assert_eq!(subscriptions(&mut daemon.connect()), 0);
}

#[test]
fn bad_addresses_are_refused_as_everywhere() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.refused(subscribe(1, json!({})), "unknown_storage");
    conn.refused(subscribe(1, json!({"storage": "none"})), "unknown_storage");
    conn.refused(subscribe(1, json!({"storage": "settings", "date": "2025-01-15"})), "bad_request");
    let answer: Value = conn.ok(subscribe(1, json!({"storage": "settings"})));
    assert_eq!(answer, json!({"id": 1, "ok": true, "seq": 0}), "a collection has no date");
}
