//! How deep a text nests brackets, counted before a parser sees it.
//!
//! It need not read SQL exactly: DuckDB's parser has bounds of its own behind it. It only keeps most of what
//! is nested for its own sake away from everything that walks a tree.

/// The deepest nesting of `(`, `[` and `{` outside of strings, quoted names and comments.
pub(super) fn depth(sql: &str) -> usize {
    let bytes = sql.as_bytes();
    let (mut at, mut depth, mut deepest) = (0, 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        at += match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                1
            }
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                1
            }
            b'\'' | b'"' => quoted(rest, *byte),
            b'-' if rest.starts_with(b"--") => until(rest, b"\n"),
            b'/' if rest.starts_with(b"/*") => until(rest, b"*/"),
            b'$' => dollar_quoted(rest),
            _ => 1,
        };
    }
    deepest
}

/// The length of a quoted text; a doubled quote begins another one, which comes to the same.
fn quoted(rest: &[u8], quote: u8) -> usize {
    rest[1..].iter().position(|byte| *byte == quote).map_or(rest.len(), |end| end + 2)
}

/// The length up to and with `end`.
fn until(rest: &[u8], end: &[u8]) -> usize {
    memchr::memmem::find(rest, end).map_or(rest.len(), |at| at + end.len())
}

/// The length of `$tag$…$tag$`; 1 where it is a parameter.
fn dollar_quoted(rest: &[u8]) -> usize {
    let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let tag = 1 + rest[1..].iter().take_while(|byte| is_tag(byte)).count();
    if rest.get(tag) != Some(&b'$') {
        return 1;
    }
    let tag = &rest[..=tag];
    memchr::memmem::find(&rest[tag.len()..], tag).map_or(rest.len(), |at| at + 2 * tag.len())
}

#[cfg(test)]
mod tests {
    use super::depth;

    #[test]
    fn brackets_are_counted_outside_of_texts_and_comments() {
        for (sql, expected) in [
            ("SELECT 1", 0),
            ("SELECT (1), [2, {'a': (3)}]", 3),
            ("SELECT '(((' , \"[[[\", 'it''s ((('", 0),
            ("SELECT 1 -- (((\n, (2)", 1),
            ("SELECT /* ((( */ (2)", 1),
            ("SELECT $$((($$, $a$($$($a$, ($1)", 1),
            ("SELECT '(((", 0),
            (")))(((", 3),
        ] {
            assert_eq!(depth(sql), expected, "{sql}");
        }
    }
}
