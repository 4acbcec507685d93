//! One partition's DuckDB file or files: opened, kept usable after a failure, closed.
//!
//! Invariants: whoever writes, checkpoints or re-attaches holds the store's one connection, so row ids
//! found by a flush stay true until it is over; `flushed_seq` in memory is what was last read from the
//! file or committed to it, and after any failure it is read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use duckdb::Connection;
use parking_lot::{Mutex, MutexGuard};

use super::engine::Engine;
use super::error::DuckError;
use super::read::Reader;
use super::schema::{self, Kind, Table};
use crate::storage::schema::Schema;

/// The files of one partition, by model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// A dated storage has one file per date.
    Dated {
        /// The file with the table `storage`.
        data: PathBuf,
    },
    /// A collection storage has two files.
    Collection {
        /// The file with the table `storage_history`.
        history: PathBuf,
        /// The file with the table `storage_latest`.
        latest: PathBuf,
    },
}

impl Files {
    /// The files, in the order in which a flush writes them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let (first, second) = match self {
            Self::Dated { data } => (data, None),
            Self::Collection { history, latest } => (history, Some(latest)),
        };
        std::iter::once(first).chain(second).map(PathBuf::as_path)
    }

    /// The files of the same partition under other names.
    #[must_use]
    pub fn map(&self, name: impl Fn(&Path) -> PathBuf) -> Self {
        match self {
            Self::Dated { data } => Self::Dated { data: name(data) },
            Self::Collection { history, latest } => {
                Self::Collection { history: name(history), latest: name(latest) }
            }
        }
    }

    /// Whether any of them is there.
    pub fn exist(&self) -> bool {
        match self {
            Self::Dated { data } => data.exists(),
            Self::Collection { history, latest } => history.exists() || latest.exists(),
        }
    }
}

/// Called with a file right before it is attached.
pub type BeforeAttach<'a> = &'a dyn Fn(&Path);

/// What a store and its readers know of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    pub(super) schema: Arc<Schema>,
    /// Collection only.
    pub(super) history: Option<Table>,
    /// The table that reads are answered from.
    pub(super) current: Table,
    rows: AtomicU64,
}

impl Shared {
    fn new(engine: Arc<Engine>, schema: Arc<Schema>, files: Files) -> Self {
        let table = |kind, file| Table::new(kind, file, engine.new_alias(), &schema);
        let (history, current) = match files {
            Files::Dated { data } => (None, table(Kind::Storage, data)),
            Files::Collection { history, latest } => {
                (Some(table(Kind::History, history)), table(Kind::Latest, latest))
            }
        };
        Self { engine, schema, history, current, rows: AtomicU64::new(0) }
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.history.iter().chain(std::iter::once(&self.current))
    }

    pub(super) fn set_row_count(&self, rows: u64) {
        self.rows.store(rows, Ordering::Release);
    }

    pub(super) fn row_count(&self) -> u64 {
        self.rows.load(Ordering::Acquire)
    }

    fn flushed_seq(&self) -> u64 {
        self.tables().map(Table::flushed_seq).min().unwrap_or(0)
    }

    /// Attaches the files, makes or checks their tables, and reads how far they are.
    ///
    /// A file is made only where nothing says that there was one: an empty file in the place of a lost
    /// one would look like a storage that never had a record.
    ///
    /// `before` is called with each file before DuckDB gets it, for DuckDB may end the process over it.
    fn attach(&self, conn: &Connection, before: BeforeAttach<'_>) -> Result<(), DuckError> {
        let (old, new): (Vec<_>, Vec<_>) = self.tables().partition(|table| table.file.exists());
        let missing =
            |table: &Table, evidence: String| Err(DuckError::Missing { file: table.file.clone(), evidence });
        for table in &new {
            if table.flushed_seq() > 0 {
                return missing(table, "records were flushed to it".to_owned());
            }
        }
        let mut empty = Vec::new();
        for table in &old {
            before(&table.file);
            self.engine.attach(&table.file, &table.alias)?;
            if schema::prepare(conn, table)? {
                empty.push(*table);
            }
        }
        for table in empty.iter().chain(&new) {
            if let Some(partner) = old.iter().find(|partner| partner.flushed_seq() > 0) {
                return missing(table, format!("{} holds records", partner.file.display()));
            }
        }
        for table in &new {
            self.engine.attach(&table.file, &table.alias)?;
            schema::prepare(conn, table)?;
        }
        self.count_rows(conn)
    }

