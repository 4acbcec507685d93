//! Both clients against a server that the test scripts: what happens between the lines.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastpersist_client::{Client, ConnectOptions, Error, ErrorCode, blocking};
use serde_json::json;

const REFUSAL: &str =
    "{\"ok\":false,\"error\":{\"code\":\"too_many_connections\",\"message\":\"m\",\"retryable\":false}}\n";

/// A listener whose connections are served by `serve`, one after the other, in a thread.
struct Server {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(serve: impl FnOnce(UnixListener) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("test.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Self { _dir: dir, socket, thread: thread::spawn(move || serve(listener)) }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions::new().socket(self.socket.as_path())
    }

    fn join(self) {
        self.thread.join().unwrap();
    }
}

/// One accepted connection, line by line.
struct Peer {
    reader: BufReader<UnixStream>,
}

impl Peer {
    fn accept(listener: &UnixListener) -> Self {
        Self { reader: BufReader::new(listener.accept().unwrap().0) }
    }

    /// The next request, or `None` when the client is gone.
    fn request(&mut self) -> Option<serde_json::Value> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    fn reply(&mut self, line: &str) {
        self.reader.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// Answers a store whose key is a number with that number as its `seq`.
    fn reply_with_key(&mut self, request: &serde_json::Value) {
        let key = request["key"].as_str().unwrap();
        self.reply(&format!("{{\"ok\":true,\"seq\":{key},\"durable\":true}}\n"));
    }

    fn echo_all(mut self) {
        while let Some(request) = self.request() {
            self.reply_with_key(&request);
        }
    }
}

async fn store(client: &Client, key: u64) -> Result<u64, Error> {
    let stored = client.dated("s").store(key.to_string(), &json!({"n": key})).send().await?;
    Ok(stored.seq)
}

fn store_blocking(client: &blocking::Client, key: u64) -> Result<u64, Error> {
    Ok(client.dated("s").store(key.to_string(), &json!({"n": key})).send()?.seq)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_gets_its_own_reply_and_requests_travel_together() {
    let server = Server::start(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut reads, mut bytes, mut buffer) = (0, Vec::new(), vec![0; 65536]);
        loop {
            let count = stream.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            reads += 1;
            bytes.extend_from_slice(&buffer[..count]);
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let request: serde_json::Value = serde_json::from_slice(&bytes[..end]).unwrap();
                let key = request["key"].as_str().unwrap();
                writeln!(stream, "{{\"ok\":true,\"seq\":{key},\"durable\":true}}").unwrap();
                bytes.drain(..=end);
            }
        }
        assert!(reads < 50, "500 requests took {reads} reads");
    });
    let client = Client::connect(server.options()).await.unwrap();
    let tasks: Vec<_> = (1..=500u64)
        .map(|key| {
            let client = client.clone();
            tokio::spawn(async move { (key, store(&client, key).await) })
        })
        .collect();
    for task in tasks {
        let (key, seq) = task.await.unwrap();
        assert_eq!(seq.unwrap(), key);
    }
    drop(client);
    server.join();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reply_is_not_taken_for_the_next_one() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        let first = peer.request().unwrap();
        let second = peer.request().unwrap();
        peer.reply_with_key(&first);
        peer.reply_with_key(&second);
    });
    let client = Client::connect(server.options().request_timeout(Duration::from_millis(100))).await.unwrap();
    let error = store(&client, 1).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(error.is_outcome_unknown());
    assert_eq!(store(&client, 2).await.unwrap(), 2);
    server.join();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_fails_what_is_under_way_and_the_next_request_connects_again() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        // Both: one that came later would go over the next connection, and be stored.
        peer.request().unwrap();
        peer.request().unwrap();
        drop(peer);
        Peer::accept(&listener).echo_all();
    });
    let client = Client::connect(server.options().retry_writes_for(Duration::ZERO)).await.unwrap();
    let (one, two) = tokio::join!(store(&client, 1), store(&client, 2));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert!(matches!(error, Error::Disconnected { .. }), "{error}");
        assert!(error.is_retryable() && error.is_outcome_unknown());
    }
    assert_eq!(store(&client, 3).await.unwrap(), 3);
    drop(client);
    server.join();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_gone_is_a_connect_error_at_once() {
    let server = Server::start(|listener| drop(Peer::accept(&listener)));
    let socket = server.socket.clone();
    let client = Client::connect(server.options().retry_writes_for(Duration::ZERO)).await.unwrap();
    server.join();
    assert!(!socket.exists());
    // Whether the first request still meets the broken connection is a race; the second does not.
    let _ = store(&client, 1).await;
    let error = store(&client, 2).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(!error.is_outcome_unknown());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_says_why() {
    let server = Server::start(|listener| {
        // How often a client tries depends on when it hears the refusal.
        loop {
            Peer::accept(&listener).reply(REFUSAL);
        }
    });
    let client = Client::connect(server.options()).await.unwrap();
    let error = store(&client, 1).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooManyConnections), "{error}");
    let client = blocking::Client::connect(server.options()).unwrap();
    thread::sleep(Duration::from_millis(50));
    let error = store_blocking(&client, 1).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TooManyConnections), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_over_the_limit_costs_only_its_own_request() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        peer.request().unwrap();
        let padding = "x".repeat(200_000);
        peer.reply(&format!("{{\"ok\":true,\"seq\":1,\"durable\":true,\"padding\":\"{padding}\"}}\n"));
        peer.echo_all();
    });
    let client = Client::connect(server.options().max_reply_bytes(10_000)).await.unwrap();
    let (long, short) = tokio::join!(store(&client, 1), store(&client, 2));
    assert!(matches!(long, Err(Error::Protocol(_))), "{long:?}");
    assert_eq!(short.unwrap(), 2);
    drop(client);
    server.join();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_requests_are_under_way_than_allowed() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        let first = [peer.request().unwrap(), peer.request().unwrap()];
        peer.reader.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut byte = [0];
        assert!(peer.reader.read(&mut byte).is_err(), "a third request came before a reply");
        peer.reader.get_ref().set_read_timeout(None).unwrap();
        for request in &first {
            peer.reply_with_key(request);
        }
        peer.echo_all();
    });
    let client = Client::connect(server.options().max_in_flight(2)).await.unwrap();
    let all = tokio::join!(store(&client, 1), store(&client, 2), store(&client, 3), store(&client, 4));
    assert_eq!((all.0.unwrap(), all.1.unwrap(), all.2.unwrap(), all.3.unwrap()), (1, 2, 3, 4));
    drop(client);
    server.join();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_sent_each_by_itself_get_each_its_result() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        while let Some(request) = peer.request() {
            if request["op"] == "delete" {
                peer.reply("{\"ok\":true,\"seq\":null,\"deleted\":false,\"durable\":true}\n");
            } else if request["key"] == "3" {
                peer.reply("{\"ok\":false,\"error\":{\"code\":\"bad_request\",\"message\":\"no 3\"}}\n");
            } else {
                peer.reply_with_key(&request);
            }
        }
    });
    let client = Client::connect(server.options()).await.unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    for key in ["1", "2", "3"] {
        batch.add(jobs.store(key, &json!({})));
    }
    batch.add(jobs.delete("4"));
    batch.add(jobs.store("5", &json!("no object")));
    let results = batch.send_each().await.unwrap();
    let seqs: Vec<_> = results.iter().map(|result| result.as_ref().ok().map(|done| done.seq)).collect();
    assert_eq!(seqs, [Some(Some(1)), Some(Some(2)), None, Some(None), None]);
    assert_eq!(results[2].as_ref().unwrap_err().code(), Some(ErrorCode::BadRequest));
    assert!(matches!(results[4], Err(Error::Data(_))));
    drop((client, jobs, batch));
    server.join();
}

