//! What a client asks for: everything that touches a record, over few records, with conditions that hold now and then.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    meaning::{Meaning, meaning},
    record::{Became, Change, Seen},
    space::{Address, Partition, put},
};
use crate::harness::Random;

/// A client's choices, and what it has heard.
pub(super) struct Asker {
    pub(super) random: Random,
    /// The next value to store; no other client has it.
    token: u64,
    /// The seq that each record had when this client last heard of it; 0: it was not there.
    heard: BTreeMap<Address, u64>,
}

impl Asker {
    pub(super) fn new(client: u64, random: Random) -> Self {
        Self { random, token: client * 1_000_000, heard: BTreeMap::new() }
    }

    /// The next request; while it is quiet almost always a read.
    pub(super) fn next(&mut self, is_quiet: bool) -> Value {
        let partition = self.random.pick(&Partition::ALL);
        let address = self.address(partition);
        let kind = if is_quiet { self.random.between(20, 150) } else { self.random.between(0, 299) };
        match kind {
            0 => partition.query(),
            1..30 => partition.request("get_key", json!({"key": address.key()})),
            30..120 => address.read(),
            120..145 => {
                let ops: Vec<_> = (0..self.random.between(2, 4)).map(|_| self.write(partition)).collect();
                self.durability(partition.request("batch", json!({"ops": ops})))
            }
            _ => {
                let op = self.write(partition);
                let name = op["op"].as_str().expect("an operation").to_owned();
                self.durability(partition.request(&name, op))
            }
        }
    }

    fn address(&mut self, partition: Partition) -> Address {
        // Half of everything is about the first two keys; the others are left alone long enough to leave memory.
        let all: Vec<_> = partition.addresses().collect();
        let hot = if self.random.one_in(2) { all.len() / 3 } else { all.len() };
        self.random.pick(&all[..hot])
    }

    /// A store or a deletion, as it stands in a batch.
    fn write(&mut self, partition: Partition) -> Value {
        let address = self.address(partition);
        let mut op = if self.random.one_in(3) {
            address.op("delete", json!({}))
        } else {
            self.token += 1;
            address.store(self.token)
        };
        let if_seq = match self.random.between(0, 9) {
            0..4 => None,
            4..6 => Some(0),
            _ => self.heard.get(&address).copied(),
        };
        if let Some(if_seq) = if_seq {
            put(&mut op, json!({"if_seq": if_seq}));
        }
        op
    }

    fn durability(&mut self, mut request: Value) -> Value {
        if self.random.one_in(3) {
            put(&mut request, json!({"durability": "buffered"}));
        }
        request
    }

    /// Hears an answer.
    pub(super) fn learn(&mut self, request: &Value, answer: &Value) {
        match meaning(request, answer) {
            Ok(Meaning::Wrote(steps)) => {
                for (address, step) in steps {
                    match (step.change, step.became) {
                        (Change::Store(_), Became::Seq(seq)) => drop(self.heard.insert(address, seq)),
                        (Change::Delete, _) => drop(self.heard.insert(address, 0)),
                        _ => {}
                    }
                }
            }
            Ok(Meaning::Saw(seen)) => {
                self.heard.extend(seen.into_iter().map(|(address, seen)| match seen {
                    Seen::Absent => (address, 0),
                    Seen::Record { seq, .. } | Seen::Seq(seq) => (address, seq),
                }));
            }
            // The checker will tell.
            Ok(Meaning::Nothing) | Err(_) => {}
        }
    }
}
