//! What a dashboard costs writers: queries with `fresh`, ten a second, beside connections that write at full speed.
//!
//! Three spans one after another on one daemon: without queries, with them, without. Machines differ and drift, so the
//! figure is a ratio within one run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastpersist_bench::wire::FastPersist;
use fastpersist_bench::{Load, Model, Report, duration_text, grouped, run_with};

use crate::error::CompareError;
use crate::servers::{STORAGE, Server};
use crate::talk::Talk;

const QUERY_INTERVAL: Duration = Duration::from_millis(100);

/// What was measured.
pub(crate) struct Beside {
    /// Stores a second without queries: the mean of before and after.
    pub(crate) alone: f64,
    /// Stores a second with them.
    pub(crate) together: f64,
    /// How long each query took.
    pub(crate) queries: Vec<Duration>,
}

/// Measures on a daemon that runs.
pub(crate) fn measure(server: &Server, load: &Load) -> Result<Beside, CompareError> {
    // The first moments are those of an empty store.
    writers(server, load)?;
    let before = writers(server, load)?;
    let stop = AtomicBool::new(false);
    let (during, queries) = std::thread::scope(|scope| {
        let dashboard = scope.spawn(|| dashboard(server, load.model, &stop));
        let during = writers(server, load);
        stop.store(true, Ordering::Relaxed);
        let queries = dashboard.join();
        let panicked = |_| Err(CompareError::Wrong("the dashboard panicked".to_owned()));
        Ok::<_, CompareError>((during?, queries.unwrap_or_else(panicked)?))
    })?;
    let after = writers(server, load)?;
    for (when, report) in [("before", &before), ("beside queries", &during), ("after", &after)] {
        eprintln!(
            "{when}: {}/s, p99 {}",
            grouped(report.per_second as u64),
            duration_text(report.latency.p99)
        );
    }
    Ok(Beside {
        alone: f64::midpoint(before.per_second, after.per_second),
        together: during.per_second,
        queries,
    })
}

fn writers(server: &Server, load: &Load) -> Result<Report, CompareError> {
    let report = run_with(load, &FastPersist::new(STORAGE), &server.socket(), None)?;
    match &report.first_error {
        Some(error) => Err(CompareError::Wrong(format!("a writer got {error}"))),
        None => Ok(report),
    }
}

/// Asks ten times a second, or as often as it is answered; every answer is a success and shows no less than the
/// one before.
fn dashboard(server: &Server, model: Model, stop: &AtomicBool) -> Result<Vec<Duration>, CompareError> {
    let table = match model {
        Model::Dated => "storage",
        Model::Collection => "storage_latest",
    };
    let line = format!(
        "{{\"op\":\"query\",\"storage\":\"{STORAGE}\",\"sql\":\"SELECT max(seq), count(*) FROM {table}\"}}\n"
    );
    let mut talk = Talk::connect(&server.socket())?;
    let (mut taken, mut seen, mut next) = (Vec::new(), 0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = talk.ask(line.as_bytes())?;
        taken.push(asked.elapsed());
        let now = answer["rows"][0][0].as_u64().unwrap_or(0);
        if now < seen {
            return Err(CompareError::Wrong(format!("a query saw {now} after one had seen {seen}")));
        }
        seen = now;
        next = (next + QUERY_INTERVAL).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(taken)
}
