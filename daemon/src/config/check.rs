//! From what TOML says to a checked [`Config`].

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::places;
use super::raw::{RawAccess, RawConfig, RawDaemon, RawLimits, RawMetrics, RawStorage};
use super::{
    AccessRule, Config, ConfigError, DaemonConfig, Limits, LogFormat, MetricsConfig, Overrides, Role,
    SYSTEM_CONFIG, StorageConfig, Subject,
};
use crate::storage::schema::{ExtraColumn, ExtraType, Model, Schema, WRITER_COLUMNS};

const DAY_SECONDS: i64 = 86_400;
/// Far above any sensible setting, far below any overflow.
const MANY: i64 = 1 << 50;

/// Reads the configuration: the file that is named, else the system's where there is one, else the
/// embedded default of two storages.
///
/// # Errors
/// [`ConfigError`] names the file, the key, and what would be right.
pub fn load(overrides: &Overrides) -> Result<Config, ConfigError> {
    let (file, raw) = match &overrides.config {
        Some(path) => (path.display().to_string(), read(path)?),
        None if Path::new(SYSTEM_CONFIG).exists() => {
            (SYSTEM_CONFIG.to_owned(), read(Path::new(SYSTEM_CONFIG))?)
        }
        None => ("the embedded default".to_owned(), embedded_default()),
    };
    let checker = Checker { file };
    checker.config(raw, overrides)
}

fn read(path: &Path) -> Result<RawConfig, ConfigError> {
    let fail = |message: String| ConfigError { file: path.display().to_string(), message };
    let text = std::fs::read_to_string(path)
        .map_err(|error| fail(format!("the configuration cannot be read: {error}")))?;
    toml::from_str(&text).map_err(|error| fail(error.to_string().trim_end().to_owned()))
}

fn embedded_default() -> RawConfig {
    let storage = |model: &str| {
        let table = toml::Table::from_iter([("model".to_owned(), toml::Value::String(model.to_owned()))]);
        toml::Value::Table(table)
    };
    let storages = ["dated", "collection"].map(|model| (model.to_owned(), storage(model)));
    let root = [("storage".to_owned(), toml::Value::Table(toml::Table::from_iter(storages)))];
    toml::Table::from_iter(root).try_into().unwrap_or_default()
}

struct Checker {
    file: String,
}

type Checked<T> = Result<T, ConfigError>;

impl Checker {
    fn fail<T>(&self, message: impl Display) -> Checked<T> {
        Err(ConfigError { file: self.file.clone(), message: message.to_string() })
    }

