//! The history of a collection storage, in the order of its writes.

use std::ops::ControlFlow;

use super::history::SIZE;
use super::{Reader, decode};
use crate::duck::error::DuckError;
use crate::duck::schema::Table;
use crate::storage::record::Record;

impl Reader {
    /// The writes from `first` to `last`, deletions too, in order, until they come to `max_bytes`; none where there is no
    /// history.
    ///
    /// Sizes are asked for first: sorted at once, a few thousand large documents would fill memory.
    ///
    /// # Errors
    /// [`DuckError::Sql`], [`DuckError::Row`].
    pub fn changes(&self, first: u64, last: u64, max_bytes: usize) -> Result<Vec<Record>, DuckError> {
        let Some(table) = &self.shared.history else { return Ok(Vec::new()) };
        let Some(last) = self.last_that_fits(table, (first, last), max_bytes)? else { return Ok(Vec::new()) };
        let sql = format!(
            "SELECT {} FROM {} WHERE seq BETWEEN ? AND ? ORDER BY seq",
            decode::columns(table),
            table.sql()
        );
        let mut records = Vec::new();
        self.stream(&sql, &[&first, &last], &mut |chunk| {
            records.append(&mut decode::decode(table, chunk)?);
            Ok::<_, DuckError>(ControlFlow::Continue(()))
        })?;
        Ok(records)
    }

    /// The last of these places up to which the writes come to no more than `max_bytes`, or are only one.
    fn last_that_fits(
        &self,
        table: &Table,
        (first, last): (u64, u64),
        max_bytes: usize,
    ) -> Result<Option<u64>, DuckError> {
        let sql = format!("SELECT seq, {SIZE} FROM {} WHERE seq BETWEEN ? AND ? ORDER BY seq", table.sql());
        let read = || {
            let mut statement = self.conn.prepare(&sql)?;
            let mut rows = statement.query([first, last])?;
            let (mut bytes, mut fitting) = (0, None);
            while let Some(row) = rows.next()? {
                bytes += row.get::<_, u64>(1)? as usize;
                if bytes > max_bytes && fitting.is_some() {
                    break;
                }
                fitting = Some(row.get(0)?);
            }
            Ok::<_, duckdb::Error>(fitting)
        };
        read().map_err(table.failed("reading the history"))
    }

    /// The first write at `from` or behind it; `None` where there is none.
    ///
    /// # Errors
    /// [`DuckError::Sql`].
    pub fn oldest_change(&self, from: u64) -> Result<Option<u64>, DuckError> {
        let Some(table) = &self.shared.history else { return Ok(None) };
        let sql = format!("SELECT min(seq) FROM {} WHERE seq >= ?", table.sql());
        self.conn.query_row(&sql, [from], |row| row.get(0)).map_err(table.failed("reading the history"))
    }
}
