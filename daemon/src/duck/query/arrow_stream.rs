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
    let mut writer = StreamWriter::try_new(sheet, &schema).map_err(|error| failure(&error, None))?;
    while let Some(chunk) = statement.step()? {
        if running.cancelled().is_some() {
            return Err(ended());
        }
        let wanted = max_rows - rows.count;
        rows.truncated = wanted < chunk.len();
        let batch = RecordBatch::from(chunk);
        let batch = if rows.truncated { batch.slice(0, wanted) } else { batch };
        let before = writer.get_ref().written();
        if batch.num_rows() > 0
            && let Err(error) = writer.write(&batch)
        {
            let exhausted = writer.get_ref().exhausted();
            if exhausted != Some(Exhausted::Alone) || rows.count == 0 {
                return Err(failure(&error, exhausted));
            }
            writer.get_mut().cut(before).map_err(|error| Failure::Other(error.to_string()))?;
            rows.truncated = true;
        } else {
            rows.count += batch.num_rows();
        }
        if rows.truncated {
            break;
        }
    }
    let sheet = writer.into_inner();
    let handover = sheet.map_err(|error| failure(&error, None))?.seal();
    rows.handover = Some(handover.map_err(|error| Failure::Other(error.to_string()))?);
    Ok(rows)
}

fn failure(error: &ArrowError, exhausted: Option<Exhausted>) -> Failure {
    match exhausted {
        Some(exhausted) => Failure::Exhausted(exhausted),
        None => Failure::Other(format!("the result cannot be written as Arrow: {error}")),
    }
}
