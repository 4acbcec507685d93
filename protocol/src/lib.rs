//! The language that `fastpersistd` and its clients speak: requests, replies and line framing.
//!
//! This crate exists so that the daemon and the client cannot disagree. It does no I/O and knows no
//! storage: text goes in, typed requests come out, and the other way round. `PROTOCOL.md` beside this
//! crate tells the same for people who speak it by hand.
//!
//! Invariant: whatever [`request::parse()`] lets through is valid JSON, within the limits it was given,
//! and its names have lawful lengths; later stages need not check that again.

pub mod error;
pub mod frame;
pub mod json;
pub mod reply;
pub mod request;
pub mod time;
pub mod value;

/// The protocol version that `info` tells.
pub const PROTOCOL_VERSION: u32 = 1;
/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;
/// The longest of the other names (process, collection, item, user, storage), in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;
