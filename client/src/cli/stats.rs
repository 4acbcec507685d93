//! The verb `stats`: the daemon's figures, for people, for programs, for Prometheus.

mod screen;

use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fastpersist_client::Timestamp;
use fastpersist_client::protocol::request::{Op, StatsFormat};
use serde::Deserialize;

use super::Global;
use super::failure::Outcome;
use super::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist stats
  fastpersist stats --every 2
  fastpersist stats --json | jq .storages.jobs
  fastpersist stats --format openmetrics")]
pub(crate) struct StatsArgs {
    /// How to print them; without it text on a terminal and JSON in a pipe.
    #[arg(long, value_enum, conflicts_with_all = ["json", "text"])]
    format: Option<Format>,
    /// Print them again and again.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// The reply's line.
    Json,
    /// For Prometheus and other readers of OpenMetrics.
    Openmetrics,
}

#[derive(Deserialize)]
struct Metrics {
    openmetrics: String,
}

pub(crate) fn stats(global: &Global, args: &StatsArgs, out: &mut Output) -> Outcome {
    let default = if out.is_for_people() { Format::Text } else { Format::Json };
    let format = args.format.unwrap_or(default);
    loop {
        show(global, format, args.every.is_some(), out)?;
        let Some(seconds) = args.every else { return Ok(()) };
        out.flush()?;
        thread::sleep(Duration::from_secs(seconds));
    }
}

fn show(global: &Global, format: Format, again: bool, out: &mut Output) -> Outcome {
    let wanted = if format == Format::Openmetrics { StatsFormat::OpenMetrics } else { StatsFormat::Json };
    let reply = global.ask(Op::Stats { format: wanted })?;
    match format {
        Format::Json => out.line(reply.json()),
        Format::Openmetrics => {
            let Metrics { openmetrics } = reply.get()?;
            out.line(openmetrics.trim_end())
        }
        Format::Text => {
            let tree: serde_json::Value = reply.get()?;
            if again {
                out.begin_screen()?;
            }
            for table in screen::tables(&tree, Timestamp::now()) {
                let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
                out.table(&columns, table.rows)?;
            }
            Ok(())
        }
    }
}
