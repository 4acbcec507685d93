//! Lines out of a byte stream, with a bound on their length.
//!
//! Invariant: the buffer never holds more than one line limit plus one read; a line over the limit is
//! dropped as it arrives and still takes its place in the order, as [`Line::TooLong`].

/// How much room [`LineBuffer::space`] offers for one read, in bytes.
pub const READ_BYTES: usize = 64 * 1024;

/// One line of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// The bytes before `\n`, without a trailing `\r`.
    Bytes(&'a [u8]),
    /// The line was longer than the limit and its bytes are gone.
    TooLong,
}

/// A growing buffer that is read line by line.
///
/// Reading is in three steps, so that requests may borrow from the buffer while they are worked on:
/// fill [`space`](Self::space), walk over [`peek`](Self::peek), then [`consume`](Self::consume).
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    filled: usize,
    /// Where the search for the next newline may begin: nothing before it holds one.
    searched: usize,
    /// Inside a line that is already too long: drop bytes up to and including its `\n`.
    skipping: bool,
    max_line_bytes: usize,
}

impl LineBuffer {
    /// An empty buffer for lines of up to `max_line_bytes`, the newline not counted.
    pub fn new(max_line_bytes: usize) -> Self {
        Self { bytes: Vec::new(), filled: 0, searched: 0, skipping: false, max_line_bytes }
    }

    /// Room for the next read; tell how much of it was used with [`fill`](Self::fill).
    pub fn space(&mut self) -> &mut [u8] {
        let wanted = self.filled + READ_BYTES;
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// `count` bytes of the space are now filled.
    pub fn fill(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
        if self.skipping {
            self.drop_skipped();
        }
    }

    /// While a too long line goes on, its bytes are not kept. The `\n` that ends it stays, as an
    /// empty line at the front, so that [`peek`](Self::peek) reports it in its place.
    fn drop_skipped(&mut self) {
        match memchr::memchr(b'\n', &self.bytes[..self.filled]) {
            Some(end) => self.discard(end),
            None => self.filled = 0,
        }
        self.searched = 0;
    }

    fn discard(&mut self, count: usize) {
        self.bytes.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    /// The line that begins at `from`, and where the next one begins; `None` while it is incomplete.
    pub fn peek(&self, from: usize) -> Option<(Line<'_>, usize)> {
        let search_from = from.max(self.searched);
        let found = memchr::memchr(b'\n', self.bytes.get(search_from..self.filled)?)?;
        let end = search_from + found;
        if self.skipping && from == 0 {
            return Some((Line::TooLong, end + 1));
        }
        let mut line = &self.bytes[from..end];
        if line.last() == Some(&b'\r') {
            line = &line[..line.len() - 1];
        }
        let line = if line.len() > self.max_line_bytes { Line::TooLong } else { Line::Bytes(line) };
        Some((line, end + 1))
    }

    /// Drops the first `count` bytes: the lines that have been worked on.
    ///
    /// What stays may be the beginning of a line. When it is already over the limit, its bytes go too.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.filled);
        if count > 0 {
            self.skipping = false;
            self.discard(count);
            self.searched = 0;
        }
        if self.peek(0).is_some() {
            return;
        }
        self.searched = self.filled;
        // One byte of grace: it may be the `\r` of a line that is just within the limit.
        if self.skipping || self.filled > self.max_line_bytes + 1 {
            self.skipping = true;
            self.filled = 0;
            self.searched = 0;
        }
        if self.filled == 0 && self.bytes.len() > 4 * READ_BYTES {
            self.bytes.truncate(READ_BYTES);
            self.bytes.shrink_to_fit();
        }
    }

    /// Whether the stream stands between two lines.
    pub fn is_empty(&self) -> bool {
        self.filled == 0 && !self.skipping
    }

    /// Bytes that are buffered and not consumed.
    pub fn len(&self) -> usize {
        self.filled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in pieces and collects every line, as a connection does.
    fn lines_of(input: &[u8], pieces: &[usize], limit: usize) -> Vec<Option<Vec<u8>>> {
        let mut buffer = LineBuffer::new(limit);
        let mut out = Vec::new();
        let mut rest = input;
        let mut sizes = pieces.iter().copied().cycle();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(1).clamp(1, rest.len());
            buffer.space()[..size].copy_from_slice(&rest[..size]);
            buffer.fill(size);
            rest = &rest[size..];
            let mut at = 0;
            while let Some((line, next)) = buffer.peek(at) {
                out.push(match line {
                    Line::Bytes(bytes) => Some(bytes.to_vec()),
                    Line::TooLong => None,
                });
                at = next;
            }
            buffer.consume(at);
            assert!(buffer.len() <= limit + 1, "the buffer is bounded by the limit");
        }
        out
    }

    /// The plain meaning, to compare with.
    fn expected(input: &[u8], limit: usize) -> Vec<Option<Vec<u8>>> {
        let mut parts: Vec<_> = input.split(|b| *b == b'\n').collect();
        parts.pop();
        parts
            .into_iter()
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(|line| (line.len() <= limit).then(|| line.to_vec()))
            .collect()
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x')], 0..200),
            pieces in proptest::collection::vec(1usize..20, 1..5),
        ) {
            prop_assert_eq!(lines_of(&input, &pieces, 8), expected(&input, 8));
        }
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_byte_more_does_not() {
        for ending in ["\n", "\r\n"] {
            let mut input = vec![b'a'; 8];
            input.extend_from_slice(ending.as_bytes());
            input.extend_from_slice(&[b'b'; 9]);
            input.extend_from_slice(ending.as_bytes());
            input.extend_from_slice(b"c\n");
            let lines = lines_of(&input, &[1], 8);
            assert_eq!(lines, [Some(vec![b'a'; 8]), None, Some(b"c".to_vec())]);
        }
    }
}
