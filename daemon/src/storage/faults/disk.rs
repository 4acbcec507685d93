//! A disk that fails when it is told to, and knows what a crash leaves of it.
//!
//! Invariant: after the crash nothing reaches the files of the image that was made at that moment; every operation
//! fails from then on, so that nobody is answered by a process that is dead.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::chance::Chance;
use super::fault::{Crash, Fault, Kind, Planned, Who};
use super::model::{Change, Model};
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::planted::Bug;

/// What is called before a file is synced.
pub(super) type OnSync = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone)]
pub(super) struct FaultyDisk {
    state: Arc<Mutex<State>>,
    bug: Option<Bug>,
}

struct State {
    /// Until it is taken over to the next life.
    model: Option<Model>,
    root: PathBuf,
    image: PathBuf,
    crash: Crash,
    chance: Chance,
    fault: Fault,
    /// Faults that took place.
    injected: u64,
    /// What they did to the log.
    of_log: OfLog,
    is_off: bool,
    /// DuckDB is at work, so that its files cannot be copied.
    is_duckdb_busy: bool,
    by_kind: BTreeMap<Kind, u64>,
    by_who: BTreeMap<Who, u64>,
    on_sync: Option<OnSync>,
    /// The last operations, for a message.
    last: Vec<String>,
}

impl std::fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultyDisk")
    }
}

/// What failed of the log itself, while it was written. Nothing else may close it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OfLog {
    /// Its end is uncertain, so it may be closed until a restart.
    pub(super) may_be_closed: bool,
    /// The kernel may have dropped what was written and not synced.
    pub(super) may_lose_buffered: bool,
}

impl OfLog {
    fn failed(&mut self, who: Who, kind: Kind, errno: i32, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if who != Who::Main || !name.starts_with("wal_") {
            return;
        }
        // For lack of room half a write is taken back.
        self.may_be_closed |= kind == Kind::Sync || kind == Kind::Write && errno != libc::ENOSPC;
        self.may_lose_buffered |= kind == Kind::Sync;
    }
}

enum Decision {
    Go,
    Stop,
    Fail { error: io::Error, half: bool },
}

fn off() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl State {
    fn model(&mut self) -> &mut Model {
        self.model.as_mut().expect("it is not over")
    }

    /// What a killed process leaves to the next one; nothing after a power cut.
    fn take_model(&mut self) -> Option<Model> {
        self.model.take()
    }

    fn decide(&mut self, kind: Kind, path: &Path) -> Decision {
        if self.is_off {
            return Decision::Fail { error: off(), half: false };
        }
        let who = Who::of_this_thread();
        let of_kind = self.by_kind.entry(kind).or_default();
        *of_kind += 1;
        let of_kind = *of_kind;
        if self.last.len() == 200 {
            self.last.remove(0);
        }
        let name = path.strip_prefix(&self.root).unwrap_or(path).display();
        self.last.push(format!("{who:?} {kind:?} {name}"));
        if kind.changes() && self.must_stop(who) {
            return Decision::Stop;
        }
        match self.fault {
            Fault::Fail { kind: of, at, times, errno, half }
                if of == kind && (at..at + times).contains(&of_kind) =>
            {
                self.injected += 1;
                self.of_log.failed(who, kind, errno, path);
                self.last.push(format!("  … fails with {errno}"));
                Decision::Fail { error: io::Error::from_raw_os_error(errno), half }
            }
            _ => Decision::Go,
        }
    }

    fn must_stop(&mut self, who: Who) -> bool {
        let count = self.by_who.entry(who).or_default();
        *count += 1;
        let is_background = matches!(who, Who::Preparing | Who::Trimming);
        match self.fault {
            // While DuckDB writes, the next operation of that thread will do.
            Fault::Stop { who: of, at } => {
                of == who && *count >= at && !(is_background && self.is_duckdb_busy)
            }
            _ => false,
        }
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.is_off, true) {
            return;
        }
        match self.crash {
            Crash::Kill => {
                self.model().look_everywhere();
                copy_tree(&self.root, &self.image);
            }
            Crash::PowerCut => {
                let mut model = self.model.take().expect("a model");
                model.power_cut(&self.image, &mut self.chance);
            }
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&from, &to);
        } else {
            // DuckDB's temporary files come and go.
            let _ = fs::copy(from, to);
        }
    }
}

