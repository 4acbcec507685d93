//! The history of a collection storage, in the order of its writes.

use std::ops::ControlFlow;

use super::{Reader, decode};
use crate::duck::error::DuckError;
use crate::storage::record::Record;

impl Reader {
    /// The writes from `first` to `last`, deletions too, in order; none where there is no history.
    ///
    /// # Errors
    /// [`DuckError::Sql`], [`DuckError::Row`].
    pub fn changes(&self, first: u64, last: u64) -> Result<Vec<Record>, DuckError> {
        let Some(table) = &self.shared.history else { return Ok(Vec::new()) };
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
