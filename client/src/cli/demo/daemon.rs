//! A daemon of the demo's own, in a directory of its own.
//!
//! Invariant: when a [`TempDaemon`] is dropped, its process has ended and, unless it is to be kept, its
//! directory is gone.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fastpersist_client::{ConnectOptions, blocking};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Interrupt;
use crate::cli::failure::{Exit, Failure, Outcome};

pub(super) const STORAGE: &str = "flights";
const PROGRAM: &str = "fastpersistd";

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(2);
/// A path to a socket has room for 107 bytes.
const SOCKET_PATH_MAX: usize = 100;

pub(super) struct TempDaemon {
    program: PathBuf,
    dir: tempfile::TempDir,
    socket: String,
    child: Option<Child>,
}

impl TempDaemon {
    /// Prepares the directory and starts the daemon in it.
    pub(super) fn start(program: Option<&Path>, interrupt: &Interrupt) -> Outcome<Self> {
        let program = program.map_or_else(find_program, |program| Ok(program.to_path_buf()))?;
        let dir = tempfile::Builder::new().prefix("fastpersist-demo-").tempdir();
        let dir = dir.map_err(|error| Failure::io("a temporary directory", &error))?;
        let path = dir.path().join("fastpersistd.sock");
        let socket = if path.as_os_str().len() > SOCKET_PATH_MAX {
            format!("@fastpersist-demo-{}", std::process::id())
        } else {
            path.display().to_string()
        };
        let mut daemon = Self { program, dir, socket, child: None };
        daemon.write_config()?;
        daemon.spawn(interrupt)?;
        Ok(daemon)
    }

    fn write_config(&self) -> Outcome {
        let quoted = |text: &str| Value::from(text).to_string();
        let below = |name: &str| quoted(&self.dir.path().join(name).display().to_string());
        let config = format!(
            "[daemon]\nsocket = {}\n\n[storage.{STORAGE}]\nmodel = \"dated\"\nbase_dir = {}\nparquet_path = {}\n",
            quoted(&self.socket),
            below("flights"),
            below("parquet"),
        );
        let path = self.config_path();
        fs::write(&path, config).map_err(|error| Failure::io(path.display(), &error))
    }

    /// Starts the process and waits until it answers. Returns how long that took.
    pub(super) fn spawn(&mut self, interrupt: &Interrupt) -> Outcome<Duration> {
        let started = Instant::now();
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.map_err(|error| Failure::io(self.log_path().display(), &error))?;
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which then stops the daemon in good order.
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| Failure::io(self.program.display(), &error))?;
        self.child = Some(child);
        loop {
            if self.connect().and_then(|client| client.ping()).is_ok() {
                return Ok(started.elapsed());
            }
            interrupt.check()?;
            let exited = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if exited.is_some() || started.elapsed() > START_LIMIT {
                let log = fs::read_to_string(self.log_path()).unwrap_or_default();
                return Err(Failure::failed(format!("the daemon does not start:\n{}", log.trim_end())));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Kills the process as the kernel does it, without a chance to tidy up.
    pub(super) fn kill(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        killed.map(drop).map_err(|error| Failure::io("kill -9", &error))
    }

    /// Asks the process to end, and waits until it has.
    pub(super) fn terminate(&mut self, interrupt: &Interrupt) -> Outcome<Duration> {
        let started = Instant::now();
        let Some(child) = &mut self.child else { return Ok(Duration::ZERO) };
        kill_process(Pid::from_child(child), Signal::TERM)
            .map_err(|error| Failure::io("SIGTERM", &error.into()))?;
        loop {
            let ended = child.try_wait().map_err(|error| Failure::io("the daemon", &error))?;
            if let Some(status) = ended {
                self.child = None;
                return if status.success() { Ok(started.elapsed()) } else { Err(self.bad_end(status)) };
            }
            if started.elapsed() > STOP_LIMIT {
                return Err(Failure::failed(format!("the daemon did not stop within {STOP_LIMIT:?}")));
            }
            interrupt.check()?;
            thread::sleep(PAUSE);
        }
    }

    fn bad_end(&self, status: ExitStatus) -> Failure {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        Failure::failed(format!("the daemon ended with {status}:\n{}", log.trim_end()))
    }

    pub(super) fn connect(&self) -> Result<blocking::Client, fastpersist_client::Error> {
        blocking::Client::connect(ConnectOptions::new().socket(self.socket.as_str()))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub(super) fn socket(&self) -> &str {
        &self.socket
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn parquet_dir(&self) -> PathBuf {
        self.dir.path().join("parquet")
    }

    /// Leaves the directory where it is.
    pub(super) fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }
}

impl Drop for TempDaemon {
    fn drop(&mut self) {
        // Whatever is wrong has been told already; here nothing may stay behind.
        let _ = self.kill();
    }
}

/// The daemon beside this program, else on the PATH.
pub(in crate::cli) fn find_program() -> Outcome<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain(on_path).find(|program| program.is_file()).ok_or_else(|| {
        Failure::new(Exit::Configuration, format!("{PROGRAM} is neither beside this program nor on the PATH"))
            .with_hint("build or install it, or name it with --daemon")
    })
}
