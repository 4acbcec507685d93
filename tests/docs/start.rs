//! The first minute: the daemon without a configuration, the line that it gives to paste, and the demo.

use std::fs;

use serde_json::json;

use super::{
    README,
    page::blocks,
    pattern::assert_lines,
    shell::{lacks, run},
};
use crate::harness::{Config, Daemon, Site, bare_command};

/// A daemon on its embedded default.
pub(super) struct Default {
    /// Before its site: when a test fails, it shows its log before that is gone.
    pub(super) daemon: Daemon,
    pub(super) socket: String,
    pub(super) site: Site,
}

impl Default {
    /// Starts one in the user's own directory or in `base_dir`. `None` where the machine has a configuration file.
    pub(super) fn start(base_dir: Option<&str>) -> Option<Self> {
        if fs::exists("/etc/fastpersistd/config.toml").unwrap() {
            eprintln!("skipped: this machine has a configuration of its own");
            return None;
        }
        let site = Site::new(&Config::new());
        let mut command = bare_command(&site.path(""));
        if let Some(dir) = base_dir {
            command.arg("--base-dir").arg(site.path(dir));
        }
        let dir = site.path(base_dir.unwrap_or(".local/state/fastpersistd"));
        let socket = dir.join("fastpersistd.sock").to_string_lossy().into_owned();
        let daemon = site.start_as(command, &socket);
        Some(Self { daemon, socket, site })
    }
}

/// The README's block that begins so.
fn shown(begin: &str) -> String {
    let found = blocks(README).into_iter().find(|block| block.text.starts_with(begin));
    found.unwrap_or_else(|| panic!("{README} has no block that begins with {begin}")).text
}

#[test]
fn it_prints_its_socket_and_a_line_that_works_when_pasted() {
    let Some(default) = Default::start(Some("base")) else { return };
    let printed = default.daemon.stdout();
    let text = shown("fastpersistd 0.1.0 listens on ");
    let socket = text.lines().next().and_then(|line| line.split(' ').next_back()).expect("a socket");
    assert_eq!(printed, text.replace(socket, &default.socket), "as {README} shows it");
    let line = printed.lines().find_map(|line| line.strip_prefix("try:  ")).expect("a line to paste");
    let dir = default.site.path("");
    if !lacks(&dir, line) {
        let answer = run(&dir, "/nowhere", line, line);
        assert_eq!(answer, format!("{}\n", json!({"ok": true, "pong": true})));
    }
    default.daemon.stop();
}

#[test]
fn the_demo_loses_nothing() {
    let site = Site::new(&Config::new());
    let printed = run(&site.path(""), "/nowhere", "the demo", &shown("fastpersist demo"));
    assert_lines("the demo", shown("check  ").lines().filter(|line| *line != "…"), &printed);
}
