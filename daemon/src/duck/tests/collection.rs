//! Collection: a history and the latest values, in two files.

use super::*;

fn write(key: &str, name: &str, data: Option<&str>, seq: u64) -> Record {
    record(key, item("c", name), data, seq)
}

const HISTORY: &str = "SELECT seq, key, item_name, data::VARCHAR, version, deleted FROM $h ORDER BY seq";
const LATEST: &str = "SELECT seq, key, item_name, data::VARCHAR, version FROM $t ORDER BY seq";

/// Eight writes to two addresses, one of which is deleted in between.
fn writes() -> Vec<Record> {
    vec![
        write("k", "a", Some("{}"), 1),
        write("k", "b", Some("{}"), 2),
        write("k", "a", Some("{}"), 3),
        write("k", "a", None, 4),
        write("k", "a", Some("{}"), 5),
        write("k", "b", Some("{}"), 6),
        write("k", "a", Some("{}"), 7),
        write("k", "b", None, 8),
    ]
}

const WRITTEN: [&str; 8] = [
    "1|k|a|{}|1|false",
    "2|k|b|{}|1|false",
    "3|k|a|{}|2|false",
    "4|k|a|NULL|3|true",
    "5|k|a|{}|1|false",
    "6|k|b|{}|2|false",
    "7|k|a|{}|2|false",
    "8|k|b|NULL|3|true",
];

#[test]
fn every_write_is_in_the_history_and_the_newest_is_latest() {
    for cut in 0..=8 {
        let place = Place::new();
        let store = place.collection();
        let mut first = writes();
        let second = first.split_off(cut);
        let rows = store.flush(&history(first)).expect("a flush").rows;
        let rows = rows + store.flush(&history(second)).expect("a flush").rows;
        assert!(rows >= 9, "eight in the history, and what was latest");
        assert_eq!(lines(&store, HISTORY), WRITTEN, "cut at {cut}");
        assert_eq!(lines(&store, LATEST), ["7|k|a|{}|2"], "cut at {cut}");
        assert_eq!((store.flushed_seq(), store.row_count()), (8, 1));
    }
}

#[test]
fn changes_come_back_as_they_were_written_deletions_too() {
    let place = Place::new();
    let store = place.collection();
    let mut written = writes();
    for (record, value) in written.iter_mut().zip([
        Some(Value::Int(-1)),
        Some(Value::Float(0.5)),
        Some(Value::Bool(false)),
        None,
        Some(Value::String("é".into())),
    ]) {
        *record = Record::new(&Columns { value, ..record.columns() });
    }
    let mut first = written.clone();
    let second = first.split_off(5);
    store.flush(&history(first)).expect("a flush");
    store.flush(&history(second)).expect("a flush");
    let reader = store.reader().expect("a reader");
    for (from, to) in [(1, 8), (3, 6), (8, 100), (9, 9)] {
        let read = reader.changes(from, to, usize::MAX).expect("a read");
        let expected = written.iter().filter(|record| (from..=to).contains(&record.seq()));
        assert!(
            read.iter().map(Record::columns).eq(expected.map(Record::columns)),
            "{from} to {to}: {read:?}"
        );
    }
    for (max_bytes, expected) in [(0, 1), (2, 1), (5, 2), (6, 4), (13, 6), (usize::MAX, 8)] {
        let read = reader.changes(1, 8, max_bytes).expect("a read");
        let seqs: Vec<_> = read.iter().map(Record::seq).collect();
        assert_eq!(
            seqs,
            (1..=expected).collect::<Vec<_>>(),
            "documents of 2 bytes and {max_bytes} bytes in all"
        );
    }
    assert_eq!(reader.oldest_change(4).expect("a read"), Some(4));
    assert_eq!(reader.oldest_change(9).expect("a read"), None);
    assert!(place.dated().reader().expect("a reader").changes(1, 8, usize::MAX).expect("a read").is_empty());
}

