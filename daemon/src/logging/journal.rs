//! Lines for the journal of systemd, which has times and priorities of its own.

use std::fmt;

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error is the journal: systemd says in `JOURNAL_STREAM` which file that is, and a process whose
/// standard error was redirected since has another one.
pub(super) fn is_on_stderr() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| is_file(&stream, stat.st_dev, stat.st_ino))
}

fn is_file(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    numbers == Some((Ok(device), Ok(inode)))
}

/// Lines that begin with their priority, as `sd-daemon(3)` has it.
pub(super) struct Prefixed<F>(F);

impl<F> Prefixed<F> {
    pub(super) fn new(inner: F) -> Self {
        Self(inner)
    }
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

impl<S, N, F> FormatEvent<S, N> for Prefixed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_told_by_device_and_inode() {
        assert!(is_file("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", "a:b", "8:1234:5"] {
            assert!(!is_file(other, 8, 1234), "{other}");
        }
    }
}
