//! `fastpersistd restore`: a new directory with what a storage held at some moment.
//!
//! Invariants: the storage's own directory is only read, and of that only backups, log and lock tokens, so the
//! daemon may run meanwhile; the new directory gets its name when everything in it is complete and durable, until then
//! its name ends in `.incomplete`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use fastpersist_protocol::time::{Date, Timestamp};
use sha2::{Digest as _, Sha256};

use super::Failure;
use super::plan::{Base, Moment, Plan, Planner};
use super::walk;
use crate::backup::manifest::{self, Found};
use crate::backup::verify;
use crate::config::{self, Overrides, StorageConfig};
use crate::disk::{self, Disk, RealDisk};
use crate::duck::{self, Engine, EngineSettings, Files, FlushBatch, Store};
use crate::locks;
use crate::storage::memtable::Memtable;
use crate::storage::partition::{flush_rows, losses};
use crate::storage::producers::{Change, Producers};
use crate::storage::schema::Model;
use crate::wal::horizon;

/// What is brought into DuckDB at a time.
const CHUNK_BYTES: usize = 64 << 20;
const CHUNK_RECORDS: u64 = 200_000;
/// How the name of a directory ends that is not complete.
const INCOMPLETE_SUFFIX: &str = ".incomplete";
const COPY_BYTES: usize = 1 << 20;

/// The arguments.
#[derive(Debug, Args)]
#[command(after_help = "\
Only backups and the WAL are read, so the daemon may run meanwhile. The result is a directory that a storage's \
base_dir can name. Nothing is built when the moment is not wholly covered, unless --partial says so.

Example:
  fastpersist restore --storage settings --to /tmp/before --at 2025-01-15T10:30:00Z --dry-run")]
pub struct RestoreArgs {
    /// The storage; may be left out where exactly one is configured
    #[arg(long, short, value_name = "NAME")]
    storage: Option<String>,
    /// The directory to build; it must not exist yet, or be empty
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The state before the first record that was written later than this
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "seq")]
    at: Option<Timestamp>,
    /// The state after this record
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// Dated storages: only this date
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// Say what would be used, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Build what can be had, although it is less than what was asked for
    #[arg(long)]
    partial: bool,
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "a time is written like 2025-01-15T10:30:00Z".to_owned())
}

fn parse_date(text: &str) -> Result<Date, String> {
    Date::parse(text).ok_or_else(|| "a date is written like 2025-01-15".to_owned())
}

/// Runs the subcommand.
///
/// # Errors
/// [`Failure`], with the exit code.
pub fn run(args: &RestoreArgs, overrides: &Overrides) -> Result<(), Failure> {
    let config =
        config::load(overrides).map_err(|error| Failure::new(Failure::CONFIGURATION, error.to_string()))?;
    let storage = find_storage(&config.storages, args.storage.as_deref())?;
    let moment = moment(args, storage)?;
    // Without a slash at its end: what stands beside it has its name and more.
    let to: PathBuf = args.to.components().collect();
    disk::set_file_mode_mask();
    check_target(&to, storage)?;
    let incomplete = with_suffix(&to, INCOMPLETE_SUFFIX);
    let engine = Engine::open(&EngineSettings {
        memory_limit_bytes: config.limits.duckdb_memory_bytes,
        threads: config.limits.duckdb_threads,
        temp_directory: incomplete.join("duckdb_temp"),
    })
    .map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
    let planner = Planner { disk: &RealDisk, engine: &engine, config: storage, moment };
    let dates = match (storage.model(), args.date) {
        (Model::Collection, _) => vec![None],
        (Model::Dated, Some(date)) => vec![Some(date)],
        (Model::Dated, None) => planner.dates()?.into_iter().map(Some).collect(),
    };
    let plans: Vec<_> = dates.into_iter().map(|date| planner.plan(date, &[])).collect::<Result<_, _>>()?;
    say(&tell(storage, moment, &plans));
    if plans.iter().any(|plan| plan.uncovered.is_some()) && !args.partial {
        return Err(Failure::new(
            Failure::FAILED,
            "what was asked for is not wholly covered; --partial builds what can be had",
        ));
    }
    if args.dry_run {
        say("nothing was written: this is a dry run");
        return Ok(());
    }
    let missing: Vec<_> = to.ancestors().skip(1).filter(|above| !exists(above)).collect();
    let built = Builder {
        engine: &engine,
        max_producers: config.limits.max_producers,
        planner: &planner,
        incomplete: &incomplete,
    }
    .build(plans);
    let given = built.and_then(|()| give(&incomplete, &missing, storage));
    given.and_then(|()| finish(&incomplete, &to)).inspect_err(|_| {
        // What is left says by its name that it is incomplete; that is all that matters here.
        let _ = std::fs::remove_dir_all(&incomplete);
    })?;
    say(&format!("written to {}", to.display()));
    Ok(())
}

