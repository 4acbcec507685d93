//! The generator against a server of a few lines, which counts what it gets.
//!
//! Here and not beside the generator, because these use it as its callers do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastpersist_bench::wire::FastPersist;
use fastpersist_bench::{BenchError, Load, SocketName, Target, run, run_with};

const STORED: &str = "{\"ok\":true,\"seq\":1,\"durable\":true}\n";

/// Answers each line with what `answer` makes of it; an empty answer hangs up.
struct FakeServer {
    target: Target,
    lines: Arc<AtomicU64>,
    _directory: tempfile::TempDir,
}

impl FakeServer {
    fn start(answer: impl Fn(&str) -> &'static str + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let lines = Arc::new(AtomicU64::new(0));
        let answer = Arc::new(answer);
        let counter = Arc::clone(&lines);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
                thread::spawn(move || serve(stream.unwrap(), &*answer, &counter));
            }
        });
        Self { target: target(path), lines, _directory: directory }
    }

    fn lines(&self) -> u64 {
        self.lines.load(Ordering::SeqCst)
    }
}

fn target(path: PathBuf) -> Target {
    Target { socket: path.into(), storage: "bench".to_owned() }
}

fn serve(stream: UnixStream, answer: &dyn Fn(&str) -> &'static str, counter: &AtomicU64) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while matches!(reader.read_line(&mut line), Ok(1..)) {
        let text = answer(&line);
        counter.fetch_add(1, Ordering::SeqCst);
        if text.is_empty() || writer.write_all(text.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

fn load(connections: usize, pipeline: usize) -> Load {
    Load { connections, pipeline, seconds: 0.2, keys: 100, ..Load::default() }
}

#[test]
fn every_request_is_answered_once() {
    for (connections, pipeline) in [(1, 1), (8, 1), (3, 64)] {
        let server = FakeServer::start(|_| STORED);
        let report = run(&load(connections, pipeline), &server.target).unwrap();
        assert_eq!(report.requests, server.lines());
        assert_eq!(report.requests % pipeline as u64, 0);
        assert_eq!((report.errors, report.misses), (0, 0));
        assert!(report.requests >= (connections * pipeline) as u64);
        assert!(report.elapsed >= Duration::from_millis(200));
        assert!(report.latency.p50 > Duration::ZERO);
        assert!(report.latency.p50 <= report.latency.max);
    }
}

#[test]
fn reads_come_after_every_key_was_stored() {
    let stores = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&stores);
    let server = FakeServer::start(move |line| {
        if line.contains("\"op\":\"store\"") {
            seen.fetch_add(1, Ordering::SeqCst);
            STORED
        } else {
            "{\"ok\":true,\"record\":null}\n"
        }
    });
    let reads = Load { reads_percent: 100, ..load(2, 8) };
    let report = run(&reads, &server.target).unwrap();
    assert_eq!(stores.load(Ordering::SeqCst), 100);
    assert_eq!(report.requests + 100, server.lines());
    assert_eq!(report.misses, report.requests);
}

#[test]
fn a_window_larger_than_the_socket_buffer_goes_out_in_parts() {
    let server = FakeServer::start(|line| {
        assert_eq!(line.matches("\"op\"").count(), 1);
        STORED
    });
    let large = Load { value_bytes: 100_000, ..load(2, 32) };
    let report = run(&large, &server.target).unwrap();
    assert_eq!(report.requests, server.lines());
    assert_eq!(report.errors, 0);
}

#[test]
fn errors_are_counted_and_the_first_is_told() {
    let server = FakeServer::start(|_| "{\"ok\":false,\"error\":{\"code\":\"busy\"}}\n");
    let report = run(&load(1, 4), &server.target).unwrap();
    assert_eq!(report.errors, report.requests);
    assert!(report.first_error.unwrap().contains("busy"));
    assert!(report.per_second < 1.0);
}

#[test]
fn a_stop_flag_ends_it_early() {
    let server = FakeServer::start(|_| STORED);
    let long = Load { seconds: 3_600.0, ..load(1, 1) };
    let stop = AtomicBool::new(false);
    let wire = FastPersist::new("bench");
    thread::scope(|scope| {
        let running = scope.spawn(|| run_with(&long, &wire, &server.target.socket, Some(&stop)));
        thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::SeqCst);
        let report = running.join().unwrap().unwrap();
        assert_eq!(report.requests, server.lines());
    });
}

#[test]
fn a_server_that_refuses_a_connection_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ =
                stream.unwrap().write_all(b"{\"ok\":false,\"error\":{\"code\":\"too_many_connections\"}}\n");
        }
    });
    let error = run(&load(4, 2), &target(path)).unwrap_err();
    assert!(
        matches!(&error, BenchError::Closed { said, .. } if said.contains("too_many_connections")),
        "{error:?}"
    );
}

#[test]
fn a_server_that_hangs_up_is_told_and_so_is_none() {
    let server = FakeServer::start(|_| "");
    let error = run(&load(1, 2), &server.target).unwrap_err();
    assert!(matches!(error, BenchError::Closed { .. } | BenchError::Io(_)), "{error:?}");

    let nobody = target(PathBuf::from("@fastpersist-bench-nobody"));
    assert_eq!(nobody.socket, SocketName::Abstract("fastpersist-bench-nobody".to_owned()));
    let error = run(&load(1, 1), &nobody).unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to @fastpersist-bench-nobody"), "{error}");
}

#[test]
fn a_refusal_before_reads_is_an_error() {
    let server = FakeServer::start(|_| "{\"ok\":false,\"error\":{\"code\":\"read_only\"}}\n");
    let reads = Load { reads_percent: 1, ..load(1, 1) };
    let error = run(&reads, &server.target).unwrap_err();
    assert!(matches!(&error, BenchError::FillRefused(text) if text.contains("read_only")), "{error:?}");
}
