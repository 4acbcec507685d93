//! Reading: memory first, DuckDB for what memory does not have.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Partition;
use crate::duck::{DuckError, OwnedNames, Reader};
use crate::storage::memtable::{Known, Memtable};
use crate::storage::record::{Names, Record};
use crate::storage::schema::Model;

/// How often a read from DuckDB is repeated because memory changed under it, before it waits for the
/// flush to be over.
const OPTIMISTIC_TRIES: usize = 3;
/// Addresses that `keys` reads from DuckDB at a time.
const KEYS_CHUNK: usize = 4096;

/// Why a read could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// DuckDB failed.
    #[error("what memory does not hold could not be read: {0}")]
    Duck(#[from] DuckError),
    /// The thread for the read failed.
    #[error("the read failed")]
    Gone,
}

/// One page of `keys`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeysPage {
    /// The keys, in order.
    pub keys: Vec<String>,
    /// Whether there are more behind them.
    pub more: bool,
}

impl Partition {
    /// Shows the record at an address to `show`, where memory knows about it: `Cold` means that the key
    /// must be [loaded](Self::load_key).
    pub fn peek<T>(&self, key: &str, names: Names<'_>, show: impl FnOnce(&Record) -> T) -> Known<T> {
        match self.memtable.read().get(key, names) {
            Known::Live(record) => Known::Live(show(record)),
            Known::Absent => Known::Absent,
            Known::Cold => Known::Cold,
        }
    }

    /// Shows every record of a key, in order, where memory has all of them.
    pub fn peek_key(&self, key: &str, show: impl FnMut(&Record)) -> Known<()> {
        // There may be thousands, and showing them takes longer than others should wait.
        let mut records = Vec::new();
        let known = self.memtable.read().visit_key(key, |record| records.push(record.clone()));
        records.iter().for_each(show);
        known
    }

    /// Whether memory may have to ask DuckDB, now or later.
    pub fn may_be_cold(&self) -> bool {
        self.config.cache_max_bytes > 0 || !self.memtable.read().is_complete()
    }

    /// Loads a key from DuckDB into memory and answers its records, sorted by names: with a small cache
    /// they may be gone from memory again before the caller looks.
    ///
    /// # Errors
    /// When DuckDB cannot be read.
    pub async fn load_key(self: &Arc<Self>, key: &str, for_write: bool) -> Result<Vec<Record>, ReadError> {
        let partition = Arc::clone(self);
        let key = key.to_owned();
        let load = move || partition.load_key_blocking(&key, for_write);
        tokio::task::spawn_blocking(load).await.map_err(|_| ReadError::Gone)?
    }

    fn load_key_blocking(&self, key: &str, for_write: bool) -> Result<Vec<Record>, ReadError> {
        self.without_interference(|reader, epoch| {
            let rows = reader.map_or_else(|| Ok(Vec::new()), |reader| reader.key(key))?;
            let mut memtable = self.memtable.write();
            if !memtable.load_key(key, rows, epoch, for_write) {
                return Ok(None);
            }
            let mut records = Vec::new();
            memtable.visit_key(key, |record| records.push(record.clone()));
            // The key that was just loaded is spared, else a write that needs it would never find it.
            self.evict(&mut memtable, Some(key));
            Ok(Some(records))
        })
    }