    /// Reads again how far the files are.
    fn reread(&self, conn: &Connection) -> Result<(), DuckError> {
        for table in self.tables() {
            table.set_flushed_seq(table.read_flushed_seq(conn)?);
        }
        self.count_rows(conn)
    }

    fn count_rows(&self, conn: &Connection) -> Result<(), DuckError> {
        let sql = format!("SELECT count(*) FROM {}", self.current.sql());
        let rows =
            conn.query_row(&sql, [], |row| row.get(0)).map_err(self.current.failed("counting rows"))?;
        self.set_row_count(rows);
        Ok(())
    }

    fn detach(&self) -> Vec<DuckError> {
        self.tables().filter_map(|table| self.engine.detach(&table.file, &table.alias).err()).collect()
    }
}

/// Whether the files can be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Attached,
    /// Attaching failed; the next operation tries again.
    Detached,
    Closed,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) conn: Connection,
    state: State,
}

/// One partition's records in DuckDB.
///
/// All methods may be called from any thread; those that write wait for one another.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    live: Mutex<Live>,
}

impl Store {
    /// Attaches the files, which are made where they are not there yet.
    ///
    /// # Errors
    /// [`DuckError::Open`] for a file that DuckDB cannot read, [`DuckError::InUse`] for one that somebody
    /// holds, [`DuckError::Foreign`] and
    /// [`DuckError::ColumnType`] for tables that do not fit, [`DuckError::Missing`] where one of a
    /// collection's files is gone, [`DuckError::Path`] for a path that is not UTF-8.
    pub fn open(engine: Arc<Engine>, schema: Arc<Schema>, files: Files) -> Result<Self, DuckError> {
        Self::open_watched(engine, schema, files, &|_| {})
    }

