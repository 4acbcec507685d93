//! Hostile lines: every kind of bad line on the real socket, in random mixtures and pieces, between good requests on
//! several connections at once. Each bad line gets its documented refusal and nothing else, each good request exactly
//! its answer, in order; nothing of a bad line is stored; a bystander's writes stay quick and memory is bounded.

mod good;
mod kinds;

use std::{
    collections::BTreeMap,
    net::Shutdown,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use good::{Expected, Model};
use kinds::{KINDS, Refusal};
use serde_json::{Value, json, value::RawValue};

use crate::{
    harness::{Config, Conn, Daemon, Random, Site, python},
    runs::{Tally, count},
};

const CONNECTIONS: u64 = 6;
/// A refusal stays short, whatever was sent; the id aside, which comes back whole.
const REFUSAL_BYTES: usize = 2_000;
/// Generous: a bystander takes its turn on the processor with all the others.
const BYSTANDER_WAITS: Duration = Duration::from_secs(5);
const MEMORY_GROWS: u64 = 192 << 20;

/// Holds an answer against what was expected.
fn check(expected: &Expected, text: &str) -> Result<(), String> {
    let right = match expected {
        Expected::Exact(exact) => text == exact,
        Expected::Around(before, behind) => {
            text.len() == before.len() + behind.len() + "2025-01-15T10:30:00.000000Z".len()
                && text.starts_with(before.as_str())
                && text.ends_with(behind.as_str())
        }
        Expected::Refused(refusal) => return check_refusal(refusal, text),
    };
    if right { Ok(()) } else { Err(format!("expected {expected:?}, got {}", shortened(text))) }
}

fn check_refusal(refusal: &Refusal, text: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        let expected = shortened(&format!("{refusal:?}"));
        Err(format!("{what}: expected {expected}, got {}", shortened(text)))
    };
    // An id may be a number that no `Value` holds.
    let Ok(answer) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) else {
        return wrong("no JSON");
    };
    let member = |name: &str| answer.get(name).map(|raw| raw.get());
    let error: Value = member("error").and_then(|error| serde_json::from_str(error).ok()).unwrap_or_default();
    if member("ok") != Some("false") || error["code"] != refusal.code || error["retryable"] != false {
        return wrong("another answer");
    }
    if error["message"].as_str().is_none_or(str::is_empty) {
        return wrong("no message");
    }
    if member("id") != refusal.id.as_deref() {
        return wrong("another id");
    }
    if text.len() > REFUSAL_BYTES + member("id").map_or(0, str::len) {
        return wrong("too much said");
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(500).collect()
}

/// What all connections share.
struct Shared<'a> {
    socket: &'a str,
    /// Bad lines that are still to be sent.
    left: AtomicU64,
    sent: AtomicU64,
    found: parking::Found,
}

/// What was found, from any thread.
mod parking {
    use std::sync::Mutex;

    #[derive(Default)]
    pub(super) struct Found(Mutex<Vec<String>>);

    impl Found {
        pub(super) fn note(&self, what: String) {
            self.0.lock().expect("the list").push(what);
        }

        pub(super) fn any(&self) -> bool {
            !self.0.lock().expect("the list").is_empty()
        }

        pub(super) fn into_inner(self) -> Vec<String> {
            self.0.into_inner().expect("the list")
        }
    }
}

impl Shared<'_> {
    /// Takes some of the bad lines that are left.
    fn take(&self, wanted: u64) -> u64 {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 0).then(|| left.saturating_sub(wanted))
        });
        before.map_or(0, |before| before.min(wanted))
    }
}

/// Sends bytes in pieces of random sizes.
fn send_in_pieces(conn: &mut Conn, bytes: &[u8], random: &mut Random) {
    let most = random.pick(&[40, 1_000, 100_000, u64::MAX - 1]).max(bytes.len() as u64 / 2_000);
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = random.between(1, most).min(rest.len() as u64) as usize;
        conn.send_bytes(&rest[..size]);
        rest = &rest[size..];
    }
}

