//! SIGSTOP for longer than the watchdog: no beat in that time, and afterwards everything goes on as if nothing had been,
//! with each request answered once; and what the manager does meanwhile, which is to end it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Config, Conn, Daemon, Manager, PATIENCE, Random, Site, wait_for},
    runs::{Tally, count},
};

const WATCHDOG: Duration = Duration::from_secs(2);
const BEAT: &str = "WATCHDOG=1";

fn config() -> Config {
    let lines = "duckdb_flush_interval_seconds = 1\nmax_wal_age_seconds = 1\nwal_retain_days = 0";
    Config::new().dated("jobs", lines).collection("settings", lines)
}

fn start(site: &Site, manager: &Manager) -> Daemon {
    let mut command = manager.command(site);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let daemon = site.start_as(command, site.socket());
    manager.until("READY=1");
    manager.until(BEAT);
    daemon
}

/// The n-th write of a client: half of them to each model, each to a key of its own.
fn write(client: &str, n: u64) -> Value {
    let key = format!("{client}/{n:04}");
    match n % 4 {
        0 => {
            json!({"id": n, "op": "store", "storage": "jobs", "date": "2025-01-15", "key": key, "data": {"n": n}})
        }
        1 => {
            let op = |part: u64| json!({"op": "store", "key": format!("{key}/{part}"), "data": {"n": n}});
            json!({"id": n, "op": "batch", "storage": "settings", "ops": [op(0), op(1)]})
        }
        _ => {
            json!({"id": n, "op": "store", "storage": "settings", "key": key, "data": {"n": n}, "value": n})
        }
    }
}

/// What [`write`] made of `writes` of a client that were all answered, or of some prefix of them: how many there are.
fn find(conn: &mut Conn, client: &str, writes: u64, wrong: &mut Vec<String>) -> u64 {
    let like = format!("{client}/%");
    let sql = "SELECT key, count(*) FROM storage_history WHERE key LIKE ? GROUP BY key";
    let asked = json!({"op": "query", "storage": "settings", "sql": sql, "params": [like]});
    let rows = conn.ok(asked)["rows"].as_array().expect("rows").clone();
    for row in rows.iter().filter(|row| row[1] != 1) {
        wrong.push(format!("{row} is in the history more than once"));
    }
    let sql = "SELECT key, version FROM storage WHERE key LIKE ?";
    let asked = json!({"op": "query", "storage": "jobs", "from": "2025-01-15", "sql": sql, "params": [like]});
    let jobs = conn.ok(asked)["rows"].as_array().expect("rows").clone();
    for row in jobs.iter().filter(|row| row[1] != 1) {
        wrong.push(format!("{row} was written more than once"));
    }
    let keys: Vec<&str> = rows.iter().chain(&jobs).map(|row| row[0].as_str().expect("a key")).collect();
    let is_there = |n: u64| {
        let key = format!("{client}/{n:04}");
        let parts = |part: &str| keys.iter().filter(|found| **found == format!("{key}{part}")).count();
        match n % 4 {
            1 => [parts("/0"), parts("/1")],
            _ => [parts(""), parts("")],
        }
    };
    let mut found = 0;
    for n in 0..writes {
        match is_there(n) {
            [1, 1] => found += 1,
            [0, 0] => {}
            parts => wrong.push(format!("{client}: write {n} is there in part: {parts:?}")),
        }
    }
    found
}

/// Everything that a process may have under way when it is stopped.
struct Scene {
    writer: Conn,
    /// Has sent writes while the daemon stood still, and reads the answers.
    patient: Conn,
    /// Holds a lock that runs out meanwhile, and one that does not.
    holder: Conn,
    tokens: [u64; 2],
    /// Waits for the one that runs out.
    waiter: Conn,
    /// Waits for the other one, and not for long.
    hasty: Conn,
    follower: Conn,
    followed: u64,
}

const SENT: u64 = 200;

impl Scene {
    fn set(daemon: &Daemon, round: u64) -> Self {
        let mut scene = Self {
            writer: daemon.connect(),
            patient: daemon.connect(),
            holder: daemon.connect(),
            tokens: [0; 2],
            waiter: daemon.connect(),
            hasty: daemon.connect(),
            follower: daemon.connect(),
            followed: 0,
        };
        scene.writer.all_ok((0..SENT).map(|n| write(&format!("before{round}"), n)));
        let subscribed = scene.follower.ok(json!({"op": "subscribe", "id": 0, "storage": "settings"}));
        scene.followed = subscribed["seq"].as_u64().expect("a seq");
        let mut lock = |name: &str, ttl_ms: Option<u64>| {
            let mut asked = json!({"op": "lock", "name": name});
            if let Some(ttl_ms) = ttl_ms {
                asked["ttl_ms"] = json!(ttl_ms);
            }
            scene.holder.ok(asked)["token"].as_u64().expect("a token")
        };
        scene.tokens = [lock("runs-out", Some(WATCHDOG.as_millis() as u64)), lock("stays", None)];
        scene.waiter.send(json!({"op": "lock", "name": "runs-out", "wait_ms": 60_000}));
        scene.hasty.send(json!({"op": "lock", "name": "stays", "wait_ms": 500}));
        scene
    }

