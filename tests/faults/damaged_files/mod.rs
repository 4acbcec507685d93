//! One file of a storage is damaged, cut, gone or out of reach: it is found and told, what it held is had back, and
//! nothing that was answered is lost but what a tool has said before, and what no file has any more.
//!
//! A run builds a site with both models, chooses a file and a fault by its seed, while the daemon runs, or when it was
//! stopped or killed, and then does what the daemon's messages say until everything is well again. The model of what was
//! answered is asked after each step, and at last the tables are read past the daemon.

mod fault;
pub(crate) mod site;
mod sources;

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    process::Command,
};

use serde_json::{Value, json};

use super::answered::{Answered, Lost};
use super::runs::{self, Tally};
use crate::harness::{
    Conn, Daemon, Exit, Random, Site, binary, files, python,
    strace::{self, Attached},
};
use fault::{Fault, Injected};
use rustix::process::Signal;
use site::{DATES, KINDS, Shape};

/// Of nobody on this machine.
const SERVICE: u32 = 4243;
/// DuckDB may end the process over a damaged file; the fourth start does without the file.
const STARTS: usize = 4;

/// How the daemon is when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Killed,
    Running,
}

/// What the runs of one call have seen.
#[derive(Default)]
struct Seen {
    /// Faults that changed nothing that anybody reads.
    harmless: u64,
    /// Runs in which a record was lost as it had been told.
    told: u64,
    refused: u64,
    crashed: u64,
}

#[test]
fn what_one_damaged_file_costs_is_found_told_and_had_back() {
    let mut tally = Tally::new("damaged_files");
    let mut seen = Seen::default();
    for seed in runs::seeds(20, 200) {
        tally.runs += 1;
        let mut run = Run::new(seed);
        let what = run.what();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.all(&mut seen)));
        tally.injected += 1;
        if let Err(panic) = ended {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            run.wrong.push(text.unwrap_or_default());
        }
        for wrong in run.wrong {
            eprintln!("{what}: {wrong}");
            let list = if wrong.contains("is not there") { &mut tally.lost } else { &mut tally.wrong };
            list.push(format!("FASTPERSIST_SEED={what}: {wrong}"));
        }
    }
    println!(
        "damaged_files: harmless {}, refused until a person came {}, with losses that were told {}, starts that DuckDB ended {}",
        seen.harmless, seen.refused, seen.told, seen.crashed
    );
    tally.end();
}

