//! The wall clock jumps by a day and by ten years, forwards and backwards, while the daemon runs and while none does.
//!
//! Only labels follow it: today's date, `updated_at`, the default of `timestamp`, times of day. Places go on by one, what was
//! answered is there, flushes, locks and syncs keep their time, and when the clock is right again nothing is left behind.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::DateTime;
use serde_json::{Value, json};

use crate::{
    harness::{
        Config, Conn, Daemon, Site,
        clock::{DAY, WallClock},
        wait_for,
    },
    runs::{Tally, is_long},
};

const TEN_YEARS: i64 = 3652 * DAY;

/// Where the clock is put, one after the other.
const JUMPS: [i64; 8] = [DAY, 0, -DAY, 0, TEN_YEARS, 0, -TEN_YEARS, 0];

/// For what happens by itself: jobs look at both clocks every 30 seconds, and one that failed is tried again after ten.
const BY_ITSELF: Duration = Duration::from_secs(90);

const OLD_DATE: &str = "2025-01-15";

fn config() -> Config {
    let lines = "duckdb_flush_interval_seconds = 1\nmax_wal_age_seconds = 1\nmax_wal_size = 65536\n\
        wal_retain_days = 0";
    let timetable = "backup = true\nbackup_at = \"12:00\"\nexport_at = \"03:00\"\nhealth_check_at = \"04:00\"\n\
        retain_days = 2\nparquet_path = \"{dir}/parquet\"";
    Config::new().dated("jobs", lines).collection("settings", &format!("{lines}\n{timetable}"))
}

fn date_of(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).expect("a time").date_naive().to_string()
}

fn seconds_of(stamp: &Value) -> i64 {
    let stamp = stamp.as_str().unwrap_or_else(|| panic!("{stamp} is no time"));
    DateTime::parse_from_rfc3339(stamp).expect("a time").timestamp()
}

/// What was answered.
#[derive(Default)]
struct Ledger {
    steps: u64,
    /// Of each date, its last place and its keys.
    jobs: BTreeMap<String, (u64, BTreeMap<String, u64>)>,
    /// The last place of the collection: every write to it is a row of its history.
    settings: u64,
    wrong: Vec<String>,
    lost: Vec<String>,
}

impl Ledger {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let step = self.steps;
            self.wrong.push(format!("step {step}: {}", what()));
        }
    }

    /// One of everything, with the clock where it is.
    fn step(&mut self, conn: &mut Conn, ahead: i64) {
        self.steps += 1;
        let (n, before) = (self.steps, WallClock::shows(ahead));
        let key = format!("k{n:03}");
        let stored = conn.ok(json!({"op": "store", "storage": "jobs", "key": key, "data": {"n": n}}));
        let after = WallClock::shows(ahead);
        let place = |date: &str| {
            let asked = json!({"op": "get_key_process", "storage": "jobs", "date": date, "key": key});
            (date.to_owned(), asked)
        };
        let found = [date_of(before), date_of(after)]
            .iter()
            .map(|date| place(date))
            .map(|(date, asked)| (date, conn.ok(asked)["record"].clone()))
            .find(|(_, record)| record["data"]["n"] == n);
        match found {
            None => self.wrong.push(format!("step {n}: not in today's partition, {}", date_of(before))),
            Some((date, record)) => {
                for label in ["updated_at", "timestamp"] {
                    let shown = seconds_of(&record[label]);
                    self.expect((before - 1..=after + 1).contains(&shown), || {
                        format!("{label} is {}, {} seconds off", record[label], shown - before)
                    });
                }
                self.stored(&date, key.clone(), n, &stored);
            }
        }
        let stored = conn.ok(
            json!({"op": "store", "storage": "jobs", "date": OLD_DATE, "key": key, "data": {"n": n}, "durability": "buffered"}),
        );
        self.stored(OLD_DATE, key.clone(), n, &stored);
        self.settings(conn, &key, n);
    }

    /// Some segments of the log, sealed with the clock where it is. Whoever is killed then leaves them.
    fn segments(&mut self, conn: &mut Conn) {
        let pad = "x".repeat(1000);
        let item = |n: u64| json!({"op": "store", "storage": "settings", "key": format!("pad{}", n % 10), "data": {"pad": pad}});
        self.settings += conn.all_ok((0..500).map(item)).len() as u64;
    }

    fn stored(&mut self, date: &str, key: String, n: u64, answer: &Value) {
        let (last, keys) = self.jobs.entry(date.to_owned()).or_default();
        *last += 1;
        keys.insert(key, n);
        let expected = *last;
        self.expect(answer["seq"] == expected, || format!("{date}: {answer} came behind {}", expected - 1));
    }

    fn settings(&mut self, conn: &mut Conn, key: &str, n: u64) {
        let item = |value: u64| json!({"op": "store", "storage": "settings", "key": key, "data": {}, "value": value});
        let mut buffered = item(n);
        buffered["durability"] = json!("buffered");
        let mut numbered = item(n);
        numbered["producer"] = json!("p");
        numbered["producer_seq"] = json!(n);
        for asked in [&item(n), &buffered, &numbered] {
            let answer = conn.ok(asked);
            self.settings += 1;
            let last = self.settings;
            self.expect(answer["seq"] == last, || format!("{answer} came behind {}", last - 1));
        }
        for number in [n, n - 1].into_iter().filter(|number| *number > 0) {
            numbered["producer_seq"] = json!(number);
            let again = conn.ok(&numbered);
            self.expect(again["duplicate"] == true, || {
                format!("number {number} came again and was answered {again}")
            });
        }
    }

    /// All that was ever answered.
    fn check(&mut self, conn: &mut Conn) {
        for (date, (_, keys)) in &self.jobs {
            let sql = "SELECT key, (data->>'$.n')::BIGINT FROM storage ORDER BY key";
            let found = conn.ok(json!({"op": "query", "storage": "jobs", "from": date, "sql": sql}));
            let expected: Vec<_> = keys.iter().map(|(key, n)| json!([key, n])).collect();
            if found["rows"] != json!(expected) {
                self.lost.push(format!("{date}: {expected:?} was answered, {} is there", found["rows"]));
            }
        }
        let sql = "SELECT count(*), count(DISTINCT seq), max(seq) FROM storage_history";
        let found = conn.ok(json!({"op": "query", "storage": "settings", "sql": sql}));
        let count = self.settings;
        if found["rows"] != json!([[count, count, count]]) {
            self.lost.push(format!("{count} writes were answered, the history has {}", found["rows"]));
        }
    }
}