#[test]
fn a_crash_between_history_and_latest_repeats_nothing() {
    for cut in 0..8 {
        let place = Place::new();
        let mut first = writes();
        let second = first.split_off(cut);
        let store = place.collection();
        store.flush(&history(first)).expect("a flush");
        store.close().expect("closed");
        std::fs::copy(place.path("latest.duckdb"), place.path("kept")).expect("copied");
        let store = place.collection();
        store.flush(&history(second.clone())).expect("a flush");
        store.close().expect("closed");
        std::fs::rename(place.path("kept"), place.path("latest.duckdb")).expect("put back");

        let store = place.collection();
        assert_eq!(store.flushed_seq(), cut as u64, "of two files the one that lags");
        let mut repeated = second;
        repeated.push(write("k", "b", Some("{}"), 9));
        store.flush(&history(repeated)).expect("a flush");
        let mut expected = WRITTEN.to_vec();
        expected.push("9|k|b|{}|1|false");
        assert_eq!(lines(&store, HISTORY), expected, "cut at {cut}");
        assert_eq!(lines(&store, LATEST), ["7|k|a|{}|2", "9|k|b|{}|1"], "cut at {cut}");
        assert_eq!(store.flushed_seq(), 9);
    }
}

#[test]
fn a_history_that_lags_catches_up_from_its_own_versions() {
    for cut in 1..8 {
        let place = Place::new();
        let mut first = writes();
        let second = first.split_off(cut);
        let store = place.collection();
        store.flush(&history(first)).expect("a flush");
        store.close().expect("closed");
        std::fs::copy(place.path("history.duckdb"), place.path("kept")).expect("copied");
        let store = place.collection();
        store.flush(&history(second.clone())).expect("a flush");
        store.close().expect("closed");
        std::fs::rename(place.path("kept"), place.path("history.duckdb")).expect("put back");

        let store = place.collection();
        assert_eq!(store.flushed_seq(), cut as u64);
        let mut repeated = second;
        repeated.push(write("k", "b", Some("{}"), 9));
        store.flush(&history(repeated)).expect("a flush");
        let mut expected = WRITTEN.to_vec();
        expected.push("9|k|b|{}|1|false");
        assert_eq!(lines(&store, HISTORY), expected, "cut at {cut}");
        assert_eq!(lines(&store, LATEST), ["7|k|a|{}|2", "9|k|b|{}|1"], "cut at {cut}");
    }
}

#[test]
fn values_come_back_with_their_type() {
    let place = Place::new();
    let store = place.collection();
    let values = [
        None,
        Some(Value::Int(i64::MIN)),
        Some(Value::Int(0)),
        Some(Value::Float(-0.0)),
        Some(Value::Float(1.0)),
        Some(Value::Float(f64::MIN_POSITIVE)),
        Some(Value::Bool(false)),
        Some(Value::String("".into())),
        Some(Value::String("32".into())),
    ];
    let records: Vec<_> = values
        .iter()
        .zip(1u64..)
        .map(|(value, seq)| {
            let name = format!("i{seq}");
            let base = record("k", item("", &name), Some("{}"), seq);
            Record::new(&Columns { value: value.clone(), ..base.columns() })
        })
        .collect();
    store.flush(&history(records.clone())).expect("a flush");
    let found = store.reader().expect("a reader").key("k").expect("records");
    assert_eq!(found.len(), records.len());
    for (found, sent) in found.iter().zip(&records) {
        assert_eq!(found.columns(), sent.columns());
        if let (Some(Value::Float(found)), Some(Value::Float(sent))) =
            (found.columns().value, sent.columns().value)
        {
            assert_eq!(found.to_bits(), sent.to_bits());
        }
    }
}

#[test]
fn more_rows_than_a_row_group_all_arrive() {
    const ADDRESSES: u64 = 130_000;
    let place = Place::new();
    let store = place.collection();
    let records = (0..2 * ADDRESSES).map(|row| {
        let name = format!("i{}", row % ADDRESSES);
        write("k", &name, Some("{}"), row + 1)
    });
    store.flush(&history(records.collect())).expect("a flush");
    let sums = "SELECT count(*), count(DISTINCT seq), max(version) FROM ";
    let rows = 2 * ADDRESSES;
    assert_eq!(lines(&store, &format!("{sums} $h")), [format!("{rows}|{rows}|2")]);
    assert_eq!(lines(&store, &format!("{sums} $t")), [format!("{ADDRESSES}|{ADDRESSES}|2")]);
}
