//! Directories that vanish, are replaced or become read-only while the daemon runs: writes are refused and say why, reads from
//! memory go on, `check_health` tells, nothing is made anew in the wrong place, and when the directory is back everything goes on.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{
        Config, Conn, Daemon, PATIENCE, Site, bare_command, binary, child::STRANGER, files, is_root, wait_for,
    },
    runs::Tally,
};

const STORAGES: [&str; 2] = ["jobs", "settings"];

fn config() -> Config {
    // Small segments: the log is extended all the time.
    let lines = "duckdb_flush_interval_seconds = 1\nmax_wal_size = 65536\nwal_retain_days = 0";
    Config::new().dated("jobs", lines).collection("settings", lines)
}

fn request(op: &str, storage: &str) -> Value {
    match storage {
        "jobs" => json!({"op": op, "storage": storage, "date": "2025-01-15"}),
        _ => json!({"op": op, "storage": storage}),
    }
}

/// What was answered, by storage.
#[derive(Default)]
struct Ledger {
    next: u64,
    answered: [BTreeSet<String>; 2],
    wrong: Vec<String>,
    lost: Vec<String>,
}

impl Ledger {
    fn store(&mut self, conn: &mut Conn, index: usize) -> Value {
        let key = format!("k{:05}", self.next);
        self.next += 1;
        let mut asked = request("store", STORAGES[index]);
        asked["key"] = json!(key);
        asked["data"] = json!({"pad": "x".repeat(500)});
        let answer = conn.ask(asked);
        if answer["ok"] == true {
            self.answered[index].insert(key);
        }
        answer
    }

    fn fill(&mut self, conn: &mut Conn, count: u64) {
        for _ in 0..count {
            for index in 0..STORAGES.len() {
                let answer = self.store(conn, index);
                assert_eq!(answer["ok"], true, "{answer}");
            }
        }
    }

    /// Writes until it is refused, in both storages; each refusal has this code and one of these in its message.
    fn until_refused(&mut self, conn: &mut Conn, why: &str) {
        for (index, storage) in STORAGES.into_iter().enumerate() {
            let refused = wait_for(&format!("{storage} takes no writes"), PATIENCE, || {
                let answer = self.store(conn, index);
                (answer["ok"] != true).then(|| answer["error"].clone())
            });
            let says = refused["message"].as_str().is_some_and(|message| message.contains(why));
            if refused["code"] != "busy" || refused["retryable"] != true || !says {
                self.wrong.push(format!("{storage}: a refusal that does not say {why:?}: {refused}"));
            }
            let read = conn.ok({
                let mut asked = request("get_key", storage);
                asked["key"] = json!(self.answered[index].first());
                asked
            });
            if read["records"].as_array().is_none_or(|records| records.len() != 1) {
                self.wrong.push(format!("{storage}: what memory has is not read: {read}"));
            }
        }
    }

    /// It goes on by itself, and in the end nothing is wrong any more.
    fn goes_on(&mut self, conn: &mut Conn) {
        for (index, storage) in STORAGES.into_iter().enumerate() {
            wait_for(&format!("{storage} takes writes again"), PATIENCE, || {
                (self.store(conn, index)["ok"] == true).then_some(())
            });
        }
        self.fill(conn, 20);
        wait_for("everything is flushed again", PATIENCE, || {
            (conn.ask(json!({"op": "flush"}))["ok"] == true).then_some(())
        });
        let health = conn.ok(json!({"op": "check_health"}));
        let is_bad = |one: &&Value| one["kind"] != "suspect";
        let bad: Vec<_> = health["problems"].as_array().expect("a list").iter().filter(is_bad).collect();
        if !bad.is_empty() {
            self.wrong.push(format!("back again, and still: {bad:?}"));
        }
        self.check(conn);
    }

