//! Where the load goes.
//!
//! Invariant: a name that starts with `@` is in the abstract namespace, every other one is a path.

use std::convert::Infallible;
use std::fmt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::BenchError;

/// A Unix socket: a path in the file system, or `@name` in the abstract namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketName {
    /// A path in the file system.
    Path(PathBuf),
    /// A name in Linux's abstract namespace, here without its `@`.
    Abstract(String),
}

impl SocketName {
    /// Opens a blocking connection.
    ///
    /// # Errors
    /// [`BenchError::Connect`] when nobody listens, or the socket may not be opened.
    pub fn connect(&self) -> Result<UnixStream, BenchError> {
        match self {
            Self::Path(path) => UnixStream::connect(path),
            Self::Abstract(name) => {
                SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address))
            }
        }
        .map_err(|source| BenchError::Connect { socket: self.clone(), source })
    }
}

impl From<PathBuf> for SocketName {
    fn from(path: PathBuf) -> Self {
        match path.to_str().and_then(|text| text.strip_prefix('@')) {
            Some(name) => Self::Abstract(name.to_owned()),
            None => Self::Path(path),
        }
    }
}

impl FromStr for SocketName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(PathBuf::from(text).into())
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(formatter, "{}", path.display()),
            Self::Abstract(name) => write!(formatter, "@{name}"),
        }
    }
}

/// A storage of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The daemon's socket.
    pub socket: SocketName,
    /// The storage's name in the daemon's configuration.
    pub storage: String,
}
