//! The gate: which SQL of a client may run.
//!
//! DuckDB's own parser turns the text into a tree without running anything, on a scratch instance that has no
//! files. The tree must be exactly one SELECT, and every table, function and kind of node in it must be on a
//! list; what is not known is refused. Behind the gate a query runs on a connection of its own in a transaction
//! that cannot write, so that a hole in one is not a hole in both.
//!
//! Invariant: a [`Checked`] cannot be had but from [`Gate::check`], and nothing else of a client's is ever
//! prepared.

mod functions;
mod nesting;
#[cfg(test)]
mod tests;
mod walk;

use duckdb::{Config, Connection};
use parking_lot::Mutex;
use serde::Deserialize as _;
use serde_json::Value;

use super::error::DuckError;
use walk::Walk;

/// Brackets may be nested so deep.
const MAX_NESTING: usize = 200;
/// The parser's own memory.
const SCRATCH_MEMORY: &str = "128MB";

/// Why SQL is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Longer than the limit.
    #[error("the SQL has {bytes} bytes and limits.max_query_sql_bytes is {max}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Nested too deep.
    #[error("the SQL is nested deeper than {MAX_NESTING} brackets, or its expressions are; write it flatter")]
    TooDeep,
    /// A byte that no SQL has.
    #[error("the SQL holds a NUL character")]
    Nul,
    /// Nothing to run.
    #[error("the SQL is empty; it must be one SELECT")]
    Empty,
    /// The parser does not understand it.
    #[error("the SQL cannot be parsed: {0}")]
    Syntax(String),
    /// Something else than a SELECT.
    #[error(
        "only one SELECT may be run: nothing that writes, attaches, sets or loads, and no EXPLAIN, CALL or PRAGMA"
    )]
    NotSelect,
    /// More than one statement.
    #[error("there are {0} statements; send one SELECT at a time")]
    Several(usize),
    /// A table that is none of the storage's.
    #[error("there is no table {name:?} to read; this storage has {}", tables.join(" and "))]
    Table {
        /// What was asked for.
        name: String,
        /// What there is.
        tables: Vec<&'static str>,
    },
    /// A name with a schema or a catalog.
    #[error(
        "{name:?} has something before it with a dot; name tables without schema and catalog, and call functions as f(x)"
    )]
    Qualified {
        /// The name behind it.
        name: String,
    },
    /// A function that is not on the list.
    #[error(
        "the function {0:?} may not be called by a query; only those may that compute from their arguments"
    )]
    Function(String),
    /// A table function that is not on the list.
    #[error(
        "the table function {0:?} may not be called by a query; range, generate_series, unnest, json_each and json_tree may"
    )]
    TableFunction(String),
    /// A function that makes as much as its argument says.
    #[error("{name} makes as much as its argument says; give a number of at most {max} there")]
    Sized {
        /// The function.
        name: String,
        /// The largest number.
        max: i64,
    },
    /// A list of numbers as a value.
    #[error(
        "{0} as a value needs numbers of at most 1000000 as arguments; as a table (FROM {0}(…)) it takes any"
    )]
    Series(String),
    /// A name for a common table expression that may mean something else.
    #[error(
        "{0:?} is no name for a common table expression; use letters, digits and _, and none of DuckDB's own prefixes"
    )]
    CteName(String),
    /// Common table expressions that are to be written out wherever they are used: forty of them, each with the one
    /// before in it twice, keep DuckDB's binder busy for ever, and nothing interrupts it.
    #[error(
        "the word MATERIALIZED may not stand in a query; leave it out, or pass a text that has it as a parameter"
    )]
    Materialized,
    /// Something in the tree that is not on the list.
    #[error("{0} may not be used in a query")]
    Unknown(String),
    /// Parameters with names, or with gaps between their numbers.
    #[error("parameters are ?, or $1, $2 … without a gap, and not {0:?}")]
    Parameter(String),
    /// The parser failed.
    #[error("the SQL could not be looked at: {0}")]
    Parser(String),
}

