//! The unit of isolation: one sequence, one log, one memory table, one set of DuckDB files.
//!
//! A dated storage has a partition per date, a collection storage has one. Writing is in [`write`],
//! reading in [`read`], flushing in [`flush`], and what happens by itself in [`keep`].
//!
//! Invariant: a record is in the log before it is in memory, and in memory until it is in DuckDB.

pub mod aside;
pub(in crate::storage) mod backup;
mod changes;
mod flush;
mod fresh;
mod history;
mod keep;
pub mod known;
pub mod losses;
mod making;
mod mend;
pub mod notes;
mod open;
mod read;
pub mod rebuild;
mod suspect;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fastpersist_protocol::time::Date;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use changes::{ChangesError, Cursor};
pub use flush::FlushError;
pub(crate) use flush::flush_rows;
pub use history::{HistoryAsk, HistoryPage};
pub use mend::MendError;
pub use open::OpenError;
pub use read::{KeysPage, ReadError};
pub use write::Busy;

pub use crate::wal::commit::Gone;

use super::feed::Feed;
use super::memtable::Memtable;
use crate::clock::Clock;
use crate::config::{Limits, StorageConfig};
use crate::disk::Disk;
use crate::duck::{DuckError, Engine, Files, Inspector, Reader, Store};
use crate::latch::{Astray, Latch};
use crate::schedule::{self, Scheduler};
use crate::stats::StorageStats;
use crate::underway::Underway;
use crate::wal::commit::{InlineSlots, Queue};
use crate::wal::watermarks::Watermarks;
use crate::wal::{Place, Wal, WalGauges};
use flush::FlushTurn;

/// What all partitions of all storages share.
#[derive(Debug)]
pub struct Shared {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What happens by itself.
    pub scheduler: Scheduler,
    /// DuckDB.
    pub engine: Arc<Engine>,
    /// Who may block a thread of the runtime.
    pub inline_slots: Arc<InlineSlots>,
    /// The daemon's limits.
    pub limits: Limits,
    /// Set when the daemon stops: nothing is begun by itself any more.
    pub stopping: AtomicBool,
}

/// One partition; see the module.
#[derive(Debug)]
pub struct Partition {
    date: Option<Date>,
    config: Arc<StorageConfig>,
    shared: Arc<Shared>,
    stats: Arc<StorageStats>,
    files: Files,
    queue: Queue,
    wal: Mutex<Wal>,
    /// The group that is being committed: kept, so that its buffers are.
    buffers: Mutex<write::Buffers>,
    /// The group that is being committed, and the fdatasync that is under way: for the watchdog.
    committing: Underway,
    syncing: Arc<Underway>,
    latch: Arc<Latch>,
    memtable: RwLock<Memtable>,
    watermarks: Watermarks,
    /// What was just written, for those who follow.
    feed: Arc<Feed>,
    /// DuckDB's part; `None` until the files are needed.
    store: RwLock<Option<Arc<Store>>>,
    /// Held for the whole of a flush, so that there is one at a time.
    flush_turn: Mutex<FlushTurn>,
    /// Readers of DuckDB that nobody uses right now.
    readers: Mutex<Vec<Reader>>,
    /// Held while a page of a history is read: its documents may be large, and DuckDB's memory is for all.
    history_turn: tokio::sync::Mutex<()>,
    /// Bytes of records that are taken by a flush which is not over.
    flushing_bytes: AtomicUsize,
    /// The last record that is in DuckDB's database file and not only in its log.
    checkpointed_seq: AtomicU64,
    /// Told when there may be something to flush or to sync.
    wake: Arc<Notify>,
    /// Told when a flush has made room.
    room: Notify,
    /// Set when a flush is asked for by the number of records.
    flush_wanted: AtomicBool,
    /// Whether the last flush failed, whoever had asked for it.
    flush_fails: Arc<AtomicBool>,
    /// Held while memory is filled from DuckDB, or made to forget what it has from there.
    fill_turn: Mutex<()>,
    torn_count: usize,
    /// How far the newest backup reaches.
    backed_up: backup::BackedUp,
    /// A backup reads the files; DuckDB makes no checkpoint meanwhile.
    backing_up: AtomicBool,
    /// DuckDB could not read what it should have: the log is kept, whatever its age.
    suspect: AtomicBool,
    /// Told when something was written that is not synced.
    unsynced: Arc<Notify>,
    /// When it was last used, in milliseconds of the clock that never goes back.
    last_used_ms: AtomicU64,
}

impl Partition {
    /// The date, for a partition of a dated storage.
    pub fn date(&self) -> Option<Date> {
        self.date
    }

    /// The storage's configuration.
    pub fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// Notes that the partition is in use.
    pub fn touch(&self) {
        self.last_used_ms.store(self.shared.clock.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long nobody has used it.
    pub fn idle_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_used_ms.load(Ordering::Relaxed));
        self.shared.clock.elapsed().saturating_sub(last)
    }

    /// Why the partition takes no writes; `None` while it does.
    pub fn read_only_reason(&self) -> Option<&str> {
        self.latch.reason()
    }

