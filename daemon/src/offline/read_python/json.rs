//! JSON as Python writes it: what is no JSON made some, and two documents compared by what they mean.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use fastpersist_protocol::json::{Kind, Raw, Scanner};
use fastpersist_protocol::time::{Date, Timestamp};

/// How deep documents may be nested. The daemon's own limit is lower, and told by the daemon.
pub(super) const MAX_DEPTH: usize = 256;

/// What Python writes for floats that JSON does not have.
const NOT_FINITE: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// The text with those made strings, as `query` answers them too, and how many they were.
pub(super) fn finite(text: &str) -> (Cow<'_, str>, u64) {
    if !NOT_FINITE.iter().any(|word| text.contains(word)) {
        return (Cow::Borrowed(text), 0);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut count = 0;
    let mut quoted = false;
    while let Some(next) = rest.chars().next() {
        let word = NOT_FINITE.iter().find(|word| !quoted && rest.starts_with(**word));
        let taken = match (word, next) {
            (Some(word), _) => {
                count += 1;
                out.push('"');
                out.push_str(word);
                out.push('"');
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') if quoted => rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at),
            (None, '"') => {
                quoted = !quoted;
                1
            }
            (None, other) => other.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    (Cow::Owned(out), count)
}

/// A number that two documents share if they mean the same. The library rewrites what looks like a
/// date-time, and adds `added` fields, so the texts in its log and in its table differ.
pub(super) fn meaning(document: &str, added: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    object(document, added, &mut hasher);
    hasher.finish()
}

fn object(text: &str, left_out: &[&str], hasher: &mut DefaultHasher) {
    let mut fields = Vec::new();
    let _ = Scanner::new(text, MAX_DEPTH).object(|scanner, name| {
        let value = scanner.value()?;
        if !left_out.contains(&&*name) {
            fields.push((name, value));
        }
        Ok(())
    });
    // Stable, so that of a field that stands twice the last one stays the last.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (index, (name, raw)) in fields.iter().enumerate() {
        if fields.get(index + 1).is_none_or(|next| next.0 != *name) {
            name.hash(hasher);
            value(raw, hasher);
        }
    }
    "}".hash(hasher);
}

fn value(raw: &Raw<'_>, hasher: &mut DefaultHasher) {
    match raw.kind {
        Kind::Object => object(raw.text, &[], hasher),
        Kind::Array => {
            let _ = Scanner::new(raw.text, MAX_DEPTH).array(|scanner| {
                value(&scanner.value()?, hasher);
                Ok(())
            });
            "]".hash(hasher);
        }
        Kind::String { .. } => {
            let text = raw.as_str().unwrap_or_default();
            match instant(&text) {
                Some(instant) => instant.as_micros().hash(hasher),
                None => text.hash(hasher),
            }
        }
        _ => raw.text.hash(hasher),
    }
}

/// The instant that the library makes of a text, if it makes one of it.
fn instant(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).or_else(|| {
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
        let date = digits.then(|| format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]))?;
        Timestamp::from_micros(i64::from(Date::parse(&date)?.epoch_days()) * 86_400_000_000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_becomes_a_string_and_texts_stay() {
        let (text, count) = finite(r#"{"a":NaN,"b":[-Infinity,Infinity],"NaN":"NaN \" Infinity"}"#);
        assert_eq!(text, r#"{"a":"NaN","b":["-Infinity","Infinity"],"NaN":"NaN \" Infinity"}"#);
        assert_eq!(count, 3);
        assert_eq!(finite(r#"{"a":"é NaN \\"}"#), (r#"{"a":"é NaN \\"}"#.into(), 0));
    }

    #[test]
    fn the_same_document_in_the_log_and_in_the_table() {
        let log = r#"{"b": [1.5, {"at": "2025-01-15"}], "a": "20250115", "value": 3}"#;
        let table = r#"{"a": "2025-01-15T00:00:00+00:00", "b": [1.5, {"at": "2025-01-15T00:00:00+00:00"}],
            "timestamp": "2025-01-15T10:00:00+00:00", "username": "u"}"#;
        let added = ["timestamp", "username", "value"];
        assert_eq!(meaning(log, &added), meaning(table, &added));
        assert_ne!(meaning(log, &added), meaning(&log.replace("1.5", "1.6"), &added));
        assert_ne!(meaning(r#"{"a":{"b":1}}"#, &[]), meaning(r#"{"a":{},"b":1}"#, &[]));
    }
}
