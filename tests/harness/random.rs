//! Random moments and sizes, from a seed that a failing test can print.

use std::time::{SystemTime, UNIX_EPOCH};

/// An xorshift generator: enough to vary a test, and one number repeats its choices.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded from the clock, or from `FASTPERSIST_SEED`; printed, so that the output of a failure has it.
    pub(crate) fn new() -> Self {
        let clock = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
            now.as_nanos() as u64
        };
        let seed = std::env::var("FASTPERSIST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(clock);
        eprintln!("FASTPERSIST_SEED={seed}");
        Self(seed | 1)
    }

    /// The choices of one seed. Near seeds have far choices.
    pub(crate) fn seeded(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// True in one of `of` cases.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.between(1, of) == 1
    }

    /// One of several.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.between(0, of.len() as u64 - 1) as usize].clone()
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low + 1)
    }
}