#[test]
fn a_blocking_pipeline_keeps_the_order_and_does_not_choke() {
    let server = Server::start(|listener| Peer::accept(&listener).echo_all());
    let client = blocking::Client::connect(server.options()).unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    let padding = "x".repeat(500);
    for key in 1..=3000u64 {
        batch.add(jobs.store(key.to_string(), &json!({"padding": padding})));
    }
    let results = batch.send_each().unwrap();
    let seqs: Vec<_> = results.into_iter().map(|result| result.unwrap().seq.unwrap()).collect();
    assert_eq!(seqs, (1..=3000).collect::<Vec<_>>());
    drop((client, jobs, batch));
    server.join();
}

#[test]
fn a_blocking_pipeline_that_breaks_fails_its_rest() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        for _ in 0..10 {
            let request = peer.request().unwrap();
            peer.reply_with_key(&request);
        }
        drop(peer);
        Peer::accept(&listener).echo_all();
    });
    let client = blocking::Client::connect(server.options().retry_writes_for(Duration::ZERO)).unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    (1..=1000u64).for_each(|key| batch.add(jobs.store(key.to_string(), &json!({}))));
    let results = batch.send_each().unwrap();
    assert_eq!(results.len(), 1000);
    let good = results.iter().take_while(|result| result.is_ok()).count();
    assert!(good <= 10, "{good}");
    assert!(results[good..].iter().all(|result| matches!(result, Err(Error::Disconnected { .. }))));
    assert_eq!(store_blocking(&client, 7).unwrap(), 7);
    drop((client, jobs, batch));
    server.join();
}

#[test]
fn a_blocking_client_comes_back_over_a_restart_between_two_requests() {
    let server = Server::start(|listener| {
        let mut peer = Peer::accept(&listener);
        let request = peer.request().unwrap();
        peer.reply_with_key(&request);
        drop(peer);
        Peer::accept(&listener).echo_all();
    });
    let client = blocking::Client::connect(server.options()).unwrap();
    assert_eq!(store_blocking(&client, 1).unwrap(), 1);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(store_blocking(&client, 2).unwrap(), 2);
    drop(client);
    server.join();
}

#[test]
fn a_blocking_request_that_timed_out_does_not_spoil_the_next() {
    let server = Server::start(|listener| {
        let mut silent = Peer::accept(&listener);
        silent.request().unwrap();
        Peer::accept(&listener).echo_all();
    });
    let limit = Duration::from_millis(100);
    let client = blocking::Client::connect(server.options().request_timeout(limit)).unwrap();
    let started = Instant::now();
    let error = store_blocking(&client, 1).unwrap_err();
    assert!(matches!(error, Error::Timeout { after } if after == limit), "{error}");
    assert!(started.elapsed() >= limit);
    assert_eq!(store_blocking(&client, 2).unwrap(), 2);
    drop(client);
    server.join();
}

#[test]
fn the_abstract_namespace_is_reached_by_its_name() {
    use std::os::linux::net::SocketAddrExt as _;

    let name = format!("fastpersist-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let thread = thread::spawn(move || Peer::accept(&listener).echo_all());
    let client = blocking::Client::connect(ConnectOptions::new().socket(format!("@{name}"))).unwrap();
    assert_eq!(store_blocking(&client, 9).unwrap(), 9);
    assert_eq!(client.socket().unwrap().to_string(), format!("@{name}"));
    drop(client);
    thread.join().unwrap();
}
