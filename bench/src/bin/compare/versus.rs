//! The comparison: both servers in turn, the same load on each.
//!
//! Invariant: each measurement gets a server of its own on empty files, with every key stored once
//! before the clock starts, and no other server runs meanwhile.

use fastpersist_bench::wire::{FastPersist, Redis};
use fastpersist_bench::{Load, Report, duration_text, fill, grouped, run_with};

use crate::Setup;
use crate::error::CompareError;
use crate::servers::{Flushing, STORAGE, Server};
use crate::shape::Shape;
use crate::verdict::{median, table, word};

/// The measurements of one shape.
struct Line {
    shape: Shape,
    ours: Vec<Report>,
    theirs: Vec<Report>,
}

/// Measures the shapes, `rounds` times each, and prints the table.
pub(crate) fn compare(
    setup: &Setup,
    shapes: &[Shape],
    rounds: usize,
    with_redis: bool,
) -> Result<(), CompareError> {
    let mut lines = Vec::new();
    for &shape in shapes {
        let mut line = Line { shape, ours: Vec::new(), theirs: Vec::new() };
        for round in 1..=rounds {
            let ours = measure_daemon(setup, shape)?;
            tell(shape, round, "fastpersistd", &ours);
            line.ours.push(ours);
            if with_redis {
                let theirs = measure_redis(setup, shape)?;
                tell(shape, round, "redis", &theirs);
                line.theirs.push(theirs);
            }
        }
        lines.push(line);
    }
    print(setup, &lines, with_redis);
    Ok(())
}

/// Shows that the run goes on, and where; the table is for standard output.
fn tell(shape: Shape, round: usize, server: &str, report: &Report) {
    let cpu = report.generator_cpu.as_secs_f64() / report.elapsed.as_secs_f64() * 100.0;
    eprintln!(
        "{shape:<16} round {round}  {server:<13} {:>9}/s  p50 {}, p99 {}, max {}, generator {cpu:.0} % of a core",
        grouped(report.per_second as u64),
        duration_text(report.latency.p50),
        duration_text(report.latency.p99),
        duration_text(report.latency.max),
    );
}

fn load_of(setup: &Setup, shape: Shape) -> Load {
    Load {
        connections: shape.connections,
        pipeline: shape.pipeline,
        reads_percent: if shape.reads { 100 } else { 0 },
        ..setup.load.clone()
    }
}

fn measure_daemon(setup: &Setup, shape: Shape) -> Result<Report, CompareError> {
    let room = setup.place.room("fastpersistd")?;
    let model = setup.load.model;
    let server = Server::start_daemon(&setup.daemon, &room, model, Flushing::Default)?;
    let load = load_of(setup, shape);
    let wire = FastPersist::new(STORAGE);
    fill(&load, &wire, &server.socket())?;
    let report = run_with(&load, &wire, &server.socket(), None)?;
    server.stop()?;
    checked("fastpersistd", report)
}

/// Measures Redis in the same way; the generator's own check uses it too.
pub(crate) fn measure_redis(setup: &Setup, shape: Shape) -> Result<Report, CompareError> {
    let room = setup.place.room("redis")?;
    let server = Server::start_redis(&room)?;
    let load = load_of(setup, shape);
    fill(&load, &Redis, &server.socket())?;
    let report = run_with(&load, &Redis, &server.socket(), None)?;
    server.stop()?;
    checked("redis-server", report)
}

/// A figure with errors or reads of nothing in it compares nothing.
fn checked(server: &str, report: Report) -> Result<Report, CompareError> {
    if report.errors > 0 || report.misses > 0 {
        return Err(CompareError::Wrong(format!(
            "{server} answered {} of {} requests with errors and found {} keys missing; the first error: {}",
            report.errors,
            report.requests,
            report.misses,
            report.first_error.as_deref().unwrap_or("none")
        )));
    }
    Ok(report)
}

fn rate(reports: &[Report]) -> f64 {
    median(reports.iter().map(|report| report.per_second).collect())
}

fn p99_text(reports: &[Report]) -> String {
    let seconds = reports.iter().map(|report| report.latency.p99.as_secs_f64());
    let middle = median(seconds.collect());
    duration_text(std::time::Duration::from_secs_f64(middle))
}

fn print(setup: &Setup, lines: &[Line], with_redis: bool) {
    let mut header = vec!["connections × depth", "fastpersistd/s", "p99"];
    if with_redis {
        header.extend(["redis/s", "p99", "ratio", "required", ""]);
    }
    let rows = lines.iter().map(|line| {
        let ours = rate(&line.ours);
        let mut row = vec![line.shape.to_string(), grouped(ours as u64), p99_text(&line.ours)];
        if with_redis {
            let theirs = rate(&line.theirs);
            let ratio = ours / theirs;
            let required = line.shape.required();
            row.extend([
                grouped(theirs as u64),
                p99_text(&line.theirs),
                format!("{ratio:.2}"),
                required.map_or_else(String::new, |required| format!("{required:.1}")),
                required.map_or("", |required| word(ratio >= required)).to_owned(),
            ]);
        }
        row
    });
    println!("{}", table(&header, rows.collect(), setup.markdown));
}
