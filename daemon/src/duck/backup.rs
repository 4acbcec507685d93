//! Whole copies of a store's files, taken while it goes on, and the reading of such copies.
//!
//! A [`Snapshot`] is one read transaction per file, begun while no flush can run, so all of them see the same
//! `flushed_seq`. Copying needs no lock of the store: flushes go on, and what they change is not seen.
//!
//! Invariants: a copy holds every column and every row of its snapshot, the state table, and the producers; the
//! files that are copied from are never opened a second time (DuckDB would lose its lock on them); a copy is attached by
//! nobody else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use duckdb::Connection;
use fastpersist_protocol::time::Timestamp;

use super::engine::Engine;
use super::error::DuckError;
use super::producers;
use super::schema::{self, Kind, Table, quote_name};
use super::stage::expect;
use super::store::{Shared, Store};
use crate::storage::schema::Schema;

/// What a table holds, in figures that two copies of it share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The table's name.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
    /// The sum of the rows' hashes, as a decimal number; the rows' order makes no difference.
    pub checksum: String,
    /// The `seq` up to which the file is complete.
    pub flushed_seq: u64,
    /// How many producers the file has, and the sum of their hashes; `None` where it has no table of them.
    pub producers: Option<(u64, String)>,
}

/// How far a snapshot reaches in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// The latest `updated_at` of any row.
    pub updated_at: Timestamp,
    /// The highest `seq` of any row. It is below the snapshot's where the last write was a deletion that
    /// left no row.
    pub seq: u64,
}

/// A picture of a store's files at one `seq`, held until it is copied or dropped.
#[derive(Debug)]
pub struct Snapshot {
    shared: Arc<Shared>,
    seq: u64,
    parts: Vec<Part>,
}

/// One file: the transaction that sees it, and where it is copied to.
#[derive(Debug)]
struct Part {
    conn: Connection,
    copy: Copy,
}

/// How often a copy's checkpoint is tried again, after pauses that grow by this one.
const CHECKPOINT_TRIES: u32 = 20;
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(10);

/// A database file that is only attached for a backup.
#[derive(Debug)]
struct Copy {
    engine: Arc<Engine>,
    file: PathBuf,
    alias: String,
}

impl Copy {
    fn make(engine: &Arc<Engine>, file: &Path) -> Result<Self, DuckError> {
        let copy = Self { engine: Arc::clone(engine), file: file.to_owned(), alias: engine.new_alias() };
        engine.attach(&copy.file, &copy.alias)?;
        Ok(copy)
    }

    fn open(engine: &Arc<Engine>, file: &Path) -> Result<Self, DuckError> {
        let copy = Self { engine: Arc::clone(engine), file: file.to_owned(), alias: engine.new_alias() };
        engine.attach_read_only(&copy.file, &copy.alias)?;
        Ok(copy)
    }

    fn detach(&self) -> Result<(), DuckError> {
        self.engine.detach(&self.file, &self.alias)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(duckdb::Error) -> DuckError {
        let file = self.file.clone();
        move |source| DuckError::Sql { file, action, source: Box::new(source) }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // One that was detached already is no error, and of another failure nobody is left to be told.
        let _ = self.detach();
    }
}

impl Store {
    /// Pins what the files hold now, to be copied to `copies`: new files, in the order of
    /// [`Files::paths`](super::Files::paths). Flushes wait only while this begins.
    ///
    /// # Errors
    /// Any [`DuckError`]; nothing is held then, and files may have been made under the names of the copies.
    pub fn snapshot(&self, copies: &[PathBuf]) -> Result<Snapshot, DuckError> {
        let shared = self.shared_arc();
        let mut parts = Vec::new();
        for file in copies {
            // Attached first: a transaction may not see a database that was attached after it began.
            let copy = Copy::make(&shared.engine, file)?;
            parts.push(Part { conn: shared.engine.connect()?, copy });
        }
        let live = self.live()?;
        let mut seqs = Vec::new();
        for (table, part) in shared.tables().zip(&parts) {
            let begin = part.conn.execute_batch("BEGIN TRANSACTION");
            begin.map_err(table.failed("beginning a backup"))?;
            seqs.push(table.read_flushed_seq(&part.conn)?);
        }
        drop(live);
        let seq = seqs.iter().copied().min().unwrap_or(0);
        for (table, found) in shared.tables().zip(seqs) {
            expect(table, "flushed_seq differs between the files; flush before a backup", seq, found)?;
        }
        Ok(Snapshot { shared, seq, parts })
    }
}

impl Snapshot {
    /// The `seq` that it shows.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The newest row; `None` where there is none.
    ///
    /// # Errors
    /// [`DuckError::Sql`].
    pub fn newest(&self) -> Result<Option<Newest>, DuckError> {
        // Of a collection the history tells, which comes first and has a row for every write.
        let Some((table, part)) = self.shared.tables().zip(&self.parts).next() else { return Ok(None) };
        let sql = format!("SELECT epoch_us(max(updated_at)), max(seq) FROM {}", table.sql());
        let found: (Option<i64>, Option<u64>) = part
            .conn
            .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(table.failed("looking for the newest row"))?;
        let (Some(micros), Some(seq)) = found else { return Ok(None) };
        Ok(Timestamp::from_micros(micros).map(|updated_at| Newest { updated_at, seq }))
    }

