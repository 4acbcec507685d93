//! What one record does when nothing else happens at the same time: the specification against which histories are
//! checked. A record is a register: there or not, with a value that nobody else ever stores (a token) and a `seq`.

/// What a write does to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Store(u64),
    Delete,
}

/// What the answer said of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Became {
    Seq(u64),
    /// A deletion of what is not there.
    Nothing,
    /// There was no answer.
    Unknown,
}

/// One write to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) change: Change,
    pub(super) if_seq: Option<u64>,
    pub(super) became: Became,
}

/// What an answer tells of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Absent,
    Record {
        token: u64,
        seq: u64,
    },
    /// A conflict: only the record's seq.
    Seq(u64),
}

/// What a call means for one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// All at once; more than one where a batch names the record more than once.
    Write(Vec<Step>),
    See(Seen),
}

/// A record as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct State {
    token: Option<u64>,
    /// That of the record which is there, where an answer has told it.
    seq: Option<u64>,
    /// The latest write's place is this one; a later one where nobody has told it.
    last: u64,
}

impl State {
    /// The state afterwards; `None` where the deed is impossible in this one.
    pub(super) fn after(self, deed: &Deed) -> Option<Self> {
        match deed {
            Deed::Write(steps) => steps.iter().try_fold(self, Self::step),
            Deed::See(Seen::Absent | Seen::Seq(0)) => self.token.is_none().then_some(self),
            Deed::See(Seen::Seq(seq)) => self.with_seq(*seq),
            Deed::See(Seen::Record { token, seq }) => {
                (self.token == Some(*token)).then(|| self.with_seq(*seq)).flatten()
            }
        }
    }

    fn step(self, step: &Step) -> Option<Self> {
        let state = match step.if_seq {
            None => self,
            Some(0) => self.token.is_none().then_some(self)?,
            Some(seq) => self.with_seq(seq)?,
        };
        let token = match (step.change, step.became) {
            (Change::Delete, Became::Nothing) => return state.token.is_none().then_some(state),
            (Change::Delete, Became::Unknown) if state.token.is_none() => return Some(state),
            (Change::Delete, _) => {
                state.token?;
                None
            }
            (Change::Store(token), _) => Some(token),
        };
        match step.became {
            Became::Seq(seq) => {
                (seq > state.last).then_some(Self { token, seq: token.and(Some(seq)), last: seq })
            }
            _ => Some(Self { token, seq: None, last: state.last + 1 }),
        }
    }

    /// The same where the record is there and can have this seq, which then is known.
    fn with_seq(self, seq: u64) -> Option<Self> {
        self.token?;
        let fits = self.seq.map_or(seq >= self.last, |known| known == seq);
        fits.then_some(Self { seq: Some(seq), last: seq, ..self })
    }
}
