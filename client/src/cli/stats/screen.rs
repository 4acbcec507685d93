//! The figures as people read them: a table for the daemon, and one with a column for each storage.
//!
//! Invariant: a figure that this program does not know is left out, one that the daemon does not send too. So the two
//! need not be of one version.

use std::time::Duration;

use fastpersist_bench::duration_text;
use fastpersist_client::Timestamp;
use serde_json::Value;

use crate::cli::output::{count, grouped};

/// Storages beside each other.
const COLUMNS: usize = 3;
/// From this share of a limit on, it is said.
const NEAR: f64 = 0.8;

/// A table; without a head where it has no columns.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// All tables of a reply.
pub(super) fn tables(tree: &Value, now: Timestamp) -> Vec<Table> {
    let mut out = vec![Table { columns: Vec::new(), rows: daemon(&tree["daemon"]) }];
    let storages: Vec<_> = tree["storages"].as_object().into_iter().flatten().collect();
    for some in storages.chunks(COLUMNS) {
        let names = some.iter().map(|(name, _)| (*name).clone());
        let columns = std::iter::once("storage".to_owned()).chain(names).collect();
        let cells: Vec<_> = some.iter().map(|(_, figures)| storage(figures, now)).collect();
        let rows = (0..ROWS.len()).map(|row| {
            let own = cells.iter().map(|column| column[row].clone().unwrap_or_default());
            std::iter::once(ROWS[row].to_owned()).chain(own).collect::<Vec<_>>()
        });
        let rows = rows.filter(|row| row[1..].iter().any(|cell| !cell.is_empty())).collect();
        out.push(Table { columns, rows });
    }
    out
}

fn daemon(figures: &Value) -> Vec<Vec<String>> {
    let counts = |name: &str| {
        let counts = figures[name].as_object()?;
        let sum: u64 = counts.values().filter_map(Value::as_u64).sum();
        let mut each: Vec<_> =
            counts.iter().filter_map(|(name, count)| Some((name, count.as_u64()?))).collect();
        each.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let each: Vec<_> = each.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
        let list = if each.is_empty() { String::new() } else { format!("  ({})", each.join(", ")) };
        Some(format!("{}{list}", grouped(sum)))
    };
    let uptime = figures["uptime_seconds"].as_u64().map(Duration::from_secs);
    let connections = of_limit(&figures["connections"], &figures["max_connections"], grouped);
    let rows = [
        ("up for", uptime.map(long_text)),
        ("connections", connections),
        ("memory", figures["memory_bytes"].as_u64().map(bytes)),
        ("requests", counts("requests")),
        ("errors", counts("errors")),
    ];
    let row = |(name, text): (&str, Option<String>)| Some(vec![name.to_owned(), text?]);
    rows.into_iter().filter_map(row).collect()
}

/// What is told of each storage.
const ROWS: [&str; 16] = [
    "model",
    "state",
    "open dates",
    "in memory",
    "not in DuckDB",
    "limit of that",
    "log",
    "records written",
    "sync p50, p99",
    "writes p50, p99",
    "flush",
    "export",
    "backup",
    "verified backup",
    "retention",
    "health check",
];

fn storage(figures: &Value, now: Timestamp) -> [Option<String>; ROWS.len()] {
    let number = |name: &str| figures[name].as_u64();
    let state = match &figures["read_only"] {
        Value::Null => "takes writes".to_owned(),
        reason => format!("READ-ONLY: {}", reason.as_str().unwrap_or_default()),
    };
    let model = figures["model"].as_str();
    let dates = number("open_partitions").filter(|_| model == Some("dated"));
    let sized = |records: &str, size: &str| {
        Some(format!("{}, {}", count(number(records)?, "record"), bytes(number(size)?)))
    };
    let log = number("wal_files_count").zip(number("wal_bytes"));
    let written = number("records").map(|records| {
        if records == 0 {
            return grouped(0);
        }
        let each = figures["records_per_commit"].as_f64().unwrap_or_default();
        format!("{}, {each:.1} a commit", grouped(records))
    });
    let job = |name: &str| job(figures, name, now);
    let verified = &figures["verified_backup"];
    let verified = verified["seq"].as_u64().zip(timestamp(&verified["at"]));
    [
        model.map(str::to_owned),
        Some(state),
        dates.map(grouped),
        sized("cache_size", "cache_bytes"),
        sized("pending_writes", "pending_bytes"),
        of_limit(&figures["pending_bytes"], &figures["max_pending_bytes"], bytes),
        log.map(|(files, size)| format!("{}, {}", count(files, "file"), bytes(size))),
        written,
        latency(&figures["fsync_latency"]),
        latency(&figures["request_latency"]),
        job("flush"),
        job("export"),
        job("backup"),
        verified.map(|(seq, at)| format!("{}, up to {}", distance(at, now), grouped(seq))),
        job("retention"),
        job("health_check"),
    ]
}

