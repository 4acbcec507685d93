//! `record_writer`: where each record came from, by the kernel's word, through everything that may become of a record.

use std::{ffi::OsStr, fs, os::unix::fs::chown, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::{
    harness::{
        Config, Conn, Daemon, Site, binary,
        child::{STRANGER, Stranger},
        files, is_root, python,
    },
    parquet::exported,
    restore::restored,
};

const DATE: &str = "2025-01-15";
/// A second user who owns nothing either.
const OTHER: u32 = 2;
/// Nothing is flushed unless it is asked for.
const QUIET: &str = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";

/// Both models, with the key on or off.
fn config(record_writer: bool) -> Config {
    let lines = format!("{QUIET}\nrecord_writer = {record_writer}\nextra_schema = {{ n = \"int64\" }}");
    let jobs = format!("{lines}\nparquet_path = \"{{dir}}/parquet\"");
    let open = "socket_mode = \"0666\"\ndefault_role = \"admin\"";
    Config::new().dated("jobs", &jobs).collection("settings", &lines).daemon(open)
}

fn start(config: &Config) -> (Site, Daemon) {
    let site = Site::new(config);
    let daemon = site.start();
    (site, daemon)
}

/// A request to one of the storages; the dated one is asked about one date.
fn on(storage: &str, mut request: Value) -> Value {
    request["storage"] = json!(storage);
    if storage == "jobs" && request["op"] != "query" {
        request["date"] = json!(DATE);
    }
    request
}

fn put(key: &str) -> Value {
    json!({"op": "store", "key": key, "data": {"n": 1}})
}

/// A write by another user.
fn write_as(stranger: &mut Stranger, storage: &str, request: Value) {
    let request = on(storage, request);
    assert_eq!(stranger.verdict(&request), "ok", "{request}");
}

/// Each row of a table with who wrote it, in the order of `seq`.
fn writers(conn: &mut Conn, table: &str) -> Value {
    let storage = if table == "storage" { "jobs" } else { "settings" };
    let sql = format!("SELECT seq, key, writer_uid, writer_unit FROM {table} ORDER BY seq");
    let mut request = json!({"op": "query", "storage": storage, "sql": sql});
    if storage == "jobs" {
        request["from"] = json!(DATE);
    }
    conn.ok(request)["rows"].clone()
}

/// The unit in which the tests themselves run, and so every process that they start.
fn own_unit() -> Value {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let is_unit =
        |name: &&str| matches!(name.rsplit_once('.'), Some((stem, "service" | "scope")) if !stem.is_empty());
    path.split('/').rfind(is_unit).map_or(Value::Null, Value::from)
}

/// `a` by us, `b` by another user, `c` in a batch that deletes `a` again, `d` by a third.
fn write_by_three(site: &Site, storage: &str) {
    let mut conn = Conn::connect(site.socket());
    conn.ok(on(storage, put("a")));
    let mut stranger = Stranger::connect(site);
    write_as(&mut stranger, storage, put("b"));
    let ops = json!([put("c"), {"op": "delete", "key": "a"}]);
    write_as(&mut stranger, storage, json!({"op": "batch", "ops": ops}));
    let mut other = Stranger::connect_as(site, OTHER);
    write_as(&mut other, storage, put("d"));
}

/// What the tables must show after [`write_by_three`].
fn assert_three(conn: &mut Conn, what: &str) {
    let unit = own_unit();
    let (b, c, d) =
        (json!([2, "b", STRANGER, unit]), json!([3, "c", STRANGER, unit]), json!([5, "d", OTHER, unit]));
    for table in ["storage", "storage_latest"] {
        assert_eq!(writers(conn, table), json!([b, c, d]), "{what}: {table}");
    }
    let history = json!([[1, "a", 0, unit], b, c, [4, "a", STRANGER, unit], d]);
    assert_eq!(writers(conn, "storage_history"), history, "{what}: storage_history");
}

#[test]
fn every_write_tells_its_uid_after_a_kill_a_flush_and_a_rebuilding() {
    if !is_root() {
        return;
    }
    let (site, daemon) = start(&config(true));
    for storage in ["jobs", "settings"] {
        write_by_three(&site, storage);
    }
    let mut conn = daemon.connect();
    let record = conn.ok(on("jobs", json!({"op": "get_key", "key": "b"})))["records"][0].clone();
    let members: Vec<_> = record.as_object().unwrap().keys().filter(|name| name.contains("writer")).collect();
    assert!(members.is_empty(), "a read's record has its own form: {record}");
    daemon.kill();

    // From the log alone.
    let daemon = site.start();
    assert_three(&mut daemon.connect(), "after a kill");
    // The query has flushed, so this is from the files.
    daemon.stop();
    let daemon = site.start();
    assert_three(&mut daemon.connect(), "after a stop");
    daemon.stop();

    // Databases that are gone come back from the history and the log.
    fs::remove_file(site.path("jobs").join(DATE).join("data.duckdb")).unwrap();
    fs::remove_file(site.path("settings/storage_latest.duckdb")).unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_three(&mut conn, "rebuilt");
    conn.ok(json!({"op": "rebuild_latest_from_history", "storage": "settings"}));
    assert_three(&mut conn, "made anew");
    daemon.stop();
    fs::remove_file(site.path("settings/storage_latest.duckdb")).unwrap();
    fs::remove_file(site.path("settings/storage_history.duckdb")).unwrap();
    let daemon = site.start();
    assert_three(&mut daemon.connect(), "both files from the log");
}

#[test]
fn the_log_has_uid_and_pid_on_every_operation() {
    if !is_root() {
        return;
    }
    let (site, daemon) = start(&config(true));
    let mut stranger = Stranger::connect(&site);
    write_as(&mut stranger, "jobs", put("a"));
    let producer = json!({"op": "batch", "ops": [put("b"), {"op": "delete", "key": "a"}], "producer": "p", "producer_seq": 1});
    write_as(&mut stranger, "jobs", producer);
    write_as(&mut stranger, "jobs", json!({"op": "delete", "key": "b"}));
    daemon.kill();
    let segment = files::segments(&site.path("jobs")).pop().unwrap();
    let lines = files::wal_lines(&segment);
    let lines: Vec<Value> = lines.iter().map(|(_, line)| serde_json::from_slice(line).unwrap()).collect();
    let operations = [&lines[0], &lines[1]["ops"][0], &lines[1]["ops"][1], &lines[2]];
    for operation in operations {
        assert_eq!(operation["writer_uid"], STRANGER, "{operation}");
        assert_eq!(operation["writer_pid"], stranger.pid(), "{operation}");
        // What is null is left out, and indexing gives null for that.
        assert_eq!(operation["writer_unit"], own_unit(), "{operation}");
    }
    assert_eq!(lines[1]["writer_uid"], Value::Null, "a batch has no writer beside those of its operations");
}

#[test]
fn backup_and_restore_export_and_import_carry_it() {
    if !is_root() {
        return;
    }
    let config = config(true);
    let (site, daemon) = start(&config);
    let mut stranger = Stranger::connect(&site);
    let mut conn = daemon.connect();
    conn.ok(on("settings", put("a")));
    write_as(&mut stranger, "settings", put("b"));
    conn.ok(json!({"op": "backup", "storage": "settings"}));
    // These are in the log only.
    write_as(&mut stranger, "settings", put("a"));
    conn.ok(on("settings", json!({"op": "delete", "key": "b"})));
    let (to, _) = restored(&site, &config, "settings", &[]);
    let restored = to.start();
    let unit = own_unit();
    let history =
        json!([[1, "a", 0, unit], [2, "b", STRANGER, unit], [3, "a", STRANGER, unit], [4, "b", 0, unit]]);
    assert_eq!(writers(&mut restored.connect(), "storage_history"), history);
    assert_eq!(writers(&mut restored.connect(), "storage_latest"), json!([[3, "a", STRANGER, unit]]));
    restored.stop();

    // Whoever imports is the writer, whoever it was in the other store.
    let mut imported = put("old");
    imported["updated_at"] = json!("2020-01-01T00:00:00Z");
    write_as(&mut stranger, "jobs", json!({"op": "import", "ops": [imported]}));
    conn.ok(on("jobs", put("own")));
    assert_eq!(writers(&mut conn, "storage"), json!([[1, "old", STRANGER, unit], [2, "own", 0, unit]]));
    conn.ok(json!({"op": "export_parquet", "storage": "jobs"}));
    assert_eq!(exported(&site).len(), 1);
    if python::available() {
        let sql = "SELECT key, writer_uid, writer_unit FROM {files} ORDER BY key";
        let rows = python::parquet_rows(&site.path("parquet"), sql);
        assert_eq!(json!(rows), json!([["old", STRANGER, unit], ["own", 0, unit]]));
    }
}

#[test]
fn its_columns_are_the_last_of_every_table() {
    if !python::available() {
        return;
    }
    let (site, daemon) = start(&config(true));
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings"] {
        conn.ok(on(storage, put("a")));
    }
    drop(conn);
    daemon.stop();
    let date = format!("jobs/{DATE}/data.duckdb");
    for (file, table) in [
        (date.as_str(), "storage"),
        ("settings/storage_history.duckdb", "storage_history"),
        ("settings/storage_latest.duckdb", "storage_latest"),
    ] {
        let rows = python::rows(&site.path(file), &format!("DESCRIBE {table}"));
        let ends: Vec<_> = rows[rows.len() - 3..].iter().map(|row| (&row[0], &row[1])).collect();
        let expected = [("n", "BIGINT"), ("writer_uid", "UINTEGER"), ("writer_unit", "VARCHAR")];
        let expected = expected.map(|(name, kind)| (json!(name), json!(kind)));
        assert_eq!(ends, expected.each_ref().map(|(name, kind)| (name, kind)), "{table}");
    }
}

