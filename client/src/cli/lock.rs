//! The verb `lock`: runs a command while nobody else may.
//!
//! The command must not go on without the lock. So it is told to stop when the daemon goes, when the lock's
//! time is over, and when this process dies: the last by the kernel, which is asked by
//! [`become_command`] in the moment before it becomes the command.

use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _, parent_id};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use clap::Args;
use fastpersist_client::BlockingLock;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, set_parent_process_death_signal, waitid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

use super::Global;
use super::failure::{Exit, Failure, Outcome};

/// The environment variable in which the command finds the token.
const TOKEN_VARIABLE: &str = "FASTPERSIST_LOCK_TOKEN";
/// This program, also when its file was replaced while it waited for the lock.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// What shells say of a command that is not there, or that may not be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;
/// What shells add to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

#[derive(Debug, Args)]
#[command(after_help = "\
The command finds the fencing token in FASTPERSIST_LOCK_TOKEN, and its exit code is passed on (128 + N when signal N
ended it). Signals are passed on to it. It gets SIGTERM when the lock is lost: when the daemon goes (the exit code is
then 69), when --ttl-ms is over (1), and when this process is killed.
Where the lock is held and the wait is over, nothing is run and the exit code is 1.

Example:
  fastpersist lock nightly -- ./report.sh
  fastpersist lock nightly --wait-ms 5000 --ttl-ms 600000 -- make -C reports")]
pub(crate) struct LockArgs {
    /// The lock's name, 1 to 255 bytes.
    name: String,
    /// How long to wait while another one has it; without it nobody is waited for.
    #[arg(long, value_name = "MS", default_value_t = 0, hide_default_value = true)]
    wait_ms: u64,
    /// When it is freed, whatever happens.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    ttl_ms: Option<u64>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CommandArgs {
    /// The process that must live.
    parent: u32,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What can happen while the command runs.
enum Event {
    Ended,
    Signal(i32),
    DaemonGone,
}

pub(crate) fn lock(global: &Global, args: &LockArgs) -> Outcome<ExitCode> {
    let client = global.connect()?;
    let mut request = client.lock(args.name.as_str()).wait(Duration::from_millis(args.wait_ms));
    let ttl = args.ttl_ms.map(Duration::from_millis);
    if let Some(ttl) = ttl {
        request = request.ttl(ttl);
    }
    let lock = request.acquire()?;
    let until = ttl.and_then(|ttl| Instant::now().checked_add(ttl));
    drop(client);
    let (events, happened) = mpsc::channel();
    pass_signals(events.clone())?;
    watch_daemon(&lock, events.clone())?;
    let mut child = start(args, lock.token())?;
    let pid = Pid::from_child(&child);
    watch_child(pid, events);
    let mut lost = None;
    loop {
        let left = until.filter(|_| lost.is_none()).map(|at| at.saturating_duration_since(Instant::now()));
        let event = match left {
            Some(left) => happened.recv_timeout(left),
            None => happened.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Event::Signal(signal)) => tell(pid, signal),
            Ok(Event::DaemonGone) if lost.is_none() => {
                lost = Some(Exit::Unreachable);
                eprintln!(
                    "fastpersist: the daemon is gone and the lock with it; the command is told to stop"
                );
                tell(pid, SIGTERM);
            }
            Ok(Event::DaemonGone) => {}
            Err(RecvTimeoutError::Timeout) => {
                lost = Some(Exit::Failed);
                eprintln!("fastpersist: the lock's time is over (--ttl-ms); the command is told to stop");
                tell(pid, SIGTERM);
            }
        }
    }
    let status = child.wait().map_err(|error| Failure::io("the command", &error))?;
    if let Some(exit) = lost {
        return Ok(ExitCode::from(exit as u8));
    }
    // So that whoever comes now finds it free. The command has ended under the lock, whatever becomes of it.
    let _ = lock.release();
    Ok(ExitCode::from(code_of(status)))
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(Exit::Failed as u8)
}

/// Starts the command, by way of this program: see [`become_command`].
fn start(args: &LockArgs, token: u64) -> Outcome<Child> {
    let mut command = Command::new(OWN_PROGRAM);
    command
        .arg0("fastpersist")
        .arg("lock-command")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(&args.command);
    command.env(TOKEN_VARIABLE, token.to_string());
    command.spawn().map_err(|error| Failure::io("the command cannot be started", &error))
}

/// Becomes the command, which gets SIGTERM when the parent dies. There is no return but a failure.
pub(crate) fn become_command(args: &CommandArgs) -> ExitCode {
    let bound = set_parent_process_death_signal(Some(Signal::TERM));
    if let Err(error) = bound {
        eprintln!("fastpersist: the command cannot be bound to the lock: {error}");
        return ExitCode::from(Exit::Failed as u8);
    }
    if parent_id() != args.parent {
        // It died before it could be noticed, and the lock is free.
        return ExitCode::from(Exit::Failed as u8);
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return ExitCode::from(Exit::Usage as u8);
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("fastpersist: {program}: {error}");
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE })
}

fn tell(pid: Pid, signal: i32) {
    // It is not reaped yet, so the number is still its own; one that has ended takes no notice.
    let _ = Signal::from_named_raw(signal).map(|signal| kill_process(pid, signal));
}

/// Passes on what a process sends. What the terminal sends (Ctrl-C), the command gets from it.
fn pass_signals(events: Sender<Event>) -> Outcome {
    let ignored = ignored_signals();
    let mut signals = vec![SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
    signals.retain(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = SignalsInfo::<WithOrigin>::new(signals)
        .map_err(|error| Failure::io("signals cannot be passed on", &error))?;
    thread::spawn(move || {
        for origin in signals.forever() {
            if origin.process.is_some() && events.send(Event::Signal(origin.signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The signals that whoever started this program wants to be ignored, as `nohup` does: by the command too, which
/// inherits that only as long as nothing else is asked for. Bit 0 is signal 1.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Tells when the connection ends on which the lock lives. Nothing is read from it.
fn watch_daemon(lock: &BlockingLock, events: Sender<Event>) -> Outcome {
    let socket = lock.as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| Failure::io("the lock cannot be watched", &error))?;
    thread::spawn(move || {
        while poll(&mut [PollFd::new(&socket, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
        // When the lock is being released, nobody listens any more.
        let _ = events.send(Event::DaemonGone);
    });
    Ok(())
}

/// Tells when the command has ended, and leaves it to be reaped.
fn watch_child(pid: Pid, events: Sender<Event>) {
    thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
        let _ = events.send(Event::Ended);
    });
}
