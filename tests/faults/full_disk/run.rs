//! One run: write, fill, be refused, be killed perhaps, get room, go on.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::super::answered::{Answered, Lost};
use super::super::damaged_files::site::{DATES, requests};
use super::disk::Room;
use super::{DISK, Mode, SEED, WRONG};
use crate::harness::{Config, Conn, Daemon, Random, Site, wait_for};

/// When there is room, everything goes on within this time.
const RESUMED: Duration = Duration::from_secs(20);
/// A writer has seen enough when it was refused so often in a row.
const REFUSED: usize = 25;

struct Run {
    random: Random,
    mode: Mode,
    site: Site,
    /// Where the storages are.
    disk: PathBuf,
    room: Room,
    answered: Mutex<Answered>,
    refused: u64,
    /// The daemon was started without room for a segment of its log.
    started_full: bool,
    wrong: Vec<String>,
}

/// The process that [`run_apart`](super::run_apart) starts.
pub(crate) fn play() {
    let seed: u64 = std::env::var(SEED).expect("a seed").parse().expect("a number");
    let mut run = Run::new(seed);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.all()));
    println!("\nrefused:{}\ncheckpoints:{}", run.refused, run.failed_checkpoints());
    for wrong in run.wrong {
        println!("{WRONG} {}", wrong.replace('\n', " | "));
    }
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

