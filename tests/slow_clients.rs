//! A client that does not read what it asked for: bounded, then disconnected, and nobody else waits for it.

use std::{
    io::{ErrorKind, Write},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{Config, Conn, PATIENCE, Site};

/// Sends the same line until the daemon hangs up. Where the daemon reads no more, waits for it to act.
fn send_until_disconnected(conn: &mut Conn, line: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    conn.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sent = 0;
    let bytes = format!("{line}\n");
    let mut rest = bytes.as_bytes();
    loop {
        match conn.stream().write(rest) {
            Ok(written) if written == rest.len() => {
                sent += 1;
                rest = bytes.as_bytes();
            }
            Ok(written) => rest = &rest[written..],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return sent,
            Err(e) => panic!("sending: {e}"),
        }
        assert!(Instant::now() < deadline, "one that reads nothing is still connected after {sent} requests");
    }
}

#[test]
fn one_that_never_reads_is_bounded_and_disconnected() {
    let site = Site::new(&Config::both().limits("max_output_bytes = 1048576"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    // Each answer is 200 kB: a few hundred of them would be felt.
    let pad = "x".repeat(200_000);
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "big", "data": {"pad": pad}}));
    let before = daemon.resident_bytes();
    let get = r#"{"op":"get_key_process","storage":"jobs","key":"big"}"#;
    thread::scope(|scope| {
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let mut conn = daemon.connect();
                scope.spawn(move || send_until_disconnected(&mut conn, get))
            })
            .collect();
        // The others go on writing and reading all the while.
        let mut served = 0;
        while served < 200 || slow.iter().any(|thread| !thread.is_finished()) {
            conn.ok(
                json!({"op": "store", "storage": "jobs", "key": format!("k{}", served % 50), "data": {}}),
            );
            conn.ok(json!({"op": "get_key_process", "storage": "jobs", "key": "k0"}));
            served += 1;
        }
        for thread in slow {
            thread.join().unwrap();
        }
    });
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "four clients that do not read made it grow by {grown} bytes");
}

#[test]
fn one_that_reads_slowly_gets_everything_in_order() {
    // The answers fill every buffer on the way several times over, yet stay below the limit.
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let pad = "x".repeat(10_000);
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "big", "data": {"pad": pad}}));
    conn.send_all(
        (0..500).map(|n| json!({"op": "get_key_process", "id": n, "storage": "jobs", "key": "big"})),
    );
    for n in 0..500 {
        let answer = conn.answer();
        assert_eq!(answer["id"], n);
        assert_eq!(answer["record"]["data"]["pad"].as_str().unwrap().len(), 10_000);
    }
}

#[test]
fn one_that_hangs_up_without_reading_costs_nothing() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut keeper = daemon.connect();
    for round in 0..20 {
        let mut conn = daemon.connect();
        for n in 0..50 {
            conn.send(json!({"op": "store", "storage": "jobs", "key": format!("{round}-{n}"), "data": {}}));
        }
        drop(conn);
    }
    // What was sent may be there or not; what is there is whole, and the daemon goes on.
    keeper.ok(json!({"op": "store", "storage": "jobs", "key": "last", "data": {"n": 1}}));
    let keys = keeper.ok(json!({"op": "keys", "storage": "jobs", "limit": 2000}));
    assert!(keys["keys"].as_array().unwrap().contains(&json!("last")));
}
