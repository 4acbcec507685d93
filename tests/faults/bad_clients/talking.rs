//! The limits on what a client sends, how much of it at once, and how slowly it reads.

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::ground::{DAY, Ground, line_of, store};
use crate::harness::{Config, Conn, PATIENCE, Site, child::Stranger, is_root, wait_for};

pub(super) fn line_bytes() -> u64 {
    let mut ground = Ground::new("max_line_bytes = 2000");
    let mut conn = ground.connect();
    conn.ok(line_of(2000, "k"));
    // `\r` is part of the end and not of the line.
    conn.ok(format!("{}\r", line_of(2000, "k")));
    for over in [1, 2, 100_000] {
        conn.refused(line_of(2000 + over, "k"), "line_too_long");
        ground.others_go_on();
    }
    conn.ok(line_of(2000, "k"));
    3
}

pub(super) fn json_depth() -> u64 {
    let mut ground = Ground::new("max_json_depth = 10");
    let mut conn = ground.connect();
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 2), "]".repeat(depth - 2));
        format!(r#"{{"op":"store","storage":"jobs","date":"{DAY}","key":"k","data":{{"a":{open}{close}}}}}"#)
    };
    conn.ok(nested(10));
    conn.refused(nested(11), "bad_json");
    ground.others_go_on();
    1
}

/// One connection too many: told so, and closed.
fn turned_away(ground: &Ground, limit: &str) {
    let mut conn = ground.connect();
    let error = conn.refusal("one connection too many", "too_many_connections");
    assert!(error["message"].as_str().is_some_and(|text| text.contains(limit)), "{error}");
    assert_eq!(conn.next(), None, "the connection is closed");
}

/// Connections that are let in, until there are `count` with the other client's.
fn fill(ground: &mut Ground, count: usize) -> Vec<Conn> {
    ground.wait_for_figure("connections", 1);
    let mut all: Vec<_> = (1..count).map(|_| ground.connect()).collect();
    for conn in &mut all {
        conn.ok(json!({"op": "ping"}));
    }
    all
}

pub(super) fn connections() -> u64 {
    let mut ground = Ground::new("max_connections = 6");
    let mut held = fill(&mut ground, 6);
    for _ in 0..3 {
        turned_away(&ground, "max_connections");
        ground.others_go_on();
    }
    for conn in &mut held {
        conn.ok(store("k"));
    }
    held.pop();
    wait_for("the place that was given back", PATIENCE, || {
        let answer = ground.connect().try_ask(json!({"op": "ping"}))?;
        (answer["ok"] == true).then_some(())
    });
    3
}

pub(super) fn connections_per_uid() -> u64 {
    let config = Config::both()
        .daemon("socket_mode = \"0666\"\ndefault_role = \"reader\"")
        .limits("max_connections_per_uid = 6");
    let mut ground = Ground::on(&config);
    let _held = fill(&mut ground, 6);
    turned_away(&ground, "max_connections_per_uid");
    ground.others_go_on();
    if is_root() {
        let mut stranger = Stranger::connect(&ground.site);
        assert_eq!(stranger.verdict(&json!({"op": "ping"})), "ok", "another user has places of its own");
        turned_away(&ground, "max_connections_per_uid");
    }
    1
}

/// Sends `count` stores at once, all of which are answered in order; answers the commits that they took.
fn commits_of(ground: &mut Ground, count: u64) -> u64 {
    let commits =
        |ground: &mut Ground| ground.stats()["storages"]["jobs"]["commits"].as_u64().expect("commits");
    let before = commits(ground);
    let mut conn = ground.connect();
    // A line of 200 bytes with its end.
    conn.send_all((0..count).map(|n| line_of(199, &format!("k{n:04}"))));
    ground.others_go_on();
    let first = conn.answer()["seq"].as_u64().expect("a seq");
    for n in 1..count {
        assert_eq!(conn.answer()["seq"], first + n, "answer {n}");
    }
    commits(ground) - before
}

pub(super) fn inflight_requests() -> u64 {
    let mut ground = Ground::new("max_inflight_requests = 3");
    commits_of(&mut ground, 3);
    commits_of(&mut ground, 4);
    let commits = commits_of(&mut ground, 300);
    assert!(commits >= 100, "300 writes were committed in {commits} portions, each of at most 3");
    2
}

pub(super) fn inflight_bytes() -> u64 {
    let mut ground = Ground::new("max_inflight_bytes = 1000");
    commits_of(&mut ground, 5);
    commits_of(&mut ground, 6);
    let commits = commits_of(&mut ground, 300);
    assert!(commits >= 60, "60,000 bytes were committed in {commits} portions, each of at most 1,000");
    2
}

