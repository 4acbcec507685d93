//! Bugs that tests plant, to show that the instruments of [`crate::storage::faults`] find them.
//!
//! Invariant: nothing of this is in any build but that of the daemon's own tests. Which bug is planted is said by
//! the disk that a test puts behind the seam ([`crate::disk::Disk::planted`]), so one build has them all, and tests
//! with and without bugs run beside each other. Rooms that have no disk ask the thread.

use std::cell::{Cell, RefCell};

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The log is never synced.
    NoFdatasync,
    /// The directory of a new segment is not synced.
    NoDirectorySync,
    /// A write is answered durable, and synced with the next one.
    AnswerBeforeSync,
    /// Every line of the log that looks like one is taken for whole.
    NoChecksumTest,
    /// Rows and `flushed_seq` are committed one after the other.
    FlushedSeqApart,
    /// A segment goes when it is flushed, be it only into DuckDB's own log.
    SegmentBeforeCheckpoint,
    /// A write is answered before readers see it.
    AnswerBeforePublish,
    /// Readers see a write before it is durable.
    PublishBeforeSync,
}

impl Bug {
    pub(crate) const ALL: [Self; 8] = [
        Self::NoFdatasync,
        Self::NoDirectorySync,
        Self::AnswerBeforeSync,
        Self::NoChecksumTest,
        Self::FlushedSeqApart,
        Self::SegmentBeforeCheckpoint,
        Self::AnswerBeforePublish,
        Self::PublishBeforeSync,
    ];

    /// Its name in the table of `tests/README.md`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NoFdatasync => "no-fdatasync",
            Self::NoDirectorySync => "no-directory-sync",
            Self::AnswerBeforeSync => "answer-before-sync",
            Self::NoChecksumTest => "no-checksum-test",
            Self::FlushedSeqApart => "flushed-seq-apart",
            Self::SegmentBeforeCheckpoint => "segment-before-checkpoint",
            Self::AnswerBeforePublish => "answer-before-publish",
            Self::PublishBeforeSync => "publish-before-sync",
        }
    }
}

thread_local! {
    static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    static STEP: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Plants a bug in what this thread does, until the guard is dropped.
pub(crate) fn on_this_thread(bug: Option<Bug>) -> impl Drop {
    struct Before(Option<Bug>);
    impl Drop for Before {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    Before(HERE.replace(bug))
}

/// Whether this bug is planted in what this thread does.
pub(crate) fn is_here(bug: Bug) -> bool {
    HERE.get() == Some(bug)
}

/// Before and after each of DuckDB's commits in a flush: there a process can be killed, too.
pub(crate) fn step() {
    STEP.with_borrow(|step| step.iter().for_each(|step| step()));
}

/// Does `work`, and `at_step` at each step of it on this thread.
pub(crate) fn with_steps<T>(at_step: impl Fn() + 'static, work: impl FnOnce() -> T) -> T {
    STEP.set(Some(Box::new(at_step)));
    let done = work();
    STEP.set(None);
    done
}
