//! 256 connections that do everything wrong at once, and a few good clients among them.
//!
//! At its height the daemon is exactly at `max_connections`. When it is over, nothing is left of it: connections and
//! descriptors are back, a second crowd costs no memory that the first one had not cost, everything that the good
//! ones were answered is there, and the daemon stops.

use std::{
    io::{ErrorKind, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::ground::{DAY, line_of};
use crate::{
    harness::{Config, Conn, Daemon, PATIENCE, Random, Site, joined, wait_for},
    runs::{Tally, is_long},
};

const CROWD: usize = 256;
const GOOD: usize = 3;
/// The good ones, and the one that looks after the whole.
const CONNECTIONS: usize = CROWD + GOOD + 1;
/// One crowd after the other, in a long run more of them: what the first one leaves may be buffers, what each of the
/// others adds is a leak.
const CROWDS: (u64, u64) = (2, 6);
/// How long each goes on once all of them are there.
const DURATION: Duration = Duration::from_secs(5);
/// For one write and one read beside all that, on a loaded machine with two cores.
const GOOD_WAITS: Duration = Duration::from_secs(10);
/// What the first crowd may leave: DuckDB's buffers, log segments, what the allocator has not given back.
const MEMORY_STAYS: u64 = 256 << 20;
/// What the second one may add to that: with each thread the allocator keeps some megabytes more.
const MEMORY_GROWS: u64 = 128 << 20;
const DESCRIPTORS_STAY: usize = 12;
/// A thread for each subscriber was a gigabyte for all of them, which the allocator kept.
const THREADS: usize = 40;
const BIG_BYTES: usize = 20_000;

/// What is wrong with a client.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Vice {
    /// Asks for much and reads one byte at a time.
    Slow,
    /// Says nothing, or half a line.
    Silent,
    /// Is gone in the middle of a line.
    DiesInALine,
    /// Is gone in the middle of an answer, with others unread.
    DiesInAnAnswer,
    /// Sends no more, and is owed its answers.
    HalfClosed,
    /// Sends on and on and reads nothing.
    Floods,
    /// Connects and closes at once.
    Flickers,
    /// Subscribes to everything and reads nothing.
    SubscribesBlindly,
}

const VICES: [Vice; 8] = [
    Vice::Slow,
    Vice::Silent,
    Vice::DiesInALine,
    Vice::DiesInAnAnswer,
    Vice::HalfClosed,
    Vice::Floods,
    Vice::Flickers,
    Vice::SubscribesBlindly,
];

fn config() -> Config {
    let limits = format!(
        "max_connections = {CONNECTIONS}\nmax_connections_per_uid = {CONNECTIONS}\nmax_output_bytes = 262144\n\
         output_stall_timeout_ms = 1000\nmax_inflight_requests = 64"
    );
    Config::both().limits(&limits)
}

/// What all of them share.
struct Scene<'a> {
    daemon: &'a Daemon,
    /// All are connected; then all begin.
    there: Barrier,
    begin: Barrier,
    over: AtomicBool,
    /// Bad turns, by [`Vice`].
    turns: [AtomicU64; VICES.len()],
}

impl Scene<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A connection, if there is a place: somebody else may have taken it.
    fn try_again(&self) -> Option<Conn> {
        let mut conn = Conn::try_connect(self.daemon.socket()).ok()?;
        conn.try_ask(json!({"op": "ping"})).filter(|answer| answer["ok"] == true).map(|_| conn)
    }
}

fn get_big(id: u64) -> Value {
    json!({"op": "get_key_process", "id": id, "storage": "jobs", "date": DAY, "key": "big"})
}

