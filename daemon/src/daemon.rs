//! The life of the process, in one readable function: lock, recover, bind, serve, drain, flush, export,
//! unlock.
//!
//! Invariant: nothing in a storage's directory is touched before its lock is held, and the locks are
//! the last thing to go.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::clock::{Clock, RealClock};
use crate::config::{self, Config, Limits, Overrides, StorageConfig};
use crate::dir_lock::{DirLock, LockError};
use crate::disk::{self, RealDisk};
use crate::duck::{DuckError, Engine, EngineSettings};
use crate::locks::{LockTable, TokenError};
use crate::schedule::Scheduler;
use crate::server::Server;
use crate::server::access::AccessTable;
use crate::server::listener::{BindError, Socket};
use crate::stats::DaemonStats;
use crate::storage::Storage;
use crate::storage::partition::{FlushError, OpenError, Shared};
use crate::wal::commit::InlineSlots;

/// Threads of the runtime that are never blocked by a commit, so that readers always have one. On two
/// processors one more thread made no more writes, in a few noisy runs 4 to 8 % fewer.
const FREE_WORKERS: usize = 1;
/// Threads of the runtime that commits may block, at most.
const MAX_INLINE_COMMITS: usize = 4;
/// What others than owner and group may do with the files in a storage's directory: nothing. Who may read
/// the data is for `[[access]]` to say. The directory itself stays open, for the socket may stand beside it.
const FILE_MODE_MASK: u32 = 0o027;

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
            Self::Lock(_) | Self::Open { .. } | Self::Tokens(_) | Self::Bind(_) => 78,
            Self::Duck(_) | Self::Start(_) | Self::Flush { .. } => 1,
        }
    }
}

/// Runs the daemon until it is told to stop. `on_ready` is called once it answers requests; `overrides` are
/// what the configuration was loaded with, and is again on SIGHUP.
///
/// # Errors
/// See [`DaemonError`]; [`DaemonError::exit_code`] says what the process should exit with.
pub fn run(config: Config, overrides: Overrides, on_ready: impl FnOnce(&str)) -> Result<(), DaemonError> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(DaemonError::Start)?;
    let locks = lock(&config.storages)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(FILE_MODE_MASK));
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let shared = shared(&config.limits, &locks)?;
    let storages = recover(&config.storages, &shared)?;
    let directories = config.storages.iter().map(|storage| storage.base_dir.as_path());
    let (clock, max_locks) = (Arc::clone(&shared.clock), config.limits.max_locks);
    let lock_table = LockTable::open(&shared.disk, directories, clock, max_locks)?;
    let socket = Socket::bind(&config.daemon)?;
    let (stop, stopping) = watch::channel(false);
    let server = Arc::new(Server {
        access: RwLock::new(AccessTable::new(&config)),
        storages,
        stats: DaemonStats::default(),
        locks: lock_table,
        stopping: stopping.clone(),
        config,
    });
    let hurry = Arc::new(AtomicBool::new(false));
    let listener = Listener::spawn(signals, stop, Arc::clone(&hurry), Arc::clone(&server), overrides)?;
    on_ready(socket.name());
    runtime.block_on(async {
        server.storages.iter().for_each(Storage::start_jobs);
        socket.serve(&server, stopping).await;
        shared.stopping.store(true, Ordering::Relaxed);
        shared.scheduler.stop().await;
    });
    let ended = runtime.block_on(end(&server, &hurry));
    listener.close();
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(locks);
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
        locks.push(DirLock::acquire(directory)?);
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

fn shared(limits: &Limits, locks: &[DirLock]) -> Result<Arc<Shared>, DaemonError> {
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

fn recover(configs: &[StorageConfig], shared: &Arc<Shared>) -> Result<Vec<Arc<Storage>>, DaemonError> {
    let mut storages = Vec::new();
    for config in configs {
        let name = config.name.clone();
        let storage = Storage::open(config.clone(), shared)
            .map_err(|source| DaemonError::Open { storage: name, source })?;
        storages.push(Arc::new(storage));
    }
    storages.sort_by(|a, b| a.config().name.cmp(&b.config().name));
    Ok(storages)
}

/// Exports, flushes and closes every storage; the first failure is answered when all are done.
async fn end(server: &Server, hurry: &AtomicBool) -> Result<(), DaemonError> {
    let mut result = Ok(());
    for storage in &server.storages {
        let name = storage.config().name.clone();
        if storage.config().parquet_path.is_some() && !hurry.load(Ordering::Relaxed) {
            let exported = match storage.parquet_root(None) {
                Ok(root) => storage.export_touched(root).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = exported {
                // The data is safe without it, and the next export replaces it.
                tracing::error!(storage = %name, %error, "the export on shutdown failed");
            }
        }
        let closed = storage.close().await.map_err(|source| DaemonError::Flush { storage: name, source });
        if result.is_ok() {
            result = closed;
        }
    }
    result
}

/// The thread that waits for signals.
struct Listener {
    handle: signal_hook::iterator::Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Listener {
    fn spawn(
        mut signals: Signals,
        stop: watch::Sender<bool>,
        hurry: Arc<AtomicBool>,
        server: Arc<Server>,
        overrides: Overrides,
    ) -> Result<Self, DaemonError> {
        let handle = signals.handle();
        let runtime = Handle::current();
        let listen = move || {
            for signal in signals.forever() {
                match signal {
                    SIGTERM | SIGINT if *stop.borrow() => {
                        tracing::info!("told to stop a second time: no export any more");
                        hurry.store(true, Ordering::Relaxed);
                    }
                    SIGTERM | SIGINT => {
                        tracing::info!("stopping");
                        // The server holds a receiver, so somebody always hears it.
                        let _ = stop.send(true);
                    }
                    SIGUSR1 => runtime.block_on(async { log_stats(&server) }),
                    _ => reload(&server, &overrides),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(listen);
        Ok(Self { handle, thread: thread.map_err(DaemonError::Start)? })
    }

    fn close(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}

/// Reads the configuration again. Who may do what changes at once; everything else needs a restart, and
/// when it differs, nothing changes at all.
fn reload(server: &Server, overrides: &Overrides) {
    let new = match config::load(overrides) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(%error, "the configuration was read again and is wrong; the old one stays");
            return;
        }
    };
    let fixed = server.config.fixed_keys_changed(&new);
    if fixed.is_empty() {
        *server.access.write() = AccessTable::new(&new);
        tracing::info!("the configuration was read again; access is as it says now");
    } else {
        let keys = fixed.join(", ");
        tracing::error!(%keys, "the configuration was read again, but these cannot change while running; the old one stays");
    }
}

fn log_stats(server: &Server) {
    let mut line = Vec::new();
    fastpersist_protocol::reply::begin_ok(&mut line, None);
    crate::server::write_stats(server, &mut line);
    fastpersist_protocol::reply::end(&mut line);
    tracing::info!(stats = %String::from_utf8_lossy(&line).trim_end(), "asked by a signal");
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