struct Run {
    seed: u64,
    random: Random,
    kind: site::Kind,
    fault: Fault,
    state: State,
    shape: Shape,
    site: Site,
    /// The daemon is another user's.
    as_service: bool,
    answered: Answered,
    lost: Lost,
    /// Whether anything told of the fault.
    is_found: bool,
    wrong: Vec<String>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let kind = KINDS[seed as usize % KINDS.len()];
        let mut fault = Fault::ALL[(seed + seed / 20) as usize * 2 % Fault::ALL.len()];
        if fault == Fault::Failing && !strace::available("make reads fail") {
            fault = Fault::Forbidden;
        }
        let is_wal = kind.0.contains(".wal");
        let states = [State::Stopped, State::Killed, State::Running];
        let state = match kind.0 {
            // Only a partition that is closed has it.
            "settled" => State::Stopped,
            _ => random.pick(if is_wal { &states[1..] } else { &states[..] }),
        };
        let shape = Shape {
            // Where the log may go, DuckDB's own is brought into its file first.
            log_goes: kind.0.starts_with("log_removed") || (!is_wal && random.one_in(2)),
            flushed: is_wal || random.one_in(2),
        };
        let site = Site::in_memory(&site::config(&shape));
        let as_service = fault == Fault::Forbidden && rustix::process::geteuid().is_root();
        let (answered, lost) = Default::default();
        Self {
            seed,
            random,
            kind,
            fault,
            state,
            shape,
            site,
            as_service,
            answered,
            lost,
            is_found: false,
            wrong: Vec::new(),
        }
    }

    fn what(&self) -> String {
        format!(
            "{} {}, {:?}, {:?}, log goes: {}",
            self.seed, self.kind.0, self.fault, self.state, self.shape.log_goes
        )
    }

    fn command(&self) -> Command {
        command(&self.site, self.as_service)
    }

    fn all(&mut self, seen: &mut Seen) {
        if self.as_service {
            let copied =
                Command::new("cp").arg(binary("fastpersistd")).arg(self.site.path("fastpersistd")).status();
            assert!(copied.expect("run cp").success(), "the program is copied");
            chown(self.site.path(""), Some(SERVICE), Some(SERVICE)).unwrap();
        }
        let (site, as_service) = (&self.site, self.as_service);
        let start = || site.start_as(command(site, as_service), site.socket());
        let daemon = site::build(site, &start, &self.shape, &mut self.random, &mut self.answered);
        // So every record is known as the daemon told it, `updated_at` included.
        let mut conn = daemon.connect();
        self.check(&mut conn, "before");
        let daemon = match self.state {
            State::Stopped => {
                daemon.stop();
                None
            }
            State::Killed => {
                daemon.kill();
                None
            }
            State::Running => Some(daemon),
        };
        let file = self.random.pick(&site::candidates(&self.site, self.kind));
        let injected = Injected::inject(&file, self.fault, &mut self.random);
        let harmless = is_harmless(&injected);
        let logged = self.log().len();
        eprintln!("{}: {}", self.what(), file.display());
        if let Some(daemon) = daemon {
            injected.outdated.set(true);
            self.while_running(daemon, &injected);
        }
        let daemon = self.start(&injected, seen);
        let mut daemon = self.after_start(daemon, &injected, seen);
        for _ in 0..2 {
            daemon = self.restarted_where_told(daemon, &injected, seen);
        }
        self.until_well(daemon, &injected);
        // A database that is gone is made anew at the start: only the log can tell of it, for no look finds it any more.
        if self.fault == Fault::Missing && file.extension().is_some_and(|extension| extension == "duckdb") {
            let path = file.display().to_string();
            let told = |line: &str| line.contains(" WARN ") && line.contains(&path);
            self.is_found |= self.log()[logged..].lines().any(told);
        }
        seen.harmless += u64::from(harmless);
        seen.told += u64::from(!self.lost.is_empty());
        if !self.is_found && !harmless {
            self.wrong.push(format!("nothing told of {}", injected.file.display()));
        }
    }

    /// What the daemons have logged so far.
    fn log(&self) -> String {
        fs::read_to_string(self.site.path("stderr.log")).unwrap()
    }

    fn check(&mut self, conn: &mut Conn, when: &str) {
        let wrong = self.answered.check(conn, &self.lost);
        self.wrong.extend(wrong.into_iter().take(4).map(|wrong| format!("{when}: {wrong}")));
    }

    /// A deep look; whether it tells of the file, and whether all is well.
    fn look(&mut self, conn: &mut Conn, injected: &Injected) -> Value {
        let health = conn.ok(json!({"op": "check_health", "deep": true}));
        let name = injected.file.file_name().unwrap().to_string_lossy().into_owned();
        let backup = injected.file.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let text = health["problems"].to_string();
        self.is_found |= text.contains(&name) || text.contains(&format!("backup {backup}"));
        health
    }

    /// A daemon that is to start, with the reads failing that have to.
    fn start_command(&self, injected: &Injected) -> Command {
        let daemon = self.command();
        if injected.fault != Fault::Failing || !injected.is_there() {
            return daemon;
        }
        let mut command = injected.strace();
        // The process that we start is the daemon, and strace its child.
        command.arg("-D").arg(daemon.get_program()).args(daemon.get_args());
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("HOME", self.site.path("")).env("PATH", path);
        command
    }

    /// Reads by key and writes go on, and a deep look tells of the file.
    fn while_running(&mut self, daemon: Daemon, injected: &Injected) {
        let failing =
            (injected.fault == Fault::Failing).then(|| Attached::attach(injected.strace(), &daemon));
        let mut conn = daemon.connect();
        site::write(&mut conn, &mut self.answered, &mut self.random, &DATES[2..], 20);
        self.look(&mut conn, injected);
        self.verify_backups(&mut conn);
        site::write(&mut conn, &mut self.answered, &mut self.random, &DATES[2..], 20);
        drop(conn);
        if self.random.one_in(2) {
            drop(failing);
            daemon.kill();
        } else {
            daemon.signal(Signal::TERM);
            let code = daemon.exit_code();
            if code.is_none() {
                self.wrong.push("SIGTERM: a signal ended the daemon".to_owned());
            }
        }
    }

    fn verify_backups(&mut self, conn: &mut Conn) {
        for storage in ["jobs", "settings"] {
            let listed = conn.ask(json!({"op": "list_backups", "storage": storage}));
            for backup in listed["backups"].as_array().into_iter().flatten() {
                let verify = json!({"op": "verify_backup", "storage": storage, "backup": backup["backup"]});
                self.is_found |= conn.ask(verify)["ok"] != true;
            }
            self.is_found |= listed["ok"] != true;
        }
    }

    /// Starts; does what a refusal says until there is none.
    fn start(&mut self, injected: &Injected, seen: &mut Seen) -> Daemon {
        let mut crashes = 0;
        for _ in 0..8 {
            match self.site.try_start_as(self.start_command(injected), self.site.socket()) {
                Ok(daemon) => return daemon,
                Err(Exit { code: None, stderr }) => {
                    crashes += 1;
                    seen.crashed += 1;
                    eprintln!("{}: a start ended with a signal: {}", self.what(), last_line(&stderr));
                    assert!(crashes < STARTS, "the daemon does not start any more: {stderr}");
                }
                Err(exit) => {
                    seen.refused += 1;
                    self.is_found = true;
                    self.help(injected, &exit);
                }
            }
        }
        panic!("every start is refused");
    }

    /// Does what the message of a refused start says.
    fn help(&mut self, injected: &Injected, exit: &Exit) {
        let told = last_line(&exit.stderr);
        eprintln!("{}: refused with {:?}: {told}", self.what(), exit.code);
        if exit.code != Some(78) {
            self.wrong.push(format!("refused with {:?} instead of 78: {told}", exit.code));
        }
        let name = injected.file.file_name().unwrap().to_string_lossy().into_owned();
        if !told.contains(&name) && !told.contains(name.trim_end_matches(".wal")) {
            self.wrong.push(format!("the refusal does not name {name}: {told}"));
        }
        if injected.fault.passes() && injected.is_there() {
            return injected.undo();
        }
        match ["jobs", "settings"].into_iter().find(|name| told.contains(&format!("repair --storage {name}")))
        {
            Some(storage) => self.repair(storage, injected),
            None if name == "lock_tokens" => injected.put_back(),
            None => panic!("the refusal does not say what to do: {told}"),
        }
    }

    /// Repairs a storage, and notes what was said to be lost.
    fn repair(&mut self, storage: &str, injected: &Injected) {
        let run = |option: &str| {
            let mut command = Command::new(binary("fastpersist"));
            command.args(["repair", "--storage", storage, option, "--config"]).arg(self.site.config_file());
            let output = command.output().expect("run fastpersist");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(0), "repair {option}: {said}");
            said
        };
        let said = run("--dry-run");
        eprintln!("{}: repair: {}", self.what(), said.trim().replace('\n', " | "));
        let mut lost = Lost::new();
        for (partition, seqs) in self.answered.partitions() {
            if partition.is_empty() == (storage == "settings") {
                let only = sources::only_in_database(&self.site, partition, &seqs, &injected.file);
                if !only.is_empty() {
                    lost.insert(partition.to_owned(), only);
                }
            }
        }
        let loses = said.contains("would be lost") && !said.ends_with("nothing would be lost\n");
        if loses && lost.is_empty() {
            self.wrong.push(format!("repair would lose what log and backups have: {said}"));
        }
        if loses {
            self.lost.extend(lost);
        }
        run("--accept-loss");
    }

    /// Restarts the daemon where a deep look says that this rebuilds a file.
    fn restarted_where_told(&mut self, daemon: Daemon, injected: &Injected, seen: &mut Seen) -> Daemon {
        let health = self.look(&mut daemon.connect(), injected);
        let problems = health["problems"].as_array().into_iter().flatten();
        let told: Vec<_> = problems.filter_map(|problem| problem["message"].as_str()).collect();
        if !told.iter().any(|told| told.contains("restart the daemon")) {
            return daemon;
        }
        if self.random.one_in(2) {
            strace::let_go(daemon.pid());
            daemon.kill();
        } else if daemon_ended(daemon).is_none() {
            self.wrong.push("SIGTERM: a signal ended the daemon".to_owned());
        }
        self.start(injected, seen)
    }

    /// What the daemon says of the fault, and what it has.
    fn after_start(&mut self, daemon: Daemon, injected: &Injected, seen: &mut Seen) -> Daemon {
        let mut conn = daemon.connect();
        self.look(&mut conn, injected);
        self.verify_backups(&mut conn);
        self.is_found |= files::tree(injected.file.parent().unwrap())
            .iter()
            .any(|path| path.file_name().unwrap().to_string_lossy().contains(".damaged"));
        // A closed date that cannot be rebuilt is told when somebody asks for it.
        let refusal = DATES.iter().find_map(|date| {
            let answer = conn.ask(json!({"op": "keys", "storage": "jobs", "date": date}));
            (answer["ok"] != true).then(|| answer["error"]["message"].as_str().unwrap_or_default().to_owned())
        });
        let Some(told) = refusal else { return daemon };
        drop(conn);
        seen.refused += 1;
        daemon.signal(Signal::TERM);
        daemon.exit_code();
        self.is_found = true;
        self.help(injected, &Exit { code: Some(78), stderr: told });
        self.start(injected, seen)
    }

    /// Everything is there; the last problems go with what they say helps.
    fn until_well(&mut self, daemon: Daemon, injected: &Injected) {
        let mut conn = daemon.connect();
        self.check(&mut conn, "after the start");
        site::write(&mut conn, &mut self.answered, &mut self.random, &DATES, 30);
        if injected.fault.passes() && injected.is_there() {
            injected.undo();
            strace::let_go(daemon.pid());
        }
        if self.look(&mut conn, injected)["problems"].to_string().contains("write into it") {
            injected.put_back();
        }
        for storage in ["jobs", "settings"] {
            for op in ["flush", "backup", "export_parquet"] {
                let answer = conn.ask(json!({"op": op, "storage": storage}));
                if answer["ok"] != true {
                    self.wrong.push(format!("{op} of {storage} afterwards: {answer}"));
                }
            }
        }
        self.check(&mut conn, "with more");
        let health = self.look(&mut conn, injected);
        drop(conn);
        if daemon_ended(daemon) != Some(0) {
            self.wrong.push("afterwards the daemon did not stop cleanly".to_owned());
        }
        self.wrong.extend(self.answered.check_files(&self.site.path(""), &self.lost).into_iter().take(4));
        self.check_parquet();
        let daemon = self.site.start_as(self.command(), self.site.socket());
        let mut conn = daemon.connect();
        self.check(&mut conn, "at the end");
        let health_then = self.look(&mut conn, injected);
        if health_then["status"] != "ok" {
            self.wrong.push(format!("afterwards not well: {health}; and after a restart {health_then}"));
        }
    }

    /// The export has exactly the live records.
    fn check_parquet(&mut self) {
        if !python::available() {
            return;
        }
        let roots = ["parquet-jobs", "parquet-settings"]
            .map(|root| self.site.path(root).to_string_lossy().into_owned());
        let found = python::run(READ_PARQUET, &[&roots[0], &roots[1]]);
        let expected = json!([self.answered.live_figures(false), self.answered.live_figures(true)]);
        if self.lost.is_empty() && found != expected {
            self.wrong.push(format!("Parquet: {found} instead of {expected}"));
        }
    }
}

