//! Redis's protocol, RESP 2, as far as `HSET` and `HGET` of one field need it.
//!
//! Invariant: a bulk string is skipped by its length, never searched, so whatever is in a document
//! cannot look like the end of an answer.

use memchr::memchr;

use super::{Answers, Tally, Wire, keep_head};
use crate::error::BenchError;
use crate::load::Load;
use crate::template::{DIGITS, Template, document};

const FIELD: &str = "worker1";
const KEY_PREFIX: &str = "key_";

/// Speaks to a Redis server: a hash for each key, with one field.
#[derive(Debug, Clone, Copy)]
pub struct Redis;

impl Wire for Redis {
    type Answers = Replies;

    fn store(&self, load: &Load) -> Template {
        let digits = load.key_digits();
        let pattern = format!(
            "*4\r\n{}{}{}{}",
            bulk("HSET", 4),
            key(digits),
            bulk(FIELD, FIELD.len()),
            bulk(&document(load.value_bytes, digits), load.value_bytes),
        );
        Template::new(&pattern, digits)
    }

    fn read(&self, load: &Load) -> Template {
        let digits = load.key_digits();
        let pattern = format!("*3\r\n{}{}{}", bulk("HGET", 4), key(digits), bulk(FIELD, FIELD.len()));
        Template::new(&pattern, digits)
    }
}

/// `length` is given because a pattern is shorter than the text that it stands for.
fn bulk(pattern: &str, length: usize) -> String {
    format!("${length}\r\n{pattern}\r\n")
}

fn key(digits: usize) -> String {
    bulk(&format!("{KEY_PREFIX}{DIGITS}"), KEY_PREFIX.len() + digits)
}

/// Counts replies.
#[derive(Debug, Default)]
pub struct Replies {
    /// What is still to come of a bulk string, its final `\r\n` included.
    body_left: usize,
    /// The start of a reply's first line whose end has not come yet.
    head: Vec<u8>,
}

impl Answers for Replies {
    #[inline]
    fn count(&mut self, bytes: &[u8], tally: &mut Tally) -> Result<usize, BenchError> {
        let mut answers = 0;
        let mut rest = bytes;
        loop {
            if self.body_left > 0 {
                let here = self.body_left.min(rest.len());
                self.body_left -= here;
                rest = &rest[here..];
                if self.body_left > 0 {
                    return Ok(answers);
                }
                answers += 1;
            }
            let Some(end) = memchr(b'\n', rest) else {
                keep_head(&mut self.head, rest);
                return Ok(answers);
            };
            let line = &rest[..end];
            self.body_left = if self.head.is_empty() {
                judge(line, tally)?
            } else {
                keep_head(&mut self.head, line);
                let body = judge(&self.head, tally)?;
                self.head.clear();
                body
            };
            answers += usize::from(self.body_left == 0);
            rest = &rest[end + 1..];
        }
    }
}

/// Reads a reply's first line and returns how many bytes follow it.
#[inline]
fn judge(line: &[u8], tally: &mut Tally) -> Result<usize, BenchError> {
    match line.first() {
        Some(b':' | b'+') => Ok(0),
        Some(b'-') => {
            tally.add_error(line);
            Ok(0)
        }
        Some(b'$') if line.starts_with(b"$-1") => {
            tally.misses += 1;
            Ok(0)
        }
        Some(b'$') => bulk_length(&line[1..]).map(|length| length + 2).ok_or_else(|| bad(line)),
        _ => Err(bad(line)),
    }
}

fn bulk_length(text: &[u8]) -> Option<usize> {
    let text = text.strip_suffix(b"\r")?;
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_usize, |number, &digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cold]
fn bad(line: &[u8]) -> BenchError {
    BenchError::BadAnswer(String::from_utf8_lossy(line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::count_in_all_splits;
    use super::*;

    fn text(template: &Template, key: u64) -> String {
        let mut bytes = Vec::new();
        template.append_to(&mut bytes, key);
        String::from_utf8(bytes).expect("a request is text")
    }

    #[test]
    fn requests_say_the_lengths_of_what_they_carry() {
        let load = Load::default();
        let store = text(&Redis.store(&load), 123);
        let mut parts = store.split("\r\n");
        assert_eq!(parts.next(), Some("*4"));
        let mut words = Vec::new();
        while let (Some(length), Some(word)) = (parts.next(), parts.next()) {
            assert_eq!(length, format!("${}", word.len()));
            words.push(word);
        }
        assert_eq!(words[..3], ["HSET", "key_000123", "worker1"]);
        assert_eq!(words[3].len(), 130);
        assert_eq!(text(&Redis.read(&load), 1), "*3\r\n$4\r\nHGET\r\n$10\r\nkey_000001\r\n$7\r\nworker1\r\n");
    }

    #[test]
    fn replies_are_counted_wherever_they_are_cut() {
        let stream = concat!(
            ":1\r\n",
            ":0\r\n",
            "$5\r\na\r\nb\n\r\n",
            "-ERR wrong\r\n",
            "$-1\r\n",
            "+OK\r\n",
            "$0\r\n\r\n",
            "$12\r\n:1\r\n:1\r\n:1\r\n\r\n",
            "-ERR later\r\n",
            "$9\r\nunfin",
        );
        let tally = Tally { errors: 2, misses: 1, first_error: Some("-ERR wrong".to_owned()) };
        count_in_all_splits::<Replies>(stream.as_bytes(), 9, &tally);
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for stream in ["*1\r\n", "hello\r\n", "$x\r\n", "$\r\n", "\r\n", "$99999999999999999999999\r\n"] {
            let counted = Replies::default().count(stream.as_bytes(), &mut Tally::default());
            assert!(matches!(counted, Err(BenchError::BadAnswer(_))), "{stream:?}: {counted:?}");
        }
    }
}
