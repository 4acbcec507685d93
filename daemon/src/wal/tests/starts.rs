//! What a start makes of segments that are long, flushed, empty or not readable, beyond what the instrument does.

use super::*;
use crate::wal::entry::Gap;
use crate::wal::recover::{RecoverError, recover, segments};

fn seqs(range: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    range.flat_map(line).collect()
}

/// A line of so many bytes at least.
fn long_line(seq: u64, bytes: usize) -> Vec<u8> {
    let text = "x".repeat(bytes);
    let body =
        format!(r#"{{"op":"store","key":"k","data":{{"text":"{text}"}},"updated_at":"2025-01-15T10:30:00Z""#);
    let mut out = Vec::new();
    entry::finish_line(body.as_bytes(), entry::hash_body(body.as_bytes()), seq, seq - 1, &mut out);
    out
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len() + 200_000, 0);
    bytes
}

#[test]
fn lines_longer_than_what_is_looked_at_tell_where_a_segment_begins_and_ends() {
    let long = |seq| long_line(seq, 100_000);
    for first in [[long(1), line(2)].concat(), [line(1), long(2)].concat(), padded(seqs(1..=2)), long(1)] {
        let last = if first == long(1) { 1 } else { 2 };
        let written = Written::new(&[(0, 1, &first), (0, 2, &seqs(last + 1..=5))]);
        for flushed_seq in 0..=last {
            let (found, recovered) = written.recover(flushed_seq);
            assert_eq!(found, (flushed_seq + 1..=5).collect::<Vec<_>>());
            assert_eq!(recovered.expect("it starts").last_seq, 5);
        }
        // And one that goes on where another begins is seen for what it is.
        let written = Written::new(&[(0, 1, &first), (0, 2, &seqs(last..=5))]);
        assert!(written.is_damaged_at(last, "2025-01-15/wal_000002.jsonl", 0), "{:?}", written.recover(last));
    }
}

#[test]
fn of_what_is_flushed_damage_does_not_hold_up_the_start() {
    let mut bad = seqs(1..=4);
    bad[30] ^= 1;
    let mut bad_end = seqs(1..=4);
    let end = bad_end.len();
    bad_end[end - 30] ^= 1;
    for first in [bad, bad_end, seqs(1..=4)[..end - 1].to_vec()] {
        let written = Written::new(&[(0, 1, &first), (0, 2, &seqs(5..=6))]);
        assert_eq!(written.recover(4).0, [5, 6]);
        assert!(written.recover(3).1.is_err(), "now it is needed");
    }
}

/// Where a clock went back the labels are out of order, and a segment with damage at its head still stands in its place.
#[test]
fn a_segment_is_put_in_order_by_the_first_line_that_can_be_read() {
    let mut bad = seqs(3..=5);
    bad[30] ^= 1;
    let written = Written::new(&[(0, 1, &seqs(1..=2)), (1, 2, &bad), (1, 1, &seqs(6..=7))]);
    assert!(written.is_damaged_at(0, "2025-01-16/wal_000002.jsonl", 0), "{:?}", written.recover(0));
}

/// A power cut brought back the removed segment of record 1 and not the one behind it, and tore the first write behind
/// the flush. The start missed the records between, which the database had, and refused. Then it took the database's
/// word for what the log had begun with: where records 2 and 3 had stood in the same file as the torn ones, and all of
/// it was gone, that was damage, and was cut off.
#[test]
fn a_removed_segment_that_came_back_makes_no_damage_of_a_torn_write() {
    let group: Vec<_> = (4..=12).flat_map(|seq| line_when(seq, 3)).collect();
    let mut torn = group.clone();
    torn[..512].fill(0);
    let written = Written::new(&[(0, 1, &seqs(1..=1)), (0, 3, &torn)]);
    for flushed_seq in [1, 2] {
        let told = Told { flushed_seq, removed_seq: flushed_seq, settled_seq: None };
        assert!(written.recover_when(told).1.is_err(), "the record behind {flushed_seq} was durable");
    }
    assert!(written.recover(3).1.is_err(), "nothing says that records 2 and 3 were removed from the log");
    let (found, recovered) = written.recover_when(Told { flushed_seq: 3, removed_seq: 3, settled_seq: None });
    assert_eq!(
        (found, recovered.map(|recovered| (recovered.last_seq, recovered.torn_count)).ok()),
        (vec![], Some((3, 1)))
    );
}

