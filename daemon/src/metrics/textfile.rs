//! The metrics as a file, for `node_exporter`'s textfile collector.
//!
//! It is in the Prometheus text format 0.0.4, for that is all the collector reads: one line of OpenMetrics, such as
//! `# TYPE … info`, makes it refuse the whole file. A reader finds the old file or the new one, never half of one.
//! It is removed at the end of the daemon, so that figures of nobody are not taken for news; after a crash it
//! stays, and `node_textfile_mtime_seconds` says how old it is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Format;
use super::publish::Source;
use crate::disk::{self, Disk};

/// The file, and how often it is written.
#[derive(Debug)]
pub(super) struct TextFile {
    path: PathBuf,
    interval: Duration,
    disk: Arc<dyn Disk>,
    /// Held while the file is written; true when it must not be any more.
    ended: Mutex<bool>,
}

/// How long the daemon's end waits for a file that is just being written.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl TextFile {
    pub(super) fn new(path: PathBuf, interval: Duration, disk: Arc<dyn Disk>) -> Self {
        Self { path, interval, disk, ended: Mutex::new(false) }
    }

    /// Writes the file again and again.
    pub(super) async fn keep(self: Arc<Self>, source: Source) {
        let mut failing = false;
        loop {
            let written = self.write(&source).await;
            let path = self.path.display();
            match &written {
                // Once, not at every interval.
                Err(error) if !failing => {
                    tracing::warn!(%path, %error, "the metrics cannot be written; this is tried again");
                }
                Ok(()) if failing => tracing::info!(%path, "the metrics are written again"),
                _ => {}
            }
            failing = written.is_err();
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn write(self: &Arc<Self>, source: &Source) -> io::Result<()> {
        let text = source.render(Format::Prometheus).await?;
        let file = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let ended = file.ended.lock();
            if *ended { Ok(()) } else { disk::publish(&*file.disk, &file.path, text.as_bytes()) }
        });
        writing.await.unwrap_or_else(|_| Err(io::Error::other("the thread failed")))
    }

    /// Takes the file away for good; that it is gone already is no error.
    pub(super) fn end(&self) {
        let Some(mut ended) = self.ended.try_lock_for(END_TIMEOUT) else { return };
        *ended = true;
        match self.disk.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "the file with the metrics could not be removed");
            }
            _ => {}
        }
    }
}
