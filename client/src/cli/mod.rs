//! The command line: arguments in, one verb run, an exit code out.
//!
//! Each group of verbs has a file: `write`, `read`, `history`, `diff`, `watch`, `lock`, `admin`, `backups`, `health`, `stats`, `load`, `import`, `bench`, `demo`, `docs`; what the daemon's
//! program does is in `forward`. They share the way
//! to the daemon (here), the way out (`output`) and the way to fail (`failure`).

mod admin;
mod backups;
mod bench;
mod demo;
mod diff;
mod docs;
mod failure;
mod forward;
mod health;
mod history;
mod import;
mod json_diff;
mod load;
mod lock;
mod output;
mod read;
mod sql;
mod stats;
mod watch;
mod write;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fastpersist_client::protocol::request::{Op, Request};
use fastpersist_client::{ConnectOptions, Date, Info, Model, StorageInfo, Timestamp, blocking};

use failure::{Failure, Outcome};
use output::Output;

/// Store, read and look after records in fastpersistd, the store that many processes share.
#[derive(Debug, Parser)]
#[command(name = "fastpersist", version, max_term_width = 100, after_help = OVERVIEW)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

const OVERVIEW: &str = "\
Example:
  fastpersist -s jobs store task_1 '{\"value\":100}' --process-name worker1
  fastpersist -s jobs get task_1

On a terminal the output is for people; in a pipe it is one JSON line for each record, with the data \
byte for byte as it was stored.

The daemon's socket is that of --socket, else of FASTPERSIST_SOCKET, else \
/run/fastpersistd/fastpersistd.sock, else the user's own.

Exit codes: 0 done; 1 failed; 2 usage; 69 cannot reach the daemon; 74 I/O error; 77 forbidden; \
78 configuration.";

/// What every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
struct Global {
    /// The daemon's socket: a path, or @name for the abstract namespace.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<String>,
    /// The storage; may be left out where exactly one is configured.
    #[arg(long, short, global = true, value_name = "NAME")]
    storage: Option<String>,
    /// Print JSON lines, on a terminal too.
    #[arg(long, global = true)]
    json: bool,
    /// Print for people, in a pipe too.
    #[arg(long, global = true, conflicts_with = "json")]
    text: bool,
    /// How long a request may take, 30,000 unless given; flush, export and backup take as long as they need.
    #[arg(long, global = true, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Store one record.
    Store(write::StoreArgs),
    /// Print the records of a key, or one of them.
    Get(read::GetArgs),
    /// Print one item of a collection storage.
    GetItem(read::GetItemArgs),
    /// Print the keys, sorted by bytes.
    Keys(read::KeysArgs),
    /// Print the names of a key's collections.
    Collections(read::CollectionsArgs),
    /// Print the dates that have data.
    Dates(read::DatesArgs),
    /// Print every write to an item, newest first.
    History(history::HistoryArgs),
    /// Print what changed under a key between two moments.
    Diff(diff::DiffArgs),
    /// Print changes as they come, or run a command for each.
    Watch(watch::WatchArgs),
    /// Ask with SQL: one SELECT over what a storage holds.
    Sql(sql::SqlArgs),
    /// Delete one record.
    Delete(write::DeleteArgs),
    /// Store and delete many records, all or none.
    Batch(write::BatchArgs),
    /// Run a command while nobody else holds a lock.
    Lock(lock::LockArgs),
    /// Bring everything that was answered into DuckDB.
    Flush(admin::FlushArgs),
    /// Write a storage as Parquet.
    Export(admin::ExportArgs),
    /// Take a backup now.
    Backup(backups::BackupArgs),
    /// Print the backups that there are.
    ListBackups(backups::ListBackupsArgs),
    /// Read a backup again and compare it with its manifest.
    VerifyBackup(backups::VerifyBackupArgs),
    /// Build a directory with what a storage held at some moment.
    Restore(backups::RestoreArgs),
    /// Print the daemon's counters and gauges.
    Stats(stats::StatsArgs),
    /// Print who the daemon is and which storages it has.
    Info(admin::InfoArgs),
    /// Ask the daemon for a sign of life.
    Ping(admin::PingArgs),
    /// Say whether a configuration is right, and what it means.
    CheckConfig(forward::CheckConfigArgs),
    /// Ask whether everything is as it should be.
    Health(health::HealthArgs),
    /// Put back into a collection's history what the WAL of a day has.
    RebuildHistory(health::RebuildHistoryArgs),
    /// Make a collection's latest values anew from its history.
    RebuildLatest(health::RebuildLatestArgs),
    /// Say what is damaged in a storage and mend it, while no daemon runs.
    Repair(health::RepairArgs),
    /// Load a file of JSON lines or CSV into a storage.
    Load(Box<load::LoadArgs>),
    /// Bring a directory of the Python library ionbus-fast-persist into a storage.
    Import(import::ImportArgs),
    /// Measure requests per second and latency.
    Bench(bench::BenchArgs),
    /// A tour on real data: three writers, one store, and a kill -9 in the middle.
    Demo(demo::DemoArgs),
    /// Print the completions for a shell.
    Completions(docs::CompletionsArgs),
    #[command(hide = true)]
    DemoWriter(demo::WriterArgs),
    /// Write man pages and completions, for packages.
    #[command(hide = true)]
    GenerateDocs(docs::GenerateArgs),
    #[command(hide = true)]
    LockCommand(lock::CommandArgs),
}