    /// Whether the storage's directory is in place.
    ///
    /// # Errors
    /// When it is not.
    pub(in crate::storage) fn look_at_directory(&self) -> Result<(), Astray> {
        self.latch.look_at_directory()
    }

    /// For how long the commit or the sync that is under way has been so; `None` while there is none.
    pub fn committing_for(&self) -> Option<Duration> {
        self.committing.elapsed().max(self.syncing.elapsed())
    }

    /// What `stats` tells of the partition.
    pub fn gauges(&self) -> Gauges {
        let memtable = self.memtable.read();
        let gauges = Gauges {
            cache_records: memtable.live_count(),
            cache_bytes: memtable.bytes(),
            complete: memtable.is_complete(),
            producers: memtable.producers().len(),
            pending_writes: self.watermarks.appended().saturating_sub(self.watermarks.flushed()),
            pending_bytes: memtable.pending_bytes() + self.flushing_bytes.load(Ordering::Relaxed),
            appended_seq: self.watermarks.appended(),
            durable_seq: self.watermarks.durable(),
            flushed_seq: self.watermarks.flushed(),
            torn_count: self.torn_count,
            wal: WalGauges::default(),
        };
        // Not both locks at once: a committer takes them in the other order.
        drop(memtable);
        Gauges { wal: self.wal.lock().gauges(), ..gauges }
    }

    /// The last record, where everything is in the database file, for good.
    pub fn settled_seq(&self) -> Option<u64> {
        let seq = self.watermarks.appended();
        let settled = seq > 0
            && self.watermarks.flushed() == seq
            && self.checkpointed_seq.load(Ordering::Acquire) >= seq
            && !self.suspect.load(Ordering::Relaxed);
        settled.then_some(seq)
    }

    /// Whether the partition holds or has held anything at all.
    pub fn is_empty(&self) -> bool {
        self.watermarks.appended() == 0
    }

    /// What all partitions share.
    pub(in crate::storage) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The database files.
    pub(in crate::storage) fn files(&self) -> &Files {
        &self.files
    }

    /// The log's segments, oldest first, and how many bytes of each are lines.
    pub(in crate::storage) fn wal_segments(&self) -> Vec<(PathBuf, u64)> {
        self.wal.lock().segments()
    }

    /// Directories in which its segments, or what was cut off from them, may stand.
    pub(in crate::storage) fn day_directories(&self) -> Vec<PathBuf> {
        let base = &self.config.base_dir;
        let names = self.shared.disk.list(base).unwrap_or_default();
        names.iter().filter(|name| Date::parse(name).is_some()).map(|name| base.join(name)).collect()
    }

    /// Looks at the database through the store that has it open; `None` where there is none yet.
    pub(in crate::storage) fn inspector(&self) -> Result<Option<Inspector>, DuckError> {
        self.store().map(|store| Inspector::of_store(&store)).transpose()
    }

    fn today(&self) -> Date {
        schedule::day_of(self.shared.clock.now(), self.config.timezone)
    }

    fn store(&self) -> Option<Arc<Store>> {
        self.store.read().clone()
    }
}

/// The partition at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Live records in memory.
    pub cache_records: usize,
    /// What the records in memory cost.
    pub cache_bytes: usize,
    /// Whether memory holds everything.
    pub complete: bool,
    /// Producers that are remembered.
    pub producers: usize,
    /// Writes that are not in DuckDB.
    pub pending_writes: u64,
    /// What they cost in memory.
    pub pending_bytes: usize,
    /// The watermarks.
    pub appended_seq: u64,
    /// The watermarks.
    pub durable_seq: u64,
    /// The watermarks.
    pub flushed_seq: u64,
    /// Torn ends that were cut off when it was opened.
    pub torn_count: usize,
    /// The log.
    pub wal: WalGauges,
}

impl Gauges {
    /// Both together: sums, and the further of two watermarks.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cache_records: self.cache_records + other.cache_records,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            complete: self.complete && other.complete,
            producers: self.producers + other.producers,
            pending_writes: self.pending_writes + other.pending_writes,
            pending_bytes: self.pending_bytes + other.pending_bytes,
            appended_seq: self.appended_seq.max(other.appended_seq),
            durable_seq: self.durable_seq.max(other.durable_seq),
            flushed_seq: self.flushed_seq.max(other.flushed_seq),
            torn_count: self.torn_count + other.torn_count,
            wal: WalGauges {
                active_bytes: self.wal.active_bytes + other.wal.active_bytes,
                active_records: self.wal.active_records + other.wal.active_records,
                total_bytes: self.wal.total_bytes + other.wal.total_bytes,
                files_count: self.wal.files_count + other.wal.files_count,
                sequence: self.wal.sequence.max(other.wal.sequence),
            },
        }
    }
}

/// Where a partition's files are.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The date, for a dated storage.
    pub date: Option<Date>,
    /// Where new segments go.
    pub place: Place,
    /// Where segments may stand already.
    pub wal_directories: Vec<PathBuf>,
    /// The database.
    pub files: Files,
    /// Where the partition was closed with everything in the database: its last record. Its log then need
    /// not be read.
    pub settled_seq: Option<u64>,
    /// Where those who follow its changes wait, be it open or not.
    pub feed: Arc<Feed>,
}
