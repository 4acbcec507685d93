//! The verbs that look whether all is well, and mend while the daemon runs.

use clap::Args;
use fastpersist_client::Date;
use fastpersist_client::protocol::request::Op;
use serde::Deserialize;

use super::failure::{Failure, Outcome};
use super::forward::{ForwardArgs, forward};
use super::output::{Output, count};
use super::{Global, parse_date};

#[derive(Debug, Args)]
#[command(after_help = "\
Without --storage all storages are looked at. Exit code 1 where something is not as it should be.

Example:
  fastpersist health
  fastpersist -s jobs health --deep")]
pub(crate) struct HealthArgs {
    /// Read every row and every line of the log too; it takes as long as it needs.
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist -s settings rebuild-history 2025-01-15")]
pub(crate) struct RebuildHistoryArgs {
    /// The day whose WAL is read.
    #[arg(value_parser = parse_date)]
    date: Date,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist -s settings rebuild-latest")]
pub(crate) struct RebuildLatestArgs {}

#[derive(Deserialize)]
struct Health {
    status: String,
    problems: Vec<Problem>,
    checked: Checked,
}

#[derive(Deserialize)]
struct Problem {
    storage: String,
    date: Option<String>,
    kind: String,
    message: String,
}

#[derive(Deserialize)]
struct Checked {
    files: u64,
    rows: u64,
}

#[derive(Deserialize)]
struct Filled {
    records: u64,
    inserted: u64,
}

#[derive(Deserialize)]
struct Rebuilt {
    rows: u64,
}

pub(crate) fn health(global: &Global, args: &HealthArgs, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::CheckHealth { deep: args.deep })?;
    let Health { status, problems, checked } = reply.get()?;
    out.reply(reply.json(), || {
        let mut text =
            format!("{status}: {} with {}", count(checked.files, "file"), count(checked.rows, "row"));
        for Problem { storage, date, kind, message } in &problems {
            let date = date.as_ref().map(|date| format!(" {date}")).unwrap_or_default();
            text += "\n";
            text += &[storage.as_str(), &date, ": ", kind, ": ", message].concat();
        }
        text
    })?;
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("{} found", count(problems.len() as u64, "problem"))))
    }
}

pub(crate) fn rebuild_history(global: &Global, args: &RebuildHistoryArgs, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::RebuildHistoryFromWal { date: args.date })?;
    let Filled { records, inserted } = reply.get()?;
    out.reply(reply.json(), || {
        format!("{} in the WAL, {inserted} of them put back", count(records, "record"))
    })
}

pub(crate) fn rebuild_latest(global: &Global, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::RebuildLatestFromHistory)?;
    let Rebuilt { rows } = reply.get()?;
    out.reply(reply.json(), || format!("{} made anew from the history", count(rows, "latest value")))
}

#[derive(Debug, Args)]
#[command(after_help = "\
The daemon must not run on the storage. Without --dry-run and --accept-loss it asks before anything is lost; \
damaged files are kept beside the mended ones. Ends with 78 where nobody can be asked.

Example:
  fastpersist -s jobs repair --dry-run
  fastpersist -s jobs repair --accept-loss")]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    daemon: ForwardArgs,
    /// Only say what is damaged and what would be lost.
    #[arg(long)]
    dry_run: bool,
    /// Agree without being asked.
    #[arg(long, conflicts_with = "dry_run")]
    accept_loss: bool,
}

pub(crate) fn repair(global: &Global, args: &RepairArgs) -> Outcome {
    let flags = [("--dry-run", args.dry_run), ("--accept-loss", args.accept_loss)];
    let given = flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.into());
    forward(global, &args.daemon, "repair", given)
}
