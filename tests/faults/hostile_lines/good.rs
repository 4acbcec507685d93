//! The good requests between the bad lines. Each connection has a date of its own, so it knows every byte of every
//! answer before it comes.

use std::collections::BTreeMap;

use super::kinds::Refusal;
use crate::harness::Random;

const STAMP: &str = "2025-01-15T10:30:00.000000Z";

/// Documents that come back only where nobody has rewritten them.
const DOCUMENTS: [&str; 7] = [
    "{}",
    r#"{ "n" : 1.50 , "list":[ ] }"#,
    r#"{"big":123456789012345678901234567890,"tiny":-0.0,"huge":1e999}"#,
    r#"{"text":"caf\u00e9 \/ é \ud83d\ude00 \u0000"}"#,
    r#"{"twice":1,"twice":2}"#,
    r#"{"line":"a\nb\r\n"}"#,
    r#"{"a":{"b":{"c":[[[1]]]}}}"#,
];

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    /// These bytes.
    Exact(String),
    /// These bytes, then when the daemon took the record, then these.
    Around(String, String),
    Refused(Refusal),
}

/// What one connection has stored.
pub(super) struct Model {
    pub(super) date: String,
    seq: u64,
    asked: u64,
    /// Document and `seq` by key.
    pub(super) records: BTreeMap<String, (String, u64)>,
}

impl Model {
    pub(super) fn new(number: u64) -> Self {
        Self { date: format!("2025-01-{:02}", number + 1), seq: 0, asked: 0, records: BTreeMap::new() }
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// A request and its answer.
    pub(super) fn request(&mut self, random: &mut Random) -> (String, Expected) {
        self.asked += 1;
        let id = self.asked;
        let key = format!("k{}", random.between(0, 40));
        match random.between(0, 9) {
            0 => (format!(r#"{{"op":"ping","id":{id}}}"#), exact(id, r#""pong":true"#)),
            1..=4 => self.store(id, key, random),
            5 => self.delete(id, &key),
            6 => self.batch(id, random),
            _ => self.get(id, &key),
        }
    }

    fn store(&mut self, id: u64, key: String, random: &mut Random) -> (String, Expected) {
        let data = random.pick(&DOCUMENTS).to_owned();
        let seq = self.next_seq();
        let line = format!(
            r#"{{"op":"store","id":{id},"storage":"jobs","date":"{}","key":"{key}","timestamp":"{STAMP}","data":{data}}}"#,
            self.date
        );
        self.records.insert(key, (data, seq));
        (line, exact(id, &format!(r#""seq":{seq},"durable":true"#)))
    }

    fn delete(&mut self, id: u64, key: &str) -> (String, Expected) {
        let line =
            format!(r#"{{"op":"delete","id":{id},"storage":"jobs","date":"{}","key":"{key}"}}"#, self.date);
        let said = match self.records.remove(key) {
            Some(_) => format!(r#""seq":{},"deleted":true,"durable":true"#, self.next_seq()),
            None => r#""seq":null,"deleted":false,"durable":true"#.to_owned(),
        };
        (line, exact(id, &said))
    }

    fn batch(&mut self, id: u64, random: &mut Random) -> (String, Expected) {
        let (mut ops, mut seqs) = (Vec::new(), Vec::new());
        for _ in 0..random.between(1, 5) {
            let key = format!("b{}", random.between(0, 20));
            let data = random.pick(&DOCUMENTS).to_owned();
            ops.push(format!(r#"{{"op":"store","key":"{key}","timestamp":"{STAMP}","data":{data}}}"#));
            let seq = self.next_seq();
            seqs.push(seq.to_string());
            self.records.insert(key, (data, seq));
        }
        let line = format!(
            r#"{{"op":"batch","id":{id},"storage":"jobs","date":"{}","ops":[{}]}}"#,
            self.date,
            ops.join(",")
        );
        (line, exact(id, &format!(r#""seqs":[{}],"durable":true"#, seqs.join(","))))
    }

    /// A read of one key.
    pub(super) fn get(&self, id: u64, key: &str) -> (String, Expected) {
        let day = &self.date;
        let line =
            format!(r#"{{"op":"get_key_process","id":{id},"storage":"jobs","date":"{day}","key":"{key}"}}"#);
        let Some((data, seq)) = self.records.get(key) else {
            return (line, exact(id, r#""record":null"#));
        };
        let before = format!(
            r#"{{"id":{id},"ok":true,"record":{{"date":"{day}","key":"{key}","process_name":null,"data":{data},"timestamp":"{STAMP}","status":null,"status_int":null,"username":null,"updated_at":""#
        );
        (line, Expected::Around(before, format!(r#"","seq":{seq}}}}}"#)))
    }
}

fn exact(id: u64, said: &str) -> Expected {
    Expected::Exact(format!(r#"{{"id":{id},"ok":true,{said}}}"#))
}
