//! Latency distributions: percentiles for `stats`, fixed buckets for metrics.
//!
//! Invariant: a bucket's count never goes down, so that a scraper may subtract one reading from the next.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// The upper bounds of the buckets that metrics show, in microseconds. None below 100 µs: parsers want smaller
/// ones written with an exponent, which the library that writes them does not do.
pub const BUCKET_BOUNDS_US: [u64; 16] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000,
];

/// A latency distribution in microseconds.
#[derive(Debug)]
pub struct Latency(Mutex<Measured>);

#[derive(Debug)]
struct Measured {
    histogram: Histogram<u64>,
    /// The histogram rounds; a sum must not.
    sum_us: u64,
}

/// The figures of a [`Latency`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LatencyFigures {
    /// Measurements.
    pub count: u64,
    /// Half of them took at most this, in microseconds.
    pub p50_us: u64,
    /// All but one in a hundred took at most this, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// A [`Latency`] in fixed buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Measurements.
    pub count: u64,
    /// All of them together.
    pub sum_us: u64,
    /// Measurements above the bound before and up to this one; those above the last bound are in none.
    pub buckets: [u64; BUCKET_BOUNDS_US.len()],
}

impl Default for Latency {
    fn default() -> Self {
        Self(Mutex::new(Measured { histogram: new_histogram(), sum_us: 0 }))
    }
}

/// Two significant digits, up to a minute.
fn new_histogram() -> Histogram<u64> {
    let bounded = Histogram::new_with_bounds(1, 60_000_000, 2);
    let mut histogram = bounded.unwrap_or_else(|_| {
        // The bounds are constants that the library accepts; an automatic one serves as well.
        Histogram::new(1).unwrap_or_else(|_| unreachable!("one significant digit is valid"))
    });
    histogram.auto(true);
    histogram
}

impl Latency {
    /// Notes that `count` things took so long each.
    pub fn note(&self, took: Duration, count: u64) {
        let micros = took.as_micros() as u64;
        let mut measured = self.0.lock();
        measured.histogram.saturating_record_n(micros, count);
        measured.sum_us = measured.sum_us.saturating_add(micros.saturating_mul(count));
    }

    /// The distribution's figures.
    pub fn figures(&self) -> LatencyFigures {
        let histogram = &self.0.lock().histogram;
        LatencyFigures {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }

    /// The distribution in fixed buckets. A measurement within a hundredth of a bound may count as above it.
    pub fn histogram(&self) -> LatencyHistogram {
        let measured = self.0.lock();
        let mut out = LatencyHistogram {
            count: measured.histogram.len(),
            sum_us: measured.sum_us,
            ..LatencyHistogram::default()
        };
        let mut bucket = 0;
        for step in measured.histogram.iter_recorded() {
            while BUCKET_BOUNDS_US.get(bucket).is_some_and(|bound| step.value_iterated_to() > *bound) {
                bucket += 1;
            }
            match out.buckets.get_mut(bucket) {
                Some(count) => *count += step.count_at_value(),
                None => break,
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measurement_is_in_the_bucket_of_its_size() {
        let latency = Latency::default();
        for micros in [1, 100, 101, 900, 3_000_000, 70_000_000] {
            latency.note(Duration::from_micros(micros), 2);
        }
        let histogram = latency.histogram();
        assert_eq!((histogram.count, histogram.sum_us), (12, 2 * 73_001_102));
        let filled: Vec<_> = histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &4), (1, &2), (3, &2), (14, &2)], "the longest is above every bound");
    }
}
