//! The verb `bench`: the load generator of `fastpersist-bench` against a running daemon.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fastpersist_bench::{BenchError, Durability, Load, Report, Target};
use fastpersist_client::Model;
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::output::Output;
use super::{Global, find_storage};

#[derive(Debug, Args)]
#[command(after_help = "\
It stores records under the keys key_000000 and on, so give it a storage that is there to be filled.

Example:
  fastpersist -s scratch bench --connections 8 --pipeline 16 --seconds 5
  fastpersist -s scratch bench --connections 8 --pipeline 64 --reads 90")]
pub(crate) struct BenchArgs {
    /// Connections at the same time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    connections: usize,
    /// Requests that each connection has under way.
    #[arg(long, value_name = "P", default_value_t = 1)]
    pipeline: usize,
    /// How long to measure.
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// How many of 100 requests are reads.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    reads: u8,
    /// The storage's model; without it that of the storage.
    #[arg(long)]
    model: Option<ModelArg>,
    /// The length of each document.
    #[arg(long, value_name = "B", default_value_t = 130)]
    value_bytes: usize,
    /// How many different keys.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: u64,
    /// Ask for answers once a record is written, not only once it is on stable storage.
    #[arg(long)]
    buffered: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModelArg {
    Dated,
    Collection,
}

pub(crate) fn bench(global: &Global, args: &BenchArgs, out: &mut Output) -> Outcome {
    let client = global.connect()?;
    let wanted = args.model.map(|model| match model {
        ModelArg::Dated => Model::Dated,
        ModelArg::Collection => Model::Collection,
    });
    let storage = find_storage(&client.info()?, global.storage.as_deref(), wanted)?;
    let load = Load {
        connections: args.connections,
        pipeline: args.pipeline,
        seconds: args.seconds,
        reads_percent: args.reads,
        model: match storage.model {
            Model::Collection => fastpersist_bench::Model::Collection,
            _ => fastpersist_bench::Model::Dated,
        },
        value_bytes: args.value_bytes,
        keys: args.keys,
        durability: if args.buffered { Durability::Buffered } else { Durability::Sync },
        ..Load::default()
    };
    let socket = client.socket().map(|socket| PathBuf::from(socket.to_string())).unwrap_or_default();
    let target = Target { socket: socket.into(), storage: storage.name };
    let report = fastpersist_bench::run(&load, &target).map_err(|error| failure(&error))?;
    let printed = if out.is_for_people() { out.line(&report) } else { out.line(as_json(&report)) };
    printed?;
    if report.errors > 0 {
        return Err(Failure::failed("some requests failed, so the figures say little"));
    }
    Ok(())
}

fn failure(error: &BenchError) -> Failure {
    let exit = match error {
        BenchError::BadLoad(_) => Exit::Usage,
        BenchError::Connect { .. } | BenchError::Closed { .. } => Exit::Unreachable,
        BenchError::Io(_) => Exit::Io,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

fn as_json(report: &Report) -> serde_json::Value {
    let micros = |duration: std::time::Duration| duration.as_secs_f64() * 1e6;
    json!({
        "requests_per_second": report.per_second,
        "requests": report.requests,
        "errors": report.errors,
        "first_error": report.first_error,
        "seconds": report.elapsed.as_secs_f64(),
        "p50_us": micros(report.latency.p50),
        "p99_us": micros(report.latency.p99),
        "p999_us": micros(report.latency.p999),
        "max_us": micros(report.latency.max),
    })
}
