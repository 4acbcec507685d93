//! What `--check-config` tells of a configuration that is right, and what in it is allowed and probably not meant.

use std::fmt::Write as _;

use super::{Config, Role, StorageConfig};
use crate::disk::parent_of;
use crate::storage::schema::Model;

/// The longest path that the system takes for a socket.
const MAX_SOCKET_PATH_BYTES: usize = 107;

impl Config {
    /// The configuration in a few lines, with its warnings.
    pub fn summary(&self) -> String {
        let mut out = format!("{}: the configuration is right\n", self.file);
        // Writing to a string does not fail.
        let _ = writeln!(out, "socket {}", self.daemon.socket);
        for storage in &self.storages {
            let (name, model, dir) = (&storage.name, storage.model(), storage.base_dir.display());
            let writers = if storage.schema.record_writer { ", with each record's writer" } else { "" };
            let _ = writeln!(out, "storage {name}: {model}, in {dir}{writers}");
        }
        if let Some(directory) = &self.daemon.log_dir {
            let _ = writeln!(out, "log in {}", directory.display());
        }
        if let Some(address) = self.metrics.listen {
            let _ = writeln!(out, "metrics at http://{address}/metrics");
        }
        if let Some(path) = &self.metrics.textfile_path {
            let _ = writeln!(out, "metrics in {}", path.display());
        }
        for warning in self.warnings() {
            let _ = writeln!(out, "warning: {warning}");
        }
        out.truncate(out.trim_end().len());
        out
    }

    /// What is allowed and probably not meant.
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::from_iter(self.log_dir_warning());
        let socket = &self.daemon.socket;
        let length = socket.len();
        if !socket.starts_with('@') && length > MAX_SOCKET_PATH_BYTES {
            out.push(format!("daemon.socket has {length} bytes, the system takes {MAX_SOCKET_PATH_BYTES}"));
        }
        if self.daemon.default_role >= Role::Writer && self.daemon.socket_mode & 0o002 != 0 {
            let role = self.daemon.default_role.as_str();
            out.push(format!(
                "daemon.default_role = \"{role}\" and the socket is open to all: so is every storage"
            ));
        }
        let limits = &self.limits;
        if limits.max_connections_per_uid > limits.max_connections {
            out.push(
                "limits.max_connections_per_uid is above limits.max_connections, which holds".to_owned(),
            );
        }
        if let Some(directory) = self.metrics.textfile_path.as_deref().map(parent_of)
            && !directory.is_dir()
        {
            let directory = directory.display();
            out.push(format!("metrics.textfile_path: there is no directory {directory}, and none is made"));
        }
        self.storages.iter().for_each(|storage| storage.warnings(&mut out));
        out
    }
}

impl StorageConfig {
    fn warnings(&self, out: &mut Vec<String>) {
        let prefix = format!("storage.{}", self.name);
        let mut warn = |text: &str| out.push(format!("{prefix}.{text}"));
        if self.base_dir.is_relative() {
            warn("base_dir is relative: it depends on where the daemon is started");
        }
        if self.export_at.is_some() && self.parquet_path.is_none() {
            warn("export_at does nothing without parquet_path");
        }
        if self.backup_at.is_some() && !self.backup {
            warn("backup_at does nothing without backup = true");
        }
        if self.model() == Model::Collection && !self.backup {
            warn(
                "backup is switched off: a damaged database can only be rebuilt from the log, if that reaches back",
            );
        }
        if self.backup && self.wal_retain.is_zero() {
            warn("wal_retain_days = 0: nothing can be rebuilt or restored beyond the newest backup");
        }
        if self.model() == Model::Collection && self.db_path != "data.duckdb" {
            warn("db_path does nothing in a collection storage");
        }
    }
}
