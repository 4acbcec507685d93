//! Where the daemon listens, and how a connection to it is opened.
//!
//! Both clients open their connections here. On a Unix socket connecting never takes time by itself:
//! it works, fails, or finds the listener's queue full. Only the last is worth waiting for.

use std::convert::Infallible;
use std::env;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use interprocess::ConnectWaitMode;
use interprocess::local_socket::{
    ConnectOptions, GenericFilePath, GenericNamespaced, ToFsName as _, ToNsName as _,
};
use interprocess::os::unix::uds_local_socket::Stream;

use crate::error::Error;
use crate::options;

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "FASTPERSIST_SOCKET";
/// Where the daemon of the whole host listens.
const SYSTEM_SOCKET: &str = "/run/fastpersistd/fastpersistd.sock";
/// Where a user's own daemon listens, below the runtime or the state directory.
const USER_SOCKET: &str = "fastpersistd/fastpersistd.sock";

/// How long to wait before a full listener is tried again.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// A daemon's socket: a path, or `@name` in Linux's abstract namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Socket {
    /// A path in the file system.
    Path(PathBuf),
    /// A name in the abstract namespace, here without its `@`.
    Abstract(String),
}

impl Socket {
    /// The sockets at which a client looks when it is not told one: that of `FASTPERSIST_SOCKET` and no
    /// other where that is set; else `/run/fastpersistd/fastpersistd.sock`, then the user's own below
    /// `$XDG_RUNTIME_DIR` and below `$XDG_STATE_HOME` (or `~/.local/state`).
    pub fn candidates() -> Vec<Self> {
        candidates(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// One try, without waiting. [`io::ErrorKind::WouldBlock`] means that the listener's queue is full.
    fn try_open(&self) -> io::Result<UnixStream> {
        let name = match self {
            Self::Path(path) => path.as_path().to_fs_name::<GenericFilePath>()?,
            Self::Abstract(name) => name.as_str().to_ns_name::<GenericNamespaced>()?,
        };
        let stream: Stream = ConnectOptions::new()
            .name(name)
            .wait_mode(ConnectWaitMode::Deferred)
            .nonblocking_stream(true)
            .connect_sync_as()?;
        Ok(UnixStream::from(OwnedFd::from(stream)))
    }
}

/// Tries the sockets in their order and takes the first where somebody listens.
///
/// `Ok(None)` means that one was there but busy, and that trying again is worth while.
pub(crate) fn open_first(sockets: &[Socket]) -> Result<Option<(UnixStream, &Socket)>, Error> {
    let mut refusal: Option<io::Error> = None;
    for socket in sockets {
        match socket.try_open() {
            Ok(stream) => return Ok(Some((stream, socket))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // Of several failures the one that a person can do something about is told.
            Err(error) => match &refusal {
                Some(first) if first.kind() != io::ErrorKind::NotFound => {}
                _ => refusal = Some(error),
            },
        }
    }
    let refusal = refusal.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no socket is named"));
    Err(Error::connect(names(sockets), refusal))
}

/// Like [`open_first`], but waits while all that listen are busy, no longer than `limit` and than the options say.
/// The connection blocks.
pub(crate) fn open_blocking(
    options: &options::ConnectOptions,
    limit: Option<Duration>,
) -> Result<(UnixStream, Socket), Error> {
    let sockets = options.sockets();
    let deadline = Instant::now() + limit.unwrap_or(options.connect_timeout).min(options.connect_timeout);
    loop {
        match open_first(&sockets)? {
            Some((stream, socket)) => {
                stream.set_nonblocking(false).map_err(|error| Error::connect(socket, error))?;
                return Ok((stream, socket.clone()));
            }
            None if Instant::now() >= deadline => return Err(too_busy(&sockets)),
            None => thread::sleep(RETRY_PAUSE),
        }
    }
}

/// The error when the daemon did not take the connection in time.
pub(crate) fn too_busy(sockets: &[Socket]) -> Error {
    let why = "a daemon listens but does not take the connection";
    Error::connect(names(sockets), io::Error::new(io::ErrorKind::TimedOut, why))
}

fn names(sockets: &[Socket]) -> String {
    let names: Vec<_> = sockets.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn candidates(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<Socket> {
    if let Some(named) = variable(SOCKET_VARIABLE) {
        return vec![named.into()];
    }
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    let own = [variable("XDG_RUNTIME_DIR"), state].into_iter().flatten().map(|dir| dir.join(USER_SOCKET));
    std::iter::once(PathBuf::from(SYSTEM_SOCKET)).chain(own).map(Socket::Path).collect()
}

impl From<PathBuf> for Socket {
    fn from(path: PathBuf) -> Self {
        match path.to_str().and_then(|text| text.strip_prefix('@')) {
            Some(name) => Self::Abstract(name.to_owned()),
            None => Self::Path(path),
        }
    }
}

impl From<&Path> for Socket {
    fn from(path: &Path) -> Self {
        path.to_path_buf().into()
    }
}

impl From<&str> for Socket {
    fn from(text: &str) -> Self {
        PathBuf::from(text).into()
    }
}

impl From<String> for Socket {
    fn from(text: String) -> Self {
        PathBuf::from(text).into()
    }
}

impl FromStr for Socket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn found(variables: &[(&str, &str)]) -> Vec<String> {
        let look =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value));
        candidates(look).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_variable_is_the_only_candidate_where_it_is_set() {
        assert_eq!(found(&[(SOCKET_VARIABLE, "@mine"), ("HOME", "/home/a")]), ["@mine"]);
    }

    #[test]
    fn the_host_comes_before_the_user() {
        assert_eq!(
            found(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/7")]),
            [
                SYSTEM_SOCKET,
                "/run/user/7/fastpersistd/fastpersistd.sock",
                "/home/a/.local/state/fastpersistd/fastpersistd.sock"
            ]
        );
        assert_eq!(
            found(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/state")]),
            [SYSTEM_SOCKET, "/state/fastpersistd/fastpersistd.sock"]
        );
        assert_eq!(found(&[]), [SYSTEM_SOCKET]);
    }

    #[test]
    fn the_first_that_listens_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let sockets = [dir.path().join("absent.sock").into(), Socket::from(path.as_path())];
        let (_stream, socket) = open_first(&sockets).unwrap().unwrap();
        assert_eq!(socket, &sockets[1]);
        listener.accept().unwrap();
    }

    #[test]
    fn nobody_listening_is_told_with_every_name_that_was_tried() {
        let dir = tempfile::tempdir().unwrap();
        let stale = dir.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        let sockets = [stale.as_path().into(), dir.path().join("absent.sock").into()];
        let error = open_first(&sockets).unwrap_err();
        let Error::Connect { socket, source } = &error else { panic!("{error}") };
        assert!(socket.contains("stale.sock") && socket.contains("absent.sock"), "{socket}");
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    }
}