/// SQL that may run.
#[derive(Debug, Clone)]
pub struct Checked {
    sql: String,
    parameters: usize,
}

impl Checked {
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> usize {
        self.parameters
    }
}

/// See the module.
#[derive(Debug)]
pub struct Gate {
    scratch: Mutex<Connection>,
    max_sql_bytes: usize,
}

impl Gate {
    /// Starts the instance that parses.
    ///
    /// # Errors
    /// [`DuckError::Start`] when DuckDB refuses a setting.
    pub fn open(max_sql_bytes: usize) -> Result<Self, DuckError> {
        let open = || {
            let config = Config::default().with("memory_limit", SCRATCH_MEMORY)?.with("threads", "1")?;
            let scratch = Connection::open_in_memory_with_flags(config)?;
            scratch.execute_batch(
                "SET GLOBAL autoinstall_known_extensions = false; SET GLOBAL autoload_known_extensions = false; \
                 SET GLOBAL enable_external_access = false; SET GLOBAL lock_configuration = true",
            )?;
            Ok(scratch)
        };
        let scratch = open().map_err(|source| DuckError::Start { source: Box::new(source) })?;
        Ok(Self { scratch: Mutex::new(scratch), max_sql_bytes })
    }

    /// Checks SQL against the tables that it may read. Needs a stack for deep trees: see [`super::query::spawn`].
    ///
    /// # Errors
    /// See [`Rejection`].
    pub fn check(&self, sql: &str, tables: &[&'static str]) -> Result<Checked, Rejection> {
        if sql.len() > self.max_sql_bytes {
            return Err(Rejection::TooLong { bytes: sql.len(), max: self.max_sql_bytes });
        }
        if sql.contains('\0') {
            return Err(Rejection::Nul);
        }
        // Wherever it stands: who reads SQL not quite as DuckDB does must not be wrong about this.
        if memchr::memmem::find(sql.to_ascii_lowercase().as_bytes(), b"materialized").is_some() {
            return Err(Rejection::Materialized);
        }
        if nesting::depth(sql) > MAX_NESTING {
            return Err(Rejection::TooDeep);
        }
        let tree = self.parse(sql)?;
        let statements = tree.get("statements").and_then(Value::as_array);
        let statement = match statements.map(Vec::as_slice) {
            Some([one]) => one,
            None | Some([]) => return Err(Rejection::Empty),
            Some(several) => return Err(Rejection::Several(several.len())),
        };
        let mut walk = Walk::new(tables);
        walk.statement(statement)?;
        Ok(Checked { sql: sql.to_owned(), parameters: walk.parameters()? })
    }

    /// The tree of what DuckDB's parser reads, or why it does not.
    fn parse(&self, sql: &str) -> Result<Value, Rejection> {
        let parsed: Result<String, _> = {
            let scratch = self.scratch.lock();
            scratch.query_row("SELECT json_serialize_sql(?::VARCHAR)", [sql], |row| row.get(0))
        };
        let text = parsed.map_err(|error| Rejection::Parser(error.to_string()))?;
        let mut reader = serde_json::Deserializer::from_str(&text);
        // The parser bounds the depth, and the thread has the stack for it.
        reader.disable_recursion_limit();
        let tree = Value::deserialize(&mut reader).map_err(|error| Rejection::Parser(error.to_string()))?;
        if tree.get("error") != Some(&Value::Bool(true)) {
            return Ok(tree);
        }
        let said = |name| tree.get(name).and_then(Value::as_str).unwrap_or_default();
        let message = said("error_message");
        match said("error_type") {
            "not implemented" if message.contains("Only SELECT") => Err(Rejection::NotSelect),
            "parser" if message.contains("needs a SELECT") => Err(Rejection::NotSelect),
            "parser" if message.contains("depth") || message.contains("memory exhausted") => {
                Err(Rejection::TooDeep)
            }
            _ => Err(Rejection::Syntax(message.to_owned())),
        }
    }
}
