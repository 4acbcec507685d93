//! Opening: read how far DuckDB has come, replay what the log has beyond that.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{Layout, Partition, Shared};
use crate::config::StorageConfig;
use crate::duck::{DuckError, Store};
use crate::latch::Latch;
use crate::stats::StorageStats;
use crate::storage::memtable::Memtable;
use crate::storage::producers::Producers;
use crate::wal::commit::Queue;
use crate::wal::recover::{self, RecoverError, Recovered};
use crate::wal::watermarks::Watermarks;
use crate::wal::{SegmentLimits, Wal};

/// Why a partition cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log needs a person.
    #[error(transparent)]
    Wal(#[from] RecoverError),
    /// The database needs a person: it does not open, and the log cannot replace it.
    #[error(
        "{duck}; the log does not reach back to the first record ({log}), so the file cannot be rebuilt from it"
    )]
    Database {
        /// What DuckDB said.
        duck: DuckError,
        /// What is missing in the log.
        log: RecoverError,
    },
    /// A damaged database file could not be moved aside.
    #[error("{duck}; moving {file} aside failed: {source}")]
    Aside {
        /// What DuckDB said.
        duck: DuckError,
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// DuckDB says no for another reason than damage.
    #[error(transparent)]
    Duck(DuckError),
}

impl OpenError {
    /// Whether another program has the database open, which passes.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Duck(DuckError::Open { source, .. }) => source.to_string().contains("Could not set lock"),
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
        let opened = Opened::new(&layout, &config, &shared)?;
        let Opened { store, memtable, recovered } = opened;
        let flushed_seq = store.as_ref().map_or(0, |store| store.flushed_seq());
        let unflushed = recovered.last_seq - flushed_seq;
        if unflushed > 0 || recovered.torn_count > 0 {
            tracing::info!(storage = %config.name, date = ?layout.date.map(|d| d.to_string()), records = unflushed,
                took = ?begun.elapsed(), "recovered from the log");
        }
        let limits = SegmentLimits { max_bytes: config.max_wal_size, max_age: config.max_wal_age };
        let wal = Wal::new(
            Arc::clone(&shared.disk),
            Arc::clone(&shared.clock),
            layout.place,
            limits,
            Arc::clone(&latch),
            recovered.sealed,
        );
        let last_used_ms = shared.clock.elapsed().as_millis() as u64;
        let partition = Arc::new(Self {
            date: layout.date,
            config,
            shared,
            stats,
            files: layout.files,
            queue: Queue::default(),
            wal: Mutex::new(wal),
            buffers: Mutex::default(),
            latch,
            memtable: RwLock::new(memtable),
            watermarks: Watermarks::new(recovered.last_seq, flushed_seq),
            store: RwLock::new(store),
            flush_turn: Mutex::default(),
            readers: Mutex::default(),
            flushing_bytes: AtomicUsize::new(0),
            // What is in DuckDB's log after a crash is not in its file yet.
            checkpointed_seq: AtomicU64::new(0),
            wake: Arc::new(Notify::new()),
            room: Notify::new(),
            flush_wanted: AtomicBool::new(unflushed > 0),
            torn_count: recovered.torn_count,
            suspect: AtomicBool::new(false),
            unsynced: Arc::new(Notify::new()),
            last_used_ms: AtomicU64::new(last_used_ms),
        });
        Self::spawn_keeper(&partition);
        Ok(partition)
    }
}

/// What opening finds.
struct Opened {
    store: Option<Arc<Store>>,
    memtable: Memtable,
    recovered: Recovered,
}

