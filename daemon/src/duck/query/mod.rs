//! Clients' SQL, run.
//!
//! Each query has a thread and a connection of its own, which are thrown away. What it may see is made as
//! temporary views before a transaction begins that cannot write; then the checked text runs as it is, and
//! its rows are written while DuckDB makes them, so that no more of a result exists than is answered: as JSON,
//! or as an Arrow stream for a client that takes the result over as a whole.
//!
//! Invariant: nothing of a query outlives it: no transaction, no setting, no file that it had attached.

mod arrow_stream;
mod borrow;
mod params;
mod running;
#[cfg(test)]
mod tests;
mod types;
mod values;
mod views;

use std::sync::Arc;

use arrow::array::Array;
use duckdb::{Connection, Statement};
use fastpersist_protocol::json;

use super::engine::Engine;
use super::error::DuckError;
use super::gate::Checked;
use crate::handover::{BeginError, Exhausted, Handover, Handovers};

pub use borrow::{Borrowed, Borrowing};
pub use params::Parameter;
pub use running::{Cancelled, Running, Runnings};
pub use views::{Part, View};

use types::Shape;

/// The stack of a thread that looks at or runs a client's SQL: trees are walked by functions that call
/// themselves, ours and DuckDB's.
const STACK_BYTES: usize = 256 << 20;
/// By how much a query steps back behind those that answer clients.
const QUERY_NICE: i32 = 5;
/// What a query's own connection is set to for rows: values that Arrow has no type for come as they are.
const SESSION: &str = "SET SESSION arrow_lossless_conversion = true";

/// How much of a result is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// At most so many rows.
    pub max_rows: usize,
    /// At most so many bytes of rows; one more row is never begun behind them.
    pub max_bytes: usize,
}

/// How a result is wanted.
#[derive(Debug, Clone)]
pub enum Form {
    /// Rows, as JSON.
    Rows,
    /// An Arrow stream in memory; of the [`Bounds`] only `max_rows` holds.
    Arrow(Arc<Handovers>),
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    /// Its name.
    pub name: String,
    /// Its type, as DuckDB writes it.
    pub kind: String,
}

/// A result.
#[derive(Debug, Default)]
pub struct Rows {
    /// The columns.
    pub columns: Vec<ResultColumn>,
    /// The rows as JSON arrays, with commas between them.
    pub json: Vec<u8>,
    /// How many rows there are.
    pub count: usize,
    /// Whether there were more.
    pub truncated: bool,
    /// The result itself, where there is no `json`.
    pub handover: Option<Handover>,
}

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was ended from outside.
    #[error("the query was ended")]
    Cancelled(Cancelled),
    /// The number of parameters differs.
    #[error("the SQL has {expected} parameters and params has {given}")]
    Parameters {
        /// How many the SQL has.
        expected: usize,
        /// How many were given.
        given: usize,
    },
    /// No more can be handed over.
    #[error(transparent)]
    Exhausted(Exhausted),
    /// DuckDB could not run it.
    #[error("{0}")]
    Failed(String),
    /// The engine gave no connection.
    #[error(transparent)]
    Duck(#[from] DuckError),
}

/// One query, ready to run.
#[derive(Debug)]
pub struct Query {
    /// The SQL.
    pub checked: Checked,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// What it can see.
    pub views: Vec<View>,
    /// How much of its result is wanted.
    pub bounds: Bounds,
    /// And how.
    pub form: Form,
}

/// Why a query that runs has no result.
enum Failure {
    Duck(duckdb::Error),
    Exhausted(Exhausted),
    Other(String),
}

impl From<BeginError> for Failure {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::Exhausted(exhausted) => Self::Exhausted(exhausted),
            BeginError::Io(_) => Self::Other(error.to_string()),
        }
    }
}

impl From<duckdb::Error> for Failure {
    fn from(error: duckdb::Error) -> Self {
        Self::Duck(error)
    }
}

