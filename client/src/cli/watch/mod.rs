//! `watch`: changes as they come, printed or handed to a command, one after the other.
//!
//! Invariant: a change counts as handled when it is printed, or when its command has ended well (with
//! `--keep-going`: ended). What is noted in the state file is handled, so after a kill the last changes may
//! come a second time, and none is left out.

mod command;
mod state;

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use fastpersist_client::{Change, Changes, Client, Date, Record, Subscribe};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use self::command::Handler;
use self::state::State;
use super::failure::{Failure, Outcome};
use super::output::Output;
use super::{Global, parse_date};

/// How long a change that is printed may wait to be noted in the state file.
const NOTE_INTERVAL: Duration = Duration::from_millis(100);

/// How often it is looked whether somebody still reads what is printed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(after_help = "\
Without --from-seq it begins with what is stored next. When the daemon is restarted, it goes on behind the \
last change by itself. Ctrl-C ends it, behind the command that is running.

The command of --exec is run by sh, one at a time. It finds the change as one line of JSON on its standard \
input, and in FASTPERSIST_EVENT (store or delete), FASTPERSIST_SEQ, FASTPERSIST_KEY, FASTPERSIST_DATE, \
FASTPERSIST_PROCESS_NAME, FASTPERSIST_COLLECTION_NAME, FASTPERSIST_ITEM_NAME and FASTPERSIST_STORAGE; what a \
change does not have is not set. A command that fails ends the watch with exit code 1, and the change counts \
as not handled; with --keep-going that is only told. One that ends because of the same Ctrl-C is not handled either.

With --state the last change that was handled is kept in FILE, and the next start goes on behind it, of a dated \
storage on the same date. After a kill the last changes may come a second time; none is left out.

Example:
  fastpersist -s jobs watch
  fastpersist -s jobs watch --prefix task_ --from-seq 1 --limit 10
  fastpersist -s jobs watch --exec 'echo \"$FASTPERSIST_KEY changed\"'
  fastpersist -s jobs watch --state watch.json --exec 'jq .record.data >> all.ndjson'")]
pub(crate) struct WatchArgs {
    /// Only keys that begin so.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Begin with this change, stored already or not.
    #[arg(long, value_name = "N")]
    from_seq: Option<u64>,
    /// Dated storages: the date; without it today in the storage's time zone, also after midnight.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// Run this command for each change instead of printing it.
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Go on when a command fails.
    #[arg(long, requires = "exec")]
    keep_going: bool,
    /// Keep the last change that was handled in this file, and go on behind it.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// End behind so many changes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

pub(crate) fn watch(global: &Global, args: &WatchArgs, out: &mut Output) -> Outcome {
    let stop = Stop::listen()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime", &error))?;
    runtime.block_on(async {
        let client = Client::connect(global.options()).await?;
        let mut state = match &args.state {
            Some(path) => Some(State::open(path, global.storage.as_deref(), args.date)?),
            None => None,
        };
        let mut changes = subscribe(&client, global, args, state.as_ref()).stream();
        if let Some(state) = &mut state
            && let Some(begun) = tokio::select! {
                begun = changes.begun() => begun,
                () = stop.told() => None,
            }
        {
            state.begin(begun, args.from_seq)?;
        }
        let storage = global.storage.as_deref();
        let handler = args.exec.as_ref().map(|command| Handler::new(command, storage, args.keep_going));
        let mut watching = Watching { handler, state, out, noted_at: Instant::now() };
        let followed = watching.follow(&mut changes, args.limit, &stop).await;
        // Also behind a failure: what is handled is handled.
        watching.note()?;
        followed
    })
}

fn subscribe(client: &Client, global: &Global, args: &WatchArgs, state: Option<&State>) -> Subscribe<Client> {
    let mut subscribe = client.subscribe(global.storage.as_deref()).prefix(args.prefix.as_str());
    if let Some(date) = args.date.or_else(|| state.and_then(State::date)) {
        subscribe = subscribe.on(date);
    }
    match state.and_then(State::next_seq).or(args.from_seq) {
        Some(from_seq) => subscribe.from_seq(from_seq),
        None => subscribe,
    }
}

struct Watching<'o> {
    handler: Option<Handler>,
    state: Option<State>,
    out: &'o mut Output,
    noted_at: Instant,
}

