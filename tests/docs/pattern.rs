//! What differs from run to run is written `…`, in text and in JSON.

use serde_json::Value;

/// Whether a whole line is as the pattern says; `…` is any text.
pub(super) fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('…') else { return pattern == line };
    let Some(line) = line.strip_prefix(begin) else { return false };
    let starts = line.char_indices().map(|(at, _)| at).chain([line.len()]);
    starts.into_iter().any(|at| line_matches(rest, &line[at..]))
}

/// Fails unless every pattern is a line of `printed`, in this order; other lines may stand between.
pub(super) fn assert_lines<'p>(what: &str, patterns: impl IntoIterator<Item = &'p str>, printed: &str) {
    let mut lines = printed.lines();
    for pattern in patterns {
        let found = lines.any(|line| line_matches(pattern.trim_end(), line.trim_end()));
        assert!(found, "{what}: no line\n{pattern}\nat its place in\n{printed}");
    }
}

/// Whether a value is as the pattern says; the text `"…"` is any value.
pub(super) fn value_matches(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::String(text), _) if text == "…" => true,
        (Value::Object(pattern), Value::Object(value)) => {
            pattern.len() == value.len()
                && pattern.iter().all(|(name, part)| value.get(name).is_some_and(|v| value_matches(part, v)))
        }
        (Value::Array(pattern), Value::Array(value)) => {
            pattern.len() == value.len() && pattern.iter().zip(value).all(|(part, v)| value_matches(part, v))
        }
        _ => pattern == value,
    }
}

#[test]
fn dots_are_anything_and_nothing_else_is() {
    assert!(line_matches("a…c", "abc") && line_matches("…", "") && line_matches("x…y…", "x1y2y3"));
    assert!(!line_matches("a…c", "abd") && !line_matches("a", "ab") && !line_matches("…a", "ab"));
    let json = |text| serde_json::from_str::<Value>(text).unwrap();
    assert!(value_matches(&json(r#"{"a":"…","b":[1]}"#), &json(r#"{"b":[1],"a":{"c":2}}"#)));
    assert!(!value_matches(&json(r#"{"a":"…"}"#), &json(r#"{"a":1,"b":2}"#)), "a field too many");
    assert!(!value_matches(&json("[1,2]"), &json("[1]")));
}
