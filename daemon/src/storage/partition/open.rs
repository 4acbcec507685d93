//! Opening: read how far DuckDB has come, replay what the log has beyond that.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::backup::BackedUp;
use super::flush::sync_names;
use super::rebuild::{Bad, Case};
use super::{Layout, Partition, Shared, making, notes};
use crate::config::StorageConfig;
use crate::disk;
use crate::duck::{DuckError, Store};
use crate::latch::{Astray, Latch};
use crate::stats::StorageStats;
use crate::storage::memtable::Memtable;
use crate::storage::producers::{Mark, Producers};
use crate::underway::Underway;
use crate::wal::commit::Queue;
use crate::wal::horizon;
use crate::wal::recover::{self, RecoverError, Recovered, Told};
use crate::wal::watermarks::Watermarks;
use crate::wal::{SegmentLimits, Wal};

/// Why a partition cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log cannot be read or written.
    #[error(transparent)]
    Wal(RecoverError),
    /// The log needs a person.
    #[error(
        "{log}. `fastpersist repair --storage {storage}` says what would be lost before it changes anything"
    )]
    Damaged {
        /// The storage.
        storage: String,
        /// What is wrong.
        log: RecoverError,
    },
    /// The database needs a person: it is not usable, and nothing can replace it whole.
    #[error(
        "{problem}; it cannot be rebuilt: {tried}. `fastpersist repair --storage {storage}` says what would be lost before it changes anything"
    )]
    Database {
        /// The storage.
        storage: String,
        /// What is wrong with which file.
        problem: String,
        /// What each source lacks.
        tried: String,
    },
    /// DuckDB says no for another reason than damage.
    #[error(transparent)]
    Duck(#[from] DuckError),
}

impl OpenError {
    fn of_log(config: &StorageConfig, log: RecoverError) -> Self {
        match log {
            log @ RecoverError::Damaged { .. } => Self::Damaged { storage: config.name.clone(), log },
            log @ RecoverError::Io { .. } => Self::Wal(log),
        }
    }

    /// Whether there was no room on the disk, which passes.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Wal(RecoverError::Io { source, .. }) => disk::is_full(source),
            Self::Duck(error) => error.is_full(),
            _ => false,
        }
    }

    /// Whether the storage's directory is not in place, which passes.
    pub fn is_astray(&self) -> bool {
        matches!(self, Self::Wal(RecoverError::Io { source, .. }) if Astray::is_in(source))
    }

    /// Whether another program has the database open, which passes.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Duck(error) => error.is_in_use(),
            _ => false,
        }
    }
}

impl Partition {
    /// Opens a partition: recovers its log, and begins to keep it. The latch is the storage's: when one of
    /// its logs fails, none of them takes writes.
    ///
    /// Blocks for as long as recovery takes. Must run inside the runtime.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        layout: Layout,
        config: Arc<StorageConfig>,
        shared: Arc<Shared>,
        stats: Arc<StorageStats>,
        latch: Arc<Latch>,
    ) -> Result<Arc<Self>, OpenError> {
        let begun = Instant::now();
        let backed_up = BackedUp::find(&layout, &config, &shared);
        let opened = Opened::new(&layout, &config, &shared)?;
        let Opened { store, memtable, recovered, suspect } = opened;
        let flushed_seq = store.as_ref().map_or(0, |store| store.flushed_seq());
        let unflushed = recovered.last_seq - flushed_seq;
        if unflushed > 0 || recovered.torn_count > 0 {
            tracing::info!(storage = %config.name, date = ?layout.date.map(|d| d.to_string()), records = unflushed,
                took = ?begun.elapsed(), "recovered from the log");
        }
        stats.note_torn(recovered.torn_count);
        let limits = SegmentLimits { max_bytes: config.max_wal_size, max_age: config.max_wal_age };
        let wal = Wal::new(
            Arc::clone(&shared.disk),
            Arc::clone(&shared.clock),
            layout.place,
            limits,
            Arc::clone(&latch),
            recovered.sealed,
        );
        layout.feed.opened(recovered.last_seq);
        let last_used_ms = shared.clock.elapsed().as_millis() as u64;
        let partition = Arc::new(Self {
            date: layout.date,
            config,
            shared,
            stats,
            files: layout.files,
            queue: Queue::default(),
            committing: Underway::default(),
            syncing: wal.syncing(),
            wal: Mutex::new(wal),
            buffers: Mutex::default(),
            latch,
            memtable: RwLock::new(memtable),
            watermarks: Watermarks::new(recovered.last_seq, flushed_seq),
            feed: layout.feed,
            store: RwLock::new(store),
            flush_turn: Mutex::default(),
            readers: Mutex::default(),
            history_turn: tokio::sync::Mutex::default(),
            flushing_bytes: AtomicUsize::new(0),
            // What is in DuckDB's log after a crash is not in its file yet.
            checkpointed_seq: AtomicU64::new(0),
            wake: Arc::new(Notify::new()),
            room: Notify::new(),
            flush_wanted: AtomicBool::new(unflushed > 0),
            flush_fails: Arc::default(),
            torn_count: recovered.torn_count,
            backed_up,
            backing_up: AtomicBool::new(false),
            suspect: AtomicBool::new(suspect),
            fill_turn: Mutex::default(),
            unsynced: Arc::new(Notify::new()),
            last_used_ms: AtomicU64::new(last_used_ms),
        });
        Self::spawn_keeper(&partition);
        Ok(partition)
    }
}

