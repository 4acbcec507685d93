//! Flushing: what is durable and not yet in DuckDB goes there, in one transaction per file.
//!
//! Invariant: while a flush runs, its records stay in memory; they count as flushed only when DuckDB
//! says that it has committed them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Partition, making};
use crate::disk::{self, Disk};
use crate::duck::query;
use crate::duck::{DuckError, Files, FlushBatch, FlushRow, FlushRows, FlushWrite, Present, Store};
use crate::latch::Astray;
use crate::memory;
use crate::storage::memtable::{DirtyRow, EVICTED_AT_ONCE, PendingWrite, Replaces, Taking, Unflushed};
use crate::storage::producers::Change;
use crate::wal::WalError;

/// DuckDB's own log is brought into its file when it is longer than this, or than a share of the file:
/// replaying it is part of the next start.
const CHECKPOINT_LOG_BYTES: u64 = 1 << 20;
const CHECKPOINT_SHARE: u64 = 32;
const MAX_CHECKPOINT_LOG_BYTES: u64 = 64 << 20;
/// What must stay free on the disk while DuckDB writes: on a full disk a checkpoint can lose rows.
const FREE_FLOOR_BYTES: u64 = 8 << 20;
/// How many rows are taken from memory before writers are let in.
const TAKEN_AT_ONCE: usize = 512;
/// After a flush of so many rows the allocator is asked to give memory back.
const TRIM_ROWS: u64 = 100_000;
/// After a flush that was started by the number of records, the next one waits so many times as long as
/// it took, and no less than the shortest pause: then flushing costs busy writers about a twentieth of the
/// machine.
const PAUSE_FACTOR: u32 = 19;
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a flush did not succeed. Nothing is lost: the records stay in memory and in the log.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// DuckDB failed.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// The log could not be synced, so what is in memory must not go to DuckDB.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The storage's directory is not in place.
    #[error(transparent)]
    Astray(#[from] Astray),
    /// The database's directory cannot be made, or not be made durable.
    #[error("the database's directory cannot be made durable: {0}")]
    Directory(std::io::Error),
    /// The flush's thread could not be started, or did not come to its end.
    #[error("the flush's thread failed: {0}")]
    Thread(std::io::Error),
    /// There is too little room for DuckDB to write safely.
    #[error("only {free_bytes} bytes are free, a flush may need {needed_bytes}; it is tried again later")]
    NoRoom {
        /// What is free.
        free_bytes: u64,
        /// What must be.
        needed_bytes: u64,
    },
}

impl FlushError {
    /// Whether it failed for lack of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } | Self::Wal(WalError::Full(_)) => true,
            Self::Duck(error) => error.is_full(),
            Self::Directory(error) => disk::is_full(error),
            Self::Wal(_) | Self::Astray(_) | Self::Thread(_) => false,
        }
    }
}

/// What was taken from memory, as DuckDB's part takes it.
pub(crate) fn flush_rows(unflushed: &Unflushed) -> FlushRows {
    match unflushed {
        Unflushed::Latest(rows) => FlushRows::Latest(rows.iter().map(flush_row).collect()),
        Unflushed::History(writes) => FlushRows::History(writes.iter().map(flush_write).collect()),
    }
}

fn flush_row(row: &DirtyRow) -> FlushRow {
    FlushRow {
        record: row.record.clone(),
        writes: row.writes,
        reset: row.reset,
        present: present(row.replaces),
    }
}

fn flush_write(write: &PendingWrite) -> FlushWrite {
    FlushWrite { record: write.record.clone(), present: present(write.replaces) }
}

fn present(replaces: Replaces) -> Present {
    match replaces {
        Replaces::Unknown => Present::Unknown,
        Replaces::Nothing => Present::None,
        Replaces::Row(seq) => Present::Row(seq),
    }
}

/// What the flush remembers from one turn to the next.
#[derive(Debug, Default)]
pub(super) struct FlushTurn {
    /// The earliest moment for the next flush by number of records, by the clock that never goes back.
    pub(super) not_before: Duration,
}

/// Makes durable which database files there are. DuckDB syncs what is in its files and not their names; and where one
/// of its own logs that it has removed were back after a power cut, it would be replayed once more.
pub(super) fn sync_names(disk: &dyn Disk, files: &Files) -> std::io::Result<()> {
    files.paths().try_for_each(|file| disk.sync_dir(disk::parent_of(file)))
}

/// By how much the flush's thread steps back behind those that answer clients.
const FLUSH_NICE: i32 = 5;

