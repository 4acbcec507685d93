//! Writes over connections that break, against a server that the test scripts: each is sent until it is answered,
//! in order, under the same number.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastpersist_client::{Client, ConnectOptions, Error, blocking};
use serde_json::{Value, json};

/// More than any of these tests needs.
const PATIENCE: Duration = Duration::from_secs(20);
const STOPPING: &str =
    "{\"ok\":false,\"error\":{\"code\":\"shutting_down\",\"message\":\"m\",\"retryable\":true}}\n";

/// A server that plays a part of its own on each connection, and then says what came on each.
struct Server {
    dir: tempfile::TempDir,
    thread: JoinHandle<Vec<Vec<Value>>>,
}

/// What a server does with a connection.
#[derive(Clone, Copy)]
enum Part {
    /// Answers so many requests, reads so many more, and hangs up.
    Answer(usize, usize),
    /// Answers so many, and says of the next ones that it is stopping.
    Stop(usize, usize),
    /// Answers so many with an error of this code first, then so many well, and hangs up.
    Refuse(usize, &'static str, usize),
    /// Answers whatever comes.
    Serve,
}

impl Server {
    fn start(parts: &[Part]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        let parts = parts.to_vec();
        let thread = thread::spawn(move || parts.iter().map(|part| play(&listener, *part)).collect());
        Self { dir, thread }
    }

    fn options(&self) -> ConnectOptions {
        let socket: PathBuf = self.dir.path().join("sock");
        ConnectOptions::new().socket(socket)
    }