impl FaultyDisk {
    /// A disk whose files are below `root`; a crash leaves `image`. Everything is durable there now, but for what a
    /// process that was killed has left on `before`.
    pub(super) fn new(root: &Path, image: &Path, planned: Planned, before: Option<&Self>) -> Self {
        let kept = image.with_extension("kept");
        let left = before.and_then(|before| before.state.lock().take_model());
        let model = match left {
            Some(model) => model.moved(root.to_owned(), kept),
            None => Model::new(root, kept),
        };
        let Planned { crash, chance, fault, bug } = planned;
        let state = State {
            model: Some(model),
            root: root.to_owned(),
            image: image.to_owned(),
            crash,
            chance,
            fault,
            injected: 0,
            of_log: OfLog::default(),
            is_off: false,
            is_duckdb_busy: false,
            by_kind: BTreeMap::new(),
            by_who: BTreeMap::new(),
            on_sync: None,
            last: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), bug }
    }

    /// Whether everything has stopped.
    pub(super) fn is_off(&self) -> bool {
        self.state.lock().is_off
    }

    /// Stops everything now, if it has not stopped already.
    pub(super) fn stop_now(&self) {
        self.state.lock().stop();
    }

    /// DuckDB is about to commit, or has.
    pub(super) fn step_of_duckdb(&self) {
        let mut state = self.state.lock();
        if !state.is_off && state.must_stop(Who::DuckDb) {
            state.injected += 1;
            state.stop();
        }
    }

    pub(super) fn set_duckdb_busy(&self, is_busy: bool) {
        self.state.lock().is_duckdb_busy = is_busy;
    }

    pub(super) fn set_on_sync(&self, on_sync: OnSync) {
        self.state.lock().on_sync = Some(on_sync);
    }

    pub(super) fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    /// Whether nothing has gone wrong so far: then nothing may fail.
    pub(super) fn is_sound(&self) -> bool {
        let state = self.state.lock();
        !state.is_off && state.injected == 0
    }

    pub(super) fn of_log(&self) -> OfLog {
        self.state.lock().of_log
    }

    pub(super) fn by_who(&self) -> BTreeMap<Who, u64> {
        self.state.lock().by_who.clone()
    }

    pub(super) fn by_kind(&self) -> BTreeMap<Kind, u64> {
        self.state.lock().by_kind.clone()
    }

    /// The last operations before the end.
    pub(super) fn last_operations(&self, count: usize) -> Vec<String> {
        let state = self.state.lock();
        state.last[state.last.len().saturating_sub(count)..].to_vec()
    }

    /// Does an operation, and notes it where it succeeds.
    fn run<T>(
        &self,
        kind: Kind,
        path: &Path,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        match state.decide(kind, path) {
            Decision::Go => work(&mut state),
            Decision::Fail { error, .. } => Err(error),
            Decision::Stop => {
                state.injected += 1;
                state.stop();
                Err(off())
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.run(Kind::Create, path, |state| {
            let real = RealDisk.create(path)?;
            let id = state.model().created(path);
            Ok(Box::new(FaultyFile { disk: self.clone(), real, id, path: path.to_owned() })
                as Box<dyn DiskFile>)
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.run(Kind::Open, path, |state| {
            let real = RealDisk.open(path)?;
            let id = state.model().id_of(path);
            Ok(Box::new(FaultyFile { disk: self.clone(), real, id, path: path.to_owned() })
                as Box<dyn DiskFile>)
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.run(Kind::Read, path, |_| RealDisk.read(path))
    }

    fn read_head(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        self.run(Kind::ReadHead, path, |_| RealDisk.read_head(path, limit))
    }

    fn read_tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        self.run(Kind::ReadHead, path, |_| RealDisk.read_tail(path, limit))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Kind::Rename, from, |state| {
            if !from.exists() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let id = state.model().id_of(from);
            RealDisk.rename(from, to)?;
            state.model().renamed(from, to, id);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Kind::Remove, path, |state| {
            RealDisk.remove(path)?;
            state.model().removed(path);
            Ok(())
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Kind::CreateDir, path, |state| {
            RealDisk.create_dir(path)?;
            state.model().created_dir(path);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Kind::RemoveDir, path, |state| {
            RealDisk.remove_dir(path)?;
            state.model().removed(path);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Kind::SyncDir, path, |state| {
            RealDisk.sync_dir(path)?;
            state.model().synced_dir(path);
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.run(Kind::List, path, |_| RealDisk.list(path))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.run(Kind::FreeBytes, path, |_| RealDisk.free_bytes(path))
    }

    fn planted(&self) -> Option<Bug> {
        self.bug
    }

    fn copies_at_a_crash(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    real: Box<dyn DiskFile>,
    id: usize,
    path: PathBuf,
}

impl DiskFile for FaultyFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let (written, result) = match state.decide(Kind::Write, &self.path) {
            Decision::Go => (bytes.len(), Ok(())),
            Decision::Fail { error, half } => (if half { bytes.len() / 2 } else { 0 }, Err(error)),
            Decision::Stop => {
                state.injected += 1;
                // It may have got anywhere.
                (state.chance.below(bytes.len() as u64 + 1) as usize, Err(off()))
            }
        };
        if written > 0 && !state.is_off {
            self.real.write_at(offset, &bytes[..written])?;
            state.model().changed(self.id, Change::Write(offset, bytes[..written].to_vec()));
        }
        if matches!(state.fault, Fault::Stop { .. }) && result.is_err() {
            state.stop();
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        // Other threads sync segments that nobody writes.
        if Who::of_this_thread() == Who::Main {
            let on_sync = self.disk.state.lock().on_sync.clone();
            on_sync.inspect(|on_sync| on_sync());
        }
        let mut state = self.disk.state.lock();
        match state.decide(Kind::Sync, &self.path) {
            Decision::Go => {
                self.real.sync()?;
                state.model().synced(self.id);
                Ok(())
            }
            Decision::Fail { error, .. } => {
                if !state.is_off {
                    let mut chance = state.chance.clone();
                    state.model().sync_failed(self.id, &mut chance);
                    state.chance = chance;
                }
                Err(error)
            }
            Decision::Stop => {
                state.injected += 1;
                state.stop();
                Err(off())
            }
        }
    }

    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        self.disk.run(Kind::Preallocate, &self.path, |state| {
            self.real.preallocate(length)?;
            state.model().changed(self.id, Change::Extend(length));
            Ok(())
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk.run(Kind::Truncate, &self.path, |state| {
            self.real.truncate(length)?;
            state.model().changed(self.id, Change::Truncate(length));
            Ok(())
        })
    }
}
