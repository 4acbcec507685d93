//! Dated: one row per address.

use super::*;

#[test]
fn a_flushed_record_comes_back_with_every_column() {
    let place = Place::new();
    let store = place.dated();
    let rows = vec![
        write("a", None, Some(r#"{"n":1}"#), 1),
        write("a", Some(""), Some(r#"{"n":2}"#), 2),
        write("a", Some("w"), Some(r#"{"n":3}"#), 3),
        write("b", Some("w"), Some("{}"), 4),
    ];
    let sent: Vec<_> = rows.iter().map(|row| row.record.clone()).collect();
    let outcome = store.flush(&latest(rows)).expect("a flush");
    assert_eq!(outcome, FlushOutcome { rows: 4, flushed_seq: 4 });
    assert_eq!((store.flushed_seq(), store.row_count()), (4, 4));

    let found = store.reader().expect("a reader").key("a").expect("records");
    assert_eq!(found.len(), 3);
    for (found, sent) in found.iter().zip(&sent) {
        assert_eq!(found.columns(), sent.columns());
    }
    assert!(store.reader().expect("a reader").key("none").expect("records").is_empty());
}

#[test]
fn an_address_has_one_row_and_null_is_an_address_too() {
    let place = Place::new();
    let store = place.dated();
    for round in 0..3 {
        let seq = round * 3;
        let data = format!(r#"{{"round":{round}}}"#);
        let rows = vec![
            write("k", None, Some(&data), seq + 1),
            write("k", Some(""), Some(&data), seq + 2),
            write("k", Some("NULL"), Some(&data), seq + 3),
        ];
        store.flush(&latest(rows)).expect("a flush");
        assert_eq!(store.row_count(), 3);
    }
    let found = lines(&store, "SELECT process_name, data::VARCHAR, version, seq FROM $t ORDER BY seq");
    assert_eq!(found, [r#"NULL|{"round":2}|3|7"#, r#"|{"round":2}|3|8"#, r#"NULL|{"round":2}|3|9"#]);
    assert_eq!(lines(&store, "SELECT count(*) FROM $t WHERE process_name IS NULL"), ["1"]);
}

#[test]
fn versions_count_writes_and_start_again_after_a_deletion() {
    let place = Place::new();
    let store = place.dated();
    let flush = |data: Option<&str>, seq, writes, reset| {
        let row = FlushRow {
            record: record("k", process(None), data, seq),
            writes,
            reset,
            present: Present::Unknown,
        };
        store.flush(&latest(vec![row])).expect("a flush");
        lines(&store, "SELECT version FROM $t").pop()
    };
    assert_eq!(flush(Some("{}"), 3, 3, false).as_deref(), Some("3"));
    assert_eq!(flush(Some("{}"), 5, 2, false).as_deref(), Some("5"));
    assert_eq!(flush(Some("{}"), 9, 2, true).as_deref(), Some("2"), "deleted and written twice");
    assert_eq!(flush(None, 10, 0, true), None);
    assert_eq!(store.row_count(), 0);
    assert_eq!(flush(Some("{}"), 11, 1, false).as_deref(), Some("1"));
    assert_eq!(flush(None, 12, 0, true), None);
    // Written and deleted between two flushes: the file never had it.
    assert_eq!(flush(None, 14, 0, true), None);
    assert_eq!((store.row_count(), store.flushed_seq()), (0, 14));
}

#[test]
fn more_rows_than_a_row_group_all_arrive() {
    const ROWS: u64 = 300_000;
    let place = Place::new();
    let store = place.dated();
    for round in 0..2 {
        let rows = (0..ROWS).map(|row| {
            let name = format!("w{}", row % 3);
            let data = format!(r#"{{"row":{row},"round":{round}}}"#);
            write(&format!("key_{row}"), Some(&name), Some(&data), round * ROWS + row + 1)
        });
        store.flush(&latest(rows.collect())).expect("a flush");
        assert_eq!(store.row_count(), ROWS);
        let sums =
            "SELECT count(*), count(DISTINCT key), sum(seq)::UBIGINT, min(version), max(version) FROM $t";
        let first = round * ROWS;
        let sum = (first + 1..=first + ROWS).sum::<u64>();
        let version = round + 1;
        assert_eq!(lines(&store, sums), [format!("{ROWS}|{ROWS}|{sum}|{version}|{version}")]);
    }
    let rows = (0..ROWS).map(|row| {
        let name = format!("w{}", row % 3);
        write(&format!("key_{row}"), Some(&name), None, 2 * ROWS + row + 1)
    });
    store.flush(&latest(rows.collect())).expect("a flush");
    assert_eq!(store.row_count(), 0);
    assert_eq!(lines(&store, "SELECT count(*) FROM $t"), ["0"]);
}

#[test]
fn documents_come_back_byte_for_byte() {
    let place = Place::new();
    let digits = "9".repeat(400);
    let nested = format!("{}1{}", r#"{"a":["#.repeat(60), "]}".repeat(60));
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1 << 20));
    let documents = [
        "{}".to_owned(),
        r#"{ "spaces" :  1 , "tab":	2 }"#.to_owned(),
        r#"{"b":1,"a":2,"b":3}"#.to_owned(),
        r#"{"n":1e999,"m":-0,"z":0.10,"e":1E+2,"tiny":1e-999}"#.to_owned(),
        format!(r#"{{"n":{digits},"f":0.{digits}}}"#),
        r#"{"esc":"\u0000\ud83d\ude00\/\"\\\n","é":"日本","lone":"\ud800"}"#.to_owned(),
        r#"{"quote":"it's","semi":";--","null":null}"#.to_owned(),
        nested,
        long,
    ];
    let store = place.dated();
    let rows = documents.iter().zip(1..).map(|(data, seq)| write(&format!("k{seq}"), None, Some(data), seq));
    store.flush(&latest(rows.collect())).expect("a flush");
    let check = |store: &Store| {
        for (record, document) in documents.iter().zip(1..).map(|(data, seq)| {
            (store.reader().expect("a reader").key(&format!("k{seq}")).expect("a record"), data)
        }) {
            assert_eq!(record[0].columns().data, document);
        }
    };
    check(&store);
    store.close().expect("closed");
    check(&place.dated());
}

#[test]
fn a_repeated_batch_stores_nothing_twice() {
    let place = Place::new();
    let store = place.dated();
    let batch = latest(vec![write("a", None, Some("{}"), 1), write("b", None, Some("{}"), 2)]);
    store.flush(&batch).expect("a flush");
    let again = store.flush(&batch).expect("a flush");
    assert_eq!(again, FlushOutcome { rows: 0, flushed_seq: 2 });
    // A later batch may still carry what was flushed before.
    let batch = latest(vec![write("b", None, Some("{}"), 2), write("c", None, Some("{}"), 3)]);
    assert_eq!(store.flush(&batch).expect("a flush").rows, 1);
    assert_eq!(lines(&store, "SELECT key, version FROM $t ORDER BY key"), ["a|1", "b|1", "c|1"]);
    // Nothing but a move of flushed_seq: writes that ended in nothing.
    let outcome = store.flush(&FlushBatch {
        through_seq: 9,
        rows: FlushRows::Latest(Vec::new()),
        producers: Vec::new(),
    });
    assert_eq!(outcome.expect("a flush"), FlushOutcome { rows: 0, flushed_seq: 9 });
}

#[test]
fn extra_columns_keep_their_bounds() {
    let place = Place::new();
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        ("c1", "string", r#""""#, r#""é\u0041""#, "|éA"),
        ("c2", "int8", "-128", "127", "-128|127"),
        ("c3", "int16", "-32768", "32767", "-32768|32767"),
        ("c4", "int32", "-2147483648", "2147483647", "-2147483648|2147483647"),
        (
            "c5",
            "int64",
            "-9223372036854775808",
            "9223372036854775807",
            "-9223372036854775808|9223372036854775807",
        ),
        ("c6", "uint8", "0", "255", "0|255"),
        ("c7", "uint16", "0", "65535", "0|65535"),
        ("c8", "uint32", "0", "4294967295", "0|4294967295"),
        ("c9", "uint64", "0", "18446744073709551615", "0|18446744073709551615"),
        ("c10", "float32", "-0.5", "3.4e38", "-0.5|3.4e+38"),
        ("c11", "float64", "-0.1", "1.7976931348623157e308", "-0.1|1.7976931348623157e+308"),
        ("c12", "bool", "false", "true", "false|true"),
        (
            "c13",
            "timestamp[ns]",
            r#""2025-01-15T10:30:00.123456Z""#,
            r#""0001-01-01""#,
            "2025-01-15 10:30:00.123456|0001-01-01 00:00:00",
        ),
        (
            "c14",
            "timestamp[s]",
            r#""2025-01-15T10:30:00.000001+02:00""#,
            r#""9999-12-31T23:59:59.999999Z""#,
            "2025-01-15 08:30:00.000001|9999-12-31 23:59:59.999999",
        ),
        ("c15", "date32", r#""1969-12-31""#, r#""9999-12-31""#, "1969-12-31|9999-12-31"),
        ("odd \"name\"; '", "int64", "1", "2", "1|2"),
    ];
    let extra: Vec<_> = cases.iter().map(|(name, kind, ..)| (*name, *kind)).collect();
    let store = place.dated_with(&extra).expect("a store");
    let document = |pick: fn(&(&str, &'static str, &'static str, &'static str, &str)) -> &'static str| {
        let fields: Vec<_> =
            cases.iter().map(|case| format!("\"{}\":{}", case.0.replace('"', "\\\""), pick(case))).collect();
        format!("{{{}}}", fields.join(","))
    };
    let rows = vec![
        write("k", Some("a"), Some(&document(|case| case.2)), 1),
        write("k", Some("b"), Some(&document(|case| case.3)), 2),
        write("k", Some("c"), Some(r#"{"c2":null}"#), 3),
        write("k", Some("d"), Some(r#"{"c2":1000,"c4":"x"}"#), 4),
    ];
    store.flush(&latest(rows)).expect("a flush");
    for (name, kind, _, _, expected) in cases {
        let name = name.replace('"', "\"\"");
        let found = lines(&store, &format!("SELECT \"{name}\"::VARCHAR FROM $t ORDER BY seq"));
        assert_eq!(found[..2].join("|"), *expected, "{kind}");
        assert_eq!(found[2..], ["NULL", "NULL"], "{kind}");
    }
}

#[test]
fn timestamps_are_kept_to_the_microsecond() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&latest(vec![write("k", None, Some("{}"), 1)])).expect("a flush");
    let found = lines(&store, "SELECT timestamp::VARCHAR, updated_at::VARCHAR FROM $t");
    assert_eq!(found, ["2025-01-15 10:30:00.123456|2025-01-15 10:30:00.654322"]);
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

/// Versions and places by key.
fn versions(store: &Store) -> Vec<Vec<Cell>> {
    query(store, "SELECT key, version, seq FROM $t ORDER BY key")
}

#[test]
fn rows_are_found_by_their_place_where_it_is_known() {
    let place = Place::new();
    let store = place.dated();
    let keys = ["a", "b", "c"];
    let first = keys
        .iter()
        .zip(1..)
        .map(|(key, seq)| FlushRow { present: Present::None, ..write(key, None, Some("{}"), seq) });
    store.flush(&latest(first.collect())).expect("a flush");
    let rows = vec![
        FlushRow { present: Present::Row(1), ..write("a", None, Some("{}"), 4) },
        FlushRow { present: Present::Unknown, ..write("b", None, Some("{}"), 5) },
        FlushRow { present: Present::None, ..write("d", None, Some("{}"), 6) },
        FlushRow { present: Present::Row(3), ..write("c", None, None, 7) },
    ];
    store.flush(&latest(rows)).expect("a flush");
    assert_eq!(
        versions(&store),
        [
            [text("a"), Cell::Int(2), Cell::UBigInt(4)],
            [text("b"), Cell::Int(2), Cell::UBigInt(5)],
            [text("d"), Cell::Int(1), Cell::UBigInt(6)],
        ]
    );
}

#[test]
fn a_place_that_is_wrong_is_looked_up_by_address() {
    let place = Place::new();
    let store = place.dated();
    store.flush(&latest(vec![write("a", None, Some("{}"), 1)])).expect("a flush");
    let rows = vec![FlushRow { present: Present::Row(77), ..write("a", None, Some("{}"), 78) }];
    store.flush(&latest(rows)).expect("a flush");
    assert_eq!(versions(&store), [[text("a"), Cell::Int(2), Cell::UBigInt(78)]]);
}
