//! Two daemons, and sometimes three, that start at the same instant on the same directory, also while the one before them is
//! being killed: one answers, the others end with 78, name the directory and the one that has it, and have touched nothing.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Barrier,
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    harness::{Config, Conn, Daemon, PATIENCE, Random, Site, files, wait_for},
    runs::{Tally, count},
};

/// What is raced for: nothing is flushed, so each life plays the whole log again.
const QUIET: &str = "duckdb_flush_interval_seconds = 3600\nbatch_size = 1000000";

/// One of several that start at once.
struct Racer {
    child: Child,
    socket: PathBuf,
    stderr: PathBuf,
    own_socket: bool,
}

impl Drop for Racer {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(socket: &str) -> Config {
    Config::new()
        .daemon(&format!("socket = \"{{dir}}/{socket}\""))
        .dated("jobs", QUIET)
        .collection("settings", QUIET)
}

/// Starts `number` of them at one instant, each with a socket of its own or all with the same one. A former one is killed after
/// so long.
fn race(site: &Site, number: usize, own_sockets: bool, former: Option<(Daemon, Duration)>) -> Vec<Racer> {
    let dir = site.path("").to_string_lossy().trim_end_matches('/').to_owned();
    let prepare = |n: usize| {
        let socket = if own_sockets { format!("racer{n}.sock") } else { "sock".to_owned() };
        let file = site.path(&format!("racer{n}.toml"));
        fs::write(&file, config(&socket).render(&dir)).expect("write a configuration");
        if own_sockets {
            // One that won an earlier round was killed, and has left it.
            let _ = fs::remove_file(site.path(&socket));
        }
        let stderr = site.path(&format!("racer{n}.log"));
        let log = fs::File::create(&stderr).expect("create a log");
        let mut command = Command::new(crate::harness::binary("fastpersistd"));
        command.arg("--config").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        (command, site.path(&socket), stderr)
    };
    let prepared: Vec<_> = (0..number).map(prepare).collect();
    let line = Barrier::new(number + usize::from(former.is_some()));
    thread::scope(|scope| {
        let line = &line;
        let starting: Vec<_> = prepared
            .into_iter()
            .map(|(mut command, socket, stderr)| {
                scope.spawn(move || {
                    line.wait();
                    let child = command.spawn().expect("start fastpersistd");
                    Racer { child, socket, stderr, own_socket: own_sockets }
                })
            })
            .collect();
        if let Some((daemon, after)) = former {
            scope.spawn(move || {
                line.wait();
                // The random moment: this wait waits for nothing.
                thread::sleep(after);
                daemon.kill();
            });
        }
        starting.into_iter().map(|racer| racer.join().expect("a racer")).collect()
    })
}

/// Waits until all but at most one have ended, and that one answers.
fn outcome(mut racers: Vec<Racer>) -> (Option<Racer>, Vec<(Racer, Option<i32>)>) {
    let mut lost = Vec::new();
    wait_for("all but one end, and that one answers", PATIENCE, || {
        let mut index = 0;
        while index < racers.len() {
            match racers[index].child.try_wait().expect("look at a racer") {
                Some(status) => lost.push((racers.remove(index), status.code())),
                None => index += 1,
            }
        }
        match &racers[..] {
            [] => Some(()),
            [one] => {
                let info =
                    Conn::try_connect(&one.socket.to_string_lossy()).ok()?.try_ask(json!({"op": "info"}))?;
                (info["pid"] == one.child.id()).then_some(())
            }
            _ => None,
        }
    });
    (racers.pop(), lost)
}

/// What the losers have to have said.
fn judge(site: &Site, lost: &[(Racer, Option<i32>)], holders: &[u32], wrong: &mut Vec<String>) {
    let directories = [site.path("jobs"), site.path("settings")].map(|path| path.display().to_string());
    for (racer, code) in lost {
        let said = fs::read_to_string(&racer.stderr).expect("read a log");
        let names_pid = holders.iter().any(|pid| said.contains(&format!("pid {pid}")));
        if *code != Some(78) || !directories.iter().any(|name| said.contains(name)) || !names_pid {
            wrong.push(format!(
                "one that came too late ended with {code:?}; {holders:?} held it; it said: {said}"
            ));
        }
        if racer.own_socket && racer.socket.exists() {
            wrong.push(format!("one that came too late opened {}", racer.socket.display()));
        }
    }
}

fn store(conn: &mut Conn, round: u64) {
    for storage in ["jobs", "settings"] {
        let mut asked = json!({"op": "store", "storage": storage, "key": format!("{round:04}"), "data": {"round": round}});
        if storage == "jobs" {
            asked["date"] = json!("2025-01-15");
        }
        assert_eq!(conn.ok(asked)["seq"], round + 1, "{storage}");
    }
}

fn check(conn: &mut Conn, rounds: u64, lost: &mut Vec<String>) {
    let expected: Vec<_> = (0..rounds).map(|round| format!("{round:04}")).collect();
    for storage in ["jobs", "settings"] {
        let mut asked = json!({"op": "keys", "storage": storage, "limit": 10_000});
        if storage == "jobs" {
            asked["date"] = json!("2025-01-15");
        }
        let found = conn.ok(asked);
        if found["keys"] != json!(expected) {
            lost.push(format!("{storage}: {rounds} rounds were answered, {found} is there"));
        }
    }
}

#[test]
fn of_those_that_start_at_once_one_answers() {
    let mut tally = Tally::new("races");
    let mut random = Random::new();
    let site = Site::new(&config("sock"));
    for round in 0..count(50, 1000) {
        let number = if random.between(1, 3) == 1 { 3 } else { 2 };
        let own_sockets = random.between(1, 2) == 1;
        let former = (random.between(1, 2) == 1).then(|| {
            site.configure(&config("sock"));
            (site.start(), Duration::from_micros(random.between(0, 30_000)))
        });
        let former_pid = former.as_ref().map(|(daemon, _)| daemon.pid());
        let (winner, lost) = outcome(race(&site, number, own_sockets, former));
        tally.runs += 1;
        tally.injected += lost.len() as u64;
        let winner_pid = winner.as_ref().map(|racer| racer.child.id());
        let holders: Vec<_> = winner_pid.into_iter().chain(former_pid).collect();
        judge(&site, &lost, &holders, &mut tally.wrong);
        let socket = match &winner {
            Some(racer) => racer.socket.to_string_lossy().into_owned(),
            // Only where the former one outlived all of them.
            None if former_pid.is_some() => {
                let daemon = site.start();
                let mut conn = daemon.connect();
                check(&mut conn, round, &mut tally.lost);
                store(&mut conn, round);
                continue;
            }
            None => {
                tally.wrong.push(format!("round {round}: none of {number} won"));
                break;
            }
        };
        let mut conn = Conn::connect(&socket);
        check(&mut conn, round, &mut tally.lost);
        store(&mut conn, round);
        let left = files::tree(&site.path("jobs")).into_iter().chain(files::tree(&site.path("settings")));
        let is_trace = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("torn-") || name.contains("damaged") || name.ends_with(".suspect")
        };
        let traces: Vec<_> = left.filter(is_trace).collect();
        if !traces.is_empty() {
            tally.wrong.push(format!("round {round}: nobody wrote, and yet there is {traces:?}"));
        }
        for directory in ["jobs", "settings"] {
            let holder =
                fs::read_to_string(site.path(directory).join("fastpersistd.lock")).expect("a lock file");
            if winner_pid.map(|pid| pid.to_string()).as_deref() != Some(holder.trim()) {
                tally.wrong.push(format!("{directory}: the lock file names {holder:?}, not {winner_pid:?}"));
            }
        }
    }
    tally.end();
}
