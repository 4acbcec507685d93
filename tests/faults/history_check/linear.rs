//! Is there an order in which one thing at a time explains every answer, and in which whatever was over before
//! something else began comes first? Then the history of a record is linearizable (Herlihy and Wing, 1990).
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) in the form of Lowe
//! ("Testing for Linearizability", 2017) and of Horn and Kroening ("Faster Linearizability Checking via
//! P-Compositionality", 2015), as in Knossos and Porcupine: calls and returns in one list, by time; whatever was
//! called before the first return may come next; what was put in its place leaves the list; and no set of placed
//! operations is gone on from twice in the same state.
//!
//! - An operation without an answer may take effect from its call to the end of its daemon, or never. So its
//!   return is the place where "never" is tried, after everything else was.
//! - What is answered and changes nothing, and may come next, loses nothing by coming next: what other orders there
//!   are with it later, there are with it here. So it is not tried a second time elsewhere.

use std::collections::HashSet;

use super::record::{Deed, State};

/// A call's part in the history of one record.
#[derive(Debug, Clone)]
pub(super) struct Op {
    /// Which call it is of.
    pub(super) call: usize,
    pub(super) called: u64,
    /// When it is over, whatever became of it.
    pub(super) until: u64,
    pub(super) is_answered: bool,
    /// An operation that stands before it on its connection and so comes before it.
    pub(super) behind: Option<usize>,
    pub(super) deed: Deed,
}

/// Why there is no order.
#[derive(Debug)]
pub(super) struct Stuck {
    /// The longest beginning that was found, as places in the operations.
    pub(super) placed: Vec<usize>,
    pub(super) state: State,
    /// What had to come by then, and could not.
    pub(super) missing: usize,
    /// The search was given up.
    pub(super) is_unknown: bool,
}

/// More attempts than any history of ours needs by far.
const MAX_ATTEMPTS: u64 = 3_000_000;

/// Finds an order of the operations, which are sorted by their calls.
pub(super) fn order(ops: &[Op]) -> Result<Vec<usize>, Box<Stuck>> {
    Search::new(ops).run()
}

/// One operation in its place.
struct Frame {
    op: usize,
    before: State,
    /// Whether nothing else need be tried in its stead.
    is_final: bool,
}

struct Search<'a> {
    ops: &'a [Op],
    /// The operation of each entry, and whether it is its return.
    entries: Vec<(usize, bool)>,
    /// The entries of each operation: call and return.
    places: Vec<(usize, usize)>,
    /// The list of entries, in a circle; its head is the number of entries.
    next: Vec<usize>,
    previous: Vec<usize>,
    placed: Vec<bool>,
    /// Every operation below is placed, and none from `top` on.
    low: usize,
    top: usize,
    stack: Vec<Frame>,
    state: State,
    known: HashSet<(usize, Vec<usize>, State)>,
    stuck: Stuck,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Op]) -> Self {
        // At the same moment calls come before returns: then they overlap, which forbids the least.
        let mut entries: Vec<_> = (0..ops.len()).flat_map(|op| [(op, false), (op, true)]).collect();
        entries.sort_by_key(|(op, is_return)| {
            (if *is_return { ops[*op].until } else { ops[*op].called }, *is_return)
        });
        let mut places = vec![(0, 0); ops.len()];
        for (at, (op, is_return)) in entries.iter().enumerate() {
            if *is_return {
                places[*op].1 = at;
            } else {
                places[*op].0 = at;
            }
        }
        let head = entries.len();
        Self {
            ops,
            places,
            next: (1..=head).chain([0]).collect(),
            previous: [head].into_iter().chain(0..head).collect(),
            entries,
            placed: vec![false; ops.len()],
            low: 0,
            top: 0,
            stack: Vec::new(),
            state: State::default(),
            known: HashSet::new(),
            stuck: Stuck { placed: Vec::new(), state: State::default(), missing: 0, is_unknown: false },
        }
    }

    fn run(mut self) -> Result<Vec<usize>, Box<Stuck>> {
        let head = self.entries.len();
        let mut at = self.next[head];
        for _ in 0..MAX_ATTEMPTS {
            if at == head {
                // The list is empty: one that is not has a return in it.
                return Ok(self.stack.iter().map(|frame| frame.op).collect());
            }
            let (op, is_return) = self.entries[at];
            at = if self.try_place(op, is_return) {
                self.next[head]
            } else if is_return {
                self.note(op);
                let Some(op) = self.take_back() else { return Err(Box::new(self.stuck)) };
                self.next[self.places[op].0]
            } else {
                self.next[at]
            };
        }
        self.stuck.is_unknown = true;
        Err(Box::new(self.stuck))
    }

    /// Puts an operation next: at its call by what it does, at its return, where it was not answered, as one that
    /// never did anything.
    fn try_place(&mut self, op: usize, is_return: bool) -> bool {
        let Op { is_answered, behind, deed, .. } = &self.ops[op];
        if behind.is_some_and(|first| !self.placed[first]) {
            return false;
        }
        let after = match (is_return, is_answered) {
            (true, true) => return false,
            (true, false) => self.state,
            (false, _) => match self.state.after(deed) {
                // Without an answer and without an effect: that is what its return is for.
                Some(after) if after == self.state && !is_answered => return false,
                Some(after) => after,
                None => return false,
            },
        };
        self.placed[op] = true;
        self.top = self.top.max(op + 1);
        if !self.known.insert(self.key(after)) {
            self.placed[op] = false;
            return false;
        }
        while self.placed.get(self.low) == Some(&true) {
            self.low += 1;
        }
        let is_final = is_return || after == self.state;
        self.stack.push(Frame { op, before: self.state, is_final });
        self.state = after;
        let (call, back) = self.places[op];
        for entry in [call, back] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
        true
    }

    /// Which operations are placed, and what they lead to.
    fn key(&self, state: State) -> (usize, Vec<usize>, State) {
        let low = self.low + self.placed[self.low..].iter().take_while(|placed| **placed).count();
        (low, (low..self.top).filter(|op| self.placed[*op]).collect(), state)
    }

    /// Takes back the last operations up to the first for which something else may be tried.
    fn take_back(&mut self) -> Option<usize> {
        loop {
            let Frame { op, before, is_final } = self.stack.pop()?;
            self.state = before;
            self.placed[op] = false;
            self.low = self.low.min(op);
            let (call, back) = self.places[op];
            for entry in [back, call] {
                let (previous, next) = (self.previous[entry], self.next[entry]);
                self.next[previous] = entry;
                self.previous[next] = entry;
            }
            if !is_final {
                return Some(op);
            }
        }
    }

    /// Keeps the longest beginning, for whoever has to understand what happened.
    fn note(&mut self, missing: usize) {
        if self.stack.len() >= self.stuck.placed.len() {
            let placed = self.stack.iter().map(|frame| frame.op).collect();
            self.stuck = Stuck { placed, state: self.state, missing, is_unknown: false };
        }
    }
}