    /// Calls `read` with the table's epoch until it answers; after some tries no flush may interfere.
    pub(super) fn without_interference<T>(
        &self,
        mut read: impl FnMut(Option<&Reader>, u64) -> Result<Option<T>, ReadError>,
    ) -> Result<T, ReadError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let _quiet = (tries > OPTIMISTIC_TRIES).then(|| self.flush_turn.lock());
            let epoch = self.memtable.read().epoch();
            let reader = self.take_reader()?;
            let answer = read(reader.as_ref(), epoch);
            if let Err(ReadError::Duck(error)) = &answer {
                if error.is_detached() && tries <= OPTIMISTIC_TRIES && self.is_attached_again() {
                    continue;
                }
                self.note_trouble(error);
            }
            self.readers.lock().extend(reader.filter(|_| answer.is_ok()));
            if let Some(answer) = answer? {
                return Ok(answer);
            }
        }
    }

    /// Waits while the database is detached and attached, as it is after a checkpoint that failed.
    fn is_attached_again(&self) -> bool {
        self.store().is_some_and(|store| store.reattach().is_ok())
    }

    /// A reader of DuckDB; `None` where there is no database.
    pub(in crate::storage) fn take_reader(&self) -> Result<Option<Reader>, ReadError> {
        if let Some(reader) = self.readers.lock().pop() {
            return Ok(Some(reader));
        }
        Ok(self.store().map(|store| store.reader()).transpose()?)
    }

    /// Gives memory back down to the cache's bound, all but the key that is to be spared.
    pub(super) fn evict(&self, memtable: &mut Memtable, spare: Option<&str>) -> bool {
        let max_bytes = self.config.cache_max_bytes;
        max_bytes > 0 && memtable.evict(max_bytes, self.watermarks.flushed(), spare)
    }

    /// Makes sure that memory knows everything under these keys, and keeps it until they are
    /// [unpinned](Self::unpin).
    ///
    /// # Errors
    /// When DuckDB cannot be read; then nothing is pinned.
    pub async fn pin(self: &Arc<Self>, keys: &[&str]) -> Result<(), ReadError> {
        for (index, key) in keys.iter().enumerate() {
            while !self.memtable.write().pin(key) {
                if let Err(error) = self.load_key(key, true).await {
                    self.unpin(&keys[..index]);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Lets keys that were [pinned](Self::pin) be given back again.
    pub fn unpin(&self, keys: &[&str]) {
        let mut memtable = self.memtable.write();
        for key in keys {
            memtable.unpin(key);
        }
    }

    /// The keys behind `after` that begin with `prefix`, up to `limit` keys or about `max_bytes`.
    ///
    /// # Errors
    /// When DuckDB cannot be read.
    pub async fn keys(
        self: &Arc<Self>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<KeysPage, ReadError> {
        let complete = {
            let memtable = self.memtable.read();
            memtable.is_complete().then(|| keys_in_memory(&memtable, prefix, after, limit, max_bytes))
        };
        if let Some(page) = complete {
            return Ok(page);
        }
        let partition = Arc::clone(self);
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let read = move || partition.keys_blocking(&prefix, after.as_deref(), limit, max_bytes);
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Gone)?
    }

    fn keys_blocking(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<KeysPage, ReadError> {
        self.without_interference(|reader, epoch| {
            let mut stored =
                StoredKeys { reader, prefix, chunk: Vec::new(), at: 0, behind: None, over: false };
            stored.skip_to(after);
            let mut page = KeysPage::default();
            let mut bytes = 0;
            let mut last = after.map(str::to_owned);
            loop {
                let memtable = self.memtable.read();
                if memtable.epoch() != epoch {
                    return Ok(None);
                }
                let from_memory =
                    keys_in_memory(&memtable, prefix, last.as_deref(), 1, usize::MAX).keys.pop();
                drop(memtable);
                let from_store = stored.next_live(last.as_deref(), &self.memtable)?;
                let next = match (from_memory, from_store) {
                    (Some(a), Some(b)) => a.min(b),
                    (Some(key), None) | (None, Some(key)) => key,
                    (None, None) => break,
                };
                if page.keys.len() >= limit || bytes >= max_bytes {
                    page.more = true;
                    break;
                }
                bytes += next.len() + 3;
                last = Some(next.clone());
                page.keys.push(next);
            }
            // Only what was read while nothing left memory is known to be right.
            Ok((self.memtable.read().epoch() == epoch).then_some(page))
        })
    }

    /// Fills memory from DuckDB, in the background. Answers when it is done or the daemon stops.
    pub(super) fn fill(&self) -> Result<(), ReadError> {
        let _turn = self.fill_turn.lock();
        let Some(reader) = self.take_reader()? else { return Ok(()) };
        self.memtable.write().begin_filling();
        let stopped = || self.shared.stopping.load(std::sync::atomic::Ordering::Relaxed);
        let mut complete = true;
        let scanned = reader.scan(&mut |rows| {
            self.memtable.write().fill(rows);
            complete = !stopped();
            if complete { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.memtable.write().end_filling(complete && scanned.is_ok());
        if let Err(error) = &scanned {
            self.note_trouble(error);
        }
        Ok(scanned?)
    }
}

fn keys_in_memory(
    memtable: &Memtable,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    max_bytes: usize,
) -> KeysPage {
    let mut page = KeysPage::default();
    let mut bytes = 0;
    memtable.visit_keys(prefix, after, |key| {
        if page.keys.len() >= limit || bytes >= max_bytes {
            page.more = true;
            return false;
        }
        bytes += key.len() + 3;
        page.keys.push(key.to_owned());
        true
    });
    page
}

/// The addresses that DuckDB has, in order, read chunk by chunk.
struct StoredKeys<'r> {
    reader: Option<&'r Reader>,
    prefix: &'r str,
    chunk: Vec<(String, OwnedNames)>,
    at: usize,
    behind: Option<(String, OwnedNames)>,
    over: bool,
}

impl StoredKeys<'_> {
    fn skip_to(&mut self, after: Option<&str>) {
        // The key's own addresses come too, and are passed over like any that are too small.
        let Some(reader) = self.reader else { return };
        let names = match reader.model() {
            Model::Dated => OwnedNames::Dated { process_name: None },
            Model::Collection => {
                OwnedNames::Collection { collection_name: String::new(), item_name: String::new() }
            }
        };
        self.behind = after.map(|key| (key.to_owned(), names));
    }

    /// The next key behind `last` under which a record lives, by DuckDB unless memory knows better.
    fn next_live(
        &mut self,
        last: Option<&str>,
        memtable: &parking_lot::RwLock<Memtable>,
    ) -> Result<Option<String>, DuckError> {
        loop {
            while let Some((key, names)) = self.chunk.get(self.at) {
                let passed = last.is_some_and(|last| key.as_str() <= last);
                if !passed && memtable.read().overrides(key, names.as_names()) != Some(false) {
                    return Ok(Some(key.clone()));
                }
                self.at += 1;
            }
            let Some(reader) = self.reader.filter(|_| !self.over) else { return Ok(None) };
            self.behind = self.chunk.pop().or(self.behind.take());
            let behind = self.behind.as_ref().map(|(key, names)| (key.as_str(), names));
            self.chunk = reader.page(self.prefix, behind, KEYS_CHUNK)?;
            self.at = 0;
            self.over = self.chunk.len() < KEYS_CHUNK;
        }
    }
}
