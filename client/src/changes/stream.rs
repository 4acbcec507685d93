//! Changes for async programs.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use fastpersist_protocol::frame::{Line, LineBuffer};
use futures_core::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::{Begun, Change, Follow, Pauses, Taken, heals};
use crate::client::{open, within};
use crate::error::Error;
use crate::options::ConnectOptions;

/// So many changes are read ahead; then the daemon keeps what comes.
const READ_AHEAD: usize = 256;

/// The changes of a storage, one after the other, as a [`Stream`] or with [`next`](Self::next).
///
/// It connects again by itself, for as long as it takes, and goes on behind the last change. It ends with
/// the first error that time does not heal: `forbidden`, an `unknown_storage`, or `compacted`, when what
/// comes next is not kept any more; `oldest_seq` then says from where on it is.
///
/// ```no_run
/// # async fn example() -> Result<(), fastpersist_client::Error> {
/// use fastpersist_client::{Change, Client};
///
/// let client = Client::connect_default().await?;
/// let mut changes = client.subscribe("jobs").prefix("task_").stream();
/// while let Some(change) = changes.next().await {
///     match change? {
///         Change::Store(record) => println!("{}", serde_json::to_string(&record).unwrap_or_default()),
///         Change::Delete(deletion) => println!("{} is gone", deletion.key),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Changes {
    items: mpsc::Receiver<Result<Change, Error>>,
    begun: watch::Receiver<Option<Begun>>,
    task: AbortHandle,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("begun", &*self.begun.borrow()).finish_non_exhaustive()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for Changes {
    type Item = Result<Change, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(context)
    }
}

impl Changes {
    pub(crate) fn start(follow: Follow, options: ConnectOptions) -> Self {
        let (items, receiver) = mpsc::channel(READ_AHEAD);
        let (start, begun) = watch::channel(None);
        let follower = Follower { follow, options, items, start };
        Self { items: receiver, begun, task: tokio::spawn(follower.run()).abort_handle() }
    }

    /// The next change; `None` behind the error that ended it. Cancelled, it has lost nothing.
    pub async fn next(&mut self) -> Option<Result<Change, Error>> {
        self.items.recv().await
    }

    /// Waits until the daemon has begun to tell: whatever is stored from then on comes. `None` when that
    /// cannot be; [`next`](Self::next) says why.
    pub async fn begun(&mut self) -> Option<Begun> {
        // The sender goes when the task ends.
        self.begun.wait_for(Option::is_some).await.ok().and_then(|begun| *begun)
    }
}

struct Follower {
    follow: Follow,
    options: ConnectOptions,
    items: mpsc::Sender<Result<Change, Error>>,
    start: watch::Sender<Option<Begun>>,
}

impl Follower {
    async fn run(mut self) {
        let mut pauses = Pauses::default();
        loop {
            if let Err(error) = self.follow(&mut pauses).await
                && !heals(&error)
            {
                // Nobody may listen any more.
                let _ = self.items.send(Err(error)).await;
                return;
            }
            // Also behind a drop: who falls behind again and again must not keep the daemon busy with it.
            tokio::time::sleep(pauses.next()).await;
        }
    }

    /// Follows over one connection, until it breaks or the daemon has dropped the subscription.
    async fn follow(&mut self, pauses: &mut Pauses) -> Result<(), Error> {
        let (stream, _) = open(&self.options).await?;
        let mut stream = UnixStream::from_std(stream).map_err(Error::disconnected)?;
        let mut lines = LineBuffer::new(self.options.max_reply_bytes);
        let request = self.follow.line();
        stream.write_all(&request).await.map_err(Error::disconnected)?;
        let mut limit = self.options.request_timeout;
        loop {
            let mut at = 0;
            while let Some((line, next)) = lines.peek(at) {
                at = next;
                let Line::Bytes(line) = line else {
                    return Err(Error::Protocol("a change is longer than max_reply_bytes".to_owned()));
                };
                match self.follow.take(line)? {
                    Taken::Begun(begun) => {
                        limit = None;
                        pauses.reset();
                        self.start.send_modify(|first| {
                            first.get_or_insert(begun);
                        });
                    }
                    // Without a listener the task is about to be aborted.
                    Taken::Change(change) => drop(self.items.send(Ok(change)).await),
                    Taken::Dropped => return Ok(()),
                }
            }
            lines.consume(at);
            let read = async { stream.read(lines.space()).await.map_err(Error::disconnected) };
            match within(limit, read).await? {
                0 => return Err(Error::disconnected("the daemon closed it")),
                count => lines.fill(count),
            }
        }
    }
}
