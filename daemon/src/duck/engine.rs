//! The one DuckDB instance of the daemon, and what it may do.
//!
//! Invariant: the instance reaches nothing outside by itself. It installs and loads no extension, reads no
//! stored secret, and makes a checkpoint only when it is told to. Once it is [locked down](Engine::lock_down), it
//! reaches no file but those of the storages.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use duckdb::{Config, Connection};
use parking_lot::Mutex;

use super::error::DuckError;
use super::hurry::Hurry;
use super::query::{Borrowing, Runnings};

/// What the instance is given.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// DuckDB's own bound for its buffers; the process needs more than that.
    pub memory_limit_bytes: u64,
    /// Threads that work on one statement, the caller's among them.
    pub threads: usize,
    /// Where sorts and joins spill what does not fit.
    pub temp_directory: PathBuf,
}

/// Settings that are the same for every daemon.
///
/// A checkpoint may take long and may fail, so it is never a side effect of a commit or of closing: the
/// threshold is out of reach. The order of rows in a table means nothing here, and keeping it costs memory.
/// Long texts need 64-bit offsets: 2,048 documents of 1 MiB do not fit 32.
/// The row group pruner (1.5.6) counts rows of a transaction that is just being committed: an ORDER BY … LIMIT that
/// runs meanwhile leaves out the groups before them, and finds less than there is, or nothing.
const SETTINGS: &str = "
    SET GLOBAL allow_community_extensions = false;
    SET GLOBAL autoinstall_known_extensions = false;
    SET GLOBAL autoload_known_extensions = false;
    SET GLOBAL allow_persistent_secrets = false;
    SET GLOBAL checkpoint_threshold = '1000TB';
    PRAGMA disable_checkpoint_on_shutdown;
    SET GLOBAL preserve_insertion_order = false;
    SET GLOBAL arrow_large_buffer_size = true;
    SET GLOBAL disabled_optimizers = 'row_group_pruner';
";

/// How long attaching waits for a file that another connection's transaction still holds, and how it looks again.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

static VERSION: OnceLock<String> = OnceLock::new();

/// DuckDB's version, such as `v1.5.6`; empty before an engine was opened.
pub fn library_version() -> &'static str {
    VERSION.get().map_or("", String::as_str)
}

/// One in-memory DuckDB instance, to which every storage's files are attached.
#[derive(Debug)]
pub struct Engine {
    base: Mutex<Connection>,
    memory_limit_bytes: u64,
    next_alias: AtomicU64,
    pub(super) hurry: Hurry,
    /// What messages to clients must not tell.
    directories: OnceLock<Vec<String>>,
    borrowing: Borrowing,
    runnings: Runnings,
}

impl Engine {
    /// Starts the instance.
    ///
    /// # Errors
    /// [`DuckError::Start`] when DuckDB refuses a setting, [`DuckError::Path`] for a temporary directory
    /// whose name is not UTF-8.
    pub fn open(settings: &EngineSettings) -> Result<Arc<Self>, DuckError> {
        let temp_directory = utf8(&settings.temp_directory)?;
        let open = || {
            let config = Config::default()
                .with("memory_limit", format!("{}B", settings.memory_limit_bytes))?
                .with("threads", settings.threads.max(1).to_string())?
                .with("temp_directory", temp_directory)?;
            let base = Connection::open_in_memory_with_flags(config)?;
            base.execute_batch(SETTINGS)?;
            // The same for every engine of the process.
            let _ = VERSION.set(base.version()?);
            Ok(base)
        };
        let base = open().map_err(|source| DuckError::Start { source: Box::new(source) })?;
        Ok(Arc::new(Self {
            base: Mutex::new(base),
            memory_limit_bytes: settings.memory_limit_bytes,
            next_alias: AtomicU64::new(1),
            hurry: Hurry::default(),
            directories: OnceLock::new(),
            borrowing: Borrowing::default(),
            runnings: Runnings::default(),
        }))
    }

