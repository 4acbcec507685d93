//! Lines with a valid checksum that nobody should have written, and what is read from those that are whole.

use fastpersist_protocol::value::Value;

use super::*;

/// A line with this body, as the log ends it.
fn line(body: &str, seq: u64, durable_seq: u64) -> Vec<u8> {
    let mut line = Vec::new();
    finish_line(body.as_bytes(), hash_body(body.as_bytes()), seq, durable_seq, &mut line);
    line.pop();
    line
}

fn decoded(body: &str, model: Model) -> Result<Entry, EntryError> {
    decode(&line(body, 7, 6), model)
}

const STORE: &str = r#"{"op":"store","key":"k","data":{},"updated_at":"2025-01-15T10:30:00Z""#;
const ITEM: &str = r#"{"op":"store","key":"k","collection_name":"c","item_name":"i","data":{},"updated_at":"2025-01-15T10:30:00Z""#;

#[test]
fn a_line_of_another_form_is_told_and_why() {
    for (model, body, why) in [
        (Model::Dated, r#"{"op":"merge","key":"k","data":{},"updated_at":"2025-01-15""#, "op is neither"),
        (Model::Dated, r#"{"op":"store","data":{},"updated_at":"2025-01-15""#, "key is missing"),
        (Model::Dated, r#"{"op":"store","key":"k","data":{}"#, "updated_at is missing"),
        (Model::Dated, r#"{"op":"store","key":"k","data":{},"updated_at":"soon""#, "updated_at is missing"),
        (Model::Dated, r#"{"op":"store","key":"k","data":[],"updated_at":"2025-01-15""#, "data is no object"),
        (Model::Dated, r#"{"op":"store","key":"k","updated_at":"2025-01-15""#, "data is no object"),
        (
            Model::Dated,
            r#"{"op":"delete","key":"k","data":{},"updated_at":"2025-01-15""#,
            "data is no object",
        ),
        (Model::Dated, ITEM, "not those of a dated storage"),
        (Model::Collection, STORE, "not those of a collection storage"),
        (Model::Dated, r#"{"op":"batch","ops":[]"#, "it holds no record"),
        (Model::Dated, r#"{"op":"batch","ops":{}"#, "a JSON array"),
        (Model::Dated, r#"{"op":"gap","count":0,"lost":true"#, "what is missing"),
        (Model::Dated, r#"{"op":"gap","count":2"#, "what is missing"),
        (Model::Dated, "{\"op\":\"store\",\"key\":\"k\"\u{1}", ""),
    ] {
        match decoded(body, model) {
            Err(EntryError::Meaning(reason)) => assert!(reason.contains(why), "{body}: {reason}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn further_fields_are_told_where_they_do_not_fit() {
    for (fields, why) in [
        (r#","value":[1]"#, "value is no"),
        (r#","timestamp":"soon""#, "timestamp cannot be read"),
        (r#","timestamp":7"#, "timestamp cannot be read"),
        (r#","colour":"red""#, "\"colour\" is unknown"),
        (r#","producer":"p""#, "do not stand together"),
        (r#","producer_seq":1"#, "do not stand together"),
        (r#","producer":1,"producer_seq":1"#, "no name"),
        (r#","producer":"p","producer_seq":"1""#, "no name"),
    ] {
        match decoded(&format!("{ITEM}{fields}"), Model::Collection) {
            Err(EntryError::Meaning(reason)) => assert!(reason.contains(why), "{fields}: {reason}"),
            other => panic!("{fields}: {other:?}"),
        }
    }
}

#[test]
fn one_bad_operation_spoils_the_batch() {
    let batch = |second: &str| format!(r#"{{"op":"batch","ops":[{STORE}}},{STORE}{second}}}]"#);
    let entry = decoded(&batch(""), Model::Dated).expect("it is whole");
    assert_eq!(entry.records.iter().map(Record::seq).collect::<Vec<_>>(), [7, 8]);
    assert_eq!((entry.seq, entry.last_seq(), entry.durable_seq), (7, 8, 6));
    for second in [r#","colour":"red""#, r#","producer":"p","producer_seq":1"#, r#","producer_seq":1"#] {
        let error = decoded(&batch(second), Model::Dated).expect_err(second);
        assert!(matches!(error, EntryError::Meaning(_)), "{second}: {error}");
    }
}

#[test]
fn a_value_and_a_timestamp_come_back_as_they_were_written() {
    for (fields, value) in [
        ("", None),
        (r#","value":-7"#, Some(Value::Int(-7))),
        (r#","value":0.5"#, Some(Value::Float(0.5))),
        (r#","value":true"#, Some(Value::Bool(true))),
        (r#","value":"a\"b""#, Some(Value::String("a\"b".into()))),
    ] {
        let entry = decoded(&format!("{ITEM}{fields}"), Model::Collection).expect("it is whole");
        assert_eq!(entry.records[0].columns().value, value, "{fields}");
    }
    let taken = Timestamp::parse("2025-01-15T10:30:00Z");
    for (fields, timestamp) in [
        ("", taken),
        (r#","timestamp":null"#, None),
        (r#","timestamp":"1970-01-01T00:00:00Z""#, Some(Timestamp::EPOCH)),
    ] {
        let entry = decoded(&format!("{STORE}{fields}"), Model::Dated).expect("it is whole");
        let columns = entry.records[0].columns();
        assert_eq!((columns.timestamp, Some(columns.updated_at)), (timestamp, taken), "{fields}");
        // And as it was read, so it is written again.
        let mut body = Vec::new();
        encode_body(&columns, &mut body);
        let again = decoded(std::str::from_utf8(&body).expect("text"), Model::Dated).expect("it is whole");
        assert_eq!(again.records[0].columns(), columns);
    }
}

#[test]
fn places_are_read_without_the_rest() {
    assert_eq!(read_places(&line(STORE, 7, 6)), Some((7, 6)));
    let misleading = r#"{"op":"store","key":"k","data":{"seq":1,"durable_seq":2},"updated_at":"2025-01-15""#;
    assert_eq!(read_places(&line(misleading, 70, 65)), Some((70, 65)));
    for other in [&b""[..], b"{}", b"{\"op\":\"store\",\"durable_seq\":1}", &[0xff; 40]] {
        assert_eq!(read_places(other), None);
    }
}

#[test]
fn a_checksum_belongs_to_every_byte_before_it() {
    let whole = line(STORE, 7, 6);
    assert!(has_valid_checksum(&whole));
    for end in 0..whole.len() {
        assert!(!has_valid_checksum(&whole[..end]), "{end}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        assert!(!has_valid_checksum(&changed), "{at}");
    }
    assert!(!has_valid_checksum(&[&whole[..], b" "].concat()));
    assert!(!has_valid_checksum(&whole[1..]));
}

#[test]
fn a_gap_counts_its_places_and_leaves_no_mark() {
    for gap in [Gap { count: 1, lost: false }, Gap { count: 5, lost: true }] {
        let mut bytes = Vec::new();
        encode_gap(gap, 9, Timestamp::EPOCH, &mut bytes);
        assert_eq!(bytes.pop(), Some(b'\n'));
        let entry = decode(&bytes, Model::Collection).expect("it is whole");
        assert_eq!((entry.seq, entry.last_seq(), entry.durable_seq), (9, 8 + gap.count, 8));
        assert_eq!((entry.gap, entry.records.len(), entry.mark()), (Some(gap), 0, None));
    }
}

#[test]
fn a_producers_mark_is_that_of_its_last_record() {
    let body = format!(r#"{{"op":"batch","ops":[{STORE}}},{STORE}}}],"producer":"p","producer_seq":3"#);
    let entry = decoded(&body, Model::Dated).expect("it is whole");
    let updated_at = Timestamp::parse("2025-01-15T10:30:00Z").expect("a time");
    assert_eq!(entry.mark(), Some(("p".into(), Mark { producer_seq: 3, seq: 8, updated_at })));
    assert_eq!(decoded(STORE, Model::Dated).expect("it is whole").mark(), None);
}
