//! The verb `import`: a directory of the Python library into a storage.
//!
//! `fastpersistd read-python`, which has DuckDB, prints what is in the directory (`reader`); this sends it to
//! the running daemon (`send`) as operations of `import` and tells what became of it (here).
//!
//! Invariant: batches go out one after the other, so that the values of an item are stored in their order,
//! and an import that was interrupted is a beginning of the whole one.

mod reader;
mod send;

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::forward::find_program;
use super::output::{Output, count, grouped};
use super::{Global, find_storage};
use reader::{Event, Reader};
use send::{Sender, Sent};

/// Events that are read ahead.
const READ_AHEAD: usize = 4;
/// Problems that are listed by name; more are counted.
const LISTED: usize = 1_000;

const HELP: &str = "\
The directory is the base_dir of ionbus-fast-persist, or the directory of one of its dates. It is only \
read. Stop the program that writes it first: a database that is open is refused.

Read is what the library itself would recover: of a dated directory the newest value of each record, of a \
collection its whole history, and of the log (wal_*.jsonl) what the databases do not have yet. updated_at, \
timestamp, username, status and status_int stay as they are; version counts the writes here. NaN and \
infinities in data become strings, for JSON does not have them.

A record that the storage has as new or newer, by updated_at, is left alone. So the same import may be \
repeated, and after an interruption it is repeated to go on. Records that were deleted here come back. \
Import a collection before anything else writes its items, for their history cannot be put in between.

The exit code is 1 when anything could not be read or stored: a torn last line too.

Example:
  fastpersist import --from ./storage --storage jobs --dry-run
  fastpersist import --from ./storage --storage jobs";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ImportArgs {
    /// The directory of the Python library.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Read everything, store nothing.
    #[arg(long)]
    dry_run: bool,
    /// The time zone of the machine that wrote the directory. Its rows tell it, unless they are very old.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// A Python with the package duckdb, for databases of a DuckDB that is newer than the daemon's.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Where databases with a log of their own are copied to, to be opened [default: the system's].
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
    /// Records in one batch.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch_size: u64,
    /// The program fastpersistd [default: the one beside this program, else the one on the PATH].
    #[arg(long, value_name = "PROGRAM")]
    daemon: Option<PathBuf>,
}

pub(crate) fn import(global: &Global, args: &ImportArgs, out: &mut Output) -> Outcome {
    if let Err(error) = std::fs::read_dir(&args.from) {
        return Err(Failure::io(args.from.display(), &error));
    }
    let client = global.connect()?;
    let storage = find_storage(&client.info()?, global.storage.as_deref(), None)?;
    let program = args.daemon.clone().map_or_else(find_program, Ok)?;
    let reader = Reader::start(&program, args)?;
    let (events, read) = sync_channel(READ_AHEAD);
    // It ends with its input, or when nobody receives any more.
    let reader = thread::spawn(move || reader.run(&events));
    let mut run = Run {
        args,
        sender: Sender { client, storage: storage.name.clone() },
        bar: progress_bar(),
        started: Instant::now(),
        sent: Sent::default(),
        problems: Vec::new(),
        summary: None,
    };
    for event in read {
        match event {
            Event::Model(model) if model != storage.model.as_str() => {
                let what = format!(
                    "{} is a {model} directory, and {:?} is a {} storage",
                    args.from.display(),
                    storage.name,
                    storage.model
                );
                return Err(Failure::usage(what).with_hint("--storage names another one"));
            }
            event => run.take(event)?,
        }
    }
    let ended = reader.join().map_err(|_| Failure::failed("the reader broke off"))?;
    run.bar.finish_and_clear();
    ended?;
    run.finish(out)
}

struct Run<'a> {
    args: &'a ImportArgs,
    sender: Sender,
    bar: ProgressBar,
    started: Instant,
    sent: Sent,
    problems: Vec<Value>,
    summary: Option<Value>,
}

