//! A writing process: it writes as fast as it is answered, and logs what it sends before and each answer after.

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

use serde_json::Value;

use super::steps;
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
    let mut writer = Running { number, log, next: 0, random: Random::new() };
    while !stop.load(Ordering::Relaxed) {
        // The daemon is away between a kill and the next start.
        match Conn::try_connect(socket) {
            Ok(mut conn) => while !stop.load(Ordering::Relaxed) && writer.burst(&mut conn).is_some() {},
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

struct Running {
    number: u64,
    log: File,
    next: u64,
    random: Random,
}

impl Running {
    /// Sends some requests at once and reads their answers. `None` when the connection broke; what was not answered
    /// then is never sent again.
    fn burst(&mut self, conn: &mut Conn) -> Option<()> {
        let steps = self.next..self.next + self.random.between(1, 12);
        self.next = steps.end;
        let (lines, _) = joined(steps.clone().map(|n| steps::request(self.number, n)));
        self.note(&format!("sent {}", steps.end));
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
        Some(())
    }

    fn note(&mut self, line: &str) {
        self.log.write_all(format!("{line}\n").as_bytes()).expect("write the log");
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
