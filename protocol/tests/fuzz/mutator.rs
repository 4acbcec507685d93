//! Changes inputs the way a fuzzer does, without one: from a seed, on any compiler.
//!
//! Invariant: the same seed makes the same inputs.

/// No input grows beyond this.
const MAX_BYTES: usize = 4096;

/// A generator of numbers (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Two places in what has `length` bytes, in order.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let (one, other) = (self.below(length + 1), self.below(length + 1));
        one.min(other)..one.max(other)
    }
}

/// An input of the corpus, changed one to eight times.
pub(crate) fn mutated(random: &mut Random, corpus: &[Vec<u8>], dictionary: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    for _ in 0..=random.below(8) {
        change(random, &mut input, corpus, dictionary);
    }
    input.truncate(MAX_BYTES);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>], dictionary: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    match random.below(8) {
        // A bit, a byte.
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => input.insert(at, *random.pick(b"\n\r\"\\{}[],:0-e \x00\xff")),
        3 => drop(input.drain(random.range(input.len()))),
        // A piece of this one once more, or many times.
        4 => {
            let range = random.range(input.len());
            let piece = input[range.start..range.end.min(range.start + 64)].to_vec();
            let times = if random.below(4) == 0 { 100 } else { 1 };
            insert(input, at, &piece.repeat(times));
        }
        // Pieces of another one.
        5 => {
            let other = random.pick(corpus);
            let piece = &other[random.range(other.len())];
            insert(input, at, piece);
        }
        6 => {
            let other = random.pick(corpus);
            input.truncate(at);
            input.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        _ => insert(input, at, random.pick::<Vec<u8>>(dictionary)),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if input.len() + piece.len() <= MAX_BYTES {
        input.splice(at..at, piece.iter().copied());
    }
}
