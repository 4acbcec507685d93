//! The README's shell blocks, top to bottom, by bash, in a directory that looks like a clone with a daemon beside it.

use std::{
    env, fs,
    fs::File,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{
    README,
    page::{Block, root},
    pattern::assert_lines,
    start, to_run,
};
use crate::harness::{PATIENCE, binary, wait_for};

/// What a block may need that a machine may not have, and how to see whether it is there.
const NEEDS: [(&str, &str); 2] = [("socat", "command -v socat"), ("python3", "python3 -c 'import duckdb'")];

/// Bash at work in `dir`, as a person who has put the programs on the PATH.
pub(super) fn bash(dir: &Path, socket: &str, script: &str) -> Command {
    let programs = binary("fastpersist");
    let mut path = programs.parent().expect("its directory").as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir);
    command.env("PATH", path).env("HOME", dir).env("FASTPERSIST_SOCKET", socket).stdin(Stdio::null());
    command
}

/// What the script needs and the machine does not have; says so.
pub(super) fn lacks(dir: &Path, script: &str) -> bool {
    let missing = NEEDS.iter().find(|(tool, probe)| {
        let found = || bash(dir, "", probe).output().is_ok_and(|output| output.status.success());
        script.contains(tool) && !found()
    });
    if let Some((tool, probe)) = missing {
        eprintln!("skipped: an example needs {tool}, and here `{probe}` fails");
    }
    missing.is_some()
}

/// Runs a script to its end and gives what it printed. It must end by itself, and well.
pub(super) fn run(dir: &Path, socket: &str, what: &str, script: &str) -> String {
    let logs = tempfile::tempdir().expect("a temporary directory");
    let (stdout, stderr) = (logs.path().join("stdout"), logs.path().join("stderr"));
    let file = |path: &Path| File::create(path).expect("a file for what it prints");
    let mut command = bash(dir, socket, script);
    command.stdout(file(&stdout)).stderr(file(&stderr)).process_group(0);
    let mut child = command.spawn().expect("start bash");
    let group = Pid::from_child(&child);
    let deadline = std::time::Instant::now() + PATIENCE;
    let status = wait_for(&format!("the end of {what}"), PATIENCE * 2, || {
        if std::time::Instant::now() > deadline {
            // Fails only when it has ended at this moment.
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.try_wait().expect("wait for bash")
    });
    // What it left in the background has no place here; mostly there is nothing.
    let _ = kill_process_group(group, Signal::KILL);
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("what it printed")).into_owned();
    let printed = read(&stdout);
    assert!(status.success(), "{what}: {status}\n{script}\nprinted\n{printed}\n{}", read(&stderr));
    printed
}

fn check(dir: &Path, socket: &str, block: &Block) {
    if lacks(dir, &block.text) {
        return;
    }
    let printed = run(dir, socket, &block.to_string(), &block.text);
    let expected = block.text.lines().filter_map(|line| line.strip_prefix("# → "));
    assert_lines(&block.to_string(), expected, &printed);
}

#[test]
fn the_shell_examples_do_what_they_say() {
    let Some(default) = start::Default::start(None) else { return };
    let dir = default.site.path("clone");
    fs::create_dir(&dir).unwrap();
    symlink(root().join("client"), dir.join("client")).unwrap();
    for block in to_run(README, "sh") {
        check(&dir, &default.socket, &block);
    }
    default.daemon.stop();
}
