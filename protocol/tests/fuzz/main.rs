//! Fuzzing of framing and request parsing on any compiler: the checked-in corpus, changed by a seeded mutator, against
//! the properties that the fuzz target in `fuzz/` has too. 50,000 inputs, or 10,000,000 with `FASTPERSIST_FAULTS=long`,
//! or as many as it says; `FASTPERSIST_SEED` repeats one run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod corpus;
mod mutator;
mod properties;
mod sabotage;

use std::panic::catch_unwind;
use std::time::Instant;

use mutator::Random;

fn inputs() -> u64 {
    match std::env::var("FASTPERSIST_FAULTS") {
        Ok(value) if value == "long" => 10_000_000,
        Ok(value) => value.parse().expect("FASTPERSIST_FAULTS is \"long\" or a number of inputs"),
        Err(_) => 50_000,
    }
}

/// Runs the properties, and takes a panic for something found.
fn found(input: &[u8]) -> Option<String> {
    match catch_unwind(|| properties::check(input)) {
        Ok(Ok(())) => None,
        Ok(Err(found)) => Some(found),
        Err(_) => Some("it panicked".to_owned()),
    }
}

#[test]
fn whatever_is_sent_is_answered_right() {
    let begun = Instant::now();
    let seed = std::env::var("FASTPERSIST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let (files, dictionary) = (corpus::files(), corpus::dictionary());
    let mut random = Random::new(seed);
    let (mut bytes, count) = (0, inputs());
    for n in 0..count {
        let input = match files.get(n as usize) {
            Some(file) => file.clone(),
            None => mutator::mutated(&mut random, &files, &dictionary),
        };
        bytes += input.len();
        if let Some(found) = found(&input) {
            panic!("seed {seed}, input {n}: {found}\n{:?}", String::from_utf8_lossy(&input));
        }
    }
    println!(
        "fuzz: {count} runs, {count} faults injected, lost 0, wrong 0, took {:.0?} ({bytes} bytes, seed {seed})",
        begun.elapsed()
    );
}
