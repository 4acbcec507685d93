//! The seam between what an operation says and how it travels.
//!
//! Each operation is written once, as a [`Call`]: the request line, and how to read its reply. The two
//! clients differ only in how they carry a call, so whatever one can do, the other can.

use std::borrow::Cow;

use fastpersist_protocol::request::{Op, Query, Request, ResultKind, StatsFormat};
use fastpersist_protocol::time::Date;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::outcome::{BackupInfo, Backups, Flushed, Info};
use crate::reply::{self, Reply};
use crate::resend::Delivery;

/// A request that is ready to be sent, and how to read its reply.
#[derive(Debug)]
pub struct Call<T> {
    /// The line with its newline, or why the request could not be built.
    pub(crate) line: Result<Vec<u8>, Error>,
    pub(crate) decode: fn(&[u8]) -> Result<T, Error>,
    /// Whether `request_timeout` applies.
    pub(crate) bounded: bool,
    /// How often it may be sent.
    pub(crate) delivery: Delivery,
}

impl<T: DeserializeOwned> Call<T> {
    /// A call whose reply is read by its fields.
    pub(crate) fn new(request: &Request<'_>) -> Self {
        Self::with(request, reply::decode::<T>)
    }
}

impl<T> Call<T> {
    pub(crate) fn with(request: &Request<'_>, decode: fn(&[u8]) -> Result<T, Error>) -> Self {
        let mut line = Vec::with_capacity(256);
        request.write_line(None, &mut line);
        Self { line: Ok(line), decode, bounded: true, delivery: Delivery::Once }
    }

    pub(crate) fn failed(error: Error, decode: fn(&[u8]) -> Result<T, Error>) -> Self {
        Self { line: Err(error), decode, bounded: true, delivery: Delivery::Once }
    }

    /// For writes, which may be sent again: the daemon recognises a repetition by its number.
    pub(crate) fn resent(mut self, is_numbered: bool, is_conditional: bool) -> Self {
        self.delivery = match (is_numbered, is_conditional) {
            (true, _) => Delivery::Numbered,
            (false, true) => Delivery::NumberAlone,
            (false, false) => Delivery::Number,
        };
        self
    }

    /// For operations whose time grows with the data.
    pub(crate) fn unbounded(mut self) -> Self {
        self.bounded = false;
        self
    }
}

/// A client that carries requests: [`Client`](crate::Client) or
/// [`blocking::Client`](crate::blocking::Client).
///
/// Handles and builders are the same for both. What their methods return is an `Answer<T>`: for the
/// async client a future of `Result<T, Error>`, for the blocking client `Result<T, Error>` itself.
///
/// Every answer may be one of these errors, beside those that a method names:
/// [`Error::Daemon`] with the daemon's code, [`Error::Connect`] and [`Error::Disconnected`] when it is
/// not there, [`Error::Timeout`], and [`Error::Protocol`] when its answer cannot be understood.
pub trait Caller: Clone + sealed::Sealed {
    /// How this client gives answers.
    type Answer<T: Send + 'static>;

    #[doc(hidden)]
    fn call<T: Send + 'static>(&self, call: Call<T>) -> Self::Answer<T>;

    #[doc(hidden)]
    fn call_each<T: Send + 'static>(&self, calls: Vec<Call<T>>) -> Self::Answer<Vec<Result<T, Error>>>;

    #[cfg(feature = "arrow")]
    #[doc(hidden)]
    fn hand_over(&self, line: Result<Vec<u8>, Error>) -> Self::Answer<crate::Batches>;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

pub(crate) fn on<'a>(storage: &'a str, op: Op<'a>) -> Request<'a> {
    Request { storage: Some(Cow::Borrowed(storage)), op }
}

pub(crate) fn ping() -> Call<()> {
    Call::with(&Request { storage: None, op: Op::Ping }, reply::check)
}

pub(crate) fn info() -> Call<Info> {
    Call::new(&Request { storage: None, op: Op::Info })
}

pub(crate) fn stats() -> Call<serde_json::Value> {
    Call::new(&Request { storage: None, op: Op::Stats { format: StatsFormat::Json } })
}

pub(crate) fn flush(storage: Option<&str>) -> Call<u64> {
    let request = Request { storage: storage.map(Cow::Borrowed), op: Op::Flush };
    Call::with(&request, |line| Ok(reply::decode::<Flushed>(line)?.flushed)).unbounded()
}

pub(crate) fn backup(storage: &str, date: Option<Date>) -> Call<Vec<BackupInfo>> {
    Call::with(&on(storage, Op::Backup { date }), |line| Ok(reply::decode::<Backups>(line)?.backups))
        .unbounded()
}

pub(crate) fn list_backups(storage: &str) -> Call<Vec<BackupInfo>> {
    Call::with(&on(storage, Op::ListBackups), |line| Ok(reply::decode::<Backups>(line)?.backups))
}

pub(crate) fn verify_backup(storage: &str, backup: &str) -> Call<BackupInfo> {
    Call::new(&on(storage, Op::VerifyBackup { backup: Cow::Borrowed(backup) })).unbounded()
}

pub(crate) fn request(request: &Request<'_>) -> Call<Reply> {
    let call = Call::with(request, reply::whole);
    match request.op {
        Op::Query(Query { result: ResultKind::Fd, .. }) => {
            let reason = "the result comes as a descriptor; `request_batches` and `Query::batches` take it";
            Call::failed(Error::Data(reason.to_owned()), reply::whole)
        }
        Op::Flush
        | Op::ExportParquet { .. }
        | Op::Backup { .. }
        | Op::VerifyBackup { .. }
        | Op::CheckHealth { .. }
        | Op::RebuildHistoryFromWal { .. }
        | Op::RebuildLatestFromHistory
        | Op::Query(_) => call.unbounded(),
        Op::Subscribe { .. } | Op::Unsubscribe { .. } => {
            let reason = "events have no place among the answers; the client's method `subscribe` has a connection for them";
            Call::failed(Error::Data(reason.to_owned()), reply::whole)
        }
        _ => call,
    }
}
