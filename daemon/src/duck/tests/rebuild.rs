//! Tables made anew, rows put back, damage found.

use std::os::unix::fs::FileExt as _;

use super::*;

const HISTORY: &str = "SELECT seq, version, deleted FROM $h ORDER BY seq";
const LATEST: &str = "SELECT key, item_name, seq, version, data::VARCHAR FROM $t ORDER BY ALL";

/// Nothing that compresses away: its blocks must be there to be damaged.
fn text(n: u64) -> String {
    (0..40u64).fold(String::new(), |text, i| {
        text + &format!("{:016x}", (n * 40 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    })
}

/// Writes, overwrites, deletes and writes again.
fn records() -> Vec<Record> {
    let data = |n: u64| (!n.is_multiple_of(7)).then(|| format!("{{\"n\":{n}}}"));
    (1..=40)
        .map(|n| {
            let key = format!("k{}", n % 5);
            let name = format!("i{}", n % 3);
            record(&key, item("c", &name), data(n).as_deref(), n)
        })
        .collect()
}

#[test]
fn latest_values_follow_from_the_history() {
    let place = Place::new();
    let store = place.collection();
    // In several flushes: versions go on from one to the next.
    for some in records().chunks(7) {
        store.flush(&history(some.to_vec())).expect("a flush");
    }
    let (latest, rows) = (lines(&store, LATEST), store.row_count());
    meddle(
        &store,
        "DELETE FROM $t WHERE key = 'k1'; UPDATE $t SET version = 99; INSERT INTO $t SELECT * FROM $t",
    );
    assert_eq!(store.rebuild_latest().expect("rebuilt"), rows);
    assert_eq!((lines(&store, LATEST), store.row_count(), store.flushed_seq()), (latest.clone(), rows, 40));
    store.flush(&history(vec![record("k1", item("c", "i1"), Some("{}"), 41)])).expect("a flush");
    store.rebuild_latest().expect("again");
    assert!(lines(&store, LATEST).iter().any(|line| line.contains("|41|")));
    assert!(matches!(place.dated().rebuild_latest(), Err(DuckError::Batch { .. })));
}

#[test]
fn a_file_is_made_from_the_other_one() {
    let place = Place::new();
    let store = place.collection();
    store.flush(&history(records())).expect("a flush");
    let latest = lines(&store, LATEST);
    store.close().expect("closed");
    let schema = schema(Model::Collection, &[("n", "int64")]);
    for (what, source, target) in [
        (Derive::LatestFromHistory, "history.duckdb", "latest.duckdb"),
        (Derive::HistoryFromLatest, "latest.duckdb", "history.duckdb"),
    ] {
        let new = place.path("new.duckdb");
        let made = derive(&place.engine, &schema, what, [&place.path(source), &new], &[]);
        assert_eq!(made.expect("made"), (latest.len() as u64, 40));
        std::fs::rename(&new, place.path(target)).expect("renamed");
        let store = place.collection();
        assert_eq!((lines(&store, LATEST), store.flushed_seq()), (latest.clone(), 40), "{what:?}");
        store.close().expect("closed");
    }
    let store = place.collection();
    assert_eq!(lines(&store, HISTORY).len(), latest.len());
}

#[test]
fn a_history_gets_back_what_the_log_has_and_nothing_twice() {
    let place = Place::new();
    let store = place.collection();
    store.flush(&history(records())).expect("a flush");
    let whole = lines(&store, HISTORY);
    meddle(&store, &format!("DELETE FROM {} WHERE seq BETWEEN 4 AND 17 OR seq > 35", history_sql(&store)));
    for inserted in [19, 0] {
        // One that is not flushed yet is left to the flush.
        let mut batches = vec![
            vec![record("k", item("", ""), Some("{}"), 41)],
            records().split_off(20),
            records()[..20].to_vec(),
        ];
        let filled = store.fill_history(&mut || Ok::<_, DuckError>(batches.pop())).expect("filled");
        assert_eq!(filled, FilledIn { records: 40, inserted });
        assert_eq!(lines(&store, HISTORY), whole);
    }
    let failing = &mut || Err(DuckError::Closed { file: PathBuf::new() });
    store.fill_history::<DuckError>(failing).expect_err("its own error");
    store.flush(&history(vec![record("k", item("", ""), Some("{}"), 41)])).expect("still usable");
}

fn history_sql(store: &Store) -> String {
    store.shared().history.as_ref().expect("a history").sql()
}

#[test]
fn figures_agree_open_and_closed_and_a_damaged_block_is_found() {
    let place = Place::new();
    let store = place.dated();
    let rows =
        (1..=5000).map(|n| write(&format!("k{n}"), None, Some(&format!("{{\"t\":\"{}\"}}", text(n))), n));
    store.flush(&latest(rows.collect())).expect("a flush");
    let expected = TableLook {
        file: place.path("data.duckdb"),
        is_history: false,
        rows: 5000,
        flushed_seq: 5000,
        max_seq: 5000,
    };
    let look = |inspector: &mut Inspector| inspector.look().pop().expect("one file").expect("sound");
    let mut inspector = Inspector::of_store(&store).expect("an inspector");
    assert_eq!(look(&mut inspector), expected);
    assert_eq!(inspector.read_all(&|| true).pop().expect("one file").expect("sound"), 5000);
    drop(inspector);
    // What DuckDB's own log holds is looked at too.
    drop(store);
    let files = place.dated_files();
    let schema = schema(Model::Dated, &[]);
    let closed = || Inspector::of_files(&place.engine, &schema, &files, None).expect("an inspector");
    assert_eq!(look(&mut closed()), expected);
    let store = place.dated();
    store.close().expect("closed");
    assert_eq!(look(&mut closed()), expected);
    assert_eq!(closed().read_all(&|| true).pop().expect("one file").expect("sound"), 5000);
    let stopped = closed().read_all(&|| false).pop().expect("one file").expect("sound");
    assert!((1..5000).contains(&stopped), "{stopped}");

    let file =
        std::fs::File::options().write(true).read(true).open(place.path("data.duckdb")).expect("opened");
    let length = file.metadata().expect("its length").len();
    let mut found = 0;
    for at in (3 * 4096..length).step_by(256 * 1024) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at + 100_000 % 4096).expect("read");
        file.write_all_at(&[byte[0] ^ 0x55], at + 100_000 % 4096).expect("written");
        let mut inspector = closed();
        let opened = inspector.look().pop().expect("one file");
        let error =
            opened.map(drop).and_then(|()| inspector.read_all(&|| true).pop().expect("one file").map(drop));
        if let Err(error) = error {
            assert!(error.is_damage(), "{error}");
            assert_eq!(error.file(), Some(&*place.path("data.duckdb")));
            found += 1;
        }
        drop(inspector);
        file.write_all_at(&byte, at + 100_000 % 4096).expect("written");
    }
    assert!(found >= 3, "of {} blocks {found} were found damaged", length / (256 * 1024));
    assert_eq!(look(&mut closed()), expected);
}

#[test]
fn damage_behind_the_back_of_an_open_store_is_found() {
    let place = Place::new();
    let store = place.dated();
    let rows =
        (1..=400).map(|n| write(&format!("k{n}"), None, Some(&format!("{{\"t\":\"{}\"}}", text(n))), n));
    store.flush(&latest(rows.collect())).expect("a flush");
    store.close().expect("closed");
    let store = place.dated();
    let inspector = Inspector::of_store(&store).expect("an inspector");
    let read = || inspector.read_all(&|| true).pop().expect("one file");
    assert_eq!(read().expect("sound"), 400);
    let file = std::fs::File::options().write(true).open(place.path("data.duckdb")).expect("opened");
    file.write_all_at(b"damage", 3 * 4096 + 256 * 1024 + 1000).expect("written");
    let error = read().expect_err("what is cached is not what is in the file");
    assert!(error.is_damage(), "{error}");
}
