//! Where log lines go: standard error, or a file a day in `log_dir`.
//!
//! Invariant: a failure is logged once, where it is handled, and above debug never with a record's content.

mod journal;

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt as log, reload};

use crate::config::{DaemonConfig, LogFormat};

/// What the daemon's mask leaves of a later day's file.
const FILE_MODE: u32 = 0o640;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("daemon.log_dir = {directory:?} cannot be used: {source}")]
pub struct LoggingError {
    directory: PathBuf,
    source: InitError,
}

/// The running log.
pub struct Logging {
    file: Option<LogFile>,
    level: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Logging {
    /// Starts logging; once in a process.
    ///
    /// # Errors
    /// When the log directory cannot be used.
    pub fn start(config: &DaemonConfig) -> Result<Self, LoggingError> {
        let file = match &config.log_dir {
            Some(directory) => Some(LogFile::open(directory, config.max_log_files)?),
            None => None,
        };
        let (level, handle) = reload::Layer::new(filter(config.log_level()));
        let lines = lines(config.log_format, file.clone());
        tracing_subscriber::registry().with(lines.with_filter(level)).init();
        Ok(Self { file, level: handle })
    }

    /// Whether lines go to a file and not to standard error.
    pub fn is_to_file(&self) -> bool {
        self.file.is_some()
    }

    /// Lets further lines go to a file of the configured name, wherever the old one is now. Where that cannot be had,
    /// the old one stays.
    pub fn reopen(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = file.reopen() {
            // The old file may be where nobody looks any more.
            eprintln!("fastpersistd: {error}; the log goes on in the old file");
            tracing::error!(%error, "the log could not be reopened and goes on in the old file");
        }
    }

    /// Lets only lines of this level and above through.
    pub fn set_level(&self, level: LevelFilter) {
        // Fails only when there is no log any more.
        let _ = self.level.reload(filter(level));
    }
}

impl DaemonConfig {
    /// The level as the log takes it.
    pub fn log_level(&self) -> LevelFilter {
        // The configuration was checked.
        self.log_level.parse().unwrap_or(LevelFilter::INFO)
    }
}

/// The target of lines that somebody asked for by a signal: they are written whatever the level.
pub const ASKED_FOR: &str = "fastpersistd::asked_for";

fn filter(level: LevelFilter) -> Targets {
    Targets::new().with_default(level).with_target(ASKED_FOR, LevelFilter::INFO)
}

/// What makes lines of events.
fn lines(format: LogFormat, file: Option<LogFile>) -> Box<dyn Layer<Registry> + Send + Sync> {
    let to_journal = file.is_none() && journal::is_on_stderr();
    let ansi = file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let writer = file.map_or_else(|| BoxMakeWriter::new(io::stderr), BoxMakeWriter::new);
    let lines = log::layer().with_ansi(ansi).with_target(false).with_writer(writer);
    match (format, to_journal) {
        (LogFormat::Text, false) => lines.boxed(),
        (LogFormat::Text, true) => lines.without_time().map_event_format(journal::Prefixed::new).boxed(),
        (LogFormat::Json, false) => lines.json().boxed(),
        (LogFormat::Json, true) => {
            lines.json().without_time().map_event_format(journal::Prefixed::new).boxed()
        }
    }
}

/// One file a day, a bounded number of them.
#[derive(Debug, Clone)]
struct LogFile {
    directory: PathBuf,
    max_files: usize,
    appender: Arc<Mutex<RollingFileAppender>>,
}

impl LogFile {
    fn open(directory: &Path, max_files: usize) -> Result<Self, LoggingError> {
        let appender = Arc::new(Mutex::new(appender(directory, max_files)?));
        Ok(Self { directory: directory.to_owned(), max_files, appender })
    }

    fn reopen(&self) -> Result<(), LoggingError> {
        let new = appender(&self.directory, self.max_files)?;
        *self.appender.lock() = new;
        Ok(())
    }
}

fn appender(directory: &Path, max_files: usize) -> Result<RollingFileAppender, LoggingError> {
    // The builder makes it too, but first complains on standard error that it is not there. Where it cannot be made,
    // the builder says why.
    let _ = std::fs::create_dir_all(directory);
    let appender = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("fastpersistd")
        .filename_suffix("log")
        .max_log_files(max_files)
        .build(directory)
        .map_err(|source| LoggingError { directory: directory.to_owned(), source })?;
    let today = chrono::Utc::now().format("fastpersistd.%Y-%m-%d.log").to_string();
    // The first one is made before the daemon's mask is set. One that is another user's stays as it is.
    let _ = std::fs::set_permissions(directory.join(today), std::fs::Permissions::from_mode(FILE_MODE));
    Ok(appender)
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = LogWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogWriter(self)
    }
}

/// Writes whole lines: each event is one call.
struct LogWriter<'a>(&'a LogFile);

impl Write for LogWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All of it under one lock, so that lines do not mix.
        self.0.appender.lock().write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.appender.lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(directory: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .map(|path| {
                (path.file_name().map(|n| n.to_string_lossy().into_owned()), std::fs::read_to_string(path))
            })
            .map(|(name, text)| (name.expect("a name"), text.expect("a text")))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_file_that_was_moved_gets_no_more_lines_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let below = dir.path().join("log");
        let file = LogFile::open(&below, 14).expect("opened");
        file.make_writer().write_all(b"one\n").expect("written");
        let (name, _) = contents(&below).remove(0);
        std::fs::rename(below.join(&name), dir.path().join("moved")).expect("moved");
        file.make_writer().write_all(b"two\n").expect("written");
        file.reopen().expect("reopened");
        file.make_writer().write_all(b"three\n").expect("written");
        assert_eq!(contents(&below), [(name, "three\n".to_owned())]);
        let moved = std::fs::read_to_string(dir.path().join("moved")).expect("read");
        assert_eq!(moved, "one\ntwo\n");
    }

    #[test]
    fn only_so_many_files_are_kept_and_todays_is_one_of_them() {
        let dir = tempfile::tempdir().expect("a directory");
        for day in 1..=5 {
            let old = dir.path().join(format!("fastpersistd.2025-01-0{day}.log"));
            std::fs::write(old, "old\n").expect("written");
        }
        std::fs::write(dir.path().join("other.log"), "not ours\n").expect("written");
        let file = LogFile::open(dir.path(), 3).expect("opened");
        file.make_writer().write_all(b"new\n").expect("written");
        file.reopen().expect("reopened");
        let files = contents(dir.path());
        let ours: Vec<_> = files.iter().filter(|(name, _)| name.starts_with("fastpersistd.")).collect();
        assert!(ours.len() <= 3, "{files:?}");
        assert!(ours.iter().any(|(_, text)| text == "new\n"), "{files:?}");
        assert!(files.iter().any(|(name, _)| name == "other.log"), "{files:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_had_leaves_the_old_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let below = dir.path().join("log");
        let file = LogFile::open(&below, 14).expect("opened");
        std::fs::rename(&below, dir.path().join("old")).expect("moved");
        std::fs::write(&below, "in the way").expect("written");
        let error = file.reopen().expect_err("a file is in the way");
        assert!(error.to_string().contains("daemon.log_dir"), "{error}");
        file.make_writer().write_all(b"goes on\n").expect("written");
        assert_eq!(contents(&dir.path().join("old"))[0].1, "goes on\n");
    }
}
