//! The client over a hundred kills: what is written through it is never lost and never there twice.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use fastpersist_client::{Client, ConnectOptions, Edit, Error, StoreOutcome, Value, blocking};
use serde_json::json;

use crate::harness::{Config, Conn, PATIENCE, Random, Site, child, wait_for};

const LOG: &str = "FASTPERSIST_TEST_LOG";
const KIND: &str = "FASTPERSIST_TEST_WRITER";
/// Writes of the async client that are under way at the same time.
const TASKS: u64 = 32;
/// Updates of one counter that are under way at the same time: all but one of them are too late.
const UPDATES: usize = 6;
const KINDS: [&str; 4] = ["async", "blocking", "pipeline", "updates"];

/// A process that writes the numbers from 1 on to an item of its own, and logs what was answered.
pub(crate) fn run(socket: &str) {
    let kind = std::env::var(KIND).expect("the kind");
    let log = std::env::var_os(LOG).expect("the log");
    let log = OpenOptions::new().create(true).append(true).open(log).expect("open the log");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let options = ConnectOptions::new().socket(socket).retry_writes_for(PATIENCE).request_timeout(PATIENCE);
    let answered = Answered { log: Mutex::new(log) };
    match kind.as_str() {
        "async" => write_async(options, &stop, answered),
        "blocking" => write_blocking(options, &stop, &answered),
        "updates" => update(options, &stop, answered),
        _ => write_pipelines(options, &stop, &answered),
    }
}

struct Answered {
    log: Mutex<File>,
}

impl Answered {
    fn note(&self, number: u64, stored: &StoreOutcome) {
        assert!(stored.durable, "{stored:?}");
        writeln!(self.log.lock().expect("the log"), "{number}").expect("write the log");
    }
}

fn write_blocking(options: ConnectOptions, stop: &AtomicBool, answered: &Answered) {
    let client = blocking::Client::connect(options).expect("a daemon");
    let settings = client.collection("settings");
    for number in (1..).take_while(|_| !stop.load(Ordering::Relaxed)) {
        let store = settings.store("numbers", &json!({})).item_name("blocking").value(number);
        answered.note(number as u64, &store.send().expect("stored over whatever happens"));
    }
}

fn write_pipelines(options: ConnectOptions, stop: &AtomicBool, answered: &Answered) {
    let client = blocking::Client::connect(options).expect("a daemon");
    let settings = client.collection("settings");
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        let mut batch = settings.batch();
        for number in next..next + 100 {
            batch.add(settings.store("numbers", &json!({})).item_name("pipeline").value(number));
        }
        for (number, result) in (next..).zip(batch.send_each().expect("a daemon")) {
            let stored = result.expect("stored over whatever happens");
            assert!(stored.durable);
            writeln!(answered.log.lock().expect("the log"), "{number}").expect("write the log");
        }
        next += 100;
    }
}

fn write_async(options: ConnectOptions, stop: &Arc<AtomicBool>, answered: Answered) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (next, answered) = (Arc::new(AtomicU64::new(1)), Arc::new(answered));
    runtime.expect("a runtime").block_on(async {
        let client = Client::connect(options).await.expect("a daemon");
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (next, answered, stop) = (Arc::clone(&next), Arc::clone(&answered), Arc::clone(stop));
                let settings = client.collection("settings");
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let store = settings.store("numbers", &json!({})).item_name("async");
                        let stored = store.value(number as i64).send().await;
                        answered.note(number, &stored.expect("stored over whatever happens"));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
}

/// Counts up, and logs each number that it is told to have stored.
fn update(options: ConnectOptions, stop: &Arc<AtomicBool>, answered: Answered) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let answered = Arc::new(answered);
    runtime.expect("a runtime").block_on(async {
        let client = Client::connect(options).await.expect("a daemon");
        let tasks: Vec<_> = (0..UPDATES)
            .map(|_| {
                let (answered, stop) = (Arc::clone(&answered), Arc::clone(stop));
                let settings = client.collection("settings");
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let mut number = 0;
                        let update = settings.update("numbers").item_name("updates").run(|record| {
                            number = match record.and_then(|record| record.value.clone()) {
                                Some(Value::Int(before)) => before + 1,
                                _ => 1,
                            };
                            Ok(Edit::store(&json!({})).value(number))
                        });
                        match update.await {
                            Ok(_) => writeln!(answered.log.lock().expect("the log"), "{number}")
                                .expect("write the log"),
                            // The read, which is sent once.
                            Err(Error::Disconnected { .. } | Error::Connect { .. }) => {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                            Err(error) => panic!("an update failed: {error}"),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
}

/// A writing process, seen from the test.
struct Writer {
    process: Child,
    stop: Option<ChildStdin>,
    log: PathBuf,
}

impl Writer {
    fn start(site: &Site, kind: &str) -> Self {
        let log = site.path(&format!("{kind}.log"));
        let exe = std::env::current_exe().expect("the test binary");
        let mut command = child::command(&exe, "numbers", site.socket());
        command.env(KIND, kind).env(LOG, &log).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn().expect("start a writer");
        let stop = process.stdin.take();
        Self { process, stop, log }
    }

    /// The numbers that were answered.
    fn end(mut self) -> Vec<u64> {
        drop(self.stop.take());
        let status =
            wait_for("a writer ends", PATIENCE, || self.process.try_wait().expect("wait for a writer"));
        assert!(status.success(), "a write was not stored: {status}");
        let text = std::fs::read_to_string(&self.log).expect("read the log");
        text.lines().map(|line| line.parse().expect("a number")).collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All values that an item ever had, oldest first.
fn history(conn: &mut Conn, item: &str) -> Vec<u64> {
    let mut values = Vec::new();
    let mut before_seq = u64::MAX;
    loop {
        let request = json!({"op": "history", "storage": "settings", "key": "numbers", "item_name": item, "limit": 10_000, "before_seq": before_seq});
        let page = conn.ok(request);
        for record in page["records"].as_array().expect("records") {
            values.push(record["value"].as_u64().expect("a value"));
            before_seq = record["seq"].as_u64().expect("a seq");
        }
        if page["more"] == false {
            values.reverse();
            return values;
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_there_twice_over_a_hundred_kills() {
    let rounds = std::env::var("FASTPERSIST_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: u64 = rounds.unwrap_or(100);
    let mut random = Random::new();
    let site = Site::new(&Config::new().collection("settings", "batch_size = 500\nwal_retain_days = 0"));
    let mut daemon = site.start();
    let writers = KINDS.map(|kind| (kind, Writer::start(&site, kind)));
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(random.between(5, 120)));
        daemon.kill();
        daemon = site.start();
    }
    thread::sleep(Duration::from_millis(200));
    let mut conn = daemon.connect();
    for (kind, writer) in writers {
        let mut answered = writer.end();
        let mut found = history(&mut conn, kind);
        assert!(answered.len() as u64 > rounds, "{kind}: only {} writes", answered.len());
        if kind != "async" {
            assert!(found.is_sorted(), "{kind}: one after the other");
        }
        found.sort_unstable();
        answered.sort_unstable();
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{kind}: something is there twice");
        assert_eq!(found, answered, "{kind}: what was answered is there, and nothing else");
        eprintln!("{kind}: {} writes over {rounds} kills", found.len());
    }
    daemon.stop();
}