impl Partition {
    /// Like [`flush`](Self::flush), on a thread of its own that steps back behind those that answer clients.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub async fn flush_in_background(self: &Arc<Self>) -> Result<u64, FlushError> {
        self.on_flush_thread(Self::flush).await
    }

    /// Runs work on a thread of its own that steps back behind those that answer clients.
    pub(super) async fn on_flush_thread(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<u64, FlushError> + Send + 'static,
    ) -> Result<u64, FlushError> {
        let partition = Arc::clone(self);
        let (sender, flushed) = tokio::sync::oneshot::channel();
        let work = move || {
            // Where the system refuses, the flush only runs as hard as everything else.
            let _ = rustix::process::setpriority_process(None, FLUSH_NICE);
            let result = work(&partition);
            // Whoever waits may be the next to ask whether somebody else holds the partition.
            drop(partition);
            let _ = sender.send(result);
        };
        let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(work);
        thread.map_err(FlushError::Thread)?;
        flushed.await.unwrap_or_else(|_| Err(FlushError::Thread(std::io::Error::other("the flush panicked"))))
    }

    /// Brings every record that is published now into DuckDB; answers how many there were.
    ///
    /// Blocks for as long as it takes.
    ///
    /// # Errors
    /// See [`FlushError`].
    pub fn flush(&self) -> Result<u64, FlushError> {
        self.flush_with(&mut self.flush_turn.lock())
    }

    /// Like [`flush`](Self::flush), for whoever has the turn.
    pub(super) fn flush_with(&self, turn: &mut FlushTurn) -> Result<u64, FlushError> {
        let begun = Instant::now();
        let result = self.flush_in_turn();
        let took = begun.elapsed();
        self.flush_fails.store(result.is_err(), Ordering::Release);
        let clock = &self.shared.clock;
        match &result {
            Ok(0) => {}
            Ok(_) => turn.not_before = clock.elapsed() + (took * PAUSE_FACTOR).max(SHORTEST_PAUSE),
            Err(_) => turn.not_before = clock.elapsed() + SHORTEST_PAUSE,
        }
        self.stats.note_flush(
            clock.now(),
            took,
            result.as_ref().map(|rows| *rows).map_err(ToString::to_string),
        );
        result
    }

    fn flush_in_turn(&self) -> Result<u64, FlushError> {
        let (through_seq, unflushed, producers) = self.take_unflushed();
        // Whatever happens, what was taken must be put back or be in DuckDB.
        let flush =
            std::panic::AssertUnwindSafe(|| self.flush_taken(through_seq, &unflushed, producers.clone()));
        let panicked = |_| Err(FlushError::Thread(std::io::Error::other("the flush panicked")));
        let result = std::panic::catch_unwind(flush).unwrap_or_else(panicked);
        let tombstones = unflushed.tombstones();
        let mut memtable = self.memtable.write();
        self.flushing_bytes.store(0, Ordering::Relaxed);
        if result.is_ok() {
            if through_seq <= self.watermarks.flushed() {
                // There was nothing to write; they come with the next record.
                memtable.producers_mut().restore(producers);
            }
            memtable.flushed(&tombstones);
            self.watermarks.advance_flushed(through_seq.max(self.watermarks.flushed()));
        } else {
            memtable.restore(unflushed, self.reached_seq());
            memtable.producers_mut().restore(producers);
        }
        drop(memtable);
        if let Err(FlushError::Duck(error)) = &result
            && error.is_damage()
        {
            self.note_trouble(error);
        }
        self.shrink_cache();
        self.room.notify_waiters();
        if result.as_ref().is_ok_and(|rows| *rows >= TRIM_ROWS) {
            memory::give_back();
        }
        result
    }

    /// How far DuckDB has come, be it by half of a flush that failed.
    fn reached_seq(&self) -> u64 {
        self.store().map_or(0, |store| store.flushed_seq()).max(self.watermarks.flushed())
    }

    /// Gives memory back down to the cache's bound, in steps that let others in between.
    fn shrink_cache(&self) {
        let mut steps = 2 * self.memtable.read().live_count() / EVICTED_AT_ONCE + 2;
        while steps > 0 && self.evict(&mut self.memtable.write(), None) {
            steps -= 1;
        }
    }

    /// Takes everything that is published now, in steps that let writers in between.
    fn take_unflushed(&self) -> (u64, Unflushed, Vec<Change>) {
        let (through_seq, taking, producers) = {
            let mut memtable = self.memtable.write();
            self.flush_wanted.store(false, Ordering::Release);
            self.flushing_bytes.store(memtable.pending_bytes(), Ordering::Relaxed);
            (memtable.published_seq(), memtable.begin_taking(), memtable.producers_mut().take_changes())
        };
        let addresses = match taking {
            Taking::History(writes) => return (through_seq, Unflushed::History(writes), producers),
            Taking::Latest(addresses) => addresses,
        };
        let mut rows = Vec::with_capacity(addresses.len());
        for some in addresses.chunks(TAKEN_AT_ONCE) {
            self.memtable.write().take_rows(some, &mut rows);
        }
        self.memtable.write().take_moved(&mut rows);
        (through_seq, Unflushed::Latest(rows), producers)
    }

    fn flush_taken(
        &self,
        through_seq: u64,
        unflushed: &Unflushed,
        producers: Vec<Change>,
    ) -> Result<u64, FlushError> {
        // Behind a gap at the log's end there is nothing to write, and yet DuckDB must know of its places.
        if unflushed.is_empty() && through_seq <= self.watermarks.flushed() {
            return Ok(0);
        }
        // DuckDB makes and removes files by their names, and does not get over missing them.
        self.look_at_directory()?;
        self.sync_wal()?;
        self.check_room(self.flushing_bytes.load(Ordering::Relaxed) as u64)?;
        let store = self.open_store()?;
        #[cfg(test)]
        let _planted = crate::planted::on_this_thread(self.shared.disk.planted());
        let batch = FlushBatch { through_seq, rows: flush_rows(unflushed), producers };
        let rows = self.flush_within_memory(&store, batch)?;
        #[cfg(test)]
        if crate::planted::is_here(crate::planted::Bug::SegmentBeforeCheckpoint) {
            self.checkpointed_seq.fetch_max(through_seq, Ordering::AcqRel);
        }
        if store.wal_bytes() > self.checkpoint_log_bytes() {
            self.checkpoint(&store, through_seq);
        }
        if rows >= TRIM_ROWS {
            self.shared.engine.release_cache();
        }
        Ok(unflushed.len() as u64)
    }

    /// Flushes; where DuckDB has not the memory for all of it, without the queries that run, and then one half
    /// after the other. Documents of a megabyte need that: a transaction has all its rows in memory.
    fn flush_within_memory(&self, store: &Store, batch: FlushBatch) -> Result<u64, DuckError> {
        let mut result = store.flush(&batch);
        let is_short = |result: &Result<_, DuckError>| result.as_ref().is_err_and(query::is_out_of_memory);
        if is_short(&result) && self.make_queries_yield() {
            result = store.flush(&batch);
        }
        match result {
            Err(error) if query::is_out_of_memory(&error) => {
                let Ok((first, second)) = batch.halves() else { return Err(error) };
                tracing::debug!(storage = %self.config.name, %error, "a flush goes on in halves");
                // What is committed and not in the file yet takes memory too.
                self.checkpoint(store, store.flushed_seq());
                self.shared.engine.release_cache();
                let rows = self.flush_within_memory(store, first)?;
                self.checkpoint(store, store.flushed_seq());
                Ok(rows + self.flush_within_memory(store, second)?)
            }
            result => result.map(|outcome| outcome.rows),
        }
    }

    /// How long DuckDB's own log may get: the larger the file, the more a checkpoint has to write.
    fn checkpoint_log_bytes(&self) -> u64 {
        let length = |file: &std::path::Path| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        let file_bytes: u64 = self.files.paths().map(length).sum();
        (CHECKPOINT_LOG_BYTES + file_bytes / CHECKPOINT_SHARE).min(MAX_CHECKPOINT_LOG_BYTES)
    }

    /// Brings what DuckDB replayed from its own log at the start into its file, so that starts do not get
    /// longer from kill to kill.
    pub(super) fn settle(&self) {
        let _turn = self.flush_turn.lock();
        if let Some(store) = self.store().filter(|store| store.wal_bytes() > 0) {
            self.checkpoint(&store, store.flushed_seq());
        }
    }

    /// Whether DuckDB has room to write so many bytes, where its files are and where the log is.
    fn check_room(&self, bytes: u64) -> Result<(), FlushError> {
        let needed_bytes = FREE_FLOOR_BYTES + bytes;
        let directories =
            self.files.paths().filter_map(|file| file.ancestors().skip(1).find(|dir| dir.exists()));
        let free = directories
            .chain([&*self.config.base_dir])
            .filter_map(|dir| self.shared.disk.free_bytes(dir).ok());
        match free.min() {
            Some(free_bytes) if free_bytes < needed_bytes => {
                Err(FlushError::NoRoom { free_bytes, needed_bytes })
            }
            // Not knowing is no reason to stop; DuckDB will say what is wrong.
            _ => Ok(()),
        }
    }

    fn open_store(&self) -> Result<Arc<Store>, FlushError> {
        if let Some(store) = self.store() {
            return Ok(store);
        }
        let (engine, schema) = (&self.shared.engine, Arc::new(self.config.schema.clone()));
        making::make(&*self.shared.disk, engine, &schema, &self.files)?;
        let store = Arc::new(Store::open(Arc::clone(engine), schema, self.files.clone())?);
        *self.store.write() = Some(Arc::clone(&store));
        Ok(store)
    }

    /// Brings DuckDB's log into its file. A failure costs only the segments that could go: they stay.
    fn checkpoint(&self, store: &Store, flushed_seq: u64) {
        // DuckDB would refuse; the backup's end makes up for it.
        if self.backing_up.load(Ordering::Acquire) {
            return;
        }
        // On a full disk a checkpoint can lose rows, and what counts as checkpointed goes from the log.
        if let Err(error) = self.check_room(store.wal_bytes()) {
            tracing::debug!(storage = %self.config.name, %error, "the checkpoint waits for room");
            return;
        }
        let begun = Instant::now();
        match store.checkpoint() {
            Ok(()) => {
                if let Err(error) = sync_names(&*self.shared.disk, &self.files) {
                    tracing::warn!(storage = %self.config.name, %error, "the checkpoint is not durable; it is tried again");
                    return;
                }
                self.checkpointed_seq.fetch_max(flushed_seq, Ordering::AcqRel);
                tracing::debug!(storage = %self.config.name, took = ?begun.elapsed(), "checkpoint");
            }
            Err(error) if error.is_put_off() => {
                tracing::debug!(storage = %self.config.name, %error, "the checkpoint waits for queries");
            }
            Err(error) => {
                if error.is_damage() {
                    self.note_trouble(&error);
                }
                tracing::warn!(storage = %self.config.name, %error, "the checkpoint failed; it is tried again");
            }
        }
    }

    /// Removes the log's segments that are flushed, checkpointed and past their retention.
    pub(super) fn remove_old_segments(&self) {
        let flushed = self.watermarks.flushed();
        if self.suspect.load(Ordering::Relaxed) {
            return;
        }
        let backed_up = self.backed_up.bound();
        let removable =
            |seq: u64| self.wal.lock().count_removable(seq.min(backed_up), self.config.wal_retain);
        let checkpointed = self.checkpointed_seq.load(Ordering::Acquire);
        if removable(flushed) > removable(checkpointed)
            && let Some(store) = self.store()
        {
            let _turn = self.flush_turn.lock();
            self.checkpoint(&store, self.watermarks.flushed());
        }
        let removed = self.wal.lock().remove_old(self.unneeded_seq(), self.config.wal_retain);
        if let Err(error) = removed {
            tracing::warn!(storage = %self.config.name, %error, "an old WAL segment could not be removed");
        }
    }

    /// Flushes, checkpoints, and closes log and database. Nothing may write or read any more.
    ///
    /// # Errors
    /// When the flush fails: then everything is still in the log.
    pub fn close(&self) -> Result<(), FlushError> {
        let flushed = if self.read_only_reason().is_none() { self.flush().map(drop) } else { Ok(()) };
        let _turn = self.flush_turn.lock();
        self.readers.lock().clear();
        if let Some(store) = self.store.write().take() {
            let seq = store.flushed_seq();
            let names_synced = || sync_names(&*self.shared.disk, &self.files);
            let room = self.check_room(store.wal_bytes());
            if let Err(error) = &room {
                tracing::warn!(storage = %self.config.name, %error, "DuckDB's own log stays: the next start brings it into its file");
            }
            let closed = if room.is_ok() { store.close() } else { store.close_without_checkpoint() };
            match closed {
                Ok(()) if room.is_ok() && names_synced().is_ok() => {
                    self.checkpointed_seq.fetch_max(seq, Ordering::AcqRel);
                }
                // The log is kept, and the next start sees to it.
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(storage = %self.config.name, %error, "DuckDB did not close cleanly");
                }
            }
        }
        let mut wal = self.wal.lock();
        if self.read_only_reason().is_none() {
            wal.close()?;
            self.note_durable();
        }
        let removed = wal.remove_old(self.unneeded_seq(), self.config.wal_retain);
        if let Err(error) = removed {
            tracing::warn!(storage = %self.config.name, %error, "an old WAL segment could not be removed");
        }
        flushed
    }
}

#[cfg(test)]
mod tests;
