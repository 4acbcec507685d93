use fastpersist_protocol::time::Timestamp;

use super::super::record::Columns;
use super::*;

fn record(seq: u64, key: &str, process: Option<&str>, deleted: bool) -> Record {
    Record::new(&Columns {
        key,
        names: Names::Dated { process_name: process },
        data: if deleted { "" } else { r#"{"n":1}"# },
        value: None,
        timestamp: None,
        status: None,
        status_int: None,
        username: None,
        updated_at: Timestamp::from_micros(0).expect("in range"),
        seq,
        deleted,
        writer: None,
    })
}

fn store(table: &mut Memtable, seq: u64, key: &str, process: Option<&str>) {
    table.publish(record(seq, key, process, false));
}

fn delete(table: &mut Memtable, seq: u64, key: &str, process: Option<&str>) {
    table.publish(record(seq, key, process, true));
}

fn seq_of(table: &Memtable, key: &str, process: Option<&str>) -> Known<u64> {
    match table.get(key, Names::Dated { process_name: process }) {
        Known::Live(record) => Known::Live(record.seq()),
        Known::Absent => Known::Absent,
        Known::Cold => Known::Cold,
    }
}

fn seqs_of_key(table: &Memtable, key: &str) -> Vec<u64> {
    let mut seqs = Vec::new();
    table.visit_key(key, |record| seqs.push(record.seq()));
    seqs
}

fn keys(table: &Memtable, prefix: &str, after: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    table.visit_keys(prefix, after, |key| {
        keys.push(key.to_owned());
        true
    });
    keys
}

/// Takes what is pending, all at once.
fn take(table: &mut Memtable) -> Unflushed {
    match table.begin_taking() {
        Taking::History(writes) => Unflushed::History(writes),
        Taking::Latest(addresses) => {
            let mut rows = Vec::new();
            table.take_rows(&addresses, &mut rows);
            table.take_moved(&mut rows);
            Unflushed::Latest(rows)
        }
    }
}

/// Takes what is pending as rows of (seq, writes, reset).
fn taken(table: &mut Memtable) -> (Unflushed, Vec<(u64, u32, bool)>) {
    let unflushed = take(table);
    let rows = shown(&unflushed);
    (unflushed, rows)
}

fn shown(unflushed: &Unflushed) -> Vec<(u64, u32, bool)> {
    let Unflushed::Latest(rows) = unflushed else { panic!("a dated table") };
    rows.iter().map(|row| (row.record.seq(), row.writes, row.reset)).collect()
}

fn replaces(unflushed: &Unflushed) -> Vec<Replaces> {
    match unflushed {
        Unflushed::Latest(rows) => rows.iter().map(|row| row.replaces).collect(),
        Unflushed::History(writes) => writes.iter().map(|write| write.replaces).collect(),
    }
}

fn flush(table: &mut Memtable) {
    let unflushed = take(table);
    table.flushed(&unflushed.tombstones());
}

#[test]
fn the_newest_write_is_what_reads_see() {
    let mut table = Memtable::new(Model::Dated, true);
    assert_eq!(seq_of(&table, "k", None), Known::Absent);
    store(&mut table, 1, "k", Some("b"));
    store(&mut table, 2, "k", None);
    store(&mut table, 3, "k", Some("a"));
    store(&mut table, 4, "k", Some("b"));
    assert_eq!(seq_of(&table, "k", Some("b")), Known::Live(4));
    assert_eq!(seqs_of_key(&table, "k"), [2, 3, 4], "sorted by name, null first");
    delete(&mut table, 5, "k", Some("a"));
    assert_eq!(seqs_of_key(&table, "k"), [2, 4]);
    assert_eq!(table.live_count(), 2);
}

#[test]
fn keys_are_sorted_by_bytes_and_only_those_with_live_records() {
    let mut table = Memtable::new(Model::Dated, true);
    for (seq, key) in (1..).zip(["b", "a", "é", "Z", "ab"]) {
        store(&mut table, seq, key, None);
    }
    delete(&mut table, 6, "b", None);
    assert_eq!(keys(&table, "", None), ["Z", "a", "ab", "é"]);
    assert_eq!(keys(&table, "a", None), ["a", "ab"]);
    assert_eq!(keys(&table, "a", Some("a")), ["ab"]);
    assert_eq!(keys(&table, "a", Some("A")), ["a", "ab"], "after stands before the prefix");
    assert_eq!(keys(&table, "", Some("é")), [""; 0]);
}

#[test]
fn an_address_is_pending_once_with_its_number_of_writes() {
    let mut table = Memtable::new(Model::Dated, true);
    store(&mut table, 1, "k", None);
    store(&mut table, 2, "k", None);
    store(&mut table, 3, "other", None);
    let bytes = table.pending_bytes();
    assert_eq!(taken(&mut table).1, [(2, 2, false), (3, 1, false)]);
    assert!(bytes > 0 && table.pending_bytes() == 0);
    delete(&mut table, 4, "k", None);
    store(&mut table, 5, "k", None);
    assert_eq!(taken(&mut table).1, [(5, 1, true)], "versions count anew after a deletion");
    assert_eq!(taken(&mut table).1, []);
}

#[test]
fn a_failed_flush_is_merged_with_what_came_since() {
    let mut table = Memtable::new(Model::Dated, true);
    store(&mut table, 1, "a", None);
    store(&mut table, 2, "b", None);
    store(&mut table, 3, "c", None);
    let (unflushed, _) = taken(&mut table);
    store(&mut table, 4, "a", None);
    delete(&mut table, 5, "b", None);
    table.restore(unflushed, 0);
    let mut rows = taken(&mut table).1;
    rows.sort_unstable();
    assert_eq!(rows, [(3, 1, false), (4, 2, false), (5, 0, true)]);
}

#[test]
fn a_failed_flush_of_a_history_keeps_its_order() {
    let mut table = Memtable::new(Model::Collection, true);
    let write = |table: &mut Memtable, seq| {
        let base = record(seq, "k", None, false);
        let names = Names::Collection { collection_name: "c", item_name: "i" };
        table.publish(Record::new(&Columns { names, ..base.columns() }));
    };
    write(&mut table, 1);
    write(&mut table, 2);
    let unflushed = take(&mut table);
    write(&mut table, 3);
    table.restore(unflushed, 0);
    let Unflushed::History(writes) = take(&mut table) else { panic!("a collection table") };
    assert_eq!(writes.iter().map(|write| write.record.seq()).collect::<Vec<_>>(), [1, 2, 3]);
    write(&mut table, 4);
    assert_eq!(replaces(&take(&mut table)), [Replaces::Row(3)]);
}

#[test]
fn a_tombstone_goes_when_it_is_flushed_unless_the_address_lives_again() {
    let mut table = Memtable::new(Model::Dated, true);
    for (seq, key) in [(1, "a"), (2, "b")] {
        store(&mut table, seq, key, None);
    }
    delete(&mut table, 3, "a", None);
    delete(&mut table, 4, "b", None);
    let (unflushed, _) = taken(&mut table);
    store(&mut table, 5, "b", None);
    assert_eq!(table.overrides("a", Names::Dated { process_name: None }), Some(false));
    table.flushed(&unflushed.tombstones());
    assert_eq!(table.overrides("a", Names::Dated { process_name: None }), None);
    assert_eq!(seq_of(&table, "b", None), Known::Live(5));
    assert_eq!((keys(&table, "", None), table.live_count()), (vec!["b".to_owned()], 1));
}

#[test]
fn a_cold_table_knows_what_it_does_not_know() {
    let mut table = Memtable::new(Model::Dated, false);
    assert_eq!(seq_of(&table, "k", None), Known::Cold);
    store(&mut table, 11, "k", Some("new"));
    assert_eq!(seq_of(&table, "k", Some("new")), Known::Live(11));
    assert_eq!(seq_of(&table, "k", Some("old")), Known::Cold);
    assert_eq!(table.visit_key("k", |_| ()), Known::Cold);
    let rows = vec![record(3, "k", Some("old"), false), record(2, "k", Some("new"), false)];
    assert!(table.load_key("k", rows, table.epoch(), false));
    assert_eq!(seqs_of_key(&table, "k"), [11, 3], "what is in memory is newer");
    assert_eq!(seq_of(&table, "k", None), Known::Absent, "the key is loaded now");
    assert_eq!(seq_of(&table, "other", None), Known::Cold);
}

#[test]
fn rows_that_were_read_before_a_flush_are_not_taken_in() {
    let mut table = Memtable::new(Model::Dated, false);
    let epoch = table.epoch();
    delete(&mut table, 12, "k", None);
    let (unflushed, _) = taken(&mut table);
    table.flushed(&unflushed.tombstones());
    // The row that the reader saw is deleted by now, and the tombstone is gone.
    assert!(!table.load_key("k", vec![record(3, "k", None, false)], epoch, false));
    assert_eq!(seq_of(&table, "k", None), Known::Cold);
}

#[test]
fn rows_that_were_read_before_half_a_flush_are_not_taken_in() {
    let mut table = Memtable::new(Model::Dated, false);
    let epoch = table.epoch();
    delete(&mut table, 12, "k", None);
    store(&mut table, 13, "other", None);
    let (unflushed, _) = taken(&mut table);
    table.restore(unflushed, 12);
    assert!(!table.load_key("k", vec![record(3, "k", None, false)], epoch, false));
    assert_eq!(seq_of(&table, "k", None), Known::Cold);
}

#[test]
fn absence_is_noted_for_writers_and_costs_nothing_for_readers() {
    let mut table = Memtable::new(Model::Dated, false);
    assert!(table.load_key("k", Vec::new(), table.epoch(), false));
    assert_eq!((seq_of(&table, "k", None), table.bytes()), (Known::Cold, 0));
    assert!(table.load_key("k", Vec::new(), table.epoch(), true));
    assert_eq!(seq_of(&table, "k", None), Known::Absent);
    table.evict(1, 0, None);
    assert_eq!((seq_of(&table, "k", None), table.bytes()), (Known::Cold, 0));
}

#[test]
fn filling_the_whole_table_brings_back_nothing_that_was_deleted() {
    let mut table = Memtable::new(Model::Dated, false);
    table.begin_filling();
    delete(&mut table, 12, "k", None);
    let (unflushed, _) = taken(&mut table);
    table.flushed(&unflushed.tombstones());
    table.fill(vec![record(3, "k", None, false), record(4, "other", None, false)]);
    table.end_filling(true);
    assert_eq!(seq_of(&table, "k", None), Known::Absent);
    assert_eq!(seq_of(&table, "other", None), Known::Live(4));
    assert_eq!((keys(&table, "", None), table.live_count()), (vec!["other".to_owned()], 1));
}

#[test]
fn only_flushed_keys_are_given_back_and_what_is_left_is_counted_right() {
    let mut table = Memtable::new(Model::Dated, true);
    for seq in 1..=100 {
        store(&mut table, seq, &format!("k{seq:03}"), None);
    }
    let (unflushed, _) = taken(&mut table);
    table.flushed(&unflushed.tombstones());
    store(&mut table, 101, "k050", None);
    let before = table.bytes();
    table.evict(before / 2, 100, Some("k060"));
    assert!(table.bytes() <= before / 2);
    assert!(!table.is_complete());
    table.evict(1, 100, Some("k060"));
    assert_eq!(keys(&table, "", None), ["k050", "k060"], "unflushed and spared");
    assert_eq!(table.live_count(), 2);
    assert_eq!(seq_of(&table, "k001", None), Known::Cold);
    table.evict(1, 101, None);
    assert_eq!((table.bytes(), table.live_count()), (0, 0));
}

#[test]
fn thousands_of_records_under_one_key_stay_sorted() {
    let mut table = Memtable::new(Model::Dated, true);
    for seq in 1..=3000u64 {
        store(&mut table, seq, "k", Some(&format!("{:04}", seq * 7919 % 3001)));
    }
    let mut names = Vec::new();
    table.visit_key("k", |record| {
        if let Names::Dated { process_name: Some(name) } = record.names() {
            names.push(name.to_owned());
        }
    });
    assert_eq!(names.len(), 3000);
    assert!(names.is_sorted());
    for seq in 3001..=6000u64 {
        delete(&mut table, seq, "k", Some(&format!("{:04}", (seq - 3000) * 7919 % 3001)));
    }
    assert_eq!(table.live_count(), 0);
    let (unflushed, _) = taken(&mut table);
    table.flushed(&unflushed.tombstones());
    assert_eq!((table.bytes(), keys(&table, "", None).len()), (0, 0));
}

#[test]
fn memory_tells_the_flush_what_it_replaces() {
    let mut table = Memtable::new(Model::Dated, true);
    store(&mut table, 1, "k", None);
    store(&mut table, 2, "k", None);
    let unflushed = take(&mut table);
    assert_eq!(replaces(&unflushed), [Replaces::Nothing], "memory is complete");
    table.flushed(&unflushed.tombstones());
    store(&mut table, 3, "k", None);
    store(&mut table, 4, "k", None);
    assert_eq!(replaces(&take(&mut table)), [Replaces::Row(2)]);
    delete(&mut table, 5, "k", None);
    assert_eq!(replaces(&take(&mut table)), [Replaces::Row(4)]);
    store(&mut table, 6, "k", None);
    assert_eq!(replaces(&take(&mut table)), [Replaces::Nothing], "the deletion is flushed first");

    let mut cold = Memtable::new(Model::Dated, false);
    store(&mut cold, 7, "k", None);
    assert_eq!(replaces(&take(&mut cold)), [Replaces::Unknown]);
}

#[test]
fn a_row_that_is_written_while_it_is_being_taken_is_taken_as_it_was() {
    let mut table = Memtable::new(Model::Dated, true);
    store(&mut table, 1, "a", None);
    store(&mut table, 2, "b", None);
    flush(&mut table);
    store(&mut table, 3, "a", None);
    store(&mut table, 4, "b", None);
    let Taking::Latest(addresses) = table.begin_taking() else { panic!("a dated table") };
    let mut rows = Vec::new();
    table.take_rows(&addresses[..1], &mut rows);
    store(&mut table, 5, "a", None);
    store(&mut table, 6, "b", None);
    store(&mut table, 7, "b", None);
    table.take_rows(&addresses[1..], &mut rows);
    table.take_moved(&mut rows);
    let first = Unflushed::Latest(rows);
    assert_eq!(shown(&first), [(3, 1, false), (4, 1, false)]);
    assert_eq!(replaces(&first), [Replaces::Row(1), Replaces::Row(2)]);
    // It fails, and what came meanwhile is merged with it.
    table.restore(first, 2);
    let mut both = take(&mut table);
    if let Unflushed::Latest(rows) = &mut both {
        rows.sort_by_key(|row| row.record.seq());
    }
    assert_eq!(shown(&both), [(5, 2, false), (7, 3, false)]);
    assert_eq!(replaces(&both), [Replaces::Unknown; 2], "a commit may have taken place unseen");
}

#[test]
fn of_a_flush_that_failed_in_its_second_half_the_first_is_not_written_again() {
    let mut table = Memtable::new(Model::Dated, true);
    store(&mut table, 1, "kept", None);
    store(&mut table, 2, "new", None);
    store(&mut table, 3, "gone", None);
    delete(&mut table, 4, "gone", None);
    store(&mut table, 5, "late", None);
    let (unflushed, _) = taken(&mut table);
    // While it is under way, one is written again; afterwards another one.
    store(&mut table, 6, "kept", None);
    table.restore(unflushed, 4);
    delete(&mut table, 7, "new", None);
    let mut both = take(&mut table);
    if let Unflushed::Latest(rows) = &mut both {
        rows.sort_by_key(|row| row.record.seq());
    }
    assert_eq!(shown(&both), [(5, 1, false), (6, 1, false), (7, 0, true)]);
    // Each row that the first half brought into DuckDB is deleted there; before, "new" was believed to have none.
    assert_eq!(replaces(&both), [Replaces::Unknown, Replaces::Row(1), Replaces::Row(2)]);
    let gone = record(0, "gone", None, false);
    assert!(table.find_mut(gone.key_bytes()).is_none(), "its tombstone went with its row");
}
