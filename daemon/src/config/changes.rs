//! What differs between two configurations, by the names that a person knows.

use super::{Config, StorageConfig};

/// Compares fields that have the same name in configuration and code, or are given as `key => field`.
macro_rules! compare {
    ($prefix:expr, $old:expr, $new:expr, $out:expr; $($key:literal => $field:ident),* $(,)?) => {
        $(if $old.$field != $new.$field {
            $out.push(format!("{}.{}", $prefix, $key));
        })*
    };
}

impl Config {
    /// The keys that differ in `new` and cannot change while the daemon runs. Only `[[access]]`,
    /// `daemon.default_role` and `daemon.log_level` can.
    pub fn fixed_keys_changed(&self, new: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        compare!("daemon", self.daemon, new.daemon, changed;
            "socket" => socket, "socket_mode" => socket_mode, "socket_group" => socket_group,
            "log_format" => log_format, "log_dir" => log_dir, "max_log_files" => max_log_files);
        compare!("metrics", self.metrics, new.metrics, changed;
            "listen" => listen, "textfile_path" => textfile_path,
            "textfile_interval_seconds" => textfile_interval);
        compare!("limits", self.limits, new.limits, changed;
            "max_line_bytes" => max_line_bytes, "max_json_depth" => max_json_depth,
            "max_connections" => max_connections, "max_connections_per_uid" => max_connections_per_uid,
            "max_inflight_requests" => max_inflight_requests, "max_inflight_bytes" => max_inflight_bytes,
            "max_output_bytes" => max_output_bytes, "output_stall_timeout_ms" => output_stall_timeout,
            "max_batch_ops" => max_batch_ops, "max_query_rows" => max_query_rows,
            "max_query_bytes" => max_query_bytes, "max_query_sql_bytes" => max_query_sql_bytes,
            "max_concurrent_queries" => max_concurrent_queries,
            "max_concurrent_queries_per_uid" => max_concurrent_queries_per_uid, "max_query_dates" => max_query_dates,
            "max_handed_over_bytes" => max_handed_over_bytes,
            "query_timeout_ms" => query_timeout, "max_locks" => max_locks,
            "max_producers" => max_producers,
            "max_subscriptions" => max_subscriptions,
            "max_subscriptions_per_uid" => max_subscriptions_per_uid, "max_open_dates" => max_open_dates,
            "busy_wait_ms" => busy_wait, "duckdb_memory_bytes" => duckdb_memory_bytes,
            "duckdb_temp_bytes" => duckdb_temp_bytes, "duckdb_threads" => duckdb_threads);
        for old in &self.storages {
            match new.storages.iter().find(|storage| storage.name == old.name) {
                Some(new) => old.keys_changed(new, &mut changed),
                None => changed.push(format!("storage.{} (removed)", old.name)),
            }
        }
        let is_new = |storage: &&StorageConfig| !self.storages.iter().any(|old| old.name == storage.name);
        changed.extend(new.storages.iter().filter(is_new).map(|s| format!("storage.{} (added)", s.name)));
        changed
    }
}

impl StorageConfig {
    fn keys_changed(&self, new: &Self, changed: &mut Vec<String>) {
        let prefix = format!("storage.{}", self.name);
        if self.schema.model != new.schema.model {
            changed.push(format!("{prefix}.model"));
        }
        if self.schema.extra != new.schema.extra {
            changed.push(format!("{prefix}.extra_schema"));
        }
        if self.schema.record_writer != new.schema.record_writer {
            changed.push(format!("{prefix}.record_writer"));
        }
        compare!(prefix, self, new, changed;
            "base_dir" => base_dir, "db_path" => db_path, "max_wal_size" => max_wal_size,
            "max_wal_age_seconds" => max_wal_age, "batch_size" => batch_size,
            "duckdb_flush_interval_seconds" => flush_interval, "wal_sync_interval_ms" => wal_sync_interval,
            "wal_retain_days" => wal_retain, "max_pending_bytes" => max_pending_bytes,
            "cache_max_bytes" => cache_max_bytes, "timezone" => timezone, "parquet_path" => parquet_path,
            "export_at" => export_at, "backup" => backup, "backup_at" => backup_at, "health_check_at" => health_check_at,
            "retain_days" => retain_days);
    }
}