/// What opening finds.
pub(super) struct Opened {
    pub(super) store: Option<Arc<Store>>,
    pub(super) memtable: Memtable,
    pub(super) recovered: Recovered,
    /// The database has unreadable blocks, and nothing can replace it.
    pub(super) suspect: bool,
}

impl Opened {
    fn new(layout: &Layout, config: &StorageConfig, shared: &Arc<Shared>) -> Result<Self, OpenError> {
        let case = Case { layout, config, shared };
        making::finish(&*shared.disk, &layout.files).map_err(|source| no_names(config, source))?;
        let noted = case.noted();
        if noted.is_empty() {
            if !layout.files.exist() {
                return Self::without_files(case);
            }
            match open_watched(case) {
                Ok(opened) => return Self::on(opened, case, false),
                Err(error) if error.is_damage() => {
                    let bad = case.diagnose(noted)?;
                    // Each by itself is sound, and yet together they are not: no copy of them would be better.
                    return if bad.is_empty() { Err(OpenError::Duck(error)) } else { case.mend(&bad) };
                }
                Err(error) => return Err(OpenError::Duck(error)),
            }
        }
        let bad = case.diagnose(noted)?;
        match case.mend(&bad) {
            Err(error) if bad.iter().all(Bad::is_usable) => {
                tracing::error!(storage = %config.name, %error, "a database file has unreadable blocks and cannot be rebuilt; what can be read is served");
                Self::on(open_watched(case)?, case, true)
            }
            mended => mended,
        }
    }

    fn on((store, producers): OpenStore, case: Case<'_>, suspect: bool) -> Result<Self, OpenError> {
        let Case { layout, config, shared } = case;
        // Whoever made or removed them may have ended before that was durable.
        sync_names(&*shared.disk, &layout.files).map_err(|source| no_names(config, source))?;
        let (flushed_seq, empty) = (store.flushed_seq(), store.row_count() == 0);
        let replayed = replay(layout, config, shared, flushed_seq, empty);
        let (mut memtable, recovered) = replayed.map_err(|log| OpenError::of_log(config, log))?;
        // A log without segments does not tell that it ended behind this database: the notes do.
        let noted_seq = noted_seq(layout, shared);
        if !suspect && recovered.last_seq < noted_seq {
            drop(store);
            return case.mend(&case.outdated(noted_seq));
        }
        let removed_through = || horizon::removed_through(&*shared.disk, layout.place.base());
        if recovered.sealed.is_empty() && removed_through().is_ok_and(|seq| seq < flushed_seq) {
            // Somebody took the log away. What comes begins behind the database, and a torn first write must be known for one.
            if let Err(error) = horizon::note_removed(&*shared.disk, layout.place.base(), flushed_seq) {
                tracing::warn!(storage = %config.name, %error, "it could not be noted that there is no log any more");
            }
        }
        memtable.producers_mut().load(producers);
        Ok(Self { store: Some(Arc::new(store)), memtable, recovered, suspect })
    }