/// What the database has was durable before. Its word was not asked where a hole stood in the newest segment, and durable
/// records behind the hole were cut off as torn: of group commits that a flush overtook, every line carries the same
/// watermark.
#[test]
fn a_lost_sector_of_what_the_database_has_is_no_torn_write() {
    let mut newest: Vec<_> = (4..=24).flat_map(|seq| line_when(seq, 3)).collect();
    newest[..512].fill(0);
    let written = Written::new(&[(0, 1, &seqs(1..=3)), (0, 2, &newest)]);
    for flushed_seq in [4, 5, 20] {
        assert!(written.is_damaged_at(flushed_seq, "2025-01-15/wal_000002.jsonl", 0), "{flushed_seq}");
    }
    // Also where other lines of the segment can be read before it.
    let mut newest: Vec<_> = (4..=34).flat_map(|seq| line_when(seq, 3)).collect();
    newest[1024..1536].fill(0);
    let written = Written::new(&[(0, 1, &seqs(1..=3)), (0, 2, &newest)]);
    assert!(written.recover(30).1.is_err(), "the database has what is not readable");
    let (found, recovered) = written.recover(5);
    assert_eq!(recovered.expect("it is a torn write").torn_count, 1);
    assert!(found.len() > 1 && found.len() < 20, "{found:?}");
}

/// The only segment began with flushed records, and its first sector was lost, with the head of a durable group behind
/// them. The start took for the log's beginning what the database lacks, and cut the group off as torn.
#[test]
fn a_log_begins_where_it_was_removed_and_not_where_the_database_ends() {
    let mut only = [seqs(1..=3), (4..=24).flat_map(|seq| line_when(seq, 3)).collect()].concat();
    only[..512].fill(0);
    let written = Written::new(&[(0, 1, &only)]);
    assert!(written.is_damaged_at(3, "2025-01-15/wal_000001.jsonl", 0), "{:?}", written.recover(3));
    // Where nothing stood before it, it is the first write behind the removed ones.
    let mut first: Vec<_> = (4..=24).flat_map(|seq| line_when(seq, 3)).collect();
    first[..512].fill(0);
    let written = Written::new(&[(0, 1, &first)]);
    let (_, recovered) = written.recover_when(Told { flushed_seq: 3, removed_seq: 3, settled_seq: None });
    assert_eq!(recovered.map(|recovered| (recovered.last_seq, recovered.torn_count)).ok(), Some((3, 1)));
}

/// A removed segment that a power cut brought back ends where its own last line says: whoever followed the changes from
/// there was told that a sound log is damaged.
#[test]
fn a_removed_segment_that_came_back_reaches_no_further_than_its_lines() {
    let written = Written::new(&[(0, 1, &seqs(1..=10)), (0, 3, &seqs(21..=30))]);
    let last_seqs = |told| {
        let recovered = written.recover_when(told).1.expect("it starts");
        recovered.sealed.iter().map(|sealed| sealed.last_seq).collect::<Vec<_>>()
    };
    let told = Told { flushed_seq: 25, removed_seq: 20, settled_seq: None };
    assert_eq!(last_seqs(told), [10, 30]);
    assert_eq!(
        last_seqs(Told { removed_seq: 0, ..told }),
        [20, 30],
        "nothing says that anything was removed"
    );
    assert_eq!(last_seqs(Told { flushed_seq: 30, settled_seq: Some(30), ..told }), [10, 30]);
    let alone = Written::new(&[(0, 1, &seqs(1..=10))]);
    let told = Told { flushed_seq: 30, removed_seq: 30, settled_seq: Some(30) };
    let recovered = alone.recover_when(told).1.expect("it starts");
    assert_eq!(recovered.sealed[0].last_seq, 10);
}

