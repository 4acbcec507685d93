//! What clients and the daemon do in a run, one thing after the other, and that the same seed does the same.

use super::chance::Chance;

/// One thing that is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// One submission of some requests, which this seed chooses.
    Write(u64),
    Flush,
    /// Seals the log and removes what is not needed any more.
    Tidy,
    Export,
    Backup,
    /// The wall clock goes on to the next day.
    NextDay,
    Close,
}

/// How the storages are configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knobs {
    pub(super) max_wal_bytes: u64,
    pub(super) wal_retain_days: u64,
    /// How many times as long as else the documents are.
    pub(super) length: usize,
    /// Whether the dates' databases stand in directories of their own.
    pub(super) elsewhere: bool,
}

impl Knobs {
    pub(super) fn by_chance(chance: &mut Chance) -> Self {
        Self {
            // Each group its own segment, a few, preallocated.
            max_wal_bytes: chance.one_of(&[1, 4096, 65_536]),
            wal_retain_days: chance.below(2),
            length: chance.one_of(&[1, 8]),
            elsewhere: chance.percent(30),
        }
    }
}

/// So many submissions; where `with_duckdb`, what needs DuckDB between them.
pub(super) fn by_chance(chance: &mut Chance, writes: u64, with_duckdb: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..writes {
        steps.push(Step::Write(chance.next()));
        match chance.below(40) {
            0..=2 if with_duckdb => steps.push(Step::Flush),
            3..=4 if with_duckdb => steps.extend([Step::Flush, Step::Tidy]),
            5 if with_duckdb => steps.push(Step::Backup),
            6 if with_duckdb => steps.push(Step::Export),
            7 => steps.push(Step::NextDay),
            8..=9 => steps.push(Step::Tidy),
            _ => {}
        }
    }
    if with_duckdb && chance.percent(30) {
        steps.push(Step::Close);
    }
    steps
}

/// The script of the kills: 60 submissions with everything that happens between them.
pub(super) fn fixed() -> Vec<Step> {
    let mut chance = Chance::new(60);
    let mut steps = Vec::new();
    for number in 1..=60 {
        steps.push(Step::Write(chance.next()));
        match number {
            10 | 27 | 52 => steps.push(Step::Flush),
            16 | 34 => steps.extend([Step::Flush, Step::Tidy]),
            22 | 48 => steps.push(Step::Backup),
            30 | 44 => steps.push(Step::Export),
            38 => steps.push(Step::NextDay),
            _ => {}
        }
    }
    steps.push(Step::Close);
    steps
}
