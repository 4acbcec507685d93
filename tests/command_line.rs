//! The program `fastpersist`, as a script uses it: exit codes and one JSON line a record when piped.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Config, Site, binary};

fn fastpersist(socket: &str, args: &[&str]) -> Output {
    let mut command = Command::new(binary("fastpersist"));
    command.args(args).env("FASTPERSIST_SOCKET", socket).output().expect("run fastpersist")
}

#[test]
fn ping_and_info_reach_the_daemon() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let ping = fastpersist(site.socket(), &["ping"]);
    assert_eq!(ping.status.code(), Some(0), "{}", String::from_utf8_lossy(&ping.stderr));
    let info = fastpersist(site.socket(), &["info"]);
    let info: Value = serde_json::from_slice(&info.stdout).expect("JSON where it is piped");
    assert_eq!(info["pid"], daemon.pid(), "{info}");
    let by_flag = Command::new(binary("fastpersist"))
        .args(["ping", "--socket", site.socket()])
        .env_remove("FASTPERSIST_SOCKET")
        .output()
        .expect("run fastpersist");
    assert_eq!(by_flag.status.code(), Some(0), "{}", String::from_utf8_lossy(&by_flag.stderr));
}

#[test]
fn no_daemon_is_69_and_no_such_verb_is_2() {
    let site = Site::new(&Config::both());
    let gone = fastpersist(site.socket(), &["ping"]);
    assert_eq!(gone.status.code(), Some(69));
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(said.contains(site.socket()), "it names the socket: {said}");
    assert_eq!(fastpersist(site.socket(), &["no-such-verb"]).status.code(), Some(2));
}

#[test]
fn what_is_stored_at_the_socket_is_listed_by_the_program() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "store", "key": "task_1", "data": {"n": 1}}));
    let keys = fastpersist(site.socket(), &["keys"]);
    assert_eq!(keys.status.code(), Some(0), "{}", String::from_utf8_lossy(&keys.stderr));
    assert!(String::from_utf8_lossy(&keys.stdout).contains("task_1"));
}
