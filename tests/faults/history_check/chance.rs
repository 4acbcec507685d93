//! The checker against chance: histories of a daemon that is right always pass, those of one that is wrong now and
//! then mostly do not, and on small ones it says what trying every order says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    call::{Call, History},
    check,
    linear::{self, Op},
    meaning::{Meaning, meaning},
    record::{Became, Change, Deed, Seen, State, Step},
    requests::Asker,
    space::{Address, Partition},
};
use crate::{harness::Random, runs};

/// What a daemon may do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// A write is answered and not done.
    Lost,
    /// Of a batch only the first operation is done.
    Half,
    /// A condition is not looked at.
    Unconditional,
    /// A read is answered as it was a while ago.
    Stale,
    /// Two answers are exchanged.
    Swapped,
}

/// A daemon that does one thing at a time.
#[derive(Default, Clone, PartialEq)]
struct Daemon {
    records: BTreeMap<Address, (u64, u64)>,
    seqs: BTreeMap<Partition, u64>,
}

impl Daemon {
    fn answer(&mut self, request: &Value, bug: Option<Bug>) -> Value {
        let partition = Partition::of(request).unwrap();
        let Ok(Meaning::Wrote(mut steps)) = meaning(request, &Value::Null) else {
            return self.read(partition, request);
        };
        let before = (self.records.clone(), self.seqs.clone());
        for (index, (address, step)) in steps.iter_mut().enumerate() {
            let current = self.records.get(address).map_or(0, |(_, seq)| *seq);
            if step.if_seq.is_some_and(|seq| seq != current) && bug != Some(Bug::Unconditional) {
                (self.records, self.seqs) = before;
                let error = json!({"code": "conflict", "current_seq": current, "index": index});
                return json!({"ok": false, "error": error});
            }
            if step.change == Change::Delete && current == 0 {
                step.became = Became::Nothing;
                continue;
            }
            let next = self.seqs.entry(partition).or_default();
            *next += 1;
            step.became = Became::Seq(*next);
            let is_skipped = bug == Some(Bug::Lost) || bug == Some(Bug::Half) && index > 0;
            match step.change {
                _ if is_skipped => {}
                Change::Store(token) => drop(self.records.insert(*address, (token, *next))),
                Change::Delete => drop(self.records.remove(address)),
            }
        }
        let seq = |step: &Step| match step.became {
            Became::Seq(seq) => json!(seq),
            _ => Value::Null,
        };
        let seqs: Vec<_> = steps.iter().map(|(_, step)| seq(step)).collect();
        let durable = request["durability"] != "buffered";
        if request["op"] == "batch" {
            json!({"ok": true, "seqs": seqs, "durable": durable})
        } else {
            json!({"ok": true, "seq": seqs[0], "durable": durable})
        }
    }

    fn read(&self, partition: Partition, request: &Value) -> Value {
        let record = |address: &Address| {
            let (token, seq) = self.records.get(address)?;
            Some(address.op("", json!({"data": {"token": token}, "seq": seq})))
        };
        if let "get_item" | "get_key_process" = request["op"].as_str().unwrap() {
            return json!({"ok": true, "record": record(&Address::of(partition, request).unwrap())});
        }
        let is_asked = |address: &Address| request["op"] == "query" || request["key"] == address.key();
        let records: Vec<_> =
            partition.addresses().filter(is_asked).filter_map(|address| record(&address)).collect();
        if request["op"] == "get_key" {
            return json!({"ok": true, "records": records});
        }
        let names = ["key", "process_name", "collection_name", "item_name", "data", "seq"];
        let row = |record: &Value| names.map(|name| record[name].clone());
        let rows: Vec<_> = records.iter().map(row).collect();
        json!({"ok": true, "columns": names.map(|name| json!({"name": name})), "rows": rows})
    }
}

/// A history of eight clients, and how often its bug changed an answer or a record.
fn history(seed: u64, bug: Option<Bug>) -> (History, u64) {
    let mut random = Random::seeded(seed);
    let mut askers: Vec<_> = (0..8).map(|n| Asker::new(n, Random::seeded(seed * 8 + n))).collect();
    let mut daemon = Daemon::default();
    let mut calls: Vec<Call> = Vec::new();
    let mut shown = 0;
    for n in 0..400u64 {
        let client = random.between(0, 7);
        let asker = &mut askers[client as usize];
        let request = asker.next(false);
        let is_buggy = n > 50 && bug.is_some_and(|bug| random.one_in(if bug == Bug::Half { 3 } else { 60 }));
        let mut sound = daemon.clone();
        let right = sound.answer(&request, None);
        let mut answer = daemon.answer(&request, bug.filter(|_| is_buggy));
        if is_buggy {
            let former = calls.iter().rev().skip(30).find(|call| match bug {
                Some(Bug::Stale) => call.request == request && !call.answer.is_null(),
                Some(Bug::Swapped) => call.request["op"] == request["op"] && call.answer["ok"] == true,
                _ => false,
            });
            answer = former.map_or(answer, |former| former.answer.clone());
            shown += u64::from(daemon != sound || answer != right);
        }
        asker.learn(&request, &answer);
        // Each takes effect at its own moment and overlaps with some others.
        let moment = 1000 + n * 100;
        let is_unanswered = random.one_in(16);
        let called = moment - random.between(1, 500);
        let answered = (!is_unanswered).then(|| moment + random.between(1, 500));
        let answer = if is_unanswered { Value::Null } else { answer };
        calls.push(Call { client, connected: n, called, answered, request, answer });
        // Another one of which nobody hears, and that was never done.
        if random.one_in(20) {
            let request = asker.next(false);
            let answer = Value::Null;
            calls.push(Call { client, connected: n, called, answered: None, request, answer });
        }
    }
    (History { calls, ends: Vec::new() }, shown)
}

