//! A query's result as Arrow record batches, taken over as memory instead of being sent.
//!
//! The daemon writes the result into memory, seals it, and passes a descriptor of it over the socket with the
//! first byte of its answer. Such a query has a connection of its own, so that no other answer's reader has to
//! look for descriptors.
//!
//! Invariant: a result is whole or an error; a descriptor that was lost on the way is told.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::client::open;
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::reply;
use crate::socket::open_blocking;
use crate::storage::QueryColumn;

/// How much of an answer is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// What the daemon says of the result beside the result.
#[derive(Debug, Deserialize)]
struct Head {
    columns: Vec<QueryColumn>,
    bytes: u64,
    row_count: u64,
    truncated: bool,
    elapsed_ms: u64,
}

/// The record batches of a query, one after the other.
///
/// The memory belongs to the daemon's service until this is dropped, and counts to what it lets all clients
/// hold (`limits.max_handed_over_bytes`).
pub struct Batches {
    head: Head,
    memory: OwnedFd,
    reader: StreamReader<BufReader<File>>,
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Batches {
    /// The columns with their types, as DuckDB calls them.
    pub fn columns(&self) -> &[QueryColumn] {
        &self.head.columns
    }

    /// The columns with their types in Arrow.
    pub fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }

    /// How many rows there are in all batches.
    pub fn row_count(&self) -> u64 {
        self.head.row_count
    }

    /// How long the stream is.
    pub fn bytes(&self) -> u64 {
        self.head.bytes
    }

    /// Whether there were more rows than were asked for or may be handed over.
    pub fn truncated(&self) -> bool {
        self.head.truncated
    }

    /// How long the daemon took.
    pub fn elapsed_ms(&self) -> u64 {
        self.head.elapsed_ms
    }

    /// The whole stream as a file in memory, from its beginning, to copy it or to hand it to somebody else. It can
    /// be mapped: it is sealed.
    ///
    /// # Errors
    /// [`Error::Data`] when the system gives no further descriptor.
    pub fn into_file(self) -> Result<File, Error> {
        let mut file = File::from(self.memory);
        io::Seek::rewind(&mut file).map_err(|error| unreadable(&error))?;
        Ok(file)
    }

    fn new(line: &[u8], memory: Option<OwnedFd>) -> Result<Self, Error> {
        let head: Head = reply::decode(line)?;
        let memory = memory.ok_or_else(|| {
            Error::Data(
                "the result was lost on its way: this process has as many files open as it may".to_owned(),
            )
        })?;
        let file = memory.try_clone().map_err(|error| unreadable(&error))?;
        let reader = StreamReader::try_new(BufReader::new(File::from(file)), None);
        Ok(Self { head, memory, reader: reader.map_err(|error| unreadable(&error))? })
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.reader.next()?.map_err(|error| unreadable(&error)))
    }
}

fn unreadable(error: &dyn fmt::Display) -> Error {
    Error::Data(format!("the result cannot be read: {error}"))
}

/// An answer that comes with a descriptor.
struct Receiving {
    line: Vec<u8>,
    memory: Option<OwnedFd>,
    max_bytes: usize,
}

impl Receiving {
    fn new(options: &ConnectOptions) -> Self {
        Self { line: Vec::new(), memory: None, max_bytes: options.max_reply_bytes }
    }

    /// Takes what there is; answers whether the line is whole.
    fn receive(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut chunk = [0; CHUNK_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut chunk)];
        let received = rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                self.memory = fds.next().or(self.memory.take());
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            self.memory = None;
        }
        if received.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed it"));
        }
        self.line.extend_from_slice(&chunk[..received.bytes]);
        if self.line.len() > self.max_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is longer than max_reply_bytes",
            ));
        }
        Ok(self.line.ends_with(b"\n"))
    }

    fn finish(self) -> Result<Batches, Error> {
        Batches::new(self.line.trim_ascii_end(), self.memory)
    }
}

/// Asks over a connection of its own.
pub(crate) async fn fetch(options: &ConnectOptions, line: &[u8]) -> Result<Batches, Error> {
    let (stream, _) = open(options).await?;
    let mut stream = UnixStream::from_std(stream).map_err(Error::disconnected)?;
    // A daemon that refuses the connection says why before it hangs up.
    let sent = stream.write_all(line).await;
    let mut receiving = Receiving::new(options);
    loop {
        stream.readable().await.map_err(Error::disconnected)?;
        match stream.try_io(Interest::READABLE, || receiving.receive(&stream)) {
            Ok(true) => return receiving.finish(),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Error::disconnected(sent.err().unwrap_or(error))),
        }
    }
}

/// Like [`fetch`], for a program without a runtime.
pub(crate) fn fetch_blocking(options: &ConnectOptions, line: &[u8]) -> Result<Batches, Error> {
    let (mut stream, _): (StdUnixStream, _) = open_blocking(options, None)?;
    let sent = stream.write_all(line);
    let mut receiving = Receiving::new(options);
    loop {
        match receiving.receive(&stream) {
            Ok(true) => return receiving.finish(),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::disconnected(sent.err().unwrap_or(error))),
        }
    }
}