/// Prints a line; nobody has to read it.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn find_storage<'c>(storages: &'c [StorageConfig], name: Option<&str>) -> Result<&'c StorageConfig, Failure> {
    let names: Vec<_> = storages.iter().map(|storage| storage.name.as_str()).collect();
    let names = names.join(", ");
    match (name, storages) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::new(Failure::USAGE, format!("--storage names one of: {names}"))),
        (Some(name), _) => storages.iter().find(|storage| storage.name == name).ok_or_else(|| {
            Failure::new(Failure::USAGE, format!("there is no storage {name:?}; there is {names}"))
        }),
    }
}

fn moment(args: &RestoreArgs, storage: &StorageConfig) -> Result<Moment, Failure> {
    let usage = |message: &str| Err(Failure::new(Failure::USAGE, message));
    match (storage.model(), args.date, args.seq) {
        (Model::Collection, Some(_), _) => {
            usage("--date is for dated storages; a collection has --at and --seq")
        }
        (Model::Dated, None, Some(_)) => usage("each date has a sequence of its own: --seq needs --date"),
        (_, _, Some(seq)) => Ok(Moment::Seq(seq)),
        _ => Ok(args.at.map_or(Moment::Newest, Moment::At)),
    }
}

/// The directory must be new, and not among the storage's own files.
fn check_target(to: &Path, storage: &StorageConfig) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(Failure::USAGE, message));
    if to.file_name().is_none() {
        return usage(format!("--to {} must name a directory", to.display()));
    }
    match std::fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return usage(format!("{} is not empty; name a directory that does not exist yet", to.display()));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io(to)(error)),
        _ => {}
    }
    let incomplete = with_suffix(to, INCOMPLETE_SUFFIX);
    if incomplete.exists() {
        let what = incomplete.display();
        return usage(format!("{what} was left by a restore that was interrupted; remove it first"));
    }
    let absolute = std::path::absolute(to).map_err(Failure::io(to))?;
    let exists = absolute.ancestors().find_map(|above| above.canonicalize().ok());
    let own = storage.base_dir.canonicalize().map_err(Failure::io(&storage.base_dir))?;
    if exists.is_some_and(|exists| exists.starts_with(&own)) {
        return usage(format!("{} lies in the storage's own directory; name another place", to.display()));
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What is used, what comes of it, and what cannot be had.
fn tell(storage: &StorageConfig, moment: Moment, plans: &[Plan]) -> String {
    let wanted = match moment {
        Moment::Newest => "everything that there is".to_owned(),
        Moment::Seq(seq) => format!("up to record {seq}"),
        Moment::At(at) => format!("as of {at}"),
    };
    let mut lines = vec![format!("storage {:?}, {wanted}", storage.name)];
    if plans.is_empty() {
        lines.push("  there is neither a backup nor a WAL, so the result is empty".to_owned());
    }
    for plan in plans {
        lines.extend(plan.date.map(|date| date.to_string()));
        let backup = |found: &Found| {
            let manifest = &found.manifest;
            format!("{} (record {}, taken {})", manifest.backup, manifest.seq, manifest.created_at)
        };
        lines.push(match &plan.base {
            Base::Nothing => "  backup: none is used".to_owned(),
            Base::Backup(found) => format!("  backup: {}", backup(found)),
            Base::CutBack(found) => format!("  backup: {}, cut back by its history", backup(found)),
        });
        let short = |path: &Path| path.strip_prefix(&storage.base_dir).unwrap_or(path).display().to_string();
        lines.push(match plan.used.as_slice() {
            [] => "  WAL: none is used".to_owned(),
            [only] => format!("  WAL: {} from {}", count(plan.records), short(only)),
            [first, .., last] => format!(
                "  WAL: {} from {} segments, {} to {}",
                count(plan.records),
                plan.used.len(),
                short(first),
                short(last)
            ),
        });
        lines.push(match (plan.seq, plan.updated_at) {
            (0, _) => "  result: nothing was stored yet".to_owned(),
            (seq, Some(at)) => format!("  result: up to record {seq}, written {at}"),
            (seq, None) => format!("  result: up to record {seq}"),
        });
        let date = plan.date.map(|date| date.to_string()).unwrap_or_default();
        let lost = losses::count(&RealDisk, &storage.base_dir.join(date), plan.seq);
        if lost > 0 {
            lines.push(format!("  given up in a repair: {}", count(lost)));
        }
        if let Some((first, last)) = plan.split_batch {
            lines.push(format!("  records {first} to {last} are one batch; the result ends before it"));
        }
        lines.extend(plan.uncovered.as_ref().map(|what| format!("  not covered: {what}")));
    }
    lines.join("\n")
}

fn count(records: u64) -> String {
    if records == 1 { "1 record".to_owned() } else { format!("{records} records") }
}

fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

/// What root restores is for the user to whom the storage belongs, with the directories made above it.
fn give(incomplete: &Path, above: &[&Path], storage: &StorageConfig) -> Result<(), Failure> {
    let owner = disk::owner_of(&storage.base_dir).map_err(Failure::io(&storage.base_dir))?;
    for directory in above {
        disk::give_directory(directory, owner).map_err(Failure::io(directory))?;
    }
    disk::give_tree(incomplete, owner).map_err(Failure::io(incomplete))
}

/// Gives the complete directory its name.
fn finish(incomplete: &Path, to: &Path) -> Result<(), Failure> {
    RealDisk.rename(incomplete, to).map_err(Failure::io(to))?;
    RealDisk.sync_dir(disk::parent_of(to)).map_err(Failure::io(to))
}

struct Builder<'a> {
    engine: &'a Arc<Engine>,
    max_producers: usize,
    planner: &'a Planner<'a>,
    incomplete: &'a Path,
}

