//! The figures that are promised without a peer: flush, start and memory.
//!
//! Invariant: the daemon flushes only when asked, and each measurement checks that what it assumes
//! about pending records is so; a fast flush of nothing is no figure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastpersist_bench::wire::FastPersist;
use fastpersist_bench::{KEYS_MAX, Latency, Load, duration_text, grouped, run_with};

use crate::beside;
use crate::error::{CompareError, Context};
use crate::place::Room;
use crate::servers::{Flushing, STORAGE, Server};
use crate::talk::{self, Keys, Talk};
use crate::verdict::Verdict;
use crate::{Measure, Setup};

const FLUSH_ROWS_PER_SECOND: u64 = 500_000;
const RECOVERY_RECORDS_PER_SECOND: u64 = 250_000;
const READY_LIMIT: Duration = Duration::from_millis(300);
const LARGE_FLUSH_LIMIT: Duration = Duration::from_secs(1);
const WRITER_P99_FACTOR: f64 = 3.0;
const BESIDE_QUERIES_RATIO: f64 = 0.7;
const MEMORY_BYTES: u64 = 600_000_000;

/// A large partition is loaded in parts, so that what is pending stays small.
const LOAD_PART: u64 = 1_000_000;

/// Runs one measurement and prints its verdict.
pub(crate) fn run(setup: &Setup, measure: &Measure) -> Result<(), CompareError> {
    let bench = Bench {
        setup,
        room: setup.place.room("fastpersistd")?,
        load: Load {
            // Eight digits, whatever the number of rows, so that all have the same length.
            keys: KEYS_MAX,
            ..setup.load.clone()
        },
    };
    match *measure {
        Measure::Generator => Ok(()),
        Measure::Flush { rows } => bench.flush(rows),
        Measure::Recovery { rows } => bench.recovery(rows),
        Measure::Ready { rows } => bench.ready(rows),
        Measure::FlushIntoLarge { rows, changed } => bench.flush_into_large(rows, changed),
        Measure::FlushLatency { rows, writers } => bench.flush_latency(rows, writers),
        Measure::QueryBeside { writers, pipeline } => bench.query_beside(writers, pipeline),
        Measure::Memory { rows } => bench.memory(rows),
    }
}

struct Bench<'a> {
    setup: &'a Setup,
    room: Room,
    load: Load,
}