    fn check(&mut self, conn: &mut Conn) {
        for (index, storage) in STORAGES.into_iter().enumerate() {
            let mut asked = request("keys", storage);
            asked["limit"] = json!(100_000);
            let found = conn.ok(asked);
            let found: BTreeSet<String> = found["keys"]
                .as_array()
                .expect("keys")
                .iter()
                .map(|key| key.as_str().expect("a key").to_owned())
                .collect();
            for key in self.answered[index].difference(&found) {
                self.lost.push(format!("{storage}: {key} was answered"));
            }
            for key in found.difference(&self.answered[index]) {
                self.wrong.push(format!("{storage}: {key} was refused, and is there"));
            }
        }
        let sql = "SELECT count(*), count(DISTINCT key) FROM storage_history";
        let found = conn.ok(json!({"op": "query", "storage": "settings", "sql": sql}));
        let count = self.answered[1].len();
        if found["rows"] != json!([[count, count]]) {
            self.wrong.push(format!("{count} writes were answered, the history has {}", found["rows"]));
        }
    }

    fn finish(self, mut tally: Tally) {
        tally.lost = self.lost;
        tally.wrong = self.wrong;
        tally.end();
    }
}

/// `check_health` names a problem of both storages, at the latest when the next flush has failed.
fn is_told(conn: &mut Conn) {
    for storage in STORAGES {
        wait_for(&format!("check_health tells of {storage}"), PATIENCE, || {
            let health = conn.ok(json!({"op": "check_health", "storage": storage}));
            (health["status"] == "degraded").then_some(())
        });
    }
}

/// What takes a directory's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    Nothing,
    Another,
    Link,
    /// A file system mounted over it, seen by the daemon alone.
    Mount,
}

/// Runs a command in the daemon's mount namespace.
fn inside(daemon: &Daemon, command: &[&str]) {
    let mut all = vec!["-t".to_owned(), daemon.pid().to_string(), "-m".to_owned()];
    all.extend(command.iter().map(|part| (*part).to_owned()));
    let status = Command::new("nsenter").args(&all).status().expect("run nsenter");
    assert!(status.success(), "{command:?}: {status}");
}

impl Instead {
    const ALL: [Self; 4] = [Self::Nothing, Self::Another, Self::Link, Self::Mount];

