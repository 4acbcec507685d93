//! What came out of a measurement, and how people read it.
//!
//! Invariant: `requests` counts every answer, good or bad; the rate counts only good ones, so a
//! server cannot get fast by failing.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::wire::Tally;

/// The result of one measurement.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Answers received.
    pub requests: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// The first error's text.
    pub first_error: Option<String>,
    /// From the first write to the last answer.
    pub elapsed: Duration,
    /// Successful answers per second.
    pub per_second: f64,
    /// From a window's write to its last answer; that of a request where the pipeline is 1.
    pub latency: Latency,
    /// Requests in a window.
    pub pipeline: usize,
    /// Processor time that the generator itself took; zero where the system does not tell.
    pub generator_cpu: Duration,
}

/// Percentiles of the latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Latency {
    /// Half were faster.
    pub p50: Duration,
    /// 99 of 100 were faster.
    pub p99: Duration,
    /// 999 of 1000 were faster.
    pub p999: Duration,
    /// The slowest.
    pub max: Duration,
}

impl Latency {
    pub(crate) fn of(nanoseconds: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_nanos(nanoseconds.value_at_quantile(quantile));
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: Duration::from_nanos(nanoseconds.max()) }
    }
}

impl Report {
    pub(crate) fn new(
        requests: u64,
        tally: Tally,
        elapsed: Duration,
        latency: Latency,
        pipeline: usize,
        generator_cpu: Duration,
    ) -> Self {
        let good = requests.saturating_sub(tally.errors) as f64;
        Self {
            requests,
            errors: tally.errors,
            misses: tally.misses,
            first_error: tally.first_error,
            elapsed,
            per_second: good / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            latency,
            pipeline,
            generator_cpu,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "requests/s  {}", grouped(self.per_second as u64))?;
        writeln!(out, "requests    {} in {:.2} s", grouped(self.requests), self.elapsed.as_secs_f64())?;
        if self.misses > 0 {
            writeln!(out, "not found   {}", grouped(self.misses))?;
        }
        write!(out, "errors      {}", grouped(self.errors))?;
        if let Some(error) = &self.first_error {
            write!(out, "; the first: {error}")?;
        }
        writeln!(out)?;
        write!(
            out,
            "latency     p50 {}, p99 {}, p99.9 {}, max {}",
            duration_text(self.latency.p50),
            duration_text(self.latency.p99),
            duration_text(self.latency.p999),
            duration_text(self.latency.max)
        )?;
        if self.pipeline > 1 {
            write!(out, " (of a window of {} requests)", self.pipeline)?;
        }
        Ok(())
    }
}

/// A duration with three significant digits in the unit that fits.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (number, unit) = if seconds >= 1.0 {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else {
        (seconds * 1e6, "µs")
    };
    let decimals = match number {
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

/// A number with a comma between thousands.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (nanoseconds, text) in
            [(1_500, "1.50 µs"), (183_000, "183 µs"), (12_340_000, "12.3 ms"), (2_000_000_000, "2.00 s")]
        {
            assert_eq!(duration_text(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn errors_are_told_and_do_not_count_as_speed() {
        let tally = Tally { errors: 40, misses: 0, first_error: Some("busy".to_owned()) };
        let report = Report::new(100, tally, Duration::from_secs(2), Latency::default(), 1, Duration::ZERO);
        assert!((report.per_second - 30.0).abs() < 1e-9);
        assert!(report.to_string().contains("errors      40; the first: busy"), "{report}");
    }
}
