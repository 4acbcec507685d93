//! The life of the process, in one readable function: lock, recover, bind, serve, drain, export, back up,
//! flush, unlock.
//!
//! Invariant: nothing in a storage's directory is touched before its lock is held, and the locks are
//! the last thing to go.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::clock::{Clock, RealClock};
use crate::config::{Config, Limits, Overrides, StorageConfig};
use crate::dir_lock::{DirLock, LockError};
use crate::disk::{self, RealDisk};
use crate::duck::{DuckError, Engine, EngineSettings};
use crate::locks::{LockTable, TokenError};
use crate::logging::Logging;
use crate::memory;
use crate::metrics::{Endpoint, ListenError};
use crate::schedule::Scheduler;
use crate::server::access::AccessTable;
use crate::server::listener::{BindError, Socket};
use crate::server::{Server, activation};
use crate::signals::{self, Listener};
use crate::stats::DaemonStats;
use crate::storage::Storage;
use crate::storage::partition::{FlushError, OpenError, Shared};
use crate::storage::querying::Queries;
use crate::systemd::{self, Notifier};
use crate::wal::commit::InlineSlots;

/// Threads of the runtime that are never blocked by a commit, so that readers always have one. On two
/// processors one more thread made no more writes, in a few noisy runs 4 to 8 % fewer.
const FREE_WORKERS: usize = 1;
/// Threads of the runtime that commits may block, at most.
const MAX_INLINE_COMMITS: usize = 4;

/// Why the daemon did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A storage directory is in use or cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A storage directory cannot be made.
    #[error("cannot create {directory}: {source}")]
    Directory {
        /// The directory.
        directory: String,
        /// What the system said.
        source: io::Error,
    },
    /// A storage needs a person.
    #[error("storage {storage:?}: {source}")]
    Open {
        /// The storage.
        storage: String,
        /// What is wrong.
        source: OpenError,
    },
    /// The file with the lock tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The socket cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The address for metrics cannot be had.
    #[error(transparent)]
    Metrics(#[from] ListenError),
    /// DuckDB does not start.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// The runtime or the signal handlers cannot be set up.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The last flush failed; nothing is lost.
    #[error(
        "storage {storage:?} could not be flushed: {source}; its records are in the WAL and the next start brings them in"
    )]
    Flush {
        /// The storage.
        storage: String,
        /// What is wrong.
        source: FlushError,
    },
}

impl DaemonError {
    /// The exit code that the protocol promises.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Lock(LockError::Io { .. }) | Self::Directory { .. } => 74,
            // It needs no person: with room it starts, so the service manager is to try again.
            Self::Open { source, .. } if source.is_full() => 74,
            Self::Lock(_) | Self::Open { .. } | Self::Tokens(_) | Self::Bind(_) | Self::Metrics(_) => 78,
            Self::Duck(_) | Self::Start(_) | Self::Flush { .. } => 1,
        }
    }
}

/// Runs the daemon until it is told to stop. `on_ready` is called once it answers requests; `overrides` are
/// what the configuration was loaded with, and is again on SIGHUP, when `logging` is begun anew, too.
///
/// # Errors
/// See [`DaemonError`]; [`DaemonError::exit_code`] says what the process should exit with.
pub fn run(
    config: Config,
    overrides: Overrides,
    logging: Logging,
    on_ready: impl FnOnce(&str),
) -> Result<(), DaemonError> {
    let signals = signals::watch().map_err(DaemonError::Start)?;
    let handed_over = activation::take()?;
    let notifier = Notifier::from_environment();
    let locks = lock(&config.storages)?;
    // Behind the directories: they stay open, for the socket may stand beside one.
    disk::set_file_mode_mask();
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let shared = shared(&config.limits, &locks)?;
    let directories: Vec<_> = config.storages.iter().flat_map(StorageConfig::database_directories).collect();
    shared.engine.lock_down(&directories, config.limits.duckdb_temp_bytes)?;
    let storages = recover(&config.storages, &shared, notifier)?;
    let directories = config.storages.iter().map(|storage| storage.base_dir.as_path());
    let (clock, max_locks) = (Arc::clone(&shared.clock), config.limits.max_locks);
    let lock_table = LockTable::open(&shared.disk, directories, clock, max_locks)?;
    let socket = Socket::open(&config.daemon, handed_over)?;
    let endpoint = Endpoint::bind(&config.metrics, &shared.disk)?;
    let (stop, stopping) = watch::channel(false);
    let server = Arc::new(Server {
        access: RwLock::new(AccessTable::new(&config)),
        storages,
        stats: DaemonStats::default(),
        queries: Arc::new(Queries::new(&config.limits)?),
        locks: lock_table,
        stopping: stopping.clone(),
        config,
    });
    let reloaded = signals::Reloaded { server: Arc::clone(&server), overrides, logging, notifier };
    let listener =
        Listener::spawn(signals, stop, Arc::clone(&shared.engine), reloaded).map_err(DaemonError::Start)?;
    let publisher = endpoint.publish(&server);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), socket = socket.name(), configuration = %server.config.file, "ready");
    on_ready(socket.name());
    notifier.ready(&systemd::serving(&server));
    runtime.spawn(notifier.attend(Arc::clone(&server)));
    runtime.spawn(memory::keep_giving_back(stopping.clone()));
    runtime.block_on(async {
        server.storages.iter().for_each(Storage::start_jobs);
        socket.serve(&server, stopping).await;
        shared.stopping.store(true, Ordering::Relaxed);
        shared.scheduler.stop().await;
    });
    let ended = runtime.block_on(end(&server, &shared.engine, notifier));
    runtime.block_on(publisher.end());
    listener.close();
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(locks);
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    ended
}

