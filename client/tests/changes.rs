//! Subscriptions of both clients against a server that the test scripts: what happens when a connection breaks.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastpersist_client::{Change, Client, ConnectOptions, Date, Error, ErrorCode, blocking};
use serde_json::{Value, json};

/// A listener in a directory of its own, served by a script.
struct Server {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(serve: impl FnOnce(&UnixListener) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("test.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Self { _dir: dir, socket, thread: thread::spawn(move || serve(&listener)) }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions::new().socket(self.socket.as_path())
    }
}

struct Peer(BufReader<UnixStream>);

impl Peer {
    fn accept(listener: &UnixListener) -> Self {
        Self(BufReader::new(listener.accept().unwrap().0))
    }

    fn request(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn say(&mut self, line: &Value) {
        writeln!(self.0.get_mut(), "{line}").unwrap();
    }

    fn say_store(&mut self, seq: u64) {
        self.say(&json!({"id": 1, "event": "store", "record": {"date": "2025-01-15", "key": "k", "process_name": null,
            "data": {"n": seq}, "timestamp": null, "status": null, "status_int": null, "username": null,
            "updated_at": "2025-01-15T10:30:00.000000Z", "seq": seq}}));
    }
}

/// The client's first connection is not the subscription's.
fn skip_client(listener: &UnixListener) -> Peer {
    Peer::accept(listener)
}

fn expect_request(peer: &mut Peer, from_seq: Option<u64>, date: Option<&str>) {
    let request = peer.request();
    assert_eq!((&request["op"], &request["storage"]), (&json!("subscribe"), &json!("jobs")));
    assert_eq!(request.get("from_seq").cloned(), from_seq.map(Value::from), "{request}");
    assert_eq!(request.get("date").cloned(), date.map(Value::from), "{request}");
    assert_eq!(request["prefix"], "p");
}

/// Breaks in every way, tells 6 to 11 once each, and then that what follows is gone.
fn script(listener: &UnixListener) {
    let _client = skip_client(listener);
    let mut peer = Peer::accept(listener);
    expect_request(&mut peer, None, None);
    // It hangs up before it answers.
    drop(peer);
    let mut peer = Peer::accept(listener);
    expect_request(&mut peer, None, None);
    peer.say(&json!({"id": 1, "ok": true, "seq": 5, "date": "2025-01-15"}));
    peer.say_store(6);
    peer.say_store(7);
    // In the middle of a line.
    write!(peer.0.get_mut(), "{{\"id\":1,\"event\":\"store\",\"rec").unwrap();
    drop(peer);
    // The daemon that takes over is busy at first.
    let mut peer = Peer::accept(listener);
    expect_request(&mut peer, Some(8), Some("2025-01-15"));
    peer.say(&json!({"id": 1, "ok": false, "error": {"code": "busy", "message": "m", "retryable": true}}));
    drop(peer);
    let mut peer = Peer::accept(listener);
    expect_request(&mut peer, Some(8), Some("2025-01-15"));
    peer.say(&json!({"id": 1, "ok": true, "seq": 11}));
    peer.say_store(8);
    peer.say(&json!({"id": 1, "event": "dropped", "last_seq": 9}));
    let mut peer = Peer::accept(listener);
    expect_request(&mut peer, Some(10), Some("2025-01-15"));
    peer.say(&json!({"id": 1, "ok": true, "seq": 11}));
    peer.say_store(10);
    peer.say(&json!({"id": 1, "event": "delete", "date": "2025-01-15", "key": "k", "process_name": "w",
        "updated_at": "2025-01-15T10:30:00.000000Z", "seq": 11}));
    drop(peer);
    let mut peer = Peer::accept(listener);
    expect_request(&mut peer, Some(12), Some("2025-01-15"));
    let error = json!({"code": "compacted", "message": "m", "retryable": false, "oldest_seq": 40});
    peer.say(&json!({"id": 1, "ok": false, "error": error}));
}

/// What the script tells.
fn check(changes: &[Result<Change, Error>]) {
    let (last, changes) = changes.split_last().unwrap();
    let changes: Vec<&Change> = changes.iter().map(|change| change.as_ref().unwrap()).collect();
    assert!(changes.iter().map(|change| change.seq()).eq([6, 7, 8, 10, 11]));
    assert!(changes.iter().all(|change| change.date() == Date::parse("2025-01-15")));
    assert!(matches!(changes[0], Change::Store(_)));
    let Change::Delete(deletion) = changes[4] else { panic!("{:?}", changes[4]) };
    assert_eq!((deletion.key.as_str(), deletion.process_name.as_deref()), ("k", Some("w")));
    let Err(Error::Daemon(error)) = last else { panic!("{last:?}") };
    assert_eq!((error.code, error.oldest_seq), (ErrorCode::Compacted, Some(40)));
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_until_it_cannot() {
    let server = Server::start(script);
    let client = Client::connect(server.options()).await.unwrap();
    let mut stream = client.subscribe("jobs").prefix("p").stream();
    let begun = stream.begun().await.unwrap();
    assert_eq!((begun.seq, begun.date), (5, Date::parse("2025-01-15")));
    let mut changes = Vec::new();
    while let Some(change) = stream.next().await {
        changes.push(change);
    }
    check(&changes);
    server.thread.join().unwrap();
}

#[test]
fn an_iterator_goes_on_where_it_was_until_it_cannot() {
    let server = Server::start(script);
    let client = blocking::Client::connect(server.options()).unwrap();
    let mut iterator = client.subscribe("jobs").prefix("p").iter();
    assert_eq!(iterator.begun().unwrap().seq, 5);
    check(&iterator.collect::<Vec<_>>());
    server.thread.join().unwrap();
}

#[tokio::test]
async fn what_time_does_not_heal_ends_it_at_once() {
    let refuse = |listener: &UnixListener| {
        let _client = skip_client(listener);
        let mut peer = Peer::accept(listener);
        peer.request();
        peer.say(&json!({"id": 1, "ok": false, "error": {"code": "forbidden", "message": "m", "retryable": false}}));
    };
    let server = Server::start(refuse);
    let client = Client::connect(server.options()).await.unwrap();
    let mut stream = client.subscribe(None).from_seq(1).stream();
    assert_eq!(stream.begun().await, None);
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Some(ErrorCode::Forbidden));
    assert!(stream.next().await.is_none());
    server.thread.join().unwrap();
}

#[tokio::test]
async fn one_that_is_dropped_hangs_up() {
    let server = Server::start(|listener| {
        let _client = skip_client(listener);
        let mut peer = Peer::accept(listener);
        peer.request();
        peer.say(&json!({"id": 1, "ok": true, "seq": 0}));
        assert_eq!(peer.0.read_line(&mut String::new()).unwrap(), 0, "the end of the connection");
    });
    let client = Client::connect(server.options()).await.unwrap();
    let mut stream = client.subscribe("jobs").stream();
    stream.begun().await.unwrap();
    drop(stream);
    let joined = tokio::task::spawn_blocking(|| server.thread.join());
    tokio::time::timeout(Duration::from_secs(20), joined).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn events_have_no_place_among_answers() {
    use fastpersist_client::protocol::request::{Op, Request};
    let server = Server::start(|listener| drop(skip_client(listener)));
    let client = Client::connect(server.options()).await.unwrap();
    let op = Op::Subscribe { date: None, prefix: "".into(), from_seq: None };
    let error = client.request(&Request { storage: None, op }).await.unwrap_err();
    assert!(matches!(&error, Error::Data(message) if message.contains("subscribe")), "{error}");
    server.thread.join().unwrap();
}