/// Sends bytes until the daemon takes no more for a while or is gone; false in the latter case.
fn push(conn: &mut Conn, bytes: &[u8]) -> bool {
    conn.stream().set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let mut rest = bytes;
    while !rest.is_empty() {
        match conn.stream().write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// One turn of a bad client. `None` when the connection is used up.
fn misbehave(vice: Vice, mut conn: Conn, random: &mut Random, scene: &Scene<'_>) -> Option<Conn> {
    match vice {
        Vice::Slow => {
            let count = 20;
            conn.send_all((0..count).map(get_big));
            let mut byte = [0];
            while !scene.is_over() {
                conn.stream().read_exact(&mut byte).expect("a slow reader is not cut off");
                thread::sleep(Duration::from_millis(1));
            }
            // It is owed all of them, however long it took.
            (0..count).for_each(|_| drop(conn.text()));
            None
        }
        Vice::Silent => {
            if random.one_in(2) {
                conn.send_bytes(br#"{"op":"store","storage":"jobs","#);
            }
            wait_until_over(scene);
            Some(conn)
        }
        Vice::DiesInALine => {
            let line = line_of(500, "dying");
            conn.send_all((0..5).map(|_| &line));
            conn.send_bytes(&line.as_bytes()[..random.between(1, 499) as usize]);
            None
        }
        Vice::DiesInAnAnswer => {
            conn.send_all((0..10).map(get_big));
            let mut some = vec![0; random.between(1, 30_000) as usize];
            conn.stream().read_exact(&mut some).expect("the beginning of the answers");
            None
        }
        Vice::HalfClosed => {
            let line = line_of(300, "half-closed");
            conn.send_all((0..20).map(|_| &line));
            conn.half_close();
            for _ in 0..20 {
                assert_eq!(conn.answer()["ok"], true, "one that sends no more is owed its answers");
            }
            assert_eq!(conn.next(), None, "and then its connection ends");
            None
        }
        Vice::Floods => push(&mut conn, &joined((0..200).map(get_big)).0).then_some(conn),
        Vice::Flickers => None,
        Vice::SubscribesBlindly => {
            conn.send(json!({"op": "subscribe", "id": 1, "storage": "jobs", "date": DAY, "from_seq": 1}));
            wait_until_over(scene);
            Some(conn)
        }
    }
}

fn wait_until_over(scene: &Scene<'_>) {
    while !scene.is_over() {
        thread::sleep(Duration::from_millis(20));
    }
}

fn be_bad(number: usize, seed: u64, scene: &Scene<'_>) {
    let vice = VICES[number % VICES.len()];
    let mut random = Random::seeded(seed ^ ((number as u64) << 32));
    let mut conn = scene.try_again();
    scene.there.wait();
    scene.begin.wait();
    assert!(conn.is_some(), "there is a place for everyone at first");
    while !scene.is_over() {
        if let Some(open) = conn.take() {
            scene.turns[number % VICES.len()].fetch_add(1, Ordering::Relaxed);
            conn = misbehave(vice, open, &mut random, scene);
        }
        // Nobody is to be starved by the number of processors.
        thread::sleep(Duration::from_millis(random.between(5, 60)));
        if conn.is_none() && !scene.is_over() {
            conn = scene.try_again();
        }
    }
}

/// What a good client saw.
#[derive(Default)]
struct Served {
    written: u64,
    longest: Duration,
}

fn be_good(number: usize, scene: &Scene<'_>) -> Served {
    let conn = scene.try_again();
    scene.there.wait();
    scene.begin.wait();
    let mut conn = conn.expect("a place");
    let mut served = Served::default();
    let key = format!("good{number}");
    while !scene.is_over() {
        let begun = Instant::now();
        served.written += 1;
        let n = served.written;
        let stored = conn.ok(json!({"op": "store", "storage": "settings", "key": key, "data": {"n": n}}));
        assert_eq!(stored["durable"], true);
        let got = conn.ok(json!({"op": "get_item", "storage": "settings", "key": key}));
        assert_eq!(got["record"]["data"]["n"], n, "it reads what it wrote");
        served.longest = served.longest.max(begun.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    served
}

/// Exactly at the limit, the next one is told so, again and again, and it costs the others nothing.
fn check_height(scene: &Scene<'_>, stats: &mut Conn) {
    let daemon = stats.ok(json!({"op": "stats"}))["daemon"].clone();
    assert_eq!(daemon["connections"], CONNECTIONS, "everybody is connected");
    for _ in 0..20 {
        let mut conn = scene.daemon.connect();
        conn.refusal("one past the limit", "too_many_connections");
        assert_eq!(conn.next(), None);
    }
}

/// Waits until a figure has gone back; what is wrong where it has not.
fn goes_back<T: PartialOrd + std::fmt::Debug>(
    what: &str,
    at_most: &T,
    mut figure: impl FnMut() -> T,
) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = figure();
        if now <= *at_most {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("{what}: {now:?}, should have gone back to {at_most:?}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many the daemon has: of `fd`, descriptors; of `task`, threads.
fn count(daemon: &Daemon, of: &str) -> usize {
    std::fs::read_dir(format!("/proc/{}/{of}", daemon.pid())).expect("what the daemon has").count()
}

fn play_out(scene: &Scene<'_>, seed: u64, stats: &mut Conn) -> (Vec<Served>, usize) {
    thread::scope(|scope| {
        let bad: Vec<_> = (0..CROWD)
            .map(|number| {
                let body = move || be_bad(number, seed, scene);
                thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, body).expect("a thread")
            })
            .collect();
        let good: Vec<_> = (0..GOOD).map(|number| scope.spawn(move || be_good(number, scene))).collect();
        scene.there.wait();
        // Everybody waits for this one, also where it has found something.
        let height = catch_unwind(AssertUnwindSafe(|| check_height(scene, stats)));
        scene.begin.wait();
        let deadline = Instant::now() + DURATION;
        let mut threads = 0;
        while Instant::now() < deadline {
            threads = threads.max(count(scene.daemon, "task"));
            thread::sleep(Duration::from_millis(100));
        }
        scene.over.store(true, Ordering::Relaxed);
        if let Err(found) = height {
            resume_unwind(found);
        }
        let served = good.into_iter().map(|one| one.join().expect("a good client")).collect();
        for one in bad {
            one.join().expect("a bad client");
        }
        (served, threads)
    })
}

/// What each crowd did, and what is left of it.
struct Aftermath {
    served: Vec<Served>,
    turns: Vec<(Vice, u64)>,
    memory: u64,
    wrong: Vec<String>,
}

/// One crowd, from its first connection to its last.
fn one_crowd(daemon: &Daemon, seed: u64, most_memory: u64) -> Aftermath {
    let mut stats = daemon.connect();
    wait_for("connections of before to end", PATIENCE, || {
        (stats.ok(json!({"op": "stats"}))["daemon"]["connections"] == 1).then_some(())
    });
    let files = count(daemon, "fd");
    let scene = Scene {
        daemon,
        there: Barrier::new(CROWD + GOOD + 1),
        begin: Barrier::new(CROWD + GOOD + 1),
        over: AtomicBool::new(false),
        turns: Default::default(),
    };
    let (served, threads) = play_out(&scene, seed, &mut stats);
    let turns: Vec<_> =
        VICES.iter().zip(&scene.turns).map(|(vice, turns)| (*vice, turns.load(Ordering::Relaxed))).collect();
    let idle = turns.iter().filter(|(_, turns)| *turns == 0);
    let mut wrong: Vec<_> = idle.map(|(vice, _)| format!("{vice:?} did nothing")).collect();
    if threads > THREADS {
        wrong.push(format!("{threads} threads at once, should be at most {THREADS}"));
    }
    let connections = || stats.ok(json!({"op": "stats"}))["daemon"]["connections"].as_u64().unwrap();
    wrong.extend(goes_back("connections", &1, connections));
    wrong.extend(goes_back("descriptors", &(files + DESCRIPTORS_STAY), || count(daemon, "fd")));
    wrong.extend(goes_back("memory", &most_memory, || daemon.resident_bytes()));
    let memory = daemon.resident_bytes();
    println!(
        "bad_clients (crowd): seed {seed}, {turns:?}, descriptors {files} before and {} after, {threads} threads, memory {} MiB after",
        count(daemon, "fd"),
        memory >> 20
    );
    for Served { written, longest } in &served {
        println!("bad_clients (crowd): a good client wrote {written} times and waited {longest:?} at most");
        if *longest > GOOD_WAITS || *written < 20 {
            wrong.push(format!("a good client wrote {written} times and waited {longest:?} at most"));
        }
    }
    Aftermath { served, turns, memory, wrong }
}

#[test]
fn a_crowd_of_bad_clients_costs_the_good_ones_nothing() {
    let mut tally = Tally::new("bad_clients (crowd)");
    let seed = std::env::var("FASTPERSIST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let site = Site::new(&config());
    let mut daemon = site.start();
    daemon.connect().ok(line_of(BIG_BYTES, "big"));
    let mut most_memory = daemon.resident_bytes() + MEMORY_STAYS;
    let mut written = vec![0; GOOD];
    let crowds = if is_long() { CROWDS.1 } else { CROWDS.0 };
    for crowd in 0..crowds {
        let Aftermath { served, turns, memory, wrong } = one_crowd(&daemon, seed + crowd, most_memory);
        most_memory = memory + MEMORY_GROWS;
        written = served.iter().map(|served| served.written).collect();
        tally.runs += 1;
        tally.injected += turns.iter().map(|(_, turns)| turns).sum::<u64>();
        tally.wrong.extend(wrong);
        daemon.assert_running();
    }
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (number, written) in written.iter().enumerate() {
        let get = json!({"op": "get_item", "storage": "settings", "key": format!("good{number}")});
        let got = conn.ok(get);
        if got["record"]["data"]["n"] != *written {
            tally.lost.push(format!("the last of {written} writes: {got}"));
        }
    }
    tally.end();
}
