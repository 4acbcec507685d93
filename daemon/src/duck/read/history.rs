//! The history of a key: every write that a collection's history table has of it, newest first.
//!
//! Documents may be large and their number is the client's choice, so they are not sorted: first only
//! places and sizes are, then the documents of those that fit are read.

use std::ops::ControlFlow;

use duckdb::ToSql;

use super::{Reader, decode};
use crate::duck::error::DuckError;
use crate::storage::record::{Names, Record};

/// How large a write is, about, without reading it whole.
pub(super) const SIZE: &str = "coalesce(strlen(data::VARCHAR), 0) + coalesce(strlen(value_string), 0)";

/// Which writes are wanted, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Of this key.
    pub key: &'a str,
    /// Of this item of the key; `None` is all items.
    pub names: Option<Names<'a>>,
    /// Before this place.
    pub below_seq: u64,
    /// At most so many.
    pub limit: usize,
    /// No more once they have so many bytes.
    pub max_bytes: usize,
}

impl Reader {
    /// The writes to a key or one of its items, newest first, and whether there are more behind them. Of a
    /// dated storage there are none.
    ///
    /// # Errors
    /// [`DuckError::Sql`], [`DuckError::Row`].
    pub fn history(&self, wanted: &Wanted<'_>) -> Result<(Vec<Record>, bool), DuckError> {
        let Some(table) = &self.shared.history else { return Ok((Vec::new(), false)) };
        let mut filter = "key = ?".to_owned();
        let mut values: Vec<&dyn ToSql> = vec![&wanted.key];
        if let Some(Names::Collection { collection_name, item_name }) = &wanted.names {
            filter.push_str(" AND collection_name = ? AND item_name = ?");
            values.extend([collection_name as &dyn ToSql, item_name]);
        }
        let (places, more) = self.places(&filter, &values, wanted)?;
        let Some((highest, lowest)) = places else { return Ok((Vec::new(), more)) };
        values.extend([&lowest as &dyn ToSql, &highest]);
        let sql = format!(
            "SELECT {} FROM {} WHERE {filter} AND seq BETWEEN ? AND ? ORDER BY seq DESC",
            decode::columns(table),
            table.sql()
        );
        let mut records = Vec::new();
        self.stream(&sql, &values, &mut |chunk| {
            records.append(&mut decode::decode(table, chunk)?);
            Ok::<_, DuckError>(ControlFlow::Continue(()))
        })?;
        Ok((records, more))
    }

    /// The first and the last place of the writes that fit, and whether there are more.
    fn places(
        &self,
        filter: &str,
        values: &[&dyn ToSql],
        wanted: &Wanted<'_>,
    ) -> Result<(Option<(u64, u64)>, bool), DuckError> {
        let Some(table) = &self.shared.history else { return Ok((None, false)) };
        let sql = format!(
            "SELECT seq, {SIZE} FROM {} \
             WHERE {filter} AND seq < ? ORDER BY seq DESC LIMIT {}",
            table.sql(),
            wanted.limit.saturating_add(1)
        );
        let values = [values, &[&wanted.below_seq as &dyn ToSql]].concat();
        let read = || {
            let mut statement = self.conn.prepare(&sql)?;
            let rows = statement.query_map(&values[..], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<Vec<(u64, u64)>, _>>()
        };
        let rows = read().map_err(table.failed("reading the history"))?;
        let mut bytes = 0;
        let fitting = rows.iter().take(wanted.limit).take_while(|(_, size)| {
            let fits = bytes < wanted.max_bytes;
            bytes += *size as usize;
            fits
        });
        let fitting: Vec<u64> = fitting.map(|(seq, _)| *seq).collect();
        let ends = fitting.first().copied().zip(fitting.last().copied());
        Ok((ends, fitting.len() < rows.len()))
    }
}
