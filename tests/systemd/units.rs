//! The units as systemd itself judges them, without one that runs.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::config;
use crate::harness::{PATIENCE, Site, binary, is_root, strace, wait_for};

pub(crate) const SERVICE: &str = "fastpersistd.service";
pub(crate) const SOCKET: &str = "fastpersistd.socket";
const UNITS: [&str; 2] = [SERVICE, SOCKET];
/// What `systemd-analyze security` may find at most, in tenths.
const MAX_EXPOSURE: &str = "10";
/// Where the units of systemd itself lie, by distribution.
const SYSTEM_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name)
}

/// What a program of systemd says; `None` where it is not here, and says so.
fn systemd(program: &str, arguments: &[&str]) -> Option<Output> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).env("SYSTEMD_COLORS", "0").output();
    if output.is_err() {
        eprintln!("skipped: {program} is not here");
    }
    output.ok()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A root directory with the units, the daemon, and the targets that they name.
fn root() -> Option<tempfile::TempDir> {
    let Some(system) = SYSTEM_UNITS.iter().map(Path::new).find(|dir| dir.join("sysinit.target").exists())
    else {
        eprintln!("skipped: systemd's own units are not here");
        return None;
    };
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    let programs = root.path().join("usr/bin");
    fs::create_dir_all(&units).unwrap();
    fs::create_dir_all(&programs).unwrap();
    symlink("usr/bin", root.path().join("bin")).unwrap();
    for name in UNITS {
        fs::copy(source(name), units.join(name)).unwrap();
    }
    for target in fs::read_dir(system).unwrap().flatten().map(|entry| entry.path()) {
        if target.extension().is_some_and(|extension| extension == "target") && target.is_file() {
            fs::copy(&target, units.join(target.file_name().unwrap())).unwrap();
        }
    }
    fs::copy("/bin/kill", programs.join("kill")).unwrap();
    fs::hard_link(binary("fastpersistd"), programs.join("fastpersistd"))
        .or_else(|_| fs::copy(binary("fastpersistd"), programs.join("fastpersistd")).map(drop))
        .unwrap();
    Some(root)
}

/// What `systemd-analyze verify` has to say of the units with these drop-ins.
fn complaints(drop_ins: &[(&str, &str)]) -> Option<String> {
    let root = root()?;
    for (unit, text) in drop_ins {
        let dir = root.path().join("etc/systemd/system").join(format!("{unit}.d"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("override.conf"), text).unwrap();
    }
    let at = format!("--root={}", root.path().display());
    // The man pages are not installed here; `packages` looks whether they are in the package.
    let arguments = ["verify", "--man=no", at.as_str()];
    let output = systemd("systemd-analyze", &[&arguments[..], &UNITS[..]].concat())?;
    let text = text(&output);
    assert!(output.status.success() || !text.is_empty(), "it failed without a word");
    Some(text)
}

/// The units must verify with these drop-ins, without a word.
pub(crate) fn verify_with(drop_ins: &[(&str, &str)]) {
    if let Some(text) = complaints(drop_ins) {
        assert_eq!(text, "", "with {drop_ins:?}");
    }
}

#[test]
fn they_verify() {
    verify_with(&[]);
    // A mistake would be seen: this is what makes the silence above worth something.
    if let Some(text) = complaints(&[(SERVICE, "[Service]\nRestart=sometimes\n")]) {
        assert!(text.contains("sometimes"), "{text}");
    }
}

#[test]
fn the_service_may_do_little() {
    let unit = source(SERVICE);
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold, unit.to_str().unwrap()];
    let Some(output) = systemd("systemd-analyze", &arguments) else { return };
    let text = text(&output);
    let overall = text.lines().find_map(|line| line.split("Overall exposure level for ").nth(1));
    let level = overall.and_then(|rest| rest.split(": ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let level = level.unwrap_or_else(|| panic!("no level in {text}"));
    assert!(level <= 1.0 && output.status.success(), "{text}");
}

#[test]
fn the_service_is_what_it_promises() {
    let unit = fs::read_to_string(source(SERVICE)).unwrap();
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "RestartPreventExitStatus=78",
        "StateDirectory=fastpersistd",
        "RuntimeDirectory=fastpersistd",
        "RuntimeDirectoryPreserve=yes",
        "LogsDirectory=fastpersistd",
        "Requires=fastpersistd.socket",
    ] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    assert!(unit.lines().any(|line| line.starts_with("WatchdogSec=")), "a watchdog");
    // In a user namespace every peer would be "nobody".
    assert!(!unit.lines().any(|line| line.starts_with("PrivateUsers=")), "no PrivateUsers=");
    let socket = fs::read_to_string(source(SOCKET)).unwrap();
    let listens = socket.lines().find_map(|line| line.strip_prefix("ListenStream=")).expect("a path");
    let example = fs::read_to_string(source("config.toml")).unwrap();
    assert!(example.contains(&format!("\nsocket = \"{listens}\"\n")), "{listens}");
}

#[test]
fn the_user_and_the_directories_can_be_made() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let at = format!("--root={}", root.path().display());
    let users = source("sysusers.d/fastpersistd.conf");
    let Some(made) = systemd("systemd-sysusers", &[&at, users.to_str().unwrap()]) else { return };
    assert!(made.status.success(), "{}", text(&made));
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let user = passwd.lines().find(|line| line.starts_with("fastpersistd:")).expect("the user");
    assert!(user.ends_with(":/var/lib/fastpersistd:/usr/sbin/nologin"), "{user}");
    let group = fs::read_to_string(root.path().join("etc/group")).unwrap();
    assert!(group.lines().any(|line| line.starts_with("fastpersistd:")), "{group}");

    let directories = source("tmpfiles.d/fastpersistd.conf");
    let arguments = [at.as_str(), "--create", directories.to_str().unwrap()];
    let Some(made) = systemd("systemd-tmpfiles", &arguments) else { return };
    assert!(made.status.success() && text(&made).is_empty(), "{}", text(&made));
    for (directory, mode) in [("run", 0o755), ("var/lib", 0o750), ("var/log", 0o750)] {
        use std::os::unix::fs::MetadataExt;
        let made = fs::metadata(root.path().join(directory).join("fastpersistd")).unwrap();
        let uid: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
        assert_eq!((made.mode() & 0o777, made.uid()), (mode, uid), "{directory}");
    }
}