    fn end(self) -> Vec<Vec<Value>> {
        self.thread.join().unwrap()
    }
}

fn play(listener: &UnixListener, part: Part) -> Vec<Value> {
    let mut reader = BufReader::new(listener.accept().unwrap().0);
    let mut seen = Vec::new();
    let (answered, further) = match part {
        Part::Answer(answered, further) | Part::Stop(answered, further) => (answered, further),
        Part::Refuse(refused, _, answered) => (refused + answered, 0),
        Part::Serve => (usize::MAX, 0),
    };
    while seen.len() < answered.saturating_add(further) {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let request: Value = serde_json::from_str(&line).unwrap();
        seen.push(request.clone());
        let mut stream: &UnixStream = reader.get_ref();
        if let Part::Refuse(refused, code, _) = part
            && seen.len() <= refused
        {
            let error = json!({"code": code, "message": "m", "retryable": code == "busy"});
            writeln!(stream, "{}", json!({"ok": false, "error": error})).unwrap();
        } else if seen.len() <= answered {
            let seq = request["producer_seq"].as_u64().unwrap_or(0);
            writeln!(stream, "{{\"ok\":true,\"seq\":{seq},\"durable\":true}}").unwrap();
        } else if matches!(part, Part::Stop(..)) {
            stream.write_all(STOPPING.as_bytes()).unwrap();
        }
    }
    seen
}

fn numbers(requests: &[Value]) -> Vec<u64> {
    requests.iter().map(|request| request["producer_seq"].as_u64().unwrap()).collect()
}

fn assert_one_producer(connections: &[Vec<Value>]) {
    let all: Vec<_> = connections.iter().flatten().collect();
    assert!(all.iter().all(|request| request["producer"] == all[0]["producer"]));
    for request in &all {
        let first = all.iter().find(|other| other["producer_seq"] == request["producer_seq"]).unwrap();
        assert_eq!(request, first, "the same number, the same request");
    }
}

/// Each connection has numbers without a gap, and begins with one that was not answered on those before: `answered`
/// says how many were. An answer may be lost with its connection, so it may begin with an earlier one.
fn assert_goes_on(connections: &[Vec<Value>], answered: &[u64]) {
    let mut first_unanswered = 1;
    let mut first_before = 1;
    for (index, connection) in connections.iter().enumerate() {
        let numbers = numbers(connection);
        let first = numbers[0];
        assert!((first_before..=first_unanswered).contains(&first), "{first} on connection {index}");
        assert!(numbers.iter().copied().eq(first..first + numbers.len() as u64), "{numbers:?}");
        first_before = first;
        first_unanswered = first + answered.get(index).copied().unwrap_or(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_answered_goes_over_the_next_connection_in_order_and_before_what_is_new() {
    let server = Server::start(&[Part::Answer(3, 4), Part::Answer(0, 2), Part::Stop(1, 2), Part::Serve]);
    let client = Client::connect(server.options()).await.unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    for key in 1..=50u64 {
        batch.add(jobs.store(key.to_string(), &json!({"n": key})));
    }
    let results = batch.send_each().await.unwrap();
    let seqs: Vec<_> = results.into_iter().map(|result| result.unwrap().seq.unwrap()).collect();
    assert_eq!(seqs, (1..=50).collect::<Vec<_>>());
    drop((client, jobs, batch));
    let connections = server.end();
    assert_one_producer(&connections);
    assert_goes_on(&connections, &[3, 0, 1]);
    assert_eq!(numbers(&connections[3]).last(), Some(&50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_keep_one_order_over_breaks() {
    let parts: Vec<_> = (0..10).map(|n| Part::Answer(n * 3, 5)).chain([Part::Serve]).collect();
    let server = Server::start(&parts);
    let client = Client::connect(server.options()).await.unwrap();
    let tasks: Vec<_> = (0..200u64)
        .map(|key| {
            let store = client.dated("s").store(key.to_string(), &json!({"n": key}));
            tokio::spawn(async move { store.send().await.unwrap().seq })
        })
        .collect();
    let mut seqs = Vec::new();
    for task in tasks {
        seqs.push(task.await.unwrap());
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=200).collect::<Vec<_>>(), "each was answered once");
    drop(client);
    let connections = server.end();
    assert_one_producer(&connections);
    for connection in &connections {
        assert!(numbers(connection).is_sorted_by(|a, b| a < b), "{:?}", numbers(connection));
    }
}

#[test]
fn the_blocking_client_sends_again_too() {
    let parts =
        [Part::Answer(1, 1), Part::Answer(0, 1), Part::Stop(0, 1), Part::Answer(300, 100), Part::Serve];
    let server = Server::start(&parts);
    let client = blocking::Client::connect(server.options()).unwrap();
    let jobs = client.dated("s");
    for key in 1..=2u64 {
        assert_eq!(jobs.store(key.to_string(), &json!({})).send().unwrap().seq, key);
    }
    let mut batch = jobs.batch();
    // One that cannot be sent once had all others sent without numbers.
    batch.add(jobs.store("no object", &json!(1)));
    for key in 3..=1000u64 {
        batch.add(jobs.store(key.to_string(), &json!({})));
    }
    let mut results = batch.send_each().unwrap().into_iter();
    assert!(matches!(results.next(), Some(Err(Error::Data(_)))));
    let seqs: Vec<_> = results.map(|result| result.unwrap().seq.unwrap()).collect();
    assert_eq!(seqs, (3..=1000).collect::<Vec<_>>());
    drop((client, jobs, batch));
    let connections = server.end();
    assert_one_producer(&connections);
    assert_goes_on(&connections, &[1, 0, 0, 300]);
    assert_eq!(numbers(&connections[4]).last(), Some(&1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_of_ones_own_stays_and_reads_are_not_sent_again() {
    let server = Server::start(&[Part::Answer(0, 1), Part::Answer(1, 1)]);
    let client = Client::connect(server.options()).await.unwrap();
    let settings = client.collection("s");
    let stored = settings.store("k", &json!({})).producer("importer", 7).send().await.unwrap();
    assert_eq!(stored.seq, 7);
    let error = settings.get_item("k", "", "").await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    drop((client, settings));
    let connections = server.end();
    assert_eq!(
        (&connections[0][0], &connections[0][0]["producer"]),
        (&connections[1][0], &json!("importer"))
    );
    assert_eq!(connections[1][1].get("producer"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_the_time_for_it_is_over() {
    let server = Server::start(&[Part::Answer(0, 1)]);
    let window = Duration::from_millis(200);
    let options = server.options().retry_writes_for(window);
    let client = Client::connect(options.clone()).await.unwrap();
    let begun = Instant::now();
    let error = client.dated("s").store("k", &json!({})).send().await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert!(begun.elapsed() >= window);
    server.end();
    let error = client.dated("s").store("k", &json!({})).send().await.unwrap_err();
    assert!(
        matches!(error, Error::Connect { .. }) && !error.is_outcome_unknown(),
        "nothing was sent: {error}"
    );
    let error = blocking::Client::connect(options).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

/// What goes over to the next connection keeps its permits. Where that was all of them, everybody waited for a permit and
/// nobody made the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_while_all_permits_are_out_is_no_end() {
    let server = Server::start(&[Part::Answer(0, 4), Part::Answer(2, 2), Part::Serve]);
    let client = Client::connect(server.options().max_in_flight(4)).await.unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    for key in 1..=20u64 {
        batch.add(jobs.store(key.to_string(), &json!({})));
    }
    let results = tokio::time::timeout(PATIENCE, batch.send_each()).await.expect("it ends").unwrap();
    let seqs: Vec<_> = results.into_iter().map(|result| result.unwrap().seq.unwrap()).collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    drop((client, jobs, batch));
    assert_goes_on(&server.end(), &[0, 2]);
}

/// Each write had the whole time for itself, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_without_a_daemon_take_no_longer_than_one() {
    let server = Server::start(&[Part::Answer(100, 4)]);
    let window = Duration::from_millis(300);
    let client = Client::connect(server.options().max_in_flight(4).retry_writes_for(window)).await.unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    for key in 1..=500u64 {
        batch.add(jobs.store(key.to_string(), &json!({})));
    }
    let sending = tokio::spawn(batch.send_each());
    server.end();
    let results = tokio::time::timeout(PATIENCE, sending).await.expect("500 times 300 ms").unwrap().unwrap();
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok(_) => assert!(index < 100, "{index} was not answered"),
            Err(error) => {
                let was_sent = (100..104).contains(&index);
                assert!(index >= 100 && error.is_outcome_unknown() == was_sent, "{index}: {error}");
            }
        }
    }
}

/// A daemon that takes everything and answers nothing held up each write for the whole time, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writes_to_a_silent_daemon_take_no_longer_than_one() {
    let server = Server::start(&[Part::Answer(0, 100)]);
    let options = server.options().max_in_flight(4).request_timeout(Duration::from_millis(300));
    let client = Client::connect(options).await.unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    for key in 1..=500u64 {
        batch.add(jobs.store(key.to_string(), &json!({})));
    }
    let results = tokio::time::timeout(PATIENCE, batch.send_each()).await.expect("500 times 300 ms").unwrap();
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Timeout { after } if after.as_millis() == 300), "{error}");
    }
    drop((client, jobs, batch));
    server.end();
}

/// "Nothing was sent" was said of a write that was sent and stored, because the last try found nobody.
#[test]
fn of_what_was_sent_once_nobody_says_that_it_was_not() {
    let server = Server::start(&[Part::Answer(0, 1)]);
    let options = server.options().retry_writes_for(Duration::from_millis(200));
    let client = blocking::Client::connect(options).unwrap();
    let sending = client.clone();
    let sent = thread::spawn(move || sending.dated("s").store("k", &json!({})).send());
    server.end();
    let error = sent.join().unwrap().unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    let error = client.dated("s").store("k", &json!({})).send().unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "nothing was sent: {error}");
}

#[test]
fn a_blocking_write_takes_no_longer_than_a_request_may() {
    let server = Server::start(&[Part::Answer(0, 0)]);
    let client =
        blocking::Client::connect(server.options().request_timeout(Duration::from_millis(200))).unwrap();
    server.end();
    let begun = Instant::now();
    let error = client.dated("s").store("k", &json!({})).send().unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?} instead of 200 ms", begun.elapsed());
}

/// The daemon may refuse a repetition before it finds that it is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_a_repetition_says_nothing_of_the_first_try() {
    for (code, is_verdict) in
        [("busy", false), ("forbidden", false), ("disk_full", false), ("conflict", true)]
    {
        let parts = [Part::Answer(0, 1), Part::Refuse(1, code, 0)];
        let server = Server::start(&parts);
        let client = Client::connect(server.options()).await.unwrap();
        let waited = client.dated("s").store("k", &json!({})).send().await.unwrap_err();
        drop(client);
        server.end();
        let server = Server::start(&parts);
        let client = blocking::Client::connect(server.options()).unwrap();
        let blocked = client.dated("s").store("k", &json!({})).send().unwrap_err();
        drop(client);
        server.end();
        for error in [waited, blocked] {
            assert_eq!(error.is_outcome_unknown(), !is_verdict, "{error}");
            assert!(error.to_string().contains(code), "{error}");
        }
        // The first try's own refusal is its answer.
        let server = Server::start(&[Part::Refuse(1, code, 0)]);
        let client = blocking::Client::connect(server.options()).unwrap();
        let error = client.dated("s").store("k", &json!({})).send().unwrap_err();
        assert_eq!(error.code().unwrap().as_str(), code);
        drop(client);
        server.end();
    }
}

/// What the daemon refused before it went was thrown away where the client was sending at that moment, came again, and was
/// taken for a repetition of what was stored behind it.
#[test]
fn answers_that_came_before_a_failed_send_count() {
    let server = Server::start(&[Part::Refuse(1, "disk_full", 9), Part::Serve]);
    let client = blocking::Client::connect(server.options()).unwrap();
    let jobs = client.dated("s");
    let mut batch = jobs.batch();
    for key in 1..=10u64 {
        batch.add(jobs.store(key.to_string(), &json!({})));
    }
    // More than the socket holds, so that the daemon is gone before it is sent.
    batch.add(jobs.store("large", &json!({"text": "x".repeat(8 << 20)})));
    let results = batch.send_each().unwrap();
    assert_eq!(results[0].as_ref().unwrap_err().code().unwrap().as_str(), "disk_full");
    for (result, seq) in results[1..].iter().zip(2..) {
        assert_eq!(result.as_ref().unwrap().seq, Some(seq));
    }
    drop((client, jobs, batch));
    assert_eq!(numbers(&server.end()[1]), [11]);
}

/// What no clock and no semaphore can count is as much as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_without_bounds_are_no_panic() {
    let parts = [Part::Serve, Part::Serve];
    let server = Server::start(&parts);
    let options = server
        .options()
        .connect_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .retry_writes_for(Duration::MAX)
        .max_in_flight(usize::MAX)
        .max_reply_bytes(usize::MAX);
    let client = Client::connect(options.clone()).await.unwrap();
    client.dated("s").store("k", &json!({})).send().await.unwrap();
    drop(client);
    let client = blocking::Client::connect(options).unwrap();
    client.dated("s").store("k", &json!({})).send().unwrap();
    drop(client);
    server.end();
}
