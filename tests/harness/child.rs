//! Processes of our own: the test binary started again in another role, possibly as another user.
//!
//! Threads would not do: the daemon counts connections by uid, and the promise is one about many processes.

use std::{
    fmt::Display,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use super::{Conn, Site, joined};

const ROLE: &str = "FASTPERSIST_TEST_ROLE";
const SOCKET: &str = "FASTPERSIST_TEST_SOCKET";
/// Marks our lines among those that the test runner prints.
const MARK: &str = "answer:";
/// The user and group `daemon`, which every Linux has and which owns nothing.
pub(crate) const STRANGER: u32 = 1;

/// The test binary in the role of `role`. Its further orders come by environment and stdin.
pub(crate) fn command(exe: &Path, role: &str, socket: &str) -> Command {
    let mut command = Command::new(exe);
    command.args(["--exact", "harness::child::play", "--ignored", "--nocapture"]);
    command.env(ROLE, role).env(SOCKET, socket);
    command
}

/// The stage of the other processes: does nothing unless it was started by `command`.
#[test]
#[ignore = "other tests start it in a process of its own"]
fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = std::env::var(SOCKET).expect("the socket");
    match role.as_str() {
        "relay" => relay(&socket),
        "pipeline" => pipeline(&socket),
        other => crate::play(other, &socket),
    }
}

/// Sends all lines of stdin at once and passes the answers back, for as long as it lives.
fn pipeline(socket: &str) {
    let mut lines = String::new();
    std::io::stdin().read_to_string(&mut lines).expect("read stdin");
    let mut conn = Conn::connect(socket);
    // A daemon that waits takes no more than fits the socket.
    let mut stream = conn.stream().try_clone().expect("the socket again");
    std::thread::spawn(move || stream.write_all(lines.as_bytes()));
    while let Some(answer) = conn.next() {
        println!("{MARK}{answer}");
    }
}

/// Passes lines on to the daemon and its answers back; an empty one says that the daemon has closed.
fn relay(socket: &str) {
    let mut conn = Conn::try_connect(socket).ok();
    for line in std::io::stdin().lines() {
        let line = line.expect("read stdin");
        let answer = conn.as_mut().and_then(|conn| {
            // A daemon that refuses a connection says so before it has read anything.
            let _ = conn.stream().write_all(format!("{line}\n").as_bytes());
            conn.next()
        });
        println!("{MARK}{}", answer.unwrap_or_default());
    }
}

/// A process that has sent many requests at once.
pub(crate) struct Pipeline {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Pipeline {
    pub(crate) fn start(socket: &str, lines: impl IntoIterator<Item = impl Display>) -> Self {
        let exe = std::env::current_exe().expect("the test binary");
        let mut command = command(&exe, "pipeline", socket);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a client");
        let (bytes, _) = joined(lines);
        child.stdin.take().expect("its stdin").write_all(&bytes).expect("write to the client");
        let answers = BufReader::new(child.stdout.take().expect("its stdout"));
        Self { child, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next answer that it got.
    pub(crate) fn answer(&mut self) -> Value {
        loop {
            let mut printed = String::new();
            let read = self.answers.read_line(&mut printed).expect("read from the client");
            assert_ne!(read, 0, "the client ended without an answer");
            if let Some((_, answer)) = printed.trim_end().split_once(MARK) {
                return serde_json::from_str(answer).expect("an answer in JSON");
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill the client");
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that runs as another user.
pub(crate) struct Stranger {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Stranger {
    /// Starts one as the user `daemon`. Needs root.
    pub(crate) fn connect(site: &Site) -> Self {
        Self::connect_as(site, STRANGER)
    }

    /// Starts one with this uid and gid. Needs root.
    pub(crate) fn connect_as(site: &Site, id: u32) -> Self {
        // The build's directory may be closed to others, so it runs from a copy. Not one that this process makes: a
        // child that another test starts meanwhile would hold it open for writing, and nobody could run it.
        let exe = site.path("client");
        if !exe.exists() {
            let own = std::env::current_exe().expect("the test binary");
            let copied = Command::new("cp").arg(own).arg(&exe).status().expect("run cp");
            assert!(copied.success(), "copy the test binary: {copied}");
            fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).expect("make it executable");
        }
        let mut command = command(&exe, "relay", site.socket());
        command.uid(id).gid(id).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a client as another user");
        let orders = child.stdin.take().expect("its stdin");
        let answers = BufReader::new(child.stdout.take().expect("its stdout"));
        Self { child, orders, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer to one request; `None` where the daemon has closed the connection without one.
    pub(crate) fn ask(&mut self, line: &Value) -> Option<Value> {
        writeln!(self.orders, "{line}").expect("write to the client");
        loop {
            let mut printed = String::new();
            let read = self.answers.read_line(&mut printed).expect("read from the client");
            assert_ne!(read, 0, "the client ended without an answer to {line}");
            if let Some((_, answer)) = printed.trim_end().split_once(MARK) {
                return (!answer.is_empty())
                    .then(|| serde_json::from_str(answer).expect("an answer in JSON"));
            }
        }
    }

    /// The code of the refusal that `line` gets, or "ok".
    pub(crate) fn verdict(&mut self, line: &Value) -> String {
        let answer = self.ask(line).unwrap_or_else(|| panic!("no answer to {line}"));
        if answer["ok"] == true {
            "ok".to_owned()
        } else {
            answer["error"]["code"].as_str().unwrap_or("none").to_owned()
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
