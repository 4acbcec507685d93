//! Between history, log and what comes: no gap and no repetition, also across restarts of either side.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
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

/// Follows from 1 to `last`, and begins anew after a random number of changes, or when the daemon is gone; answers how
/// often.
fn follow_with_restarts(socket: &str, last: u64, seed: &mut Random, longest: u64) -> u64 {
    let (mut next, mut restarts) = (1, 0);
    while next <= last {
        let begun = wait_for("a daemon", PATIENCE, || {
            let mut conn = Conn::try_connect(socket).ok()?;
            let answer = conn.try_ask(subscribe(9, json!({"from_seq": next})))?;
            let ok = answer["ok"] == true;
            assert!(ok || answer["error"]["retryable"] == true, "{answer}");
            ok.then_some(conn)
        });
        let mut conn = begun;
        for _ in 0..seed.between(1, longest).min(last + 1 - next) {
            let Some(line) = conn.next() else { break };
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

/// Writes in batches over two connections until record `last` is answered, whatever becomes of the daemon. A batch
/// that was not answered is stored or not; either way the places stand one behind the other.
fn write_through_kills(socket: &str, last: u64, size: u64, written: &AtomicU64) {
    let line = batch(1, size).to_string();
    let write = || {
        let mut conn = None;
        while written.load(Ordering::Relaxed) < last {
            let mut open = conn
                .take()
                .unwrap_or_else(|| wait_for("a daemon", PATIENCE, || Conn::try_connect(socket).ok()));
            let Some(answer) = open.try_ask(&line) else { continue };
            let seq = answer["seqs"].as_array().and_then(|seqs| seqs.last()?.as_u64());
            assert!(seq.is_some() || answer["error"]["retryable"] == true, "{answer}");
            written.fetch_max(seq.unwrap_or(0), Ordering::Relaxed);
            conn = Some(open);
        }
    };
    thread::scope(|scope| drop([scope.spawn(write), scope.spawn(write)]));
}

/// A `fastpersist watch` from 1 to `last`, which connects again by itself; killed when it goes out of scope.
struct Watching(Child);

impl Watching {
    fn start(site: &Site, last: u64) -> Self {
        let mut command = super::watch::command(site, &["--from-seq", "1", "--limit", &last.to_string()]);
        Self(command.stdout(Stdio::piped()).spawn().expect("start fastpersist watch"))
    }

    fn ended(&mut self) {
        let status = wait_for("the end of the watch", PATIENCE, || self.0.try_wait().expect("wait"));
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Each line must be the next change; answers how many there were.
fn check_lines(printed: ChildStdout) -> u64 {
    let lines = BufReader::new(printed).lines().map(|line| line.expect("a line"));
    lines.zip(1..).map(|(line, seq)| assert_eq!(last_number(&line), Some(seq), "{line}")).count() as u64
}

/// Two subscribers restart at random moments; a third, `watch`, connects again by itself. Meanwhile the daemon flushes, seals and deletes segments, and is killed or stopped, and started again.
#[test]
fn a_million_writes_reach_subscribers_once_each_while_they_and_the_daemon_restart() {
    const WRITES: u64 = 1_000_000;
    const RESTARTS: u64 = 6;
    let lines = "max_wal_size = 4194304\nwal_retain_days = 0\nbatch_size = 50000";
    let (site, daemon) = start("collection", lines);
    let (site, socket, written) = (&site, site.socket(), AtomicU64::new(0));
    let daemon = thread::scope(|scope| {
        let mut watching = Watching::start(site, WRITES);
        let printed = watching.0.stdout.take().expect("its output");
        let watched = scope.spawn(move || check_lines(printed));
        let followers: Vec<_> = [400_000, 60_000]
            .map(|longest| {
                let mut random = Random::new();
                scope.spawn(move || follow_with_restarts(socket, WRITES, &mut random, longest))
            })
            .into();
        let written = &written;
        let writer = scope.spawn(move || write_through_kills(socket, WRITES, 2000, written));
        let mut random = Random::new();
        let mut daemon = daemon;
        for n in 1..=RESTARTS {
            let at = WRITES * n / (RESTARTS + 1) + random.between(0, WRITES / 20);
            wait_for("more writes", 2 * PATIENCE, || {
                assert!(!writer.is_finished(), "the writers gave up");
                (written.load(Ordering::Relaxed) >= at).then_some(())
            });
            if n == RESTARTS {
                daemon.stop();
            } else {
                daemon.kill();
            }
            daemon = site.start();
        }
        for follower in followers {
            assert!(follower.join().unwrap() > 1, "it restarted");
        }
        assert_eq!(watched.join().unwrap(), WRITES);
        watching.ended();
        daemon
    });
    daemon.connect().ok(json!({"op": "flush"}));
    wait_for_first_segment_to_go(site, "settings");
    // Nothing comes behind the last one but what is written now.
    let mut late = Subscriber::begin(&daemon, json!({"from_seq": WRITES}));
    let stored = late.answer["seq"].as_u64().unwrap();
    daemon.connect().ok(store("k"));
    late.expect(WRITES..=stored + 1);
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
