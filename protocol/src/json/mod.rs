//! A strict JSON scanner that builds nothing, and the few writers that replies need.
//!
//! The daemon stores documents byte for byte, so it never needs a tree: it must know that a line is
//! valid JSON, where its fields stand, and nothing more. One pass checks the grammar of RFC 8259, the
//! nesting limit, and that every string can be written as UTF-8 (an escape for half a surrogate pair
//! cannot, and would poison every later reader).
//!
//! Invariant: a [`Raw`] is the exact text of one valid JSON value.

mod write;

use std::borrow::Cow;

pub use write::{HEX, write_bool, write_f64, write_i64, write_opt_string, write_string, write_u64};

/// What is wrong with a text that should be JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at} of the line")]
pub struct JsonError {
    /// What was found or missing.
    pub what: &'static str,
    /// Offset into the text, in bytes, from 0.
    pub at: usize,
}

/// The type of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`; `escaped` when it holds a backslash.
    String {
        /// Whether the text differs from the value.
        escaped: bool,
    },
    /// A number; `integer` when it has neither fraction nor exponent.
    Number {
        /// Whether it is written as an integer.
        integer: bool,
    },
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// One valid JSON value: its exact text and its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// The bytes as they came, without surrounding space.
    pub text: &'a str,
    /// The type of the value.
    pub kind: Kind,
}

impl<'a> Raw<'a> {
    /// The value of a string, borrowed where it has no escapes; `None` for any other type.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        let Kind::String { escaped } = self.kind else { return None };
        let inner = &self.text[1..self.text.len() - 1];
        Some(if escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) })
    }

    /// The value of an integer that fits 64 bits, signed; `None` for anything else.
    pub fn as_i64(&self) -> Option<i64> {
        match self.kind {
            Kind::Number { integer: true } => self.text.parse().ok(),
            _ => None,
        }
    }

    /// The value of an integer that fits 64 bits, unsigned; `None` for anything else.
    pub fn as_u64(&self) -> Option<u64> {
        match self.kind {
            Kind::Number { integer: true } => self.text.parse().ok(),
            _ => None,
        }
    }

    /// The value of a number as the nearest double, where that is finite; `None` for anything else.
    pub fn as_f64(&self) -> Option<f64> {
        match self.kind {
            Kind::Number { .. } => self.text.parse().ok().filter(|f: &f64| f.is_finite()),
            _ => None,
        }
    }

    /// The value of a boolean; `None` for any other type.
    pub fn as_bool(&self) -> Option<bool> {
        (self.kind == Kind::Bool).then(|| self.text == "true")
    }

    /// Whether the value is `null`.
    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// The name of the type, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String { .. } => "a string",
            Kind::Number { integer: true } => "an integer",
            Kind::Number { integer: false } => "a number with a fraction or exponent",
            Kind::Bool => "a boolean",
            Kind::Null => "null",
        }
    }
}

/// A cursor over one JSON text.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
}

type Scan<T> = Result<T, JsonError>;

