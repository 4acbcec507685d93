//! The writers' processes, and what they say.
//!
//! Invariant: no writer outlives its [`Crew`].

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::Interrupt;
use super::flights::AIRPORTS;
use crate::cli::failure::{Failure, Outcome};

const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Crew {
    writers: Vec<(&'static str, Child)>,
    said: Receiver<String>,
    /// Every write that was answered, with its seq, as the writers have said it.
    pub(super) answered: BTreeMap<String, u64>,
}

impl Crew {
    /// Starts a writer for each airport.
    pub(super) fn start(socket: &str, options: &[&str]) -> Outcome<Self> {
        let own = env::current_exe().map_err(|error| Failure::io("this program", &error))?;
        let (sender, said) = channel();
        let mut crew = Self { writers: Vec::new(), said, answered: BTreeMap::new() };
        for airport in AIRPORTS {
            let child = Command::new(&own)
                .args(["demo-writer", "--socket", socket, "--airport", airport])
                .args(options)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn();
            let mut child = child.map_err(|error| Failure::io(own.display(), &error))?;
            if let Some(stdout) = child.stdout.take() {
                let sender = sender.clone();
                thread::spawn(move || listen(stdout, &sender));
            }
            crew.writers.push((airport, child));
        }
        Ok(crew)
    }

    /// Listens until so many writes are answered, or until all writers have ended.
    pub(super) fn listen(&mut self, until_answered: usize, interrupt: &Interrupt) -> Outcome {
        while self.answered.len() < until_answered {
            let Some(line) = self.next(interrupt)? else { break };
            let (key, seq) = line.split_once('\t').unwrap_or((&line, ""));
            let seq = seq.parse().map_err(|_| Failure::failed(format!("a writer said {line:?}")))?;
            if self.answered.insert(key.to_owned(), seq).is_some() {
                return Err(Failure::failed(format!("{key} was answered twice")));
            }
        }
        Ok(())
    }

    /// Waits for all writers and adds up the counts that they end with.
    pub(super) fn total(mut self, interrupt: &Interrupt) -> Outcome<u64> {
        let mut total = 0;
        while let Some(line) = self.next(interrupt)? {
            total += line.parse::<u64>().map_err(|_| Failure::failed(format!("a writer said {line:?}")))?;
        }
        self.finish(interrupt)?;
        Ok(total)
    }

    fn next(&self, interrupt: &Interrupt) -> Outcome<Option<String>> {
        loop {
            interrupt.check()?;
            match self.said.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    /// Every writer must have ended well.
    pub(super) fn finish(&mut self, interrupt: &Interrupt) -> Outcome {
        for (airport, mut writer) in self.writers.drain(..) {
            let status = writer.wait().map_err(|error| Failure::io(airport, &error))?;
            // Ctrl-C reaches the writers too, and is told as what it is.
            interrupt.check()?;
            if !status.success() {
                return Err(Failure::failed(format!("the writer of {airport} ended with {status}")));
            }
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (_, writer) in &mut self.writers {
            // One that has ended by itself cannot be killed, and need not be.
            let _ = writer.kill();
            let _ = writer.wait();
        }
    }
}

fn listen(stdout: impl std::io::Read, said: &Sender<String>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        if said.send(line).is_err() {
            return;
        }
    }
}