/// Starts a thread that has the stack for a client's SQL and steps back behind those that answer clients.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let work = move || {
        // Where the system refuses, the query only runs as hard as everything else.
        let _ = rustix::process::setpriority_process(None, QUERY_NICE);
        work();
    };
    std::thread::Builder::new().name("query".to_owned()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

impl Query {
    /// Runs the query. Blocks for as long as it takes; `running` is how others end it.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(&self, engine: &Engine, running: &Running) -> Result<Rows, RunError> {
        let (expected, given) = (self.checked.parameters(), self.parameters.len());
        if expected != given {
            return Err(RunError::Parameters { expected, given });
        }
        if let Some(why) = running.cancelled() {
            return Err(RunError::Cancelled(why));
        }
        let conn = engine.connect()?;
        running.begin(conn.interrupt_handle());
        let result = self.run_on(&conn, running);
        running.end();
        match (result, running.cancelled()) {
            (Ok(rows), _) => Ok(rows),
            (Err(_), Some(why)) => Err(RunError::Cancelled(why)),
            (Err(Failure::Exhausted(exhausted)), None) => Err(RunError::Exhausted(exhausted)),
            (Err(Failure::Other(message)), None) => Err(RunError::Failed(message)),
            (Err(Failure::Duck(error)), None) => {
                Err(RunError::Failed(engine.without_paths(&message(&error))))
            }
        }
    }

    fn run_on(&self, conn: &Connection, running: &Running) -> Result<Rows, Failure> {
        if matches!(self.form, Form::Rows) {
            conn.execute_batch(SESSION)?;
        }
        for view in &self.views {
            conn.execute_batch(&view.sql())?;
        }
        conn.execute_batch("BEGIN TRANSACTION READ ONLY")?;
        let mut statement = conn.prepare(self.checked.sql())?;
        drop(statement.stream_arrow(duckdb::params_from_iter(&self.parameters))?);
        let schema = statement.schema();
        let mut rows = Rows::default();
        let mut shapes = Vec::with_capacity(schema.fields().len());
        for (index, field) in schema.fields().iter().enumerate() {
            let logical = statement.column_logical_type(index);
            rows.columns.push(ResultColumn { name: field.name().clone(), kind: types::name(&logical) });
            shapes.push(Shape::of(&logical));
        }
        match &self.form {
            Form::Rows => self.fetch(&statement, &shapes, rows, running),
            Form::Arrow(handovers) => {
                let sheet = handovers.begin()?;
                arrow_stream::fetch(&statement, &shapes, rows, self.bounds.max_rows, sheet, running)
            }
        }
    }

    fn fetch(
        &self,
        statement: &Statement<'_>,
        shapes: &[Shape],
        mut rows: Rows,
        running: &Running,
    ) -> Result<Rows, Failure> {
        while let Some(chunk) = statement.step()? {
            if running.cancelled().is_some() {
                return Err(ended());
            }
            for row in 0..chunk.len() {
                if rows.count >= self.bounds.max_rows || rows.json.len() >= self.bounds.max_bytes {
                    rows.truncated = true;
                    return Ok(rows);
                }
                rows.push(shapes, chunk.columns(), row);
            }
        }
        Ok(rows)
    }
}

impl Rows {
    fn push(&mut self, shapes: &[Shape], columns: &[arrow::array::ArrayRef], row: usize) {
        let out = &mut self.json;
        out.extend_from_slice(if self.count == 0 { b"[" } else { b",[" });
        for (index, (shape, column)) in shapes.iter().zip(columns).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            values::write(shape, column.as_ref(), row, out);
        }
        out.push(b']');
        self.count += 1;
    }

    /// Writes the columns as a JSON array.
    pub fn write_columns(&self, out: &mut Vec<u8>) {
        fastpersist_protocol::reply::array(out, &self.columns, |out, column| {
            out.extend_from_slice(b"{\"name\":");
            json::write_string(out, &column.name);
            out.extend_from_slice(b",\"type\":");
            json::write_string(out, &column.kind);
            out.push(b'}');
        });
    }
}

/// What becomes of a query that was ended; why it was is known.
fn ended() -> Failure {
    Failure::Other("the query was ended".to_owned())
}

/// What DuckDB said.
fn message(error: &duckdb::Error) -> String {
    match error {
        duckdb::Error::DuckDBFailure(_, Some(message)) if message.starts_with("Out of Memory") => {
            // What DuckDB advises are settings that a client cannot change.
            let what = message.lines().next().unwrap_or_default();
            format!(
                "{what}; the query needs more than limits.duckdb_memory_bytes or limits.duckdb_temp_bytes allow, ask for less"
            )
        }
        duckdb::Error::DuckDBFailure(_, Some(message)) => message.trim_end().to_owned(),
        duckdb::Error::FromSqlConversionFailure(_, duckdb::types::Type::Variant, _) => {
            "a VARIANT has no form in JSON; cast it to the type that it holds, or to JSON or VARCHAR"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Whether a query or a flush failed because DuckDB's memory was used up.
pub fn is_out_of_memory(error: &DuckError) -> bool {
    match error {
        DuckError::Sql { source, .. } | DuckError::Commit { source, .. } => {
            let text = source.to_string().to_lowercase();
            // A commit says it in its own way.
            ["out of memory", "failed to pin block", "could not allocate"]
                .iter()
                .any(|sign| text.contains(sign))
        }
        _ => false,
    }
}
