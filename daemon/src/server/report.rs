//! What `stats` and `info` say.

use fastpersist_protocol::reply::{self, array, field, write_opt_timestamp};
use fastpersist_protocol::{PROTOCOL_VERSION, json};
use std::sync::atomic::Ordering;

use super::Server;
use crate::metrics::{self, Format};
use crate::schedule::{JobKind, JobReport};
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
        number(out, "subscriptions", server.stats.subscriptions.load(Ordering::Relaxed) as u64);
        number(out, "max_subscriptions", server.config.limits.max_subscriptions as u64);
        let queries = server.queries.load();
        number(out, "queries", queries.running as u64);
        number(out, "max_concurrent_queries", server.config.limits.max_concurrent_queries as u64);
        number(out, "handed_over_bytes", queries.handed_over_bytes);
        number(out, "max_handed_over_bytes", server.config.limits.max_handed_over_bytes);
        let (held, waiting) = server.locks.counts();
        number(out, "locks", held as u64);
        number(out, "lock_waiters", waiting as u64);
        number(out, "max_locks", server.config.limits.max_locks as u64);
        number(out, "memory_bytes", stats::resident_bytes());
        counts(out, "requests", &server.stats.requests.by_op());
        counts(out, "errors", &server.stats.requests.by_error());
    });
    field(out, "storages");
    out.push(b'{');
    for (index, storage) in server.storages.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(out, &storage.config().name);
        out.push(b':');
        object(out, |out| storage_stats(server, storage, out));
    }
    out.push(b'}');
}

fn storage_stats(server: &Server, storage: &Storage, out: &mut Vec<u8>) {
    let jobs = &server.jobs(storage);
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
    number(out, "max_producers", server.config.limits.max_producers as u64);
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
    outcome(out, "last_backup", stats.jobs.last(JobKind::Backup));
    let job = |kind| jobs.iter().find(|job| job.kind == kind);
    for kind in [JobKind::Retention, JobKind::HealthCheck] {
        outcome(out, &format!("last_{}", kind.as_str()), job(kind).and_then(|job| job.last.clone()));
    }
    for kind in JobKind::SHOWN {
        field(out, &format!("next_{}", kind.as_str()));
        write_opt_timestamp(out, job(kind).and_then(|job| job.next_at));
    }
    field(out, "verified_backup");
    match stats.verified_backup() {
        None => out.extend_from_slice(b"null"),
        Some(backup) => object(out, |out| {
            number(out, "seq", backup.seq);
            field(out, "at");
            write_opt_timestamp(out, Some(backup.at));
        }),
    }
    field(out, "schedule");
    schedule(jobs, out);
    field(out, "read_only");
    let reason = storage.read_only_reason();
    json::write_opt_string(out, reason.as_deref());
}

/// Writes the jobs, each with how it last ended and when it runs next.
fn schedule(jobs: &[JobReport], out: &mut Vec<u8>) {
    object(out, |out| {
        for job in jobs {
            field(out, job.kind.as_str());
            object(out, |out| {
                field(out, "running");
                json::write_bool(out, job.running);
                outcome(out, "last", job.last.clone());
                field(out, "next_at");
                write_opt_timestamp(out, job.next_at);
                number(out, "failures", u64::from(job.failures));
                number(out, "overdue_seconds", job.overdue.as_secs());
            });
        }
    });
}

/// Writes the field `openmetrics`: the same figures as metrics.
pub(super) fn open_metrics(server: &Server, out: &mut Vec<u8>) {
    field(out, "openmetrics");
    json::write_string(out, &metrics::render(server, Format::OpenMetrics));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastpersist_protocol::time::Timestamp;

    use super::*;

    #[test]
    fn a_job_shows_how_it_ended_and_when_it_runs_next() {
        let at = Timestamp::parse("2025-01-15T10:30:00Z").expect("a timestamp");
        let failed = Outcome { at, took: Duration::from_millis(7), result: Err("no \"room\"".to_owned()) };
        let job = JobReport {
            kind: JobKind::Backup,
            running: true,
            last: Some(failed),
            next_at: Some(at),
            failures: 2,
            error: None,
            overdue: Duration::from_secs(3),
        };
        let idle =
            JobReport { kind: JobKind::Export, running: false, last: None, next_at: None, ..job.clone() };
        let mut out = Vec::new();
        schedule(&[job, idle], &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            concat!(
                r#"{"backup":{"running":true,"last":{"at":"2025-01-15T10:30:00.000000Z","duration_ms":7,"ok":false,"#,
                r#""error":"no \"room\""},"next_at":"2025-01-15T10:30:00.000000Z","failures":2,"overdue_seconds":3},"#,
                r#""export":{"running":false,"last":null,"next_at":null,"failures":2,"overdue_seconds":3}}"#
            )
        );
        out.clear();
        schedule(&[], &mut out);
        assert_eq!(out, b"{}");
    }
}