impl<'a> Scanner<'a> {
    /// A cursor at the start of `text` that allows `max_depth` open arrays and objects.
    pub fn new(text: &'a str, max_depth: usize) -> Self {
        Self { text, at: 0, depth: 0, max_depth }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fail<T>(&self, what: &'static str) -> Scan<T> {
        Err(JsonError { what, at: self.at })
    }

    /// Moves past spaces, tabs and line ends.
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Checks that nothing but space follows.
    ///
    /// # Errors
    /// When anything else does.
    pub fn end(&mut self) -> Scan<()> {
        self.skip_space();
        if self.at < self.text.len() { self.fail("text after the end of the JSON value") } else { Ok(()) }
    }

    fn enter(&mut self) -> Scan<()> {
        self.depth += 1;
        if self.depth > self.max_depth {
            return self.fail("JSON nested deeper than limits.max_json_depth");
        }
        self.at += 1;
        Ok(())
    }

    /// Whether the next value is an object; the cursor stays.
    pub fn at_object(&mut self) -> bool {
        self.skip_space();
        self.peek() == Some(b'{')
    }

    /// Reads an object, and lets `visit` read each value: it gets the field's name with the cursor
    /// standing before the value, and must move it behind, for example with [`value`](Self::value).
    ///
    /// # Errors
    /// When the text is no valid object.
    pub fn object<F>(&mut self, mut visit: F) -> Scan<&'a str>
    where
        F: FnMut(&mut Self, Cow<'a, str>) -> Scan<()>,
    {
        self.skip_space();
        let start = self.at;
        if self.peek() != Some(b'{') {
            return self.fail("not a JSON object");
        }
        self.enter()?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.skip_space();
                let name = self.name()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return self.fail("expected ':' after a field's name");
                }
                self.at += 1;
                visit(self, name)?;
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return self.fail("expected ',' or '}' in an object"),
                }
            }
            self.at += 1;
        }
        self.depth -= 1;
        Ok(&self.text[start..self.at])
    }

    fn name(&mut self) -> Scan<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a field's name in double quotes");
        }
        let start = self.at;
        let escaped = self.string()?;
        let inner = &self.text[start + 1..self.at - 1];
        Ok(if escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) })
    }

    /// Reads an array, and lets `visit` read each element with the cursor standing before it.
    ///
    /// # Errors
    /// When the text is no valid array.
    pub fn array<F>(&mut self, mut visit: F) -> Scan<&'a str>
    where
        F: FnMut(&mut Self) -> Scan<()>,
    {
        self.skip_space();
        let start = self.at;
        if self.peek() != Some(b'[') {
            return self.fail("not a JSON array");
        }
        self.enter()?;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                visit(self)?;
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b']') => break,
                    _ => return self.fail("expected ',' or ']' in an array"),
                }
            }
            self.at += 1;
        }
        self.depth -= 1;
        Ok(&self.text[start..self.at])
    }

    /// Reads one value of any type.
    ///
    /// # Errors
    /// When the text is no valid JSON value, or nested too deep.
    pub fn value(&mut self) -> Scan<Raw<'a>> {
        self.skip_space();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => Kind::String { escaped: self.string()? },
            Some(b'{') => {
                self.object(|scanner, _| scanner.value().map(drop))?;
                Kind::Object
            }
            Some(b'[') => {
                self.array(|scanner| scanner.value().map(drop))?;
                Kind::Array
            }
            Some(b'-' | b'0'..=b'9') => Kind::Number { integer: self.number()? },
            Some(b't') => self.word("true", Kind::Bool)?,
            Some(b'f') => self.word("false", Kind::Bool)?,
            Some(b'n') => self.word("null", Kind::Null)?,
            Some(_) => return self.fail("expected a JSON value"),
            None => return self.fail("the line ends where a JSON value should be"),
        };
        Ok(Raw { text: &self.text[start..self.at], kind })
    }

    fn word(&mut self, word: &'static str, kind: Kind) -> Scan<Kind> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(kind)
        } else {
            self.fail("expected true, false or null")
        }
    }

    /// Reads a string from its opening quote; answers whether it has escapes.
    fn string(&mut self) -> Scan<bool> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            let Some(skip) = bytes[self.at..].iter().position(|b| STOPS[*b as usize]) else {
                self.at = bytes.len();
                return self.fail("the line ends inside a string");
            };
            self.at += skip;
            match bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.fail("a control character inside a string must be escaped"),
            }
        }
    }

    /// Reads one escape, or two that make a surrogate pair.
    fn escape(&mut self) -> Scan<()> {
        match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.hex4(self.at + 2) {
                None => return self.fail("\\u needs four hexadecimal digits"),
                Some(0xD800..=0xDBFF) => {
                    let low = self.text.as_bytes().get(self.at + 6..self.at + 8) == Some(b"\\u");
                    match self.hex4(self.at + 8).filter(|_| low) {
                        Some(0xDC00..=0xDFFF) => self.at += 12,
                        _ => return self.fail("an escape for half a surrogate pair"),
                    }
                }
                Some(0xDC00..=0xDFFF) => return self.fail("an escape for half a surrogate pair"),
                Some(_) => self.at += 6,
            },
            _ => return self.fail("an escape that JSON does not have"),
        }
        Ok(())
    }

    fn hex4(&self, at: usize) -> Option<u32> {
        hex4(self.text.as_bytes().get(at..at + 4)?)
    }

    /// Reads a number; answers whether it is written as an integer.
    fn number(&mut self) -> Scan<bool> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail("a number needs a digit"),
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(integer)
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Scan<()> {
        let start = self.at;
        self.digits();
        if self.at == start { self.fail("a number needs a digit") } else { Ok(()) }
    }
}

/// Bytes at which a walk through a string must stop: quote, backslash, control characters.
const STOPS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
}

/// The value of a string's inside that the scanner has found valid.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let bytes = &rest.as_bytes()[at..];
        let (character, length) = match bytes.get(1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => unescape_unicode(bytes),
            Some(other) => (char::from(*other), 2),
            None => ('\\', 1),
        };
        out.push(character);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    out
}

fn unescape_unicode(bytes: &[u8]) -> (char, usize) {
    let unit = |at: usize| bytes.get(at..at + 4).and_then(hex4).unwrap_or(0);
    let high = unit(2);
    if (0xD800..0xDC00).contains(&high) {
        let code = 0x10000 + ((high - 0xD800) << 10) + (unit(8).wrapping_sub(0xDC00) & 0x3FF);
        (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
    } else {
        (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
    }
}

#[cfg(test)]
mod tests;