    /// There is no database file: the first flush makes it, unless something tells that there was one.
    fn without_files(case: Case<'_>) -> Result<Self, OpenError> {
        let Case { layout, config, shared } = case;
        let missing = || -> Result<Self, OpenError> { case.mend(&case.diagnose(Vec::new())?) };
        // What cannot be asked is asked again there, and told.
        let Ok(known) = case.known(&[]) else { return missing() };
        let (memtable, recovered) = match replay(layout, config, shared, 0, true) {
            Ok(replayed) => replayed,
            Err(RecoverError::Damaged { .. }) if known.seq() > 0 => return missing(),
            Err(log) => return Err(OpenError::of_log(config, log)),
        };
        if known.is_reached_by(&recovered).is_err() {
            return missing();
        }
        if known.seq() > 0 {
            let files: Vec<_> = layout.files.paths().map(|file| file.display().to_string()).collect();
            let files = files.join(", ");
            tracing::warn!(storage = %config.name, files, "there is no database any more; the log has all of it");
        }
        Ok(Self { store: None, memtable, recovered, suspect: false })
    }
}

/// The last record of which the notes beside the log tell; where they cannot be read, a check tells.
fn noted_seq(layout: &Layout, shared: &Shared) -> u64 {
    let removed = horizon::removed_through(&*shared.disk, layout.place.base()).unwrap_or(0);
    removed.max(layout.settled_seq.unwrap_or(0))
}

/// The names of the database files cannot be changed or made durable.
fn no_names(config: &StorageConfig, source: std::io::Error) -> OpenError {
    OpenError::Wal(RecoverError::Io { file: config.base_dir.display().to_string(), source })
}

/// An open store, and how far its producers have come.
type OpenStore = (Store, Vec<(Arc<str>, Mark)>);

/// Opens the files, with a note beside each that stays when DuckDB ends the process.
fn open_watched(case: Case<'_>) -> Result<OpenStore, DuckError> {
    let Case { layout, config, shared } = case;
    let disk = &*shared.disk;
    let before = |file: &Path| {
        if file.exists() {
            notes::begin_opening(disk, file, shared.clock.now());
        }
    };
    let (engine, schema) = (Arc::clone(&shared.engine), Arc::new(config.schema.clone()));
    let opened = Store::open_watched(engine, schema, layout.files.clone(), &before)
        .and_then(|store| Ok((store.producers()?, store)))
        .map(|(producers, store)| (store, producers));
    layout.files.paths().for_each(|file| notes::end_opening(disk, file));
    opened
}

/// Reads the log behind `flushed_seq` into a new memory table. Of its producers that knows only what the log
/// tells; whoever has a store adds what that has.
pub(super) fn replay(
    layout: &Layout,
    config: &StorageConfig,
    shared: &Arc<Shared>,
    flushed_seq: u64,
    database_is_empty: bool,
) -> Result<(Memtable, Recovered), RecoverError> {
    let mut memtable = Memtable::new(config.model(), database_is_empty);
    *memtable.producers_mut() = Producers::new(shared.limits.max_producers);
    memtable.begin_behind(flushed_seq);
    let directories = &layout.wal_directories;
    // Where the note cannot be read, a check tells; then it is as if nothing had been removed.
    let removed_seq = horizon::removed_through(&*shared.disk, layout.place.base()).unwrap_or(0);
    let told = Told { flushed_seq, settled_seq: layout.settled_seq, removed_seq };
    let recovered = recover::recover(&shared.disk, directories, config.model(), told, |entry| {
        if entry.gap.is_some() {
            memtable.pass_gap(entry.last_seq());
        }
        if let Some((name, mark)) = entry.mark() {
            memtable.producers_mut().note(name, mark);
        }
        for record in entry.records {
            if record.seq() > flushed_seq {
                memtable.publish(record);
            }
        }
    })?;
    Ok((memtable, recovered))
}
