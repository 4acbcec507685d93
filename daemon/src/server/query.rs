//! The operation `query`: its parameters in, its rows out, on one line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpersist_protocol::error::{ErrorCode, WireError};
use fastpersist_protocol::json::{Kind, Raw, Scanner};
use fastpersist_protocol::request::{Query, ResultKind};
use fastpersist_protocol::{json, reply};

use super::dispatch::{Answer, Ask, Dispatcher, check_field};
use super::pass::Pass;
use super::{Server, errors};
use crate::duck::query::{Cancelled, Parameter, Rows, RunError};
use crate::handover::Exhausted;
use crate::storage::querying::{Asked, Asker, QueryError};
use crate::storage::schema::Model;

impl Dispatcher<'_> {
    pub(super) async fn query(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        query: &Query<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let begun = Instant::now();
        let (_, storage) = self.allowed(ask)?;
        check_field(storage, Model::Dated, query.from.is_some(), "from")?;
        check_field(storage, Model::Dated, query.to.is_some(), "to")?;
        let asked = Asked {
            sql: query.sql.clone().into_owned(),
            parameters: parameters(query.params, self.server)?,
            from: query.from,
            to: query.to,
            fresh: query.fresh,
            max_rows: query.max_rows,
            timeout: query.timeout_ms.map(Duration::from_millis),
            hand_over: query.result == ResultKind::Fd,
        };
        pass.finish(out).await;
        self.release();
        let server = self.server;
        let wire = Arc::clone(&self.subscriptions.wire);
        let is_gone = Box::new(move || wire.is_gone());
        let client = Asker { uid: self.peer.uid, stopping: server.stopping.clone(), is_gone };
        let result = storage.query(&server.queries, asked, client).await;
        let mut rows = result.map_err(|error| of_query(&error))?;
        match rows.handover.take() {
            None => write_result(out, id, &rows, None, begun.elapsed()),
            Some(handover) => {
                let mut line = Vec::new();
                write_result(&mut line, id, &rows, Some(handover.bytes), begun.elapsed());
                self.subscriptions.wire.push_handover(out, &line, handover.fd);
            }
        }
        Ok(())
    }
}

/// `bytes` is the length of what is handed over in place of the rows.
fn write_result(out: &mut Vec<u8>, id: Option<&str>, rows: &Rows, bytes: Option<u64>, took: Duration) {
    reply::begin_ok(out, id);
    reply::field(out, "columns");
    rows.write_columns(out);
    if let Some(bytes) = bytes {
        reply::field(out, "result");
        json::write_string(out, "fd");
        reply::field(out, "bytes");
        json::write_u64(out, bytes);
    } else {
        reply::field(out, "rows");
        out.reserve(rows.json.len() + 128);
        out.push(b'[');
        out.extend_from_slice(&rows.json);
        out.push(b']');
    }
    reply::field(out, "row_count");
    json::write_u64(out, rows.count as u64);
    reply::field(out, "truncated");
    json::write_bool(out, rows.truncated);
    reply::field(out, "elapsed_ms");
    json::write_u64(out, took.as_millis() as u64);
    reply::end(out);
}

/// The parameters, by their JSON types.
fn parameters(params: Option<Raw<'_>>, server: &Server) -> Answer<Vec<Parameter>> {
    let Some(params) = params else { return Ok(Vec::new()) };
    let mut parameters = Vec::new();
    let mut scanner = Scanner::new(params.text, server.config.limits.max_json_depth);
    let read = scanner.array(|scanner| {
        parameters.push(parameter(&scanner.value()?));
        Ok(())
    });
    match read {
        Ok(_) => Ok(parameters),
        Err(error) => Err(WireError::field("params", format!("params cannot be read: {}", error.what))),
    }
}

fn parameter(raw: &Raw<'_>) -> Parameter {
    match raw.kind {
        Kind::Null => Parameter::Null,
        Kind::Bool => Parameter::Bool(raw.text == "true"),
        Kind::Number { .. } => None
            .or_else(|| raw.as_i64().map(Parameter::Int))
            .or_else(|| raw.as_u64().map(Parameter::UInt))
            .or_else(|| raw.text.parse().ok().map(Parameter::Huge))
            .or_else(|| raw.as_f64().map(Parameter::Double))
            .unwrap_or_else(|| Parameter::Text(raw.text.to_owned())),
        Kind::String { .. } | Kind::Array | Kind::Object => {
            Parameter::Text(raw.as_str().map_or_else(|| raw.text.to_owned(), Into::into))
        }
    }
}

fn of_query(error: &QueryError) -> WireError {
    let new = |code| WireError::new(code, error.to_string());
    match error {
        QueryError::Rejected(_) => new(ErrorCode::QueryRejected),
        QueryError::Run(RunError::Parameters { .. }) => WireError::field("params", error.to_string()),
        QueryError::Run(RunError::Failed(_) | RunError::Exhausted(Exhausted::Alone)) => {
            new(ErrorCode::QueryFailed)
        }
        QueryError::Run(RunError::Cancelled(why)) => of_cancelled(*why),
        QueryError::Run(RunError::Duck(error)) | QueryError::Duck(error) => {
            errors::internal("a query", error)
        }
        QueryError::Range { .. } | QueryError::TooManyDates { .. } => {
            WireError::field("from", error.to_string())
        }
        QueryError::Run(RunError::Exhausted(_)) | QueryError::Busy { .. } => new(ErrorCode::Busy),
        QueryError::Storage(error) => errors::of_storage(error),
        QueryError::Flush(flush) => WireError { message: error.to_string(), ..errors::of_flush(flush) },
        QueryError::Dates(error) | QueryError::Thread(error) => errors::internal("a query", error),
    }
}

fn of_cancelled(why: Cancelled) -> WireError {
    match why {
        Cancelled::Timeout => WireError::new(
            ErrorCode::Timeout,
            "the query took longer than it may; ask for less, or give a greater timeout_ms, up to limits.query_timeout_ms",
        ),
        Cancelled::Stopping => errors::shutting_down(),
        Cancelled::Preempted => {
            WireError::new(ErrorCode::Busy, "a date that the query reads is written to; try again")
        }
        // Nobody reads it.
        Cancelled::Unwanted => WireError::new(ErrorCode::QueryFailed, "whoever asked is gone"),
        Cancelled::Memory => WireError::new(
            ErrorCode::QueryFailed,
            "the query was ended because it took too much memory; ask for less",
        ),
    }
}
