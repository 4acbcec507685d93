//! The loop of a load: chunks in, batches out, progress told and remembered.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastpersist_client::{Client, Error};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;

use super::LoadArgs;
use super::send::{Sent, Target};
use super::source::{Chunk, Source};
use super::state::{Progress, StateFile};
use crate::cli::failure::{Exit, Failure, Outcome, exit_of};
use crate::cli::output::{Output, count, grouped};
use crate::cli::{Global, find_storage};

/// How often the state is written at most: each time costs a sync.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// How often an interruption is looked for while nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Chunks that are read ahead.
const READ_AHEAD: usize = 4;

/// A chunk that came back: its number, where it ended, what was wrong with its lines, what became of it.
struct Done {
    number: u64,
    records: u64,
    bytes: u64,
    bad: Vec<(u64, String)>,
    sent: Result<Sent, Error>,
}

pub(crate) fn run(global: &Global, args: &LoadArgs, out: &mut Output) -> Outcome {
    let format = args.format()?;
    let (input, length) = args.open()?;
    let (state, progress) = StateFile::open(args.resume.as_deref(), &args.file)?;
    let interrupted = catch_interrupt()?;
    // One thread, so that batches are sent in the order in which they were cut.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime", &error))?;
    runtime.block_on(async {
        let client = Client::connect(global.options()).await?;
        let storage = find_storage(&client.info().await?, global.storage.as_deref(), None)?;
        args.check_model(&storage)?;
        let (sender, chunks) = channel(READ_AHEAD);
        let source = Source {
            input,
            format,
            mapping: args.mapping(),
            cells: args.cells(),
            batch_size: args.batch_size as usize,
            skip: progress.records,
            strict: args.strict,
        };
        // It ends with the input, or with this process when the input never ends.
        thread::spawn(move || source.run(sender));
        let target = Target { client, storage: storage.name, date: args.date };
        let mut load = Load::new(args, state, progress, progress_bar(length), out.is_for_people());
        let ended = load.drive(target, chunks, &interrupted).await;
        load.finish(ended, out)
    })
}

fn catch_interrupt() -> Outcome<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the process at once.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Failed as i32,
            Arc::clone(&interrupted),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
        .map_err(|error| Failure::io("signals", &error))?;
    }
    Ok(interrupted)
}

