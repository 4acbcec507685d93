//! Between history, log and what comes: no gap and no repetition, also across restarts of either side.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Subscriber, batch, seq_of, start, store, subscribe};
use crate::harness::{Config, Conn, PATIENCE, Random, Site, files, wait_for};

/// Small segments that go as soon as they may, and a flush whenever there is something.
const SHORT_LOG: &str =
    "max_wal_size = 65536\nwal_retain_days = 0\nbatch_size = 500\nduckdb_flush_interval_seconds = 1";

/// The place of a change, without reading the whole line as JSON: it is the last number in it.
pub(super) fn last_number(line: &str) -> Option<u64> {
    let at = line.rfind("\"seq\":")?;
    let digits: String = line[at + 6..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Follows from 1 to `last`, and begins anew after a random number of changes; answers how often.
fn follow_with_restarts(socket: &str, last: u64, seed: &mut Random, longest: u64) -> u64 {
    let (mut next, mut restarts) = (1, 0);
    while next <= last {
        let mut conn = Conn::connect(socket);
        conn.ok(subscribe(9, json!({"from_seq": next})));
        for _ in 0..seed.between(1, longest).min(last + 1 - next) {
            let line = conn.text();
            assert_eq!(last_number(&line), Some(next), "{line}");
            next += 1;
        }
        restarts += 1;
    }
    restarts
}

/// Writes `count` changes in batches over two connections.
fn write(socket: &str, count: u64, size: u64) {
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut conn = Conn::connect(socket);
            scope.spawn(move || {
                let lines: Vec<String> = (0..5).map(|n| batch(n * size, size).to_string()).collect();
                for n in 0..count / size / 2 {
                    conn.ok(&lines[n as usize % lines.len()]);
                }
            });
        }
    });
}

/// Waits until the log does not reach back to the first record any more.
fn wait_for_first_segment_to_go(site: &Site, storage: &str) {
    wait_for("the log's beginning to go", PATIENCE, || {
        let segments = files::segments(&site.path(storage));
        let is_there = segments.iter().any(|segment| segment.ends_with("wal_000001.jsonl"));
        (!is_there).then_some(())
    });
}

#[test]
fn a_million_writes_reach_a_subscriber_that_restarts_at_random_moments_once_each() {
    const WRITES: u64 = 1_000_000;
    let lines = "max_wal_size = 4194304\nwal_retain_days = 0\nbatch_size = 50000";
    let (site, daemon) = start("collection", lines);
    let socket = site.socket();
    thread::scope(|scope| {
        let followers: Vec<_> = [400_000, 60_000]
            .map(|longest| {
                let mut random = Random::new();
                scope.spawn(move || follow_with_restarts(socket, WRITES, &mut random, longest))
            })
            .into();
        write(socket, WRITES, 2000);
        for follower in followers {
            assert!(follower.join().unwrap() > 1, "it restarted");
        }
    });
    // Nothing comes behind the last one but what is written now.
    let mut late = Subscriber::begin(&daemon, json!({"from_seq": WRITES}));
    daemon.connect().ok(store("k"));
    late.expect([WRITES, WRITES + 1]);
    daemon.stop();
}

#[test]
fn history_log_and_feed_are_one_under_load() {
    const WRITES: u64 = 60_000;
    let (site, daemon) = start("collection", SHORT_LOG);
    let socket = site.socket();
    thread::scope(|scope| {
        let followers: Vec<_> = (0..3)
            .map(|_| {
                let mut random = Random::new();
                scope.spawn(move || follow_with_restarts(socket, WRITES, &mut random, 9000))
            })
            .collect();
        write(socket, WRITES, 20);
        for follower in followers {
            follower.join().unwrap();
        }
    });
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "flush"}));
    wait_for_first_segment_to_go(&site, "settings");
    // Now all of it is history, deletions too.
    conn.ok(json!({"op": "delete", "key": "k1"}));
    conn.ok(json!({"op": "flush"}));
    let mut subscriber = Subscriber::begin(&daemon, json!({"from_seq": WRITES - 5000}));
    subscriber.expect(WRITES - 5000..=WRITES);
    assert_eq!(subscriber.event()["event"], "delete");
    daemon.stop();
}

