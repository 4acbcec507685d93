//! The checker has to find what is planted: small histories that are wrong in one thing, and beside them right ones
//! that look alike.

use serde_json::{Value, json};

use super::{
    call::{Call, History},
    check,
    space::{Address, Partition},
};

/// A history in the making. Every call has a connection of its own unless `behind` is used.
#[derive(Default)]
struct Book(History);

impl Book {
    /// `to` is `None` where there was no answer.
    fn call(mut self, from: u64, to: impl Into<Option<u64>>, request: Value, answer: Value) -> Self {
        let client = self.0.calls.len() as u64;
        let (connected, answered) = (0, to.into());
        self.0.calls.push(Call { client, connected, called: from, answered, request, answer });
        self
    }

    fn unanswered(self, from: u64, request: Value) -> Self {
        self.call(from, None, request, Value::Null)
    }

    /// The call before and this one were sent on the same connection.
    fn behind(mut self, from: u64, to: u64, request: Value, answer: Value) -> Self {
        self = self.call(from, to, request, answer);
        let last = self.0.calls.len() - 1;
        self.0.calls[last].client = self.0.calls[last - 1].client;
        self
    }

    fn end(mut self, at: u64) -> Self {
        self.0.ends.push(at);
        self
    }

    fn findings(&self) -> Vec<String> {
        check::findings(&self.0).iter().map(|finding| finding.tell(&self.0)).collect()
    }

    #[track_caller]
    fn passes(self) {
        let found = self.findings();
        assert!(found.is_empty(), "nothing is wrong here:\n{}", found.join("\n"));
    }

    /// Something is found, and says `what`.
    #[track_caller]
    fn fails(self, what: &str) {
        let found = self.findings();
        assert!(found.iter().any(|text| text.contains(what)), "no {what:?} in {found:#?}");
    }
}

/// Found at one record, without belief in the order of `seq`.
pub(super) const NO_ORDER: &str = "no order explains";
/// Found in the partition.
const NEVER_SO: &str = "never so at any moment";

fn place(n: usize) -> Address {
    Partition::Settings.addresses().nth(n).unwrap()
}

/// The record of most histories, and another with the same key.
fn a() -> Address {
    place(0)
}

fn b() -> Address {
    place(1)
}

fn store(at: Address, token: u64) -> Value {
    Partition::Settings.request("store", at.store(token))
}

fn store_if(at: Address, token: u64, if_seq: u64) -> Value {
    let mut request = store(at, token);
    request["if_seq"] = if_seq.into();
    request
}

fn delete(at: Address) -> Value {
    at.request("delete", json!({}))
}

fn batch(ops: &[Value]) -> Value {
    Partition::Settings.request("batch", json!({"ops": ops}))
}

fn get_key() -> Value {
    Partition::Settings.request("get_key", json!({"key": a().key()}))
}

fn stored(seq: u64) -> Value {
    json!({"ok": true, "seq": seq, "durable": true})
}

fn deleted(seq: Option<u64>) -> Value {
    json!({"ok": true, "seq": seq, "deleted": seq.is_some(), "durable": true})
}

fn batched(seqs: &[u64]) -> Value {
    json!({"ok": true, "seqs": seqs, "durable": true})
}

fn conflict(current_seq: u64) -> Value {
    json!({"ok": false, "error": {"code": "conflict", "current_seq": current_seq}})
}

fn record(at: Address, token: u64, seq: u64) -> Value {
    at.op("", json!({"data": {"token": token}, "value": token, "seq": seq}))
}

fn found(at: Address, token: u64, seq: u64) -> Value {
    json!({"ok": true, "record": record(at, token, seq)})
}

fn absent() -> Value {
    json!({"ok": true, "record": null})
}

#[test]
fn a_stale_read_is_found() {
    let two = || Book::default().call(0, 10, store(a(), 1), stored(1)).call(20, 30, store(a(), 2), stored(2));
    two().call(40, 50, a().read(), found(a(), 1, 1)).fails(NO_ORDER);
    two().call(40, 50, a().read(), absent()).fails(NO_ORDER);
    two().call(25, 50, a().read(), found(a(), 1, 1)).passes();
    // One reader may be behind another only while the write goes on.
    let read_twice = |from| {
        two()
            .call(21, 22, a().read(), found(a(), 2, 2))
            .call(from, 29, a().read(), found(a(), 1, 1))
            .findings()
            .len()
    };
    assert!(read_twice(23) > 0 && read_twice(22) == 0);
}

