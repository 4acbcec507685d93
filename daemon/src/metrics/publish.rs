//! The two ways in which the daemon shows its metrics by itself: bound at the start, ended with the daemon.
//!
//! Invariant: neither holds up the daemon's end.

use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::http::{ListenError, Listener};
use super::textfile::TextFile;
use super::{Format, render};
use crate::config::MetricsConfig;
use crate::disk::Disk;
use crate::server::Server;

/// Where metrics are read from: one reader at a time, for to read them takes locks that writers want too.
#[derive(Debug, Clone)]
pub(super) struct Source {
    server: Arc<Server>,
    turn: Arc<Mutex<()>>,
}

impl Source {
    /// All metrics as one text. Reading may wait for a disk, so it does not happen on a worker.
    pub(super) async fn render(&self, format: Format) -> io::Result<String> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let server = Arc::clone(&self.server);
        let reading = tokio::task::spawn_blocking(move || {
            // Not the one who waits holds the turn: he may give up, and another reader would hang beside this one.
            let _turn = turn;
            render(&server, format)
        });
        reading.await.map_err(|_| io::Error::other("the thread failed"))
    }
}

/// Where metrics will be shown: what can go wrong has gone wrong before the daemon says that it is ready.
#[derive(Debug)]
pub struct Endpoint {
    listener: Option<Listener>,
    file: Option<TextFile>,
}

impl Endpoint {
    /// Takes the configured address.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(config: &MetricsConfig, disk: &Arc<dyn Disk>) -> Result<Self, ListenError> {
        let path = config.textfile_path.clone();
        let file = path.map(|path| TextFile::new(path, config.textfile_interval, Arc::clone(disk)));
        Ok(Self { listener: config.listen.map(Listener::bind).transpose()?, file })
    }

    /// Begins to show metrics; must be called inside the runtime.
    pub fn publish(self, server: &Arc<Server>) -> Publisher {
        let source = Source { server: Arc::clone(server), turn: Arc::default() };
        let mut tasks = JoinSet::new();
        let file = self.file.map(Arc::new);
        if let Some(listener) = self.listener {
            tasks.spawn(listener.serve(source.clone()));
        }
        if let Some(file) = &file {
            tasks.spawn(Arc::clone(file).keep(source));
        }
        Publisher { tasks, file }
    }
}

/// Metrics that are being shown.
#[derive(Debug)]
pub struct Publisher {
    tasks: JoinSet<()>,
    file: Option<Arc<TextFile>>,
}

impl Publisher {
    /// Shows them no longer.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        if let Some(file) = self.file {
            file.end();
        }
    }
}
