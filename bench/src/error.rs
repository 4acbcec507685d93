//! What can end a measurement, in words that say what to do about it.
//!
//! Invariant: an answer that is an error does not end a measurement; it is counted and told in the
//! report. Only what makes the figures meaningless is a [`BenchError`].

use crate::target::SocketName;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Nobody listens on the socket, or it may not be opened.
    #[error("cannot connect to {socket}: {source}")]
    Connect {
        /// The socket that was tried.
        socket: SocketName,
        /// What the system said.
        source: std::io::Error,
    },
    /// A socket call failed in the middle of a measurement.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The server hung up before it had answered everything.
    #[error("the server closed a connection that was owed {awaited} answers: {said}")]
    Closed {
        /// How many answers were missing on that connection.
        awaited: usize,
        /// The first error that the server answered, if it answered one.
        said: String,
    },
    /// No connection got an answer for so long that none will come.
    #[error("no answer on any connection for {seconds} seconds; the server hangs")]
    Stalled {
        /// How long was waited.
        seconds: u64,
    },
    /// The parameters cannot be used.
    #[error("{0}")]
    BadLoad(String),
    /// The server refused the records that have to be there before reads are measured.
    #[error("the server refused to store the records to read: {0}")]
    FillRefused(String),
    /// What came back is no answer, or one too many.
    #[error("the server's answer is not of this protocol: {0}")]
    BadAnswer(String),
}