fn command(site: &Site, as_service: bool) -> Command {
    if !as_service {
        return site.command();
    }
    let mut command = Command::new(site.path("fastpersistd"));
    command.env_clear().env("HOME", site.path("")).arg("--config").arg(site.config_file());
    command.uid(SERVICE).gid(SERVICE);
    command
}

/// Whether nothing that anybody reads has changed, as another DuckDB says.
fn is_harmless(injected: &Injected) -> bool {
    let name = injected.file.file_name().unwrap().to_string_lossy().into_owned();
    if !injected.is_there() || name == "fastpersistd.lock" || name == "exported" {
        return true;
    }
    // What cannot be read of DuckDB's own log is in ours; whether that is so is checked by what is there.
    if name.ends_with(".duckdb.wal") || name == "lock_tokens" {
        return true;
    }
    // These are a help when something else is lost too. One of which only the number is left, or that is gone, tells less.
    if name == "settled" || name == "log_removed_through" {
        let noted = fs::read_to_string(&injected.file);
        return matches!(injected.fault, Fault::Missing)
            || noted.is_ok_and(|text| {
                // Without the end of its line it is whole all the same.
                text.trim().as_bytes() == injected.before.trim_ascii() || text.trim().parse::<u64>().is_ok()
            });
    }
    if injected.fault == Fault::Failing || !name.ends_with(".duckdb") || !python::available() {
        return false;
    }
    same_rows(injected)
}

