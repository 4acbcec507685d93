//! Starts and stops the servers that are compared.
//!
//! Invariant: a server runs only while it is measured. An idle one flushes, rewrites or expires in
//! the background, and that would be charged to the other.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fastpersist_bench::{Model, SocketName};
use rustix::process::{Pid, Signal, kill_process};

use crate::cleanup::{self, SharedChild, lock};
use crate::error::{CompareError, Context};
use crate::place::Room;

/// The storage that every measurement uses.
pub(crate) const STORAGE: &str = "bench";

const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(300);
const LOG_BYTES_SHOWN: usize = 2_000;

/// When the daemon flushes into `DuckDB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushing {
    /// By its defaults, as people run it.
    Default,
    /// Never by itself, so that a measurement decides when.
    OnRequest,
}

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    name: &'static str,
    child: SharedChild,
    socket: PathBuf,
    log: PathBuf,
    /// From the start of the process to its first answer.
    pub(crate) start_time: Duration,
}

impl Server {
    /// Starts the daemon on the room's files, whatever is there already.
    pub(crate) fn start_daemon(
        executable: &Path,
        room: &Room,
        model: Model,
        flushing: Flushing,
    ) -> Result<Self, CompareError> {
        let config = room.directory.join("config.toml");
        std::fs::write(&config, daemon_config(room, model, flushing))
            .context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new(executable);
        command.arg("--config").arg(&config);
        Self::start("fastpersistd", command, room, b"{\"op\":\"ping\"}\n", b"{\"ok\":true")
    }

    /// Starts Redis as the comparison is defined: every write on disk before its answer.
    pub(crate) fn start_redis(room: &Room) -> Result<Self, CompareError> {
        let mut command = Command::new("redis-server");
        command
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--save", "", "--port", "0", "--unixsocket"])
            .arg(&room.socket)
            .arg("--dir")
            .arg(&room.directory);
        Self::start("redis-server", command, room, b"*1\r\n$4\r\nPING\r\n", b"+PONG")
    }

    fn start(
        name: &'static str,
        mut command: Command,
        room: &Room,
        question: &[u8],
        expected: &[u8],
    ) -> Result<Self, CompareError> {
        let log = room.directory.join("log.txt");
        let opened = File::options().create(true).append(true).open(&log);
        let output = opened.context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C is for the comparison, which then ends its children.
            .process_group(0);
        let started = Instant::now();
        let child = cleanup::spawn(&mut command).context(|| format!("cannot start {name}"))?;
        let mut server = Self { name, child, socket: room.socket.clone(), log, start_time: Duration::ZERO };
        server.await_first_answer(started, question, expected)?;
        server.start_time = started.elapsed();
        Ok(server)
    }

    fn await_first_answer(
        &self,
        started: Instant,
        question: &[u8],
        expected: &[u8],
    ) -> Result<(), CompareError> {
        let failed =
            |reason: String| CompareError::NotStarted { server: self.name, reason, log: self.last_words() };
        loop {
            if answers(&self.socket, question, expected) {
                return Ok(());
            }
            if let Some(status) = self.exited()? {
                return Err(failed(format!("it ended with {status}")));
            }
            if started.elapsed() > START_LIMIT {
                return Err(failed(format!("no answer within {} s", START_LIMIT.as_secs())));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    pub(crate) fn socket(&self) -> SocketName {
        SocketName::from(self.socket.clone())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(self) -> Result<(), CompareError> {
        let asked = Instant::now();
        let pid = Pid::from_child(&lock(&self.child));
        kill_process(pid, Signal::TERM)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot stop {}", self.name))?;
        let reason = loop {
            match self.exited()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => break format!("it ended with {status}"),
                None if asked.elapsed() > STOP_LIMIT => {
                    break format!("it still runs after {} s", STOP_LIMIT.as_secs());
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        Err(CompareError::NotStopped { server: self.name, reason, log: self.last_words() })
    }

    /// SIGKILL: it gets no chance to tidy up.
    pub(crate) fn kill(self) {
        drop(self);
    }

    fn exited(&self) -> Result<Option<ExitStatus>, CompareError> {
        lock(&self.child).try_wait().context(|| format!("cannot look at {}", self.name))
    }

    fn last_words(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let start = bytes.len().saturating_sub(LOG_BYTES_SHOWN);
        String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // Both fail only when it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn answers(socket: &Path, question: &[u8], expected: &[u8]) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(START_LIMIT))?;
        stream.write_all(question)?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == expected)
    };
    // Not there, refused or hung up: not ready, and the caller sees when it never will be.
    ask().unwrap_or(false)
}

fn daemon_config(room: &Room, model: Model, flushing: Flushing) -> String {
    // A TOML basic string escapes as JSON does.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let flushing = match flushing {
        Flushing::Default => "",
        Flushing::OnRequest => {
            "batch_size = 100000000\n\
             duckdb_flush_interval_seconds = 3600\n\
             max_pending_bytes = 4000000000\n"
        }
    };
    format!(
        "[daemon]\nsocket = {}\n\n\
         [limits]\nmax_connections_per_uid = 256\n\n\
         [storage.{STORAGE}]\nmodel = \"{model}\"\nbase_dir = {}\nwal_retain_days = 0\n{flushing}",
        quoted(&room.socket),
        quoted(&absolute(&room.directory).join("data")),
    )
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