    /// Copies every file and ends; answers what was copied, as the snapshot sees it. The copies are complete
    /// in their files, and nobody has them open any more.
    ///
    /// # Errors
    /// Any [`DuckError`]; the copies are then of no use.
    pub fn copy(self) -> Result<Vec<Contents>, DuckError> {
        let mut contents = Vec::new();
        for (table, part) in self.shared.tables().zip(&self.parts) {
            contents.push(part.copy_of(table)?);
        }
        Ok(contents)
    }
}

impl Part {
    fn copy_of(&self, table: &Table) -> Result<Contents, DuckError> {
        let Self { conn, copy } = self;
        let _interruptible = copy.engine.interruptible(conn);
        copy.engine.check_hurry()?;
        // Not in the snapshot's transaction: looking for columns takes part in every attached file, and none of
        // them could make a checkpoint until the copy is done.
        let columns = schema::read_columns(&copy.engine.connect()?, table, table.kind.name())?;
        let mut contents = contents(conn, table, &columns)?;
        if producers::has_producers(table.kind) {
            contents.producers = Some(producers::checksum(conn, table)?);
        }
        let target = Table::at(table.kind, copy.file.clone(), copy.alias.clone());
        let typed: Vec<_> = columns.iter().map(|(name, sql)| format!("{} {sql}", quote_name(name))).collect();
        let names: Vec<_> = columns.iter().map(|(name, _)| quote_name(name)).collect();
        let names = names.join(", ");
        let sql = format!(
            "CREATE TABLE {to} ({typed}); INSERT INTO {to} ({names}) SELECT {names} FROM {from}; \
             CREATE TABLE {to_state} (format INTEGER, flushed_seq UBIGINT); \
             INSERT INTO {to_state} SELECT format, flushed_seq FROM {from_state}; {producers} COMMIT",
            to = target.sql(),
            typed = typed.join(", "),
            from = table.sql(),
            to_state = target.state_sql(),
            from_state = table.state_sql(),
            producers = producers::copy_sql(table, &target),
        );
        copy.engine.check_hurry()?;
        conn.execute_batch(&sql).map_err(copy.failed("copying the rows"))?;
        let checkpoint = format!("CHECKPOINT {}", copy.alias);
        let mut tries = 0;
        while let Err(error) = conn.execute_batch(&checkpoint) {
            // Nobody else writes this file, but a connection that looks for a table's columns takes part in all
            // of them for a moment, and DuckDB takes it for a writer.
            if tries == CHECKPOINT_TRIES || copy.engine.is_hurried() {
                return Err(copy.failed("completing the copy")(error));
            }
            tries += 1;
            std::thread::sleep(CHECKPOINT_PAUSE * tries);
        }
        copy.detach()?;
        Ok(contents)
    }
}

/// What a file of a backup holds. The file is only read.
///
/// # Errors
/// [`DuckError::Open`] for a file that DuckDB cannot read, [`DuckError::Sql`] for one that it cannot read
/// through, [`DuckError::Foreign`] for one that has not the table.
pub fn read_contents(engine: &Arc<Engine>, table_name: &str, file: &Path) -> Result<Contents, DuckError> {
    let Some(kind) = Kind::from_name(table_name) else {
        let what = format!("there is no table {table_name:?} in any backup");
        return Err(DuckError::Foreign { file: file.to_owned(), what });
    };
    let copy = Copy::open(engine, file)?;
    let conn = engine.connect()?;
    let table = Table::at(kind, copy.file.clone(), copy.alias.clone());
    let columns = schema::read_columns(&conn, &table, kind.name())?;
    if columns.is_empty() {
        return Err(table.foreign(format!("it has no table {}", kind.name())));
    }
    let _interruptible = engine.interruptible(&conn);
    engine.check_hurry()?;
    let mut contents = contents(&conn, &table, &columns)?;
    if producers::are_there(&conn, &table)? {
        contents.producers = Some(producers::checksum(&conn, &table)?);
    }
    Ok(contents)
}

/// Reads every block of a table; not yet the producers.
fn contents(conn: &Connection, table: &Table, columns: &[(String, String)]) -> Result<Contents, DuckError> {
    let names: Vec<_> = columns.iter().map(|(name, _)| quote_name(name)).collect();
    let sql = format!(
        "SELECT count(*), coalesce(sum(hash({})), 0)::VARCHAR FROM {}",
        names.join(", "),
        table.sql()
    );
    let (rows, checksum) = conn
        .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(table.failed("reading every row"))?;
    let flushed_seq = table.read_flushed_seq(conn)?;
    Ok(Contents { table: table.kind.name(), rows, checksum, flushed_seq, producers: None })
}

/// Where a history is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryCut {
    /// Behind this record.
    Seq(u64),
    /// Before the first record that was written later than this.
    At(Timestamp),
}

