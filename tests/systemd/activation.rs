//! A socket that is handed over: used as it is, left as it was, and nobody is refused during a restart.

use std::{
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixDatagram, net::UnixListener, net::UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use serde_json::json;

use super::config;
use crate::harness::{Conn, Daemon, PATIENCE, Site, run_to_exit, run_to_exit_with, wait_for};

/// Hands over what is standard input, as systemd does: from descriptor 3 on, with the number and for whom.
const HAND_OVER: &str = r#"exec 3<&0 </dev/null; export LISTEN_FDS="$1" LISTEN_PID=$$; shift; exec "$@""#;

/// The site's daemon, to be started with what it is handed over as standard input.
fn command(site: &Site, handed_over: impl Into<OwnedFd>, count: &str) -> (Command, Stdio) {
    let daemon = site.command();
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("HOME", site.path("")).args(["-c", HAND_OVER, "sh", count]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    (command, Stdio::from(handed_over.into()))
}

fn start(site: &Site, listener: &UnixListener, socket: &str) -> Daemon {
    let listener = listener.try_clone().expect("a second descriptor");
    let (command, stdin) = command(site, listener, "1");
    site.spawn_with(command, stdin, socket)
}

#[test]
fn systemd_socket_activate_starts_it() {
    let site = Site::new(&config());
    let socket = site.path("activated").to_string_lossy().into_owned();
    let mut command = Command::new("systemd-socket-activate");
    if command.arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: systemd-socket-activate is not here");
        return;
    }
    let daemon = site.command();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &socket]).arg(daemon.get_program()).args(daemon.get_args());
    // It listens, and becomes the daemon when the first client comes.
    let daemon = site.start_as(command, &socket);
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    assert!(daemon.stdout().contains(&format!("listens on {socket}\n")), "{}", daemon.stdout());
    assert!(daemon.log().contains("daemon.socket is not used"), "{}", daemon.log());
    assert!(!Path::new(site.socket()).exists(), "the configured socket is not bound beside it");
    daemon.stop();
    assert!(Path::new(&socket).exists(), "the socket's file is not the daemon's to remove");
}

/// Tells the clients to stop when it goes.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_restart_refuses_nobody() {
    let site = Site::new(&config());
    let socket = site.path("handed_over").to_string_lossy().into_owned();
    let listener = UnixListener::bind(&socket).unwrap();
    let before = std::fs::metadata(&socket).unwrap();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let stored = thread::scope(|scope| {
        let client = |name: usize| {
            let (socket, stop, answered) = (&socket, &stop, &answered);
            move || {
                let mut stored = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{name}-{}", stored.len());
                    // Taken back by a daemon that stops, it is asked again; refused by nobody, ever.
                    wait_for("an answer from one daemon or the next", PATIENCE, || {
                        let mut conn = Conn::connect(socket);
                        let store = json!({"op": "store", "storage": "settings", "key": key, "data": {}});
                        conn.try_ask(store).filter(|answer| answer["ok"] == true)
                    });
                    stored.push(key);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                stored
            }
        };
        // Also when a check fails: nobody may wait for clients that are told by nobody.
        let _stop = Stop(&stop);
        let clients: Vec<_> = (0..4).map(|name| scope.spawn(client(name))).collect();
        let in_time = |wanted: usize| {
            wait_for("the clients are answered", PATIENCE, || {
                (answered.load(Ordering::Relaxed) >= wanted).then_some(())
            });
        };
        for round in 1..=4 {
            // Nobody serves now: this one waits in the queue for the daemon to come.
            let mut waiting = Conn::connect(&socket);
            waiting.send(json!({"op": "ping"}));
            let daemon = start(&site, &listener, &socket);
            assert_eq!(waiting.answer()["pong"], true);
            in_time(answered.load(Ordering::Relaxed) + 50 * round);
            daemon.stop();
        }
        let last = start(&site, &listener, &socket);
        in_time(answered.load(Ordering::Relaxed) + 50);
        stop.store(true, Ordering::Relaxed);
        let stored: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let mut conn = last.connect();
        for key in &stored {
            let found = conn.ok(json!({"op": "get_key", "storage": "settings", "key": key}));
            assert_eq!(found["records"].as_array().map(Vec::len), Some(1), "{key}: {found}");
        }
        last.stop();
        stored
    });
    assert!(stored.len() >= 200, "{} stored", stored.len());
    let after = std::fs::metadata(&socket).unwrap();
    assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()), "the socket's file is as it was");
}

#[test]
fn what_is_no_listening_socket_is_refused_by_name() {
    let site = Site::new(&config());
    let (stream, _other) = UnixStream::pair().unwrap();
    let datagram = UnixDatagram::bind(site.path("datagram")).unwrap();
    let listener = UnixListener::bind(site.path("listening")).unwrap();
    let cases: [(OwnedFd, &str, &str); 3] = [
        (stream.into(), "1", "does not listen"),
        (datagram.into(), "1", "is not a valid unix stream socket"),
        (listener.into(), "2", "2 sockets"),
    ];
    for (handed_over, count, reason) in cases {
        let (command, stdin) = command(&site, handed_over, count);
        let exit = run_to_exit_with(command, stdin);
        assert_eq!(exit.code, Some(78), "{reason}: {}", exit.stderr);
        assert!(exit.stderr.contains(reason) && exit.stderr.contains(".socket unit"), "{}", exit.stderr);
    }
    assert!(!site.path("jobs").exists(), "nothing was touched");
}

#[test]
fn a_socket_for_another_process_is_not_ours() {
    let site = Site::new(&config());
    let mut command = site.command();
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let daemon = site.start_as(command, site.socket());
    daemon.connect().ok(json!({"op": "ping"}));
    daemon.stop();
    let mut command = site.command();
    command.env("LISTEN_FDS", "1").arg("--check-config");
    assert_eq!(run_to_exit(command).code, Some(0), "a look at the configuration takes no socket");
}