/// What one answer takes that [`ask_for`] asks for.
const ANSWER_BYTES: usize = 20_000;

/// Stores a record, and asks for it so often without reading.
fn ask_for(conn: &mut Conn, count: usize) {
    conn.send_all(
        (0..count)
            .map(|n| json!({"op": "get_key_process", "id": n, "storage": "jobs", "date": DAY, "key": "big"})),
    );
}

fn with_big(limits: &str) -> (Ground, Conn) {
    let ground = Ground::new(limits);
    let mut conn = ground.connect();
    conn.ok(line_of(ANSWER_BYTES, "big"));
    (ground, conn)
}

pub(super) fn output_bytes() -> u64 {
    let (mut ground, mut conn) = with_big("max_output_bytes = 100000");
    let is_there = |key: &str, ground: &Ground| {
        let get = json!({"op": "get_key_process", "storage": "jobs", "date": DAY, "key": key});
        !ground.connect().ok(get)["record"].is_null()
    };
    // Up to the limit it is worked for, read or not.
    let mut within = ground.connect();
    ask_for(&mut within, 5);
    within.send(store("within"));
    wait_for("what is within the limit", PATIENCE, || is_there("within", &ground).then_some(()));
    // What the sockets hold and the limit allows is less than this; behind it nothing more is done.
    ask_for(&mut conn, 100);
    conn.send(store("beyond"));
    for _ in 0..50 {
        ground.others_go_on();
    }
    assert!(!is_there("beyond", &ground), "it is worked for a client that reads nothing");
    for n in 0..100 {
        assert_eq!(conn.answer()["id"], n);
    }
    assert_eq!(conn.answer()["ok"], true);
    assert!(is_there("beyond", &ground));
    1
}

/// Reads to the end and counts the answers; false where the daemon hung up before the end.
fn read_all(conn: &mut Conn, count: usize) -> bool {
    (0..count).all(|_| conn.next().is_some())
}

pub(super) fn output_stall() -> u64 {
    let (mut ground, mut conn) = with_big("max_output_bytes = 100000\noutput_stall_timeout_ms = 400");
    // Below the limit nobody is hurried.
    let mut patient = ground.connect();
    ask_for(&mut patient, 5);
    // A reader that takes its time is no stalled one.
    let mut slow = ground.connect();
    ask_for(&mut slow, 60);
    ask_for(&mut conn, 100);
    let begun = Instant::now();
    let reader = thread::spawn(move || {
        let mut chunk = [0; 16_384];
        let mut read = 0;
        while read < 60 * ANSWER_BYTES {
            thread::sleep(Duration::from_millis(20));
            match slow.stream().read(&mut chunk) {
                Ok(0) | Err(_) => return read,
                Ok(count) => read += count,
            }
        }
        read
    });
    wait_for("the end of one that reads nothing", PATIENCE, || {
        ground.others_go_on();
        ground.daemon.log().contains("a client was disconnected").then_some(())
    });
    let after = begun.elapsed();
    assert!(after >= Duration::from_millis(400), "it was disconnected after {after:?}");
    assert!(after < Duration::from_secs(10), "it was disconnected only after {after:?}");
    assert!(!read_all(&mut conn, 100), "its connection is closed");
    let read = reader.join().expect("the slow reader");
    assert!(read >= 60 * ANSWER_BYTES, "a slow reader was cut off after {read} bytes");
    assert!(read_all(&mut patient, 5), "below the limit one may wait");
    1
}

pub(super) fn batch_ops() -> u64 {
    let mut ground = Ground::new("max_batch_ops = 3");
    let mut conn = ground.connect();
    let batch = |count: usize| {
        let ops: Vec<_> =
            (0..count).map(|n| json!({"op": "store", "key": format!("k{n}"), "data": {}})).collect();
        json!({"op": "batch", "storage": "jobs", "date": DAY, "ops": ops})
    };
    assert_eq!(conn.ok(batch(3))["seqs"], json!([1, 2, 3]));
    let error = conn.refused(batch(4), "bad_request");
    assert_eq!(error["field"], "ops");
    assert_eq!(conn.ok(store("next"))["seq"], 4, "nothing of it was stored");
    ground.others_go_on();
    1
}

/// Every key of `[limits]` is a number above some least one; what is no such number is refused by name.
pub(super) fn out_of_range(keys: &[String]) {
    for key in keys {
        let site = Site::new(&Config::both().limits(&format!("{key} = -1")));
        let exit = site.refused_start();
        assert!(exit.stderr.contains(key.as_str()), "{key}: {}", exit.stderr);
    }
}