fn progress_bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => {
            (ProgressBar::new(length), "{bar:30} {percent:>3}%  {msg}  {binary_bytes_per_sec}  {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner}  {msg}  {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Load<'a> {
    args: &'a LoadArgs,
    state: StateFile,
    /// The beginning of the input that is done, without gaps. This is what is saved.
    done: Progress,
    /// Chunks that are done, but behind one that is not.
    ahead: BTreeMap<u64, Settled>,
    next_done: u64,
    /// A strict load ends before its first bad line.
    has_bad_line: bool,
    saved_at: Instant,
    skipped: u64,
    started: Instant,
    stored: u64,
    failed: u64,
    bar: ProgressBar,
    for_people: bool,
}

/// What is remembered of a chunk until its turn comes: where it ended, and what became of its records.
struct Settled {
    records: u64,
    stored: u64,
    bad: Vec<(u64, String)>,
}

/// Why a load ended before its input.
enum End {
    Interrupted,
    BadLine,
    Input(io::Error),
    Daemon(Error),
    Failure(Failure),
}

impl<'a> Load<'a> {
    fn new(args: &'a LoadArgs, state: StateFile, done: Progress, bar: ProgressBar, for_people: bool) -> Self {
        Self {
            args,
            state,
            skipped: done.records,
            done,
            ahead: BTreeMap::new(),
            next_done: 0,
            has_bad_line: false,
            saved_at: Instant::now(),
            started: Instant::now(),
            stored: 0,
            failed: 0,
            bar,
            for_people,
        }
    }

    /// Runs to the end of the input, or of the possible. What is under way is waited for in any case.
    async fn drive(
        &mut self,
        target: Target,
        mut chunks: Receiver<io::Result<Chunk>>,
        interrupted: &AtomicBool,
    ) -> Option<End> {
        let mut under_way = JoinSet::new();
        let mut waiting = VecDeque::new();
        let mut end = None;
        let mut number = 0;
        let mut input_ended = false;
        loop {
            while end.is_none() && under_way.len() < self.args.in_flight as usize {
                let Some(chunk) = waiting.pop_front() else { break };
                under_way.spawn(send(target.clone(), number, chunk));
                number += 1;
            }
            let wants_more = end.is_none() && !input_ended && waiting.is_empty();
            if !wants_more && under_way.is_empty() {
                return end;
            }
            tokio::select! {
                Some(joined) = under_way.join_next() => {
                    let settled = match joined {
                        Ok(done) => self.settle(done),
                        Err(error) => Some(End::Failure(Failure::failed(error.to_string()))),
                    };
                    end = end.or(settled);
                }
                chunk = chunks.recv(), if wants_more => match chunk {
                    Some(Ok(chunk)) => waiting.push_back(chunk),
                    Some(Err(error)) => end = Some(End::Input(error)),
                    None => input_ended = true,
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if interrupted.load(Ordering::Relaxed) {
                end = end.or(Some(End::Interrupted));
            }
        }
    }

    /// Takes in what became of a chunk.
    fn settle(&mut self, done: Done) -> Option<End> {
        let sent = match done.sent {
            Ok(sent) => sent,
            Err(error) => return Some(End::Daemon(error)),
        };
        let mut bad = done.bad;
        bad.extend(sent.refused);
        bad.sort_by_key(|(line, _)| *line);
        self.stored += sent.stored;
        self.bar.set_position(done.bytes.max(self.bar.position()));
        self.bar.set_message(format!("{} stored", count(self.stored, "record")));
        self.ahead.insert(done.number, Settled { records: done.records, stored: sent.stored, bad });
        while !self.has_bad_line {
            let Some(next) = self.ahead.remove(&self.next_done) else { break };
            self.next_done += 1;
            for (line, reason) in &next.bad {
                self.bar.suspend(|| eprintln!("{}: line {line}: {reason}", self.args.file));
            }
            let failed = next.bad.len() as u64;
            self.failed += failed;
            if self.args.strict && failed > 0 {
                // Not done, nor anything behind it: once the line is mended, a resumed load is to read it again.
                self.has_bad_line = true;
                return Some(End::BadLine);
            }
            self.done.records = next.records;
            self.done.stored += next.stored;
            self.done.failed += failed;
        }
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.saved_at = Instant::now();
            if let Err(failure) = self.state.save(&self.done) {
                return Some(End::Failure(failure));
            }
        }
        None
    }

    /// Saves the state, says what was done, and gives the load's result, which counts for more than whether anybody
    /// reads what was said.
    fn finish(self, end: Option<End>, out: &mut Output) -> Outcome {
        self.bar.finish_and_clear();
        self.state.save(&self.done)?;
        let told = self.tell(out);
        self.result(end).and(told)
    }

    fn tell(&self, out: &mut Output) -> Outcome {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (self.stored as f64 / seconds.max(f64::MIN_POSITIVE)) as u64;
        if self.for_people {
            let skipped = match self.skipped {
                0 => String::new(),
                skipped => format!(", {} skipped as done before", grouped(skipped)),
            };
            out.line(format_args!(
                "{} stored, {} failed{skipped}; {seconds:.2} s, {} records/s",
                count(self.stored, "record"),
                grouped(self.failed),
                grouped(rate)
            ))?;
        } else {
            out.line(json!({
                "stored": self.stored, "failed": self.failed, "skipped": self.skipped,
                "seconds": seconds, "records_per_second": rate,
            }))?;
        }
        out.flush()
    }

    fn result(&self, end: Option<End>) -> Outcome {
        let resume = match &self.args.resume {
            Some(file) => format!("the same command with --resume {} goes on from there", file.display()),
            None => "with --resume FILE a load remembers where it stopped".to_owned(),
        };
        let at = format!("everything up to record {} of {}", self.done.records, self.args.file);
        match end {
            None if self.failed == 0 => Ok(()),
            None => Err(Failure::failed(format!("{} could not be stored", count(self.failed, "line")))),
            Some(End::BadLine) => {
                Err(Failure::failed(format!("stopped because of a bad line; done is {at}")).with_hint(resume))
            }
            Some(End::Interrupted) => {
                Err(Failure::failed(format!("interrupted; done is {at}")).with_hint(resume))
            }
            Some(End::Input(error)) => Err(Failure::io(&self.args.file, &error).with_hint(resume)),
            Some(End::Daemon(error)) => {
                Err(Failure::new(exit_of(&error), format!("{error}; done is {at}")).with_hint(resume))
            }
            Some(End::Failure(failure)) => Err(failure),
        }
    }
}

async fn send(target: Target, number: u64, chunk: Chunk) -> Done {
    let Chunk { items, bad, records, bytes, .. } = chunk;
    let sent = target.send(items).await;
    Done { number, records, bytes, bad, sent }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Load {
        #[command(flatten)]
        args: LoadArgs,
    }

    /// A chunk that was under way behind the bad one once counted it as done, so a resumed load left it out.
    #[test]
    fn a_strict_load_has_done_nothing_behind_its_bad_line() {
        let args = Load::parse_from(["load", "in.ndjson", "--strict"]).args;
        let (state, progress) = StateFile::open(None, "in.ndjson").unwrap();
        let mut load = super::Load::new(&args, state, progress, ProgressBar::hidden(), false);
        let mut settle = |number: u64, refused: Vec<(u64, String)>| {
            let sent = Ok(Sent { stored: 10 - refused.len() as u64, refused });
            let end =
                load.settle(Done { number, records: 10 * (number + 1), bytes: 0, bad: Vec::new(), sent });
            (end, load.done.records, load.done.stored)
        };
        assert!(matches!(settle(0, Vec::new()), (None, 10, 10)));
        assert!(matches!(settle(2, Vec::new()), (None, 10, 10)));
        assert!(matches!(settle(1, vec![(11, "too long".to_owned())]), (Some(End::BadLine), 10, 10)));
        assert!(matches!(settle(3, Vec::new()), (None, 10, 10)));
    }
}
