//! `repair`: what is damaged, what would be lost, and, with consent, a storage that starts again.
//!
//! For each partition the log is [surveyed](log) and the [database] is read whole. From both follows
//! what can be had back, which records are nowhere any more, and how the log is [mended](mending). Only then is a person
//! asked.
//!
//! Invariants: nothing is changed without consent; what is damaged is kept beside; places whose records are
//! lost are noted, in the log and in `losses.jsonl`, and never given again. After an interruption at any
//! moment, a second run finds the same choice or less to do.

mod arrange;
mod database;
mod log;
mod mending;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use fastpersist_protocol::time::Date;

use super::{Held, OfflineError, hold};
use crate::config::Overrides;
use crate::disk;
use crate::storage::partition::rebuild::Case;
use crate::storage::partition::{Layout, losses};
use crate::storage::schema::Model;
use crate::storage::{collection, dated, settled};
use crate::wal::horizon;
use database::{Database, Source};
use log::Survey;
use mending::Mending;

/// The arguments of `repair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is changed before you have agreed, at the terminal or by --accept-loss; damaged files are kept beside.

Example:
  fastpersist repair --storage jobs --dry-run")]
pub struct RepairArgs {
    /// The storage; may be left out where exactly one is configured
    #[arg(long, short, value_name = "NAME")]
    storage: Option<String>,
    /// Only say what is damaged and what would be lost
    #[arg(long)]
    dry_run: bool,
    /// Agree without being asked
    #[arg(long, conflicts_with = "dry_run")]
    accept_loss: bool,
}

/// What is to be done for one partition.
struct Work {
    layout: Layout,
    database: Database,
    mending: Mending,
    source: Source,
    /// Up to which record something tells that there were some.
    known_seq: u64,
}

impl Work {
    fn is_needed(&self) -> bool {
        !self.mending.damages.is_empty() || self.source != Source::AsItIs
    }

    /// Records that are nowhere any more, as far as it can be told.
    fn lost(&self) -> u64 {
        self.mending.lost().map(|(first, last)| last - first + 1).sum()
    }

    fn name(&self) -> String {
        self.layout.date.map(|date| format!(" {date}")).unwrap_or_default()
    }
}

/// Repairs a storage.
///
/// # Errors
/// See [`OfflineError`]; [`OfflineError::Person`] where somebody must agree and nobody can be asked.
pub fn run(args: &RepairArgs, overrides: &Overrides) -> Result<(), OfflineError> {
    let held = hold(overrides, args.storage.as_deref())?;
    let done = repair(args, &held);
    // Also what was made before something failed.
    let given = give(&held);
    done.and(given)
}

/// What root made is for the user to whom the storage belongs, also what an interrupted run has left.
fn give(held: &Held) -> Result<(), OfflineError> {
    let base = &held.config.base_dir;
    let owner = disk::owner_of(base).map_err(OfflineError::io(base.display()))?;
    disk::give_tree(base, owner).map_err(OfflineError::io(base.display()))?;
    for layout in layouts(held)? {
        for file in layout.files.paths().filter(|file| !file.starts_with(base)) {
            let directory = disk::parent_of(file);
            if let (true, Some(name)) = (directory.is_dir(), file.file_name()) {
                disk::give_files(directory, &name.to_string_lossy(), owner)
                    .map_err(OfflineError::io(directory.display()))?;
            }
        }
    }
    Ok(())
}

fn repair(args: &RepairArgs, held: &Held) -> Result<(), OfflineError> {
    let mut works = Vec::new();
    for layout in layouts(held)? {
        works.extend(Some(examine(held, layout)?).filter(Work::is_needed));
    }
    let storage = &held.config.name;
    if works.is_empty() {
        return say(&format!("storage {storage:?}: nothing is damaged\n"));
    }
    let mut text = String::new();
    for work in &works {
        text += &describe(storage, work);
    }
    let lost: u64 = works.iter().map(Work::lost).sum();
    let uncertain = works.iter().any(|work| work.source.loses_unknown());
    text += &sum(lost, uncertain);
    say(&text)?;
    if args.dry_run {
        return Ok(());
    }
    if !args.accept_loss && !ask()? {
        return Err(OfflineError::Person("nothing was changed".to_owned()));
    }
    for work in &works {
        mend(held, work)?;
    }
    say(&if works.iter().all(|work| work.source == Source::Unreadable && work.mending.damages.is_empty()) {
        "nothing was changed: there is nothing better than what is there\n".to_owned()
    } else {
        format!("storage {storage:?} is repaired; damaged files are kept beside\n")
    })
}

