//! The verb `demo`: a tour on real data that proves what it says, or fails.
//!
//! Three processes (`writer`, led by `crew`) store a day of `flights` in a `daemon` that is killed in the
//! middle; `check` compares what was answered with what is there.
//!
//! Invariant: the demo ends well only when every answered write was found, once, as it was written. It
//! leaves no process behind, and no file unless it is asked to.

mod check;
mod crew;
mod daemon;
mod flights;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use fastpersist_bench::duration_text;
use fastpersist_client::{Date, DatedStorage, blocking};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::output::{Output, count, grouped};
use check::{Findings, ParquetFile};
use crew::Crew;
pub(super) use daemon::find_program;
use daemon::{STORAGE, TempDaemon};
use flights::{AIRPORTS, DATE, Flight};
pub(crate) use writer::{WriterArgs, write};

/// How each writer writes while it is to be interrupted: slowly enough that the kill comes in the middle.
const PACED: [&str; 4] = ["--in-flight", "4", "--pace-ms", "8"];
/// How each writer writes while it is measured.
const FAST: [&str; 4] = ["--in-flight", "64", "--for-ms", "2000"];

const LOOK: &str = "with --keep the directory stays, and daemon.log in it says more";

#[derive(Debug, Args)]
#[command(after_help = "\
Three processes, one for each airport of New York, store the flights of a day into a daemon of the \
demo's own. It is killed with SIGKILL in the middle and started again. Then every flight is read back \
and compared. The exit code is 0 only when nothing that was answered is lost.

Example:
  fastpersist demo
  fastpersist demo --keep")]
pub(crate) struct DemoArgs {
    /// Leave the directory with the configuration, the database and the Parquet files, and say where.
    #[arg(long)]
    keep: bool,
    /// The daemon; without it the one beside this program, else on the PATH.
    #[arg(long, value_name = "PROGRAM")]
    daemon: Option<PathBuf>,
}

/// Whether the person has had enough.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn new() -> Outcome<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(|error| Failure::io("signals", &error))?;
        }
        Ok(Self(flag))
    }

    pub(super) fn check(&self) -> Outcome {
        if self.0.load(Ordering::Relaxed) { Err(Failure::failed("interrupted")) } else { Ok(()) }
    }
}

/// What the demo tells while it runs. With `--json` only the summary at the end is printed.
struct Tour<'o> {
    out: &'o mut Output,
    silent: bool,
}

impl Tour<'_> {
    fn step(&mut self, title: &str, text: &str) -> Outcome {
        self.say(&format!("{title:<16}{text}"))
    }

    fn more(&mut self, text: &str) -> Outcome {
        self.step("", text)
    }

    fn say(&mut self, line: &str) -> Outcome {
        if self.silent {
            return Ok(());
        }
        self.out.line(line)?;
        self.out.flush()
    }
}

pub(crate) fn demo(json: bool, args: &DemoArgs, out: &mut Output) -> Outcome {
    let interrupt = Interrupt::new()?;
    let flights = flights::all()?;
    let mut tour = Tour { out, silent: json };
    tour.say("One day of flights, three writers, one store, and a kill -9 in the middle.\n")?;
    let mut daemon = TempDaemon::start(args.daemon.as_deref(), &interrupt)?;
    if args.keep {
        daemon.keep();
    }
    tour.step("daemon", &format!("fastpersistd, pid {}, in {}", daemon.pid(), daemon.dir().display()))?;

    let mut crew = interrupted_writing(&mut daemon, &flights, &mut tour, &interrupt)?;
    let answered = std::mem::take(&mut crew.answered);
    drop(crew);
    let client = daemon.connect()?;
    let date = Date::parse(DATE).ok_or_else(|| Failure::failed("the demo's date is none"))?;
    let jobs = client.dated(STORAGE).on(date);
    let findings = compare(&jobs, &flights, &answered, &mut tour)?;
    show_reads(&jobs, &mut tour)?;
    let figures = measure(&daemon, &client, &mut tour, &interrupt)?;
    drop((client, jobs));
    let files = stop(&mut daemon, &mut tour, &interrupt)?;
    conclude(args, &daemon, &mut tour, &findings, &figures, &files, flights.len() as u64)
}

/// The writers write, the daemon dies and comes back, the writers finish.
fn interrupted_writing(
    daemon: &mut TempDaemon,
    flights: &[Flight],
    tour: &mut Tour<'_>,
    interrupt: &Interrupt,
) -> Outcome<Crew> {
    let of = |airport: &str| flights.iter().filter(|flight| flight.airport == airport).count();
    let shares: Vec<_> = AIRPORTS.iter().map(|airport| format!("{airport} {}", of(airport))).collect();
    tour.step(
        "writers",
        &format!("three processes store the {} flights of {DATE}: {}", flights.len(), shares.join(", ")),
    )?;
    let mut crew = Crew::start(daemon.socket(), &PACED)?;
    crew.listen(flights.len() * 2 / 5, interrupt)?;
    daemon.kill()?;
    tour.step("kill -9", &format!("after {} answered writes", crew.answered.len()))?;
    let took = daemon.spawn(interrupt)?;
    tour.step(
        "started again",
        &format!(
            "pid {}, ready after {}; the writers connect again by themselves",
            daemon.pid(),
            duration_text(took)
        ),
    )?;
    crew.listen(usize::MAX, interrupt)?;
    crew.finish(interrupt)?;
    tour.more(&format!("all writers done, {} writes answered", crew.answered.len()))?;
    Ok(crew)
}

