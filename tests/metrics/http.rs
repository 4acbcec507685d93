//! `GET /metrics`.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{busy, config, page::Page};
use crate::harness::{Daemon, PATIENCE, Site, wait_for};

/// The address that the daemon says it serves.
fn address(daemon: &Daemon) -> String {
    wait_for("the address of the metrics in the log", PATIENCE, || {
        let log = daemon.log();
        let (_, rest) = log.split_once("metrics are at http://")?;
        Some(rest.split_once("/metrics")?.0.to_owned())
    })
}

fn start() -> (Site, Daemon, String) {
    let site = Site::new(&config().text("[metrics]\nlisten = \"127.0.0.1:0\""));
    let daemon = site.start();
    let address = address(&daemon);
    (site, daemon, address)
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect to the metrics");
    stream.set_read_timeout(Some(PATIENCE)).expect("a bound on reading");
    stream.set_write_timeout(Some(PATIENCE)).expect("a bound on writing");
    stream
}

/// Head and body of the response to a request.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("send a request");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("read a response");
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {response:?}"));
    (head.to_owned(), body.to_owned())
}

fn get(address: &str, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

#[test]
fn a_scraper_gets_open_metrics_and_nothing_else() {
    let (_site, daemon, address) = start();
    let mut conn = daemon.connect();
    busy(&mut conn);
    let (head, body) = get(&address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let content_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line.eq_ignore_ascii_case(content_type)), "{head}");
    let page = Page::read(&body);
    assert_eq!(page.value("fastpersist_requests_total", &[("op", "store"), ("code", "conflict")]), 2.0);
    conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}}));
    let later = Page::read(&get(&address, "/metrics").1);
    later.assert_not_below(&page);
    assert_eq!(later.value("fastpersist_requests_total", &[("op", "store"), ("code", "ok")]), 15.0);
    for path in ["/", "/metrics/", "/../etc/passwd", "/metric"] {
        let (head, _) = get(&address, path);
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let (head, _) = ask(&address, &request);
        assert!(head.starts_with("HTTP/1.1 405 ") && head.to_lowercase().contains("allow: get"), "{head}");
    }
    drop(conn);
    daemon.stop();
}

#[test]
fn who_says_nothing_or_too_much_does_not_keep_others_out() {
    let (_site, mut daemon, address) = start();
    // Far more than are served at a time.
    let silent: Vec<_> = (0..80)
        .map(|n| {
            let mut stream = connect(&address);
            if n % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").expect("half a request");
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    let (head, _) = get(&address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // Each may be silent for two seconds; who asks does not wait until their time is over.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = connect(&address);
    // The daemon may close before it has read all of this.
    let _ = stream.write_all(long.as_bytes());
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    assert!(!response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    let (head, _) = get(&address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    daemon.assert_running();
    let more: Vec<_> = (0..20).map(|_| connect(&address)).collect();
    // Nor do they hold up the end.
    daemon.stop();
    drop((silent, more));
}

#[test]
fn an_address_that_is_taken_is_a_mistake_in_the_configuration() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let site = Site::new(&config().text(&format!("[metrics]\nlisten = \"{address}\"")));
    let exit = site.refused_start();
    for word in ["metrics.listen", &address] {
        assert!(exit.stderr.contains(word), "{word} is not named: {}", exit.stderr);
    }
}

#[test]
fn only_this_host_is_served() {
    for listen in ["0.0.0.0:9187", "192.0.2.1:9187", "[::]:9187", "localhost"] {
        let site = Site::new(&config().text(&format!("[metrics]\nlisten = \"{listen}\"")));
        let exit = site.refused_start();
        assert!(exit.stderr.contains("metrics.listen"), "{listen}: {}", exit.stderr);
    }
}