/// Somebody put an older database in place: what was removed of the log by the later one's word is not what this one
/// tells, and a torn end passed for damage.
#[test]
fn an_older_database_makes_no_damage_of_a_torn_write() {
    let mut torn: Vec<_> = (4..=12).flat_map(|seq| line_when(seq, 3)).collect();
    torn[..512].fill(0);
    let written = Written::new(&[(0, 1, &seqs(1..=3)), (0, 2, &torn)]);
    let (found, recovered) = written.recover_when(Told { flushed_seq: 1, removed_seq: 9, settled_seq: None });
    assert_eq!(
        (found, recovered.map(|recovered| (recovered.last_seq, recovered.torn_count)).ok()),
        (vec![2, 3], Some((3, 1)))
    );
}

#[test]
fn what_a_start_finds_is_as_it_was_sealed() {
    let written = Written::new(&[(0, 1, &seqs(1..=2)), (0, 2, &seqs(3..=4)), (1, 1, &padded(seqs(5..=6)))]);
    let (_, recovered) = written.recover(2);
    let recovered = recovered.expect("it starts");
    let found: Vec<_> = recovered.sealed.iter().map(|sealed| (sealed.last_seq, sealed.bytes)).collect();
    let bytes = |range| seqs(range).len() as u64;
    assert_eq!(found, [(2, bytes(1..=2)), (4, bytes(3..=4)), (6, bytes(5..=6))]);
    for sealed in &recovered.sealed {
        let metadata = std::fs::metadata(&sealed.path).expect("there");
        assert_eq!(metadata.len(), sealed.bytes, "the last one is trimmed");
        assert!(metadata.modified().expect("known") >= sealed.sealed_at);
    }
    let list = segments(&RealDisk, &written.days).expect("listed");
    assert_eq!(list.iter().map(|segment| segment.first_seq).collect::<Vec<_>>(), [Some(1), Some(3), Some(5)]);
    assert_eq!(list[2].path, written.days[1].join("wal_000001.jsonl"));
}

#[test]
fn where_all_is_flushed_the_end_is_trimmed_in_place() {
    let written = Written::new(&[(0, 1, &padded(seqs(1..=2)))]);
    let path = written.days[0].join("wal_000001.jsonl");
    let inode = || crate::disk::identity(&path).expect("there");
    let before = inode();
    let (found, recovered) = written.recover(2);
    assert!(found.is_empty() && recovered.expect("it starts").last_seq == 2);
    assert_eq!(std::fs::read(&path).expect("read"), seqs(1..=2));
    assert_eq!(inode(), before, "it need not be written anew");
    // What is not flushed may only be in the kernel's memory, so it is written to a new file.
    let (found, _) = written.recover(1);
    assert_eq!(found, [2]);
    assert_ne!(inode(), before);
}

#[test]
fn a_settled_log_is_listed_and_not_read() {
    let mut bad = seqs(3..=4);
    bad[30] ^= 1;
    let written = Written::new(&[(0, 1, &seqs(1..=2)), (0, 2, &bad), (0, 3, &seqs(5..=6))]);
    let disk = RealDisk::shared();
    let settled = |flushed_seq, settled_seq| {
        let told = Told { flushed_seq, settled_seq, removed_seq: 0 };
        recover(&disk, &written.days, Model::Dated, told, |_| panic!("nothing is to come"))
    };
    let recovered = settled(6, Some(6)).expect("it starts");
    assert_eq!((recovered.last_seq, recovered.torn_count), (6, 0));
    let last_seqs: Vec<_> = recovered.sealed.iter().map(|sealed| sealed.last_seq).collect();
    // Where one begins with nothing that can be read, the one before it is kept as long as any.
    assert_eq!(last_seqs, [6, 4, 6]);
}

