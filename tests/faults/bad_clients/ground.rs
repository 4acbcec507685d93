//! A daemon with one limit set low, and a client beside those that are bad: whatever they do, it is served.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, wait_for};

/// Far more than a write takes beside others on a loaded machine, far less than any limit's patience.
const QUICK: Duration = Duration::from_secs(3);

/// A day that is over.
pub(super) const DAY: &str = "2025-01-15";

/// Longer than any query may run.
pub(super) const ENDLESS: &str = "SELECT count(*) FROM range(1000000000000)";

pub(super) struct Ground {
    pub(super) daemon: Daemon,
    other: Conn,
    /// Behind the daemon, which shows its log when a case fails.
    pub(super) site: Site,
    rounds: u64,
}

impl Ground {
    /// A daemon with the storages `jobs` and `settings`.
    pub(super) fn new(limits: &str) -> Self {
        Self::on(&Config::both().limits(limits))
    }

    pub(super) fn on(config: &Config) -> Self {
        let site = Site::new(config);
        let daemon = site.start();
        // Behind the harness's own first connection, which may still hold a place.
        let other = wait_for("a place for the other client", PATIENCE, || {
            let mut conn = daemon.connect();
            conn.try_ask(json!({"op": "ping"})).filter(|answer| answer["ok"] == true).map(|_| conn)
        });
        Self { daemon, other, site, rounds: 0 }
    }

    pub(super) fn connect(&self) -> Conn {
        self.daemon.connect()
    }

    /// The other client writes and reads, quickly.
    pub(super) fn others_go_on(&mut self) {
        let begun = Instant::now();
        self.rounds += 1;
        let n = self.rounds;
        self.other.ok(json!({"op": "store", "storage": "settings", "key": "other", "data": {"n": n}}));
        let got = self.other.ok(json!({"op": "get_item", "storage": "settings", "key": "other"}));
        assert_eq!(got["record"]["data"]["n"], n, "the other client reads what it wrote");
        assert!(begun.elapsed() < QUICK, "the other client waited {:?}", begun.elapsed());
    }

    pub(super) fn stats(&mut self) -> Value {
        self.other.ok(json!({"op": "stats"}))
    }

    /// Waits until a figure of the daemon is this.
    pub(super) fn wait_for_figure(&mut self, name: &str, count: u64) {
        wait_for(&format!("{name} to be {count}"), PATIENCE, || {
            (self.stats()["daemon"][name] == count).then_some(())
        });
    }
}

/// A store to `jobs`.
pub(super) fn store(key: &str) -> Value {
    json!({"op": "store", "storage": "jobs", "date": DAY, "key": key, "data": {}})
}

pub(super) fn query(sql: &str) -> Value {
    json!({"op": "query", "storage": "jobs", "sql": sql})
}

/// A query that may take so long.
pub(super) fn query_within(sql: &str, timeout_ms: u64) -> Value {
    json!({"op": "query", "storage": "jobs", "sql": sql, "timeout_ms": timeout_ms})
}

/// A store whose line has exactly `bytes` bytes before its end.
pub(super) fn line_of(bytes: usize, key: &str) -> String {
    let head = format!(r#"{{"op":"store","storage":"jobs","date":"{DAY}","key":"{key}","data":{{"pad":""#);
    let tail = r#""}}"#;
    format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len()))
}
