//! What was sent and what was answered, and whether what is found agrees with it.
//!
//! The promises are those of the protocol: every write that was answered durable is there, once, in the history too;
//! one that was not answered is there or not, but whole; one that was refused, or never sent, is not; no place is
//! given twice.
//!
//! Requests to one partition are sent one after the other, so the order in which they stand here is that of `seq`.

use std::collections::{BTreeMap, BTreeSet};

use fastpersist_protocol::time::Date;

use crate::duck::plain::PlainRow;

/// A partition: a date of the dated storage, or the collection storage.
pub(super) type Place = Option<Date>;

/// What is known of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nobody knows: it was not answered, or the answer said so.
    Uncertain,
    /// It was answered, and is durable with the next sync.
    Buffered,
    /// It was answered durable, or it was seen after a restart.
    Durable,
    /// It was refused, or did not show after a restart.
    Absent,
}

#[derive(Debug, Clone)]
struct Write {
    place: Place,
    key: String,
    name: Option<String>,
    /// `None` for a deletion.
    data: Option<String>,
    unit: usize,
    known: Known,
    seq: Option<u64>,
}

/// The records of a partition as they are read: data and place by key and name.
pub(super) type Records = BTreeMap<(String, Option<String>), (String, u64)>;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    writes: Vec<Write>,
    units: usize,
    batches: BTreeSet<usize>,
    /// The highest place that is durable, by partition.
    top: BTreeMap<Place, u64>,
    /// The highest place that was answered and not lost in a crash since, by partition.
    answered: BTreeMap<Place, u64>,
    /// What does not agree; it begins with LOST or WRONG.
    pub(super) problems: Vec<String>,
}

impl Ledger {
    pub(super) fn begin_unit(&mut self, is_batch: bool) {
        self.units += 1;
        if is_batch {
            self.batches.insert(self.units);
        }
    }

    /// Notes a write that is about to be sent, and answers its number.
    pub(super) fn send(&mut self, place: Place, key: &str, name: Option<&str>, data: Option<&str>) -> usize {
        self.writes.push(Write {
            place,
            key: key.to_owned(),
            name: name.map(str::to_owned),
            data: data.map(str::to_owned),
            unit: self.units,
            known: Known::Uncertain,
            seq: None,
        });
        self.writes.len() - 1
    }

    /// Whether the answer said that it is stored.
    pub(super) fn is_there(&self, number: usize) -> bool {
        matches!(self.writes[number].known, Known::Durable | Known::Buffered)
    }