/// One connection: bursts of good and bad lines, each burst sent before its first answer is read.
fn be_hostile(shared: &Shared<'_>, number: u64, seed: u64) -> Model {
    let mut random = Random::seeded(seed ^ (number << 32));
    let mut model = Model::new(number);
    let mut conn = Conn::connect(shared.socket);
    loop {
        let bad = shared.take(random.between(1, 30));
        if bad == 0 || shared.found.any() {
            return model;
        }
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let mut names = Vec::new();
        for _ in 0..bad {
            for _ in 0..random.between(0, 3) {
                let (line, answer) = model.request(&mut random);
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
                expected.push(answer);
                names.push("a good request");
            }
            // So that the rare ones come in every run: one after the other at first, then as it happens.
            let turn = shared.sent.fetch_add(1, Ordering::Relaxed) as usize;
            let chosen =
                if turn < KINDS.len() { turn } else { random.between(0, KINDS.len() as u64 - 1) as usize };
            let made = (KINDS[chosen].make)(&mut random);
            bytes.extend_from_slice(&made.bytes);
            names.extend(made.refusals.iter().map(|_| KINDS[chosen].name));
            expected.extend(made.refusals.into_iter().map(Expected::Refused));
        }
        send_in_pieces(&mut conn, &bytes, &mut random);
        for (expected, name) in expected.iter().zip(names) {
            let verdict = conn
                .next()
                .map_or_else(|| Err("the connection was closed".to_owned()), |text| check(expected, &text));
            if let Err(what) = verdict {
                shared.found.note(format!("seed {seed}, connection {number}, {name}: {what}"));
                return model;
            }
        }
        if random.one_in(10) {
            send_half_a_line(shared, &mut random, seed);
        }
    }
}

/// A connection of its own that ends in the middle of a line: what came before is answered, the half is nobody's.
fn send_half_a_line(shared: &Shared<'_>, random: &mut Random, seed: u64) {
    let mut conn = Conn::connect(shared.socket);
    let line = r#"{"op":"store","storage":"jobs","key":"bad","data":{"half":true}}"#;
    conn.send(json!({"op": "ping", "id": 1}));
    // The whole line too, but for its end.
    conn.send_bytes(&line.as_bytes()[..random.between(1, line.len() as u64) as usize]);
    shared.sent.fetch_add(1, Ordering::Relaxed);
    if random.one_in(3) {
        // At once, with the answer unread.
        return;
    }
    let orderly = random.one_in(2);
    if orderly {
        conn.half_close();
    }
    let pong = conn.next();
    if pong.as_deref() != Some(r#"{"id":1,"ok":true,"pong":true}"#) {
        shared.found.note(format!("seed {seed}: before half a line: {pong:?}"));
    }
    if orderly {
        let more = conn.next();
        if more.is_some() {
            shared.found.note(format!("seed {seed}: half a line was answered: {more:?}"));
        }
    } else {
        conn.stream().shutdown(Shutdown::Both).expect("close");
    }
}

/// What the bystander saw.
#[derive(Default)]
struct Seen {
    stored: u64,
    longest: Duration,
    grown: u64,
}

/// Writes, one after the other, for as long as the others are hostile.
fn stand_by(daemon: &Daemon, over: &AtomicBool) -> Seen {
    let mut conn = daemon.connect();
    let before = daemon.resident_bytes();
    let mut seen = Seen::default();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        conn.ok(
            json!({"op": "store", "storage": "settings", "key": "bystander", "data": {"n": seen.stored}}),
        );
        seen.longest = seen.longest.max(begun.elapsed());
        seen.stored += 1;
        if seen.stored.is_multiple_of(20) {
            seen.grown = seen.grown.max(daemon.resident_bytes().saturating_sub(before));
        }
        // Everybody else is to be hostile, not this one.
        thread::sleep(Duration::from_millis(1));
    }
    seen
}

/// Everything is there that was answered, and nothing else.
fn check_stored(conn: &mut Conn, models: &[Model], bystander: u64, when: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let dates: Vec<_> = models.iter().map(|model| &*model.date).collect();
    let found = conn.ok(json!({"op": "dates", "storage": "jobs"}));
    if found["dates"].as_array().expect("dates").iter().any(|date| !dates.contains(&date.as_str().unwrap())) {
        wrong.push(format!("{when}: dates {found}, should be {dates:?}"));
    }
    for model in models {
        let found = conn.ok(json!({"op": "keys", "storage": "jobs", "date": model.date}))["keys"].clone();
        if found != json!(model.records.keys().collect::<Vec<_>>()) {
            wrong.push(format!("{when}: keys of {}: {found}", model.date));
        }
        for key in model.records.keys() {
            let (line, expected) = model.get(7, key);
            conn.send(line);
            if let Err(what) = check(&expected, &conn.text()) {
                wrong.push(format!("{when}: {what}"));
            }
        }
    }
    let settings = conn.ok(json!({"op": "history", "storage": "settings", "key": "bystander", "limit": 1}));
    let keys = conn.ok(json!({"op": "keys", "storage": "settings"}));
    if keys["keys"] != json!(["bystander"]) || settings["records"][0]["seq"] != bystander {
        wrong.push(format!("{when}: settings have {keys}, last {settings}, should be {bystander}"));
    }
    wrong
}

