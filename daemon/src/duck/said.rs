//! What DuckDB said, fit for a log.
//!
//! Invariant: no value of a record is in it. DuckDB quotes the value that it cannot convert or does not want; of such
//! a message only its kind is told.

use std::fmt;

/// Kinds of messages that speak of files, statements and resources. Our statements hold no values.
const KINDS_WITHOUT_VALUES: &[&str] = &[
    "Binder",
    "Catalog",
    "Connection",
    "Dependency",
    "FATAL",
    "INTERNAL",
    "INTERRUPT",
    "IO",
    "Out of Memory",
    "Parser",
    "Permission",
    "Serialization",
    "Settings",
    "TransactionContext",
];

/// Shows an error without the values that it may quote.
pub(super) struct Said<'a>(pub(super) &'a duckdb::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            duckdb::Error::DuckDBFailure(_, Some(message)) => f.write_str(&without_values(message)),
            // Made by the library itself, of names and numbers of columns.
            other => write!(f, "{other}"),
        }
    }
}

fn without_values(message: &str) -> String {
    // What follows the first line repeats the statement, or is a stack trace.
    let first = message.lines().next().unwrap_or_default();
    let Some((kind, _)) = first.split_once(" Error: ") else {
        return "an error of a kind that is not known".to_owned();
    };
    if KINDS_WITHOUT_VALUES.contains(&kind) {
        first.to_owned()
    } else {
        format!("{kind} Error (its text is left out, for it may quote data)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_and_files_are_not() {
        let conversion =
            "Conversion Error: Could not convert string 'secret' to INT32\n\nLINE 1: SELECT 'secret'";
        let shown = without_values(conversion);
        assert!(shown.starts_with("Conversion Error") && !shown.contains("secret"), "{shown}");
        let io = "IO Error: Cannot open file \"/srv/a.duckdb\": No such file or directory\nmore";
        assert_eq!(without_values(io), io.lines().next().unwrap_or_default());
        assert!(!without_values("secret: no error's form").contains("secret"));
    }

    #[test]
    fn what_duckdb_really_says_is_cut() {
        let connection = duckdb::Connection::open_in_memory().expect("an instance");
        let error = connection.execute_batch("SELECT CAST('secret' AS INTEGER)").expect_err("no number");
        assert!(error.to_string().contains("secret"), "DuckDB quotes values: {error}");
        assert!(!Said(&error).to_string().contains("secret"), "{}", Said(&error));
        let error = connection.execute_batch("ATTACH '/no/such/file.db'").expect_err("no file");
        assert!(Said(&error).to_string().contains("/no/such/file.db"), "{}", Said(&error));
    }
}