    /// Shuts SQL in for good: from now on only files below `directories` can be reached, spilling has a bound,
    /// and no setting can be changed but the two that the daemon itself changes.
    ///
    /// # Errors
    /// [`DuckError::Start`] when DuckDB refuses a setting, [`DuckError::Path`] for a directory whose name is not
    /// UTF-8.
    pub fn lock_down(&self, directories: &[PathBuf], max_temp_bytes: u64) -> Result<(), DuckError> {
        let mut names = Vec::with_capacity(directories.len());
        for directory in directories {
            let absolute = std::path::absolute(directory);
            let absolute = absolute.map_err(|_| DuckError::Path { path: directory.clone() })?;
            names.push(utf8(&absolute)?.to_owned());
        }
        let list = names.iter().map(|name| quote_text(name)).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SET GLOBAL max_temp_directory_size = '{max_temp_bytes}B';
             SET GLOBAL allowed_directories = [{list}];
             SET GLOBAL enable_external_access = false;
             SET GLOBAL allowed_configs = ['memory_limit', 'arrow_lossless_conversion'];
             SET GLOBAL lock_configuration = true;"
        );
        let locked = self.base.lock().execute_batch(&sql);
        locked.map_err(|source| DuckError::Start { source: Box::new(source) })?;
        // Set once, at the start.
        let _ = self.directories.set(names);
        Ok(())
    }

    /// A message of DuckDB's without the directories in it: a client has no use for them.
    pub(super) fn without_paths(&self, message: &str) -> String {
        let directories = self.directories.get().map(Vec::as_slice).unwrap_or_default();
        directories.iter().fold(message.to_owned(), |message, directory| message.replace(directory, "…"))
    }

    /// Files that are attached for queries.
    pub fn borrowing(&self) -> &Borrowing {
        &self.borrowing
    }

    /// Queries that run.
    pub fn runnings(&self) -> &Runnings {
        &self.runnings
    }

    /// Lets go of blocks that are only cached. A large flush leaves the whole limit full of them, and nobody
    /// reads them: reads by key come from the daemon's memory.
    pub fn release_cache(&self) {
        let base = self.base.lock();
        for limit in [self.memory_limit_bytes / 4, self.memory_limit_bytes] {
            // While something large is in use the lower limit is refused, and the old one stays.
            let _ = base.execute_batch(&format!("SET GLOBAL memory_limit = '{limit}B'"));
        }
    }

    /// Lets go of every block that is cached and not in use, so that what is read next comes from the file.
    pub(super) fn forget_blocks(&self) {
        let base = self.base.lock();
        // No limit can be that low: DuckDB gives back what it can, refuses, and the limit stays as it was.
        let _ = base.execute_batch("SET GLOBAL memory_limit = '1B'");
        let _ = base.execute_batch(&format!("SET GLOBAL memory_limit = '{}B'", self.memory_limit_bytes));
    }

    /// A connection of its own; transactions and temporary tables are a connection's.
    pub(super) fn connect(&self) -> Result<Connection, DuckError> {
        self.base.lock().try_clone().map_err(|source| DuckError::Start { source: Box::new(source) })
    }

    /// A name under which no file is attached yet.
    pub(super) fn new_alias(&self) -> String {
        format!("store_{}", self.next_alias.fetch_add(1, Ordering::Relaxed))
    }

    /// Attaches a file, which is made if it is not there. Queries that have it attached are ended first.
    pub(super) fn attach(&self, path: &Path, alias: &str) -> Result<(), DuckError> {
        self.borrowing.reclaim(path)?;
        self.attach_as(path, alias, "")
    }

    /// Attaches a file that is there and is only read. Queries that have it attached are ended first.
    pub(super) fn attach_read_only(&self, path: &Path, alias: &str) -> Result<(), DuckError> {
        self.borrowing.reclaim(path)?;
        self.attach_for_query(path, alias)
    }

    /// Like [`attach_read_only`](Self::attach_read_only), for whoever keeps the list of those queries.
    pub(super) fn attach_for_query(&self, path: &Path, alias: &str) -> Result<(), DuckError> {
        self.attach_as(path, alias, ", READ_ONLY")
    }

    /// A file that was detached stays with DuckDB as long as a transaction takes part in it, and one that has
    /// looked through `duckdb_columns()` takes part in every file that was attached then. That passes.
    fn attach_as(&self, path: &Path, alias: &str, option: &str) -> Result<(), DuckError> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_attach(path, alias, option) {
                Err(error @ DuckError::InUse { .. }) if error.is_held() => {
                    if begun.elapsed() >= ATTACH_PATIENCE {
                        return Err(error);
                    }
                }
                result => return result,
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Attaches a file if that is possible now.
    pub(super) fn try_attach(&self, path: &Path, alias: &str, option: &str) -> Result<(), DuckError> {
        // A relative path may look like an extension's prefix (`sqlite:x`) or a URL; an absolute one cannot.
        let absolute = std::path::absolute(path).map_err(|_| DuckError::Path { path: path.to_owned() })?;
        let sql = format!("ATTACH {} AS {alias} (TYPE duckdb{option})", quote_text(utf8(&absolute)?));
        let attached = self.base.lock().execute_batch(&sql);
        attached.map_err(|source| DuckError::opening(path, source))
    }

    /// Detaches a file; one that is not attached is no error.
    pub(super) fn detach(&self, path: &Path, alias: &str) -> Result<(), DuckError> {
        let failed = |source| DuckError::Sql {
            file: path.to_owned(),
            action: "detaching the file",
            source: Box::new(source),
        };
        self.base.lock().execute_batch(&format!("DETACH DATABASE IF EXISTS {alias}")).map_err(failed)
    }
}

fn utf8(path: &Path) -> Result<&str, DuckError> {
    path.to_str().ok_or_else(|| DuckError::Path { path: path.to_owned() })
}

/// A text as an SQL literal.
fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
