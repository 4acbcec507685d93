//! Is the generator itself any good? The same shapes against Redis, by it and by
//! `redis-benchmark`, in turn.
//!
//! Invariant: both start from a fresh Redis with every key stored; only who asks differs.

use std::process::Command;

use fastpersist_bench::grouped;

use crate::Setup;
use crate::error::{CompareError, Context};
use crate::place::Room;
use crate::servers::Server;
use crate::shape::Shape;
use crate::verdict::{median, table};
use crate::versus::measure_redis;

/// Stands for a random key of 12 digits in `redis-benchmark`'s arguments.
const RANDOM_KEY: &str = "key___rand_int__";

/// The unit in which the kernel tells processor time to programs, on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one asker achieved.
#[derive(Clone, Copy)]
struct Asked {
    per_second: f64,
    /// Processor time of the asker for each request, in nanoseconds.
    cpu_ns: f64,
}

/// Measures both and prints the table.
pub(crate) fn check(setup: &Setup, shapes: &[Shape], rounds: usize) -> Result<(), CompareError> {
    let mut rows = Vec::new();
    for &shape in shapes {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for round in 1..=rounds {
            let report = measure_redis(setup, shape)?;
            let cpu_ns = report.generator_cpu.as_nanos() as f64 / report.requests as f64;
            ours.push(Asked { per_second: report.per_second, cpu_ns });
            theirs.push(redis_benchmark(setup, shape, report.requests)?);
            eprintln!("{shape} round {round} of {rounds}");
        }
        let rate = |asked: &[Asked]| median(asked.iter().map(|one| one.per_second).collect());
        let cpu = |asked: &[Asked]| median(asked.iter().map(|one| one.cpu_ns).collect());
        rows.push(vec![
            shape.to_string(),
            grouped(rate(&ours) as u64),
            grouped(rate(&theirs) as u64),
            format!("{:.2}", rate(&ours) / rate(&theirs)),
            format!("{:.0} ns", cpu(&ours)),
            format!("{:.0} ns", cpu(&theirs)),
        ]);
    }
    let header = [
        "connections × depth",
        "this generator/s",
        "redis-benchmark/s",
        "ratio",
        "CPU a request, this",
        "redis-benchmark",
    ];
    println!("{}", table(&header, rows, setup.markdown));
    Ok(())
}

/// Its keys have 12 digits and not ours, so it fills them itself: at random, ten times over, which
/// leaves out one in twenty thousand.
fn redis_benchmark(setup: &Setup, shape: Shape, requests: u64) -> Result<Asked, CompareError> {
    let room = setup.place.room("redis")?;
    let server = Server::start_redis(&room)?;
    let filling = Shape { connections: 8, pipeline: 64, reads: false };
    ask(setup, &room, filling, setup.load.keys * 10)?;
    let cpu_before = children_cpu_seconds();
    let per_second = ask(setup, &room, shape, requests)?;
    let cpu = children_cpu_seconds() - cpu_before;
    server.stop()?;
    Ok(Asked { per_second, cpu_ns: cpu * 1e9 / requests as f64 })
}

fn ask(setup: &Setup, room: &Room, shape: Shape, requests: u64) -> Result<f64, CompareError> {
    let document = "x".repeat(setup.load.value_bytes);
    let mut command = Command::new("redis-benchmark");
    command
        .arg("-s")
        .arg(&room.socket)
        .args(["-c", &shape.connections.to_string()])
        .args(["-P", &shape.pipeline.to_string()])
        .args(["-n", &requests.max(1).to_string()])
        .args(["-r", &setup.load.keys.to_string(), "--csv"]);
    if shape.reads {
        command.args(["HGET", RANDOM_KEY, "worker1"]);
    } else {
        command.args(["HSET", RANDOM_KEY, "worker1", &document]);
    }
    let output = command.output().context(|| "cannot run redis-benchmark".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    rate_of(&text)
        .ok_or_else(|| CompareError::Wrong(format!("redis-benchmark printed no rate: {}", text.trim())))
}

/// The processor time of all children that have ended.
fn children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses, and only it may contain spaces. The times of
    // children are the 16th and the 17th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Its last line is `"command","rate","latency",…`, and the command may contain commas.
fn rate_of(csv: &str) -> Option<f64> {
    let last = csv.lines().rfind(|line| !line.trim().is_empty())?;
    let header = csv.lines().find(|line| line.starts_with("\"test\""))?;
    let after_command = header.split("\",\"").count() - 1;
    let fields: Vec<_> = last.trim_matches('"').split("\",\"").collect();
    fields.get(fields.len().checked_sub(after_command)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_field_after_the_command() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"HSET key {\"a\",\"b\"}\",\"240327.50\",\"1.0\"\n";
        assert_eq!(rate_of(csv), Some(240_327.5));
        assert_eq!(rate_of("nothing"), None);
    }
}