impl Builder<'_> {
    fn build(&self, plans: Vec<Plan>) -> Result<(), Failure> {
        disk::create_dir_durably(&RealDisk, self.incomplete).map_err(Failure::io(self.incomplete))?;
        for plan in plans.into_iter().filter(|plan| plan.seq > 0) {
            self.build_one(plan)?;
        }
        let spill = self.incomplete.join("duckdb_temp");
        if spill.exists() {
            std::fs::remove_dir_all(&spill).map_err(Failure::io(&spill))?;
        }
        locks::carry_over(&RealDisk, &self.planner.config.base_dir, self.incomplete)
            .map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
        RealDisk.sync_dir(self.incomplete).map_err(Failure::io(self.incomplete))
    }

    fn build_one(&self, plan: Plan) -> Result<(), Failure> {
        let files = self.files(&plan)?;
        let plan = self.copy_base(plan, &files)?;
        let failed = |error: duck::DuckError| Failure::new(Failure::FAILED, error.to_string());
        let schema = Arc::new(self.planner.config.schema.clone());
        if let (Base::CutBack(_), Files::Collection { history, latest }) = (&plan.base, &files) {
            let cut = duck::truncate_collection(self.engine, &schema, [history, latest], plan.seq);
            let forgotten = cut.map_err(failed)?;
            if forgotten > 0 {
                say(&format!(
                    "producers whose last write is later, so that nothing tells how far they were: {forgotten}; \
                     they are forgotten"
                ));
            }
        }
        let store = Store::open(Arc::clone(self.engine), schema, files.clone()).map_err(failed)?;
        if plan.records > 0 {
            self.replay(&store, &plan)?;
        }
        if store.flushed_seq() != plan.seq {
            let message =
                format!("the result ends with record {} instead of {}", store.flushed_seq(), plan.seq);
            return Err(Failure::new(Failure::FAILED, message));
        }
        store.close().map_err(failed)?;
        let (from, to) = match plan.date {
            None => (self.planner.config.base_dir.clone(), self.incomplete.to_owned()),
            Some(date) => {
                let date = date.to_string();
                (self.planner.config.base_dir.join(&date), self.incomplete.join(&date))
            }
        };
        losses::carry_over(&RealDisk, &from, &to, plan.seq).map_err(Failure::io(&to))?;
        // The result has no log, and what comes will begin behind it.
        horizon::note_removed(&RealDisk, &to, plan.seq).map_err(Failure::io(&to))?;
        for file in files.paths() {
            let sync = |mut file: Box<dyn disk::DiskFile>| file.sync();
            RealDisk.open(file).and_then(sync).map_err(Failure::io(file))?;
            RealDisk.sync_dir(disk::parent_of(file)).map_err(Failure::io(file))?;
        }
        Ok(())
    }

    /// Copies what the plan begins with. A backup that turns out to be damaged is passed over, and the plan that
    /// is answered comes to the same record without it.
    fn copy_base(&self, mut plan: Plan, files: &Files) -> Result<Plan, Failure> {
        let mut bad = Vec::new();
        while let Base::Backup(found) | Base::CutBack(found) = &plan.base {
            let Err(what) = copy_backup(found, files)? else { break };
            remove_copies(files)?;
            let now = manifest::find(&RealDisk, &found.directory).ok().flatten();
            // Beside a running daemon it may only have been replaced while it was copied.
            if now.is_none_or(|now| now.manifest == found.manifest) {
                say(&format!("the backup {} is damaged and is passed over: {what}", found.manifest.backup));
                bad.push(found.directory.clone());
            }
            let planner = Planner { moment: Moment::Seq(plan.seq), ..*self.planner };
            plan = planner.plan(plan.date, &bad)?;
            if let Some(what) = plan.uncovered {
                return Err(Failure::new(Failure::FAILED, format!("without it, {what}")));
            }
        }
        Ok(plan)
    }

    /// Where the database files of a partition go.
    fn files(&self, plan: &Plan) -> Result<Files, Failure> {
        let config = self.planner.config;
        let files = match plan.date {
            None => Files::Collection {
                history: self.incomplete.join("storage_history.duckdb"),
                latest: self.incomplete.join("storage_latest.duckdb"),
            },
            Some(date) => {
                let date = date.to_string();
                let original = config.database_path(&date);
                let name = original
                    .strip_prefix(config.base_dir.join(&date))
                    .map_or_else(|_| original.file_name().map(PathBuf::from), |name| Some(name.to_owned()));
                let name = name.unwrap_or_else(|| PathBuf::from("data.duckdb"));
                Files::Dated { data: self.incomplete.join(date).join(name) }
            }
        };
        for file in files.paths() {
            let directory = disk::parent_of(file);
            disk::create_dir_durably(&RealDisk, directory).map_err(Failure::io(directory))?;
        }
        Ok(files)
    }

    /// Brings the log's records up to the plan's last one into the store.
    fn replay(&self, store: &Store, plan: &Plan) -> Result<(), Failure> {
        let model = self.planner.config.model();
        let mut chunk = Chunk::new(model, store.flushed_seq());
        let mut producers = Producers::new(self.max_producers);
        let known = store.producers().map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
        producers.load(known);
        let mut failed = None;
        let walked = walk::walk(&RealDisk, model, &plan.segments, store.flushed_seq(), |entry| {
            if entry.last_seq() > plan.seq {
                return false;
            }
            let is_last = entry.last_seq() == plan.seq;
            chunk.last_seq = entry.last_seq();
            if let Some((name, mark)) = entry.mark() {
                producers.note(name, mark);
            }
            chunk.add(entry.records);
            if is_last || chunk.is_full() {
                let next = Chunk::new(model, chunk.last_seq);
                failed = std::mem::replace(&mut chunk, next).flush(store, producers.take_changes()).err();
            }
            failed.is_none() && !is_last
        });
        walked.map_err(|(file, error)| Failure::io(&file)(error))?;
        failed.map_or(Ok(()), |error| Err(Failure::new(Failure::FAILED, error.to_string())))
    }
}

