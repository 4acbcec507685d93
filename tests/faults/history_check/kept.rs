//! What the collection's own history says of the writes: every answered one once, with its seq and its value, and of
//! the others none twice and no part of a batch. It also tells what was lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    call::History,
    meaning::{Meaning, meaning},
    record::{Became, Change, Step},
    space::{Address, Partition},
};
use crate::harness::Conn;

/// What the collection keeps of each item: seq and token, none for a deletion.
pub(super) type Kept = BTreeMap<Address, BTreeMap<u64, Option<u64>>>;

pub(super) struct Verdict {
    pub(super) lost: Vec<String>,
    pub(super) wrong: Vec<String>,
}

pub(super) fn read(conn: &mut Conn) -> Kept {
    let all = Partition::Settings.addresses();
    all.map(|address| (address, of_item(&conn.ok(address.request("history", json!({"limit": 10_000}))))))
        .collect()
}

fn of_item(answer: &Value) -> BTreeMap<u64, Option<u64>> {
    assert_eq!(answer["more"], false, "one page of history is not enough for a run");
    let records = answer["records"].as_array().expect("records");
    let kept: BTreeMap<_, _> = records
        .iter()
        .map(|record| (record["seq"].as_u64().expect("a seq"), record["data"]["token"].as_u64()))
        .collect();
    assert_eq!(kept.len(), records.len(), "a seq stands twice in the history of one item: {answer}");
    kept
}

/// Holds the calls against what was kept.
pub(super) fn verdict(history: &History, kept: &Kept) -> Verdict {
    let mut verdict = Verdict { lost: Vec::new(), wrong: Vec::new() };
    let mut unclaimed = kept.clone();
    let mut tokens = BTreeMap::new();
    for (address, writes) in kept {
        for (seq, token) in writes.iter().filter_map(|(seq, token)| Some((seq, (*token)?))) {
            if let Some(other) = tokens.insert(token, (*address, *seq)) {
                verdict.wrong.push(format!("{address}: token {token} is kept under {seq} and {other:?}"));
            }
        }
    }
    let mut unanswered = Vec::new();
    for call in &history.calls {
        let Ok(Meaning::Wrote(steps)) = meaning(&call.request, &call.answer) else { continue };
        if Partition::of(&call.request) != Some(Partition::Settings) {
            continue;
        }
        if call.answered.is_none() {
            unanswered.push((call, steps));
            continue;
        }
        for (address, step) in &steps {
            let Became::Seq(seq) = step.became else { continue };
            match unclaimed.get_mut(address).and_then(|writes| writes.remove(&seq)) {
                None => verdict.lost.push(format!("{address}: not in the history\n    {call}")),
                Some(token) if token != token_of(step) => {
                    verdict.wrong.push(format!("{address}: kept with token {token:?}\n    {call}"));
                }
                Some(_) => {}
            }
        }
    }
    for (call, steps) in &unanswered {
        let is_kept = |step: &Step| token_of(step).map(|token| tokens.contains_key(&token));
        let stores: Vec<_> = steps.iter().filter_map(|(_, step)| is_kept(step)).collect();
        if stores.contains(&true) && stores.contains(&false) {
            verdict.wrong.push(format!("a part of a batch is kept\n    {call}"));
        }
        for (address, step) in steps {
            if let (Some(token), Some(writes)) = (token_of(step), unclaimed.get_mut(address)) {
                writes.retain(|_, kept| *kept != Some(token));
            }
        }
    }
    for (address, writes) in unclaimed {
        let deletions = writes.values().filter(|token| token.is_none()).count();
        let is_deletion = |(of, step): &&(Address, Step)| *of == address && step.change == Change::Delete;
        let sent = unanswered.iter().flat_map(|(_, steps)| steps).filter(is_deletion).count();
        if deletions > sent || deletions < writes.len() {
            verdict.wrong.push(format!("{address}: kept, and nobody was told or asked for it: {writes:?}"));
        }
    }
    verdict
}

fn token_of(step: &Step) -> Option<u64> {
    match step.change {
        Change::Store(token) => Some(token),
        Change::Delete => None,
    }
}
