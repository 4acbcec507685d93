//! The walk over the tree of a SELECT.
//!
//! Invariant: every object in the tree is of a kind that is named here; anything else ends the walk.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Rejection;
use super::functions::{SERIES, TABLE_FUNCTIONS, is_allowed, size_argument};

/// Deeper trees than the parser makes of SQL within its own bounds.
const MAX_DEPTH: usize = 5_000;
/// Lambdas within lambdas: DuckDB's binder takes twice as long, and twice the memory, for each.
const MAX_LAMBDAS: usize = 4;
/// The largest number that says how much a function makes.
const MAX_SIZE: i64 = 10_000;
/// The largest bound of a list of numbers.
const MAX_SERIES: i64 = 1_000_000;
/// Names of DuckDB's own views and functions begin so.
const OWN_PREFIXES: &[&str] = &["duckdb_", "pg_", "pragma_", "sqlite_", "information_schema"];

/// Parts of a SELECT that name nothing themselves: what is in them is looked at all the same.
#[rustfmt::skip]
const PARTS: &[&str] = &[
    "SUBQUERY", "JOIN", "EXPRESSION_LIST", "EMPTY",
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
    "DECIMAL_TYPE_INFO", "LIST_TYPE_INFO", "ARRAY_TYPE_INFO", "STRUCT_TYPE_INFO", "ENUM_TYPE_INFO",
    "STRING_TYPE_INFO", "GENERIC_TYPE_INFO", "GEO_TYPE_INFO",
];

type Object = Map<String, Value>;
type Walked = Result<(), Rejection>;

/// See the module.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    tables: &'a [&'static str],
    /// Common table expressions that can be seen from here, the innermost last.
    ctes: Vec<String>,
    parameters: BTreeSet<String>,
    depth: usize,
    /// Lambdas around here.
    lambdas: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(tables: &'a [&'static str]) -> Self {
        Self { tables, ctes: Vec::new(), parameters: BTreeSet::new(), depth: 0, lambdas: 0 }
    }

    /// Walks over a statement.
    pub(super) fn statement(&mut self, statement: &Value) -> Walked {
        match statement.get("node").and_then(Value::as_object) {
            Some(node) if text(node, "type").ends_with("_NODE") => self.value(statement),
            _ => Err(Rejection::NotSelect),
        }
    }

    /// How many parameters there are: numbers from 1 on, without a gap.
    pub(super) fn parameters(&self) -> Result<usize, Rejection> {
        let count = self.parameters.len();
        let is_number =
            |name: &&String| name.parse().is_ok_and(|number: usize| (1..=count).contains(&number));
        match self.parameters.iter().find(|name| !is_number(name)) {
            None => Ok(count),
            Some(name) => Err(Rejection::Parameter(format!("${name}"))),
        }
    }

    fn value(&mut self, value: &Value) -> Walked {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Rejection::TooDeep);
        }
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.value(value))?,
            Value::Object(object) => self.object(object)?,
            _ => {}
        }
        self.depth -= 1;
        Ok(())
    }

    fn fields(&mut self, object: &Object) -> Walked {
        object.values().try_for_each(|value| self.value(value))
    }

    fn object(&mut self, object: &Object) -> Walked {
        if let Some(class) = object.get("class") {
            return self.expression(class.as_str().unwrap_or_default(), object);
        }
        match object.get("type") {
            None => self.fields(object),
            // A value with its type: nothing in it is run.
            Some(Value::Object(_)) if object.contains_key("is_null") => Ok(()),
            Some(Value::String(kind)) => self.kind(kind, object),
            Some(_) => Err(Rejection::Unknown("an unknown part of the tree".to_owned())),
        }
    }

    fn kind(&mut self, kind: &str, object: &Object) -> Walked {
        match kind {
            "SELECT_NODE" | "SET_OPERATION_NODE" | "RECURSIVE_CTE_NODE" => self.node(object),
            "BASE_TABLE" => self.table(object),
            "TABLE_FUNCTION" => self.table_function(object),
            "PIVOT" => self.pivot(object),
            "UNBOUND_TYPE_INFO" => {
                unqualified(object, "name")?;
                self.fields(object)
            }
            "SHOW_REF" => Err(Rejection::Unknown("SHOW, DESCRIBE and SUMMARIZE".to_owned())),
            harmless if PARTS.contains(&harmless) => self.fields(object),
            other => Err(Rejection::Unknown(other.to_owned())),
        }
    }

    /// A SELECT or what combines several. Each of its common table expressions is seen by those behind it
    /// and by the rest; a recursive one by itself too.
    fn node(&mut self, node: &Object) -> Walked {
        let outside = self.ctes.len();
        let ctes = node.get("cte_map").and_then(|map| map.get("map")).and_then(Value::as_array);
        for cte in ctes.into_iter().flatten() {
            let name = cte.get("key").and_then(Value::as_str).unwrap_or_default().to_lowercase();
            let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ');
            if name.is_empty()
                || !name.chars().all(is_plain)
                || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            {
                return Err(Rejection::CteName(name));
            }
            let Some(value) = cte.get("value") else {
                return Err(Rejection::Unknown("a common table expression without a query".to_owned()));
            };
            let is_recursive =
                value.pointer("/query/node/type").is_some_and(|kind| kind == "RECURSIVE_CTE_NODE");
            if is_recursive {
                self.ctes.push(name);
                self.value(value)?;
            } else {
                self.value(value)?;
                self.ctes.push(name);
            }
        }
        node.iter().filter(|(name, _)| *name != "cte_map").try_for_each(|(_, value)| self.value(value))?;
        self.ctes.truncate(outside);
        Ok(())
    }

    fn table(&mut self, table: &Object) -> Walked {
        let name = unqualified(table, "table_name")?;
        if table.get("at_clause").is_some_and(|clause| !clause.is_null()) {
            return Err(Rejection::Unknown("AT (…) behind a table".to_owned()));
        }
        let lower = name.to_lowercase();
        if self.ctes.contains(&lower) || self.tables.contains(&lower.as_str()) {
            return self.fields(table);
        }
        Err(Rejection::Table { name: name.to_owned(), tables: self.tables.to_vec() })
    }

    fn table_function(&mut self, reference: &Object) -> Walked {
        for (field, value) in reference {
            if field != "function" {
                self.value(value)?;
            }
        }
        let function = reference.get("function").and_then(Value::as_object);
        let Some(function) = function.filter(|function| text(function, "class") == "FUNCTION") else {
            return Err(Rejection::Unknown("a table function of another kind".to_owned()));
        };
        let name = unqualified(function, "function_name")?;
        if !TABLE_FUNCTIONS.contains(&name.to_lowercase().as_str()) {
            return Err(Rejection::TableFunction(name.to_owned()));
        }
        self.fields(function)
    }

    /// A pivot over values that stand in the SQL; one over an enum would look that up by name.
    fn pivot(&mut self, pivot: &Object) -> Walked {
        let columns = pivot.get("pivots").and_then(Value::as_array);
        let has_enum = |column: &Value| column.get("pivot_enum").is_some_and(|name| name != "");
        if columns.into_iter().flatten().any(has_enum) {
            return Err(Rejection::Unknown("a pivot over an enum".to_owned()));
        }
        self.fields(pivot)
    }

    fn expression(&mut self, class: &str, expression: &Object) -> Walked {
        match class {
            "CONSTANT" => Ok(()),
            "FUNCTION" => {
                function(expression)?;
                self.fields(expression)
            }
            "WINDOW" => {
                let name = unqualified(expression, "function_name")?.to_lowercase();
                if !is_allowed(&name) {
                    return Err(Rejection::Function(name));
                }
                self.fields(expression)
            }
            "PARAMETER" => {
                self.parameters.insert(text(expression, "identifier").to_owned());
                Ok(())
            }
            "LAMBDA" if self.lambdas == MAX_LAMBDAS => Err(Rejection::TooDeep),
            "LAMBDA" => {
                self.lambdas += 1;
                let walked = self.fields(expression);
                self.lambdas -= 1;
                walked
            }
            "BETWEEN"
            | "CASE"
            | "CAST"
            | "COLLATE"
            | "COLUMN_REF"
            | "COMPARISON"
            | "CONJUNCTION"
            | "LAMBDA_REF"
            | "OPERATOR"
            | "POSITIONAL_REFERENCE"
            | "STAR"
            | "SUBQUERY" => self.fields(expression),
            other => Err(Rejection::Unknown(other.to_owned())),
        }
    }
}