#[test]
fn a_lost_update_is_found() {
    let book =
        || Book::default().call(0, 10, store(a(), 1), stored(1)).call(20, 30, store(a(), 2), stored(2));
    book().call(40, 50, store_if(a(), 3, 1), stored(3)).fails(NO_ORDER);
    book().call(40, 50, store_if(a(), 3, 2), stored(3)).call(60, 70, a().read(), found(a(), 3, 3)).passes();
    book().call(40, 50, store_if(a(), 3, 1), conflict(2)).passes();
    book().call(40, 50, store_if(a(), 3, 1), conflict(3)).fails(NO_ORDER);
    book().call(40, 50, store_if(a(), 3, 2), conflict(2)).fails("and yet the seq is that");
}

#[test]
fn two_that_both_change_the_same_state_are_found() {
    let book = Book::default().call(0, 10, store(a(), 1), stored(1));
    let first = book.call(20, 40, store_if(a(), 2, 1), stored(2));
    first.call(20, 40, store_if(a(), 3, 1), stored(3)).fails(NO_ORDER);
    let both = Book::default().call(0, 10, store_if(a(), 1, 0), stored(1));
    both.call(0, 10, store_if(a(), 2, 0), stored(2)).fails(NO_ORDER);
    let between = Book::default().call(0, 10, store_if(a(), 1, 0), stored(1));
    between.call(0, 10, store_if(a(), 2, 0), stored(3)).call(0, 10, delete(a()), deleted(Some(2))).passes();
}

#[test]
fn what_was_never_written_is_found() {
    let book = || Book::default().call(0, 10, store(a(), 1), stored(1));
    book().call(20, 30, a().read(), found(a(), 99, 1)).fails(NO_ORDER);
    book().call(20, 30, a().read(), found(a(), 1, 7)).fails(NO_ORDER);
    book().call(20, 30, b().read(), found(b(), 1, 1)).fails(NO_ORDER);
    let mut torn = record(a(), 1, 1);
    torn["value"] = 2.into();
    book().call(20, 30, a().read(), json!({"ok": true, "record": torn})).fails("with the data of another");
    // Before it was sent: the future.
    Book::default()
        .call(0, 5, a().read(), found(a(), 1, 1))
        .call(10, 20, store(a(), 1), stored(1))
        .fails(NO_ORDER);
}

#[test]
fn a_deletion_undone_is_found() {
    let book =
        || Book::default().call(0, 10, store(a(), 1), stored(1)).call(20, 30, delete(a()), deleted(Some(2)));
    book().call(40, 50, a().read(), found(a(), 1, 1)).fails(NO_ORDER);
    book().call(40, 50, delete(a()), deleted(Some(3))).fails(NO_ORDER);
    book().call(40, 50, delete(a()), deleted(None)).call(40, 50, a().read(), absent()).passes();
    let gone = Book::default().call(0, 10, store(a(), 1), stored(1));
    gone.call(20, 30, delete(a()), deleted(None)).fails(NO_ORDER);
}

#[test]
fn half_a_batch_is_found() {
    let both = || batch(&[a().store(1), b().store(2)]);
    let done = || Book::default().call(0, 10, both(), batched(&[1, 2]));
    done().call(20, 30, b().read(), absent()).fails(NO_ORDER);
    // While it goes on one part may be seen, but then nobody misses the other, and each record alone is right.
    let half = |answered: Option<u64>| {
        let answer = answered.map_or(Value::Null, |_| batched(&[1, 2]));
        Book::default().call(0, answered, both(), answer).call(20, 30, a().read(), found(a(), 1, 1))
    };
    for answered in [Some(100), None] {
        half(answered).call(40, 50, b().read(), absent()).fails(NEVER_SO);
        half(answered).call(40, 50, b().read(), found(b(), 2, 2)).passes();
        half(answered).call(25, 50, b().read(), absent()).passes();
    }
    let one = json!({"ok": true, "records": [record(a(), 1, 1)]});
    Book::default().call(0, 100, both(), batched(&[1, 2])).call(20, 30, get_key(), one).fails(NEVER_SO);
    half(None).call(40, 50, b().read(), found(b(), 2, 5)).fails("do not follow each other");
    Book::default().call(0, 10, both(), batched(&[1, 3])).fails("do not follow each other");
    // Of one record written twice in a batch nobody sees the first.
    let twice = Book::default().call(0, 10, batch(&[a().store(1), a().store(2)]), batched(&[1, 2]));
    twice.call(5, 30, a().read(), found(a(), 1, 1)).fails(NO_ORDER);
}

