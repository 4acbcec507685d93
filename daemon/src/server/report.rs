//! What `stats` and `info` say.

use fastpersist_protocol::reply::{self, array, field, write_opt_timestamp};
use fastpersist_protocol::{PROTOCOL_VERSION, json};
use std::sync::atomic::Ordering;

use super::Server;
use crate::schedule::JobKind;
use crate::stats::{self, LatencyFigures, Outcome};
use crate::storage::Storage;

/// Writes the fields of `info`.
pub(super) fn info(server: &Server, out: &mut Vec<u8>) {
    field(out, "name");
    json::write_string(out, "fastpersistd");
    field(out, "version");
    json::write_string(out, env!("CARGO_PKG_VERSION"));
    number(out, "protocol_version", u64::from(PROTOCOL_VERSION));
    number(out, "pid", u64::from(std::process::id()));
    field(out, "started_at");
    write_opt_timestamp(out, Some(server.stats.started_at()));
    field(out, "storages");
    array(out, &server.storages, |out, storage| {
        out.extend_from_slice(b"{\"name\":");
        json::write_string(out, &storage.config().name);
        field(out, "model");
        json::write_string(out, storage.config().model().as_str());
        out.push(b'}');
    });
}

/// Writes the fields of `stats`.
pub fn stats(server: &Server, out: &mut Vec<u8>) {
    field(out, "daemon");
    object(out, |out| {
        number(out, "uptime_seconds", server.stats.uptime().as_secs());
        field(out, "started_at");
        write_opt_timestamp(out, Some(server.stats.started_at()));
        number(out, "connections", server.stats.connections.load(Ordering::Relaxed) as u64);
        number(out, "max_connections", server.config.limits.max_connections as u64);
        number(out, "connections_total", server.stats.connections_total.load(Ordering::Relaxed));
        let (held, waiting) = server.locks.counts();
        number(out, "locks", held as u64);
        number(out, "lock_waiters", waiting as u64);
        number(out, "max_locks", server.config.limits.max_locks as u64);
        number(out, "memory_bytes", stats::resident_bytes());
        counts(out, "requests", &server.stats.requests());
        counts(out, "errors", &server.stats.errors());
    });
    field(out, "storages");
    out.push(b'{');
    for (index, storage) in server.storages.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(out, &storage.config().name);
        out.push(b':');
        object(out, |out| storage_stats(storage, out));
    }
    out.push(b'}');
}

fn storage_stats(storage: &Storage, out: &mut Vec<u8>) {
    let config = storage.config();
    let gauges = storage.gauges();
    let stats = storage.stats();
    field(out, "model");
    json::write_string(out, config.model().as_str());
    number(out, "open_partitions", storage.open_partitions().len() as u64);
    number(out, "cache_size", gauges.cache_records as u64);
    number(out, "cache_bytes", gauges.cache_bytes as u64);
    number(out, "cache_max_bytes", config.cache_max_bytes as u64);
    number(out, "pending_writes", gauges.pending_writes);
    number(out, "pending_bytes", gauges.pending_bytes as u64);
    number(out, "max_pending_bytes", config.max_pending_bytes as u64);
    number(out, "producers", gauges.producers as u64);
    number(out, "appended_seq", gauges.appended_seq);
    number(out, "durable_seq", gauges.durable_seq);
    number(out, "flushed_seq", gauges.flushed_seq);
    number(out, "current_wal_size", gauges.wal.active_bytes);
    number(out, "current_wal_count", gauges.wal.active_records);
    number(out, "wal_bytes", gauges.wal.total_bytes);
    number(out, "wal_files_count", gauges.wal.files_count as u64);
    number(out, "wal_sequence", gauges.wal.sequence);
    number(out, "torn_count", gauges.torn_count as u64);
    let (commits, records) = stats.commits();
    number(out, "commits", commits);
    number(out, "records", records);
    field(out, "records_per_commit");
    json::write_f64(out, if commits == 0 { 0.0 } else { records as f64 / commits as f64 });
    let (flushes, rows) = stats.flushes();
    number(out, "flushes", flushes);
    number(out, "flushed_rows", rows);
    latency(out, "fsync_latency", stats.fsync.figures());
    latency(out, "request_latency", stats.requests.figures());
    outcome(out, "last_flush", stats.jobs.last(JobKind::Flush));
    outcome(out, "last_export", stats.jobs.last(JobKind::Export));
    field(out, "read_only");
    let reason = storage.open_partitions().iter().find_map(|p| p.read_only_reason().map(str::to_owned));
    json::write_opt_string(out, reason.as_deref());
}

/// Writes an object whose fields `write` writes, each with a leading comma.
fn object(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    field(out, name);
    json::write_u64(out, value);
}

fn counts(out: &mut Vec<u8>, name: &str, counts: &[(&'static str, u64)]) {
    field(out, name);
    object(out, |out| {
        for (name, count) in counts {
            number(out, name, *count);
        }
    });
}

fn latency(out: &mut Vec<u8>, name: &str, figures: LatencyFigures) {
    field(out, name);
    object(out, |out| {
        number(out, "count", figures.count);
        number(out, "p50_us", figures.p50_us);
        number(out, "p99_us", figures.p99_us);
        number(out, "max_us", figures.max_us);
    });
}

fn outcome(out: &mut Vec<u8>, name: &str, outcome: Option<Outcome>) {
    field(out, name);
    let Some(outcome) = outcome else {
        out.extend_from_slice(b"null");
        return;
    };
    object(out, |out| {
        field(out, "at");
        write_opt_timestamp(out, Some(outcome.at));
        number(out, "duration_ms", outcome.took.as_millis() as u64);
        field(out, "ok");
        json::write_bool(out, outcome.result.is_ok());
        match outcome.result {
            Ok(rows) => number(out, "rows", rows),
            Err(error) => {
                reply::field(out, "error");
                json::write_string(out, &error);
            }
        }
    });
}
