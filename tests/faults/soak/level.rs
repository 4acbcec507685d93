//! What "levels off" means, as a function of a series of samples.
//!
//! The first third is the warm-up: caches fill. Of the other two each gives its median, which a spike does not move, and its
//! 95th percentile, which shows what the spikes come to; neither may grow by more than a bound. Two thirds of a run's length
//! after the middle of the second is the middle of the third, so a steady leak shows a third of what it leaks in all.

/// How much more the last third may have than the one before: a share of that, and an amount.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) percent: u64,
    pub(super) more: u64,
}

impl Bound {
    fn of(self, before: u64) -> u64 {
        before + before * self.percent / 100 + self.more
    }
}

const MIB: u64 = 1 << 20;

/// Of memory. The allocators keep what was free at the last peak, and where a flush, a query and a backup meet is chance: in level
/// runs of two minutes the medians of the thirds were up to 6 % apart. An hour shows a leak of 35 KiB a second.
pub(super) const MEMORY: [Bound; 2] =
    [Bound { percent: 5, more: 16 * MIB }, Bound { percent: 10, more: 32 * MIB }];

/// Of descriptors and threads: as many come and go as clients, queries and dates do, and none may stay. A date that happens to
/// be open at most samples of one third and at few of the other one is eight of them.
pub(super) const COUNT: [Bound; 2] = [Bound { percent: 0, more: 8 }, Bound { percent: 0, more: 24 }];

/// The figures of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thirds {
    pub(super) peak: u64,
    pub(super) medians: [u64; 2],
    pub(super) high: [u64; 2],
}

/// Of a series that levels off its figures; else what grows, and how far. `bounds` are for the median and for the 95th percentile.
pub(super) fn levels_off(what: &str, series: &[u64], bounds: [Bound; 2]) -> Result<Thirds, String> {
    let third = series.len() / 3;
    if third < 10 {
        return Err(format!("{what}: {} samples tell nothing", series.len()));
    }
    let sorted = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    };
    let (middle, last) = (sorted(&series[third..2 * third]), sorted(&series[2 * third..]));
    let at = |part: &[u64], percent: usize| part[(part.len() - 1) * percent / 100];
    let thirds = Thirds {
        peak: series.iter().copied().max().unwrap_or(0),
        medians: [at(&middle, 50), at(&last, 50)],
        high: [at(&middle, 95), at(&last, 95)],
    };
    for ([before, after], bound, which) in
        [(thirds.medians, bounds[0], "median"), (thirds.high, bounds[1], "95th percentile")]
    {
        if after > bound.of(before) {
            return Err(format!(
                "{what} does not level off: its {which} went from {before} in the middle third to {after} in the last, \
                 more than {} ({thirds:?})",
                bound.of(before)
            ));
        }
    }
    Ok(thirds)
}

/// The 99th percentile of what was measured from `begin` to `end`.
pub(super) fn p99<T: Copy + Ord>(values: &[T]) -> Option<T> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) * 99 / 100).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Random;

    /// A daemon of 300 MiB whose memory goes up and down by 20 MiB with flushes and by 80 with each backup, and that fills a
    /// cache in its first quarter; `leak` is what it never gives back, in bytes a second.
    fn memory(seconds: u64, leak: u64) -> Vec<u64> {
        let mut random = Random::new();
        let sample = |second: u64| {
            let filled = 200 * MIB + 100 * MIB * (4 * second).min(seconds) / seconds;
            let backup = if second % 30 < 2 { 80 * MIB } else { 0 };
            filled + backup + random.between(0, 20 * MIB) + leak * second
        };
        (0..seconds).map(sample).collect()
    }

    fn verdict(seconds: u64, leak: u64) -> Result<Thirds, String> {
        levels_off("memory", &memory(seconds, leak), MEMORY)
    }

    #[test]
    fn a_level_and_noisy_series_is_level() {
        for seconds in [120, 600, 3600] {
            let thirds = verdict(seconds, 0).expect("it is level");
            assert!(thirds.peak > thirds.high[1] && thirds.high[1] > thirds.medians[1], "{thirds:?}");
        }
    }

    #[test]
    fn a_leak_is_found_and_a_slow_one_by_the_hour() {
        let told = verdict(120, MIB).expect_err("40 MiB in 40 s");
        assert!(told.contains("memory does not level off: its median went from"), "{told}");
        let slow = 35 * 1024;
        verdict(3600, slow).expect_err("an hour shows 35 KiB a second");
        verdict(120, slow).expect("two minutes do not");
    }

    #[test]
    fn what_only_its_peaks_show_is_found() {
        // Each backup takes more than the last one, and gives it back.
        let series: Vec<u64> = (0..3600u64)
            .map(|second| 300 * MIB + if second % 10 == 0 { second * 90 * 1024 } else { 0 })
            .collect();
        let told = levels_off("memory", &series, MEMORY).expect_err("the peaks grow");
        assert!(told.contains("95th percentile"), "{told}");
    }

    #[test]
    fn a_descriptor_now_and_then_that_stays_is_found() {
        let mut random = Random::new();
        let mut descriptors = |seconds: u64, every: u64| -> Vec<u64> {
            (0..seconds).map(|second| 60 + random.between(0, 20) + second / every).collect()
        };
        let mut level =
            |seconds, every| levels_off("descriptors", &descriptors(seconds, every), COUNT).map(|_| ());
        level(120, u64::MAX).expect("they come and go");
        level(3600, u64::MAX).expect("they come and go");
        level(120, 2).expect_err("one each other second");
        level(3600, 100).expect_err("one in a hundred seconds");
    }

    #[test]
    fn a_run_that_is_too_short_proves_nothing() {
        verdict(20, 0).expect_err("20 samples");
    }

    #[test]
    fn the_slowest_hundredth_is_left_out() {
        let values: Vec<u64> = (0..=1000).rev().collect();
        assert_eq!(p99(&values), Some(990));
        assert_eq!(p99(&[7]), Some(7));
        assert_eq!(p99::<u64>(&[]), None);
    }
}