fn config(disk: &Path) -> Config {
    let lines = |name: &str, model: &str| {
        let disk = disk.display();
        format!(
            "[storage.{name}]\nmodel = \"{model}\"\nbase_dir = \"{disk}/{name}\"\nbatch_size = 400\n\
             duckdb_flush_interval_seconds = 3600\nmax_wal_size = 1048576\nbackup = true\nwal_retain_days = 1\n\
             parquet_path = \"{disk}/parquet-{name}\"\nextra_schema = {{ customer_id = \"int64\", price = \"float64\" }}\n"
        )
    };
    Config::new().text(&lines("jobs", "dated")).text(&lines("settings", "collection"))
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let mode = Mode::of(seed);
        let site = Site::in_memory(&Config::new());
        let disk = std::env::var_os(DISK).map_or_else(|| site.path("disk"), PathBuf::from);
        site.configure(&config(&disk));
        // The daemon's own log stands on the full disk too, now and then.
        if !mode.is_limit() && random.one_in(2) {
            std::os::unix::fs::symlink(disk.join("stderr.log"), site.path("stderr.log")).expect("a link");
        }
        let room = Room::new(mode, &disk, &mut random);
        let (answered, refused, started_full, wrong) = Default::default();
        Self { random, mode, site, disk, room, answered, refused, started_full, wrong }
    }

    fn all(&mut self) {
        let daemon = self.site.start_as(self.room.command(&self.site), self.site.socket());
        let rounds = self.random.between(1, 6);
        self.write(&daemon, rounds * 60);
        self.check(&daemon, "before");
        if self.random.one_in(2) {
            self.keep(&daemon, "flush");
        }
        self.write(&daemon, 60);
        for full in 0..self.random.between(1, 3) {
            self.get_full(&daemon);
            self.while_full(&daemon);
            if full == 0 && self.random.one_in(2) {
                self.room.make(Some(&daemon));
                self.goes_on(&daemon);
            }
        }
        let daemon = if self.random.one_in(2) { self.killed(daemon) } else { daemon };
        self.room.make(Some(&daemon));
        self.goes_on(&daemon);
        self.check(&daemon, "with room");
        self.end(daemon);
    }

    /// How many checkpoints of DuckDB's met the end of the room, by the daemon's log. Where that stands on the full disk
    /// itself, some lines of it are lost.
    fn failed_checkpoints(&self) -> usize {
        let log = std::fs::read(self.site.path("stderr.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains("the checkpoint failed")).count()
    }

    fn tell(&mut self, wrong: String) {
        if self.wrong.len() < 10 {
            self.wrong.push(wrong);
        }
    }

    fn check(&mut self, daemon: &Daemon, when: &str) {
        let wrong = self.answered.get_mut().unwrap().check(&mut daemon.connect(), &Lost::default());
        wrong.into_iter().take(4).for_each(|wrong| self.tell(format!("{when}: {wrong}")));
    }

    /// Two clients write until each has sent so many requests, or is refused again and again.
    fn write(&mut self, daemon: &Daemon, count: u64) {
        let seeds = [self.random.between(1, u64::MAX / 2), self.random.between(1, u64::MAX / 2)];
        let answered = &self.answered;
        let found = thread::scope(|scope| {
            let writer = |seed| move || write(&mut daemon.connect(), answered, seed, count);
            let writers: Vec<_> = seeds.map(|seed| scope.spawn(writer(seed))).into();
            writers.into_iter().map(|writer| writer.join().expect("a writer")).collect::<Vec<_>>()
        });
        for (refused, wrong) in found {
            self.refused += refused;
            for wrong in wrong {
                self.tell(wrong);
            }
        }
    }

    /// The disk gets full: at rest, or while something is being written.
    fn get_full(&mut self, daemon: &Daemon) {
        let left = if self.random.one_in(2) { 0 } else { self.random.between(0, 9 << 10) << 10 };
        let busy = match self.mode {
            Mode::Flushing => self.random.pick(&["flush", "flush", "query"]),
            Mode::Copying => self.random.pick(&["backup", "export_parquet"]),
            _ => {
                self.room.fill(daemon, left);
                return;
            }
        };
        self.write(daemon, 40);
        let pause = Duration::from_micros(self.random.between(0, 25_000));
        let mut conns = ["jobs", "settings"].map(|storage| (storage, daemon.connect()));
        for (storage, conn) in &mut conns {
            conn.send(request(busy, storage));
        }
        // The random moment: this wait waits for nothing.
        thread::sleep(pause);
        self.room.fill(daemon, if self.random.one_in(2) { 0 } else { left.min(100 << 10) });
        // Sometimes it passes before it was noticed.
        let passes = self.random.one_in(4);
        if passes {
            thread::sleep(pause);
            self.room.make(Some(daemon));
        }
        for (storage, conn) in &mut conns {
            let answer = conn.answer();
            self.judge(busy, storage, &answer);
        }
        if passes {
            self.room.fill(daemon, left);
        }
    }

    /// What keeps data may go well, or be refused for lack of room, and nothing else.
    fn judge(&mut self, op: &str, storage: &str, answer: &Value) {
        if answer["ok"] == true {
            return;
        }
        self.refused += 1;
        let error = &answer["error"];
        eprintln!("note: {op} of {storage}: {error}");
        if error["code"] != "disk_full" {
            self.tell(format!("{op} of {storage} without room: {answer}"));
        }
    }

    fn keep(&mut self, daemon: &Daemon, op: &str) {
        for storage in ["jobs", "settings"] {
            let answer = daemon.connect().ask(request(op, storage));
            self.judge(op, storage, &answer);
        }
    }

    /// Writes are refused or stored; reads and deletions go on; what keeps data says what it lacks.
    fn while_full(&mut self, daemon: &Daemon) {
        self.write(daemon, 1500);
        for op in ["flush", "export_parquet", "backup", "query", "lock"] {
            if self.random.one_in(2) {
                self.keep(daemon, op);
            }
        }
        self.delete(daemon);
        self.check(daemon, "without room");
        let health = daemon.connect().ask(json!({"op": "check_health"}));
        if health["ok"] != true {
            self.tell(format!("check_health without room: {health}"));
        }
        self.write(daemon, 20);
    }

    /// Deletions of a few records.
    fn delete(&mut self, daemon: &Daemon) {
        let mut conn = daemon.connect();
        for (storage, date) in [("jobs", Some(DATES[0])), ("settings", None)] {
            let mut keys = json!({"op": "keys", "storage": storage, "limit": 3});
            if let Some(date) = date {
                keys["date"] = date.into();
            }
            let keys = conn.ok(keys)["keys"].clone();
            for key in keys.as_array().unwrap() {
                let mut get = json!({"op": "get_key", "storage": storage, "key": key});
                if let Some(date) = date {
                    get["date"] = date.into();
                }
                let records = conn.ok(get)["records"].clone();
                let Some(record) = records.as_array().unwrap().first() else { continue };
                let mut delete = json!({"op": "delete", "storage": storage, "key": key});
                for name in ["date", "process_name", "collection_name", "item_name"] {
                    if record.get(name).is_some() {
                        delete[name] = record[name].clone();
                    }
                }
                let answer = conn.ask(&delete);
                let without_log = self.started_full || self.mode == Mode::LimitedLog;
                if answer["ok"] != true && !(without_log && answer["error"]["code"] == "disk_full") {
                    self.tell(format!("a deletion without room, {storage}: {answer}"));
                }
                self.answered.get_mut().unwrap().note(&delete, &answer);
            }
        }
    }

    /// SIGKILL, with some writes under way, and a start on the full disk.
    fn killed(&mut self, daemon: Daemon) -> Daemon {
        let mut conn = daemon.connect();
        let from = self.random.between(1, 1 << 40);
        let store = |n: u64| json!({"op": "store", "storage": "settings", "key": format!("unsure{n}"), "item_name": "i", "data": {"n": n}, "value": null});
        let unsure: Vec<_> = (from..from + 20).map(store).collect();
        conn.send_all(&unsure);
        thread::sleep(Duration::from_micros(self.random.between(0, 3000)));
        daemon.kill();
        self.started_full = true;
        let daemon = match self.site.try_start_as(self.room.command(&self.site), self.site.socket()) {
            Ok(daemon) => daemon,
            Err(exit) => {
                let told = exit.stderr.lines().last().unwrap_or_default().to_owned();
                eprintln!("note: no start without room, {:?}: {told}", exit.code);
                let is_clear =
                    ["No space left", "File too large", "are free"].iter().any(|sign| told.contains(sign));
                if exit.code.is_none() || !is_clear {
                    self.tell(format!("a start without room ended with {:?}: {told}", exit.code));
                }
                self.room.make(None);
                self.site.start_as(self.room.command(&self.site), self.site.socket())
            }
        };
        let mut conn = daemon.connect();
        for request in unsure {
            let mut got = conn.ok(
                json!({"op": "get_item", "storage": "settings", "key": request["key"], "item_name": "i"}),
            );
            if got["record"].is_object() {
                let answer = json!({"ok": true, "seq": got["record"]["seq"].take()});
                self.answered.get_mut().unwrap().note(&request, &answer);
            }
        }
        self.check(&daemon, "started without room");
        self.write(&daemon, 20);
        daemon
    }

    /// There is room: without a restart everything works again, soon.
    fn goes_on(&mut self, daemon: &Daemon) {
        let mut conn = daemon.connect();
        let begun = Instant::now();
        for storage in ["jobs", "settings"] {
            wait_for(&format!("{storage} takes writes again"), RESUMED, || {
                let n = self.random.between(1, 1 << 40);
                let mut store = json!({"op": "store", "storage": storage, "key": "room", "data": {"n": n}});
                if storage == "jobs" {
                    store["date"] = DATES[2].into();
                } else {
                    store["item_name"] = "i".into();
                    store["collection_name"] = "c".into();
                    store["value"] = n.into();
                }
                let answer = conn.ask(&store);
                self.answered.get_mut().unwrap().note(&store, &answer);
                (answer["ok"] == true).then_some(())
            });
            for op in ["flush", "export_parquet", "backup", "query", "lock"] {
                let mut last = Value::Null;
                let deadline = begun + RESUMED;
                while last["ok"] != true && Instant::now() < deadline {
                    last = conn.ask(request(op, storage));
                    if last["ok"] != true {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
                if last["ok"] != true {
                    self.tell(format!("{op} of {storage} does not go on when there is room: {last}"));
                }
            }
        }
        eprintln!("note: went on within {:.1?}", begun.elapsed());
        self.write(daemon, 30);
    }

    /// Everything is there, also past the daemon, and nothing is wrong any more.
    fn end(&mut self, daemon: Daemon) {
        daemon.signal(rustix::process::Signal::TERM);
        let code = daemon.exit_code();
        if code != Some(0) {
            self.tell(format!("with room again, the daemon stopped with {code:?}"));
        }
        let wrong = self.answered.get_mut().unwrap().check_files(&self.disk, &Lost::default());
        wrong.into_iter().take(4).for_each(|wrong| self.tell(wrong));
        let daemon = self.site.start_as(self.room.command(&self.site), self.site.socket());
        self.check(&daemon, "at the end");
        let health = daemon.connect().ok(json!({"op": "check_health", "deep": true}));
        if health["status"] != "ok" {
            self.tell(format!("at the end: {health}"));
        }
    }
}

fn request(op: &str, storage: &str) -> Value {
    match (op, storage) {
        ("query", "jobs") => {
            json!({"op": op, "storage": storage, "sql": "SELECT count(*) FROM storage", "from": DATES[0], "to": DATES[2]})
        }
        ("query", _) => json!({"op": op, "storage": storage, "sql": "SELECT count(*) FROM storage_history"}),
        ("lock", _) => json!({"op": "lock", "name": format!("for {storage}"), "ttl_ms": 1}),
        _ => json!({"op": op, "storage": storage}),
    }
}

/// One client: how often it was refused, and what is not as promised.
fn write(conn: &mut Conn, answered: &Mutex<Answered>, seed: u64, count: u64) -> (u64, Vec<String>) {
    let mut random = Random::seeded(seed);
    let (mut refused, mut in_a_row, mut wrong) = (0, 0, Vec::new());
    let all = requests(&mut random, &DATES, count / 2);
    for some in all.chunks(25) {
        let answers = conn.pipeline(some);
        let mut answered = answered.lock().unwrap();
        for (request, answer) in some.iter().zip(&answers) {
            answered.note(request, answer);
            if answer["ok"] == true {
                in_a_row = 0;
                continue;
            }
            refused += 1;
            in_a_row += 1;
            if answer["error"]["code"] != "disk_full" {
                wrong.push(format!("a write was refused: {answer}"));
            }
        }
        if in_a_row >= REFUSED {
            break;
        }
    }
    (refused, wrong)
}
