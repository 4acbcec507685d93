//! One SELECT, and its rows.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use fastpersist_protocol::json::Scanner;
use fastpersist_protocol::request::{self, Op, ResultKind};
use fastpersist_protocol::time::Date;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Place;
use crate::call::{Call, Caller, on};
use crate::error::Error;
use crate::reply;

/// Deeper parameters than any daemon takes.
const MAX_DEPTH: usize = 1_000;

/// A query, begun by [`DatedStorage::query`](super::DatedStorage::query) or
/// [`CollectionStorage::query`](super::CollectionStorage::query).
#[must_use = "nothing is asked before `send`"]
pub struct Query<C> {
    place: Place<C>,
    sql: String,
    params: Vec<Result<String, serde_json::Error>>,
    dates: (Option<Date>, Option<Date>),
    fresh: bool,
    max_rows: Option<u64>,
    timeout_ms: Option<u64>,
}

impl<C> fmt::Debug for Query<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("sql", &self.sql).field("dates", &self.dates).finish_non_exhaustive()
    }
}

impl<C: Caller> Query<C> {
    pub(crate) fn new(sql: String, place: Place<C>) -> Self {
        let dates = (place.date, place.date);
        Self { place, sql, params: Vec::new(), dates, fresh: true, max_rows: None, timeout_ms: None }
    }

    /// The next parameter, for the next `?` or the next `$1`, `$2` …. Lists and maps arrive as their JSON
    /// text.
    pub fn param<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.params.push(serde_json::to_string(value));
        self
    }

    /// Dated storages: these dates, both included, as one table.
    pub fn dates(mut self, from: Date, to: Date) -> Self {
        self.dates = (Some(from), Some(to));
        self
    }

    /// Whether everything that was answered before must be in the result, which it is unless this says
    /// `false`: then nothing is flushed, and what is in DuckDB is read.
    pub fn fresh(mut self, fresh: bool) -> Self {
        self.fresh = fresh;
        self
    }

    /// At most so many rows; [`QueryResult::truncated`] says whether there were more.
    pub fn max_rows(mut self, rows: u64) -> Self {
        self.max_rows = Some(rows);
        self
    }

    /// How long the daemon may work on it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// Asks. Waits as long as the daemon lets the query take.
    ///
    /// # Errors
    /// [`Error::Data`] for a parameter that does not serialise to JSON; the daemon's `query_rejected`,
    /// `query_failed`, `timeout` and `busy`.
    pub fn send(self) -> C::Answer<QueryResult> {
        let client = self.place.client.clone();
        client.call(self.into_call(ResultKind::Rows))
    }

    /// Asks, and takes the result over as memory: for results of millions of rows, which it brings many times
    /// faster. They are not bound by `limits.max_query_rows`, but by `limits.max_handed_over_bytes`.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`Error::Data`] when the memory cannot be read.
    #[cfg(feature = "arrow")]
    pub fn batches(self) -> C::Answer<crate::Batches> {
        let client = self.place.client.clone();
        client.hand_over(self.into_call(ResultKind::Fd).line)
    }

    fn into_call(self, result: ResultKind) -> Call<QueryResult> {
        let Self { place, sql, params, dates: (from, to), fresh, max_rows, timeout_ms } = self;
        let params: Result<Vec<String>, _> = params.into_iter().collect();
        let text = match params {
            Ok(params) => format!("[{}]", params.join(",")),
            Err(error) => {
                return Call::failed(Error::Data(format!("a parameter is not JSON: {error}")), reply::decode);
            }
        };
        let read = Scanner::new(&text, MAX_DEPTH).value();
        let query = request::Query {
            sql: Cow::Borrowed(&sql),
            params: read.ok().filter(|raw| raw.text != "[]"),
            from,
            to,
            fresh,
            max_rows,
            timeout_ms,
            result,
        };
        // The daemon bounds the time itself.
        Call::new(&on(&place.storage, Op::Query(query))).unbounded()
    }
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QueryColumn {
    /// Its name.
    pub name: String,
    /// Its type, as DuckDB calls it.
    #[serde(rename = "type")]
    pub kind: String,
}

/// The rows of a query.
#[derive(Debug, Clone, Deserialize)]
pub struct QueryResult {
    /// The columns, in the order of the SELECT.
    pub columns: Vec<QueryColumn>,
    /// The rows: each a JSON array, byte for byte as the daemon sent it.
    pub rows: Vec<Box<RawValue>>,
    /// Whether there were more rows than were asked for or may be sent.
    pub truncated: bool,
    /// How long the daemon took.
    pub elapsed_ms: u64,
}

impl QueryResult {
    /// The rows by position: as tuples, or as anything else that is read from a list.
    ///
    /// # Errors
    /// [`Error::Protocol`] when a row does not fit the type.
    pub fn rows<T: DeserializeOwned>(&self) -> Result<Vec<T>, Error> {
        let rows = self.rows.iter().map(|row| serde_json::from_str(row.get()));
        rows.collect::<Result<_, _>>().map_err(|error| misfit(&error))
    }

    /// The rows by the names of the columns: as structs or maps.
    ///
    /// # Errors
    /// [`Error::Protocol`] when a row does not fit the type.
    pub fn records<T: DeserializeOwned>(&self) -> Result<Vec<T>, Error> {
        let record = |row: &RawValue| {
            let values: Vec<&RawValue> = serde_json::from_str(row.get())?;
            let names = self.columns.iter().map(|column| column.name.as_str());
            let fields = names.zip(values.into_iter().map(IntoDeserializer::into_deserializer));
            T::deserialize(MapDeserializer::new(fields))
        };
        let records = self.rows.iter().map(|row| record(row));
        records.collect::<Result<_, serde_json::Error>>().map_err(|error| misfit(&error))
    }
}

fn misfit(error: &serde_json::Error) -> Error {
    Error::Protocol(format!("a row of the result does not fit the type: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Count {
        key: String,
        n: Option<u64>,
    }

    #[test]
    fn rows_are_read_by_position_and_by_name() {
        let reply = br#"{"ok":true,"columns":[{"name":"n","type":"BIGINT"},{"name":"key","type":"VARCHAR"}],
            "rows":[[1,"a"],[null,"b"]],"row_count":2,"truncated":false,"elapsed_ms":2}"#;
        let result: QueryResult = reply::decode(reply).unwrap();
        assert_eq!(result.columns[0], QueryColumn { name: "n".to_owned(), kind: "BIGINT".to_owned() });
        let rows: Vec<(Option<u64>, String)> = result.rows().unwrap();
        assert_eq!(rows, [(Some(1), "a".to_owned()), (None, "b".to_owned())]);
        let records: Vec<Count> = result.records().unwrap();
        assert_eq!(records[0], Count { key: "a".to_owned(), n: Some(1) });
        assert_eq!(records[1], Count { key: "b".to_owned(), n: None });
        let maps: Vec<BTreeMap<String, serde_json::Value>> = result.records().unwrap();
        assert_eq!(maps[0]["n"], 1);
        assert!(matches!(result.rows::<(String, String)>(), Err(Error::Protocol(_))));
    }
}
