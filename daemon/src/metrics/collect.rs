//! Which metrics there are, and where each is read.
//!
//! Names are Prometheus's: `fastpersist_` in front (`process_` for what every process has), the base unit behind,
//! `_total` for what only grows.

use std::sync::atomic::Ordering;

use fastpersist_protocol::time::Timestamp;
use prometheus_client::registry::Unit;

use super::family::{Families, Kind, Labels, Value};
use crate::duck;
use crate::schedule::{JobKind, JobReport};
use crate::server::Server;
use crate::stats::{self, StorageStats};
use crate::storage::Storage;
use crate::storage::partition::Gauges;

const BYTES: Option<Unit> = Some(Unit::Bytes);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

/// One storage, read once, so that its figures belong to one moment.
struct Reading<'a> {
    storage: &'a Storage,
    gauges: Gauges,
    open_partitions: usize,
    read_only: bool,
    jobs: Vec<JobReport>,
}

impl Reading<'_> {
    fn labels(&self) -> Labels {
        vec![("storage", self.storage.config().name.clone())]
    }
}

/// Reads everything.
pub(super) fn collect(server: &Server) -> Families {
    let mut out = Families::default();
    process(server, &mut out);
    held(server, &mut out);
    requests(server, &mut out);
    let readings: Vec<_> = server.storages.iter().map(|storage| read(server, storage)).collect();
    latencies(&readings, &mut out);
    counters(&readings, &mut out);
    gauges(&readings, &mut out);
    last_times(&readings, &mut out);
    let reports: Vec<_> = readings.iter().map(|reading| (reading.labels(), &reading.jobs[..])).collect();
    jobs(&reports, &mut out);
    out
}

fn read<'a>(server: &Server, storage: &'a Storage) -> Reading<'a> {
    let partitions = storage.open_partitions();
    Reading {
        storage,
        gauges: storage.gauges(),
        open_partitions: partitions.len(),
        read_only: storage.read_only_reason().is_some(),
        jobs: server.jobs(storage),
    }
}

fn process(server: &Server, out: &mut Families) {
    let build = out.begin(Kind::Info, "fastpersist_build", None, "What runs: the daemon and DuckDB.");
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let duckdb = duck::library_version().trim_start_matches('v').to_owned();
    build.add(vec![("version", version), ("duckdb_version", duckdb)], Value::Integer(1));
    let stats = &server.stats;
    let mut one = |kind, name, unit, help, value| out.begin(kind, name, unit, help).add(Vec::new(), value);
    let started = Value::Float(seconds_of(stats.started_at()));
    one(Kind::Gauge, "process_start_time", SECONDS, "When the process started, since 1970.", started);
    let cpu = Value::Float(stats::cpu_time().as_secs_f64());
    one(Kind::Counter, "process_cpu", SECONDS, "Processor time used.", cpu);
    let resident = Value::Integer(stats::resident_bytes());
    one(Kind::Gauge, "process_resident_memory", BYTES, "Resident memory.", resident);
    let open_fds = Value::Integer(stats::open_fds());
    one(Kind::Gauge, "process_open_fds", None, "Open file descriptors.", open_fds);
    let ready = Value::Integer(u64::from(!*server.stopping.borrow()));
    one(Kind::Gauge, "fastpersist_ready", None, "1 while requests are answered, 0 while stopping.", ready);
    let connections = Value::Integer(stats.connections.load(Ordering::Relaxed) as u64);
    one(Kind::Gauge, "fastpersist_connections", None, "Open connections.", connections);
    let max = Value::Integer(server.config.limits.max_connections as u64);
    one(Kind::Gauge, "fastpersist_max_connections", None, "limits.max_connections.", max);
    let queries = server.queries.load();
    let running = Value::Integer(queries.running as u64);
    one(Kind::Gauge, "fastpersist_queries", None, "Queries that run.", running);
    let handed_over = Value::Integer(queries.handed_over_bytes);
    one(Kind::Gauge, "fastpersist_handed_over", BYTES, "Results that clients hold as memory.", handed_over);
    // The library puts `_total` behind it.
    let accepted = Value::Integer(stats.connections_total.load(Ordering::Relaxed));
    let help = "Connections since the start, those that were turned away too.";
    one(Kind::Counter, "fastpersist_accepted_connections", None, help, accepted);
}