    pub(super) fn count(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn places(&self) -> BTreeSet<Place> {
        self.writes.iter().map(|write| write.place).collect()
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self, number: usize, known: Known, seq: Option<u64>) {
        let place = self.writes[number].place;
        let of_place = |tops: &BTreeMap<Place, u64>| tops.get(&place).copied().unwrap_or_default();
        let top = of_place(&self.top).max(of_place(&self.answered));
        if let Some(seq) = seq {
            if seq <= top {
                self.problem(format!("WRONG: place {seq} of {place:?} is given again"));
            }
            self.answered.insert(place, seq.max(top));
        }
        (self.writes[number].known, self.writes[number].seq) = (known, seq);
        if known == Known::Durable {
            self.settle(place, seq);
            for write in &mut self.writes[..number] {
                if write.place == place && write.known == Known::Buffered {
                    // They are in the same file, before it.
                    write.known = Known::Durable;
                }
            }
        }
    }

    /// What was answered and not durable may be gone with the power, or with a log that failed; no later sync makes it
    /// durable any more. A kill alone takes nothing of it.
    pub(super) fn crashed(&mut self, keeps_buffered: bool) {
        if keeps_buffered {
            return;
        }
        // What is lost with the power leaves its place to another.
        self.answered.clear();
        for write in self.writes.iter_mut().filter(|write| write.known == Known::Buffered) {
            write.known = Known::Uncertain;
        }
    }

    fn settle(&mut self, place: Place, seq: Option<u64>) {
        let top = self.top.entry(place).or_default();
        *top = (*top).max(seq.unwrap_or(0));
    }

    /// Compares what is read of a partition after a restart, and takes for durable what was seen.
    pub(super) fn observe(&mut self, place: Place, found: &Records, when: &str) {
        // What is still buffered here was answered before a kill.
        let kept = |write: &&mut Write| write.place == place && write.known == Known::Buffered;
        self.writes.iter_mut().filter(kept).for_each(|write| write.known = Known::Durable);
        let mut by_address: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, write) in self.writes.iter().enumerate().filter(|(_, write)| write.place == place) {
            by_address.entry((write.key.clone(), write.name.clone())).or_default().push(number);
        }
        for (address, (data, _)) in found {
            if !by_address.contains_key(address) {
                self.problem(format!(
                    "WRONG {when}: {place:?} {address:?} was never sent: {}",
                    brief(Some(data))
                ));
            }
        }
        let open = |write: &&Write| write.known == Known::Uncertain;
        let open_batches: BTreeSet<usize> = self
            .writes
            .iter()
            .filter(|write| write.place == place)
            .filter(open)
            .map(|write| write.unit)
            .filter(|unit| self.batches.contains(unit))
            .collect();
        for (address, numbers) in &by_address {
            self.observe_address(address, numbers, found.get(address), when);
        }
        for unit in open_batches {
            let of_unit: Vec<_> = self.writes.iter().filter(|write| write.unit == unit).collect();
            let there = of_unit.iter().filter(|write| write.known == Known::Durable).count();
            if there != 0 && there != of_unit.len() {
                let problem = format!("WRONG {when}: {there} of a batch of {} in {place:?}", of_unit.len());
                self.problem(problem);
            }
        }
    }

    fn observe_address(
        &mut self,
        address: &(String, Option<String>),
        numbers: &[usize],
        found: Option<&(String, u64)>,
        when: &str,
    ) {
        let before = self.problems.len();
        let last = numbers.iter().copied().rev().find(|number| self.writes[*number].known == Known::Durable);
        let later = |number: &&usize| last.is_none_or(|last| **number > last);
        let open: Vec<usize> = numbers
            .iter()
            .filter(later)
            .copied()
            .filter(|number| self.writes[*number].known == Known::Uncertain)
            .collect();
        let seen = if let Some((data, seq)) = found {
            let sent = |number: &&usize| self.writes[**number].data.as_ref() == Some(data);
            let Some(number) = numbers.iter().find(sent).copied() else {
                return self
                    .problem(format!("WRONG {when}: {address:?} was never sent: {}", brief(Some(data))));
            };
            let write = &self.writes[number];
            let (known, told) = (write.known, write.seq);
            if told.is_some_and(|told| told != *seq) {
                self.problem(format!("WRONG {when}: {address:?} has place {seq}, answered was {told:?}"));
            }
            if known == Known::Absent {
                self.problem(format!(
                    "WRONG {when}: {address:?} is there, but was refused: {}",
                    brief(Some(data))
                ));
            }
            if let Some(last) = last.filter(|last| number < *last) {
                let durable = &self.writes[last];
                self.problem(format!(
                    "LOST {when}: {address:?} has place {seq}, but {:?} was durable ({})",
                    durable.seq,
                    brief(durable.data.as_deref())
                ));
            }
            self.writes[number].seq = Some(*seq);
            Some(number)
        } else {
            let is_deletion = |number: &usize| self.writes[*number].data.is_none();
            let last = last.map(|last| &self.writes[last]);
            match (last, open.iter().any(is_deletion)) {
                (Some(Write { data: Some(data), seq, .. }), false) => {
                    let problem =
                        format!("LOST {when}: {address:?} with place {seq:?}: {}", brief(Some(data)));
                    self.problem(problem);
                    None
                }
                // It is gone, so it was deleted.
                (Some(Write { data: Some(_), .. }), true) if open.len() == 1 => Some(open[0]),
                // Which of them took place does not show.
                (_, true) => return,
                (_, false) => None,
            }
        };
        if self.problems.len() > before {
            let told = |number: &usize| {
                let Write { known, seq, data, .. } = &self.writes[*number];
                format!("{number} {known:?} {seq:?} {}", brief(data.as_deref()))
            };
            let told = numbers.iter().map(told).collect::<Vec<_>>().join("; ");
            self.problems.push(format!("(the writes of {address:?}: {told})"));
        }
        for number in open {
            let is_seen = Some(number) == seen;
            // What stands before what was seen may have taken place; only a history tells.
            if is_seen || seen.is_none_or(|seen| number > seen) {
                self.writes[number].known = if is_seen { Known::Durable } else { Known::Absent };
            }
        }
        if let Some(number) = seen {
            let (place, seq) = (self.writes[number].place, self.writes[number].seq);
            self.settle(place, seq);
        }
    }

