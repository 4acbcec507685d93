//! One connection's next write: `pipeline` requests, one after the other.
//!
//! Invariant: the requests of a window depend on the seed, the connection's number and how many
//! windows went before, never on the server or on time. So two servers get the same requests.

use crate::load::Load;
use crate::template::Template;
use crate::wire::Wire;

/// The next requests of one connection.
#[derive(Debug)]
pub(crate) struct Window {
    store: Template,
    read: Template,
    reads_percent: u64,
    depth: usize,
    keys: u64,
    random: XorShift,
    bytes: Vec<u8>,
}

impl Window {
    pub(crate) fn new<W: Wire>(load: &Load, wire: &W, connection: usize) -> Self {
        Self {
            store: wire.store(load),
            read: wire.read(load),
            reads_percent: u64::from(load.reads_percent),
            depth: load.pipeline,
            keys: load.keys,
            random: XorShift::new(load.seed, connection as u64),
            bytes: Vec::new(),
        }
    }

    /// Makes the next window and returns its bytes.
    #[inline]
    pub(crate) fn next(&mut self) -> &[u8] {
        match self.reads_percent {
            0 => Self::repeat(&self.store, self.depth, self.keys, &mut self.random, &mut self.bytes),
            100 => Self::repeat(&self.read, self.depth, self.keys, &mut self.random, &mut self.bytes),
            _ => self.mix(),
        }
        &self.bytes
    }

    /// The bytes of the present window.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Requests of one kind have one length, so only their keys change.
    fn repeat(template: &Template, depth: usize, keys: u64, random: &mut XorShift, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            for _ in 0..depth {
                template.append_to(bytes, 0);
            }
        }
        for request in bytes.chunks_exact_mut(template.byte_count()) {
            template.patch(request, random.below(keys));
        }
    }

    fn mix(&mut self) {
        self.bytes.clear();
        for _ in 0..self.depth {
            let is_read = self.random.below(100) < self.reads_percent;
            let template = if is_read { &self.read } else { &self.store };
            template.append_to(&mut self.bytes, self.random.below(self.keys));
        }
    }
}

/// Marsaglia's xorshift64: three shifts a number. Good enough to scatter keys.
#[derive(Debug)]
struct XorShift(u64);

impl XorShift {
    fn new(seed: u64, stream: u64) -> Self {
        // The finaliser of splitmix64: neighbouring seeds must not give neighbouring sequences.
        let mut mixed =
            seed.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // Zero is the one state that xorshift never leaves.
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    /// A number in `0..limit`, for limits of 32 bits.
    #[inline]
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) * limit) >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FastPersist, Redis};

    fn keys_of(bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        text.match_indices("key_0").map(|(at, _)| text[at..at + 10].to_owned()).collect()
    }

    #[test]
    fn both_servers_get_the_same_keys_in_the_same_order() {
        for reads_percent in [0, 30, 100] {
            let load = Load { pipeline: 50, reads_percent, ..Load::default() };
            let mut ours = Window::new(&load, &FastPersist::new("bench"), 3);
            let mut theirs = Window::new(&load, &Redis, 3);
            for _ in 0..3 {
                let keys = keys_of(ours.next());
                assert_eq!(keys.len(), 50);
                assert_eq!(keys, keys_of(theirs.next()));
            }
        }
    }

    #[test]
    fn connections_and_windows_differ() {
        let load = Load { pipeline: 20, ..Load::default() };
        let wire = FastPersist::new("bench");
        let mut one = Window::new(&load, &wire, 0);
        let mut two = Window::new(&load, &wire, 1);
        let first = keys_of(one.next());
        assert_ne!(first, keys_of(two.next()));
        assert_ne!(first, keys_of(one.next()));
    }

    #[test]
    fn a_mixed_window_has_about_the_asked_share_of_reads() {
        let load = Load { pipeline: 10_000, reads_percent: 30, ..Load::default() };
        let mut window = Window::new(&load, &FastPersist::new("bench"), 0);
        let text = String::from_utf8_lossy(window.next()).into_owned();
        let reads = text.matches("get_key_process").count();
        assert!((2_700..3_300).contains(&reads), "{reads} reads of 10000");
        assert_eq!(text.lines().count(), 10_000);
    }
}
