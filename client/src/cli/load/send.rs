//! One chunk on its way into the storage, with the records taken out that the daemon refuses.
//!
//! Invariant: a record is counted as stored only after the daemon answered the batch that it was in.

use std::time::Duration;

use fastpersist_client::protocol::request::{Durability, Op, Placed, Request, Write};
use fastpersist_client::{Client, Date, Error, ErrorCode};

use super::item::Item;
use crate::cli::failure::reason;

/// How often a daemon that is busy is asked again, and after which pauses.
const RETRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Where the records go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) storage: String,
    /// For records that have no date of their own.
    pub(crate) date: Option<Date>,
}

/// What became of a chunk's records.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) stored: u64,
    /// The lines that the daemon refused, and why.
    pub(crate) refused: Vec<(u64, String)>,
}

impl Target {
    /// Stores the items; the error is one that no later chunk would escape.
    pub(crate) async fn send(&self, items: Vec<Item>) -> Result<Sent, Error> {
        let mut sent = Sent::default();
        // Pieces that are still to be stored, the next one last.
        let mut pieces = vec![items];
        while let Some(mut piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            match self.store(&piece).await {
                Ok(()) => sent.stored += piece.len() as u64,
                Err(error) if !concerns_one_record(&error) => return Err(error),
                Err(error) => {
                    if let Some(index) = culprit(&error, piece.len()) {
                        let item = piece.remove(index);
                        sent.refused.push((item.line, reason(&error)));
                        pieces.push(piece);
                    } else {
                        let second = piece.split_off(piece.len() / 2);
                        pieces.push(second);
                        pieces.push(piece);
                    }
                }
            }
        }
        Ok(sent)
    }

    async fn store(&self, items: &[Item]) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..RETRIES {
            match self.client.request(&self.request(items)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.code().is_some_and(|code| code == ErrorCode::Busy) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        self.client.request(&self.request(items)).await.map(drop)
    }

    fn request<'i>(&'i self, items: &'i [Item]) -> Request<'i> {
        let date = items.first().and_then(|item| item.date).or(self.date);
        let durability = Durability::Sync;
        let op = match items {
            // By itself it has the whole line for itself, and two levels more for its data.
            [item] => Op::Store(Placed { date, durability, producer: None, write: item.as_store() }),
            items => {
                let write = items.iter().map(|item| Write::Store(item.as_store())).collect();
                Op::Batch(Placed { date, durability, producer: None, write })
            }
        };
        Request { storage: Some(self.storage.as_str().into()), op }
    }
}

/// Whether the other records of the batch may still be stored.
fn concerns_one_record(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::BadRequest | ErrorCode::BadJson | ErrorCode::LineTooLong | ErrorCode::Conflict)
    )
}

/// The record that was refused, where that is known.
fn culprit(error: &Error, count: usize) -> Option<usize> {
    let Error::Daemon(error) = error else { return None };
    let named = error.index.map(|index| index as usize).filter(|index| *index < count);
    if count == 1 { Some(0) } else { named }
}
