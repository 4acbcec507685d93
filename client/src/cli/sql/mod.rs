//! The verb `sql`: a query from the arguments, from a file or from a prompt, and its rows in a format.

mod complete;
mod format;
mod prompt;

use std::fs;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fastpersist_client::protocol::json::Scanner;
use fastpersist_client::protocol::request::{Op, Query, ResultKind};
use fastpersist_client::{Batches, Date, QueryResult, blocking};
use serde_json::Value;

use super::failure::{Failure, Outcome};
use super::output::Output;
use super::{Global, parse_date};

#[derive(Debug, Args)]
#[command(after_help = "\
A dated storage has the table storage, with a column date; a collection storage has storage_latest and \
storage_history. Without SQL and without -f it opens a prompt on a terminal, and reads the SQL from a pipe.

In a pipe each row is printed as one JSON object.

Example:
  fastpersist -s jobs sql 'SELECT key, data.value FROM storage LIMIT 10'
  fastpersist -s jobs sql 'SELECT date, count(*) FROM storage GROUP BY ALL' --from 2025-01-01 --to 2025-01-31
  fastpersist -s settings sql 'SELECT * FROM storage_latest WHERE key = ?' --param user_7 --format csv
  fastpersist -s jobs sql -f report.sql --format parquet > report.parquet")]
pub(crate) struct SqlArgs {
    /// The SELECT; without it and without -f, a prompt.
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    /// Read the SELECT from this file, - for standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "sql")]
    file: Option<PathBuf>,
    /// How the rows are printed: a table on a terminal and ndjson in a pipe, unless given.
    #[arg(long)]
    format: Option<Format>,
    /// Dated storages: the first date; without it --to, or today.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    from: Option<Date>,
    /// Dated storages: the last date; without it --from, or today.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    to: Option<Date>,
    /// The next parameter, for the next ?: JSON, or else a text.
    #[arg(long = "param", value_name = "VALUE")]
    params: Vec<String>,
    /// At most so many rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_rows: Option<u64>,
    /// Read what is in DuckDB, without bringing in first what was answered a moment ago.
    #[arg(long)]
    no_fresh: bool,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// Comma-separated values with a head.
    Csv,
    /// One array of objects.
    Json,
    /// An object a line.
    Ndjson,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

pub(crate) fn sql(global: &Global, args: &SqlArgs, out: &mut Output) -> Outcome {
    let sql = match (&args.sql, &args.file) {
        (Some(sql), _) => sql.clone(),
        (None, Some(file)) if file.as_os_str() != "-" => {
            fs::read_to_string(file).map_err(|error| Failure::io(file.display(), &error))?
        }
        (None, None) if std::io::stdin().is_terminal() => return prompt::run(global, args, out),
        (None, _) => {
            let mut sql = String::new();
            let read = std::io::stdin().read_to_string(&mut sql);
            read.map_err(|error| Failure::io("standard input", &error))?;
            sql
        }
    };
    let format = args.format(out);
    if matches!(format, Format::Parquet | Format::Arrow) && Output::is_terminal() {
        return Err(Failure::usage("a terminal cannot show this format; redirect the output to a file"));
    }
    if matches!(format, Format::Parquet | Format::Arrow) {
        return format::print_batches(args.batches(global, &sql)?, format, out);
    }
    let result = args.ask(&global.connect()?, global, &sql)?;
    format::print(&result, format, out)
}

impl SqlArgs {
    fn format(&self, out: &Output) -> Format {
        let usual = if out.is_for_people() { Format::Table } else { Format::Ndjson };
        self.format.unwrap_or(usual)
    }

    /// The same dates, for a query of the prompt's own.
    fn of_dates(&self) -> Self {
        Self {
            sql: None,
            file: None,
            format: None,
            from: self.from,
            to: self.to,
            params: Vec::new(),
            max_rows: None,
            no_fresh: true,
        }
    }

    /// The parameters as a JSON array.
    fn params(&self) -> Option<String> {
        let json = |text: &String| match serde_json::from_str::<Value>(text) {
            Ok(_) => text.clone(),
            Err(_) => Value::from(text.as_str()).to_string(),
        };
        let params: Vec<_> = self.params.iter().map(json).collect();
        (!params.is_empty()).then(|| format!("[{}]", params.join(",")))
    }

    fn ask(&self, client: &blocking::Client, global: &Global, sql: &str) -> Outcome<QueryResult> {
        let params = self.params();
        let query = self.query(global, sql, params.as_deref(), ResultKind::Rows);
        Ok(client.request(&global.request(Op::Query(query)))?.get()?)
    }

    fn batches(&self, global: &Global, sql: &str) -> Outcome<Batches> {
        let params = self.params();
        let query = self.query(global, sql, params.as_deref(), ResultKind::Fd);
        Ok(global.connect()?.request_batches(&global.request(Op::Query(query)))?)
    }

    fn query<'a>(
        &self,
        global: &Global,
        sql: &'a str,
        params: Option<&'a str>,
        result: ResultKind,
    ) -> Query<'a> {
        Query {
            sql: sql.into(),
            params: params.and_then(|text| Scanner::new(text, 1_000).value().ok()),
            from: self.from,
            to: self.to,
            fresh: !self.no_fresh,
            max_rows: self.max_rows,
            timeout_ms: global.timeout_ms,
            result,
        }
    }
}
