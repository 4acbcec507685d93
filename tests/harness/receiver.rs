//! Answers that come with descriptors.

use std::{io::IoSliceMut, mem::MaybeUninit, os::fd::OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::Value;

use super::Conn;

/// Answers with descriptors, read one byte-stream piece at a time.
pub(crate) struct Receiver<'c> {
    conn: &'c mut Conn,
    bytes: Vec<u8>,
    pub(crate) memory: Vec<OwnedFd>,
}

impl<'c> Receiver<'c> {
    pub(crate) fn new(conn: &'c mut Conn) -> Self {
        Self { conn, bytes: Vec::new(), memory: Vec::new() }
    }

    /// The next answer; the descriptors that came so far are in `memory`, in their order.
    pub(crate) fn answer(&mut self) -> Value {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return serde_json::from_slice(&line).expect("one line of JSON");
            }
            let mut chunk = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut chunk)];
            let stream = self.conn.stream();
            let received = rustix::net::recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
            let count = received.expect("an answer in time").bytes;
            assert_ne!(count, 0, "the daemon closed the connection");
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.memory.extend(fds);
                }
            }
            self.bytes.extend_from_slice(&chunk[..count]);
        }
    }
}
