use proptest::prelude::*;

use super::*;

fn scan(text: &str) -> Result<Raw<'_>, JsonError> {
    let mut scanner = Scanner::new(text, 64);
    let raw = scanner.value()?;
    scanner.end()?;
    Ok(raw)
}

/// Texts that look like JSON often enough to reach every rule.
fn json_like() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\"a\""),
        Just("\"\\n\""),
        Just("\"\\u00e9\""),
        Just("\"\\ud83d\\ude00\""),
        Just("\"\\x\""),
        Just("1"),
        Just("-0"),
        Just("01"),
        Just("1.5e3"),
        Just("1."),
        Just("true"),
        Just("nul"),
        Just("null"),
        Just(" "),
        Just("\"é\""),
        Just("\"\u{1}\""),
        Just("\""),
        Just("-"),
    ];
    proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn accepts_what_serde_json_accepts(text in json_like()) {
        // Only the grammar: a `Value` would refuse numbers that a double cannot hold, and documents keep them.
        let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(scan(&text).is_ok(), theirs, "{}", text);
    }

    #[test]
    fn strings_survive_writing_and_scanning(text in ".*") {
        let mut out = Vec::new();
        write_string(&mut out, &text);
        let written = String::from_utf8(out).expect("UTF-8");
        prop_assert_eq!(serde_json::from_str::<String>(&written).expect("JSON"), text.clone());
        prop_assert_eq!(scan(&written).expect("valid").as_str().expect("string"), text.clone());
        let ascii = text.encode_utf16().fold(String::new(), |ascii, unit| format!("{ascii}\\u{unit:04x}"));
        let escaped = format!("\"{ascii}\"");
        prop_assert_eq!(scan(&escaped).expect("valid").as_str().expect("string"), text);
    }

    #[test]
    fn integers_are_written_as_they_are(value: i64) {
        let mut out = Vec::new();
        write_i64(&mut out, value);
        prop_assert_eq!(String::from_utf8(out).expect("ASCII"), value.to_string());
    }

    #[test]
    fn doubles_survive(value in proptest::num::f64::NORMAL | proptest::num::f64::ZERO) {
        let mut out = Vec::new();
        write_f64(&mut out, value);
        let text = String::from_utf8(out).expect("ASCII");
        let raw = scan(&text).expect("valid JSON");
        prop_assert_eq!(raw.as_f64().map(f64::to_bits), Some(value.to_bits()));
        prop_assert_eq!(raw.kind, Kind::Number { integer: false });
    }
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\u0041""#, r#""\ud800x""#] {
        let error = scan(text).expect_err(text);
        assert_eq!(error.what, "an escape for half a surrogate pair");
    }
}

#[test]
fn nesting_is_allowed_up_to_the_limit() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(scan(&nested(64)).is_ok());
    let error = scan(&nested(65)).expect_err("too deep");
    assert_eq!(error.what, "JSON nested deeper than limits.max_json_depth");
}

#[test]
fn integers_outside_64_bits_are_no_integers() {
    assert_eq!(scan("9223372036854775807").expect("valid").as_i64(), Some(i64::MAX));
    assert_eq!(scan("9223372036854775808").expect("valid").as_i64(), None);
    assert_eq!(scan("1e999").expect("valid").as_f64(), None);
}
