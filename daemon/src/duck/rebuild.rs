//! One of a collection's tables made anew from the other.
//!
//! The latest values follow from the history entirely: the newest row of each address, unless it is a deletion,
//! with the version that it has there. The other way round only the latest values are known, which is what
//! remains where a history is lost and nothing else has it.
//!
//! Invariant: a table is replaced in one transaction together with its `flushed_seq`; a file is made under
//! another name, which its caller gives it when it is whole.

use std::path::Path;
use std::sync::Arc;

use duckdb::{Connection, params};

use super::engine::Engine;
use super::error::DuckError;
use super::producers;
use super::schema::{self, Kind, Table, quote_name};
use super::store::Store;
use crate::storage::producers::Change;
use crate::storage::schema::Schema;

/// Which table is made from which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derive {
    /// The latest values from the history; nothing is lost.
    LatestFromHistory,
    /// A history of the latest values only; older values and deletions are lost.
    HistoryFromLatest,
}

impl Derive {
    const fn kinds(self) -> (Kind, Kind) {
        match self {
            Self::LatestFromHistory => (Kind::History, Kind::Latest),
            Self::HistoryFromLatest => (Kind::Latest, Kind::History),
        }
    }
}

/// Makes a new database file `target` from `source`, which nobody has open; answers its rows and up to where
/// it is complete. A new history gets `producers`, of which the latest values do not tell.
///
/// # Errors
/// Any [`DuckError`]; `target` is then to be removed.
pub fn derive(
    engine: &Arc<Engine>,
    schema: &Schema,
    what: Derive,
    [source, target]: [&Path; 2],
    producers: &[Change],
) -> Result<(u64, u64), DuckError> {
    let (from, to) = what.kinds();
    let from = Table::new(from, source.to_owned(), engine.new_alias(), schema);
    let to = Table::new(to, target.to_owned(), engine.new_alias(), schema);
    let conn = engine.connect()?;
    let work = || {
        engine.attach_read_only(&from.file, &from.alias)?;
        engine.attach(&to.file, &to.alias)?;
        schema::prepare(&conn, &to)?;
        let flushed_seq = from.read_flushed_seq(&conn)?;
        let rows = replace(&conn, &from, &to, flushed_seq, &mut || {})?;
        producers::stage(&conn, &to, producers)?;
        producers::write(&conn, &to, producers)?;
        conn.execute_batch(&format!("CHECKPOINT {}", to.alias)).map_err(to.failed("writing the new file"))?;
        Ok((rows, flushed_seq))
    };
    let done = work();
    let detached = [engine.detach(&to.file, &to.alias), engine.detach(&from.file, &from.alias)];
    let done = done?;
    detached.into_iter().collect::<Result<(), _>>()?;
    // DuckDB may keep the file while a transaction of another partition takes part in it, and write it once more; the
    // caller is about to rename it. Whoever attaches it again has waited for that.
    engine.attach_read_only(&to.file, &to.alias)?;
    engine.detach(&to.file, &to.alias)?;
    Ok(done)
}

impl Store {
    /// Makes `storage_latest` anew from `storage_history`, in one transaction; answers its rows. What the
    /// history has beyond the latest values' `flushed_seq` is left to the next flush.
    ///
    /// # Errors
    /// Any [`DuckError`]; nothing has changed. [`DuckError::Batch`] for a dated store.
    pub fn rebuild_latest(&self) -> Result<u64, DuckError> {
        self.rebuild_latest_and(&mut || {})
    }

    /// As [`rebuild_latest`](Self::rebuild_latest); `before_commit` is called inside the transaction, when
    /// everything is done but for the commit.
    pub(super) fn rebuild_latest_and(&self, before_commit: &mut dyn FnMut()) -> Result<u64, DuckError> {
        let mut live = self.live()?;
        let shared = self.shared();
        let latest = &shared.current;
        let Some(history) = &shared.history else {
            return Err(DuckError::Batch {
                file: latest.file.clone(),
                what: "a dated storage has no history",
            });
        };
        let result = replace(&live.conn, history, latest, latest.flushed_seq(), before_commit);
        match &result {
            Ok(rows) => shared.set_row_count(*rows),
            Err(error) => self.recover(&mut live, matches!(error, DuckError::Commit { .. })),
        }
        result
    }
}