impl Opened {
    fn new(layout: &Layout, config: &StorageConfig, shared: &Arc<Shared>) -> Result<Self, OpenError> {
        let schema = Arc::new(config.schema.clone());
        let store = if layout.files.exist() {
            let engine = Arc::clone(&shared.engine);
            match Store::open(engine, schema, layout.files.clone()) {
                Ok(store) => Some(Arc::new(store)),
                Err(error) if is_damage(&error) => {
                    return Self::without_database(layout, config, shared, error);
                }
                Err(error) => return Err(OpenError::Duck(error)),
            }
        } else {
            None
        };
        let flushed_seq = store.as_ref().map_or(0, |store| store.flushed_seq());
        let is_empty = store.as_ref().is_none_or(|store| store.row_count() == 0);
        let mut producers = Producers::new(shared.limits.max_producers);
        if let Some(store) = &store {
            producers.load(store.producers().map_err(OpenError::Duck)?);
        }
        let (memtable, recovered) = replay(layout, config, shared, (flushed_seq, is_empty), producers)?;
        Ok(Self { store, memtable, recovered })
    }

    /// The database does not open. Where the log has everything from the first record on, the file is
    /// moved aside and written anew by the next flush; else a person must help, and nothing is touched.
    fn without_database(
        layout: &Layout,
        config: &StorageConfig,
        shared: &Arc<Shared>,
        duck: DuckError,
    ) -> Result<Self, OpenError> {
        let producers = Producers::new(shared.limits.max_producers);
        let (memtable, recovered) = match replay(layout, config, shared, (0, true), producers) {
            Ok((_, recovered)) if recovered.last_seq == 0 => return Err(OpenError::Duck(duck)),
            Ok(replayed) => replayed,
            Err(log) => return Err(OpenError::Database { duck, log }),
        };
        for file in layout.files.paths() {
            move_aside(shared, file).map_err(|source| OpenError::Aside {
                file: file.display().to_string(),
                source,
                duck: DuckError::Path { path: file.to_owned() },
            })?;
        }
        tracing::error!(storage = %config.name, error = %duck, records = recovered.last_seq,
            "the database file is damaged; it was moved aside and is rebuilt from the log");
        Ok(Self { store: None, memtable, recovered })
    }
}

/// Whether DuckDB says that the file itself is bad, and not, for example, that somebody else has it open.
fn is_damage(error: &DuckError) -> bool {
    const SIGNS: &[&str] =
        &["not a valid duckdb", "corrupt", "checksum", "serialization", "could not read enough", "header"];
    match error {
        DuckError::Missing { .. } => true,
        DuckError::Open { source, .. } | DuckError::Sql { source, .. } => {
            let text = source.to_string().to_lowercase();
            SIGNS.iter().any(|sign| text.contains(sign))
        }
        _ => false,
    }
}

fn replay(
    layout: &Layout,
    config: &StorageConfig,
    shared: &Arc<Shared>,
    (flushed_seq, database_is_empty): (u64, bool),
    producers: Producers,
) -> Result<(Memtable, Recovered), RecoverError> {
    let mut memtable = Memtable::new(config.model(), database_is_empty);
    *memtable.producers_mut() = producers;
    memtable.begin_behind(flushed_seq);
    let directories = &layout.wal_directories;
    let recovered = recover::recover(
        &shared.disk,
        directories,
        config.model(),
        flushed_seq,
        layout.settled_seq,
        |entry| {
            if let Some((name, mark)) = entry.mark() {
                memtable.producers_mut().note(name, mark);
            }
            for record in entry.records {
                if record.seq() > flushed_seq {
                    memtable.publish(record);
                }
            }
        },
    )?;
    Ok((memtable, recovered))
}

/// Gives a damaged file a name that says when it was set aside; its own log goes with it.
fn move_aside(shared: &Shared, file: &Path) -> std::io::Result<()> {
    let when = fastpersist_protocol::time::Timestamp::now().to_string().replace(':', "");
    let mut log = file.as_os_str().to_owned();
    log.push(".wal");
    // The log first: beside a file that is made anew it would be replayed into it.
    for path in [Path::new(&log), file] {
        if path.exists() {
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".damaged-{when}"));
            shared.disk.rename(path, Path::new(&aside))?;
        }
    }
    shared.disk.sync_dir(crate::disk::parent_of(file))
}