    /// Compares a history: one row for each write, with its place.
    pub(super) fn check_history(&mut self, rows: &[PlainRow]) {
        let mut taken = BTreeSet::new();
        for (row, place) in rows.iter().zip(1..) {
            if row.seq != place {
                return self
                    .problem(format!("WRONG: the history has place {} where {place} should be", row.seq));
            }
            let name = row.name.clone().filter(|name| !name.is_empty());
            let fits = |(number, write): &(usize, &Write)| {
                write.place.is_none()
                    && write.key == row.key
                    && write.name == name
                    && (if row.deleted { write.data.is_none() } else { write.data == row.data })
                    && write.seq.is_none_or(|seq| seq == row.seq)
                    && write.known != Known::Absent
                    && !taken.contains(number)
            };
            // An answer tells which one it is; one without a place may be any deletion of that address, but those that
            // took place come first.
            let mut fitting = self.writes.iter().enumerate().filter(fits).collect::<Vec<_>>();
            fitting.sort_by_key(|(_, write)| (write.seq.is_none(), write.known != Known::Durable));
            match fitting.first() {
                Some((number, _)) => drop(taken.insert(*number)),
                None => self.problems.push(format!("WRONG: nobody sent what the history has: {row:?}")),
            }
        }
        for (number, write) in self.writes.iter().enumerate() {
            let is_due = write.place.is_none() && write.known == Known::Durable;
            if is_due && !taken.contains(&number) {
                self.problems.push(format!(
                    "LOST: the history has not {:?} {}",
                    write.seq,
                    brief(write.data.as_deref())
                ));
            }
        }
    }

    /// Compares a table of latest values, row by row and with their versions.
    pub(super) fn check_latest(&mut self, place: Place, rows: &[PlainRow]) {
        let mut records = Records::new();
        for row in rows {
            let name = row.name.clone().filter(|name| !name.is_empty());
            let address = (row.key.clone(), name);
            let data = row.data.clone().unwrap_or_default();
            if records.insert(address.clone(), (data, row.seq)).is_some() {
                self.problem(format!("WRONG: two rows for {address:?} in {place:?}"));
            }
            let of_address = self
                .writes
                .iter()
                .filter(|write| write.place == place && write.key == row.key && write.name == address.1);
            let mut version = 0;
            let mut is_clear = true;
            for write in of_address {
                match (write.known, &write.data) {
                    (Known::Durable, Some(_)) => version += 1,
                    (Known::Durable, None) => version = 0,
                    (Known::Absent, _) => {}
                    (Known::Uncertain | Known::Buffered, _) => is_clear = false,
                }
            }
            if is_clear && row.version != version {
                self.problem(format!(
                    "WRONG: {address:?} has version {} after {version} writes",
                    row.version
                ));
            }
        }
        self.observe(place, &records, "in DuckDB");
    }
}

fn brief(data: Option<&str>) -> String {
    data.map_or_else(|| "a deletion".to_owned(), |data| data.chars().take(20).collect())
}