fn compare(
    jobs: &DatedStorage<blocking::Client>,
    flights: &[Flight],
    answered: &BTreeMap<String, u64>,
    tour: &mut Tour<'_>,
) -> Outcome<Findings> {
    let findings = check::records(jobs, flights, answered)?;
    tour.step(
        "check",
        &format!(
            "{} stored, {} lost, {} there twice, {} that nobody wrote",
            findings.stored,
            findings.lost.len(),
            findings.doubled.len(),
            findings.strange.len()
        ),
    )?;
    for (what, keys) in
        [("lost", &findings.lost), ("twice", &findings.doubled), ("strange", &findings.strange)]
    {
        for key in keys.iter().take(10) {
            tour.more(&format!("{what}: {key}"))?;
        }
    }
    Ok(findings)
}

#[derive(Deserialize)]
struct Row {
    carrier: String,
    flight: u32,
    origin: String,
    dest: String,
    dep_delay: Option<i32>,
}

fn show_reads(jobs: &DatedStorage<blocking::Client>, tour: &mut Tour<'_>) -> Outcome {
    let key = "UA1545-EWR-0515";
    let Some(record) = jobs.get_key_process(key, Some("EWR"))? else {
        return tour.step("reads", &format!("{key} is not there"));
    };
    let row: Row = record.get()?;
    let delay = match row.dep_delay {
        Some(minutes) if minutes > 0 => format!("{minutes} minutes late"),
        Some(_) => "in time".to_owned(),
        None => "cancelled".to_owned(),
    };
    let Row { carrier, flight, origin, dest, .. } = row;
    tour.step(
        "reads",
        &format!("key {key}: {carrier} {flight} from {origin} to {dest}, {delay}, seq {}", record.seq),
    )?;
    let prefix = "B6";
    let page = jobs.keys().prefix(prefix).limit(3).send()?;
    tour.more(&format!("keys with prefix {prefix}: {} …", page.keys.join(", ")))?;
    let dates: Vec<_> = jobs.dates()?.iter().map(ToString::to_string).collect();
    tour.more(&format!("dates: {}", dates.join(", ")))
}

/// What the store does when nobody holds it back.
#[derive(Debug, Default)]
struct Figures {
    writes: u64,
    per_second: f64,
    per_sync: Option<f64>,
}

/// The same writers without a pause, for two seconds.
fn measure(
    daemon: &TempDaemon,
    client: &blocking::Client,
    tour: &mut Tour<'_>,
    interrupt: &Interrupt,
) -> Outcome<Figures> {
    let syncs_before = syncs(&client.stats()?);
    let started = Instant::now();
    let writes = Crew::start(daemon.socket(), &FAST)?.total(interrupt)?;
    let took = started.elapsed();
    let syncs_after = syncs(&client.stats()?);
    let syncs = syncs_before.zip(syncs_after).map(|(before, after)| after.saturating_sub(before));
    let figures = Figures {
        writes,
        per_second: writes as f64 / took.as_secs_f64(),
        per_sync: syncs.filter(|syncs| *syncs > 0).map(|syncs| writes as f64 / syncs as f64),
    };
    tour.step(
        "figures",
        &format!(
            "the same three processes, now as fast as they can: {} durable writes in {}",
            grouped(writes),
            duration_text(took)
        ),
    )?;
    let shared = match figures.per_sync {
        Some(records) => format!("; {records:.1} records shared each fdatasync"),
        None => String::new(),
    };
    tour.more(&format!("{} writes/s{shared}", grouped(figures.per_second as u64)))?;
    Ok(figures)
}

/// The storage's fdatasyncs so far, where the daemon tells.
fn syncs(stats: &Value) -> Option<u64> {
    let storage = stats.get("storages")?.get(STORAGE)?;
    storage.pointer("/fsync_latency/count").or_else(|| storage.get("commits"))?.as_u64()
}

fn stop(daemon: &mut TempDaemon, tour: &mut Tour<'_>, interrupt: &Interrupt) -> Outcome<Vec<ParquetFile>> {
    let took = daemon.terminate(interrupt)?;
    tour.step("SIGTERM", &format!("stopped in good order after {}; Parquet files:", duration_text(took)))?;
    let files = check::parquet_files(&daemon.parquet_dir())?;
    for file in &files {
        let rows = count(file.rows, "row");
        tour.more(&format!("{:<50} {rows:>9}  {:>7} bytes", file.path.display(), grouped(file.bytes)))?;
    }
    Ok(files)
}

fn conclude(
    args: &DemoArgs,
    daemon: &TempDaemon,
    tour: &mut Tour<'_>,
    findings: &Findings,
    figures: &Figures,
    files: &[ParquetFile],
    flights: u64,
) -> Outcome {
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    let kept = daemon.dir().display();
    if tour.silent {
        tour.out.line(json!({
            "stored": findings.stored, "lost": findings.lost, "doubled": findings.doubled,
            "strange": findings.strange, "writes": figures.writes, "writes_per_second": figures.per_second,
            "records_per_fdatasync": figures.per_sync, "parquet_files": files.len(), "parquet_rows": rows,
            "dir": args.keep.then(|| kept.to_string()),
        }))?;
    }
    if args.keep {
        tour.step("kept", &format!("{kept}"))?;
        tour.more(&format!("look inside: duckdb {kept}/flights/{DATE}/data.duckdb 'FROM storage LIMIT 5'"))?;
    }
    if !findings.is_clean() {
        return Err(Failure::failed("the store does not hold what it answered").with_hint(LOOK));
    }
    if rows != flights {
        let message = format!("the Parquet files have {rows} rows, not {flights}");
        return Err(Failure::failed(message).with_hint(LOOK));
    }
    tour.say(&format!("\nNothing lost: {flights} answered, {} found, each once.", findings.stored))
}