    fn number(&self, key: &str, value: Option<i64>, default: i64, least: i64, most: i64) -> Checked<i64> {
        let value = value.unwrap_or(default);
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            self.fail(format!("{key} = {value} is out of range; right is from {least} to {most}"))
        }
    }

    fn config(&self, raw: RawConfig, overrides: &Overrides) -> Checked<Config> {
        let root = overrides.base_dir.clone().or_else(default_base_dir);
        let daemon = self.daemon(raw.daemon, overrides, root.as_deref())?;
        let limits = self.limits(&raw.limits)?;
        let metrics = self.metrics(raw.metrics)?;
        let mut storages = Vec::new();
        for (name, storage) in raw.storage {
            storages.push(self.storage(name, storage, root.as_deref())?);
        }
        if storages.is_empty() {
            return self.fail("no storage is configured; add [storage.NAME] with model and base_dir");
        }
        if let Some(message) = places::conflict(&storages) {
            return self.fail(message);
        }
        let access = raw.access.into_iter().enumerate();
        let access = access.map(|(index, rule)| self.access(index, rule, &storages));
        let access = access.collect::<Checked<_>>()?;
        Ok(Config { file: self.file.clone(), daemon, limits, metrics, access, storages })
    }

    fn daemon(&self, raw: RawDaemon, overrides: &Overrides, root: Option<&Path>) -> Checked<DaemonConfig> {
        let socket = overrides.socket.clone().or(raw.socket);
        let socket = socket.or_else(|| default_socket(overrides.base_dir.as_deref(), root));
        let Some(socket) = socket.filter(|socket| !socket.is_empty() && socket != "@") else {
            return self.fail("daemon.socket is not set; give a path or \"@name\"");
        };
        let mode = raw.socket_mode.unwrap_or_else(|| "0660".to_owned());
        let Some(socket_mode) = u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= 0o777) else {
            return self
                .fail(format!("daemon.socket_mode = {mode:?} is no mode; right is for example \"0660\""));
        };
        let log_level = overrides.log_level.clone().or(raw.log_level).unwrap_or_else(|| "info".to_owned());
        if !["error", "warn", "info", "debug", "trace"].contains(&log_level.as_str()) {
            return self.fail(format!(
                "daemon.log_level = {log_level:?} is unknown; right is error, warn, info, debug or trace"
            ));
        }
        let log_format = match raw.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                return self.fail(format!(
                    "daemon.log_format = {other:?} is unknown; right is \"text\" or \"json\""
                ));
            }
        };
        let default_role = self.role("daemon.default_role", raw.default_role.as_deref().unwrap_or("none"))?;
        if let Some(group) = &raw.socket_group {
            self.gid("daemon.socket_group", group)?;
        }
        Ok(DaemonConfig {
            socket,
            socket_mode,
            socket_group: raw.socket_group,
            default_role,
            log_level,
            log_format,
            log_dir: raw.log_dir,
            max_log_files: self.number("daemon.max_log_files", raw.max_log_files, 14, 2, 10_000)? as usize,
        })
    }

    fn metrics(&self, raw: RawMetrics) -> Checked<MetricsConfig> {
        let listen = match raw.listen.as_deref().map(|text| (text, text.parse::<SocketAddr>())) {
            None => None,
            Some((_, Ok(address))) if address.ip().is_loopback() => Some(address),
            Some((text, _)) => {
                return self.fail(format!(
                    "metrics.listen = {text:?} is no address of this host alone; right is for example \"127.0.0.1:9187\""
                ));
            }
        };
        if let Some(path) = &raw.textfile_path
            && path.extension().is_none_or(|extension| extension != "prom")
        {
            return self.fail(format!(
                "metrics.textfile_path = {} must end in \".prom\": no other files are read there",
                path.display()
            ));
        }
        let interval = self.number(
            "metrics.textfile_interval_seconds",
            raw.textfile_interval_seconds,
            15,
            1,
            DAY_SECONDS,
        )?;
        Ok(MetricsConfig { listen, textfile_path: raw.textfile_path, textfile_interval: seconds(interval) })
    }

    fn role(&self, key: &str, name: &str) -> Checked<Role> {
        match [Role::None, Role::Reader, Role::Writer, Role::Admin].into_iter().find(|r| r.as_str() == name) {
            Some(role) => Ok(role),
            None => self.fail(format!("{key} = {name:?} is unknown; right is none, reader, writer or admin")),
        }
    }

    fn gid(&self, key: &str, name: &str) -> Checked<u32> {
        match uzers::get_group_by_name(name) {
            Some(group) => Ok(group.gid()),
            None => self.fail(format!("{key} = {name:?}: there is no such group on this machine")),
        }
    }

    fn limits(&self, raw: &RawLimits) -> Checked<Limits> {
        let size = |key: &str, value, default, least| -> Checked<usize> {
            Ok(self.number(&format!("limits.{key}"), value, default, least, MANY)? as usize)
        };
        let millis = |key: &str, value, default, least| -> Checked<Duration> {
            Ok(Duration::from_millis(size(key, value, default, least)? as u64))
        };
        Ok(Limits {
            max_line_bytes: self.number(
                "limits.max_line_bytes",
                raw.max_line_bytes,
                1 << 20,
                1024,
                1 << 28,
            )? as usize,
            max_json_depth: self.number("limits.max_json_depth", raw.max_json_depth, 64, 2, 1000)? as usize,
            max_connections: size("max_connections", raw.max_connections, 256, 1)?,
            max_connections_per_uid: size("max_connections_per_uid", raw.max_connections_per_uid, 64, 1)?,
            max_inflight_requests: size("max_inflight_requests", raw.max_inflight_requests, 1024, 1)?,
            max_inflight_bytes: size("max_inflight_bytes", raw.max_inflight_bytes, 8 << 20, 1)?,
            max_output_bytes: size("max_output_bytes", raw.max_output_bytes, 8 << 20, 1)?,
            output_stall_timeout: millis("output_stall_timeout_ms", raw.output_stall_timeout_ms, 5_000, 1)?,
            max_batch_ops: size("max_batch_ops", raw.max_batch_ops, 10_000, 1)?,
            max_query_rows: size("max_query_rows", raw.max_query_rows, 100_000, 1)?,
            max_query_bytes: size("max_query_bytes", raw.max_query_bytes, 32 << 20, 1024)?,
            max_query_sql_bytes: size("max_query_sql_bytes", raw.max_query_sql_bytes, 64 << 10, 1)?,
            max_concurrent_queries: self.number(
                "limits.max_concurrent_queries",
                raw.max_concurrent_queries,
                4,
                1,
                1000,
            )? as usize,
            // One place is left for others.
            max_concurrent_queries_per_uid: size(
                "max_concurrent_queries_per_uid",
                raw.max_concurrent_queries_per_uid,
                3,
                1,
            )?,
            max_handed_over_bytes: size("max_handed_over_bytes", raw.max_handed_over_bytes, 1 << 30, 1 << 16)?
                as u64,
            max_query_dates: size("max_query_dates", raw.max_query_dates, 400, 1)?.min(u32::MAX as usize),
            query_timeout: millis("query_timeout_ms", raw.query_timeout_ms, 30_000, 1)?,
            max_locks: size("max_locks", raw.max_locks, 1024, 0)?,
            max_producers: size("max_producers", raw.max_producers, 10_000, 1)?,
            max_subscriptions: size("max_subscriptions", raw.max_subscriptions, 256, 0)?,
            max_subscriptions_per_uid: size(
                "max_subscriptions_per_uid",
                raw.max_subscriptions_per_uid,
                256,
                0,
            )?,
            max_open_dates: size("max_open_dates", raw.max_open_dates, 64, 1)?,
            busy_wait: millis("busy_wait_ms", raw.busy_wait_ms, 10_000, 0)?,
            duckdb_memory_bytes: size("duckdb_memory_bytes", raw.duckdb_memory_bytes, 256 << 20, 64 << 20)?
                as u64,
            duckdb_temp_bytes: size("duckdb_temp_bytes", raw.duckdb_temp_bytes, 1 << 30, 0)? as u64,
            duckdb_threads: self.number("limits.duckdb_threads", raw.duckdb_threads, 1, 1, 64)? as usize,
        })
    }

    fn access(&self, index: usize, raw: RawAccess, storages: &[StorageConfig]) -> Checked<AccessRule> {
        let key = format!("access[{index}]");
        let subject = match (&raw.user, &raw.group, raw.uid, raw.gid) {
            (Some(user), None, None, None) => match uzers::get_user_by_name(user) {
                Some(user) => Subject::Uid(user.uid()),
                None => {
                    return self
                        .fail(format!("{key}.user = {user:?}: there is no such user on this machine"));
                }
            },
            (None, Some(group), None, None) => Subject::Gid(self.gid(&format!("{key}.group"), group)?),
            (None, None, Some(uid), None) => Subject::Uid(uid),
            (None, None, None, Some(gid)) => Subject::Gid(gid),
            _ => return self.fail(format!("{key} must have exactly one of user, group, uid and gid")),
        };
        let unknown = raw.storages.iter().flatten().find(|name| !storages.iter().any(|s| s.name == **name));
        if let Some(name) = unknown {
            return self.fail(format!("{key}.storages names {name:?}, which is not configured"));
        }
        let role = self.role(&format!("{key}.role"), &raw.role)?;
        Ok(AccessRule { subject, role, storages: raw.storages })
    }

    fn storage(&self, name: String, raw: RawStorage, root: Option<&Path>) -> Checked<StorageConfig> {
        let prefix = format!("storage.{name}");
        if name.is_empty() || name.len() > fastpersist_protocol::MAX_NAME_BYTES || name.contains(['/', '\0'])
        {
            return self.fail(format!("[{prefix}]: a storage's name has 1 to 255 bytes and no '/'"));
        }
        let model = match raw.model.as_str() {
            "dated" => Model::Dated,
            "collection" => Model::Collection,
            other => {
                return self.fail(format!(
                    "{prefix}.model = {other:?} is unknown; right is \"dated\" or \"collection\""
                ));
            }
        };
        let Some(base_dir) = raw.base_dir.clone().or_else(|| root.map(|root| root.join(&name))) else {
            return self.fail(format!("{prefix}.base_dir is missing; give the directory for its files"));
        };
        let number = |key: &str, value, default, least| {
            self.number(&format!("{prefix}.{key}"), value, default, least, MANY)
        };
        let retain_days = number("retain_days", raw.retain_days, 5, 0)?;
        let default_wal_days = if model == Model::Dated { 1 } else { retain_days };
        let wal_retain_days = number("wal_retain_days", raw.wal_retain_days, default_wal_days, 0)?;
        let time = |key: &str, value: &Option<String>| {
            self.time_of_day(&format!("{prefix}.{key}"), value.as_deref())
        };
        Ok(StorageConfig {
            schema: self.schema(&prefix, model, raw.extra_schema, raw.record_writer.unwrap_or(false))?,
            db_path: self.db_path(&prefix, raw.db_path)?,
            max_wal_size: number("max_wal_size", raw.max_wal_size, 10_485_760, 1)? as u64,
            max_wal_age: seconds(number("max_wal_age_seconds", raw.max_wal_age_seconds, 300, 1)?),
            batch_size: number("batch_size", raw.batch_size, 1000, 1)? as u64,
            flush_interval: seconds(number(
                "duckdb_flush_interval_seconds",
                raw.duckdb_flush_interval_seconds,
                30,
                1,
            )?),
            wal_sync_interval: Duration::from_millis(number(
                "wal_sync_interval_ms",
                raw.wal_sync_interval_ms,
                100,
                1,
            )? as u64),
            wal_retain: seconds(wal_retain_days.min(MANY / DAY_SECONDS) * DAY_SECONDS),
            max_pending_bytes: number("max_pending_bytes", raw.max_pending_bytes, 268_435_456, 1)? as usize,
            cache_max_bytes: number("cache_max_bytes", raw.cache_max_bytes, 0, 0)? as usize,
            timezone: self.timezone(&prefix, raw.timezone.as_deref().unwrap_or("UTC"))?,
            parquet_path: raw.parquet_path,
            export_at: time("export_at", &raw.export_at)?,
            backup: raw.backup.unwrap_or(model == Model::Collection),
            backup_at: time("backup_at", &raw.backup_at)?,
            health_check_at: time("health_check_at", &raw.health_check_at)?,
            retain_days: retain_days.min(i64::from(u32::MAX)) as u32,
            name,
            base_dir,
        })
    }

    fn db_path(&self, prefix: &str, path: Option<String>) -> Checked<String> {
        let path = path.unwrap_or_else(|| "data.duckdb".to_owned());
        let plain = |path: &Path| path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if Path::new(&path).is_absolute() {
            if !path.contains("{date}") {
                return self
                    .fail(format!("{prefix}.db_path = {path:?} is absolute and must contain {{date}}"));
            }
        } else if path.is_empty() || !plain(Path::new(&path)) {
            return self
                .fail(format!("{prefix}.db_path = {path:?} must be a name below the date's directory"));
        }
        let mut names = Path::new(&path).components().map(|part| part.as_os_str().to_string_lossy());
        if names.any(|name| is_taken(&name)) {
            return self.fail(format!(
                "{prefix}.db_path = {path:?} is a name that the daemon gives other files; right is for example \"data.duckdb\""
            ));
        }
        Ok(path)
    }

    fn timezone(&self, prefix: &str, name: &str) -> Checked<chrono_tz::Tz> {
        name.parse().or_else(|_| {
            self.fail(format!(
                "{prefix}.timezone = {name:?} is unknown; right is for example \"Europe/Berlin\""
            ))
        })
    }

    fn time_of_day(&self, key: &str, text: Option<&str>) -> Checked<Option<chrono::NaiveTime>> {
        let Some(text) = text else { return Ok(None) };
        match chrono::NaiveTime::parse_from_str(text, "%H:%M") {
            Ok(time) => Ok(Some(time)),
            Err(_) => {
                self.fail(format!("{key} = {text:?} is no time of day; right is for example \"03:30\""))
            }
        }
    }

    fn schema(&self, prefix: &str, model: Model, extra: toml::Table, record_writer: bool) -> Checked<Schema> {
        let extra = self.extra_schema(prefix, model, extra)?;
        let is_writer = |name: &str| WRITER_COLUMNS.iter().any(|column| column.eq_ignore_ascii_case(name));
        match extra.iter().find(|column| record_writer && is_writer(&column.name)) {
            Some(ExtraColumn { name, .. }) => self.fail(format!(
                "{prefix}.extra_schema.{name}: {prefix}.record_writer = true makes a column of that name already"
            )),
            None => Ok(Schema { model, extra, record_writer }),
        }
    }

    fn extra_schema(&self, prefix: &str, model: Model, table: toml::Table) -> Checked<Vec<ExtraColumn>> {
        let mut columns: Vec<ExtraColumn> = Vec::new();
        for (name, kind) in table {
            let key = format!("{prefix}.extra_schema.{name}");
            let same = |other: &str| other.eq_ignore_ascii_case(&name);
            // DuckDB has a column `rowid` of its own in every table.
            if model.columns().iter().any(|column| same(column)) || same("date") || same("rowid") {
                return self.fail(format!("{key}: every {model} table has a column of that name already"));
            }
            if columns.iter().any(|column| same(&column.name)) {
                return self.fail(format!("{key} stands twice; column names differ by more than case"));
            }
            if name.is_empty() || name.contains('\0') {
                return self.fail(format!("{key}: a column needs a name"));
            }
            let type_name = kind.as_str().unwrap_or_default();
            let Some(kind) = ExtraType::from_name(type_name) else {
                let names = ExtraType::NAMES.join(", ");
                return self.fail(format!("{key} = {kind}: unknown type; right is one of {names}"));
            };
            columns.push(ExtraColumn { name, kind, type_name: type_name.to_owned() });
        }
        Ok(columns)
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count as u64)
}

fn default_base_dir() -> Option<PathBuf> {
    let not_empty = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = not_empty("XDG_STATE_HOME").or_else(|| Some(not_empty("HOME")?.join(".local/state")))?;
    Some(state.join("fastpersistd"))
}

fn default_socket(given_base_dir: Option<&Path>, root: Option<&Path>) -> Option<String> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    let path = match (given_base_dir, runtime) {
        (Some(base_dir), _) => base_dir.join("fastpersistd.sock"),
        (None, Some(runtime)) => PathBuf::from(runtime).join("fastpersistd/fastpersistd.sock"),
        (None, None) => root?.join("fastpersistd.sock"),
    };
    Some(path.to_string_lossy().into_owned())
}

/// Whether the daemon or DuckDB makes other files of that name beside a database.
fn is_taken(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["settled", "exported", "log_removed_through", "losses.jsonl", "backup.json", "lock_tokens"];
    const BEGINNINGS: [&str; 2] = ["torn-", "damaged-"];
    const ENDINGS: [&str; 8] = [".wal", ".jsonl", ".lock", ".tmp", ".new", ".next", ".opening", ".suspect"];
    NAMES.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || name.contains(".damaged")
}
