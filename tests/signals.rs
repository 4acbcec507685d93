//! SIGUSR1 and SIGHUP, beside what `configuration` and `logs` have of them.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Config, Daemon, PATIENCE, Site, child::Stranger, is_root, wait_for};

/// The one line of stats in the log.
fn stats_line(daemon: &Daemon) -> String {
    daemon.signal(Signal::USR1);
    wait_for("a line of stats", PATIENCE, || {
        let log = daemon.log();
        let mut lines = log.lines().filter(|line| line.contains("asked by a signal"));
        let (line, more) = (lines.next()?.to_owned(), lines.next());
        // Only a line that has ended is whole.
        (more.is_none() && log.ends_with('\n')).then_some(line)
    })
}

#[test]
fn stats_are_one_line_in_either_format() {
    for format in ["text", "json"] {
        let site = Site::new(&Config::both().daemon(&format!("log_format = \"{format}\"")));
        let daemon = site.start();
        let mut conn = daemon.connect();
        conn.ok(json!({"op": "store", "storage": "settings", "key": "a \"quoted\"\nkey", "data": {}}));
        let line = stats_line(&daemon);
        let stats: Value = if format == "json" {
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let stats = event["fields"]["stats"].as_str().expect("a text");
            serde_json::from_str(stats).unwrap_or_else(|e| panic!("{stats}: {e}"))
        } else {
            let (_, stats) = line.split_once(" stats=").expect("stats");
            serde_json::from_str(stats).unwrap_or_else(|e| panic!("{stats}: {e}"))
        };
        assert_eq!(stats["storages"]["settings"]["durable_seq"], 1, "{stats}");
        assert_eq!(stats["daemon"]["requests"]["store"], 1, "{stats}");
    }
}

#[test]
fn a_reload_changes_all_or_nothing() {
    if !is_root() {
        return;
    }
    let rule = "[[access]]\nuid = 1\nrole = \"reader\"";
    let site = Site::new(&Config::both());
    let daemon = site.start();
    std::os::unix::fs::chown(site.socket(), None, Some(1)).expect("the socket for the stranger's group");
    let ping = json!({"op": "ping"});
    let reloaded = |count: usize| {
        daemon.signal(Signal::HUP);
        wait_for("the configuration is read again", PATIENCE, || {
            (daemon.log().matches("configuration was read again").count() == count).then_some(())
        });
        Stranger::connect(&site).verdict(&ping)
    };
    assert_eq!(Stranger::connect(&site).verdict(&ping), "forbidden");
    site.configure(&Config::both().limits("max_connections = 7").text(rule));
    assert_eq!(reloaded(1), "forbidden", "a limit cannot change, so access does not either");
    assert!(daemon.log().contains("limits.max_connections"), "{}", daemon.log());
    site.configure(&Config::both().text("[[access]]\nuid = 1\nrole = \"boss\""));
    assert_eq!(reloaded(2), "forbidden", "a mistake changes nothing");
    site.configure(&Config::both().text(rule));
    assert_eq!(reloaded(3), "ok");
    site.configure(&Config::both());
    assert_eq!(reloaded(4), "forbidden", "and taken away again");
}
