//! The verbs that look after a daemon: `flush`, `export`, `info`, `ping`.

use std::time::Instant;

use clap::Args;
use fastpersist_bench::duration_text;
use fastpersist_client::protocol::request::Op;
use fastpersist_client::{ExportOutcome, Info};
use serde::Deserialize;

use super::Global;
use super::failure::Outcome;
use super::output::{Output, count};

#[derive(Debug, Args)]
#[command(after_help = "\
Without --storage all storages are flushed.

Example:
  fastpersist flush
  fastpersist -s jobs flush")]
pub(crate) struct FlushArgs {}

#[derive(Debug, Args)]
#[command(after_help = "\
The files lie below the parquet_path that the storage is configured with.

Example:
  fastpersist -s jobs export
  fastpersist -s jobs export --path before_the_move")]
pub(crate) struct ExportArgs {
    /// A name below the storage's `parquet_path`, to keep this export apart.
    #[arg(long, value_name = "NAME")]
    path: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist info")]
pub(crate) struct InfoArgs {}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist ping && echo the daemon lives")]
pub(crate) struct PingArgs {}

#[derive(Deserialize)]
struct Flushed {
    flushed: u64,
}

pub(crate) fn flush(global: &Global, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::Flush)?;
    let Flushed { flushed } = reply.get()?;
    out.reply(reply.json(), || format!("{} flushed into DuckDB", count(flushed, "record")))
}

pub(crate) fn export(global: &Global, args: &ExportArgs, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::ExportParquet { path: args.path.as_deref().map(Into::into) })?;
    let done: ExportOutcome = reply.get()?;
    out.reply(reply.json(), || {
        format!("{} with {} written", count(done.files, "Parquet file"), count(done.rows, "row"))
    })
}

pub(crate) fn info(global: &Global, out: &mut Output) -> Outcome {
    let client = global.connect()?;
    let reply = client.request(&global.request(Op::Info))?;
    if !out.is_for_people() {
        return out.line(reply.json());
    }
    let info: Info = reply.get()?;
    let socket = client.socket().map(|socket| socket.to_string()).unwrap_or_default();
    let mut rows = vec![
        vec!["daemon".to_owned(), format!("{} {}", info.name, info.version)],
        vec!["protocol".to_owned(), info.protocol_version.to_string()],
        vec!["pid".to_owned(), info.pid.to_string()],
        vec!["started at".to_owned(), info.started_at.to_string()],
        vec!["socket".to_owned(), socket],
    ];
    for storage in &info.storages {
        rows.push(vec![format!("storage {}", storage.name), storage.model.as_str().to_owned()]);
    }
    out.table(&[], rows)
}

pub(crate) fn ping(global: &Global, out: &mut Output) -> Outcome {
    let client = global.connect()?;
    let asked = Instant::now();
    let reply = client.request(&global.request(Op::Ping))?;
    let took = asked.elapsed();
    out.reply(reply.json(), || format!("pong after {}", duration_text(took)))
}
