//! The rows of a query in the format that was asked for.

use std::io::Write as _;

use fastpersist_client::{Batches, QueryResult};
use parquet::arrow::ArrowWriter;
use serde_json::value::RawValue;

use super::Format;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::{Output, count, plain};

pub(super) fn print(result: &QueryResult, format: Format, out: &mut Output) -> Outcome {
    match format {
        Format::Table => table(result, out)?,
        Format::Csv => csv(result, out)?,
        Format::Ndjson => rows(result)?.iter().try_for_each(|row| out.line(object(result, row)))?,
        Format::Json => {
            let objects: Vec<_> = rows(result)?.iter().map(|row| object(result, row)).collect();
            out.line(format_args!("[{}]", objects.join(",\n")))?;
        }
        // Those come as memory; see `print_batches`.
        Format::Parquet | Format::Arrow => {}
    }
    if result.truncated && format != Format::Table {
        // Standard output holds rows and nothing else.
        tell_of_more(result.rows.len() as u64);
    }
    Ok(())
}

/// For files that hold much: the daemon hands the result over as it is.
pub(super) fn print_batches(mut batches: Batches, format: Format, out: &mut Output) -> Outcome {
    let (rows, truncated) = (batches.row_count(), batches.truncated());
    if format == Format::Arrow {
        out.copy(&mut batches.into_file()?)?;
    } else {
        let failed = |error| Failure::failed(format!("cannot write Parquet: {error}"));
        let mut writer = ArrowWriter::try_new(out.writer(), batches.schema(), None).map_err(failed)?;
        for batch in &mut batches {
            writer.write(&batch?).map_err(failed)?;
        }
        writer.close().map_err(failed)?;
    }
    if truncated {
        tell_of_more(rows);
    }
    Ok(())
}

/// Standard output holds rows and nothing else.
fn tell_of_more(rows: u64) {
    let _ = writeln!(std::io::stderr(), "fastpersist: there are more rows than these {rows}");
}

/// Each row's values, as they were sent.
pub(super) fn rows(result: &QueryResult) -> Outcome<Vec<Vec<&RawValue>>> {
    let rows = result.rows.iter().map(|row| serde_json::from_str(row.get()));
    let rows: Result<_, serde_json::Error> = rows.collect();
    rows.map_err(|error| Failure::failed(format!("a row cannot be read: {error}")))
}

fn object(result: &QueryResult, row: &[&RawValue]) -> String {
    let fields = result.columns.iter().zip(row);
    let fields = fields
        .map(|(column, value)| format!("{}:{}", serde_json::Value::from(column.name.as_str()), value.get()));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn table(result: &QueryResult, out: &mut Output) -> Outcome {
    let names: Vec<&str> = result.columns.iter().map(|column| column.name.as_str()).collect();
    let cell = |value: &&RawValue| if value.get() == "null" { String::new() } else { plain(value.get()) };
    let rows = rows(result)?.into_iter().map(|row| row.iter().map(cell).collect());
    out.table(&names, rows)?;
    let more = if result.truncated { ", and there are more" } else { "" };
    out.line(format_args!("{}{more}, {} ms", count(result.rows.len() as u64, "row"), result.elapsed_ms))
}

/// As spreadsheets read it: null is empty, and whatever is no plain value is its JSON text.
fn csv(result: &QueryResult, out: &mut Output) -> Outcome {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |error: csv::Error| Failure::failed(format!("cannot write CSV: {error}"));
    writer.write_record(result.columns.iter().map(|column| &column.name)).map_err(failed)?;
    for row in rows(result)? {
        let cells =
            row.iter().map(|value| if value.get() == "null" { String::new() } else { plain(value.get()) });
        writer.write_record(cells).map_err(failed)?;
    }
    let text = writer.into_inner().map_err(|error| Failure::failed(error.to_string()))?;
    out.bytes(&text)
}