impl Run<'_> {
    fn take(&mut self, event: Event) -> Outcome {
        match event {
            Event::Model(_) => {}
            Event::Expected(more) => self.bar.inc_length(more),
            Event::Problem(problem) => self.problem(problem),
            Event::Summary(summary) => self.summary = Some(summary),
            Event::Batch(batch) => {
                let records = batch.ops.len() as u64;
                if !self.args.dry_run {
                    let sent = self.sender.send(batch).map_err(|error| {
                        let hint = "the same command goes on where this one stopped";
                        Failure::from(error).with_hint(hint)
                    })?;
                    self.sent.stored += sent.stored;
                    self.sent.kept += sent.kept;
                    self.sent.warnings += sent.warnings;
                    sent.refused.into_iter().for_each(|problem| self.problem(problem));
                }
                self.bar.inc(records);
            }
        }
        Ok(())
    }

    /// Tells at once what could not be read or stored.
    fn problem(&mut self, problem: Value) {
        self.bar.suspend(|| eprintln!("{}", describe(&problem)));
        self.sent.problems += 1;
        if self.problems.len() < LISTED {
            self.problems.push(problem);
        }
    }

    fn finish(mut self, out: &mut Output) -> Outcome {
        let Some(read) = self.summary.take() else {
            return Err(Failure::failed("the reader ended before it was done"));
        };
        let seconds = self.started.elapsed().as_secs_f64();
        if out.is_for_people() {
            for line in self.lines(&read, seconds) {
                out.line(line)?;
            }
        } else {
            let Sent { stored, kept, problems, warnings, .. } = self.sent;
            out.line(json!({
                "dry_run": self.args.dry_run, "read": read, "stored": stored, "already_there": kept,
                "warnings": warnings, "could_not": problems, "problems": self.problems, "seconds": seconds,
            }))?;
        }
        out.flush()?;
        match self.sent.problems {
            0 => Ok(()),
            number => Err(Failure::failed(format!(
                "{} could not be read or stored; the messages above say which",
                count(number, "file or record")
            ))),
        }
    }

    /// The summary, for people.
    fn lines(&self, read: &Value, seconds: f64) -> Vec<String> {
        let of = |name: &str| read[name].as_u64().unwrap_or(0);
        let mut lines = vec![format!(
            "read      {} from {}, {} from {}",
            count(of("rows"), "row"),
            count(of("databases"), "database"),
            count(of("wal_lines"), "log line"),
            count(of("wal_files"), "file")
        )];
        let merged = [
            ("duplicate_rows", "rows of which a newer one has the same address"),
            ("wal_lines_in_database", "log lines that are in the database already"),
            ("replaced", "values that a later log line replaces"),
            ("only_in_latest", "latest values that the history does not have"),
            ("not_finite", "NaN or infinities, now strings"),
            ("moved_on", "updated_at moved on, to be later than the value before"),
        ];
        for (name, what) in merged.into_iter().filter(|(name, _)| of(name) > 0) {
            lines.push(format!("merged    {} {what}", grouped(of(name))));
        }
        let stored = if self.args.dry_run {
            format!("would be stored: {}", count(of("records"), "record"))
        } else {
            format!(
                "stored    {}, {} were there already",
                count(self.sent.stored, "record"),
                grouped(self.sent.kept)
            )
        };
        lines.push(stored);
        if self.sent.warnings > 0 {
            lines.push(format!(
                "warnings  {} columns are null, for their field has another type",
                self.sent.warnings
            ));
        }
        lines.push(format!("could not {}", count(self.sent.problems, "file or record")));
        let rate = (of("records") as f64 / seconds.max(f64::MIN_POSITIVE)) as u64;
        lines.push(format!("took      {seconds:.2} s, {} records/s", grouped(rate)));
        lines
    }
}

/// `file: row 7: reason`.
fn describe(problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    match problem["number"].as_u64() {
        Some(number) => format!("{}: {} {number}: {}", text("file"), text("unit"), text("reason")),
        None => format!("{}: {}", text("file"), text("reason")),
    }
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{bar:30} {percent:>3}%  {human_pos} records  {per_sec}  {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