fn figures(conn: &mut Conn, storage: &str) -> Value {
    conn.ok(json!({"op": "stats"}))["storages"][storage].clone()
}

/// Nobody asks for it: what is in memory comes into DuckDB, and its log goes.
fn flushes_by_itself(conn: &mut Conn) {
    for storage in ["jobs", "settings"] {
        wait_for(&format!("{storage} is flushed by itself"), BY_ITSELF, || {
            let now = figures(conn, storage);
            (now["pending_writes"] == 0 && now["flushed_seq"] == now["durable_seq"]).then_some(())
        });
    }
}

/// What the clock must not touch: a lock's time, and who follows.
struct Bystanders {
    holder: Conn,
    waiter: Conn,
    follower: Conn,
    followed: u64,
}

const TTL: Duration = Duration::from_millis(500);

impl Bystanders {
    fn new(daemon: &Daemon, ledger: &Ledger) -> Self {
        let mut holder = daemon.connect();
        holder.ok(json!({"op": "lock", "name": "long", "ttl_ms": 3_600_000}));
        let mut follower = daemon.connect();
        follower.ok(json!({"op": "subscribe", "id": 1, "storage": "settings"}));
        Self { holder, waiter: daemon.connect(), follower, followed: ledger.settings }
    }

    /// Takes a lock for a moment, lets the clock jump in it, and sees it free when its time is over and not before.
    fn across(&mut self, ledger: &mut Ledger, jump: impl FnOnce()) {
        let taken = Instant::now();
        self.holder.ok(json!({"op": "lock", "name": "short", "ttl_ms": TTL.as_millis() as u64}));
        self.waiter.send(json!({"op": "lock", "name": "short", "wait_ms": 50_000}));
        jump();
        let answer = self.waiter.answer();
        let waited = taken.elapsed();
        ledger.expect(answer["ok"] == true, || format!("the lock was never free: {answer}"));
        ledger.expect(waited >= TTL && waited < TTL + Duration::from_secs(10), || {
            format!("a lock for {TTL:?} was free after {waited:?}")
        });
        self.waiter.ok(json!({"op": "unlock", "name": "short", "token": answer["token"]}));
        self.waiter.refused(json!({"op": "lock", "name": "long"}), "locked");
    }

    fn follow(&mut self, ledger: &mut Ledger) {
        while self.followed < ledger.settings {
            let event = self.follower.answer();
            self.followed += 1;
            let expected = self.followed;
            ledger.expect(event["record"]["seq"] == expected, || format!("{event} came for {expected}"));
        }
    }
}