/// Runs the verb that the arguments name.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(cli: &Cli) -> Outcome<ExitCode> {
    let Cli { global, verb } = cli;
    let mut out = Output::new(global.json, global.text);
    match verb {
        Verb::Store(args) => write::store(global, args, &mut out),
        Verb::Delete(args) => write::delete(global, args, &mut out),
        Verb::Batch(args) => write::batch(global, args, &mut out),
        Verb::Get(args) => read::get(global, args, &mut out),
        Verb::GetItem(args) => read::get_item(global, args, &mut out),
        Verb::Keys(args) => read::keys(global, args, &mut out),
        Verb::Collections(args) => read::collections(global, args, &mut out),
        Verb::Dates(_) => read::dates(global, &mut out),
        Verb::History(args) => history::history(global, args, &mut out),
        Verb::Diff(args) => diff::diff(global, args, &mut out),
        Verb::Watch(args) => watch::watch(global, args, &mut out),
        Verb::Sql(args) => sql::sql(global, args, &mut out),
        Verb::Flush(_) => admin::flush(global, &mut out),
        Verb::Export(args) => admin::export(global, args, &mut out),
        Verb::Stats(args) => stats::stats(global, args, &mut out),
        Verb::Backup(args) => backups::backup(global, args, &mut out),
        Verb::ListBackups(_) => backups::list_backups(global, &mut out),
        Verb::VerifyBackup(args) => backups::verify_backup(global, args, &mut out),
        Verb::Restore(args) => backups::restore(global, args),
        Verb::Info(_) => admin::info(global, &mut out),
        Verb::Ping(_) => admin::ping(global, &mut out),
        Verb::CheckConfig(args) => forward::check_config(global, args),
        Verb::Health(args) => health::health(global, args, &mut out),
        Verb::RebuildHistory(args) => health::rebuild_history(global, args, &mut out),
        Verb::RebuildLatest(_) => health::rebuild_latest(global, &mut out),
        Verb::Repair(args) => health::repair(global, args),
        Verb::Lock(args) => return lock::lock(global, args),
        Verb::LockCommand(args) => return Ok(lock::become_command(args)),
        Verb::Load(args) => load::load(global, args, &mut out),
        Verb::Import(args) => import::import(global, args, &mut out),
        Verb::Bench(args) => bench::bench(global, args, &mut out),
        Verb::Demo(args) => demo::demo(global.json, args, &mut out),
        Verb::Completions(args) => docs::completions(args),
        Verb::DemoWriter(args) => demo::write(global, args),
        Verb::GenerateDocs(args) => docs::generate(args),
    }?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

impl Global {
    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        if let Some(socket) = &self.socket {
            options = options.socket(socket.as_str());
        }
        if let Some(limit) = self.timeout_ms.map(Duration::from_millis) {
            options = options.connect_timeout(limit).request_timeout(limit);
        }
        options
    }

    fn connect(&self) -> Outcome<blocking::Client> {
        Ok(blocking::Client::connect(self.options())?)
    }

    fn request<'a>(&'a self, op: Op<'a>) -> Request<'a> {
        Request { storage: self.storage.as_deref().map(Into::into), op }
    }

    /// Sends one request and gives the whole reply.
    fn ask(&self, op: Op<'_>) -> Outcome<fastpersist_client::Reply> {
        let client = self.connect()?;
        Ok(client.request(&Request { storage: self.storage.as_deref().map(Into::into), op })?)
    }
}

/// The storage that is meant: the named one, else the only one there is (of the model, where one is asked
/// for).
fn find_storage(info: &Info, name: Option<&str>, model: Option<Model>) -> Outcome<StorageInfo> {
    let fits = |storage: &&StorageInfo| {
        name.is_none_or(|name| storage.name == name) && model.is_none_or(|model| storage.model == model)
    };
    let mut fitting = info.storages.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(storage), None) => Ok(storage.clone()),
        (first, _) => {
            let all: Vec<_> =
                info.storages.iter().map(|storage| format!("{} ({})", storage.name, storage.model)).collect();
            let model = model.map(|model| format!("{model} ")).unwrap_or_default();
            let what = match (first, name) {
                (Some(_), _) => format!("there are several {model}storages"),
                (None, Some(name)) => format!("there is no {model}storage {name:?}"),
                (None, None) => format!("there is no {model}storage"),
            };
            Err(Failure::failed(what).with_hint(format!("--storage names one of: {}", all.join(", "))))
        }
    }
}

fn parse_date(text: &str) -> Result<Date, String> {
    Date::parse(text).ok_or_else(|| "a date is written like 2025-01-15".to_owned())
}

fn parse_timestamp(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "a timestamp is written like 2025-01-15T10:30:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