    /// As [`open`](Self::open); `before` is called with each file that is there, right before DuckDB gets it.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_watched(
        engine: Arc<Engine>,
        schema: Arc<Schema>,
        files: Files,
        before: BeforeAttach<'_>,
    ) -> Result<Self, DuckError> {
        let conn = engine.connect()?;
        let shared = Arc::new(Shared::new(engine, schema, files));
        let store = Self { shared, live: Mutex::new(Live { conn, state: State::Detached }) };
        // Dropped on failure, the store detaches what was attached.
        drop(store.attached(before)?);
        Ok(store)
    }

    /// The `seq` up to which everything is in DuckDB: of two files, of the one that lags.
    pub fn flushed_seq(&self) -> u64 {
        self.shared.flushed_seq()
    }

    /// How many records there are: rows of `storage` or `storage_latest`.
    pub fn row_count(&self) -> u64 {
        self.shared.row_count()
    }

    /// A reader with a connection of its own; it may run while the store flushes.
    ///
    /// # Errors
    /// [`DuckError::Start`] when DuckDB gives no connection.
    pub fn reader(&self) -> Result<Reader, DuckError> {
        Ok(Reader::new(self.shared.engine.connect()?, Arc::clone(&self.shared)))
    }

    /// Moves DuckDB's own log into its files. It does not wait: with another writing transaction on the
    /// file it fails and may be tried again.
    ///
    /// # Errors
    /// [`DuckError::Checkpoint`]; the log is then kept.
    pub fn checkpoint(&self) -> Result<(), DuckError> {
        let mut live = self.live()?;
        let result = self.checkpoint_files(&live.conn);
        if result.is_err() {
            self.recover(&mut live, false);
        }
        result
    }

    fn checkpoint_files(&self, conn: &Connection) -> Result<(), DuckError> {
        for table in self.shared.tables() {
            conn.execute_batch(&format!("CHECKPOINT {}", table.alias)).map_err(|source| {
                DuckError::Checkpoint { file: table.file.clone(), source: Box::new(source) }
            })?;
        }
        Ok(())
    }

    /// How much of DuckDB's own log is not checkpointed yet. It only looks at sizes: opening a database
    /// file and closing it again would drop the lock that DuckDB holds on it.
    pub fn wal_bytes(&self) -> u64 {
        self.shared.tables().map(|table| log_bytes(&table.file)).sum()
    }

    /// Checkpoints and detaches. Readers that are in the middle of a statement keep the files until it ends.
    ///
    /// # Errors
    /// [`DuckError::Close`] with everything that went wrong; the store is closed all the same, and what was
    /// flushed is in the files or in DuckDB's own log.
    pub fn close(&self) -> Result<(), DuckError> {
        self.close_behind(|live| self.checkpoint_files(&live.conn))
    }

    /// Detaches only, for where there is no room for a checkpoint.
    ///
    /// # Errors
    /// As for [`close`](Self::close).
    pub fn close_without_checkpoint(&self) -> Result<(), DuckError> {
        self.close_behind(|_| Ok(()))
    }

    fn close_behind(&self, last: impl FnOnce(&Live) -> Result<(), DuckError>) -> Result<(), DuckError> {
        if self.live.lock().state == State::Closed {
            return Ok(());
        }
        // Where a failure has left them detached, nobody knows what is in the files but for who attaches them again.
        let mut errors: Vec<_> = self.live().and_then(|live| last(&live)).err().into_iter().collect();
        self.live.lock().state = State::Closed;
        errors.extend(self.shared.detach());
        if errors.is_empty() { Ok(()) } else { Err(DuckError::Close(errors)) }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn shared_arc(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Attaches the files where a failure has left them detached; waits for whoever is doing so.
    ///
    /// # Errors
    /// When they cannot be attached.
    pub fn reattach(&self) -> Result<(), DuckError> {
        self.live().map(drop)
    }

    /// Attaches the files again where a failure has left them detached, unless somebody else is about it.
    pub(super) fn revive(&self) -> Result<(), DuckError> {
        let is_detached = self.live.try_lock().is_some_and(|live| live.state == State::Detached);
        if is_detached { self.live().map(drop) } else { Ok(()) }
    }

    /// The connection, with the files attached.
    pub(super) fn live(&self) -> Result<MutexGuard<'_, Live>, DuckError> {
        self.attached(&|_| {})
    }

    fn attached(&self, before: BeforeAttach<'_>) -> Result<MutexGuard<'_, Live>, DuckError> {
        let mut live = self.live.lock();
        match live.state {
            State::Attached => Ok(live),
            State::Closed => Err(DuckError::Closed { file: self.shared.current.file.clone() }),
            State::Detached => {
                // What an earlier attempt left attached would be in the way of this one.
                self.shared.detach();
                live.conn = self.shared.engine.connect()?;
                self.shared.attach(&live.conn, before)?;
                live.state = State::Attached;
                Ok(live)
            }
        }
    }

    /// After a failure: leaves the transaction and reads again how far the files are. `reattach` where
    /// memory and file may differ, as after a commit that failed. A store that cannot be brought back
    /// stays detached, and the next operation tries again.
    pub(super) fn recover(&self, live: &mut Live, reattach: bool) {
        // There may be no transaction to leave; what counts is that afterwards there is none.
        let _ = live.conn.execute_batch("ROLLBACK");
        if !reattach && self.shared.reread(&live.conn).is_ok() {
            return;
        }
        live.state = State::Detached;
        self.shared.detach();
        let again = self.shared.engine.connect().and_then(|conn| {
            self.shared.attach(&conn, &|_| {})?;
            Ok(conn)
        });
        if let Ok(conn) = again {
            live.conn = conn;
            live.state = State::Attached;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.live.get_mut().state != State::Closed {
            // Nobody is left to be told; DuckDB's own log keeps what was flushed.
            self.shared.detach();
        }
    }
}

/// The size of DuckDB's logs beside a file: its own, and those of a running or interrupted checkpoint.
fn log_bytes(file: &Path) -> u64 {
    let size = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(PathBuf::from(name)).map_or(0, |metadata| metadata.len())
    };
    [".wal", ".wal.checkpoint", ".wal.recovery"].into_iter().map(size).sum()
}