/// How a job last ended and when it runs next; nothing where neither is known.
fn job(figures: &Value, name: &str, now: Timestamp) -> Option<String> {
    let last = &figures[format!("last_{name}")];
    let ended = timestamp(&last["at"]).map(|at| {
        let when = distance(at, now);
        if let Some(error) = last["error"].as_str() {
            return format!("FAILED {when}: {error}");
        }
        let took = duration_text(Duration::from_millis(last["duration_ms"].as_u64().unwrap_or_default()));
        let rows = last["rows"].as_u64().filter(|rows| *rows > 0);
        let rows = rows.map(|rows| format!("{} in ", count(rows, "row"))).unwrap_or_default();
        format!("{when}, {rows}{took}")
    });
    let running = figures["schedule"][name]["running"].as_bool() == Some(true);
    let next = if running {
        Some("running".to_owned())
    } else {
        timestamp(&figures[format!("next_{name}")]).map(|at| format!("next {}", distance(at, now)))
    };
    let parts: Vec<_> = ended.into_iter().chain(next).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn latency(figures: &Value) -> Option<String> {
    let micros = |name: &str| figures[name].as_u64().map(|us| duration_text(Duration::from_micros(us)));
    (figures["count"].as_u64()? > 0).then_some(())?;
    Some(format!("{}, {}", micros("p50_us")?, micros("p99_us")?))
}

/// A figure beside its limit, and a word where it is near.
fn of_limit(value: &Value, limit: &Value, text: impl Fn(u64) -> String) -> Option<String> {
    let (value, limit) = (value.as_u64()?, limit.as_u64()?);
    let share = if limit == 0 { 0.0 } else { value as f64 / limit as f64 };
    let near = if share >= NEAR { " – NEAR ITS LIMIT" } else { "" };
    Some(format!("{} of {} ({:.0} %){near}", text(value), text(limit), share * 100.0))
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    Timestamp::parse(value.as_str()?)
}

/// `3 min ago`, `in 20 s`, `now`.
fn distance(at: Timestamp, now: Timestamp) -> String {
    let micros = at.as_micros() - now.as_micros();
    let text = long_text(Duration::from_micros(micros.unsigned_abs()));
    match micros {
        1_000_000.. => format!("in {text}"),
        ..-999_999 => format!("{text} ago"),
        _ => "now".to_owned(),
    }
}

/// A long time in its two largest units.
fn long_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..600 => format!("{} min {} s", seconds / 60, seconds % 60),
        600..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A size with three significant digits in the unit that fits.
fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse("2025-01-15T10:30:00Z").unwrap()
    }

    #[test]
    fn sizes_and_times_are_short() {
        let sizes = [0, 999, 1_000, 10_485_760, 268_435_456, 3_000_000_000].map(bytes);
        assert_eq!(sizes, ["0 bytes", "999 bytes", "0.98 KiB", "10.0 MiB", "256 MiB", "2.79 GiB"]);
        let times = [5, 65, 700, 7_265, 90_000].map(|seconds| long_text(Duration::from_secs(seconds)));
        assert_eq!(times, ["5 s", "1 min 5 s", "11 min", "2 h 1 min", "1 d 1 h"]);
        let at = |text: &str| distance(Timestamp::parse(text).unwrap(), now());
        assert_eq!(at("2025-01-15T10:29:15Z"), "45 s ago");
        assert_eq!(at("2025-01-15T12:30:00Z"), "in 2 h 0 min");
        assert_eq!(at("2025-01-15T10:30:00.5Z"), "now");
    }

    #[test]
    fn what_is_near_its_limit_says_so() {
        let text = |value: u64| of_limit(&json!(value), &json!(100), grouped).unwrap();
        assert_eq!(text(79), "79 of 100 (79 %)");
        assert_eq!(text(80), "80 of 100 (80 %) – NEAR ITS LIMIT");
    }

    #[test]
    fn a_storage_is_a_column_and_what_nobody_knows_has_no_row() {
        let jobs = json!({
            "model": "dated", "open_partitions": 2, "read_only": null,
            "last_flush": {"at": "2025-01-15T10:29:00Z", "duration_ms": 40, "ok": true, "rows": 1000},
            "next_flush": "2025-01-15T10:30:30Z",
            "last_backup": {"at": "2025-01-15T09:30:00Z", "duration_ms": 9, "ok": false, "error": "no room"},
        });
        let settings = json!({"model": "collection", "read_only": "a sync failed"});
        let tree = json!({"daemon": {"requests": {"get_key": 5, "store": 1200}}, "storages": {"jobs": jobs, "settings": settings}});
        let tables = tables(&tree, now());
        assert_eq!(tables[0].rows, [["requests", "1,205  (store 1,200, get_key 5)"]]);
        assert_eq!(tables[1].columns, ["storage", "jobs", "settings"]);
        assert_eq!(
            tables[1].rows,
            [
                ["model", "dated", "collection"],
                ["state", "takes writes", "READ-ONLY: a sync failed"],
                ["open dates", "2", ""],
                ["flush", "1 min 0 s ago, 1,000 rows in 40.0 ms; next in 30 s", ""],
                ["backup", "FAILED 1 h 0 min ago: no room", ""],
            ]
        );
    }
}
