//! The properties find something when there is something to find: each test here hands them what a broken parser or a
//! broken framing would give.

use fastpersist_protocol::request::{Op, ParseLimits, Parsed, parse};

use crate::properties::{check_parsed, same_lines};

const LIMITS: ParseLimits = ParseLimits { max_json_depth: 64, max_batch_ops: 2 };

/// What is said about `line` when the parser gives for it what is right for `other`.
fn said(line: &str, other: &str) -> String {
    let parsed = parse(other.as_bytes(), LIMITS);
    check_parsed(line.as_bytes(), &parsed, LIMITS).expect_err(line)
}

#[test]
fn a_line_lost_doubled_cut_or_not_skipped_is_found() {
    let expected = [Some(&b"one"[..]), None, Some(b"two")];
    let right = vec![Some(b"one".to_vec()), None, Some(b"two".to_vec())];
    same_lines(&expected, &right).expect("right as it is");
    for at in 0..right.len() {
        let mut lost = right.clone();
        lost.remove(at);
        same_lines(&expected, &lost).expect_err("lost");
        let mut doubled = right.clone();
        doubled.insert(at, right[at].clone());
        same_lines(&expected, &doubled).expect_err("doubled");
    }
    let mut cut = right.clone();
    cut[0] = Some(b"on".to_vec());
    same_lines(&expected, &cut).expect_err("cut");
    let mut kept = right;
    kept[1] = Some(b"far too long".to_vec());
    same_lines(&expected, &kept).expect_err("not skipped");
}

#[test]
fn what_is_taken_or_refused_wrongly_is_found() {
    let ping = r#"{"op":"ping"}"#;
    assert!(said(ping, "{").contains("refused as none"));
    assert!(said("{", ping).contains("not JSON"));
    assert!(said(r#"{"op":"\ud800"}"#, ping).contains("not JSON"));
    assert!(said(&format!("{}{}", "[".repeat(65), "]".repeat(65)), ping).contains("not JSON"));
    assert!(said(r#"{"op":"ping","op":"ping"}"#, ping).contains("twice"));
    assert!(said(r#"{"op":"info"}"#, ping).contains("understood"));
    assert!(said(r#"{"op":"ping","id":[1]}"#, ping).contains("no scalar"));
}

#[test]
fn another_id_is_found() {
    assert!(said(r#"{"op":"ping","id":1.50}"#, r#"{"op":"ping","id":1.5}"#).contains("the id"));
    assert!(said(r#"{"op":"none","id":1}"#, r#"{"op":"none"}"#).contains("the id"));
    assert!(said("{", r#"{"op":"none","id":1}"#).contains("not JSON"));
}

#[test]
fn what_is_overlooked_or_changed_is_found() {
    let store = r#"{"op":"store","key":"k","data":{"n":1.0}}"#;
    for line in [
        r#"{"op":"store","key":"k","data":{"n":1.0},"proces_name":"p"}"#,
        r#"{"op":"store","key":"k","data":{"n":1.0},"durability":"buffered"}"#,
        r#"{"op":"store","key":"K","data":{"n":1.0}}"#,
        r#"{"op":"store","key":"k","data":{"n":1}}"#,
        r#"{"op":"store","key":"k","data":{ "n":1.0}}"#,
    ] {
        assert!(said(line, store).contains("became"), "{line}");
    }
    let null = r#"{"op":"get_item","key":"k","collection_name":null}"#;
    let named = r#"{"op":"get_item","key":"k","collection_name":"c"}"#;
    assert!(said(null, named).contains("became"));
    let batch = |ops: &str| format!(r#"{{"op":"batch","ops":[{ops}]}}"#);
    let delete = r#"{"op":"delete","key":"k"}"#;
    let two = batch(&[delete; 2].join(","));
    assert!(said(&batch(delete), &two).contains("ops became"));
    let changed = batch(&format!(r#"{delete},{{"op":"delete","key":"other"}}"#));
    assert!(said(&changed, &two).contains("became"));
    assert!(said(&batch(&[delete; 3].join(",")), &two).contains("ops became"));
}

#[test]
fn names_that_are_not_lawful_are_found() {
    for key in ["\"\"", "\"\\u0000\"", &format!("{:?}", "x".repeat(1025))] {
        let line = format!(r#"{{"op":"get_key","key":{key}}}"#);
        assert!(said(&line, r#"{"op":"get_key","key":"k"}"#).contains("was taken as"), "{line}");
    }
}

#[test]
fn an_answer_that_repeats_a_long_line_is_found() {
    let mut parsed = parse(br#"{"op":"none"}"#, LIMITS);
    let Parsed { request: Err(error), .. } = &mut parsed else { panic!("no such operation") };
    error.message = "x".repeat(10_000);
    let said = check_parsed(br#"{"op":"none"}"#, &parsed, LIMITS).expect_err("too long");
    assert!(said.contains("bytes"), "{said}");
}

#[test]
fn a_request_that_is_not_written_again_as_it_was_is_found() {
    // A parser cannot make a key that it would not take itself.
    let line = br#"{"op":"get_key","key":"k"}"#;
    let mut parsed = parse(line, LIMITS);
    let Ok(request) = &mut parsed.request else { panic!("a request") };
    let Op::GetKey { key, .. } = &mut request.op else { panic!("get_key") };
    *key = "".into();
    let said = check_parsed(line, &parsed, LIMITS).expect_err("no key");
    assert!(said.contains("read again"), "{said}");
}
