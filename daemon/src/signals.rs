//! What signals tell the daemon: to stop, to read its configuration again, to say how it is.
//!
//! Invariant: SIGHUP changes all that the new configuration says, or nothing of it. Log files are reopened whatever
//! it says: whoever moved them counts on that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::{Handle, Signals};
use tokio::runtime;
use tokio::sync::watch;

use crate::config::{self, Overrides};
use crate::duck::Engine;
use crate::logging::{ASKED_FOR, Logging};
use crate::server::access::AccessTable;
use crate::server::{self, Server};
use crate::systemd::{self, Notifier};

/// Takes the signals from now on; what comes before somebody listens is kept.
///
/// # Errors
/// When the system does not allow it.
pub fn watch() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
}

/// From now on a write beyond the process's limit for file sizes is an error like that of a full disk. Left alone, the
/// system ends the process.
///
/// # Errors
/// When the system does not allow it.
pub fn survive_file_size_limit() -> io::Result<()> {
    // That somebody listens is enough; nobody looks at what was heard.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// How often what the end need not wait for is interrupted.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);

/// What SIGHUP reads again, and what it changes.
#[derive(Debug)]
pub struct Reloaded {
    /// Whose configuration it is.
    pub server: Arc<Server>,
    /// What the configuration was loaded with.
    pub overrides: Overrides,
    /// The log.
    pub logging: Logging,
    /// The service manager, which is told when it begins and when it is over.
    pub notifier: Notifier,
}

/// The thread that waits for signals.
#[derive(Debug)]
pub struct Listener {
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Listener {
    /// Begins to listen. `stop` is told once; told twice, `engine` ends early what it can. Must be called inside the
    /// runtime.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn spawn(
        mut signals: Signals,
        stop: watch::Sender<bool>,
        engine: Arc<Engine>,
        reloaded: Reloaded,
    ) -> io::Result<Self> {
        let handle = signals.handle();
        let runtime = runtime::Handle::current();
        let listen = move || {
            for signal in signals.forever() {
                match signal {
                    SIGTERM | SIGINT if *stop.borrow() => {
                        tracing::info!("told to stop a second time: no export and no backup any more");
                        hurry_until_the_end(&engine);
                    }
                    SIGTERM | SIGINT => {
                        tracing::info!("stopping");
                        reloaded.notifier.stopping();
                        // The server holds a receiver, so somebody always hears it.
                        let _ = stop.send(true);
                    }
                    SIGUSR1 => {
                        let server = Arc::clone(&reloaded.server);
                        // While the disk hangs the figures have to wait, and the next signal must not.
                        runtime.spawn_blocking(move || log_stats(&server));
                    }
                    _ => {
                        reloaded.notifier.reloading();
                        reloaded.reload();
                        reloaded.notifier.ready(&systemd::serving(&reloaded.server));
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(Self { handle, thread })
    }

    /// Listens no longer.
    pub fn close(self) {
        self.handle.close();
        let _ = self.thread.join();
    }
}

/// Interrupts again and again what the end need not wait for, until the process is gone.
fn hurry_until_the_end(engine: &Arc<Engine>) {
    engine.hurry();
    let engine = Arc::clone(engine);
    let interrupt = move || {
        loop {
            std::thread::sleep(INTERRUPT_INTERVAL);
            engine.hurry();
        }
    };
    // Without a thread what runs is interrupted once.
    let _ = std::thread::Builder::new().name("hurry".to_owned()).spawn(interrupt);
}

impl Reloaded {
    /// Reads the configuration again. Who may do what and the log's level change at once; everything else needs a
    /// restart, and when it differs, nothing changes at all.
    fn reload(&self) {
        // First, so that what follows is told in the new file.
        self.logging.reopen();
        let new = match config::load(&self.overrides) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "the configuration was read again and is wrong; the old one stays");
                return;
            }
        };
        let fixed = self.server.config.fixed_keys_changed(&new);
        if fixed.is_empty() {
            *self.server.access.write() = AccessTable::new(&new);
            self.logging.set_level(new.daemon.log_level());
            tracing::info!(target: ASKED_FOR, "the configuration was read again; access and log level are as it says now");
        } else {
            let keys = fixed.join(", ");
            tracing::error!(%keys, "the configuration was read again, but these cannot change while running; the old one stays");
        }
    }
}

fn log_stats(server: &Server) {
    let mut line = Vec::new();
    fastpersist_protocol::reply::begin_ok(&mut line, None);
    server::write_stats(server, &mut line);
    fastpersist_protocol::reply::end(&mut line);
    tracing::info!(target: ASKED_FOR, stats = %String::from_utf8_lossy(&line).trim_end(), "asked by a signal");
}
