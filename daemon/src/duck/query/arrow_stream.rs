//! A result as an Arrow IPC stream, for a client that takes it over as memory.
//!
//! Chunks go from DuckDB into the stream as they are, so a result costs one copy, whatever its rows are like.
//!
//! Invariant: what is handed over is a whole stream: of a result that is cut, every batch before the cut.

use arrow::array::{Array as _, RecordBatch};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use duckdb::Statement;

use super::types::Shape;
use super::{Failure, Rows, Running, ended};
use crate::handover::{Exhausted, Sheet};

pub(super) fn fetch(
    statement: &Statement<'_>,
    shapes: &[Shape],
    mut rows: Rows,
    max_rows: usize,
    sheet: Sheet,
    running: &Running,
) -> Result<Rows, Failure> {
    for (column, shape) in rows.columns.iter().zip(shapes) {
        if let Some(kind) = shape.without_arrow_type() {
            let name = &column.name;
            return Err(Failure::Other(format!(
                "Arrow has no type for the {kind} in column {name:?}; cast it, to VARCHAR for example"
            )));
        }
    }
    let schema = statement.schema();
    let mut writer = StreamWriter::try_new(sheet, &schema).map_err(|error| failure(&error))?;
    // Where the last batch begins, and its rows.
    let mut last = (0, 0);
    while let Some(chunk) = statement.step()? {
        if running.cancelled().is_some() {
            return Err(ended());
        }
        let wanted = max_rows - rows.count;
        rows.truncated = wanted < chunk.len();
        let batch = RecordBatch::from(chunk);
        let batch = if rows.truncated { batch.slice(0, wanted) } else { batch };
        if batch.num_rows() > 0 {
            let before = writer.get_ref().written();
            match writer.write(&batch) {
                Ok(()) => {
                    rows.count += batch.num_rows();
                    last = (before, batch.num_rows());
                }
                Err(error) => cut(&mut writer, &mut rows, &error, (before, 0))?,
            }
        }
        if rows.truncated {
            break;
        }
    }
    if let Err(error) = writer.finish() {
        // Everything fitted but the end.
        cut(&mut writer, &mut rows, &error, last)?;
        writer.finish().map_err(|error| failure(&error))?;
    }
    let handover = writer.into_inner().map_err(|error| failure(&error))?.seal();
    rows.handover = Some(handover.map_err(|error| Failure::Other(error.to_string()))?);
    Ok(rows)
}

/// Cuts a result that alone is too large: at `from`, where `gone` of the rows that are counted begin.
fn cut(
    writer: &mut StreamWriter<Sheet>,
    rows: &mut Rows,
    error: &ArrowError,
    (from, gone): (u64, usize),
) -> Result<(), Failure> {
    if exhausted(error) != Some(Exhausted::Alone) || rows.count == gone {
        return Err(failure(error));
    }
    writer.get_mut().cut(from).map_err(|error| Failure::Other(error.to_string()))?;
    rows.count -= gone;
    rows.truncated = true;
    Ok(())
}

/// Why there is no room, where it is that which failed.
fn exhausted(error: &ArrowError) -> Option<Exhausted> {
    let ArrowError::IoError(_, source) = error else { return None };
    source.get_ref()?.downcast_ref().copied()
}

fn failure(error: &ArrowError) -> Failure {
    match exhausted(error) {
        Some(exhausted) => Failure::Exhausted(exhausted),
        None => Failure::Other(format!("the result cannot be written as Arrow: {error}")),
    }
}