/// The documents in DuckDB's files, byte for byte.
fn check_files(site: &Site, models: &[Model]) -> Vec<String> {
    let mut wrong = Vec::new();
    if !python::available() {
        return wrong;
    }
    for model in models.iter().filter(|model| !model.records.is_empty()) {
        let file = site.path(&format!("jobs/{}/data.duckdb", model.date));
        let rows = python::rows(&file, "SELECT key, data::VARCHAR FROM storage ORDER BY key");
        let expected: Vec<_> =
            model.records.iter().map(|(key, (data, _))| vec![json!(key), json!(data)]).collect();
        if rows != expected {
            wrong.push(format!("{} holds {rows:?}, should be {expected:?}", file.display()));
        }
    }
    wrong
}

#[test]
fn every_bad_line_is_refused_and_costs_nobody_anything() {
    let lines = count(2_500, 100_000);
    let seed = std::env::var("FASTPERSIST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut tally = Tally::new("hostile_lines");
    let site = Site::new(&Config::both());
    let mut daemon = site.start();
    let shared = Shared {
        socket: daemon.socket(),
        left: AtomicU64::new(lines),
        sent: AtomicU64::new(0),
        found: parking::Found::default(),
    };
    let over = AtomicBool::new(false);
    let (models, bystander) = thread::scope(|scope| {
        let standing = scope.spawn(|| stand_by(&daemon, &over));
        let shared = &shared;
        let hostile: Vec<_> =
            (0..CONNECTIONS).map(|number| scope.spawn(move || be_hostile(shared, number, seed))).collect();
        let models: Vec<_> = hostile.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        let models: Vec<_> = models.into_iter().map(|model| model.expect("a hostile connection")).collect();
        (models, standing.join().expect("the bystander"))
    });
    tally.runs = lines;
    tally.injected = shared.sent.load(Ordering::Relaxed);
    tally.wrong = shared.found.into_inner();
    daemon.assert_running();
    println!(
        "hostile_lines: seed {seed}, {} kinds, bystander stored {} and waited {:?} at most, memory grew by {} MiB",
        KINDS.len() + 1,
        bystander.stored,
        bystander.longest,
        bystander.grown >> 20
    );
    if bystander.longest > BYSTANDER_WAITS || bystander.stored == 0 {
        tally
            .wrong
            .push(format!("the bystander stored {} and waited {:?}", bystander.stored, bystander.longest));
    }
    if bystander.grown > MEMORY_GROWS {
        tally.wrong.push(format!("memory grew by {} bytes", bystander.grown));
    }
    if tally.wrong.is_empty() {
        tally.lost.extend(check_stored(&mut daemon.connect(), &models, bystander.stored, "at the end"));
        daemon.stop();
        tally.lost.extend(check_files(&site, &models));
        let daemon = site.start();
        tally.lost.extend(check_stored(&mut daemon.connect(), &models, bystander.stored, "after a restart"));
    }
    tally.end();
}

#[test]
fn a_wrong_answer_would_be_seen() {
    let exact = Expected::Exact(r#"{"id":1,"ok":true,"seq":1,"durable":true}"#.to_owned());
    check(&exact, r#"{"id":1,"ok":true,"seq":1,"durable":true}"#).expect("right");
    check(&exact, r#"{"id":1,"ok":true,"seq":2,"durable":true}"#).expect_err("another seq");
    let mut model = Model::new(0);
    model.records.insert("k".to_owned(), (r#"{"n":1.50}"#.to_owned(), 3));
    let (_, around) = model.get(1, "k");
    let record = |data: &str| {
        format!(
            r#"{{"id":1,"ok":true,"record":{{"date":"2025-01-01","key":"k","process_name":null,"data":{data},"timestamp":"2025-01-15T10:30:00.000000Z","status":null,"status_int":null,"username":null,"updated_at":"2025-01-15T10:30:00.000000Z","seq":3}}}}"#
        )
    };
    check(&around, &record(r#"{"n":1.50}"#)).expect("right");
    check(&around, &record(r#"{"n":1.5}"#)).expect_err("rewritten data");
    let refused = Expected::Refused(Refusal { code: "bad_json", id: None });
    let error = |code: &str, id: &str, message: &str| {
        format!(r#"{{{id}"ok":false,"error":{{"code":"{code}","message":"{message}","retryable":false}}}}"#)
    };
    check(&refused, &error("bad_json", "", "m")).expect("right");
    check(&refused, &error("bad_request", "", "m")).expect_err("another code");
    check(&refused, &error("bad_json", "\"id\":1,", "m")).expect_err("an id");
    check(&refused, &error("bad_json", "", "")).expect_err("no message");
    check(&refused, &error("bad_json", "", &"m".repeat(5_000))).expect_err("too much said");
    check(&refused, r#"{"ok":true}"#).expect_err("taken");
}
