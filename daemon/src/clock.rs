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
    /// Waits for so long, by [`elapsed`](Self::elapsed).
    fn sleep(&self, duration: Duration) -> Sleep<'_>;

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

    fn sleep(&self, duration: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(duration))
    }
}