/// The last record before the cut in a copy of a history, and when it was written. The file is only read.
///
/// # Errors
/// [`DuckError::Open`] and [`DuckError::Sql`].
pub fn look_back(
    engine: &Arc<Engine>,
    history: &Path,
    cut: HistoryCut,
) -> Result<(u64, Option<Timestamp>), DuckError> {
    let copy = Copy::open(engine, history)?;
    let conn = engine.connect()?;
    let table = Table::at(Kind::History, copy.file.clone(), copy.alias.clone());
    let failed = || table.failed("looking for a moment in the history");
    let first_beyond = match cut {
        HistoryCut::Seq(seq) => Some(seq.saturating_add(1)),
        HistoryCut::At(at) => {
            let sql = format!("SELECT min(seq) FROM {} WHERE epoch_us(updated_at) > ?", table.sql());
            conn.query_row(&sql, [at.as_micros()], |row| row.get(0)).map_err(failed())?
        }
    };
    let sql =
        format!("SELECT max(seq), max_by(epoch_us(updated_at), seq) FROM {} WHERE seq < ?", table.sql());
    let (seq, micros): (Option<u64>, Option<i64>) = conn
        .query_row(&sql, [first_beyond.unwrap_or(u64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(failed())?;
    Ok((seq.unwrap_or(0), micros.and_then(Timestamp::from_micros)))
}

/// Cuts a collection's history, in a copy that nobody else has open, back to `seq`, and makes the latest values
/// anew from it. Answers how many producers are forgotten, because their last write is beyond that.
///
/// # Errors
/// Any [`DuckError`]; the copies are then of no use.
pub fn truncate_collection(
    engine: &Arc<Engine>,
    schema: &Schema,
    files: [&Path; 2],
    seq: u64,
) -> Result<u64, DuckError> {
    let [history_file, latest_file] = files;
    let (history_copy, latest_copy) = (Copy::make(engine, history_file)?, Copy::make(engine, latest_file)?);
    let conn = engine.connect()?;
    let history = Table::new(Kind::History, history_file.to_owned(), history_copy.alias.clone(), schema);
    let latest = Table::new(Kind::Latest, latest_file.to_owned(), latest_copy.alias.clone(), schema);
    let columns = schema::read_columns(&conn, &latest, latest.kind.name())?;
    let names: Vec<_> = columns.iter().map(|(name, _)| quote_name(name)).collect();
    let names = names.join(", ");
    let forgotten = producers::cut_back(&conn, &history, seq)?;
    let cut = format!(
        "BEGIN TRANSACTION; DELETE FROM {} WHERE seq > {seq}; UPDATE {} SET flushed_seq = {seq}; COMMIT; \
         CHECKPOINT {}",
        history.sql(),
        history.state_sql(),
        history.alias
    );
    conn.execute_batch(&cut).map_err(history.failed("cutting the history back"))?;
    let newest = format!(
        "SELECT * FROM {} QUALIFY row_number() OVER \
         (PARTITION BY key, collection_name, item_name ORDER BY seq DESC) = 1",
        history.sql()
    );
    let anew = format!(
        "BEGIN TRANSACTION; DELETE FROM {to}; INSERT INTO {to} ({names}) SELECT {names} FROM ({newest}) \
         WHERE NOT deleted; UPDATE {state} SET flushed_seq = {seq}; COMMIT; CHECKPOINT {alias}",
        to = latest.sql(),
        state = latest.state_sql(),
        alias = latest.alias
    );
    conn.execute_batch(&anew).map_err(latest.failed("making the latest values"))?;
    history_copy.detach()?;
    latest_copy.detach()?;
    Ok(forgotten)
}
