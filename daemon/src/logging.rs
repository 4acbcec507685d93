//! Where log lines go: standard error, or a file a day in `log_dir`.
//!
//! Invariant: a failure is logged once, where it is handled, and never with a record's content.

use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{DaemonConfig, LogFormat};

/// Days of log files that are kept.
const MAX_LOG_FILES: usize = 14;

/// Starts logging.
///
/// # Errors
/// When the log directory cannot be used.
pub fn start(config: &DaemonConfig) -> Result<(), tracing_appender::rolling::InitError> {
    let filter = EnvFilter::new(&config.log_level);
    let (writer, to_terminal) = match &config.log_dir {
        Some(directory) => {
            let appender = RollingFileAppender::builder()
                .rotation(Rotation::DAILY)
                .filename_prefix("fastpersistd")
                .filename_suffix("log")
                .max_log_files(MAX_LOG_FILES)
                .build(directory)?;
            (BoxMakeWriter::new(std::sync::Mutex::new(appender)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::IsTerminal::is_terminal(&std::io::stderr())),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(to_terminal).with_target(false);
    let builder = builder.with_writer(writer);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