#[test]
fn an_unanswered_write_that_takes_effect_twice_is_found() {
    let once = || {
        Book::default().unanswered(0, store(a(), 1)).call(10, 20, a().read(), found(a(), 1, 1)).call(
            30,
            40,
            store(a(), 2),
            stored(2),
        )
    };
    once().call(50, 60, a().read(), found(a(), 1, 1)).fails(NO_ORDER);
    once().call(50, 60, a().read(), found(a(), 1, 3)).fails("is there under the seqs");
    once().call(50, 60, a().read(), found(a(), 2, 2)).passes();
    // Unseen before, it may come this late, but only until its daemon's end.
    let late = |end: u64| {
        let book =
            Book::default().unanswered(0, store(a(), 1)).call(30, 40, store(a(), 2), stored(2)).end(end);
        book.call(50, 60, a().read(), found(a(), 2, 2)).call(70, 80, a().read(), found(a(), 1, 3))
    };
    late(90).passes();
    late(45).fails(NO_ORDER);
}

#[test]
fn an_unanswered_deletion_may_be_or_not() {
    let book = || Book::default().call(0, 10, store(a(), 1), stored(1)).unanswered(20, delete(a())).end(100);
    book().call(110, 120, a().read(), absent()).passes();
    book().call(110, 120, a().read(), found(a(), 1, 1)).passes();
    book().call(110, 120, a().read(), found(a(), 1, 1)).call(130, 140, a().read(), absent()).fails(NO_ORDER);
    book().call(110, 120, a().read(), absent()).call(130, 140, a().read(), found(a(), 1, 1)).fails(NO_ORDER);
    // What a condition shows of it counts as much as a read.
    let shown = Book::default().unanswered(0, store(a(), 1)).call(10, 20, store_if(a(), 2, 0), conflict(1));
    shown.call(30, 40, a().read(), absent()).fails(NO_ORDER);
    let shown = Book::default().unanswered(0, store(a(), 1)).call(10, 20, store_if(a(), 2, 0), conflict(1));
    shown.call(30, 40, store_if(a(), 2, 1), stored(2)).passes();
}

#[test]
fn places_against_the_clock_are_found() {
    let earlier = "though it was asked for when";
    let book = || Book::default().call(0, 10, store(a(), 1), stored(5));
    book().call(20, 30, store(b(), 2), stored(3)).fails(earlier);
    book().call(5, 30, store(b(), 2), stored(3)).passes();
    book().call(20, 30, store(b(), 2), stored(5)).fails("was given to two writes");
    // Nobody was answered, and yet it was seen.
    let seen = Book::default().unanswered(0, store(a(), 1)).call(5, 10, a().read(), found(a(), 1, 5));
    seen.call(20, 30, store(b(), 2), stored(3)).fails(earlier);
}

#[test]
fn an_answer_that_mixes_moments_is_found() {
    let book = || {
        Book::default()
            .call(0, 10, store(a(), 1), stored(1))
            .call(0, 10, store(b(), 2), stored(2))
            .call(20, 90, store(a(), 3), stored(3))
            .call(20, 90, store(b(), 4), stored(4))
    };
    let both = |first: Value, second: Value| json!({"ok": true, "records": [first, second]});
    book().call(20, 90, get_key(), both(record(a(), 1, 1), record(b(), 4, 4))).fails(NEVER_SO);
    book().call(20, 90, get_key(), both(record(a(), 3, 3), record(b(), 2, 2))).passes();
}

#[test]
fn what_stands_behind_a_write_on_its_connection_sees_it() {
    let book = || Book::default().call(0, 90, store(a(), 1), stored(1));
    book().behind(0, 91, a().read(), absent()).fails(NO_ORDER);
    book().behind(0, 91, a().read(), found(a(), 1, 1)).passes();
    book().call(0, 91, a().read(), absent()).passes();
}