/// Makes and locks every storage's directory.
fn lock(storages: &[StorageConfig]) -> Result<Vec<DirLock>, DaemonError> {
    let mut locks = Vec::new();
    for storage in storages {
        let directory = &storage.base_dir;
        disk::create_dir_durably(&RealDisk, directory).map_err(|source| DaemonError::Directory {
            directory: directory.display().to_string(),
            source,
        })?;
        let is_empty = std::fs::read_dir(directory).is_ok_and(|mut names| names.next().is_none());
        locks.push(DirLock::acquire(directory)?);
        if is_empty {
            // Right at the first start; else a file system may be missing that is mounted there.
            tracing::info!(storage = %storage.name, directory = %directory.display(), "begins empty");
        }
    }
    Ok(locks)
}

fn runtime() -> Result<Runtime, DaemonError> {
    Builder::new_multi_thread()
        .worker_threads(inline_commits() + FREE_WORKERS)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(DaemonError::Start)
}

/// How many commits may block a worker at once: one for every two processors, within reason.
fn inline_commits() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, MAX_INLINE_COMMITS)
}

/// What all partitions of all storages share.
///
/// # Errors
/// When DuckDB does not start.
pub(crate) fn shared(limits: &Limits, locks: &[DirLock]) -> Result<Arc<Shared>, DaemonError> {
    // Below a directory that is locked, so that no other daemon uses it.
    let base = locks.first().map_or_else(std::env::temp_dir, |lock| lock.directory().to_owned());
    let engine = Engine::open(&EngineSettings {
        memory_limit_bytes: limits.duckdb_memory_bytes,
        threads: limits.duckdb_threads,
        temp_directory: base.join("duckdb_temp"),
    })?;
    let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
    Ok(Arc::new(Shared {
        disk: RealDisk::shared(),
        scheduler: Scheduler::new(Arc::clone(&clock)),
        clock,
        engine,
        inline_slots: InlineSlots::new(inline_commits()),
        limits: limits.clone(),
        stopping: AtomicBool::new(false),
    }))
}

fn recover(
    configs: &[StorageConfig],
    shared: &Arc<Shared>,
    notifier: Notifier,
) -> Result<Vec<Arc<Storage>>, DaemonError> {
    let _more_time = notifier.more_time();
    let mut storages = Vec::new();
    for config in configs {
        let name = config.name.clone();
        notifier.status(&format!("recovering {name}, {} of {} storages", storages.len() + 1, configs.len()));
        let storage = Storage::open(config.clone(), shared)
            .map_err(|source| DaemonError::Open { storage: name, source })?;
        storages.push(Arc::new(storage));
    }
    storages.sort_by(|a, b| a.config().name.cmp(&b.config().name));
    Ok(storages)
}

/// Exports, backs up, flushes and closes every storage; the first failure is answered when all are done.
async fn end(server: &Server, engine: &Engine, notifier: Notifier) -> Result<(), DaemonError> {
    let mut result = Ok(());
    for storage in &server.storages {
        let name = storage.config().name.clone();
        if storage.config().parquet_path.is_some() && !engine.is_hurried() {
            notifier.status(&format!("stopping: exporting {name}"));
            tracing::info!(storage = %name, "exporting; a second signal to stop leaves exports and backups out");
            if let Err(error) = storage.export_touched().await
                && !engine.is_hurried()
            {
                // The data is safe without it, and the next export replaces it.
                tracing::error!(storage = %name, %error, "the export on shutdown failed");
            }
        }
        if storage.config().backup && !engine.is_hurried() {
            notifier.status(&format!("stopping: backing up {name}"));
            tracing::info!(storage = %name, "backing up");
            if let Err(error) = storage.backup_touched(None).await
                && !engine.is_hurried()
            {
                // Log and database are kept, and the next start makes up for it.
                tracing::error!(storage = %name, %error, "the backup on shutdown failed");
            }
        }
        notifier.status(&format!("stopping: flushing {name}"));
        let closed = storage.close().await.map_err(|source| DaemonError::Flush { storage: name, source });
        if result.is_ok() {
            result = closed;
        }
    }
    result
}

/// Tells a person at a terminal where the daemon listens and how to talk to it.
///
/// # Errors
/// When standard output is closed.
pub fn greet(socket: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "fastpersistd {} listens on {socket}", env!("CARGO_PKG_VERSION"))?;
    let address = match socket.strip_prefix('@') {
        Some(name) => format!("ABSTRACT-CONNECT:{name}"),
        None => format!("UNIX-CONNECT:{socket}"),
    };
    writeln!(out, "try:  echo '{{\"op\":\"ping\"}}' | socat - {address}")?;
    out.flush()
}