impl Watching<'_> {
    async fn follow(&mut self, changes: &mut Changes, limit: Option<u64>, stop: &Stop) -> Outcome {
        let mut left = limit.unwrap_or(u64::MAX);
        let prints = self.handler.is_none();
        let mut unread = std::pin::pin!(output_closed());
        while left > 0 && !stop.is_told() {
            let noted = self.state.as_ref().is_none_or(State::is_noted);
            let quiet = if noted { Duration::MAX } else { NOTE_INTERVAL };
            let next = tokio::select! {
                biased;
                () = stop.told() => return Ok(()),
                () = &mut unread, if prints => return Ok(()),
                next = tokio::time::timeout(quiet, changes.next()) => next,
            };
            let change = match next {
                // Nothing comes at the moment.
                Err(_) => {
                    self.note()?;
                    continue;
                }
                Ok(None) => return Ok(()),
                Ok(Some(change)) => change?,
            };
            if !self.handle(&change, stop)? {
                return Ok(());
            }
            left -= 1;
        }
        Ok(())
    }

    /// Answers false where the change was not handled because it is time to stop.
    fn handle(&mut self, change: &Change, stop: &Stop) -> Outcome<bool> {
        let json = serde_json::to_string(change).map_err(|error| Failure::failed(error.to_string()))?;
        if let Some(handler) = &self.handler {
            let status = handler.run(change, &json)?;
            if !status.success() {
                // Ctrl-C at a terminal reaches the command too.
                if stop.is_told() {
                    return Ok(false);
                }
                handler.complain(change, status)?;
            }
        } else {
            self.out.reply(&json, || text(change))?;
            self.out.flush()?;
        }
        if let Some(state) = &mut self.state {
            state.handled(change);
        }
        if self.handler.is_some() || self.noted_at.elapsed() >= NOTE_INTERVAL {
            self.note()?;
        }
        Ok(true)
    }

    fn note(&mut self) -> Outcome {
        self.noted_at = Instant::now();
        self.state.as_mut().map_or(Ok(()), State::note)
    }
}

/// Waits until nobody reads the output any more, as behind `| head`: the next change may be far away.
async fn output_closed() {
    let output = io::stdout().as_fd().try_clone_to_owned().and_then(pipe::Sender::from_owned_fd_unchecked);
    if let Ok(output) = output {
        while let Ok(ready) = output.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    // A file always has a reader.
    std::future::pending::<()>().await;
}

/// A name as it stands on one line, and does nothing to a terminal.
fn shown(name: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(escaped).collect()
}

/// A change for people, on one line.
fn text(change: &Change) -> String {
    let named = |parts: &[Option<&str>]| {
        let parts: Vec<_> =
            parts.iter().flatten().filter(|part| !part.is_empty()).map(|part| shown(part)).collect();
        parts.join(" / ")
    };
    match change {
        Change::Store(Record::Dated(record)) => {
            let name = named(&[Some(&record.key), record.process_name.as_deref()]);
            format!("{}  {:>6}  store   {name}  {}", record.updated_at, record.seq, record.data_json())
        }
        Change::Store(Record::Collection(record)) => {
            let name = named(&[Some(&record.key), Some(&record.collection_name), Some(&record.item_name)]);
            let value = record.value.as_ref().map(|value| format!("  = {value}")).unwrap_or_default();
            let (at, seq, data) = (record.updated_at, record.seq, record.data_json());
            format!("{at}  {seq:>6}  store   {name}{value}  {data}")
        }
        Change::Delete(gone) => {
            let below = [&gone.process_name, &gone.collection_name, &gone.item_name].map(Option::as_deref);
            let name = named(&[&[Some(gone.key.as_str())][..], &below].concat());
            format!("{}  {:>6}  delete  {name}", gone.updated_at, gone.seq)
        }
        _ => String::new(),
    }
}

/// Told by SIGINT or SIGTERM.
struct Stop {
    told: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

impl Stop {
    fn listen() -> Outcome<Self> {
        let stop = Self { told: Arc::default(), wake: Arc::default() };
        let failed = |error: std::io::Error| Failure::io("signals", &error);
        for signal in [SIGINT, SIGTERM] {
            // At once: a command that got the same signal may end before the thread below runs.
            signal_hook::flag::register(signal, Arc::clone(&stop.told)).map_err(failed)?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let (told, wake) = (Arc::clone(&stop.told), Arc::clone(&stop.wake));
        let listen = move || {
            for _ in signals.forever() {
                told.store(true, Ordering::Release);
                wake.notify_one();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
        Ok(stop)
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    async fn told(&self) {
        while !self.is_told() {
            self.wake.notified().await;
        }
    }
}
