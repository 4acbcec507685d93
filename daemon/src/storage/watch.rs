//! Following the changes of one partition, from any place on.
//!
//! All that a follower has is the place of the next record. Where that is in the feed, it comes from there;
//! where not, from the log, and behind the log from the history. So the seams between them need no care: the
//! next record is asked for by its place, and whoever answers must begin with it.
//!
//! A follower that has caught up does not hold its partition: a date that nobody writes to may be closed,
//! and is opened again by whoever writes next.
//!
//! Invariant: records come in the order of their places, none is left out, none comes twice.

use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::Date;
use tokio::sync::Semaphore;

use super::feed::{Found, Watching};
use super::partition::{ChangesError, Cursor, Partition};
use super::record::Record;
use super::{Kind, Storage, StorageError};

/// How long to wait before a date is opened again that could not be opened for the moment.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// So many followers read the log at the same time, and so many begin. Both need a thread for themselves, and the
/// allocator keeps several megabytes for each thread: with as many threads as followers that was a gigabyte.
static READERS: Semaphore = Semaphore::const_new(4);
static BEGINNERS: Semaphore = Semaphore::const_new(1);

/// Begins to follow a partition. That may have to wait for a sync, so one does it at a time.
pub(super) async fn begin(partition: &Arc<Partition>) -> Watching {
    let _turn = BEGINNERS.acquire().await;
    tokio::task::block_in_place(|| partition.watch())
}

/// Why the changes cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The partition cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The changes cannot be read.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// The thread for the read failed.
    #[error("the read failed")]
    Gone,
}

/// A follower; see the module.
#[derive(Debug)]
pub struct Watch {
    storage: Arc<Storage>,
    date: Option<Date>,
    watching: Watching,
    next_seq: u64,
    cursor: Cursor,
    /// What was read to see that it is kept.
    first: Option<Vec<Record>>,
}

impl Storage {
    /// Begins to follow the changes from `from_seq` on, or from now on. `date` is given for a dated storage
    /// only; there it is today when it is left out, and stays that day.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn watch(
        self: &Arc<Self>,
        date: Option<Date>,
        from_seq: Option<u64>,
    ) -> Result<Watch, WatchError> {
        let (date, watching, partition) = match &self.kind {
            Kind::Dated(dated) => {
                let date = date.unwrap_or_else(|| self.today());
                let (watching, partition) = dated.watch(date).await?;
                (Some(date), watching, partition)
            }
            Kind::Collection(collection) => {
                let partition = Arc::clone(collection.partition());
                (None, begin(&partition).await, Some(partition))
            }
        };
        let stored = watching.begun_at();
        let next_seq = from_seq.map_or(stored + 1, |from_seq| from_seq.max(1));
        let mut cursor = Cursor::default();
        let mut first = None;
        if let Some(partition) = partition.filter(|_| next_seq <= stored) {
            first = Some(Watch::read(partition, (next_seq, stored), &mut cursor).await?);
        }
        Ok(Watch { storage: Arc::clone(self), date, watching, next_seq, cursor, first })
    }
}

impl Watch {
    /// The date that is followed, of a dated storage.
    pub fn date(&self) -> Option<Date> {
        self.date
    }

    /// The storage.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The last record that was durable when this began.
    pub fn begun_at(&self) -> u64 {
        self.watching.begun_at()
    }

    /// The next records, at least one: those that are there, else those that come.
    ///
    /// Cancelled, it has lost nothing.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn next(&mut self) -> Result<Vec<Record>, WatchError> {
        if let Some(records) = self.first.take() {
            return Ok(passed(&mut self.next_seq, records));
        }
        loop {
            let told = self.watching.told();
            let mut told = std::pin::pin!(told);
            told.as_mut().enable();
            let stored = match self.watching.look(self.next_seq) {
                Found::Records(records) => {
                    self.cursor = Cursor::default();
                    Some(records)
                }
                Found::Nothing => {
                    told.await;
                    continue;
                }
                Found::Stored { through } => {
                    let places = (self.next_seq, through);
                    Self::stored(&self.storage, self.date, places, &mut self.cursor).await?
                }
            };
            match stored {
                Some(records) => return Ok(passed(&mut self.next_seq, records)),
                None => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
    }

    /// What is not in the feed any more; `None` where the partition cannot be opened for the moment.
    async fn stored(
        storage: &Storage,
        date: Option<Date>,
        (from, through): (u64, u64),
        cursor: &mut Cursor,
    ) -> Result<Option<Vec<Record>>, WatchError> {
        let partition = match storage.partition_for_read(date).await {
            Ok(Some(partition)) => partition,
            Ok(None) => return Err(ChangesError::Compacted { oldest_seq: through + 1 }.into()),
            Err(StorageError::TooManyDates { .. }) => return Ok(None),
            Err(StorageError::Open(error)) if error.is_in_use() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Self::read(partition, (from, through), cursor).await.map(Some)
    }

    async fn read(
        partition: Arc<Partition>,
        (from, through): (u64, u64),
        cursor: &mut Cursor,
    ) -> Result<Vec<Record>, WatchError> {
        // It is never closed.
        let _turn = READERS.acquire().await.map_err(|_| WatchError::Gone)?;
        let mut taken = std::mem::take(cursor);
        let read = move || {
            let records = partition.stored_changes(from, through, &mut taken);
            (records, taken)
        };
        let (records, given_back) = tokio::task::spawn_blocking(read).await.map_err(|_| WatchError::Gone)?;
        *cursor = given_back;
        Ok(records?)
    }
}

/// The next place is behind these records.
fn passed(next_seq: &mut u64, records: Vec<Record>) -> Vec<Record> {
    *next_seq = records.last().map_or(*next_seq, |record| record.seq() + 1);
    records
}