/// The figures of each Parquet tree.
const READ_PARQUET: &str = "import duckdb, json, sys\n\
    sql = 'SELECT count(*), sum(seq)::BIGINT, sum(length(data::VARCHAR))::BIGINT FROM read_parquet(?)'\n\
    print(json.dumps([duckdb.execute(sql, [root + '/**/*.parquet']).fetchone() for root in sys.argv[1:]]))";

/// Whether the tables of the file that was damaged are what they were before.
fn same_rows(injected: &Injected) -> bool {
    const SCRIPT: &str = "import duckdb, json, sys\n\
        def read(file):\n\
        \x20   con = duckdb.connect(file, read_only=True)\n\
        \x20   tables = [t for (t,) in con.execute('SELECT table_name FROM duckdb_tables() ORDER BY 1').fetchall()]\n\
        \x20   return [sorted(map(str, con.execute(f'SELECT * FROM {t}').fetchall())) for t in tables]\n\
        try: print(json.dumps(read(sys.argv[1]) == read(sys.argv[2])))\n\
        except Exception: print('false')";
    let dir = tempfile::tempdir().unwrap();
    let (was, is) = (dir.path().join("was.duckdb"), dir.path().join("is.duckdb"));
    fs::write(&was, &injected.before).unwrap();
    if fs::copy(&injected.file, &is).is_err() {
        return false;
    }
    python::run(SCRIPT, &[&was.to_string_lossy(), &is.to_string_lossy()]) == true
}

fn daemon_ended(daemon: Daemon) -> Option<i32> {
    daemon.signal(Signal::TERM);
    daemon.exit_code()
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}