fn sum(lost: u64, uncertain: bool) -> String {
    match (lost, uncertain) {
        (0, false) => "nothing would be lost\n".to_owned(),
        (0, true) => "what would be lost cannot be counted\n".to_owned(),
        (1, false) => "1 record would be lost\n".to_owned(),
        (lost, false) => format!("{lost} records would be lost\n"),
        (lost, true) => {
            format!("records counted as lost: {lost}; others would be lost that cannot be counted\n")
        }
    }
}

fn say(text: &str) -> Result<(), OfflineError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(OfflineError::io("standard output"))
}

fn ask() -> Result<bool, OfflineError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let message = "nothing was changed: nobody can be asked here; --accept-loss agrees to the above";
        return Err(OfflineError::Person(message.to_owned()));
    }
    let confirm = dialoguer::Confirm::new().with_prompt("Repair as described?").default(false);
    confirm
        .interact()
        .map_err(|error| OfflineError::Io { what: "the terminal".to_owned(), source: error.into() })
}

/// Where the partitions' files are.
fn layouts(held: &Held) -> Result<Vec<Layout>, OfflineError> {
    let (config, shared) = (&held.config, &held.shared);
    if config.model() == Model::Collection {
        let layout = collection::layout(config, shared);
        return Ok(vec![layout.map_err(|error| OfflineError::Failed(error.to_string()))?]);
    }
    let base = &config.base_dir;
    let names = shared.disk.list(base).map_err(OfflineError::io(base.display()))?;
    let dates = names.iter().filter_map(|name| Date::parse(name));
    dates
        .map(|date| {
            let directory = base.join(date.to_string());
            let settled_seq = settled::read_settled(&*shared.disk, &directory);
            Ok(dated::layout(config, date, settled_seq.map_err(OfflineError::io(directory.display()))?))
        })
        .collect()
}

fn examine(held: &Held, layout: Layout) -> Result<Work, OfflineError> {
    let disk = &*held.shared.disk;
    let case = Case { layout: &layout, config: &held.config, shared: &held.shared };
    // A note that cannot be read is told of by the look at the database.
    let removed_seq = horizon::removed_through(disk, layout.place.base()).unwrap_or(0);
    let survey = Survey::take(disk, &layout.wal_directories, held.config.model(), removed_seq)?;
    let (database, known) = Database::look(&case, &survey)?;
    let (source, mending) = database.choose(&case, &survey, known)?;
    Ok(Work { layout, database, mending, source, known_seq: known.seq() })
}

fn describe(storage: &str, work: &Work) -> String {
    let mut lines = Vec::new();
    for bad in &work.database.bad {
        lines.push(format!("{}\n  {}", bad.message, work.source));
    }
    for damage in &work.mending.damages {
        lines.push(damage.to_string());
    }
    let name = work.name();
    lines.iter().flat_map(|line| [storage, &name, ": ", line, "\n"]).collect()
}

fn mend(held: &Held, work: &Work) -> Result<(), OfflineError> {
    let (disk, now) = (&*held.shared.disk, held.shared.clock.now());
    let base = work.layout.place.base();
    let lost: Vec<_> = work.mending.lost().collect();
    if !lost.is_empty() {
        losses::note(disk, base, now, &lost, "repair").map_err(OfflineError::io(base.display()))?;
    }
    let today = crate::schedule::day_of(now, held.config.timezone);
    work.mending.write(disk, &work.layout.place.directory(today), now)?;
    let case = Case { layout: &work.layout, config: &held.config, shared: &held.shared };
    work.database.mend(&case, &work.source, work.known_seq)?;
    if work.source.replaces_files() {
        // What a closed date's note says of the old file is not true of the new one.
        settled::forget_settled(disk, base).map_err(OfflineError::io(base.display()))?;
    }
    Ok(())
}

/// A file as a message names it.
fn named(file: &std::path::Path) -> String {
    PathBuf::from(file).display().to_string()
}