    /// What is asked of a daemon that stands still, also by who comes only then and by who goes again.
    fn ask_meanwhile(&mut self, socket: &str, round: u64) -> Conn {
        self.patient.send_all((0..SENT).map(|n| write(&format!("patient{round}"), n)));
        let mut newcomer = Conn::connect(socket);
        newcomer.send_all((0..SENT).map(|n| write(&format!("newcomer{round}"), n)));
        let mut gone = Conn::connect(socket);
        gone.send_all((0..SENT).map(|n| write(&format!("gone{round}"), n)));
        newcomer
    }

    fn check(mut self, daemon: &Daemon, mut newcomer: Conn, round: u64, wrong: &mut Vec<String>) {
        for conn in [&mut self.patient, &mut newcomer] {
            for n in 0..SENT {
                let answer = conn.answer();
                if answer["id"] != n || answer["durable"] != true {
                    wrong.push(format!("request {n} of {SENT} got {answer}"));
                }
            }
        }
        let taken = self.waiter.answer();
        if taken["token"].as_u64().is_none_or(|token| token <= self.tokens[1]) {
            wrong.push(format!("the lock that ran out went to nobody: {taken}"));
        }
        self.hasty.refusal("the lock that stays", "locked");
        let [ran_out, stays] = self.tokens;
        self.holder.refused(json!({"op": "unlock", "name": "runs-out", "token": ran_out}), "not_found");
        self.holder.ok(json!({"op": "unlock", "name": "stays", "token": stays}));
        // Nothing of theirs comes twice or late.
        for conn in [&mut self.patient, &mut newcomer, &mut self.waiter, &mut self.hasty, &mut self.holder] {
            let next = conn.ask(json!({"op": "ping", "id": "last"}));
            if next["id"] != "last" {
                wrong.push(format!("an answer too many: {next}"));
            }
        }
        let mut conn = daemon.connect();
        for client in ["before", "patient", "newcomer"] {
            let found = find(&mut conn, &format!("{client}{round}"), SENT, wrong);
            if found != SENT {
                wrong.push(format!("{SENT} writes of {client}{round} were answered, {found} are there"));
            }
        }
        find(&mut conn, &format!("gone{round}"), SENT, wrong);
        let sql = "SELECT max(seq), count(*) FROM storage_history";
        let row = conn.ok(json!({"op": "query", "storage": "settings", "sql": sql}))["rows"][0].clone();
        let last = row[0].as_u64().expect("a seq");
        if row[1] != last {
            wrong.push(format!("places are missing in the history: {row}"));
        }
        for seq in self.followed + 1..=last {
            let event = self.follower.answer();
            if event["record"]["seq"] != seq {
                wrong.push(format!("change {seq} was awaited, {event} came"));
                break;
            }
        }
    }
}

#[test]
fn whoever_is_stopped_for_too_long_goes_on_where_it_was() {
    let mut tally = Tally::new("stopped");
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let daemon = start(&site, &manager);
    for round in 0..count(2, 50) {
        let mut scene = Scene::set(&daemon, round);
        daemon.freeze();
        manager.rest();
        let newcomer = scene.ask_meanwhile(site.socket(), round);
        manager.never(BEAT, WATCHDOG + WATCHDOG / 2);
        let begun = Instant::now();
        daemon.signal(Signal::CONT);
        manager.until(BEAT);
        if begun.elapsed() > WATCHDOG {
            tally.wrong.push(format!("the first beat came {:?} after it went on", begun.elapsed()));
        }
        scene.check(&daemon, newcomer, round, &mut tally.wrong);
        let health = daemon.connect().ok(json!({"op": "check_health"}));
        if health["status"] != "ok" {
            tally.wrong.push(format!("not healthy after it went on: {health}"));
        }
        tally.runs += 1;
        tally.injected += 1;
    }
    manager.while_taking(|| daemon.stop());
    tally.end();
}

#[test]
fn whoever_is_ended_while_it_is_stopped_loses_nothing() {
    let mut tally = Tally::new("stopped-and-killed");
    let mut random = Random::new();
    let site = Site::new(&config());
    let manager = Manager::new(&site);
    let mut daemon = start(&site, &manager);
    for round in 0..count(6, 200) {
        let (mut answered, mut owed) = (daemon.connect(), daemon.connect());
        answered.all_ok((0..SENT).map(|n| write(&format!("before{round}"), n)));
        owed.send_all((0..SENT).map(|n| write(&format!("owed{round}"), n)));
        // So far as it comes.
        let read = random.between(0, SENT);
        (0..read).for_each(|_| drop(owed.answer()));
        daemon.freeze();
        // As the manager does; what stands still does not see the first.
        daemon.signal(Signal::ABORT);
        if random.between(1, 2) == 1 {
            daemon.signal(Signal::CONT);
            wait_for("SIGABRT ends it", PATIENCE, || daemon.ended());
        }
        daemon.kill();
        manager.rest();
        daemon = start(&site, &manager);
        let mut conn = daemon.connect();
        let found = find(&mut conn, &format!("before{round}"), SENT, &mut tally.wrong);
        if found != SENT {
            tally.lost.push(format!("round {round}: {SENT} were answered, {found} are there"));
        }
        let found = find(&mut conn, &format!("owed{round}"), SENT, &mut tally.wrong);
        if found < read {
            tally.lost.push(format!("round {round}: {read} were answered, {found} are there"));
        }
        tally.runs += 1;
        tally.injected += 1;
    }
    manager.while_taking(|| daemon.stop());
    tally.end();
}
