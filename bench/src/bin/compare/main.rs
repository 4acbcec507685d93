//! Compares the daemon with Redis, and measures what is promised of it alone.
//!
//! Every figure in the project comes out of this program, so that anyone can repeat it.
//!
//! Invariant: it leaves no process and no file behind, however it ends.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod beside;
mod cleanup;
mod error;
mod generator_check;
mod measure;
mod place;
mod servers;
mod shape;
mod talk;
mod verdict;
mod versus;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Parser, Subcommand};
use fastpersist_bench::{Load, Model};

use crate::error::{CompareError, Context};
use crate::place::Place;
use crate::shape::Shape;

/// Compares fastpersistd with Redis (AOF always), both with durable stores over a Unix socket.
#[derive(Debug, Parser)]
#[command(name = "compare", version, after_help = "Example: bench/compare --shape 8x64 --rounds 5")]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    measure: Option<Measure>,
}

#[derive(Debug, Args)]
struct Options {
    /// Measurements of each server and shape; the table shows medians
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of each measurement
    #[arg(long, global = true, default_value_t = 3.0)]
    seconds: f64,
    /// A shape, such as 8x64 or reads:8x64; repeat it for several (default: the promised ones)
    #[arg(long, global = true)]
    shape: Vec<Shape>,
    /// Measure only fastpersistd
    #[arg(long)]
    ours_only: bool,
    /// Print Markdown
    #[arg(long, global = true)]
    markdown: bool,
    /// A directory on the disk to measure (default: ./target, else the temporary directory)
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// The daemon (default: fastpersistd beside this program)
    #[arg(long, global = true)]
    daemon: Option<PathBuf>,
    /// The storage's model: dated or collection
    #[arg(long, global = true, default_value_t = Model::Dated)]
    model: Model,
    /// Bytes of each document
    #[arg(long, global = true, default_value_t = 130)]
    value_bytes: usize,
    /// Different keys in the comparison
    #[arg(long, global = true, default_value_t = 10_000)]
    keys: u64,
    /// Decides which keys are sent, in which order
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
}

const MILLION: u64 = 1_000_000;

fn rows_range() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=fastpersist_bench::KEYS_MAX)
}

/// What is measured instead of the comparison.
#[derive(Debug, Subcommand)]
enum Measure {
    /// This generator against redis-benchmark, both on Redis
    Generator,
    /// Rows per second of a flush into the database
    Flush {
        /// Records that are pending
        #[arg(long, default_value_t = MILLION, value_parser = rows_range())]
        rows: u64,
    },
    /// Records per second of a start after SIGKILL
    Recovery {
        /// Records that are not flushed
        #[arg(long, default_value_t = MILLION, value_parser = rows_range())]
        rows: u64,
    },
    /// Time to the first answer after a clean stop
    Ready {
        /// Records that are stored
        #[arg(long, default_value_t = MILLION, value_parser = rows_range())]
        rows: u64,
    },
    /// Time of a small flush into a large partition
    FlushIntoLarge {
        /// Records in the partition
        #[arg(long, default_value_t = 10 * MILLION, value_parser = rows_range())]
        rows: u64,
        /// Records that have changed
        #[arg(long, default_value_t = 10_000, value_parser = rows_range())]
        changed: u64,
    },
    /// What a flush does to the latency of writers
    FlushLatency {
        /// Records that are flushed meanwhile
        #[arg(long, default_value_t = MILLION, value_parser = rows_range())]
        rows: u64,
        /// Connections that write, one request at a time
        #[arg(long, default_value_t = 8)]
        writers: usize,
    },
    /// What ten fresh queries a second cost writers
    QueryBeside {
        /// Connections that write
        #[arg(long, default_value_t = 8)]
        writers: usize,
        /// Requests that each has under way
        #[arg(long, default_value_t = 1)]
        pipeline: usize,
    },
    /// Resident memory with everything cached
    Memory {
        /// Records that are cached
        #[arg(long, default_value_t = MILLION, value_parser = rows_range())]
        rows: u64,
    },
}

/// What every measurement needs.
struct Setup {
    place: Place,
    daemon: PathBuf,
    load: Load,
    markdown: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cleanup::let_a_signal_end_this();
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), CompareError> {
    let Options { rounds, shape: shapes, ours_only, .. } = &cli.options;
    let only_redis = matches!(cli.measure, Some(Measure::Generator));
    let needs_redis = only_redis || (cli.measure.is_none() && !ours_only);
    let redis = if needs_redis { redis_version() } else { None };
    if needs_redis && redis.is_none() {
        println!("skipped: redis-server is not installed");
        return Ok(());
    }
    let setup = set_up(&cli.options, only_redis)?;
    let (before, after) = if setup.markdown { ("", "\n") } else { ("machine: ", "") };
    println!("{before}{}{after}", setup.place.machine()?);
    if let Some(version) = redis {
        println!("{version}{after}");
    }
    let shapes = if shapes.is_empty() { Shape::all() } else { shapes.clone() };
    let rounds = usize::from(*rounds);
    match &cli.measure {
        None => versus::compare(&setup, &shapes, rounds, !ours_only),
        Some(Measure::Generator) => generator_check::check(&setup, &shapes, rounds),
        Some(measure) => measure::run(&setup, measure),
    }
}

fn set_up(options: &Options, only_redis: bool) -> Result<Setup, CompareError> {
    let load = Load {
        seconds: options.seconds,
        model: options.model,
        value_bytes: options.value_bytes,
        keys: options.keys,
        seed: options.seed,
        ..Load::default()
    };
    load.check()?;
    let daemon = match &options.daemon {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context(|| "cannot find this program".to_owned())?
            .with_file_name("fastpersistd"),
    };
    if !only_redis && !daemon.is_file() {
        return Err(CompareError::NoDaemon(daemon));
    }
    cleanup::on_signals()?;
    Ok(Setup { place: Place::new(options.dir.as_deref())?, daemon, load, markdown: options.markdown })
}

/// What Redis says of itself, or nothing where it is not installed.
fn redis_version() -> Option<String> {
    let output = Command::new("redis-server").arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find(|word| word.starts_with("v="))?;
    Some(format!("redis-server {}, --appendonly yes --appendfsync always", version.trim_start_matches("v=")))
}
