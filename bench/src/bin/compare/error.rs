//! What stops a comparison, in words that say what to do about it.
//!
//! Invariant: a target that is missed is a result and not an error.

use std::path::PathBuf;

use fastpersist_bench::BenchError;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error("{} is not there; build it with: cargo build --release -p fastpersistd", .0.display())]
    NoDaemon(PathBuf),
    #[error(
        "{} is on {kind}, which lives in memory: nothing would be durable there; give --dir on a disk",
        .directory.display()
    )]
    InMemory { directory: PathBuf, kind: String },
    #[error("{server} did not start: {reason}\nits last words:\n{log}")]
    NotStarted { server: &'static str, reason: String, log: String },
    #[error("{server} did not stop as it should: {reason}\nits last words:\n{log}")]
    NotStopped { server: &'static str, reason: String, log: String },
    #[error("the daemon answered {op:?} with {answer}")]
    Refused { op: String, answer: String },
    #[error("{0}")]
    Wrong(String),
}

/// Says at what a system call failed.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, CompareError>;
}

impl<T> Context<T> for Result<T, std::io::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, CompareError> {
        self.map_err(|source| CompareError::Io { what: what(), source })
    }
}
