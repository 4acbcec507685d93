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

#[test]
fn stats_come_for_people_for_programs_and_for_prometheus() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "store", "storage": "jobs", "key": "task_1", "data": {"n": 1}}));
    let printed = |args: &[&str]| {
        let output = fastpersist(site.socket(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for args in [&["stats"][..], &["stats", "--json"], &["stats", "--format", "json"]] {
        let stats: Value = serde_json::from_str(&printed(args)).expect("one JSON line");
        assert_eq!(stats["storages"]["jobs"]["durable_seq"], 1, "{stats}");
    }
    let metrics = printed(&["stats", "--format", "openmetrics"]);
    assert!(metrics.contains("\nfastpersist_requests_total{op=\"store\",code=\"ok\"} 1\n"), "{metrics}");
    assert!(metrics.ends_with("\n# EOF\n"), "{metrics}");
    for args in [&["stats", "--text"][..], &["stats", "--format", "text"]] {
        let screen = printed(args);
        for word in ["jobs", "settings", "takes writes", "1 record", "of 256 MiB", "store 1"] {
            assert!(screen.contains(word), "{word} is not in\n{screen}");
        }
    }
    let both = fastpersist(site.socket(), &["stats", "--json", "--format", "text"]);
    assert_eq!(both.status.code(), Some(2), "one of them only");
}

#[test]
fn check_config_is_the_daemons_and_so_is_its_exit_code() {
    let relative = "[storage.more]\nmodel = \"dated\"\nbase_dir = \"more\"\nexport_at = \"02:00\"";
    let site = Site::new(&Config::both().text(relative));
    let file = site.config_file().to_string_lossy().into_owned();
    let check = || fastpersist("/nowhere", &["check-config", "--config", &file]);
    let right = check();
    let printed = String::from_utf8_lossy(&right.stdout).into_owned();
    assert_eq!(right.status.code(), Some(0), "{}", String::from_utf8_lossy(&right.stderr));
    for word in
        [&file, site.socket(), "jobs: dated", "settings: collection", "storage.more.base_dir is relative"]
    {
        assert!(printed.contains(word), "{word} is not in\n{printed}");
    }
    assert!(printed.contains("warning: storage.more.export_at does nothing"), "{printed}");
    site.configure(&Config::both().daemon("colour = 1"));
    let wrong = check();
    assert_eq!(wrong.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("colour"));
}

/// Batches that were under way behind a line that the daemon refused once counted it as done; and where nobody read the
/// summary, a load that had failed ended with 0.
#[test]
fn a_strict_load_goes_on_at_its_bad_line_and_fails_whether_anybody_reads_or_not() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let _daemon = site.start();
    let (input, state) = (site.path("in.ndjson"), site.path("state.json"));
    let write = |second: &str| {
        let lines = ["k0", second, "k2", "k3", "k4", "k5"].map(|key| json!({"id": key}).to_string());
        std::fs::write(&input, lines.join("\n")).expect("written");
    };
    let load = |options: &[&str]| {
        let mut command = Command::new(binary("fastpersist"));
        command.args(["load", &input.to_string_lossy(), "--key", "id", "--batch-size", "1"]).args(options);
        command.env("FASTPERSIST_SOCKET", site.socket());
        command
    };
    write(&"x".repeat(2_000));
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ended = load(&[]).stdout(closed).stderr(std::process::Stdio::null()).status().expect("it runs");
    assert_eq!(ended.code(), Some(1), "a line was refused");
    let resumed = ["--strict", "--resume", &state.to_string_lossy()];
    let output = load(&resumed).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("line 2") && said.contains("done is everything up to record 1 "), "{said}");
    write("k1");
    let output = load(&resumed).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let keys = fastpersist(site.socket(), &["keys", "--json"]);
    let keys = String::from_utf8_lossy(&keys.stdout).into_owned();
    assert!((0..6).all(|n| keys.contains(&format!("k{n}"))), "{keys}");
}
