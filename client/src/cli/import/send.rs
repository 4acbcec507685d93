//! One batch on its way into the storage, with the records taken out that the daemon refuses.

use std::thread;
use std::time::Duration;

use fastpersist_client::protocol::request::parse;
use fastpersist_client::{BatchOutcome, Error, ErrorCode, blocking};
use serde_json::Value;

use super::reader::{Batch, Op};
use crate::cli::failure::reason;

/// How often a daemon that is busy is asked again, and after which pauses.
const RETRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Where the records go.
pub(super) struct Sender {
    pub(super) client: blocking::Client,
    pub(super) storage: String,
}

/// What became of records.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) stored: u64,
    /// Those that the storage has as new or newer.
    pub(super) kept: u64,
    pub(super) warnings: u64,
    /// What could not be read or stored, counted.
    pub(super) problems: u64,
    /// Those that the daemon refused.
    pub(super) refused: Vec<Value>,
}

impl Sender {
    /// Stores a batch; the error is one that no later batch would escape.
    pub(super) fn send(&self, batch: Batch) -> Result<Sent, Error> {
        let mut sent = Sent::default();
        // Pieces that are still to be stored, the next one last.
        let mut pieces = vec![batch];
        while let Some(mut piece) = pieces.pop() {
            match self.ask(&piece) {
                Ok(outcome) => {
                    let stored = outcome.seqs.iter().flatten().count() as u64;
                    sent.stored += stored;
                    sent.kept += outcome.seqs.len() as u64 - stored;
                    sent.warnings += outcome.warnings.len() as u64;
                }
                Err(error) if !concerns_one_record(&error) => return Err(error),
                Err(error) if piece.ops.len() == 1 => {
                    sent.refused.push(piece.problem(piece.ops[0].number, &reason(&error)));
                }
                Err(error) => {
                    // Where one is bad, its neighbours often are: halves find them all at little cost.
                    let culprit = culprit(&error).filter(|index| *index < piece.ops.len());
                    let half = culprit.filter(|index| *index > 0).unwrap_or(piece.ops.len().div_ceil(2));
                    let rest: Vec<Op> = piece.ops.split_off(half.max(1));
                    pieces.push(piece.beside(rest));
                    pieces.push(piece);
                }
            }
        }
        Ok(sent)
    }

    fn ask(&self, batch: &Batch) -> Result<BatchOutcome, Error> {
        let line = batch.line();
        let limits = super::reader::LIMITS;
        let mut request =
            parse(line.as_bytes(), limits).request.map_err(|error| Error::Data(error.message))?;
        request.storage = Some(self.storage.as_str().into());
        let mut pause = FIRST_PAUSE;
        for _ in 0..RETRIES {
            match self.client.request(&request) {
                Err(error) if error.code() == Some(ErrorCode::Busy) => {
                    thread::sleep(pause);
                    pause *= 2;
                }
                answered => return answered?.get(),
            }
        }
        self.client.request(&request)?.get()
    }
}

/// Whether the other records of the batch may still be stored.
fn concerns_one_record(error: &Error) -> bool {
    matches!(error.code(), Some(ErrorCode::BadRequest | ErrorCode::BadJson | ErrorCode::LineTooLong))
}

/// The record that was refused, where that is known.
fn culprit(error: &Error) -> Option<usize> {
    let Error::Daemon(error) = error else { return None };
    error.index.map(|index| index as usize)
}