#[test]
fn it_may_be_switched_on_later_and_off_again() {
    let (site, daemon) = start(&config(false));
    let uid = rustix::process::geteuid().as_raw();
    let write = |daemon: &Daemon, key: &str| {
        for storage in ["jobs", "settings"] {
            daemon.connect().ok(on(storage, put(key)));
        }
    };
    write(&daemon, "a");
    let sql = json!({"op": "query", "storage": "settings", "sql": "SELECT writer_uid FROM storage_latest"});
    daemon.connect().refused(sql, "query_failed");
    write(&daemon, "b");
    daemon.kill();
    for segment in files::segments(&site.path("")) {
        assert!(!fs::read_to_string(&segment).unwrap().contains("writer"), "{}", segment.display());
    }

    // On: the files of before get the columns, and what the log had already is null.
    site.configure(&config(true));
    let daemon = site.start();
    write(&daemon, "c");
    daemon.connect().ok(json!({"op": "flush"}));
    write(&daemon, "d");
    daemon.kill();

    // Off: a log that tells writers is as readable as any.
    site.configure(&config(false));
    let daemon = site.start();
    write(&daemon, "e");
    daemon.connect().ok(json!({"op": "flush"}));
    daemon.stop();

    // On again: the columns were there all the time, and nobody has filled them meanwhile.
    site.configure(&config(true));
    let daemon = site.start();
    write(&daemon, "f");
    let unit = own_unit();
    let by = |seq: u64, key: &str| json!([seq, key, uid, unit]);
    let nobody = |seq: u64, key: &str| json!([seq, key, null, null]);
    let expected =
        json!([nobody(1, "a"), nobody(2, "b"), by(3, "c"), nobody(4, "d"), nobody(5, "e"), by(6, "f")]);
    for table in ["storage", "storage_history", "storage_latest"] {
        assert_eq!(writers(&mut daemon.connect(), table), expected, "{table}");
    }
}

