//! `fastpersist watch`: prints or runs a command, goes on after a restart of the daemon, and after its own.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{start, store};
use crate::harness::{Config, PATIENCE, Site, binary, wait_for};

pub(super) fn command(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(binary("fastpersist"));
    command.arg("watch").args(args).env("FASTPERSIST_SOCKET", site.socket()).stdin(Stdio::null());
    command.current_dir(site.path(""));
    command
}

fn watch(site: &Site, args: &[&str]) -> Output {
    command(site, args).output().expect("run fastpersist watch")
}

/// A watch in the background, printing into a file; killed when it goes out of scope.
struct Running {
    child: Child,
    printed: std::path::PathBuf,
}

impl Running {
    fn start(site: &Site, name: &str, args: &[&str]) -> Self {
        let printed = site.path(name);
        let file = File::create(&printed).expect("a file");
        let child = command(site, args).stdout(file).spawn().expect("start fastpersist watch");
        Self { child, printed }
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.printed)
    }

    fn wait_for_lines(&self, count: usize) {
        wait_for(&format!("{count} lines"), PATIENCE, || (self.lines().len() >= count).then_some(()));
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        let status = wait_for("the end of the watch", PATIENCE, || self.child.try_wait().expect("wait"));
        assert_eq!(status.code(), Some(0), "Ctrl-C is a clean end");
        self.lines()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_prints_changes_as_the_daemon_tells_them() {
    let (site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    conn.ok(r#"{"op":"store","key":"job/1","process_name":"w","data":{"n": 1e400}}"#);
    conn.ok(store("other"));
    conn.ok(json!({"op": "delete", "key": "job/1", "process_name": "w"}));
    let output = watch(&site, &["--from-seq", "1", "--prefix", "job/", "--limit", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut printed = printed.lines();
    let stored = printed.next().unwrap();
    assert!(stored.starts_with(r#"{"event":"store","record":{"date":""#), "{stored}");
    assert!(stored.contains(r#""data":{"n": 1e400}"#), "byte for byte: {stored}");
    let deleted: Value = serde_json::from_str(printed.next().unwrap()).unwrap();
    assert_eq!(
        (&deleted["event"], &deleted["key"], &deleted["seq"]),
        (&json!("delete"), &json!("job/1"), &json!(3))
    );
    let people = watch(&site, &["--from-seq", "1", "--limit", "3", "--text"]);
    let people = String::from_utf8(people.stdout).unwrap();
    assert!(people.lines().nth(2).is_some_and(|line| line.ends_with("delete  job/1 / w")), "{people}");
}

#[test]
fn it_goes_on_when_the_daemon_is_killed_and_ends_at_ctrl_c() {
    let (site, daemon) = start("collection", "");
    daemon.connect().ok(store("k0"));
    let running = Running::start(&site, "printed", &["--from-seq", "1"]);
    running.wait_for_lines(1);
    let mut daemon = Some(daemon);
    for n in 1..=4u64 {
        let old = daemon.take().unwrap();
        if n % 2 == 0 {
            old.stop();
        } else {
            old.kill();
        }
        let new = site.start();
        new.connect().ok(store(format_args!("k{n}")));
        running.wait_for_lines(n as usize + 1);
        daemon = Some(new);
    }
    let seqs: Vec<Value> = running
        .interrupt()
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["record"]["seq"].clone())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[test]
fn a_command_finds_the_change_and_its_failure_ends_the_watch() {
    let (site, daemon) = start("collection", "");
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "key": "a b'c", "collection_name": "c", "item_name": "", "data": {"n": 1}, "value": 7}));
    conn.ok(json!({"op": "delete", "key": "a b'c", "collection_name": "c"}));
    let script = r#"cat >> stdin; echo "$FASTPERSIST_EVENT|$FASTPERSIST_SEQ|$FASTPERSIST_KEY|${FASTPERSIST_DATE-none}|$FASTPERSIST_COLLECTION_NAME|${FASTPERSIST_ITEM_NAME-none}|$FASTPERSIST_STORAGE""#;
    let args = ["--from-seq", "1", "--limit", "2", "--exec", script, "-s", "settings"];
    let output = watch(&site, &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected = ["store|1|a b'c|none|c||settings", "delete|2|a b'c|none|c||settings"];
    assert!(printed.lines().eq(expected), "{printed}");
    let stdin: Vec<Value> =
        lines(&site.path("stdin")).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&stdin[0]["record"]["value"], &stdin[1]["event"]), (&json!(7), &json!("delete")));
    // The second one fails: the state stays before it.
    let failing = "test $FASTPERSIST_SEQ != 2";
    let from_one = ["--from-seq", "1", "--limit", "2", "--state", "state", "--exec", failing];
    let output = watch(&site, &from_one);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("change 2"), "{}", stderr(&output));
    let state: Value = serde_json::from_slice(&fs::read(site.path("state")).unwrap()).unwrap();
    assert_eq!(state["last_seq"], 1);
    let output = watch(&site, &["--limit", "1", "--state", "state", "--keep-going", "--exec", failing]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("change 2"), "{}", stderr(&output));
    let state: Value = serde_json::from_slice(&fs::read(site.path("state")).unwrap()).unwrap();
    assert_eq!(state["last_seq"], 2);
}

#[test]
fn a_command_that_ends_with_the_watch_leaves_its_change_to_the_next() {
    let (site, daemon) = start("dated", "");
    daemon.connect().ok(store("k"));
    let script = "trap 'exit 1' INT; echo begun; while :; do sleep 0.05; done";
    let args = ["--from-seq", "1", "--state", "state", "--keep-going", "--exec", script];
    let mut command = command(&site, &args);
    let printed = site.path("printed");
    let child = std::os::unix::process::CommandExt::process_group(&mut command, 0)
        .stdout(File::create(&printed).expect("a file"))
        .spawn()
        .expect("start fastpersist watch");
    let mut running = Running { child, printed };
    running.wait_for_lines(1);
    // As a terminal does: to all of them.
    rustix::process::kill_process_group(Pid::from_child(&running.child), Signal::INT).expect("they run");
    let status = wait_for("the end of the watch", PATIENCE, || running.child.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(0));
    let state: Value = serde_json::from_slice(&fs::read(site.path("state")).unwrap()).unwrap();
    assert_eq!(state["last_seq"], 0, "it was not handled");
}

#[test]
fn it_ends_when_nobody_reads_what_it_prints() {
    let (site, daemon) = start("dated", "");
    daemon.connect().ok(store("k"));
    let child = command(&site, &["--from-seq", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut running = Running { child: child.expect("start fastpersist watch"), printed: site.path("none") };
    let mut line = String::new();
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(super::seams::last_number(&line), Some(1), "{line}");
    // Nothing is stored: it is not the next change that tells.
    drop(stdout);
    let status = wait_for("the end of the watch", PATIENCE, || running.child.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(0), "nobody reads: that is no failure");
    let mut said = String::new();
    running.child.stderr.take().unwrap().read_to_string(&mut said).expect("its stderr");
    assert_eq!(said, "");
}

#[test]
fn what_people_see_is_one_line_whatever_the_key() {
    let (site, daemon) = start("dated", "");
    daemon.connect().ok(store("red\u{1b}[31m\nnew"));
    let people = watch(&site, &["--from-seq", "1", "--limit", "1", "--text"]);
    let people = String::from_utf8(people.stdout).unwrap();
    assert_eq!(people.lines().count(), 1, "{people:?}");
    assert!(people.contains("red\\u{1b}[31m\\nnew") && !people.contains('\u{1b}'), "{people:?}");
}

#[test]
fn with_a_state_it_misses_nothing_between_its_runs() {
    let (site, daemon) = start("dated", "");
    let mut conn = daemon.connect();
    conn.ok(store("before"));
    let running = Running::start(&site, "first", &["--state", "state"]);
    wait_for("the state to be begun", PATIENCE, || site.path("state").exists().then_some(()));
    // It has seen nothing yet, and knows all the same from where on.
    assert_eq!(running.interrupt(), [""; 0]);
    conn.all_ok((0..3).map(store));
    let running = Running::start(&site, "second", &["--state", "state"]);
    running.wait_for_lines(3);
    conn.ok(store("k"));
    running.wait_for_lines(4);
    running.interrupt();
    conn.all_ok((0..2).map(store));
    let third = watch(&site, &["--state", "state", "--limit", "2"]);
    assert_eq!(String::from_utf8(third.stdout).unwrap().lines().count(), 2);
    let seqs: Vec<u64> =
        lines(&site.path("second")).iter().map(|line| super::seams::last_number(line).unwrap()).collect();
    assert_eq!(seqs, [2, 3, 4, 5]);
    let other = watch(&site, &["--state", "state", "--date", "1999-12-31"]);
    assert_eq!(other.status.code(), Some(2), "{}", stderr(&other));
}

#[test]
fn what_cannot_be_watched_is_said() {
    let site = Site::new(&Config::both());
    let _daemon = site.start();
    let unknown = watch(&site, &["-s", "none"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("unknown_storage"), "{}", stderr(&unknown));
}