/// What clients hold for longer than a request, and how much of it there may be.
fn held(server: &Server, out: &mut Families) {
    let limits = &server.config.limits;
    let (locks, waiters) = server.locks.counts();
    let mut one = |name, help, value| {
        out.begin(Kind::Gauge, name, None, help).add(Vec::new(), Value::Integer(value as u64));
    };
    let subscriptions = server.stats.subscriptions.load(Ordering::Relaxed);
    one("fastpersist_subscriptions", "Subscriptions.", subscriptions);
    one("fastpersist_max_subscriptions", "limits.max_subscriptions.", limits.max_subscriptions);
    one("fastpersist_locks", "Locks that are held.", locks);
    one("fastpersist_lock_waiters", "Connections that wait for a lock.", waiters);
    one("fastpersist_max_locks", "limits.max_locks.", limits.max_locks);
    one("fastpersist_max_producers", "limits.max_producers, for each partition.", limits.max_producers);
}

fn requests(server: &Server, out: &mut Families) {
    let help = "Answers by operation and outcome; op is none for a line that is no request.";
    let family = out.begin(Kind::Counter, "fastpersist_requests", None, help);
    for (op, code, count) in server.stats.requests.all() {
        // All pairs would be several hundred; a success may be waited for, so it is there from the start.
        if count > 0 || (code == "ok" && op != "none") {
            family.add(vec![("op", op.to_owned()), ("code", code.to_owned())], Value::Integer(count));
        }
    }
}