    fn start(self, site: &Site) -> Daemon {
        if self != Self::Mount {
            return site.start();
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private"]);
        command.arg(binary("fastpersistd")).arg("--config").arg(site.config_file());
        site.start_as(command, site.socket())
    }

    fn break_it(self, site: &Site, daemon: &Daemon) {
        for storage in STORAGES {
            let (path, away) = (site.path(storage), site.path(&format!("{storage}.away")));
            if self == Self::Mount {
                inside(daemon, &["mount", "-t", "tmpfs", "tmpfs", &path.to_string_lossy()]);
                continue;
            }
            fs::rename(&path, &away).expect("move it away");
            match self {
                Self::Another => fs::create_dir(&path).expect("make another one"),
                Self::Link => {
                    let other = site.path(&format!("{storage}.other"));
                    fs::create_dir(&other).expect("make another one");
                    symlink(&other, &path).expect("link to it");
                }
                _ => {}
            }
        }
    }

    /// What was made where the directories were.
    fn strays(self, site: &Site, daemon: &Daemon) -> Vec<String> {
        let below = |path: &Path| files::tree(path);
        let paths = STORAGES.into_iter().flat_map(|storage| match self {
            Self::Mount => {
                below(Path::new(&format!("/proc/{}/root{}", daemon.pid(), site.path(storage).display())))
            }
            _ => below(&site.path(storage)),
        });
        let there = |storage: &str| self == Self::Nothing && site.path(storage).exists();
        let made = STORAGES.into_iter().filter(|storage| there(storage)).map(str::to_owned);
        paths.map(|path| path.display().to_string()).chain(made).collect()
    }

    fn mend(self, site: &Site, daemon: &Daemon) {
        for storage in STORAGES {
            let (path, away) = (site.path(storage), site.path(&format!("{storage}.away")));
            match self {
                Self::Mount => {
                    inside(daemon, &["umount", &path.to_string_lossy()]);
                    continue;
                }
                Self::Another => fs::remove_dir(&path).expect("nothing was made in it"),
                Self::Link => fs::remove_file(&path).expect("remove the link"),
                Self::Nothing => {}
            }
            fs::rename(&away, &path).expect("put it back");
        }
    }
}

#[test]
fn a_directory_that_is_away_is_missed_and_found_again() {
    let mut tally = Tally::new("directories");
    let mut ledger = Ledger::default();
    for instead in Instead::ALL {
        if instead == Instead::Mount && !is_root() {
            continue;
        }
        let site = Site::new(&config());
        let mut daemon = instead.start(&site);
        let mut conn = daemon.connect();
        let mut part = Ledger::default();
        part.fill(&mut conn, 150);
        instead.break_it(&site, &daemon);
        part.until_refused(&mut conn, "is not the directory that was opened");
        is_told(&mut conn);
        let refused =
            conn.ask(json!({"op": "store", "storage": "jobs", "date": "2025-02-01", "key": "k", "data": {}}));
        if refused["ok"] == true {
            part.wrong.push(format!("{instead:?}: a date was made where the directory is not: {refused}"));
        }
        let strays = instead.strays(&site, &daemon);
        if !strays.is_empty() {
            part.wrong.push(format!("{instead:?}: made in the wrong place: {strays:?}"));
        }
        daemon.assert_running();
        instead.mend(&site, &daemon);
        part.goes_on(&mut conn);
        daemon.kill();
        let daemon = site.start();
        part.check(&mut daemon.connect());
        daemon.stop();
        ledger.lost.append(&mut part.lost);
        ledger.wrong.append(&mut part.wrong);
        tally.runs += 1;
        tally.injected += STORAGES.len() as u64;
    }
    ledger.finish(tally);
}

/// It cannot come back, so nothing is promised but that it is said, and that what begins anew says so too.
#[test]
fn a_directory_that_was_removed_is_not_made_anew_while_it_runs() {
    let mut tally = Tally::new("directories-removed");
    let site = Site::new(&config());
    let daemon = site.start();
    let mut ledger = Ledger::default();
    let mut conn = daemon.connect();
    ledger.fill(&mut conn, 150);
    for storage in STORAGES {
        // DuckDB removes files too.
        wait_for("it is removed", PATIENCE, || fs::remove_dir_all(site.path(storage)).ok());
    }
    ledger.until_refused(&mut conn, "is not the directory that was opened");
    is_told(&mut conn);
    for storage in STORAGES.into_iter().filter(|storage| site.path(storage).exists()) {
        ledger.wrong.push(format!("{storage} was made anew"));
    }
    let log = daemon.log();
    daemon.signal(Signal::TERM);
    let mut daemon = daemon;
    let status = wait_for("it stops", PATIENCE, || daemon.ended());
    // What it had in memory is nowhere: that is no clean end.
    if status.code() != Some(1) {
        ledger.wrong.push(format!("it ended with {status}"));
    }
    drop(daemon);
    let daemon = site.start();
    let begun = daemon.log()[log.len()..].to_owned();
    for storage in STORAGES {
        let told = begun.lines().any(|line| line.contains("begins empty") && line.contains(storage));
        if !told {
            ledger.wrong.push(format!("{storage} begins empty, and nobody says so: {begun}"));
        }
    }
    daemon.stop();
    let before = site.start();
    let again = before.log().matches("begins empty").count();
    if again != 2 * STORAGES.len() {
        ledger.wrong.push(format!("it was said {again} times, and not for each first start"));
    }
    before.stop();
    tally.runs = 1;
    tally.injected = STORAGES.len() as u64;
    ledger.finish(tally);
}

fn set_modes(root: &Path, mode: u32) {
    fs::set_permissions(root, fs::Permissions::from_mode(mode)).expect("change the mode");
    for entry in fs::read_dir(root).expect("list it").flatten() {
        if entry.path().is_dir() {
            set_modes(&entry.path(), mode);
        }
    }
}

/// Root may write everywhere, so the daemon is another user's.
#[test]
fn a_directory_that_is_read_only_for_a_while_costs_refusals_and_nothing_else() {
    if !is_root() {
        return;
    }
    let mut tally = Tally::new("directories-read-only");
    let site = Site::new(&config());
    chown(site.path(""), Some(STRANGER), Some(STRANGER)).expect("give the directory away");
    let program = site.path("daemon");
    // Not copied by this process: a child that another test starts meanwhile would hold it open for writing.
    let copied = Command::new("cp").arg(binary("fastpersistd")).arg(&program).status().expect("run cp");
    assert!(copied.success(), "copy the daemon: {copied}");
    let command = || {
        let mut command = Command::new(&program);
        command.env_clear().arg("--config").arg(site.config_file()).uid(STRANGER).gid(STRANGER);
        command
    };
    let start = || site.start_as(command(), site.socket());
    let daemon = start();
    let mut ledger = Ledger::default();
    let mut conn = daemon.connect();
    ledger.fill(&mut conn, 150);
    let set = |mode| STORAGES.map(|storage| set_modes(&site.path(storage), mode));
    set(0o555);
    ledger.until_refused(&mut conn, "Permission denied");
    wait_for("the flush fails", PATIENCE, || (conn.ask(json!({"op": "flush"}))["ok"] != true).then_some(()));
    is_told(&mut conn);
    set(0o755);
    ledger.goes_on(&mut conn);
    ledger.fill(&mut conn, 20);
    daemon.kill();
    // The start has to make durable what is not flushed, and cannot: somebody has to look.
    set(0o555);
    match site.try_start_as(command(), site.socket()) {
        Ok(_) => ledger.wrong.push("it started where it may not write".to_owned()),
        Err(exit) if exit.code != Some(78) || !exit.stderr.contains("Permission denied") => {
            ledger.wrong.push(format!("the start ended with {:?}: {}", exit.code, exit.stderr));
        }
        Err(_) => {}
    }
    set(0o755);
    let daemon = start();
    ledger.check(&mut daemon.connect());
    daemon.stop();
    tally.runs = 1;
    tally.injected = 2 * STORAGES.len() as u64;
    ledger.finish(tally);
}

/// Where the socket stands, where Parquet goes, and where the log of the daemon goes.
#[test]
fn what_is_beside_the_data_costs_no_data() {
    let mut tally = Tally::new("directories-beside");
    let mut ledger = Ledger::default();
    let site = Site::new(
        &config()
            .daemon("socket = \"{dir}/run/sock\"\nlog_dir = \"{dir}/logs\"")
            .dated("measured", "parquet_path = \"{dir}/parquet\""),
    );
    let socket = site.path("run/sock").to_string_lossy().into_owned();
    let start = || {
        fs::create_dir_all(site.path("run")).expect("make the socket's directory");
        let mut command = bare_command(&site.path(""));
        command.arg("--config").arg(site.config_file());
        site.start_as(command, &socket)
    };
    let daemon = start();
    let mut conn = daemon.connect();
    ledger.fill(&mut conn, 20);
    conn.ok(json!({"op": "store", "storage": "measured", "key": "k", "data": {}}));
    let export = json!({"op": "export_parquet", "storage": "measured"});
    conn.ok(&export);

    fs::remove_dir_all(site.path("run")).expect("remove the socket's directory");
    fs::rename(site.path("logs"), site.path("logs.away")).expect("move the log away");
    fs::write(site.path("logs"), "a file").expect("put a file in its place");
    fs::rename(site.path("parquet"), site.path("parquet.away")).expect("move Parquet away");
    fs::write(site.path("parquet"), "a file").expect("put a file in its place");
    daemon.signal(Signal::HUP);
    let failed = conn.ask(&export);
    if failed["error"]["code"] != "internal" {
        ledger.wrong.push(format!("an export to nowhere: {failed}"));
    }
    if Conn::try_connect(&socket).is_ok() {
        ledger.wrong.push("there is a socket where there is no directory".to_owned());
    }
    ledger.fill(&mut conn, 150);
    ledger.check(&mut conn);
    tally.injected = 3;

    fs::remove_file(site.path("logs")).expect("remove the file");
    fs::remove_file(site.path("parquet")).expect("remove the file");
    daemon.signal(Signal::HUP);
    let exported = conn.ok(&export);
    if exported["rows"] != 1 {
        ledger.wrong.push(format!("it exports again: {exported}"));
    }
    ledger.fill(&mut conn, 20);
    daemon.stop();
    let daemon = start();
    ledger.check(&mut daemon.connect());
    daemon.stop();
    tally.runs = 1;
    ledger.finish(tally);
}
