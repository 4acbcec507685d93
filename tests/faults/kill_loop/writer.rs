//! A writing process: it writes without end, and logs what it sends before and each answer after. Between its
//! writes it reads what it was answered before, first of all when the daemon is back: a read after an answer sees it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    ledger::{Fate, Ledger},
    steps::{self, ITEMS, Step},
};
use crate::harness::{Conn, PATIENCE, Random, Site, child, joined, wait_for};

const NUMBER: &str = "FASTPERSIST_TEST_WRITER";
const LOG: &str = "FASTPERSIST_TEST_LOG";

/// A writing process, seen from the test.
pub(super) struct Writer {
    process: Child,
    /// While it is open the writer writes: it also ends when the test dies.
    stop: Option<ChildStdin>,
    log: PathBuf,
}

impl Writer {
    pub(super) fn start(site: &Site, number: u64) -> Self {
        let log = site.path(&format!("writer{number}.log"));
        let exe = std::env::current_exe().expect("the test binary");
        let mut command = child::command(&exe, "kill-writer", site.socket());
        command.env(NUMBER, number.to_string()).env(LOG, &log);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn().expect("start a writer");
        let stop = process.stdin.take();
        Self { process, stop, log }
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Lets it finish what it has sent.
    pub(super) fn stop(mut self) {
        drop(self.stop.take());
        let status =
            wait_for("a writer ends", PATIENCE, || self.process.try_wait().expect("wait for a writer"));
        assert!(status.success(), "a writer met what it should not have: {status}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The writing process itself.
pub(crate) fn run(socket: &str) {
    let number = std::env::var(NUMBER).expect("the writer's number").parse().expect("a number");
    let log = std::env::var_os(LOG).expect("the writer's log");
    let log = OpenOptions::new().create(true).append(true).open(log).expect("open the log");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let mut writer = Running { ledger: Ledger::new(number), log, random: Random::new() };
    while !stop.load(Ordering::Relaxed) {
        // The daemon is away between a kill and the next start.
        match Conn::try_connect(socket) {
            Ok(mut conn) => {
                let mut goes_on = writer.look_back(&mut conn);
                while goes_on.is_some() && !stop.load(Ordering::Relaxed) {
                    goes_on = writer.burst(&mut conn);
                    // As fast as it can it would write more than a judge can read in the time.
                    thread::sleep(Duration::from_millis(writer.random.between(0, 4)));
                }
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

struct Running {
    ledger: Ledger,
    log: File,
    random: Random,
}

/// A read of something own.
struct Reread {
    request: Value,
    expected: Expected,
}

enum Expected {
    /// The record of a step in the dated storage.
    Record(u64, Fate, u64),
    /// An item that a kind of step writes, with the values that it may have.
    Item(Step, std::ops::RangeInclusive<u64>),
}

/// The answered steps that are read again when the daemon is back.
const LAST: usize = 24;

impl Running {
    /// Sends some writes and reads at once and reads their answers. `None` when the connection broke; what was not
    /// answered then is never sent again.
    fn burst(&mut self, conn: &mut Conn) -> Option<()> {
        let steps = self.ledger.sent..self.ledger.sent + self.random.between(1, 12);
        self.note(&format!("sent {}", steps.end));
        let known = self.ledger.answered.last_key_value().map(|(last, _)| *last);
        let chosen: Vec<_> = known.map(|last| self.random.between(0, last)).into_iter().collect();
        let reads = self.reads(chosen);
        let writes = steps.clone().map(|n| steps::request(self.ledger.number, n));
        let (lines, _) = joined(writes.chain(reads.iter().map(|read| read.request.clone())));
        conn.stream().write_all(&lines).ok()?;
        for n in steps {
            let answer: Value = serde_json::from_str(&conn.next()?).expect("an answer in JSON");
            if answer["ok"] == true {
                self.note(&format!("answered {n} {}", seqs(&answer)));
            } else {
                // Only what is worth another try can befall a correct request.
                assert_eq!(answer["error"]["code"], "busy", "{answer}");
                self.note(&format!("refused {n}"));
            }
        }
        self.compare(conn, reads)
    }

    /// Reads what was answered last, by a daemon that is dead.
    fn look_back(&mut self, conn: &mut Conn) -> Option<()> {
        let steps: Vec<_> = self.ledger.answered.keys().rev().take(LAST).copied().collect();
        let reads = self.reads(steps);
        let (lines, _) = joined(reads.iter().map(|read| &read.request));
        conn.stream().write_all(&lines).ok()?;
        self.compare(conn, reads)
    }

    /// Reads of the records of these steps, and of all items.
    fn reads(&self, steps: Vec<u64>) -> Vec<Reread> {
        let name = steps::name(self.ledger.number);
        let records = steps.into_iter().filter_map(|n| {
            let (key, seqs) = (steps::keys(self.ledger.number, n).pop()?, self.ledger.answered.get(&n)?);
            let request = json!({
                "op": "get_key_process", "storage": "jobs", "date": steps::date(n), "key": key, "process_name": name
            });
            Some(Reread { request, expected: Expected::Record(n, self.ledger.fate(n), *seqs.last()?) })
        });
        let items = ITEMS.into_iter().filter_map(|(item, kind)| {
            let request = json!({"op": "get_item", "storage": "settings", "key": name, "item_name": item});
            Some(Reread { request, expected: Expected::Item(kind, self.ledger.item(kind)?) })
        });
        records.chain(items).collect()
    }

    fn compare(&mut self, conn: &mut Conn, reads: Vec<Reread>) -> Option<()> {
        let count = reads.len();
        for Reread { request, expected } in reads {
            let answer: Value = serde_json::from_str(&conn.next()?).expect("an answer in JSON");
            let record = &answer["record"];
            let right = match expected {
                Expected::Record(_, Fate::Gone, _) => record.is_null(),
                Expected::Record(_, Fate::Either, _) if record.is_null() => true,
                Expected::Record(n, _, seq) => record["data"]["n"] == n && record["seq"] == seq,
                Expected::Item(kind, values) => record["value"]
                    .as_u64()
                    .is_some_and(|value| values.contains(&value) && steps::step(value) == kind),
            };
            if answer["ok"] != true || !right {
                self.note(&format!("misread {request} was answered {answer}"));
            }
        }
        if count > 0 {
            self.note(&format!("reread {count}"));
        }
        Some(())
    }

    fn note(&mut self, line: &str) {
        self.log.write_all(format!("{line}\n").as_bytes()).expect("write the log");
        self.ledger.note(line);
    }
}

/// The numbers that an answer gave, one after the other.
fn seqs(answer: &Value) -> String {
    let numbers = match &answer["seqs"] {
        Value::Array(seqs) => seqs.clone(),
        _ => vec![answer["seq"].clone()],
    };
    let numbers: Vec<_> = numbers.iter().filter_map(Value::as_u64).map(|seq| seq.to_string()).collect();
    numbers.join(" ")
}
