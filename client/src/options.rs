//! What a caller may choose about a connection.
//!
//! Invariant: every wait that a client does has a bound here, or says in its documentation why not.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::socket::Socket;

/// Longer than anyone waits, and far from where clocks overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// How to reach the daemon, and how long to wait for it.
///
/// ```
/// use std::time::Duration;
/// use fastpersist_client::ConnectOptions;
///
/// let options = ConnectOptions::new()
///     .socket("/run/fastpersistd/fastpersistd.sock")
///     .request_timeout(Duration::from_secs(5));
/// assert_eq!(options.sockets().len(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    socket: Option<Socket>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) retry_writes_for: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) max_reply_bytes: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            socket: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Some(Duration::from_secs(30)),
            retry_writes_for: Duration::from_secs(10),
            max_in_flight: 1024,
            max_reply_bytes: 64 << 20,
        }
    }
}

impl ConnectOptions {
    /// The default options: the sockets of [`Socket::candidates`], 5 seconds to connect, 30 seconds for
    /// a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// The socket: a path, or `@name` for the abstract namespace.
    #[must_use]
    pub fn socket(mut self, socket: impl Into<Socket>) -> Self {
        self.socket = Some(socket.into());
        self
    }

    /// How long to wait while a daemon listens but is too busy to take the connection.
    /// Where nobody listens, connecting fails at once.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.min(LONGEST);
        self
    }

    /// How long a request may take, from the call to the answer, connecting included. `None` waits for
    /// ever. Flushing, exporting and backups are not bounded: their time grows with the data.
    #[must_use]
    pub fn request_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.request_timeout = timeout.into().map(|timeout| timeout.min(LONGEST));
        self
    }

    /// For how long a write is sent again when the connection breaks or the daemon is away; without this 10
    /// seconds, and never longer than the request may take.
    ///
    /// Every write then carries a number under a name that no other client has, and the daemon recognises a
    /// repetition, so it is stored once. When no answer comes to any try, or only a refusal that says nothing of the tries
    /// before, the write fails with [`Error::Disconnected`](crate::Error). With [`Duration::ZERO`] a write is sent at
    /// most once and carries no number; when the connection breaks, it fails so at once.
    ///
    /// Two limits. A write without a date that is sent again across midnight goes to the new day, which does not know of
    /// the first try: give the date ([`DatedStorage::on`](crate::DatedStorage::on)). And where the daemon refuses a plain
    /// write (`disk_full`, `busy`), stores a later one of the same client, and is killed before it has answered either, the
    /// refused one is taken for a repetition when it comes again.
    #[must_use]
    pub fn retry_writes_for(mut self, time: Duration) -> Self {
        self.retry_writes_for = time.min(LONGEST);
        self
    }

    /// How many requests of an async client may wait for their answers at the same time; further ones
    /// wait before they are sent. At least 1.
    #[must_use]
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.max_in_flight = requests.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// The longest answer that is accepted, in bytes. A longer one is skipped, and its request fails
    /// with [`Error::Protocol`](crate::Error::Protocol).
    #[must_use]
    pub fn max_reply_bytes(mut self, bytes: usize) -> Self {
        self.max_reply_bytes = bytes.min(isize::MAX as usize);
        self
    }

    /// The sockets that are tried, in this order.
    pub fn sockets(&self) -> Vec<Socket> {
        match &self.socket {
            Some(socket) => vec![socket.clone()],
            None => Socket::candidates(),
        }
    }
}
