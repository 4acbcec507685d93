//! `strace` on the daemon: it tells the calls that change files, and ends the daemon at one of them.
//!
//! strace counts the calls of each thread by itself. So the n-th one is counted from a step of the script on, where few
//! threads do anything, and not from the daemon's start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::harness::{
    Daemon, PATIENCE, Site,
    strace::{self, Attached},
    wait_for,
};

/// The calls by which files and names change.
const CALLS: &str = "fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir,ftruncate,fallocate,openat,mkdir,\
     mkdirat,link,linkat,write,pwrite64,writev,pwritev";

/// A call of a step at which the daemon can be killed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) step: usize,
    pub(super) call: String,
    /// The how manieth of its thread in this step.
    pub(super) nth: u64,
}

/// On which side of the call the kill is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// The call is not made.
    Before,
    /// The call is made, and nothing after it.
    After,
}

fn log(site: &Site) -> PathBuf {
    site.path("strace.log")
}

fn strace(site: &Site, inject: Option<(&Place, Side)>) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "0", "-e", &format!("trace={CALLS}"), "-o"]).arg(log(site));
    if let Some((place, side)) = inject {
        let signal = if side == Side::Before { "KILL" } else { "STOP" };
        command.args(["-e", &format!("inject={}:signal={signal}:when={}", place.call, place.nth)]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// `fastpersistd` that is traced from its first call on. The process is the daemon; strace ends with it.
pub(super) fn traced_start(site: &Site, inject: Option<(&Place, Side)>) -> Command {
    // What the last one of this site has written is not this one's.
    let _ = fs::remove_file(log(site));
    let daemon = site.command();
    let mut command = strace(site, inject);
    command.arg("-D").arg(daemon.get_program()).args(daemon.get_args());
    command.env_clear().env("HOME", site.path("")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Ends a daemon that was stopped behind a call, however long its client waits for an answer.
pub(super) struct Ender {
    pid: u32,
    strace: Option<Attached>,
    done: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Ender {
    /// For a daemon that was started with `traced_start`.
    pub(super) fn watch(site: &Site, daemon: &Daemon) -> Self {
        let (done, pid, log) = (Arc::new(AtomicBool::new(false)), daemon.pid(), log(site));
        let told = Arc::clone(&done);
        let watcher = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) && !is_gone(pid) {
                if fs::read_to_string(&log).unwrap_or_default().contains("--- stopped by SIGSTOP") {
                    return strace::end(pid);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { pid, strace: None, done, watcher: Some(watcher) }
    }

    /// For a daemon that runs; its threads' calls are counted from now on.
    pub(super) fn attach(site: &Site, daemon: &Daemon, place: &Place, when: Side) -> Self {
        let strace = Attached::attach(strace(site, Some((place, when))), daemon);
        let mut ender = Self::watch(site, daemon);
        ender.strace = Some(strace);
        ender
    }

    pub(super) fn is_gone(&self) -> bool {
        is_gone(self.pid)
    }
}

impl Drop for Ender {
    /// To be dropped before the daemon is waited for: strace now and then keeps a dead thread, and with it the process.
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.watcher.take().map(JoinHandle::join);
        strace::let_go(self.pid);
    }
}

/// Whether a child of ours has ended, reaped or not.
pub(super) fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
}

/// How much strace has written, when it writes no more: what a step does in the background is the step's.
pub(super) fn settled(site: &Site) -> usize {
    let mut last = (0, 0);
    wait_for("the daemon has come to rest", PATIENCE, || {
        let length = fs::metadata(log(site)).map_or(0, |log| log.len() as usize);
        last = if last.0 == length { (length, last.1 + 1) } else { (length, 0) };
        (last.1 == 20).then_some(length)
    })
}

/// The places of a traced life, whose steps ended at these lengths of the log.
pub(super) fn places(site: &Site, ends: &[(usize, usize)]) -> BTreeSet<Place> {
    let text = fs::read_to_string(log(site)).expect("strace's log");
    let own = format!("{}/", site.path("").display()).replace("//", "/");
    let mut places = BTreeSet::new();
    let mut begun = 0;
    for (step, end) in ends {
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for line in text[begun..*end].lines() {
            let Some((thread, call, rest)) = parse(line) else { continue };
            let count = counts.entry((thread, call)).or_default();
            *count += 1;
            let changes = rest.contains(&own)
                && !rest.contains(".log>")
                && (call != "openat" || rest.contains("O_CREAT"));
            if changes {
                places.insert(Place { step: *step, call: call.to_owned(), nth: *count });
            }
        }
        begun = *end;
    }
    places
}

/// The thread, the name and the rest of a line in which a call begins.
fn parse(line: &str) -> Option<(&str, &str, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (call, rest) = rest.trim_start().split_once('(')?;
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name(call).then_some((thread, call, rest))
}

/// The call at which the daemon ended, for a report.
pub(super) fn last_call(site: &Site, place: &Place) -> String {
    let text = fs::read_to_string(log(site)).unwrap_or_default();
    let is_it = |line: &&str| parse(line).is_some_and(|(_, call, _)| call == place.call);
    text.lines().rev().find(is_it).unwrap_or("none").chars().take(200).collect()
}

/// Whether the daemon was killed, as strace saw it.
pub(super) fn was_killed(site: &Site) -> bool {
    fs::read_to_string(log(site)).unwrap_or_default().contains("+++ killed by SIGKILL")
}

/// Whether strace ended it, or stopped it to be ended.
pub(super) fn was_ended(site: &Site) -> bool {
    let text = fs::read_to_string(log(site)).unwrap_or_default();
    ["+++ killed by SIGKILL", "--- stopped by SIGSTOP"].iter().any(|sign| text.contains(sign))
}

/// How the daemon ended, where it did so by itself and not well.
pub(super) fn own_end(site: &Site) -> Option<String> {
    let text = fs::read_to_string(log(site)).unwrap_or_default();
    let is_end = |line: &&str| {
        let end = line.split_once("+++ ").map(|(_, end)| end);
        end.is_some_and(|end| !end.starts_with("exited with 0") && !end.starts_with("killed by SIGKILL"))
    };
    text.lines().find(is_end).map(str::to_owned)
}

#[test]
fn an_end_of_its_own_is_told_from_one_by_strace() {
    let site = Site::new(&super::script::config());
    for (line, ended, own) in [
        ("8  +++ killed by SIGKILL +++", true, false),
        ("8  --- stopped by SIGSTOP ---", true, false),
        ("8  +++ exited with 0 +++", false, false),
        ("8  +++ exited with 1 +++", false, true),
        ("8  +++ killed by SIGABRT (core dumped) +++", false, true),
    ] {
        fs::write(log(&site), format!("7  fdatasync(3</a>) = 0\n{line}\n")).unwrap();
        assert_eq!((was_ended(&site), own_end(&site).is_some()), (ended, own), "{line}");
    }
}

#[test]
fn places_are_counted_by_thread_and_only_where_files_change() {
    let lines = [
        "7  openat(AT_FDCWD</>, \"/proc/x\", O_RDONLY) = 3</proc/x>",
        "7  openat(AT_FDCWD</>, \"/own/a\", O_WRONLY|O_CREAT|O_EXCL, 0666) = 3</own/a>",
        "8  fdatasync(3</own/a> <unfinished ...>",
        "7  write(5<socket:[1]>, \"\"..., 10) = 10",
        "8  <... fdatasync resumed>)         = 0",
        "7  fdatasync(4</own/b>)             = 0",
        "8  fdatasync(4</own/b>)             = 0",
        "8  +++ killed by SIGKILL +++",
    ];
    let found: Vec<_> =
        lines.iter().filter_map(|line| parse(line)).map(|(thread, call, _)| (thread, call)).collect();
    let expected = [
        ("7", "openat"),
        ("7", "openat"),
        ("8", "fdatasync"),
        ("7", "write"),
        ("7", "fdatasync"),
        ("8", "fdatasync"),
    ];
    assert_eq!(found, expected);
    let site = Site::new(&super::script::config());
    let own = site.path("").to_string_lossy().trim_end_matches('/').to_owned();
    fs::write(log(&site), lines.join("\n").replace("/own", &own)).unwrap();
    let length = fs::metadata(log(&site)).unwrap().len() as usize;
    let found: Vec<_> =
        places(&site, &[(3, length)]).into_iter().map(|place| (place.step, place.call, place.nth)).collect();
    let place = |call: &str, nth| (3, call.to_owned(), nth);
    assert_eq!(found, [place("fdatasync", 1), place("fdatasync", 2), place("openat", 2)]);
}
