//! The checked configuration: every limit and every default of the daemon has its name here.
//!
//! [`load`] reads TOML, command-line overrides win over it, defaults fill the rest. What comes out is
//! checked: later stages take it as it is.
//!
//! Invariant: no two storages share a directory or a database file.

mod changes;
mod check;
mod places;
mod raw;
mod summary;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;

pub use check::load;

use crate::storage::schema::{Model, Schema};

/// Where the configuration is looked for when no file is named.
pub const SYSTEM_CONFIG: &str = "/etc/fastpersistd/config.toml";

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--base-dir`
    pub base_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// What is wrong with the configuration, for a person to mend.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {message}")]
pub struct ConfigError {
    /// The file, or where else the value came from.
    pub file: String,
    /// Which key, what is wrong, and what would be right.
    pub message: String,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file from which it was read, or what stands for one.
    pub file: String,
    /// `[daemon]`
    pub daemon: DaemonConfig,
    /// `[limits]`
    pub limits: Limits,
    /// `[metrics]`
    pub metrics: MetricsConfig,
    /// `[[access]]`, in order.
    pub access: Vec<AccessRule>,
    /// `[storage.NAME]`, sorted by name.
    pub storages: Vec<StorageConfig>,
}

impl Config {
    /// Whether any storage keeps where its records came from.
    pub fn records_writers(&self) -> bool {
        self.storages.iter().any(|storage| storage.schema.record_writer)
    }
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The socket: a path, or `@name` in the abstract namespace.
    pub socket: String,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// The socket's group.
    pub socket_group: Option<String>,
    /// What somebody may do whom no rule names.
    pub default_role: Role,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where log files go; standard error when there is none.
    pub log_dir: Option<PathBuf>,
    /// Daily log files that are kept.
    pub max_log_files: usize,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where metrics are served over HTTP; only addresses of this host.
    pub listen: Option<SocketAddr>,
    /// The file for `node_exporter`'s textfile collector; its name ends in `.prom`.
    pub textfile_path: Option<PathBuf>,
    /// How often that file is written anew.
    pub textfile_interval: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What somebody may do; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing.
    None,
    /// Read.
    Reader,
    /// Read, write and flush.
    Writer,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's name in configuration and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest request line.
    pub max_line_bytes: usize,
    /// The deepest nesting of a request.
    pub max_json_depth: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once of one user.
    pub max_connections_per_uid: usize,
    /// Requests of one connection that are worked on at once.
    pub max_inflight_requests: usize,
    /// Bytes of requests of one connection that are worked on at once.
    pub max_inflight_bytes: usize,
    /// Answers that wait for one client to read them.
    pub max_output_bytes: usize,
    /// How long a client over that limit may read nothing before it is disconnected.
    pub output_stall_timeout: Duration,
    /// Operations in one batch.
    pub max_batch_ops: usize,
    /// Rows that one query may return.
    pub max_query_rows: usize,
    /// Bytes of rows that one query may return.
    pub max_query_bytes: usize,
    /// The longest SQL.
    pub max_query_sql_bytes: usize,
    /// Queries that run at once.
    pub max_concurrent_queries: usize,
    /// Queries of one user that run at once.
    pub max_concurrent_queries_per_uid: usize,
    /// Dates that queries may have attached at once, beside those that are open.
    pub max_query_dates: usize,
    /// Bytes of results that are handed over as memory and that clients have not closed, together.
    pub max_handed_over_bytes: u64,
    /// How long one query may run.
    pub query_timeout: Duration,
    /// Locks at once.
    pub max_locks: usize,
    /// Producers that each partition remembers.
    pub max_producers: usize,
    /// Subscriptions at once.
    pub max_subscriptions: usize,
    /// Subscriptions of one user at once.
    pub max_subscriptions_per_uid: usize,
    /// Dates of one dated storage that are open at once.
    pub max_open_dates: usize,
    /// How long a writer waits for room in memory before it is told `busy`.
    pub busy_wait: Duration,
    /// What DuckDB may use for its buffers.
    pub duckdb_memory_bytes: u64,
    /// What DuckDB may spill to disk.
    pub duckdb_temp_bytes: u64,
    /// DuckDB's threads.
    pub duckdb_threads: usize,
}

/// One `[[access]]` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Whom it is about.
    pub subject: Subject,
    /// What they may do.
    pub role: Role,
    /// On which storages; `None` is all.
    pub storages: Option<Vec<String>>,
}

/// Whom an access rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One user.
    Uid(u32),
    /// Everybody with this primary or supplementary group.
    Gid(u32),
}

/// `[storage.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct StorageConfig {
    /// The storage's name.
    pub name: String,
    /// Model and extra columns.
    pub schema: Schema,
    /// The storage's own directory.
    pub base_dir: PathBuf,
    /// Dated: the database file of a date; relative to its directory, or absolute with `{date}` in it.
    pub db_path: String,
    /// Bytes before a WAL segment is sealed.
    pub max_wal_size: u64,
    /// Age at which a WAL segment is sealed.
    pub max_wal_age: Duration,
    /// Records before a flush is started.
    pub batch_size: u64,
    /// The longest time between a write and its flush.
    pub flush_interval: Duration,
    /// The longest time between a buffered write and its fdatasync.
    pub wal_sync_interval: Duration,
    /// How long flushed WAL segments stay.
    pub wal_retain: Duration,
    /// Unflushed records in memory.
    pub max_pending_bytes: usize,
    /// Flushed records in memory; 0 is all.
    pub cache_max_bytes: usize,
    /// The clock by which days begin.
    pub timezone: Tz,
    /// The root for Parquet files.
    pub parquet_path: Option<PathBuf>,
    /// When Parquet is exported each day.
    pub export_at: Option<chrono::NaiveTime>,
    /// Whether backups are taken: of a collection unless it is switched off, of a dated storage where it is
    /// switched on.
    pub backup: bool,
    /// When a backup is made each day, beside the one at the turn of the day.
    pub backup_at: Option<chrono::NaiveTime>,
    /// When health is checked each day.
    pub health_check_at: Option<chrono::NaiveTime>,
    /// Days of backups.
    pub retain_days: u32,
}

impl StorageConfig {
    /// The database files of a partition; `date` is given for a dated storage.
    pub fn database_path(&self, date: &str) -> PathBuf {
        let path = self.db_path.replace("{date}", date);
        if Path::new(&path).is_absolute() { path.into() } else { self.base_dir.join(date).join(path) }
    }

    /// The directories below which all its database files are.
    pub fn database_directories(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.base_dir.clone()];
        let path = Path::new(&self.db_path);
        if path.is_absolute() {
            let has_date =
                |part: &std::path::Component<'_>| part.as_os_str().to_string_lossy().contains("{date}");
            directories.push(path.components().take_while(|part| !has_date(part)).collect());
        }
        directories
    }

    /// The storage's model.
    pub fn model(&self) -> Model {
        self.schema.model
    }
}

#[cfg(test)]
mod tests;