/// Each job of the timetable runs once behind a jump, and is planned within a day of where the clock is.
fn timetable_follows(conn: &mut Conn, ahead: i64, ledger: &mut Ledger) {
    for job in ["backup", "export", "health_check"] {
        wait_for(&format!("{job} is planned by the clock that is {ahead} s ahead"), BY_ITSELF, || {
            let next = figures(conn, "settings")[format!("next_{job}")].clone();
            let wait = seconds_of(&next) - WallClock::shows(ahead);
            (-60..=DAY + 60).contains(&wait).then_some(())
        });
    }
    if ahead <= 0 {
        return;
    }
    for job in ["backup", "export", "health_check"] {
        wait_for(&format!("{job} that was jumped over is made up for"), BY_ITSELF, || {
            let last = figures(conn, "settings")[format!("last_{job}")].clone();
            (last["ok"] == true && seconds_of(&last["at"]) > WallClock::shows(ahead - 600)).then_some(())
        });
    }
    let backups = conn.ok(json!({"op": "list_backups", "storage": "settings"}))["backups"].clone();
    let whole = backups.as_array().expect("a list").iter().filter(|one| one["verified"] == true).count();
    ledger.expect(whole > 0, || format!("no backup is left: {backups}"));
}

fn check_health(conn: &mut Conn, ledger: &mut Ledger) {
    let health = conn.ok(json!({"op": "check_health", "deep": true}));
    let problems = health["problems"].as_array().expect("a list").clone();
    ledger.expect(problems.is_empty(), || format!("not healthy: {problems:?}"));
}

/// The log of both storages goes as ever: segments that were sealed while the clock was wrong keep nothing.
fn log_goes(conn: &mut Conn) {
    for storage in ["jobs", "settings"] {
        wait_for(&format!("the log of {storage} goes when it is flushed"), BY_ITSELF, || {
            (figures(conn, storage)["wal_files_count"].as_u64()? <= 4).then_some(())
        });
    }
}

fn finish(mut tally: Tally, ledger: Ledger) {
    tally.lost = ledger.lost;
    tally.wrong = ledger.wrong;
    tally.end();
}

#[test]
fn the_clock_jumps_while_it_runs() {
    let mut tally = Tally::new("clocks");
    let site = Site::new(&config());
    let Some(clock) = WallClock::new(&site) else { return };
    let daemon = site.start_as(clock.command(&site), site.socket());
    let mut ledger = Ledger::default();
    let mut conn = daemon.connect();
    ledger.step(&mut conn, 0);
    conn.ok(json!({"op": "backup", "storage": "settings"}));
    let mut bystanders = Bystanders::new(&daemon, &ledger);
    for ahead in JUMPS {
        bystanders.across(&mut ledger, || clock.set(ahead));
        for _ in 0..3 {
            ledger.step(&mut conn, ahead);
        }
        bystanders.follow(&mut ledger);
        flushes_by_itself(&mut conn);
        ledger.check(&mut conn);
        if ahead == TEN_YEARS && is_long() {
            // What is too old goes every ten minutes.
            wait_for("the retention runs", Duration::from_secs(900), || {
                let last = figures(&mut conn, "settings")["last_retention"].clone();
                (last["ok"] == true && seconds_of(&last["at"]) > WallClock::shows(ahead - DAY)).then_some(())
            });
        }
        if ahead.abs() == TEN_YEARS {
            timetable_follows(&mut conn, ahead, &mut ledger);
        }
        tally.runs += 1;
        tally.injected += 1;
    }
    timetable_follows(&mut conn, 0, &mut ledger);
    log_goes(&mut conn);
    conn.ok(json!({"op": "backup", "storage": "settings"}));
    check_health(&mut conn, &mut ledger);
    daemon.stop();
    finish(tally, ledger);
}

#[test]
fn the_clock_jumps_while_none_runs() {
    let mut tally = Tally::new("clocks-between-lives");
    let site = Site::new(&config());
    let Some(clock) = WallClock::new(&site) else { return };
    let start = || site.start_as(clock.command(&site), site.socket());
    let mut ledger = Ledger::default();
    let mut daemon = start();
    ledger.step(&mut daemon.connect(), 0);
    for (ahead, kill) in JUMPS.into_iter().zip([true, false, true, true, false, true, true, true]) {
        if kill {
            daemon.kill();
        } else {
            daemon.stop();
        }
        clock.set(ahead);
        daemon = start();
        let mut conn = daemon.connect();
        ledger.check(&mut conn);
        for _ in 0..3 {
            ledger.step(&mut conn, ahead);
        }
        ledger.segments(&mut conn);
        tally.runs += 1;
        tally.injected += 1;
    }
    let mut conn = daemon.connect();
    flushes_by_itself(&mut conn);
    log_goes(&mut conn);
    ledger.check(&mut conn);
    conn.ok(json!({"op": "backup", "storage": "settings"}));
    check_health(&mut conn, &mut ledger);
    daemon.stop();
    finish(tally, ledger);
}
