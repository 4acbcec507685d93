//! What the service manager is told: ready, status, more time, and that commits can still be made.
//!
//! Without `NOTIFY_SOCKET` nobody asks, and nothing here does anything. What is said and when:
//!
//! | message | when |
//! |---|---|
//! | `READY=1` | every storage is recovered and the socket is bound |
//! | `STATUS=` | for people: what the daemon does right now |
//! | `WATCHDOG=1` | every third of `WATCHDOG_USEC`, while commits can be made |
//! | `RELOADING=1`, then `READY=1` | around the reading of the configuration on SIGHUP |
//! | `STOPPING=1` | told to stop |
//! | `EXTEND_TIMEOUT_USEC=` | while recovery, the last flush or an export take long, and get on |
//!
//! Invariant: no beat and no request for more time without a sign that the work gets on. A daemon that hangs must
//! look like one.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::server::Server;
use crate::storage::vital::Obstacle;

/// How often the status is looked at where there is no watchdog to beat for.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// How often long work asks for more time, and how much it asks for.
const EXTEND_INTERVAL: Duration = Duration::from_secs(2);
const EXTENSION: Duration = Duration::from_secs(60);
/// Long work gets on when it uses so much of one processor: a hundredth. Reading, replaying, flushing, copying and
/// compressing use far more, what hangs in the disk far less.
const WORKING_SHARE: u32 = 100;

/// The line to the service manager; see the module.
#[derive(Debug, Clone, Copy)]
pub struct Notifier {
    supervised: bool,
    watchdog: Option<Duration>,
}

/// Asks for more time, again and again, until it is dropped.
#[derive(Debug)]
pub struct MoreTime(Option<tokio::task::JoinHandle<()>>);

impl Drop for MoreTime {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Notifier {
    /// As the environment has it.
    pub fn from_environment() -> Self {
        let supervised = std::env::var_os("NOTIFY_SOCKET").is_some();
        // A beat of no interval would be one without an end.
        let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
        Self { supervised, watchdog: watchdog.filter(|_| supervised) }
    }

    fn send(self, state: &[NotifyState<'_>]) {
        if !self.supervised {
            return;
        }
        if let Err(error) = sd_notify::notify(state) {
            // Whoever supervises will find out by its own clock; the daemon's work does not depend on it.
            tracing::debug!(%error, "the service manager could not be told");
        }
    }

    /// Tells people what the daemon does right now.
    pub fn status(self, text: &str) {
        self.send(&[NotifyState::Status(text)]);
    }

    /// The daemon answers requests.
    pub fn ready(self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The daemon was told to stop. Said before it begins to, so that its steps come behind.
    pub fn stopping(self) {
        self.send(&[NotifyState::Stopping, NotifyState::Status("stopping: answering what was read")]);
    }

    /// The configuration is being read again; [`ready`](Self::ready) says that it is over.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// Asks for more time for as long as the answer lives and the process works. Must be called inside the runtime.
    pub fn more_time(self) -> MoreTime {
        let ask = move || self.send(&[NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
        MoreTime(
            self.supervised.then(|| tokio::spawn(ask_while_working(EXTEND_INTERVAL, processor_time, ask))),
        )
    }

    /// Beats while commits can be made, and tells when the daemon stops. Ends with the runtime.
    ///
    /// This is a task of the runtime and not a thread of its own: a beat has to show that the runtime's timers fire
    /// and that one of its workers is free to run a task, for otherwise nobody is answered. That the disk takes
    /// commits it cannot know from running, so it asks each storage.
    pub async fn attend(self, server: Arc<Server>) {
        if !self.supervised {
            return;
        }
        let mut stopping = server.stopping.clone();
        let stop = async {
            // The sender lives as long as the thread that waits for signals.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            let _more_time = self.more_time();
            std::future::pending::<()>().await;
        };
        tokio::join!(self.beat(&server), stop);
    }

    async fn beat(self, server: &Server) {
        let interval = self.watchdog.map_or(STATUS_INTERVAL, |watchdog| watchdog / 3);
        let mut known = serving(server);
        let mut silent = false;
        loop {
            let obstacle = self.watchdog.and_then(|watchdog| obstacle(server, watchdog / 2));
            match &obstacle {
                None if self.watchdog.is_some() => self.send(&[NotifyState::Watchdog]),
                Some(obstacle) if !silent => {
                    tracing::error!(%obstacle, "the watchdog is not told to wait any longer");
                }
                _ => {}
            }
            silent = obstacle.is_some();
            let status = obstacle.map_or_else(|| serving(server), |obstacle| obstacle.to_string());
            // The steps of stopping are told where they are taken.
            if status != known && !*server.stopping.borrow() {
                self.status(&status);
                known = status;
            }
            tokio::time::sleep(interval).await;
        }
    }
}

/// What the daemon does when all is well.
pub fn serving(server: &Server) -> String {
    let connections = server.stats.connections.load(std::sync::atomic::Ordering::Relaxed);
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("serving {}, {}", plural(server.storages.len(), "storage"), plural(connections, "connection"))
}

fn obstacle(server: &Server, patience: Duration) -> Option<Obstacle> {
    server.storages.iter().find_map(|storage| storage.commit_obstacle(patience))
}

/// Asks at once, and then after each interval in which the process has worked. `used` is the processor time that it
/// has used so far.
async fn ask_while_working(interval: Duration, used: impl Fn() -> Duration, ask: impl Fn()) {
    loop {
        ask();
        let mut before = used();
        loop {
            tokio::time::sleep(interval).await;
            let now = used();
            if now.saturating_sub(before) >= interval / WORKING_SHARE {
                break;
            }
            before = now;
        }
    }
}

/// What all threads of the process have used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;

    fn wait_until(what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn more_time_is_asked_for_only_while_the_process_works() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let (asked, looked, used_ms) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let counts = Arc::new([asked, looked, used_ms]);
        let (seen, mine) = (Arc::clone(&counts), Arc::clone(&counts));
        let used = move || {
            seen[1].fetch_add(1, Ordering::Relaxed);
            Duration::from_millis(seen[2].load(Ordering::Relaxed))
        };
        let ask = move || {
            mine[0].fetch_add(1, Ordering::Relaxed);
        };
        let task = runtime.spawn(ask_while_working(Duration::from_millis(5), used, ask));
        let count = |index: usize| counts[index].load(Ordering::Relaxed);
        wait_until("it looks again and again", || count(1) >= 10);
        assert_eq!(count(0), 1, "it hangs: once at the start, and no more");
        for round in 2..5 {
            counts[2].fetch_add(1000, Ordering::Relaxed);
            wait_until("it works again", || count(0) == round);
        }
        task.abort();
    }

    #[test]
    fn work_uses_processor_time() {
        let before = processor_time();
        wait_until("time passes where there is work", || {
            processor_time() > before + Duration::from_millis(5)
        });
    }
}
