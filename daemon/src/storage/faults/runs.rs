//! How often an instrument runs, and what it tells in the end.

/// Whether the long runs are asked for.
pub(crate) fn is_long() -> bool {
    std::env::var("FASTPERSIST_FAULTS").is_ok_and(|value| value == "long")
}

/// The seeds of an instrument: the one that is asked for, as many as are asked for, or those of the short run. A range
/// as `25000..50000` is for whoever has several processors.
pub(crate) fn seeds(short: u64, long: u64) -> std::ops::Range<u64> {
    let number = |text: &str| {
        text.parse::<u64>().expect("FASTPERSIST_FAULTS is \"long\", a number of runs, or a range of seeds")
    };
    let count = match std::env::var("FASTPERSIST_FAULTS") {
        Ok(value) if value == "long" => long,
        Ok(value) => match value.split_once("..") {
            Some((first, end)) => return number(first)..number(end),
            None => number(&value),
        },
        Err(_) => short,
    };
    match std::env::var("FASTPERSIST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}

/// The figures of an instrument, and what it found.
#[derive(Default)]
pub(crate) struct Tally {
    runs: u64,
    injected: u64,
    found: Vec<String>,
}

impl Tally {
    /// Counts a run; `behind` is what helps to understand its problems.
    pub(crate) fn count(&mut self, run: &str, injected: u64, problems: &[String], behind: &str) {
        self.runs += 1;
        self.injected += injected;
        if self.runs.is_multiple_of(5_000) {
            println!("{} runs, {} faults, {} found something", self.runs, self.injected, self.found.len());
        }
        if !problems.is_empty() {
            let found = format!("{run}:\n  {}\n  {behind}", problems.join("\n  "));
            // At once: the long runs take an hour.
            println!("{found}");
            self.found.push(found);
        }
    }

    /// Tells the figures; panics where anything was found.
    pub(crate) fn end(self, instrument: &str) {
        let count = |what: &str| self.found.iter().filter(|found| found.contains(what)).count();
        let (lost, wrong) = (count("LOST"), count("WRONG"));
        let Self { runs, injected, found } = self;
        println!("{instrument}: {runs} runs, {injected} faults injected, lost {lost}, wrong {wrong}");
        let shown = found.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
        assert!(found.is_empty(), "{instrument}: {} of {runs} runs found something\n{shown}", found.len());
        // A single seed may not come as far as its fault.
        assert!(injected > 0 || runs < 10, "{instrument}: nothing was broken, so nothing was tested");
    }
}
