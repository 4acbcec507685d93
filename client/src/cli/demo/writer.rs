//! One of the demo's writers: a process that stores the flights of one airport.
//!
//! It says on standard output which writes were answered, and sends again what was not. That is all a
//! real producer would have to do, and it is all that the demo later holds against the store.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use fastpersist_client::{Client, Date, DatedStorage, Error};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::daemon::STORAGE;
use super::flights::{self, DATE, Flight};
use crate::cli::Global;
use crate::cli::failure::{Failure, Outcome};

/// How long a writer goes on trying while no daemon answers.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct WriterArgs {
    #[arg(long)]
    airport: String,
    /// Writes under way at the same time.
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    /// The pause after each write, so that the kill finds something to interrupt.
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Store the flights over and over for so long, and only say how many writes were answered.
    #[arg(long)]
    for_ms: Option<u64>,
}

/// What the tasks of a writer share.
struct Work {
    jobs: DatedStorage,
    todo: Mutex<VecDeque<Flight>>,
    pace: Duration,
    /// Until then flights are done again.
    until: Option<Instant>,
}

pub(crate) fn write(global: &Global, args: &WriterArgs) -> Outcome {
    let todo: VecDeque<_> =
        flights::all()?.into_iter().filter(|flight| flight.airport == args.airport).collect();
    let date = Date::parse(DATE).ok_or_else(|| Failure::failed("the demo's date is none"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("the runtime", &error))?;
    runtime.block_on(async {
        let client = Client::connect(global.options()).await?;
        let work = Arc::new(Work {
            jobs: client.dated(STORAGE).on(date),
            todo: Mutex::new(todo),
            pace: Duration::from_millis(args.pace_ms),
            until: args.for_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..args.in_flight {
            tasks.spawn(work_on(Arc::clone(&work)));
        }
        let mut answered = 0;
        while let Some(joined) = tasks.join_next().await {
            answered += joined.map_err(|error| Failure::failed(error.to_string()))??;
        }
        if work.until.is_some() {
            say(format_args!("{answered}"))?;
        }
        Ok(())
    })
}

/// Stores flights until none are left or the time is over. Returns how many.
async fn work_on(work: Arc<Work>) -> Outcome<u64> {
    let mut answered = 0;
    loop {
        if work.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(answered);
        }
        let Some(flight) = work.todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
            return Ok(answered);
        };
        let seq = store_until_answered(&work.jobs, &flight).await?;
        answered += 1;
        if work.until.is_some() {
            work.todo.lock().unwrap_or_else(PoisonError::into_inner).push_back(flight);
        } else {
            say(format_args!("{}\t{seq}", flight.key))?;
        }
        if !work.pace.is_zero() {
            sleep(work.pace).await;
        }
    }
}

async fn store_until_answered(jobs: &DatedStorage, flight: &Flight) -> Outcome<u64> {
    let data: &RawValue = serde_json::from_str(&flight.json)
        .map_err(|error| Failure::failed(format!("{}: {error}", flight.key)))?;
    let started = Instant::now();
    loop {
        let mut store = jobs.store(flight.key.as_str(), data).process_name(flight.airport.as_str());
        if let Some(scheduled) = flight.scheduled {
            store = store.timestamp(scheduled);
        }
        match store.send().await {
            Ok(stored) => return Ok(stored.seq),
            Err(error) if error.is_retryable() && started.elapsed() < PATIENCE => pause(&error).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn pause(error: &Error) {
    // After a break the daemon may be back at once; where there is none, it takes a moment.
    if !matches!(error, Error::Disconnected { .. }) {
        sleep(PAUSE).await;
    }
}

fn say(line: std::fmt::Arguments<'_>) -> Outcome {
    // Standard output is written at each line's end.
    writeln!(io::stdout(), "{line}").map_err(|error| Failure::output(&error))
}