impl Bench<'_> {
    fn start(&self) -> Result<Server, CompareError> {
        Server::start_daemon(&self.setup.daemon, &self.room, self.load.model, Flushing::OnRequest)
    }

    fn print(&self, what: &str, figure: String, target: String, holds: bool) {
        let verdict = Verdict { what: format!("{what}, {} model", self.load.model), figure, target, holds };
        verdict.print(self.setup.markdown);
    }

    /// Stores `count` keys that are not flushed, and makes sure of it.
    fn store_pending(&self, server: &Server, keys: Keys) -> Result<Talk, CompareError> {
        let started = Instant::now();
        talk::store(&server.socket(), &self.load, keys)?;
        let taken = started.elapsed();
        eprintln!(
            "stored {} records in batches in {} ({}/s)",
            grouped(keys.count),
            duration_text(taken),
            grouped((keys.count as f64 / taken.as_secs_f64()) as u64)
        );
        let mut talk = Talk::connect(&server.socket())?;
        let pending = talk.pending()?;
        if pending < keys.count {
            return Err(CompareError::Wrong(format!(
                "of {} records only {pending} are pending; the daemon flushed by itself",
                keys.count
            )));
        }
        Ok(talk)
    }

    /// Flushes, and makes sure that nothing is left.
    fn timed_flush(talk: &mut Talk) -> Result<Duration, CompareError> {
        let started = Instant::now();
        talk.flush()?;
        let taken = started.elapsed();
        match talk.pending()? {
            0 => Ok(taken),
            left => Err(CompareError::Wrong(format!("{left} records are pending after the flush"))),
        }
    }

    fn flush(&self, rows: u64) -> Result<(), CompareError> {
        let server = self.start()?;
        let mut talk = self.store_pending(&server, all(rows))?;
        let taken = Self::timed_flush(&mut talk)?;
        server.stop()?;
        let per_second = rate(rows, taken);
        self.print(
            &format!("flush of {} records into DuckDB", grouped(rows)),
            format!("{} rows/s ({})", grouped(per_second), duration_text(taken)),
            format!("at least {} rows/s", grouped(FLUSH_ROWS_PER_SECOND)),
            per_second >= FLUSH_ROWS_PER_SECOND,
        );
        Ok(())
    }

    fn recovery(&self, rows: u64) -> Result<(), CompareError> {
        let server = self.start()?;
        drop(self.store_pending(&server, all(rows))?);
        server.kill();
        let server = self.start()?;
        let taken = server.start_time;
        self.expect_ends(&server, rows)?;
        server.stop()?;
        let per_second = rate(rows, taken);
        self.print(
            &format!(
                "ready after SIGKILL with {} unflushed records (files in the page cache)",
                grouped(rows)
            ),
            format!("{} records/s ({})", grouped(per_second), duration_text(taken)),
            format!("at least {} records/s", grouped(RECOVERY_RECORDS_PER_SECOND)),
            per_second >= RECOVERY_RECORDS_PER_SECOND,
        );
        Ok(())
    }

    fn ready(&self, rows: u64) -> Result<(), CompareError> {
        let server = self.start()?;
        let mut talk = self.store_pending(&server, all(rows))?;
        Self::timed_flush(&mut talk)?;
        drop(talk);
        server.stop()?;
        let server = self.start()?;
        let taken = server.start_time;
        let asked = Instant::now();
        self.expect_ends(&server, rows)?;
        eprintln!("the first three reads after it took {}", duration_text(asked.elapsed()));
        server.stop()?;
        self.print(
            &format!("ready with {} stored records, none unflushed", grouped(rows)),
            duration_text(taken),
            format!("at most {}", duration_text(READY_LIMIT)),
            taken <= READY_LIMIT,
        );
        Ok(())
    }

    /// What answered fast must also have the records.
    fn expect_ends(&self, server: &Server, rows: u64) -> Result<(), CompareError> {
        Talk::connect(&server.socket())?.expect_keys(&self.load, &[0, rows / 2, rows - 1])
    }

    fn flush_into_large(&self, rows: u64, changed: u64) -> Result<(), CompareError> {
        let server = self.start()?;
        let mut first = 0;
        while first < rows {
            let part = Keys { first, step: 1, count: LOAD_PART.min(rows - first) };
            Self::timed_flush(&mut self.store_pending(&server, part)?)?;
            first += part.count;
        }
        let spread = Keys { first: 0, step: (rows / changed).max(1), count: changed };
        let mut talk = self.store_pending(&server, spread)?;
        let taken = Self::timed_flush(&mut talk)?;
        server.stop()?;
        self.print(
            &format!("flush of {} changed records into a partition of {}", grouped(changed), grouped(rows)),
            duration_text(taken),
            format!("at most {}", duration_text(LARGE_FLUSH_LIMIT)),
            taken <= LARGE_FLUSH_LIMIT,
        );
        Ok(())
    }

    fn flush_latency(&self, rows: u64, writers: usize) -> Result<(), CompareError> {
        let server = self.start()?;
        let mut talk = self.store_pending(&server, all(rows))?;
        let load = Load { connections: writers, pipeline: 1, reads_percent: 0, ..self.setup.load.clone() };
        let quiet = writers_latency(&server, &load, None)?;
        let stop = AtomicBool::new(false);
        let endless = Load { seconds: 600.0, ..load };
        let (busy, taken) = std::thread::scope(|scope| {
            let flush = scope.spawn(|| {
                let started = Instant::now();
                let flushed = talk.flush();
                stop.store(true, Ordering::Relaxed);
                flushed.map(|()| started.elapsed())
            });
            let busy = writers_latency(&server, &endless, Some(&stop))?;
            let taken =
                flush.join().unwrap_or_else(|_| Err(CompareError::Wrong("the flush panicked".to_owned())))?;
            Ok::<_, CompareError>((busy, taken))
        })?;
        server.stop()?;
        for (when, latency) in [("without a flush", quiet), ("during a flush", busy)] {
            eprintln!(
                "{when}: p50 {}, p99 {}, p99.9 {}, max {}",
                duration_text(latency.p50),
                duration_text(latency.p99),
                duration_text(latency.p999),
                duration_text(latency.max)
            );
        }
        let factor = busy.p99.as_secs_f64() / quiet.p99.as_secs_f64();
        self.print(
            &format!(
                "p99 of {writers} writers during a flush of {} records ({})",
                grouped(rows),
                duration_text(taken)
            ),
            format!("{} against {}, factor {factor:.2}", duration_text(busy.p99), duration_text(quiet.p99)),
            format!("at most {WRITER_P99_FACTOR} times"),
            factor <= WRITER_P99_FACTOR,
        );
        Ok(())
    }

    fn query_beside(&self, writers: usize, pipeline: usize) -> Result<(), CompareError> {
        // Flushed as anybody's is; the keys are those of a usual load.
        let server =
            Server::start_daemon(&self.setup.daemon, &self.room, self.load.model, Flushing::Default)?;
        let load = Load { connections: writers, pipeline, reads_percent: 0, ..self.setup.load.clone() };
        let mut found = beside::measure(&server, &load)?;
        server.stop()?;
        found.queries.sort_unstable();
        let ratio = found.together / found.alone;
        let median = found.queries.get(found.queries.len() / 2).copied().unwrap_or_default();
        self.print(
            &format!("{writers} writers, {pipeline} deep, beside 10 fresh queries a second"),
            format!(
                "{}/s against {}/s, {:.0} %; {} queries, median {}",
                grouped(found.together as u64),
                grouped(found.alone as u64),
                ratio * 100.0,
                found.queries.len(),
                duration_text(median)
            ),
            format!("at least {:.0} %", BESIDE_QUERIES_RATIO * 100.0),
            ratio >= BESIDE_QUERIES_RATIO,
        );
        Ok(())
    }

    fn memory(&self, rows: u64) -> Result<(), CompareError> {
        let server = self.start()?;
        let empty = Memory::of(server.pid())?;
        let mut talk = self.store_pending(&server, all(rows))?;
        let pending = Memory::of(server.pid())?;
        Self::timed_flush(&mut talk)?;
        let flushed = Memory::of(server.pid())?;
        server.stop()?;
        eprintln!(
            "resident: {} empty, {} with all pending; the peak was {}",
            megabytes(empty.resident),
            megabytes(pending.resident),
            megabytes(flushed.peak)
        );
        self.print(
            &format!(
                "resident with {} cached documents of {} bytes, all flushed (peak {})",
                grouped(rows),
                self.load.value_bytes,
                megabytes(flushed.peak)
            ),
            megabytes(flushed.resident),
            format!("at most {}", megabytes(MEMORY_BYTES)),
            flushed.resident <= MEMORY_BYTES,
        );
        Ok(())
    }
}

fn writers_latency(server: &Server, load: &Load, stop: Option<&AtomicBool>) -> Result<Latency, CompareError> {
    let report = run_with(load, &FastPersist::new(STORAGE), &server.socket(), stop)?;
    match report.first_error {
        Some(error) => Err(CompareError::Wrong(format!("a writer got {error}"))),
        None => Ok(report.latency),
    }
}

fn all(rows: u64) -> Keys {
    Keys { first: 0, step: 1, count: rows }
}

fn rate(count: u64, taken: Duration) -> u64 {
    (count as f64 / taken.as_secs_f64()) as u64
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

/// What the kernel says of a process's memory, in bytes.
struct Memory {
    resident: u64,
    peak: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self, CompareError> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            kilobytes(&text, name)
                .map(|kilobytes| kilobytes * 1024)
                .ok_or_else(|| CompareError::Wrong(format!("{path} has no {name}")))
        };
        Ok(Self { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_prints_it() {
        let status = "Name:\tx\nVmHWM:\t  204 kB\nVmRSS:\t  102 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(102));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
        let own = Memory::of(std::process::id()).expect("this process has a status");
        assert!(own.resident > 0 && own.peak >= own.resident);
    }
}