#[test]
fn the_histories_of_a_daemon_that_is_right_always_pass() {
    for seed in 0..if runs::is_long() { 2000 } else { 100 } {
        let (history, _) = history(seed, None);
        let found: Vec<_> = check::findings(&history).iter().map(|one| one.tell(&history)).collect();
        assert!(found.is_empty(), "seed {seed}: {}", found.join("\n"));
    }
}

#[test]
fn the_histories_of_a_daemon_with_a_bug_mostly_do_not() {
    for bug in [Bug::Lost, Bug::Half, Bug::Unconditional, Bug::Stale, Bug::Swapped] {
        // A few times in each: it may be that nobody looks before it is overwritten.
        let runs = (0..60).map(|seed| history(seed, Some(bug))).filter(|(_, shown)| *shown > 0);
        let verdicts: Vec<_> = runs.map(|(history, _)| !check::findings(&history).is_empty()).collect();
        let found = verdicts.iter().filter(|found| **found).count();
        println!("{bug:?}: found in {found} of {} histories", verdicts.len());
        assert!(verdicts.len() >= 20 && found * 10 >= verdicts.len() * 6, "{bug:?}");
    }
}

/// Whether any order of the operations explains them: every one is tried.
fn has_order(ops: &[Op], left: &[usize], state: State) -> bool {
    let may_miss = |at: &usize| !ops[*at].is_answered;
    if left.iter().all(may_miss) {
        return true;
    }
    left.iter().any(|at| {
        let before = |other: &usize| ops[*other].is_answered && ops[*other].until < ops[*at].called;
        let rest: Vec<_> = left.iter().copied().filter(|other| other != at).collect();
        // Without an answer: it also may miss, and so may what it would have to come before.
        let over = |other: &usize| !ops[*other].is_answered && ops[*other].until < ops[*at].called;
        let rest: Vec<_> = rest.into_iter().filter(|other| !over(other)).collect();
        !left.iter().any(before)
            && state.after(&ops[*at].deed).is_some_and(|after| has_order(ops, &rest, after))
    })
}

/// One operation on a record, of few kinds, so that they often fit.
fn any_op(random: &mut Random, token: u64) -> Op {
    let called = random.between(0, 20);
    let is_answered = !random.one_in(4);
    let seq = random.between(1, 5);
    let some = random.between(0, 3);
    let if_seq = random.pick(&[None, None, Some(some)]);
    let known = random.between(0, 5);
    let deed = match random.between(0, 5) {
        0 if is_answered => Deed::See(Seen::Absent),
        1 if is_answered => Deed::See(Seen::Seq(random.between(0, 5))),
        2 | 3 if is_answered => Deed::See(Seen::Record { token: known, seq }),
        kind => {
            let change = if kind == 4 { Change::Delete } else { Change::Store(token) };
            let became = if is_answered { Became::Seq(seq) } else { Became::Unknown };
            Deed::Write(vec![Step { change, if_seq, became }])
        }
    };
    Op { call: 0, called, until: called + random.between(1, 12), is_answered, behind: None, deed }
}

#[test]
fn it_says_what_trying_every_order_says() {
    let mut random = Random::seeded(1);
    let mut both = [0, 0];
    for _ in 0..60_000 {
        let count = random.between(2, 6);
        let mut ops: Vec<_> = (0..count).map(|token| any_op(&mut random, token)).collect();
        ops.sort_by_key(|op| op.called);
        let all: Vec<_> = (0..ops.len()).collect();
        let expected = has_order(&ops, &all, State::default());
        both[usize::from(expected)] += 1;
        assert_eq!(linear::order(&ops).is_ok(), expected, "{ops:#?}");
    }
    println!("of these histories {} have no order and {} have one", both[0], both[1]);
    assert!(both.iter().all(|count| *count > 1000), "{both:?}");
}