/// Whether a function may be called, with these arguments.
fn function(function: &Object) -> Walked {
    let name = unqualified(function, "function_name")?.to_lowercase();
    let arguments = function.get("children").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let number = |argument: &Value| argument.pointer("/value/value").and_then(Value::as_i64);
    if let Some(position) = size_argument(&name) {
        return match arguments.get(position) {
            // DuckDB says what is missing.
            None => Ok(()),
            Some(size) if number(size).is_some_and(|size| size.abs() <= MAX_SIZE) => Ok(()),
            Some(_) => Err(Rejection::Sized { name, max: MAX_SIZE }),
        };
    }
    if SERIES.contains(&name.as_str()) {
        let is_small = |argument| number(argument).is_some_and(|number| number.abs() <= MAX_SERIES);
        return if arguments.iter().all(is_small) { Ok(()) } else { Err(Rejection::Series(name)) };
    }
    if is_allowed(&name) { Ok(()) } else { Err(Rejection::Function(name)) }
}

fn text<'o>(object: &'o Object, field: &str) -> &'o str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The name of a table, a function or a type that stands without a catalog and without a schema, or with the
/// one where DuckDB's own functions are.
fn unqualified<'o>(object: &'o Object, field: &str) -> Result<&'o str, Rejection> {
    let name = text(object, field);
    let is_empty = |field| object.get(field).is_none_or(|value| value == "" || value.is_null());
    let is_function = field == "function_name";
    let schema_is_plain =
        is_empty("schema") && is_empty("schema_name") || is_function && text(object, "schema") == "main";
    if is_empty("catalog") && is_empty("catalog_name") && schema_is_plain {
        Ok(name)
    } else {
        Err(Rejection::Qualified { name: name.to_owned() })
    }
}
