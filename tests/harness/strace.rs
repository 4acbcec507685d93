//! `strace` on a daemon: its system calls are told, fail, wait, or end it. Whoever uses it asks [`available`] first.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Daemon, PATIENCE, wait_for};

/// How long `strace` may take to let go when it is asked to.
const POLITE: Duration = Duration::from_secs(2);

/// Whether `strace` may be used here; says so where it may not.
pub(crate) fn available(to: &str) -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let available = tried.is_ok_and(|status| status.success());
    if !available {
        eprintln!("skipped: strace is needed to {to}");
    }
    available
}

/// `strace` on all threads of a daemon that runs already.
pub(crate) struct Attached {
    strace: Child,
    daemon: u32,
}

impl Attached {
    /// Starts `strace`, with everything but the process given, and waits until it has each thread.
    pub(crate) fn attach(mut strace: Command, daemon: &Daemon) -> Self {
        strace.args(["-p", &daemon.pid().to_string()]);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut attached = Self { strace: strace.spawn().expect("start strace"), daemon: daemon.pid() };
        let tasks = format!("/proc/{}/task", daemon.pid());
        wait_for("strace has all threads", PATIENCE, || {
            let ended = attached.strace.try_wait().expect("look at strace");
            assert!(ended.is_none(), "strace has ended: {ended:?}");
            let tasks = fs::read_dir(&tasks).expect("the daemon's threads");
            tasks.flatten().all(|task| tracer(&task.path()).is_some()).then_some(())
        });
        attached
    }
}

impl Drop for Attached {
    /// Lets go of the daemon, which then goes on as if nothing had been.
    fn drop(&mut self) {
        let_go(self.daemon);
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Makes whoever traces a thread of the process let go of it, so that it goes on, or can be waited for: strace now and
/// then keeps a dead thread, and with it the process.
pub(crate) fn let_go(pid: u32) {
    let tracers = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter_map(|task| tracer(&task.path())).collect::<BTreeSet<_>>()
    };
    // Asked, it first finishes the call that it tampers with.
    for tracer in tracers() {
        signal(tracer, Signal::TERM);
    }
    let deadline = Instant::now() + POLITE;
    while Instant::now() < deadline && !tracers().is_empty() {
        thread::sleep(Duration::from_millis(2));
    }
    for tracer in tracers() {
        end(tracer);
    }
}

/// SIGKILL.
pub(crate) fn end(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // Fails only where it has ended already.
        let _ = kill_process(pid, signal);
    }
}

/// The process that traces a thread.
fn tracer(task: &Path) -> Option<u32> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}
