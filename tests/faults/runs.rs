//! How often an instrument runs, and what it says at its end.

use std::time::Instant;

/// The runs of an instrument: those of the short run, of the long one, or as many as are asked for.
pub(crate) fn count(short: u64, long: u64) -> u64 {
    match std::env::var("FASTPERSIST_FAULTS") {
        Ok(value) if value == "long" => long,
        Ok(value) => value.parse().expect("FASTPERSIST_FAULTS is \"long\" or a number of runs"),
        Err(_) => short,
    }
}

/// The seeds of an instrument: as many as [`count`] says, from 1 on, or the one in `FASTPERSIST_SEED`.
pub(crate) fn seeds(short: u64, long: u64) -> Vec<u64> {
    match std::env::var("FASTPERSIST_SEED") {
        Ok(seed) => vec![seed.parse().expect("FASTPERSIST_SEED is a number")],
        Err(_) => (1..=count(short, long)).collect(),
    }
}

/// Whether the long runs are asked for.
pub(crate) fn is_long() -> bool {
    std::env::var("FASTPERSIST_FAULTS").is_ok_and(|value| value == "long")
}

/// The figures of an instrument.
pub(crate) struct Tally {
    instrument: &'static str,
    begun: Instant,
    pub(crate) runs: u64,
    /// Faults that really happened.
    pub(crate) injected: u64,
    /// What was answered and is not there.
    pub(crate) lost: Vec<String>,
    /// Whatever else is not as promised.
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    pub(crate) fn new(instrument: &'static str) -> Self {
        Self { instrument, begun: Instant::now(), runs: 0, injected: 0, lost: Vec::new(), wrong: Vec::new() }
    }

    /// Tells the figures, in the one form that `tests/README.md` has; panics where anything was found.
    pub(crate) fn end(self) {
        let Self { instrument, begun, runs, injected, lost, wrong } = self;
        println!(
            "{instrument}: {runs} runs, {injected} faults injected, lost {}, wrong {}, took {:.0?}",
            lost.len(),
            wrong.len(),
            begun.elapsed()
        );
        let shown: Vec<_> = lost.iter().chain(&wrong).take(5).cloned().collect();
        assert!(shown.is_empty(), "{instrument} found something:\n{}", shown.join("\n"));
        assert!(injected > 0, "{instrument}: nothing was broken, so nothing was tested");
    }
}
