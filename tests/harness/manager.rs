//! The service manager's part: the socket at which a daemon says how it is.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{PATIENCE, Site};

/// The manager's end of `NOTIFY_SOCKET`.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    pub(crate) fn new(site: &Site) -> Self {
        let path = site.path("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the manager's socket");
        Self { socket, path }
    }

    /// The site's daemon, told where the manager listens.
    pub(crate) fn command(&self, site: &Site) -> Command {
        let mut command = site.command();
        command.env("NOTIFY_SOCKET", &self.path);
        command
    }

    /// The lines of the next message; `None` when none comes in time.
    pub(crate) fn next(&self, limit: Duration) -> Option<Vec<String>> {
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).expect("set a bound");
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
                assert!(text.ends_with('\n'), "{text:?}");
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("cannot receive: {e}"),
        }
    }

    /// All lines up to the message with one that begins like this, that message's included.
    pub(crate) fn until(&self, begin: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while let Some(message) = self.next(deadline.saturating_duration_since(Instant::now())) {
            let found = message.iter().any(|line| line.starts_with(begin));
            lines.extend(message);
            if found {
                return lines;
            }
        }
        panic!("waited {PATIENCE:?} in vain for {begin}; it said {lines:#?}");
    }

    /// All lines of messages that are there already, without waiting for more.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).flatten().collect()
    }

    /// Takes messages while this is done, as a manager does all the time: of ten that nobody takes the next one waits,
    /// and the daemon with it.
    pub(crate) fn while_taking<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Done<'d>(&'d AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.next(Duration::from_millis(20));
                }
            });
            let _done = Done(&done);
            work()
        })
    }

    /// Waits until nothing that begins like this has come for so long.
    pub(crate) fn until_silent(&self, begin: &str, span: Duration) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Instant::now();
        while let Some(message) = self.next((last + span).saturating_duration_since(Instant::now())) {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for silence");
            if message.iter().any(|line| line.starts_with(begin)) {
                last = Instant::now();
            }
        }
    }

    /// For so long nothing comes that begins like this.
    pub(crate) fn never(&self, begin: &str, span: Duration) {
        let deadline = Instant::now() + span;
        while let Some(message) = self.next(deadline.saturating_duration_since(Instant::now())) {
            assert!(!message.iter().any(|line| line.starts_with(begin)), "it should be silent: {message:?}");
        }
    }
}