/// The system calls of a set, with those of the sets in it.
fn calls_of(set: &str) -> Option<BTreeSet<String>> {
    let output = systemd("systemd-analyze", &["syscall-filter", set])?;
    let mut calls = BTreeSet::new();
    for line in text(&output).lines().map(str::trim) {
        if line.starts_with('@') && line != set {
            calls.extend(calls_of(line)?);
        } else if !line.is_empty() && !line.starts_with(['#', '@']) {
            calls.insert(line.to_owned());
        }
    }
    Some(calls)
}

/// What the service may call, by its `SystemCallFilter=` lines in their order.
fn allowed() -> Option<BTreeSet<String>> {
    let unit = fs::read_to_string(source(SERVICE)).unwrap();
    let mut allowed = BTreeSet::new();
    for filter in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (names, denied) = filter.strip_prefix('~').map_or((filter, false), |names| (names, true));
        for name in names.split(' ') {
            let calls =
                if name.starts_with('@') { calls_of(name)? } else { BTreeSet::from([name.to_owned()]) };
            if denied {
                allowed.retain(|call| !calls.contains(call));
            } else {
                allowed.extend(calls);
            }
        }
    }
    // systemd adds what a program needs to be started at all.
    allowed.extend(calls_of("@default")?);
    Some(allowed)
}

/// A day of work under `strace`: a call that the unit forbids would fail only in production.
#[test]
fn the_daemon_calls_nothing_that_the_unit_forbids() {
    let Some(allowed) = allowed() else { return };
    assert!(allowed.contains("fdatasync") && !allowed.contains("chown"), "{allowed:?}");
    let config = config().text("[storage.measured]\nmodel = \"dated\"\nbase_dir = \"{dir}/measured\"\nparquet_path = \"{dir}/parquet\"");
    let site = Site::new(&config);
    let listener = std::os::unix::net::UnixListener::bind(site.socket()).unwrap();
    let (log, daemon) = (site.path("calls"), site.command());
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-S", "name", "-o"]).arg(&log).arg("/bin/sh");
    command.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]);
    command.arg(daemon.get_program()).args(daemon.get_args()).env("HOME", site.path(""));
    if !strace::available("see the system calls") {
        return;
    }
    work(&site, command, listener);
    let table = fs::read_to_string(&log).unwrap();
    let rows = table.lines().skip(2).take_while(|line| !line.starts_with('-'));
    let called: BTreeSet<_> = rows.filter_map(|row| row.split_whitespace().last()).collect();
    assert!(called.contains("fdatasync") && called.contains("accept4"), "{table}");
    let forbidden: Vec<_> = called.into_iter().filter(|call| !allowed.contains(*call)).collect();
    assert_eq!(forbidden, [""; 0], "system calls that the unit does not allow");
}

/// Starts, stores, flushes, exports, reads the configuration again, and stops.
fn work(site: &Site, command: Command, listener: std::os::unix::net::UnixListener) {
    let mut strace =
        site.spawn_with(command, Stdio::from(std::os::fd::OwnedFd::from(listener)), site.socket());
    let mut conn = strace.connect();
    let pid = conn.ok(json!({"op": "info"}))["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    for storage in ["jobs", "settings", "measured"] {
        conn.ok(json!({"op": "store", "storage": storage, "key": "k", "data": {"n": 1}}));
        conn.ok(json!({"op": "store", "storage": storage, "key": "k", "data": {}, "durability": "buffered"}));
        conn.ok(json!({"op": "flush", "storage": storage}));
    }
    conn.ok(json!({"op": "export_parquet", "storage": "measured"}));
    conn.ok(json!({"op": "stats"}));
    kill_process(pid, Signal::HUP).unwrap();
    wait_for("the configuration is read again", PATIENCE, || {
        strace.log().contains("the configuration was read again").then_some(())
    });
    strace.assert_running();
    kill_process(pid, Signal::TERM).unwrap();
    strace.ended_cleanly();
}
