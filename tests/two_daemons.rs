//! One daemon per directory: the second says who holds it, ends with 78 and touches nothing.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use serde_json::json;

use crate::harness::{Config, Exit, Site, files, run_to_exit};

/// A configuration for the same storage directories, with a socket of its own.
fn second() -> Config {
    Config::new().daemon("socket = \"{dir}/second.sock\"").text(
        "[storage.jobs]\nmodel = \"dated\"\nbase_dir = \"{dir}/jobs\"\nduckdb_flush_interval_seconds = 3600",
    )
}

fn first() -> Config {
    Config::new().dated("jobs", "duckdb_flush_interval_seconds = 3600")
}

/// The second daemon must end by itself. The first one's answers must not be taken for its own, so none is awaited.
fn refused(site: &Site) -> Exit {
    let exit = run_to_exit(site.command());
    assert_eq!(exit.code, Some(78), "{}", exit.stderr);
    exit
}

#[test]
fn the_second_names_directory_and_pid_and_touches_nothing() {
    let site = Site::new(&first());
    let mut daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..10 {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": format!("k{n}"), "data": {}}));
    }
    site.configure(&second());
    // A lock is old when its holder has lived long; that says nothing about whether it lives.
    for path in files::tree(&site.path("jobs")) {
        let long_ago = SystemTime::now() - Duration::from_secs(24 * 3600);
        File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    let before = files::snapshot(&site.path("jobs"));
    for _ in 0..3 {
        let exit = refused(&site);
        let directory = site.path("jobs").to_string_lossy().into_owned();
        assert!(exit.stderr.contains(&directory), "the directory is not named: {}", exit.stderr);
        assert!(exit.stderr.contains(&daemon.pid().to_string()), "the pid is not named: {}", exit.stderr);
    }
    let after = files::snapshot(&site.path("jobs"));
    assert_eq!(files::changed(&before, &after), [] as [std::path::PathBuf; 0]);
    assert!(!site.path("second.sock").exists(), "it opened no socket");
    daemon.assert_running();
    conn.ok(json!({"op": "store", "date": "2025-01-15", "key": "after", "data": {}}));
    assert_eq!(conn.ok(json!({"op": "keys", "date": "2025-01-15"}))["keys"].as_array().unwrap().len(), 11);
}

#[test]
fn one_shared_directory_of_several_is_enough() {
    let site = Site::new(&first());
    let _daemon = site.start();
    site.configure(
        &Config::new()
            .daemon("socket = \"{dir}/second.sock\"")
            .dated("a", "")
            .dated("jobs", "")
            .dated("z", ""),
    );
    let exit = refused(&site);
    assert!(exit.stderr.contains(&*site.path("jobs").to_string_lossy()), "{}", exit.stderr);
}

#[test]
fn a_killed_daemon_leaves_no_lock_behind() {
    let site = Site::new(&first());
    for n in 0..5 {
        let daemon = site.start();
        let stored =
            daemon.connect().ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {}}));
        assert_eq!(stored["seq"], n + 1);
        daemon.kill();
    }
}

#[test]
fn the_same_socket_is_not_taken_from_a_living_daemon() {
    let site = Site::new(&first());
    let daemon = site.start();
    site.configure(&Config::new().dated("other", ""));
    let exit = run_to_exit(site.command());
    assert_ne!(exit.code, Some(0), "{}", exit.stderr);
    let got = daemon.connect().ok(json!({"op": "info"}));
    assert_eq!(got["pid"], daemon.pid(), "the first still answers at its socket");
}
