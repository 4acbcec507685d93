//! What "levels off" means, as a function of a series of samples, one a second.
//!
//! First comes the warm-up, in which caches and allocators fill: a third of the run, and at least a minute or half of
//! it. What follows is halved. Of each half counts its median, which a spike does not move, and its 95th percentile, which shows what
//! the spikes come to; neither may grow by more than a bound from the first half to the second.

/// How much more the second half may have than the first: a share of that, and an amount.
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

/// Of memory. Where flushes, queries and backups meet is chance, and the allocators go on filling for some minutes on a busy
/// machine: in runs of two minutes of a daemon that leaks nothing the medians were up to 14 % apart. An hour averages that
/// out, and shows a leak of 35 KiB a second; two minutes show 3 MiB a second.
pub(super) fn memory(seconds: u64) -> [Bound; 2] {
    let factor = if seconds >= 1800 { 1 } else { 2 };
    [
        Bound { percent: 5 * factor, more: 16 * MIB * factor },
        Bound { percent: 10 * factor, more: 32 * MIB * factor },
    ]
}

/// Of descriptors and threads: as many come and go as clients, queries and dates do, and none may stay. A date that happens to
/// be open at most samples of one half and at few of the other one is eight of them.
pub(super) const COUNT: [Bound; 2] = [Bound { percent: 0, more: 8 }, Bound { percent: 0, more: 24 }];

/// The figures of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halves {
    pub(super) peak: u64,
    pub(super) medians: [u64; 2],
    pub(super) high: [u64; 2],
}

/// Of a series that levels off its figures; else what grows, and how far. `bounds` are for the median and for the 95th percentile.
pub(super) fn levels_off(what: &str, series: &[u64], bounds: [Bound; 2]) -> Result<Halves, String> {
    let warm_up = (series.len() / 3).max(60.min(series.len() / 2));
    let half = (series.len() - warm_up) / 2;
    if half < 10 {
        return Err(format!("{what}: {} samples tell nothing", series.len()));
    }
    let sorted = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    };
    let (first, second) = (sorted(&series[warm_up..warm_up + half]), sorted(&series[warm_up + half..]));
    let at = |part: &[u64], percent: usize| part[(part.len() - 1) * percent / 100];
    let halves = Halves {
        peak: series.iter().copied().max().unwrap_or(0),
        medians: [at(&first, 50), at(&second, 50)],
        high: [at(&first, 95), at(&second, 95)],
    };
    for ([before, after], bound, which) in
        [(halves.medians, bounds[0], "median"), (halves.high, bounds[1], "95th percentile")]
    {
        if after > bound.of(before) {
            return Err(format!(
                "{what} does not level off: its {which} went from {before} to {after}, \
                 more than {} ({halves:?})",
                bound.of(before)
            ));
        }
    }
    Ok(halves)
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
    fn used(seconds: u64, leak: u64) -> Vec<u64> {
        let mut random = Random::seeded(seconds + leak);
        let sample = |second: u64| {
            let filled = 200 * MIB + 100 * MIB * (4 * second).min(seconds) / seconds;
            let backup = if second % 30 < 2 { 80 * MIB } else { 0 };
            filled + backup + random.between(0, 20 * MIB) + leak * second
        };
        (0..seconds).map(sample).collect()
    }

    fn verdict(seconds: u64, leak: u64) -> Result<Halves, String> {
        levels_off("memory", &used(seconds, leak), memory(seconds))
    }

    #[test]
    fn a_level_and_noisy_series_is_level() {
        for seconds in [120, 600, 3600] {
            let halves = verdict(seconds, 0).expect("it is level");
            assert!(halves.peak > halves.high[1] && halves.high[1] > halves.medians[1], "{halves:?}");
        }
    }

    #[test]
    fn a_leak_is_found_and_a_slow_one_by_the_hour() {
        let told = verdict(120, 4 * MIB).expect_err("120 MiB in 30 s");
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
        let told = levels_off("memory", &series, memory(3600)).expect_err("the peaks grow");
        assert!(told.contains("95th percentile"), "{told}");
    }

    #[test]
    fn a_descriptor_now_and_then_that_stays_is_found() {
        let mut random = Random::seeded(7);
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
