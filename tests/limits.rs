//! `[limits]`: what one client may take, and that the others do not notice.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, child::Stranger, is_root, wait_for};

/// `count` connections that have been let in. Those of the harness, just closed, may still hold a place for a moment.
fn fill(daemon: &Daemon, count: usize) -> Vec<Conn> {
    wait_for(&format!("{count} connections at once"), PATIENCE, || {
        let mut all: Vec<_> = (0..count).map(|_| daemon.connect()).collect();
        let let_in =
            |conn: &mut Conn| conn.try_ask(json!({"op": "ping"})).is_some_and(|answer| answer["ok"] == true);
        all.iter_mut().all(let_in).then_some(all)
    })
}

/// One connection too many: told so, and closed.
fn turned_away(daemon: &Daemon) {
    let mut conn = daemon.connect();
    let error = conn.refusal("one connection too many", "too_many_connections");
    assert!(error["message"].as_str().unwrap().contains('4'), "the limit is not named: {error}");
    assert_eq!(conn.next(), None, "the connection is closed");
}

#[test]
fn max_connections_turns_away_the_next() {
    let site = Site::new(&Config::both().limits("max_connections = 4"));
    let daemon = site.start();
    let mut held = fill(&daemon, 4);
    for _ in 0..3 {
        turned_away(&daemon);
    }
    for conn in &mut held {
        conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    }
    held.pop();
    // A place that is given back can be taken.
    wait_for("the freed place", PATIENCE, || {
        let answer = daemon.connect().try_ask(json!({"op": "ping"}))?;
        (answer["ok"] == true).then_some(())
    });
}

#[test]
fn max_connections_per_uid_turns_away_only_that_user() {
    let config = Config::both()
        .daemon("socket_mode = \"0666\"\ndefault_role = \"reader\"")
        .limits("max_connections_per_uid = 4");
    let site = Site::new(&config);
    let daemon = site.start();
    let mut held = fill(&daemon, 4);
    turned_away(&daemon);
    if is_root() {
        let mut stranger = Stranger::connect(&site);
        assert_eq!(stranger.verdict(&json!({"op": "ping"})), "ok", "another user has places of its own");
    }
    held[0].ok(json!({"op": "ping"}));
}

#[test]
fn the_socket_has_the_mode_of_the_configuration() {
    for (lines, mode) in [("", 0o660), ("socket_mode = \"0600\"", 0o600), ("socket_mode = \"0666\"", 0o666)] {
        let site = Site::new(&Config::both().daemon(lines));
        let _daemon = site.start();
        assert_eq!(fs::metadata(site.socket()).unwrap().permissions().mode() & 0o777, mode, "{lines}");
    }
}

#[test]
fn ten_thousand_requests_before_the_first_answer_is_read() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.send_all((0..10_000).map(
        |n| json!({"op": "store", "id": n, "storage": "jobs", "key": format!("k{n:05}"), "data": {"n": n}}),
    ));
    // Everyone else is served meanwhile.
    daemon.connect().ok(json!({"op": "ping"}));
    for n in 0..10_000 {
        let answer = conn.answer();
        assert_eq!((&answer["id"], &answer["ok"]), (&json!(n), &json!(true)), "{answer}");
    }
    let got = conn.ok(json!({"op": "get_key_process", "storage": "jobs", "key": "k09999"}));
    assert_eq!(got["record"]["data"]["n"], 9_999);
}

#[test]
fn few_requests_in_flight_are_enough_for_any_number() {
    let site = Site::new(&Config::both().limits("max_inflight_requests = 2"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let answers = conn.pipeline((0..2000).map(|n| {
        json!({"op": "store", "id": n, "storage": "jobs", "key": format!("k{}", n % 10), "data": {"n": n}})
    }));
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((&answer["id"], &answer["seq"]), (&json!(n), &json!(n + 1)));
    }
}

#[test]
fn a_socket_in_the_abstract_namespace() {
    let name = format!("@fastpersist-test-{}", std::process::id());
    let site = Site::new(&Config::both().daemon(&format!("socket = \"{name}\"")));
    let daemon = site.start_as(site.command(), &name);
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    drop(conn);
    daemon.stop();
}
