//! A write that was refused, and whose refusal was lost with the connection: sent again it is refused again, and never
//! taken for one that was stored, whatever was stored behind it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread::{self, JoinHandle},
};

use fastpersist_client::{Client, ConnectOptions, Error, blocking, protocol::error::ErrorCode};
use serde_json::{Value, json};

use crate::harness::{Conn, Daemon, Site};

use super::start;

/// Stands before the daemon: passes the first `count` requests on, keeps their answers to itself and hangs up. What
/// comes over the next connection is passed on and answered. Gives the answers that it kept.
fn lossy(site: &Site, daemon: &Daemon, count: usize) -> (String, JoinHandle<Vec<Value>>) {
    let path = site.path("lossy.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut to_daemon = daemon.connect();
    let relay = thread::spawn(move || {
        let accept = || BufReader::new(listener.accept().expect("a client").0);
        let line = |client: &mut BufReader<UnixStream>| {
            let mut line = String::new();
            client.read_line(&mut line).expect("read from the client");
            line.trim_end().to_owned()
        };
        let mut client = accept();
        let kept = (0..count).map(|_| to_daemon.ask(line(&mut client))).collect();
        drop(client);
        let mut client = accept();
        loop {
            let request = line(&mut client);
            if request.is_empty() {
                return kept;
            }
            let answer = to_daemon.ask(request);
            client.get_mut().write_all(format!("{answer}\n").as_bytes()).expect("write to the client");
        }
    });
    (path.to_str().expect("UTF-8").to_owned(), relay)
}

fn assert_as_it_was(kept: &[Value], conn: &mut Conn) {
    assert_eq!((&kept[0]["error"]["code"], &kept[1]["ok"]), (&json!("conflict"), &json!(true)), "{kept:?}");
    let records = conn.ok(json!({"op": "get_key", "storage": "settings", "key": "k"}))["records"].clone();
    assert_eq!(records.as_array().map(Vec::len), Some(1), "{records}");
    assert_eq!(records[0]["item_name"], "stored");
}

fn assert_conflict<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("it was never stored");
    assert_eq!(error.code(), Some(ErrorCode::Conflict), "{error}");
}

#[test]
fn the_async_client_hears_of_the_conflict_again() {
    let (site, daemon, mut conn) = start("");
    let (socket, relay) = lossy(&site, &daemon, 2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (refused, stored) = runtime.block_on(async {
        let client = Client::connect(ConnectOptions::new().socket(socket)).await.expect("a daemon");
        let settings = client.collection("settings");
        // In this order, for there is one thread.
        let refused = settings.store("k", &json!({})).item_name("refused").if_seq(9).send();
        let stored = settings.store("k", &json!({})).item_name("stored").send();
        let (refused, stored) = (tokio::spawn(refused), tokio::spawn(stored));
        (refused.await.expect("a task"), stored.await.expect("a task"))
    });
    drop(runtime);
    assert!(stored.expect("stored").duplicate);
    assert_conflict(refused);
    assert_as_it_was(&relay.join().expect("the relay"), &mut conn);
}

#[test]
fn the_blocking_client_hears_of_the_conflict_again() {
    let (site, daemon, mut conn) = start("");
    let (socket, relay) = lossy(&site, &daemon, 2);
    let client = blocking::Client::connect(ConnectOptions::new().socket(socket)).expect("a daemon");
    let settings = client.collection("settings");
    let mut batch = settings.batch();
    batch.add(settings.store("k", &json!({})).item_name("refused").if_seq(9));
    batch.add(settings.store("k", &json!({})).item_name("stored"));
    let mut results = batch.send_each().expect("a daemon").into_iter();
    drop((settings, batch, client));
    assert_conflict(results.next().expect("a result"));
    assert!(results.next().expect("a result").expect("stored").duplicate);
    assert_as_it_was(&relay.join().expect("the relay"), &mut conn);
}
