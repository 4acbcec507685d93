//! The bytes of one request, with the places where its key goes.
//!
//! Formatting a request costs more than sending it, so each is formatted once and only the digits
//! of its key change afterwards.
//!
//! Invariant: the digits have a fixed width, so a patched request is as long as its template and a
//! window of them never moves.

/// Stands for the key's digits in a template's pattern. No JSON text contains it unescaped.
pub(crate) const DIGITS: char = '\u{1}';

pub(crate) const KEY_DIGITS_MIN: usize = 6;
pub(crate) const KEY_DIGITS_MAX: usize = 8;

const DOCUMENT_HEAD: &str = r#"{"name":"item_"#;
const DOCUMENT_MIDDLE: &str = r#"","value":100,"text":""#;
const DOCUMENT_END: &str = r#""}"#;
const PADDING: &str = "the quick brown fox jumps over the lazy dog 0123456789 ";

/// The length of a document without its digits and its padding.
pub(crate) const DOCUMENT_BYTES_MIN: usize = DOCUMENT_HEAD.len() + DOCUMENT_MIDDLE.len() + DOCUMENT_END.len();

/// One request, ready but for its key.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
    digits: usize,
}

impl Template {
    /// Reads a pattern in which [`DIGITS`] stands wherever the key's digits go.
    pub(crate) fn new(pattern: &str, digits: usize) -> Self {
        let mut bytes = Vec::with_capacity(pattern.len() + 2 * digits);
        let mut places = Vec::new();
        for (index, part) in pattern.split(DIGITS).enumerate() {
            if index > 0 {
                places.push(bytes.len());
                bytes.resize(bytes.len() + digits, b'0');
            }
            bytes.extend_from_slice(part.as_bytes());
        }
        Self { bytes, places, digits }
    }

    /// The length of the request, whatever its key.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the request for `key`.
    pub fn append_to(&self, out: &mut Vec<u8>, key: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        self.patch(&mut out[start..], key);
    }

    /// Writes `key` into a request that was appended from this template before.
    #[inline]
    pub(crate) fn patch(&self, request: &mut [u8], key: u64) {
        let all = eight_digits(key as u32);
        let digits = &all[KEY_DIGITS_MAX - self.digits..];
        for &place in &self.places {
            request[place..place + self.digits].copy_from_slice(digits);
        }
    }
}

/// The pattern of a document of exactly `bytes` bytes. Each key has a document of its own, so that
/// nothing behind the socket can profit from a million equal ones.
pub(crate) fn document(bytes: usize, digits: usize) -> String {
    let padding = bytes.saturating_sub(DOCUMENT_BYTES_MIN + digits);
    let text: String = PADDING.chars().cycle().take(padding).collect();
    format!("{DOCUMENT_HEAD}{DIGITS}{DOCUMENT_MIDDLE}{text}{DOCUMENT_END}")
}

/// `00` to `99`, one after the other: a division by 100 yields two digits.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number = 0;
    while number < 100 {
        pairs[2 * number] = b'0' + (number / 10) as u8;
        pairs[2 * number + 1] = b'0' + (number % 10) as u8;
        number += 1;
    }
    pairs
};

#[inline]
fn eight_digits(mut number: u32) -> [u8; KEY_DIGITS_MAX] {
    let mut text = [b'0'; KEY_DIGITS_MAX];
    for pair in text.chunks_exact_mut(2).rev() {
        let at = (number % 100) as usize * 2;
        pair.copy_from_slice(&PAIRS[at..at + 2]);
        number /= 100;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_right_aligned_and_padded_with_zeros() {
        for (number, text) in
            [(0, "00000000"), (7, "00000007"), (123_456, "00123456"), (99_999_999, "99999999")]
        {
            assert_eq!(eight_digits(number), text.as_bytes());
        }
    }

    #[test]
    fn a_patch_reaches_every_place_and_nothing_else() {
        let template = Template::new("a\u{1}b\u{1}", 6);
        let mut out = b"before ".to_vec();
        template.append_to(&mut out, 42);
        assert_eq!(out, b"before a000042b000042");
        template.patch(&mut out[7..], 999_999);
        assert_eq!(out, b"before a999999b999999");
        assert_eq!(template.byte_count(), 14);
    }

    #[test]
    fn a_document_has_the_length_that_was_asked_for_and_is_json() {
        for bytes in [DOCUMENT_BYTES_MIN + 6, 130, 131, 4_096] {
            let template = Template::new(&document(bytes, 6), 6);
            let mut out = Vec::new();
            template.append_to(&mut out, 123);
            assert_eq!(out.len(), bytes);
            let value: serde_json::Value = serde_json::from_slice(&out).expect("a document is JSON");
            assert_eq!(value["name"], "item_000123");
            assert_eq!(value["value"], 100);
        }
    }
}