#[test]
fn after_a_restart_of_the_daemon_it_goes_on_where_it_was() {
    let (site, daemon) = start("collection", SHORT_LOG);
    let mut daemon = Some(daemon);
    let mut random = Random::new();
    let (mut next, mut written) = (1, 0);
    for round in 0..6 {
        let running = daemon.take().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (stop, mut conn) = (&stop, running.connect());
            let writer = scope.spawn(move || {
                let mut last = written;
                while let Some(answer) = conn.try_ask(batch(last, 30)) {
                    if answer["ok"] == true {
                        last = answer["seqs"][29].as_u64().unwrap();
                    }
                }
                stop.store(true, Ordering::Relaxed);
                last
            });
            let mut subscriber = Subscriber::begin(&running, json!({"from_seq": next}));
            let until = Instant::now() + Duration::from_millis(random.between(50, 400));
            while Instant::now() < until {
                subscriber.expect([next]);
                next += 1;
            }
            if round % 2 == 0 {
                running.kill();
            } else {
                running.stop();
            }
            // What was on its way still comes, each once.
            while let Some(line) = subscriber.conn.next() {
                assert_eq!(last_number(&line), Some(next), "{line}");
                next += 1;
            }
            written = writer.join().unwrap();
            assert!(stop.load(Ordering::Relaxed));
        });
        daemon = Some(site.start());
    }
    let running = daemon.take().unwrap();
    let mut subscriber = Subscriber::begin(&running, json!({"from_seq": next}));
    let stored = subscriber.answer["seq"].as_u64().unwrap();
    assert!(stored >= written, "every answered write is there: {stored} of {written}");
    subscriber.expect(next..=stored);
    running.stop();
}

#[test]
fn what_is_not_kept_is_compacted_and_says_from_where_on_it_is() {
    let (site, daemon) = start("dated", SHORT_LOG);
    let mut conn = daemon.connect();
    let pad = "x".repeat(1000);
    for n in 0..300 {
        conn.ok(json!({"op": "store", "key": format!("k{n}"), "data": {"pad": pad}}));
    }
    conn.ok(json!({"op": "flush"}));
    wait_for_first_segment_to_go(&site, "jobs");
    let error = conn.refused(subscribe(9, json!({"from_seq": 1})), "compacted");
    let kept = error["oldest_seq"].as_u64().expect("the oldest that is kept");
    assert!(kept > 1, "{error}");
    let mut subscriber = Subscriber::on(conn, json!({"from_seq": kept}));
    subscriber.expect(kept..=300);
    daemon.connect().ok(store("k"));
    subscriber.expect([301]);
}

#[test]
fn a_date_that_was_closed_and_settled_is_followed_from_its_log() {
    let (site, daemon) = start("dated", "max_wal_size = 65536");
    let mut conn = daemon.connect();
    let dated = |n: u64| {
        let mut line = batch(n, 100);
        line["date"] = json!("2025-01-15");
        line
    };
    (0..50).for_each(|n| drop(conn.ok(dated(n))));
    daemon.stop();
    let daemon = site.start();
    for from in [1, 777, 4999] {
        let mut subscriber = Subscriber::begin(&daemon, json!({"date": "2025-01-15", "from_seq": from}));
        subscriber.expect(from..=5000);
    }
    let mut subscriber = Subscriber::begin(&daemon, json!({"date": "2025-01-15", "from_seq": 4990}));
    daemon.connect().ok(dated(1));
    subscriber.expect(4990..=5100);
}

#[test]
fn a_date_without_data_is_followed_from_its_first_write_and_not_made() {
    let (site, daemon) = start("dated", "");
    let mut today = Subscriber::begin(&daemon, json!({}));
    let mut other = Subscriber::begin(&daemon, json!({"date": "2030-05-05", "from_seq": 1}));
    assert_eq!((&today.answer["seq"], &other.answer["seq"]), (&json!(0), &json!(0)));
    let date = today.answer["date"].as_str().expect("the date that today is").to_owned();
    let mut conn = daemon.connect();
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"], json!([]));
    let made: Vec<_> = files::tree(&site.path("jobs"));
    assert!(made.iter().all(|path| !path.to_string_lossy().contains("20")), "{made:?}");
    let stored = conn.ok(json!({"op": "store", "date": date, "key": "k", "data": {}}));
    assert_eq!(stored["seq"], 1);
    conn.ok(json!({"op": "store", "date": "2030-05-05", "key": "k", "data": {}}));
    let event = today.event();
    assert_eq!((seq_of(&event), &event["record"]["date"]), (Some(1), &Value::from(date)));
    other.expect([1]);
}

#[test]
fn followed_dates_close_for_others_and_go_on_when_they_are_written() {
    let config = Config::new().dated("jobs", "").limits("max_open_dates = 2\nbusy_wait_ms = 20000");
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    let days: Vec<String> = (1..=6).map(|day| format!("2025-01-{day:02}")).collect();
    let mut followers: Vec<_> =
        days.iter().map(|date| Subscriber::begin(&daemon, json!({"date": date, "from_seq": 1}))).collect();
    for round in 1..=5 {
        for (date, follower) in days.iter().zip(&mut followers) {
            conn.ok(json!({"op": "store", "date": date, "key": "k", "data": {"round": round}}));
            follower.expect([round]);
        }
    }
    // Whoever comes late opens the date once more, and reads what is in its log.
    for date in &days {
        Subscriber::begin(&daemon, json!({"date": date, "from_seq": 2})).expect(2..=5);
    }
    daemon.stop();
}
