//! What can go wrong, and where.

use super::chance::Chance;
use crate::planted::Bug;

/// The operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Create,
    Open,
    Read,
    ReadHead,
    Rename,
    Remove,
    CreateDir,
    RemoveDir,
    SyncDir,
    List,
    FreeBytes,
    Write,
    Sync,
    Preallocate,
    Truncate,
}

impl Kind {
    pub(super) const ALL: [Self; 15] = [
        Self::Create,
        Self::Open,
        Self::Read,
        Self::ReadHead,
        Self::Rename,
        Self::Remove,
        Self::CreateDir,
        Self::RemoveDir,
        Self::SyncDir,
        Self::List,
        Self::FreeBytes,
        Self::Write,
        Self::Sync,
        Self::Preallocate,
        Self::Truncate,
    ];

    /// Whether a crash before it leaves something else than one behind it.
    pub(super) fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Read | Self::ReadHead | Self::List | Self::FreeBytes)
    }
}

/// Who does an operation: each of these does its own in the same order in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Whoever writes, flushes, exports, backs up.
    Main,
    /// The thread that prepares the next segment.
    Preparing,
    /// The thread that trims a sealed one.
    Trimming,
    /// DuckDB, before and after its commits.
    DuckDb,
}

impl Who {
    pub(super) const ALL: [Self; 4] = [Self::Main, Self::Preparing, Self::Trimming, Self::DuckDb];

    pub(super) fn of_this_thread() -> Self {
        match std::thread::current().name() {
            Some("wal-prepare") => Self::Preparing,
            Some("wal-trim") => Self::Trimming,
            _ => Self::Main,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    None,
    /// Everything stops before the n-th operation that changes something.
    Stop {
        who: Who,
        at: u64,
    },
    /// From the n-th operation of a kind on, so many fail. `half` of a write's bytes are written all the same.
    Fail {
        kind: Kind,
        at: u64,
        times: u64,
        errno: i32,
        half: bool,
    },
}

/// What a crash leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// The process is gone, and the kernel keeps what it was given.
    Kill,
    /// The machine is gone: what was not synced is where chance leaves it.
    PowerCut,
}

/// How a life ends, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) crash: Crash,
    pub(super) chance: Chance,
    pub(super) fault: Fault,
    pub(super) bug: Option<Bug>,
}
