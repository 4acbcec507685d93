//! The real daemon as a child process: started, killed, stopped and started again on the same directory.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::{Config, Conn, PATIENCE, binary, wait_for};

/// A directory with a configuration file in it, in which daemons live one after the other.
pub(crate) struct Site {
    dir: TempDir,
    socket: String,
}

/// A running daemon. It is killed when it goes out of scope, and its log is shown if the test has failed.
pub(crate) struct Daemon {
    child: Child,
    socket: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a daemon that was not to stay ended.
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl Site {
    pub(crate) fn new(config: &Config) -> Self {
        Self::new_in(&std::env::temp_dir(), config)
    }

    /// A site in memory, where there is room for one: for tests in which a sync need not be one.
    pub(crate) fn in_memory(config: &Config) -> Self {
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        if room >= 256 << 20 { Self::new_in(memory, config) } else { Self::new(config) }
    }

    /// A site below `parent`.
    pub(crate) fn new_in(parent: &Path, config: &Config) -> Self {
        let dir = tempfile::Builder::new().prefix("fp").tempdir_in(parent).expect("a temporary directory");
        // Tests of access come as another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open the directory");
        let socket = dir.path().join("sock").to_string_lossy().into_owned();
        let site = Self { dir, socket };
        site.configure(config);
        site
    }

    /// Writes the configuration file anew; it counts from the next start.
    pub(crate) fn configure(&self, config: &Config) {
        fs::write(self.config_file(), config.render(&self.dir.path().to_string_lossy()))
            .expect("write the configuration");
    }

    /// A second site with a copy of one storage's directory, as a file system would show it after a crash.
    pub(crate) fn copy_of(&self, storage: &str, config: &Config) -> Self {
        let copy = Self::new(config);
        super::files::copy_tree(&self.path(storage), &copy.path(storage));
        copy
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// `fastpersistd --config FILE`, not yet started, in an environment that holds nothing of ours.
    pub(crate) fn command(&self) -> Command {
        let mut command = bare_command(self.dir.path());
        command.arg("--config").arg(self.config_file());
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&self) -> Daemon {
        self.start_as(self.command(), &self.socket)
    }

    /// Starts a daemon by its own command line and waits until it answers at `socket`.
    pub(crate) fn start_as(&self, command: Command, socket: &str) -> Daemon {
        let started = self.try_start_as(command, socket);
        started.unwrap_or_else(|exit| {
            panic!("the daemon ended by itself with {:?}:\n{}", exit.code, exit.stderr)
        })
    }

    /// Starts the daemon and waits until it answers or has ended.
    pub(crate) fn try_start(&self) -> Result<Daemon, Exit> {
        self.try_start_as(self.command(), &self.socket)
    }

    /// As [`try_start`](Self::try_start), by its own command line.
    pub(crate) fn try_start_as(&self, command: Command, socket: &str) -> Result<Daemon, Exit> {
        // Before it starts: one that refuses has said so sooner than anyone can look.
        let logged = fs::metadata(self.path("stderr.log")).map_or(0, |log| log.len() as usize);
        let mut daemon = self.spawn(command, socket);
        let answered = wait_for(&format!("the daemon answers ping at {socket}"), PATIENCE, || {
            if let Some(status) = daemon.child.try_wait().expect("look at the daemon") {
                return Some(Err(status));
            }
            let mut conn = Conn::try_connect(socket).ok()?;
            conn.try_ask(json!({"op": "ping"})).filter(|answer| answer["pong"] == true).map(|_| Ok(()))
        });
        match answered {
            Ok(()) => Ok(daemon),
            Err(status) => {
                let stderr = daemon.log().split_off(logged);
                Err(Exit { code: status.code(), stderr })
            }
        }
    }

    /// Starts the daemon without waiting for anything.
    pub(crate) fn spawn(&self, command: Command, socket: &str) -> Daemon {
        self.spawn_with(command, Stdio::null(), socket)
    }

    /// As `spawn`, with a standard input.
    pub(crate) fn spawn_with(&self, mut command: Command, stdin: Stdio, socket: &str) -> Daemon {
        let stdout = self.path("stdout.log");
        let stderr = self.path("stderr.log");
        let append = |path: &Path| -> File {
            OpenOptions::new().create(true).append(true).open(path).expect("open a log of the daemon")
        };
        let child = command.stdin(stdin).stdout(append(&stdout)).stderr(append(&stderr)).spawn();
        Daemon { child: child.expect("start fastpersistd"), socket: socket.to_owned(), stdout, stderr }
    }

    /// The daemon must not start, and must end as one does whose configuration or data needs a person: 78.
    pub(crate) fn refused_start(&self) -> Exit {
        let exit = self.try_start().err().expect("the daemon started, but should have refused to");
        assert_eq!(exit.code, Some(78), "stderr: {}", exit.stderr);
        exit
    }
}

/// `fastpersistd` with nothing of the caller's environment but what programs need, and its home in `dir`.
pub(crate) fn bare_command(dir: &Path) -> Command {
    let mut command = Command::new(binary("fastpersistd"));
    command.env_clear().env("HOME", dir).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs a daemon that must end by itself, and gives what it left.
pub(crate) fn run_to_exit(command: Command) -> Exit {
    run_to_exit_with(command, Stdio::null())
}

/// As `run_to_exit`, with a standard input.
pub(crate) fn run_to_exit_with(mut command: Command, stdin: Stdio) -> Exit {
    let logs = tempfile::tempdir().expect("a temporary directory");
    let (stdout, stderr) = (logs.path().join("stdout"), logs.path().join("stderr"));
    command.stdin(stdin);
    command.stdout(File::create(&stdout).expect("a file for stdout"));
    command.stderr(File::create(&stderr).expect("a file for stderr"));
    let mut child = command.spawn().expect("start the program");
    let status = wait_for_exit(&mut child, PATIENCE);
    let read =
        |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("read what it printed")).into_owned();
    let (stdout, stderr) = (read(&stdout), read(&stderr));
    let status =
        status.unwrap_or_else(|| panic!("it should have ended by itself. stdout: {stdout} stderr: {stderr}"));
    Exit { code: status.code(), stderr }
}

/// The status of a child that ends within the bound; one that does not is killed.
fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("wait for the child") {
            return Some(status);
        }
        if std::time::Instant::now() > deadline {
            child.kill().expect("kill the child");
            child.wait().expect("reap the child");
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Daemon {
    pub(crate) fn connect(&self) -> Conn {
        Conn::connect(&self.socket)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).expect("read stdout")
    }

    /// All that daemons of this site have logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).expect("read stderr")).into_owned()
    }

    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("look at the daemon") {
            panic!("the daemon ended by itself with {status}:\n{}", self.log());
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the daemon");
    }

    /// SIGSTOP, and waits until it has stopped.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid());
        wait_for("the daemon has stopped", PATIENCE, || {
            let stat = fs::read_to_string(&stat).expect("the daemon is there");
            let state = stat.rsplit_once(')').expect("a name in brackets").1.trim_start();
            state.starts_with('T').then_some(())
        });
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look at the daemon")
    }

    /// SIGKILL: no warning, nothing flushed.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill the daemon");
        self.child.wait().expect("reap the daemon");
    }

    /// SIGTERM, and then the exit code must be 0.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        self.ended_cleanly();
    }

    /// Waits for the end of a daemon that was told to stop; its exit code, `None` where a signal ended it.
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        let status = wait_for_exit(&mut self.child, PATIENCE);
        status.unwrap_or_else(|| panic!("told to stop, the daemon still runs after {PATIENCE:?}")).code()
    }

    /// Waits for the end of a daemon that was told to stop; the exit code must be 0.
    pub(crate) fn ended_cleanly(self) {
        self.ended_cleanly_within(PATIENCE);
    }

    /// As `ended_cleanly`, for one that has much to do before its end.
    pub(crate) fn ended_cleanly_within(mut self, limit: Duration) {
        let status = wait_for_exit(&mut self.child, limit);
        let status = status.unwrap_or_else(|| panic!("told to stop, the daemon still runs after {limit:?}"));
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("read /proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kilobytes: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kilobytes * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the daemon's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