#[test]
fn a_name_that_the_key_takes_is_refused_and_free_without_it() {
    for name in ["writer_uid", "writer_unit"] {
        let lines = format!("record_writer = true\nextra_schema = {{ {name} = \"uint32\" }}");
        let exit = Site::new(&Config::new().dated("jobs", &lines)).refused_start();
        let words = [&*format!("storage.jobs.extra_schema.{name}"), "record_writer = true", "already"];
        for word in words {
            assert!(exit.stderr.contains(word), "{word}: {}", exit.stderr);
        }
        // Without the key it is a name as any.
        let lines = format!("extra_schema = {{ {name} = \"uint32\" }}");
        let (_site, daemon) = start(&Config::new().dated("jobs", &lines));
        daemon.connect().ok(json!({"op": "store", "key": "k", "data": {name: 7}}));
        let sql = format!("SELECT {name} FROM storage");
        assert_eq!(daemon.connect().ok(json!({"op": "query", "sql": sql}))["rows"], json!([[7]]));
    }
}

/// A cgroup with the name of a unit, below that of the tests; `None` where none can be made.
struct Unit {
    path: PathBuf,
    name: String,
}

impl Unit {
    fn make() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount =
            mount.filter(|fields| fields.get(2) == Some(&"cgroup2")).find_map(|f| f.get(1).copied())?;
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let name = format!("fastpersist-test-{}.service", std::process::id());
        let path = PathBuf::from(mount).join(own).join(&name);
        fs::create_dir(&path).ok()?;
        Some(Self { path, name })
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Who was in it has ended.
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn the_unit_is_that_of_the_process_that_connects() {
    let Some(unit) = Unit::make() else {
        eprintln!("skipped: no cgroup can be made here to stand for a systemd unit");
        return;
    };
    let (site, daemon) = start(&config(true));
    let script = "echo $$ > \"$1/cgroup.procs\" || exit 99; shift; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(&unit.path).arg(binary("fastpersist"));
    command.args(["--socket", site.socket(), "-s", "settings", "store", "k", "{}"]);
    let output = command.output().expect("run sh");
    if output.status.code() == Some(99) {
        eprintln!("skipped: no process can be moved to another cgroup here");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(writers(&mut daemon.connect(), "storage_latest"), json!([[1, "k", uid, unit.name]]));
}

#[test]
fn a_daemon_that_does_not_see_other_processes_says_so_and_keeps_the_uid() {
    if !is_root() {
        return;
    }
    let site = Site::new(&config(true));
    chown(site.path(""), Some(STRANGER), Some(STRANGER)).unwrap();
    // The build's directory may be closed to others, and a copy that this process made could be open for writing in the
    // child of another test.
    let program = site.path("fastpersistd");
    assert!(Command::new("cp").arg(binary("fastpersistd")).arg(&program).status().unwrap().success());
    // As ProtectProc=invisible of the service does it.
    let script = "mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid \"$0\" --regid \"$0\" --clear-groups \"$@\"";
    let hidden = |arguments: &[&OsStr]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, &STRANGER.to_string()]).args(arguments);
        command
    };
    let tried = hidden(&["true".as_ref()]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no unshare, mount and setpriv to hide processes with");
        return;
    }
    let config_file = site.config_file();
    let command = hidden(&[program.as_os_str(), "--config".as_ref(), config_file.as_os_str()]);
    let daemon = site.start_as(command, site.socket());
    let log = daemon.log();
    assert!(log.contains("writer_unit is null") && log.contains("ProtectProc=default"), "{log}");
    let mut conn = daemon.connect();
    conn.ok(on("settings", put("a")));
    assert_eq!(writers(&mut conn, "storage_latest"), json!([[1, "a", 0, null]]));
}
