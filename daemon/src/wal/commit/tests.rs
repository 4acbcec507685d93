//! The queue, what a leader knows of those who come, and that everybody is answered once.

use std::sync::mpsc;

use fastpersist_protocol::time::Timestamp;

use super::*;
use crate::storage::record::{Columns, Names};

fn record(deleted: bool) -> Record {
    Record::new(&Columns {
        key: "key",
        names: Names::Dated { process_name: None },
        data: if deleted { "" } else { "{}" },
        value: None,
        timestamp: Some(Timestamp::EPOCH),
        status: None,
        status_int: None,
        username: None,
        updated_at: Timestamp::EPOCH,
        seq: 0,
        deleted,
        writer: None,
    })
}

fn submission(writes: usize) -> Submission {
    let mut submission = Submission::default();
    for write in 0..writes {
        submission.push(record(false), None);
        submission.end_unit(write, false);
    }
    submission
}

/// A submission of so many writes, and what is sent back.
fn waiting(writes: usize) -> (Waiting, mpsc::Receiver<Result<Vec<UnitResult>, Gone>>) {
    let (sender, receiver) = mpsc::channel();
    let reply = Reply::new(move |results| drop(sender.send(results)));
    (Waiting { submission: submission(writes), reply }, receiver)
}

fn push(queue: &Queue, writes: usize) -> bool {
    queue.push(waiting(writes).0)
}

/// Takes what waits; answers how many that are.
fn take(queue: &Queue) -> usize {
    let mut taken = Vec::new();
    queue.take(&mut taken);
    taken.len()
}

#[test]
fn only_what_depends_on_the_present_record_is_conditional() {
    let mut submission = Submission::default();
    submission.push(record(false), None);
    submission.push(record(false), Some(0));
    submission.push_if_newer(record(false));
    submission.push(record(true), None);
    let conditional: Vec<_> = submission.writes.iter().map(Write::is_conditional).collect();
    assert_eq!(conditional, [false, true, true, true]);
    assert!(submission.writes[2].only_newer && !submission.writes[1].only_newer);
}

#[test]
fn a_producer_stands_in_the_line_of_one_write_and_not_in_those_of_a_batch() {
    let producer = || Some(Box::new(Producer { name: "importer".into(), seq: 7 }));
    for batch in [false, true] {
        let mut submission = Submission { producer: producer(), ..Submission::default() };
        submission.push(record(false), None);
        submission.end_unit(0, batch);
        let Write { body, hasher, .. } = &submission.writes[0];
        let body = &submission.bodies[body.start as usize..body.end as usize];
        assert_eq!(body.ends_with(br#","producer":"importer","producer_seq":7"#), !batch);
        assert_eq!(hasher.clone().finalize(), crc32fast::hash(body));
        assert_eq!(submission.units[0].producer, producer());
        assert_eq!(submission.producer, None, "the next request is another's");
    }
}

#[test]
fn the_first_one_leads_until_nobody_waits_any_more() {
    let queue = Queue::default();
    assert!(push(&queue, 1));
    assert!(!push(&queue, 1), "somebody leads");
    assert_eq!(take(&queue), 2);
    assert_eq!(take(&queue), 0, "they are taken once");
    assert!(!push(&queue, 1));
    assert!(queue.must_go_on(), "somebody came meanwhile");
    assert!(!push(&queue, 1), "it is led on");
    assert_eq!(take(&queue), 2);
    assert!(!queue.must_go_on());
    assert!(push(&queue, 1), "the lead was given up");
}

#[test]
fn as_many_are_waited_for_as_were_seen_around_the_last_group() {
    let queue = Queue::default();
    assert!(queue.is_lone());
    push(&queue, 1);
    assert!(queue.is_gathered(), "nobody is expected");
    push(&queue, 1);
    take(&queue);
    push(&queue, 1);
    assert!(queue.must_go_on());
    // Two in the group, one behind it.
    assert!(!queue.is_lone());
    assert!(!queue.is_gathered());
    push(&queue, 1);
    assert!(!queue.is_gathered());
    push(&queue, 1);
    assert!(queue.is_gathered());
    take(&queue);
    queue.must_go_on();
    push(&queue, 1);
    take(&queue);
    queue.must_go_on();
    assert!(queue.is_lone(), "the last group was one's own");
}

#[test]
fn a_large_group_waits_for_nobody() {
    let queue = Queue::default();
    for _ in 0..3 {
        push(&queue, 1);
    }
    take(&queue);
    queue.must_go_on();
    push(&queue, ENOUGH_WRITES - 1);
    assert!(!queue.is_gathered());
    push(&queue, 1);
    assert!(queue.is_gathered());
}

#[test]
fn a_leader_waits_as_long_as_it_was_worth_lately_and_never_long() {
    let queue = Queue::default();
    assert_eq!(queue.patience(), Duration::ZERO);
    let sync = Duration::from_micros(800);
    for _ in 0..100 {
        queue.note_sync(sync);
    }
    assert_eq!(queue.patience(), Duration::ZERO, "nobody came yet");
    queue.note_gathering(true);
    let once = queue.patience();
    assert!(once > sync / 10 && once < sync / 7, "an eighth: {once:?}");
    for _ in 0..20 {
        queue.note_gathering(true);
    }
    let full = queue.patience();
    assert!(full > sync * 9 / 10 && full <= sync, "as long as a sync: {full:?}");
    queue.note_gathering(false);
    let less = queue.patience();
    assert!(less > sync * 8 / 10 && less < full, "{less:?}");
    for _ in 0..20 {
        queue.note_gathering(false);
    }
    assert_eq!(queue.patience(), Duration::ZERO);
    for _ in 0..100 {
        queue.note_sync(Duration::from_secs(1));
        queue.note_gathering(true);
    }
    assert_eq!(queue.patience(), MAX_PATIENCE);
}

#[test]
fn one_slow_sync_counts_for_an_eighth() {
    let queue = Queue::default();
    for _ in 0..FULL_TRUST {
        queue.note_gathering(true);
    }
    queue.note_sync(Duration::from_micros(800));
    assert_eq!(queue.patience(), Duration::from_micros(100));
    queue.note_sync(Duration::from_micros(900));
    assert_eq!(queue.patience(), Duration::from_micros(200));
}

#[test]
fn everybody_is_answered_once_and_a_lost_one_is_told() {
    let (answered, results) = waiting(1);
    assert_eq!(format!("{:?}", answered.reply), "Reply");
    answered.reply.send(vec![UnitResult::Done(Seqs::One(Some(7)))]);
    let got = results.recv().expect("an answer").expect("done");
    assert_eq!(got, [UnitResult::Done(Seqs::One(Some(7)))]);
    assert!(results.recv().is_err(), "once");
    let (lost, results) = waiting(1);
    drop(lost);
    assert!(matches!(results.recv(), Ok(Err(Gone))));
    assert!(results.recv().is_err(), "once");
}

#[test]
fn only_so_many_leaders_block_at_once() {
    let slots = InlineSlots::new(2);
    let first = slots.take();
    let second = slots.take();
    assert!(first.is_some() && second.is_some());
    assert!(slots.take().is_none());
    drop(first);
    let third = slots.take();
    assert!(third.is_some());
    assert!(slots.take().is_none());
}