#[test]
fn what_a_repair_left_out_must_be_in_the_database() {
    let mut gap = line(1);
    entry::encode_gap(Gap { count: 3, lost: false }, 2, Timestamp::EPOCH, &mut gap);
    let written = Written::new(&[(0, 1, &[gap, line(5)].concat())]);
    assert_eq!(written.recover(4).0, [5]);
    for flushed_seq in 0..=3 {
        match written.recover(flushed_seq).1 {
            Err(RecoverError::Damaged { reason, .. }) => {
                assert!(reason.contains("records 2 to 4 were left out"), "{reason}");
            }
            other => panic!("{flushed_seq}: {other:?}"),
        }
    }
}

#[test]
fn the_oldest_segment_begins_where_the_database_ends_or_before() {
    let written = Written::new(&[(0, 1, &seqs(5..=6))]);
    for flushed_seq in [4, 5] {
        assert_eq!(written.recover(flushed_seq).0.last(), Some(&6), "{flushed_seq}");
    }
    for flushed_seq in [0, 3] {
        let error = written.recover(flushed_seq).1.expect_err("records are missing");
        assert!(error.to_string().contains("it begins with record 5"), "{error}");
    }
    let nothing = Written::new(&[]);
    assert_eq!(nothing.recover(9).1.expect("it starts").last_seq, 9);
}

#[test]
fn a_start_that_cannot_read_or_write_says_which_file() {
    for (reads, creates, removes) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
        let torn = line(2);
        let written = Written::new(&[(0, 1, &[line(1), torn[..40].to_vec()].concat())]);
        let failing = FailingDisk::default();
        let failures = Arc::clone(&failing.failures);
        failures.reads.store(reads, Ordering::SeqCst);
        failures.creates.store(creates, Ordering::SeqCst);
        failures.removes.store(removes, Ordering::SeqCst);
        let disk: Arc<dyn Disk> = Arc::new(failing);
        let recovered = recover(&disk, &written.days, Model::Dated, Told::default(), |_| {});
        match recovered {
            Err(RecoverError::Io { file, .. }) => assert!(file.contains("wal_000001.jsonl"), "{file}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(written.recover(0).1.expect("then it starts").torn_count, 1);
    }
}

#[test]
fn what_an_interrupted_start_or_segment_left_is_removed() {
    let written = Written::new(&[(0, 1, &line(1)), (0, 2, &[0; 4096]), (0, 3, b"")]);
    for name in
        ["wal_next.jsonl.tmp", "wal_000001.jsonl.tmp", "other.tmp", "notes", "torn-9-wal_000001.jsonl"]
    {
        std::fs::write(written.days[0].join(name), "x").expect("written");
    }
    assert_eq!(written.recover(0).0, [1]);
    let left = RealDisk.list(&written.days[0]).expect("listed");
    assert_eq!(left, ["notes", "other.tmp", "torn-9-wal_000001.jsonl", "wal_000001.jsonl"]);
}

/// The second one took the first one's place.
#[test]
fn a_second_torn_end_at_the_same_place_is_kept_beside_the_first() {
    let written = Written::new(&[(0, 1, b"one")]);
    for torn in ["one", "two", "two"] {
        std::fs::write(written.days[0].join("wal_000001.jsonl"), torn).expect("written");
        written.recover(0).1.expect("it starts");
    }
    let mut kept = RealDisk.list(&written.days[0]).expect("listed");
    kept.sort_unstable();
    assert_eq!(kept, ["torn-0-2-wal_000001.jsonl", "torn-0-wal_000001.jsonl"]);
    let read = |name: &str| std::fs::read_to_string(written.days[0].join(name)).expect("read");
    assert_eq!([read(&kept[0]), read(&kept[1])], ["two", "one"]);
}