fn latencies(readings: &[Reading<'_>], out: &mut Families) {
    let mut each = |name, help, latency: fn(&StorageStats) -> &stats::Latency| {
        let family = out.begin(Kind::Histogram, name, SECONDS, help);
        for reading in readings {
            let histogram = latency(reading.storage.stats()).histogram();
            family.add(reading.labels(), Value::Histogram(Box::new(histogram)));
        }
    };
    let help = "From a write request's last byte to its answer.";
    each("fastpersist_request_duration", help, |stats| &stats.requests);
    each("fastpersist_wal_fsync_duration", "One fdatasync of the log.", |stats| &stats.fsync);
    let help = "One flush that brought records into DuckDB.";
    each("fastpersist_flush_duration", help, |stats| &stats.flush);
}

fn counters(readings: &[Reading<'_>], out: &mut Families) {
    let mut each = |name, help, value: fn(&StorageStats) -> u64| {
        let family = out.begin(Kind::Counter, name, None, help);
        for reading in readings {
            family.add(reading.labels(), Value::Integer(value(reading.storage.stats())));
        }
    };
    each("fastpersist_commits", "Commit groups; each is one write to the log.", |stats| stats.commits().0);
    each("fastpersist_committed_records", "Records in commit groups.", |stats| stats.commits().1);
    each("fastpersist_flushes", "Flushes that brought records into DuckDB.", |stats| stats.flushes().0);
    let help = "Records that were brought into DuckDB; of a dated storage the latest of each.";
    each("fastpersist_flushed_records", help, |stats| stats.flushes().1);
    let help = "Torn ends that were cut off a log when it was opened.";
    each("fastpersist_wal_torn_ends", help, StorageStats::torn);
}

fn gauges(readings: &[Reading<'_>], out: &mut Families) {
    let mut each = |name, unit, help, value: fn(&Reading<'_>) -> u64| {
        let family = out.begin(Kind::Gauge, name, unit, help);
        for reading in readings {
            family.add(reading.labels(), Value::Integer(value(reading)));
        }
    };
    let help = "1 while the storage takes no writes after a failed one; a restart ends it.";
    each("fastpersist_read_only", None, help, |reading| u64::from(reading.read_only));
    let help = "Open partitions: dates, or the one that a collection has.";
    each("fastpersist_open_partitions", None, help, |reading| reading.open_partitions as u64);
    let help = "Records that are in the log and not in DuckDB.";
    each("fastpersist_unflushed_records", None, help, |reading| reading.gauges.pending_writes);
    let help = "What those records take in memory.";
    each("fastpersist_unflushed", BYTES, help, |reading| reading.gauges.pending_bytes as u64);
    let help = "The bound of unflushed bytes, for each partition; past it writers wait.";
    each("fastpersist_max_pending", BYTES, help, |reading| reading.storage.config().max_pending_bytes as u64);
    each("fastpersist_cache_records", None, "Live records in memory.", |reading| {
        reading.gauges.cache_records as u64
    });
    each("fastpersist_cache", BYTES, "What the records in memory take.", |reading| {
        reading.gauges.cache_bytes as u64
    });
    let help = "Producers that open partitions remember.";
    each("fastpersist_producers", None, help, |reading| reading.gauges.producers as u64);
    let help = "Log segments of open partitions.";
    each("fastpersist_wal_segments", None, help, |reading| reading.gauges.wal.files_count as u64);
    each("fastpersist_wal", BYTES, "What they take on disk.", |reading| reading.gauges.wal.total_bytes);
}

/// When something last went well. A storage for which it never did has no sample, and `absent()` finds that.
fn last_times(readings: &[Reading<'_>], out: &mut Families) {
    let mut each = |name, help, at: fn(&StorageStats) -> Option<Timestamp>| {
        let family = out.begin(Kind::Gauge, name, SECONDS, help);
        for reading in readings {
            if let Some(at) = at(reading.storage.stats()) {
                family.add(reading.labels(), Value::Float(seconds_of(at)));
            }
        }
    };
    let help = "When records were last brought into DuckDB.";
    each("fastpersist_last_flush_timestamp", help, |stats| stats.jobs.succeeded_at(JobKind::Flush));
    let help = "When Parquet was last exported.";
    each("fastpersist_last_export_timestamp", help, |stats| stats.jobs.succeeded_at(JobKind::Export));
    let help = "When the newest backup that is known to be good was taken.";
    each("fastpersist_last_verified_backup_timestamp", help, |stats| {
        stats.verified_backup().map(|backup| backup.at)
    });
}

/// The jobs of each storage, which its labels name.
fn jobs(reports: &[(Labels, &[JobReport])], out: &mut Families) {
    let mut each = |name, unit, help, value: fn(&JobReport) -> Option<Value>| {
        let family = out.begin(Kind::Gauge, name, unit, help);
        for (storage, jobs) in reports {
            for job in *jobs {
                let mut labels = storage.clone();
                labels.push(("job", job.kind.as_str().to_owned()));
                if let Some(value) = value(job) {
                    family.add(labels, value);
                }
            }
        }
    };
    each("fastpersist_job_running", None, "1 while the job runs.", |job| {
        Some(Value::Integer(u64::from(job.running)))
    });
    each("fastpersist_job_last_success", None, "1 when its last run went well, else 0.", |job| {
        Some(Value::Integer(u64::from(job.last.as_ref()?.result.is_ok())))
    });
    each("fastpersist_job_last_run_timestamp", SECONDS, "When its last run ended.", |job| {
        Some(Value::Float(seconds_of(job.last.as_ref()?.at)))
    });
    each("fastpersist_job_last_run_duration", SECONDS, "How long its last run took.", |job| {
        Some(Value::Float(job.last.as_ref()?.took.as_secs_f64()))
    });
    let help = "How often it has failed since it last went well.";
    each("fastpersist_job_failures", None, help, |job| Some(Value::Integer(u64::from(job.failures))));
    each("fastpersist_job_next_run_timestamp", SECONDS, "When it runs next.", |job| {
        Some(Value::Float(seconds_of(job.next_at?)))
    });
    each("fastpersist_job_overdue", SECONDS, "For how long it should have begun already.", |job| {
        Some(Value::Float(job.overdue.as_secs_f64()))
    });
}

fn seconds_of(at: Timestamp) -> f64 {
    at.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Format;
    use crate::schedule::JobKind;
    use crate::stats::Outcome;

    #[test]
    fn a_job_that_never_ran_has_neither_success_nor_failure() {
        let at = Timestamp::parse("2025-01-15T10:30:00.5Z").expect("a timestamp");
        let took = Duration::from_millis(1_500);
        let failed = JobReport {
            kind: JobKind::Backup,
            running: false,
            last: Some(Outcome { at, took, result: Err("no room".to_owned()) }),
            next_at: Some(at),
            failures: 3,
            error: None,
            overdue: Duration::from_secs(9),
        };
        let done = Outcome { at, took, result: Ok(1) };
        let flushed = JobReport { kind: JobKind::Flush, last: Some(done), failures: 0, ..failed.clone() };
        let new =
            JobReport { kind: JobKind::Export, running: true, last: None, next_at: None, ..flushed.clone() };
        let mut families = Families::default();
        jobs(&[(vec![("storage", "s".to_owned())], &[failed, flushed, new][..])], &mut families);
        let text = families.render(Format::OpenMetrics);
        for (name, job, value) in [
            ("running", "backup", Some("0")),
            ("running", "export", Some("1")),
            ("last_success", "backup", Some("0")),
            ("last_success", "flush", Some("1")),
            ("last_success", "export", None),
            ("last_run_timestamp_seconds", "backup", Some("1736937000.5")),
            ("last_run_duration_seconds", "backup", Some("1.5")),
            ("failures", "backup", Some("3")),
            ("failures", "flush", Some("0")),
            ("next_run_timestamp_seconds", "flush", Some("1736937000.5")),
            ("next_run_timestamp_seconds", "export", None),
            ("overdue_seconds", "backup", Some("9.0")),
        ] {
            let head = format!("fastpersist_job_{name}{{storage=\"s\",job=\"{job}\"}} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&head));
            assert_eq!(found, value, "{head} in\n{text}");
        }
    }
}