/// Replaces everything in `to` by what follows from `from` up to a place; answers the rows.
fn replace(
    conn: &Connection,
    from: &Table,
    to: &Table,
    through_seq: u64,
    before_commit: &mut dyn FnMut(),
) -> Result<u64, DuckError> {
    let names = adopt_columns(conn, from, to)?;
    // Not inside the transaction: looking for columns takes part in every attached file, and until the commit
    // none that is closed meanwhile could be opened again.
    let own = schema::read_columns(conn, to, to.kind.name())?;
    let columns: Vec<_> = names.iter().map(|name| quote_name(name)).collect();
    let columns = columns.join(", ");
    let (deleted, condition) = match to.kind {
        Kind::History => (", deleted", format!("seq <= {through_seq}")),
        _ => (
            "",
            format!(
                "NOT deleted AND seq IN (SELECT max(seq) FROM {} WHERE seq <= {through_seq} \
                 GROUP BY key, {})",
                from.sql(),
                from.kind.name_columns().join(", ")
            ),
        ),
    };
    let value = if deleted.is_empty() { "" } else { ", FALSE" };
    let run = |sql: &str, action| conn.execute_batch(sql).map_err(to.failed(action));
    let insert = format!(
        "INSERT INTO {} ({columns}{deleted}) SELECT {columns}{value} FROM {} WHERE {condition}",
        to.sql(),
        from.sql()
    );
    let mut work = || {
        run("BEGIN TRANSACTION", "beginning a transaction")?;
        empty(conn, to, &own)?;
        let inserted = conn.execute(&insert, []).map_err(to.failed("filling the table"))? as u64;
        let count = format!("SELECT count(*) FROM {}", to.sql());
        let rows = conn.query_row(&count, [], |row| row.get(0)).map_err(to.failed("counting rows"))?;
        super::stage::expect(to, "rows filled in", inserted, rows)?;
        let state = format!("UPDATE {} SET flushed_seq = ?", to.state_sql());
        conn.execute(&state, params![through_seq]).map_err(to.failed("moving flushed_seq"))?;
        before_commit();
        let failed = |source| DuckError::Commit { file: to.file.clone(), source: Box::new(source) };
        conn.execute_batch("COMMIT").map_err(failed)?;
        to.set_flushed_seq(through_seq);
        Ok(rows)
    };
    work().inspect_err(|_| {
        // There may be no transaction to leave; what counts is that afterwards there is none.
        let _ = conn.execute_batch("ROLLBACK");
    })
}

/// A table that is made anew needs none of its old blocks, which may be what is damaged.
fn empty(conn: &Connection, table: &Table, columns: &[(String, String)]) -> Result<(), DuckError> {
    let columns: Vec<_> = columns.iter().map(|(name, kind)| format!("{} {kind}", quote_name(name))).collect();
    let name = table.sql();
    let sql = format!("DROP TABLE {name}; CREATE TABLE {name} ({})", columns.join(", "));
    conn.execute_batch(&sql).map_err(table.failed("emptying the table"))
}

/// The columns that both tables have; those that only `from` has, because the configuration no longer names
/// them, are added to `to`.
fn adopt_columns(conn: &Connection, from: &Table, to: &Table) -> Result<Vec<String>, DuckError> {
    let found = schema::read_columns(conn, from, from.kind.name())?;
    let own = schema::read_columns(conn, to, to.kind.name())?;
    let mut names = Vec::new();
    for (name, kind) in found.into_iter().filter(|(name, _)| name != "deleted") {
        if !own.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            let sql = format!("ALTER TABLE {} ADD COLUMN {} {kind}", to.sql(), quote_name(&name));
            conn.execute_batch(&sql).map_err(to.failed("adding an extra column"))?;
        }
        names.push(name);
    }
    Ok(names)
}
