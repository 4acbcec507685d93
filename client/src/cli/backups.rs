//! The verbs on backups: `backup`, `list-backups`, `verify-backup`, `restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use fastpersist_client::protocol::request::Op;
use fastpersist_client::{BackupInfo, Date, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::Outcome;
use super::forward::{ForwardArgs, forward};
use super::output::{Output, count, grouped};
use super::{Global, parse_date, parse_timestamp};

#[derive(Debug, Args)]
#[command(after_help = "\
Of a dated storage every date that has changed since its last backup is backed up, unless --date names one.

Example:
  fastpersist -s settings backup
  fastpersist -s jobs backup --date 2025-01-15")]
pub(crate) struct BackupArgs {
    /// Dated storages: the date.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist -s settings list-backups
  fastpersist -s settings list-backups --json | jq -r .backup")]
pub(crate) struct ListBackupsArgs {}

#[derive(Debug, Args)]
#[command(after_help = "\
Every byte and every row is read and compared with what the backup's manifest says. A backup that differs is \
not used any more.

Example:
  fastpersist -s settings verify-backup 2025-01-15")]
pub(crate) struct VerifyBackupArgs {
    /// The backup, as list-backups tells it.
    #[arg(value_name = "NAME")]
    backup: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Only backups and the WAL are read, so the daemon may run meanwhile. The result is a directory that a storage's \
base_dir can name. Nothing is built when the moment is not wholly covered, unless --partial says so.

Example:
  fastpersist -s settings restore --to /tmp/before --at 2025-01-15T10:30:00Z --dry-run
  fastpersist -s settings restore --to /tmp/before --seq 1200")]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    forward: ForwardArgs,
    /// The directory to build; it must not exist yet, or be empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The state before the first record that was written later than this.
    #[arg(long, value_name = "TIME", value_parser = parse_timestamp, conflicts_with = "seq")]
    at: Option<Timestamp>,
    /// The state after this record.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// Dated storages: only this date.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// Say what would be used, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Build what can be had, although it is less than what was asked for.
    #[arg(long)]
    partial: bool,
}

#[derive(Deserialize)]
struct Backups {
    backups: Vec<Box<RawValue>>,
}

pub(crate) fn backup(global: &Global, args: &BackupArgs, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::Backup { date: args.date })?;
    let Backups { backups } = reply.get()?;
    if backups.is_empty() && out.is_for_people() {
        return out.line("nothing has changed since the last backup");
    }
    print(&backups, out)
}

pub(crate) fn list_backups(global: &Global, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::ListBackups)?;
    let Backups { backups } = reply.get()?;
    if backups.is_empty() && out.is_for_people() {
        return out.line("there are no backups");
    }
    print(&backups, out)
}

fn print(backups: &[Box<RawValue>], out: &mut Output) -> Outcome {
    if !out.is_for_people() {
        return backups.iter().try_for_each(|backup| out.line(backup));
    }
    let rows = backups.iter().map(|backup| {
        let parsed: Result<BackupInfo, _> = serde_json::from_str(backup.get());
        parsed.map_or_else(|_| vec![backup.get().to_owned()], |info| row(&info))
    });
    out.table(&["backup", "record", "rows", "bytes", "taken", "state"], rows)
}

fn row(info: &BackupInfo) -> Vec<String> {
    let state = if info.verified { "verified" } else { "damaged" };
    vec![
        info.backup.to_string(),
        grouped(info.seq),
        grouped(info.rows),
        grouped(info.bytes),
        info.created_at.to_string(),
        state.to_owned(),
    ]
}

pub(crate) fn verify_backup(global: &Global, args: &VerifyBackupArgs, out: &mut Output) -> Outcome {
    let reply = global.ask(Op::VerifyBackup { backup: args.backup.as_str().into() })?;
    let info: BackupInfo = reply.get()?;
    out.reply(reply.json(), || {
        format!("{} is whole: {} up to record {}", info.backup, count(info.rows, "row"), grouped(info.seq))
    })
}

pub(crate) fn restore(global: &Global, args: &RestoreArgs) -> Outcome {
    let mut arguments: Vec<OsString> = vec!["--to".into(), args.to.clone().into()];
    let texts = [
        ("--at", args.at.map(|at| at.to_string())),
        ("--seq", args.seq.map(|seq| seq.to_string())),
        ("--date", args.date.map(|date| date.to_string())),
    ];
    for (option, value) in texts {
        arguments.extend(value.into_iter().flat_map(|value| [option.into(), value.into()]));
    }
    for (option, given) in [("--dry-run", args.dry_run), ("--partial", args.partial)] {
        arguments.extend(given.then(|| option.into()));
    }
    forward(global, &args.forward, "restore", arguments)
}
