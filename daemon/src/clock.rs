//! The clock, so that tests can let a week pass in seconds.
//!
//! Invariant: order and time spans rest on [`Clock::elapsed`], which never goes back; [`Clock::now`] is the wall
//! clock, which may jump and only labels.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use fastpersist_protocol::time::Timestamp;

/// Something to wait for.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What time it is, and how to wait.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment; never goes back.
    fn elapsed(&self) -> Duration;
    /// Waits until [`elapsed`](Self::elapsed) has come so far.
    fn sleep_until(&self, elapsed: Duration) -> Sleep<'_>;

    /// The wall clock as files have it.
    fn system_time(&self) -> SystemTime {
        let micros = u64::try_from(self.now().as_micros()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }
}

/// The clock of the machine.
#[derive(Debug)]
pub struct RealClock {
    begun: Instant,
}

impl Default for RealClock {
    fn default() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn sleep_until(&self, elapsed: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep_until((self.begun + elapsed).into()))
    }
}

/// A clock that a test sets and moves.
#[cfg(test)]
pub(crate) mod simulated {
    use parking_lot::Mutex;
    use tokio::sync::watch;

    use super::{Clock, Duration, Sleep, Timestamp};

    #[derive(Debug)]
    pub(crate) struct SimulatedClock {
        wall: Mutex<Timestamp>,
        elapsed: watch::Sender<Duration>,
    }

    impl SimulatedClock {
        pub(crate) fn new(wall: Timestamp) -> Self {
            Self { wall: Mutex::new(wall), elapsed: watch::Sender::new(Duration::from_secs(1)) }
        }

        /// Lets time pass, on both clocks.
        pub(crate) fn advance(&self, span: Duration) {
            self.set_wall(span.as_micros() as i64);
            self.elapsed.send_modify(|elapsed| *elapsed += span);
        }

        /// Lets the wall clock show a moment; the other one stays.
        pub(crate) fn show(&self, wall: &str) {
            *self.wall.lock() = Timestamp::parse(wall).expect("a time");
        }

        /// Sets the wall clock, as a person does, and not the other one.
        pub(crate) fn set_wall(&self, by_micros: i64) {
            let mut wall = self.wall.lock();
            *wall = Timestamp::from_micros(wall.as_micros() + by_micros).expect("in range");
        }
    }

    impl Clock for SimulatedClock {
        fn now(&self) -> Timestamp {
            *self.wall.lock()
        }

        fn elapsed(&self) -> Duration {
            *self.elapsed.borrow()
        }

        fn sleep_until(&self, until: Duration) -> Sleep<'_> {
            let mut elapsed = self.elapsed.subscribe();
            Box::pin(async move {
                let _ = elapsed.wait_for(|elapsed| *elapsed >= until).await;
            })
        }
    }
}
