//! The configuration as TOML has it, before it is checked. Unknown keys end here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) daemon: RawDaemon,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) metrics: RawMetrics,
    #[serde(default)]
    pub(super) access: Vec<RawAccess>,
    #[serde(default)]
    pub(super) storage: BTreeMap<String, RawStorage>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDaemon {
    pub(super) socket: Option<String>,
    pub(super) socket_mode: Option<String>,
    pub(super) socket_group: Option<String>,
    pub(super) default_role: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_dir: Option<PathBuf>,
    pub(super) max_log_files: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub(super) listen: Option<String>,
    pub(super) textfile_path: Option<PathBuf>,
    pub(super) textfile_interval_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) max_line_bytes: Option<i64>,
    pub(super) max_json_depth: Option<i64>,
    pub(super) max_connections: Option<i64>,
    pub(super) max_connections_per_uid: Option<i64>,
    pub(super) max_inflight_requests: Option<i64>,
    pub(super) max_inflight_bytes: Option<i64>,
    pub(super) max_output_bytes: Option<i64>,
    pub(super) output_stall_timeout_ms: Option<i64>,
    pub(super) max_batch_ops: Option<i64>,
    pub(super) max_query_rows: Option<i64>,
    pub(super) max_query_bytes: Option<i64>,
    pub(super) max_query_sql_bytes: Option<i64>,
    pub(super) max_concurrent_queries: Option<i64>,
    pub(super) max_concurrent_queries_per_uid: Option<i64>,
    pub(super) max_query_dates: Option<i64>,
    pub(super) max_handed_over_bytes: Option<i64>,
    pub(super) query_timeout_ms: Option<i64>,
    pub(super) max_locks: Option<i64>,
    pub(super) max_producers: Option<i64>,
    pub(super) max_subscriptions: Option<i64>,
    pub(super) max_subscriptions_per_uid: Option<i64>,
    pub(super) max_open_dates: Option<i64>,
    pub(super) busy_wait_ms: Option<i64>,
    pub(super) duckdb_memory_bytes: Option<i64>,
    pub(super) duckdb_temp_bytes: Option<i64>,
    pub(super) duckdb_threads: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccess {
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) role: String,
    pub(super) storages: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStorage {
    pub(super) model: String,
    pub(super) base_dir: Option<PathBuf>,
    pub(super) db_path: Option<String>,
    pub(super) max_wal_size: Option<i64>,
    pub(super) max_wal_age_seconds: Option<i64>,
    pub(super) batch_size: Option<i64>,
    pub(super) duckdb_flush_interval_seconds: Option<i64>,
    pub(super) wal_sync_interval_ms: Option<i64>,
    pub(super) wal_retain_days: Option<i64>,
    pub(super) max_pending_bytes: Option<i64>,
    pub(super) cache_max_bytes: Option<i64>,
    pub(super) timezone: Option<String>,
    pub(super) parquet_path: Option<PathBuf>,
    pub(super) export_at: Option<String>,
    pub(super) backup: Option<bool>,
    pub(super) backup_at: Option<String>,
    pub(super) health_check_at: Option<String>,
    pub(super) retain_days: Option<i64>,
    pub(super) record_writer: Option<bool>,
    #[serde(default)]
    pub(super) extra_schema: toml::Table,
}
