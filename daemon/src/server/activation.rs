//! Socket activation: the service manager listens, and hands its socket to one daemon after the other.
//!
//! Between two daemons connections wait in the socket's queue, so that a restart refuses nobody.
//!
//! Invariant: a socket that was handed over stays whoever's it was. Its file, owner and mode are not touched,
//! and the end of the daemon takes nothing away.

use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use super::listener::BindError;

/// The socket that was handed over, where there is one.
///
/// To be called before there are threads: the variables that tell of it are taken out of the environment.
///
/// # Errors
/// [`BindError::HandedOver`] when what was handed over is anything but one listening Unix socket.
pub fn take() -> Result<Option<UnixListener>, BindError> {
    let refuse = |reason: String| Err(BindError::HandedOver { reason });
    let mut handed_over = ListenFd::from_env();
    match handed_over.len() {
        0 => return Ok(None),
        1 => {}
        count => return refuse(format!("{count} sockets, and the daemon takes one")),
    }
    let listener = match handed_over.take_unix_listener(0) {
        Ok(Some(listener)) => listener,
        Ok(None) => return refuse("nothing".to_owned()),
        Err(error) => return refuse(error.to_string()),
    };
    match rustix::net::sockopt::socket_acceptconn(&listener) {
        Ok(true) => Ok(Some(listener)),
        Ok(false) => refuse("a socket that does not listen; Accept=no is right".to_owned()),
        Err(error) => refuse(error.to_string()),
    }
}

/// The name of a listening socket, as the configuration would have it.
pub(super) fn name_of(listener: &UnixListener) -> String {
    use std::os::linux::net::SocketAddrExt as _;

    let Ok(address) = listener.local_addr() else { return "a socket without a name".to_owned() };
    if let Some(path) = address.as_pathname() {
        return path.display().to_string();
    }
    let name = address.as_abstract_name().map(String::from_utf8_lossy);
    name.map_or_else(|| "a socket without a name".to_owned(), |name| format!("@{name}"))
}