/// Records on their way from the log into DuckDB, as the daemon's memory holds them.
struct Chunk {
    memtable: Memtable,
    last_seq: u64,
    records: u64,
}

impl Chunk {
    fn new(model: Model, flushed_seq: u64) -> Self {
        // It knows nothing of what DuckDB has, so DuckDB is asked.
        let mut memtable = Memtable::new(model, flushed_seq == 0);
        memtable.begin_behind(flushed_seq);
        Self { memtable, last_seq: flushed_seq, records: 0 }
    }

    fn add(&mut self, records: Vec<crate::storage::record::Record>) {
        for record in records {
            self.records += 1;
            self.memtable.publish(record);
        }
    }

    fn is_full(&self) -> bool {
        self.records >= CHUNK_RECORDS || self.memtable.pending_bytes() >= CHUNK_BYTES
    }

    fn flush(mut self, store: &Store, producers: Vec<Change>) -> Result<(), duck::DuckError> {
        let unflushed = self.memtable.take_all();
        store.flush(&FlushBatch { through_seq: self.last_seq, rows: flush_rows(&unflushed), producers })?;
        store.checkpoint()
    }
}

/// Copies a backup's files, and answers what is wrong with them.
fn copy_backup(found: &Found, files: &Files) -> Result<Result<(), String>, Failure> {
    for ((entry, from), to) in found.manifest.files.iter().zip(&found.paths).zip(files.paths()) {
        let copied = match std::fs::File::open(from) {
            Ok(file) => copy(file, to),
            Err(error) => return Ok(Err(format!("{}: {error}", from.display()))),
        };
        let (bytes, sha256) = copied.map_err(Failure::io(to))?;
        if let Err(what) = verify::compare_bytes(entry, bytes, &sha256) {
            return Ok(Err(what));
        }
    }
    Ok(Ok(()))
}

/// Removes what was copied of a backup that is damaged: what follows begins with another one, or with nothing.
fn remove_copies(files: &Files) -> Result<(), Failure> {
    for file in files.paths() {
        match RealDisk.remove(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::io(file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn copy(mut from: std::fs::File, to: &Path) -> std::io::Result<(u64, String)> {
    let mut copy = RealDisk.create(to)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; COPY_BYTES];
    let mut bytes = 0;
    loop {
        let length = std::io::Read::read(&mut from, &mut chunk)?;
        if length == 0 {
            copy.sync()?;
            return Ok((bytes, verify::hex(&hasher.finalize())));
        }
        copy.write_at(bytes, &chunk[..length])?;
        hasher.update(&chunk[..length]);
        bytes += length as u64;
    }
}
