//! What a query can see: the storage's tables, as temporary views of its own connection.
//!
//! A dated storage's dates are one table: each date's rows with a constant in front of them, put together by
//! UNION ALL. DuckDB carries a condition on `date` into each part, finds it false there, and leaves the part
//! out, so that a date that the SQL does not touch costs a name and no read.

use fastpersist_protocol::time::Date;

use super::borrow::Borrowed;
use crate::duck::schema::{Kind, quote_name};
use crate::duck::store::Store;
use crate::storage::schema::{Model, Schema};

/// The rows of one file.
#[derive(Debug, Clone)]
pub struct Part {
    /// The date, for a dated storage.
    date: Option<Date>,
    /// The table's full name in SQL.
    table: String,
}

impl Part {
    /// The rows of a date that is attached for the query.
    pub fn of_borrowed(date: Date, borrowed: &Borrowed) -> Self {
        Self { date: Some(date), table: format!("{}.main.{}", borrowed.alias(), Kind::Storage.name()) }
    }

    /// The rows of a date that the daemon has open.
    pub fn of_store(date: Option<Date>, store: &Store) -> Self {
        Self { date, table: store.shared().current.sql() }
    }

    /// The history of a collection.
    pub fn of_history(store: &Store) -> Option<Self> {
        store.shared().history.as_ref().map(|table| Self { date: None, table: table.sql() })
    }
}

/// One table that a query can see.
#[derive(Debug)]
pub struct View {
    kind: Kind,
    /// The columns that are there even where no file has any rows, with their types.
    columns: Vec<(String, &'static str)>,
    parts: Vec<Part>,
}

impl View {
    /// A dated storage's one table.
    pub fn dated(schema: &Schema, parts: Vec<Part>) -> Self {
        Self::new(Kind::Storage, schema, parts)
    }

    /// A collection's two tables; without a store they are empty.
    pub fn collection(schema: &Schema, store: Option<&Store>) -> Vec<Self> {
        let history = store.and_then(Part::of_history).into_iter().collect();
        let latest = store.map(|store| Part::of_store(None, store)).into_iter().collect();
        vec![Self::new(Kind::History, schema, history), Self::new(Kind::Latest, schema, latest)]
    }

    fn new(kind: Kind, schema: &Schema, parts: Vec<Part>) -> Self {
        Self { kind, columns: crate::duck::schema::columns(kind, schema), parts }
    }

    /// The names of a model's tables.
    pub const fn names(model: Model) -> &'static [&'static str] {
        const DATED: &[&str] = &[Kind::Storage.name()];
        const COLLECTION: &[&str] = &[Kind::History.name(), Kind::Latest.name()];
        match model {
            Model::Dated => DATED,
            Model::Collection => COLLECTION,
        }
    }

    /// The statement that makes the view. Its first part has no rows and says which columns there are, in
    /// which order.
    pub(super) fn sql(&self) -> String {
        let date = (self.kind == Kind::Storage).then_some(("date".to_owned(), "DATE"));
        let columns = date.iter().chain(&self.columns);
        let columns: Vec<_> =
            columns.map(|(name, kind)| format!("NULL::{kind} AS {}", quote_name(name))).collect();
        let mut sql = format!(
            "CREATE TEMPORARY VIEW {} AS SELECT {} WHERE false",
            self.kind.name(),
            columns.join(", ")
        );
        sql.extend(self.parts.iter().map(|part| {
            let date = part.date.map(|date| format!("DATE '{date}' AS date, ")).unwrap_or_default();
            format!(" UNION ALL BY NAME SELECT {date}* FROM {}", part.table)
        }));
        sql
    }
}
