//! The socket: bound once, its name freed at the end, connections counted and limited.
//!
//! Invariant: a socket file that another living daemon listens on is never taken away from it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastpersist_protocol::error::{ErrorCode, WireError};
use fastpersist_protocol::reply;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{
    GenericFilePath, GenericNamespaced, ListenerOptions, Name, ToFsName as _, ToNsName as _,
};
use interprocess::os::unix::uds_local_socket::tokio::Listener as UnixSocketListener;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Server;
use super::access::Peer;
use super::activation;
use super::connection::Connection;
use super::unit;
use crate::config::DaemonConfig;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("{socket} is in use: another daemon answers there; stop it, or choose another daemon.socket")]
    InUse {
        /// The socket.
        socket: String,
    },
    /// The path is something else.
    #[error("{socket} exists and is no socket; remove it, or choose another daemon.socket")]
    NotASocket {
        /// The path.
        socket: String,
    },
    /// What the service manager handed over is of no use.
    #[error(
        "the service manager handed over {reason}; mend the .socket unit, or start the daemon without one"
    )]
    HandedOver {
        /// What it was.
        reason: String,
    },
    /// The system says no.
    #[error("cannot listen on {socket}: {source}")]
    Io {
        /// The socket.
        socket: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that listens, bound here or handed over.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
    /// Its file, where that is ours to remove.
    path: Option<PathBuf>,
    name: String,
}

impl Socket {
    /// Listens on the socket that was handed over, else on the configured one, which is bound; must run inside the
    /// runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn open(config: &DaemonConfig, handed_over: Option<UnixListener>) -> Result<Self, BindError> {
        handed_over.map_or_else(|| Self::bind(config), |listener| Self::adopt(listener, &config.socket))
    }

    /// The socket that was handed over wins: whoever handed it over has told clients about it.
    fn adopt(listener: UnixListener, configured: &str) -> Result<Self, BindError> {
        let name = activation::name_of(&listener);
        if name != configured {
            tracing::info!(socket = %name, configured, "daemon.socket is not used: the service manager handed over another socket");
        }
        match UnixSocketListener::try_from(OwnedFd::from(listener)) {
            Ok(listener) => Ok(Self { listener: Listener::UdSocket(listener), path: None, name }),
            Err(source) => Err(BindError::Io { socket: name, source }),
        }
    }

    /// Binds the configured socket; must run inside the runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    fn bind(config: &DaemonConfig) -> Result<Self, BindError> {
        let socket = config.socket.clone();
        let io_error = |source| BindError::Io { socket: config.socket.clone(), source };
        if let Some(abstract_name) = socket.strip_prefix('@') {
            let name = abstract_name.to_ns_name::<GenericNamespaced>().map_err(io_error)?;
            let listener = listen(name).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { socket: socket.clone() },
                _ => io_error(error),
            })?;
            return Ok(Self { listener, path: None, name: socket });
        }
        let path = PathBuf::from(&socket);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists());
        if let Some(parent) = parent {
            // Who may connect is for the socket's own mode to say.
            std::fs::create_dir_all(parent).map_err(io_error)?;
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(parent, open).map_err(io_error)?;
        }
        free_stale(&path, &socket)?;
        let name = path.as_path().to_fs_name::<GenericFilePath>().map_err(io_error)?;
        // Nobody can connect before the permissions are set: the mask leaves them to the owner.
        let listener = {
            let _mask = Umask::owner_only();
            listen(name).map_err(io_error)?
        };
        if let Some(group) = config.socket_group.as_deref().and_then(uzers::get_group_by_name) {
            std::os::unix::fs::chown(&path, None, Some(group.gid())).map_err(io_error)?;
        }
        let permissions = std::fs::Permissions::from_mode(config.socket_mode);
        std::fs::set_permissions(&path, permissions).map_err(io_error)?;
        Ok(Self { listener, path: Some(path), name: socket })
    }

    /// The socket as a configuration names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Accepts connections until the daemon stops, then waits until all are drained.
    pub async fn serve(self, server: &Arc<Server>, mut stopping: watch::Receiver<bool>) {
        if server.config.records_writers() {
            unit::warn_where_hidden();
        }
        let mut connections = JoinSet::new();
        let by_uid = Arc::new(Mutex::new(HashMap::new()));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok(stream) => admit(stream, server, &by_uid, &mut connections),
                Err(error) => {
                    // Out of file descriptors, mostly: others have to go first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

fn listen(name: Name<'_>) -> io::Result<Listener> {
    ListenerOptions::new().name(name).reclaim_name(false).create_tokio()
}

/// Removes a socket file that nobody listens on any more.
fn free_stale(path: &Path, socket: &str) -> Result<(), BindError> {
    let io_error = |source| BindError::Io { socket: socket.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(io_error)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket { socket: socket.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io_error)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(BindError::InUse { socket: socket.to_owned() }),
        Err(error) => Err(io_error(error)),
    }
}

/// The process's file mode mask, set for a moment.
struct Umask(rustix::fs::Mode);

impl Umask {
    fn owner_only() -> Self {
        Self(rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.0);
    }
}

type ByUid = Arc<Mutex<HashMap<u32, usize>>>;

/// Counts a connection in, or turns it away, and serves it on a task of its own.
fn admit(stream: Stream, server: &Arc<Server>, by_uid: &ByUid, connections: &mut JoinSet<()>) {
    let Stream::UdSocket(stream) = stream;
    let stream = UnixStream::from(stream);
    let mut peer = match stream.peer_cred() {
        Ok(credentials) => Peer::new(credentials.uid(), credentials.gid(), credentials.pid()),
        Err(error) => {
            tracing::warn!(%error, "the system does not tell who connects; the connection is refused");
            return;
        }
    };
    let limits = &server.config.limits;
    let uid = peer.uid;
    let refusal = {
        let mut by_uid = by_uid.lock();
        let own = by_uid.entry(uid).or_insert(0);
        if server.stats.connections.load(Ordering::Relaxed) >= limits.max_connections {
            Some(format!(
                "{} connections are open, limits.max_connections allows no more",
                limits.max_connections
            ))
        } else if *own >= limits.max_connections_per_uid {
            let max = limits.max_connections_per_uid;
            Some(format!("uid {uid} has {max} connections, limits.max_connections_per_uid allows no more"))
        } else {
            *own += 1;
            server.stats.connections.fetch_add(1, Ordering::Relaxed);
            None
        }
    };
    server.stats.connections_total.fetch_add(1, Ordering::Relaxed);
    if let Some(message) = refusal {
        server.stats.requests.note_error(None, ErrorCode::TooManyConnections);
        connections.spawn(turn_away(stream, message));
        return;
    }
    if server.config.records_writers() {
        peer.look_up_unit();
    }
    let counted = Counted { server: Arc::clone(server), by_uid: Arc::clone(by_uid), uid };
    let connection = Connection::new(stream, peer, Arc::clone(server));
    connections.spawn(async move {
        let _counted = counted;
        connection.serve().await;
    });
}

async fn turn_away(mut stream: UnixStream, message: String) {
    let mut line = Vec::new();
    reply::error(&mut line, None, &WireError::new(ErrorCode::TooManyConnections, message));
    // A client that does not even take this line gets no second one.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&line)).await;
}

/// A connection that counts as long as it lives.
struct Counted {
    server: Arc<Server>,
    by_uid: ByUid,
    uid: u32,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.server.stats.connections.fetch_sub(1, Ordering::Relaxed);
        let mut by_uid = self.by_uid.lock();
        if let Some(count) = by_uid.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                by_uid.remove(&self.uid);
            }
        }
    }
}
