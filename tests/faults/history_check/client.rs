//! A recording client: it asks as fast as it is answered, often several requests at once, and records every call.
//! When its connection breaks it makes a new one; what was not answered it never sends again.

use std::{
    fs,
    io::{Read, Write},
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    call::{Call, now},
    requests::Asker,
    space::{Address, KEYS, Partition},
};
use crate::harness::{Conn, PATIENCE, Random, Site, child, joined, wait_for};

const SEED: &str = "FASTPERSIST_TEST_HISTORY_SEED";
const FIRST: &str = "FASTPERSIST_TEST_HISTORY_FIRST";
const CALLS: &str = "FASTPERSIST_TEST_HISTORY_CALLS";

/// How many of the clients are threads of the test, how many processes there are besides, and of how many clients
/// each.
const THREADS: u64 = 4;
const PROCESSES: u64 = 2;
const EACH: u64 = 2;

/// Everybody who asks during a run.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Call>>>,
    processes: Vec<Process>,
}

struct Process {
    child: Child,
    /// While it is open the process asks: it also ends when the test dies.
    stop: Option<ChildStdin>,
    calls: std::path::PathBuf,
}

impl Crowd {
    pub(super) fn start(site: &Site, socket: &str, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = threads(socket, seed, 0..THREADS, &stop);
        let processes = (0..PROCESSES).map(|n| Process::start(site, socket, seed, THREADS + n * EACH));
        Self { processes: processes.collect(), threads, stop }
    }

    /// Lets everybody finish what was sent, and gives all calls.
    pub(super) fn stop(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = collect(self.threads);
        for process in self.processes {
            calls.extend(process.stop());
        }
        calls
    }
}

fn threads(
    socket: &str,
    seed: u64,
    clients: std::ops::Range<u64>,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Vec<Call>>> {
    let start = |client| {
        let (socket, stop) = (socket.to_owned(), Arc::clone(stop));
        let random = Random::seeded(seed * 1000 + client);
        thread::spawn(move || Client::new(client, random).work(&socket, &stop))
    };
    clients.map(start).collect()
}

fn collect(threads: Vec<JoinHandle<Vec<Call>>>) -> Vec<Call> {
    threads.into_iter().flat_map(|thread| thread.join().expect("a client met what it should not")).collect()
}

impl Process {
    fn start(site: &Site, socket: &str, seed: u64, first: u64) -> Self {
        let exe = std::env::current_exe().expect("the test binary");
        let calls = site.path(&format!("calls{first}"));
        let mut command = child::command(&exe, "history-clients", socket);
        command.env(SEED, seed.to_string()).env(FIRST, first.to_string()).env(CALLS, &calls);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start a process of clients");
        let stop = child.stdin.take();
        Self { child, stop, calls }
    }

    fn stop(mut self) -> Vec<Call> {
        drop(self.stop.take());
        let ended = || self.child.try_wait().expect("wait for a process of clients");
        let status = wait_for("a process of clients ends", PATIENCE, ended);
        assert!(status.success(), "a process of clients met what it should not: {status}");
        let lines = fs::read_to_string(&self.calls).expect("read its calls");
        lines.lines().map(Call::from_line).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process of clients itself.
pub(crate) fn run(socket: &str) {
    let number = |name: &str| std::env::var(name).expect(name).parse::<u64>().expect("a number");
    let stop = Arc::new(AtomicBool::new(false));
    let first = number(FIRST);
    let threads = threads(socket, number(SEED), first..first + EACH, &stop);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    stop.store(true, Ordering::Relaxed);
    let (lines, _) = joined(collect(threads).iter().map(Call::to_line));
    fs::write(std::env::var_os(CALLS).expect("where to put the calls"), lines).expect("write the calls");
}

/// Now and then everybody goes over to reading for a while, by a clock that all have. That is when records leave
/// memory, and what is read comes from DuckDB.
fn is_quiet() -> bool {
    now() % PERIOD_NS > LOUD_NS
}

const PERIOD_NS: u64 = 100_000_000;
const LOUD_NS: u64 = 60_000_000;

pub(super) struct Client {
    number: u64,
    asker: Asker,
    pub(super) calls: Vec<Call>,
}

impl Client {
    pub(super) fn new(number: u64, random: Random) -> Self {
        Self { number, asker: Asker::new(number, random), calls: Vec::new() }
    }

    fn work(mut self, socket: &str, stop: &AtomicBool) -> Vec<Call> {
        while !stop.load(Ordering::Relaxed) {
            // The daemon is away between its end and the next start.
            match Conn::try_connect(socket) {
                Ok(mut conn) => {
                    let connected = now();
                    while !stop.load(Ordering::Relaxed) && self.burst(&mut conn, connected).is_some() {}
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        self.calls
    }

    /// `None` when the connection is over.
    fn burst(&mut self, conn: &mut Conn, connected: u64) -> Option<()> {
        let random = &mut self.asker.random;
        let count = if random.one_in(2) { 1 } else { random.between(2, 6) };
        // Now and then it goes away without its answers.
        let is_leaving = random.one_in(200);
        let is_quiet = is_quiet();
        let requests = (0..count).map(|_| self.asker.next(is_quiet)).collect();
        self.ask(conn, connected, requests, is_leaving)
    }

    /// Sends requests at once, and records what becomes of them.
    pub(super) fn ask(
        &mut self,
        conn: &mut Conn,
        connected: u64,
        requests: Vec<Value>,
        is_leaving: bool,
    ) -> Option<()> {
        let (lines, _) = joined(&requests);
        let called = now();
        let first = self.calls.len();
        self.calls.extend(requests.into_iter().map(|request| Call {
            client: self.number,
            connected,
            called,
            answered: None,
            request,
            answer: Value::Null,
        }));
        conn.stream().write_all(&lines).ok()?;
        if is_leaving {
            return None;
        }
        for call in &mut self.calls[first..] {
            let answer: Value = serde_json::from_str(&conn.next()?).expect("an answer in JSON");
            let answered = now();
            // That is what it says: nobody knows.
            if answer["error"]["code"] == "outcome_unknown" {
                continue;
            }
            self.asker.learn(&call.request, &answer);
            call.answered = Some(answered);
            call.answer = answer;
        }
        Some(())
    }
}

/// Reads everything once, in every way, and gives the calls.
pub(super) fn read_all(conn: &mut Conn, number: u64) -> Vec<Call> {
    let connected = now();
    let mut reader = Client::new(number, Random::seeded(0));
    for partition in Partition::ALL {
        let mut requests: Vec<_> = partition.addresses().map(Address::read).collect();
        let keys = KEYS.iter().map(|key| partition.request("get_key", json!({"key": key})));
        requests.extend(keys);
        requests.push(partition.query());
        reader.ask(conn, connected, requests, false).expect("the daemon answers");
    }
    reader.calls
}
