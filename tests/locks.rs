//! Locks: one holder at a time, in the order of asking, freed with their holder; tokens that only ever grow.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, binary, child::Pipeline, wait_for};

/// How soon a lock is free when its holder has died.
const SOON: Duration = Duration::from_millis(100);

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn lock(name: &str) -> Value {
    json!({"op": "lock", "name": name})
}

fn lock_waiting(name: &str, wait: Duration) -> Value {
    json!({"op": "lock", "name": name, "wait_ms": wait.as_millis() as u64})
}

fn unlock(name: &str, token: u64) -> Value {
    json!({"op": "unlock", "name": name, "token": token})
}

fn token(answer: &Value) -> u64 {
    answer["token"].as_u64().unwrap_or_else(|| panic!("no token in {answer}"))
}

fn waiters(conn: &mut Conn) -> u64 {
    conn.ok(json!({"op": "stats"}))["daemon"]["lock_waiters"].as_u64().expect("a number")
}

fn wait_for_waiters(conn: &mut Conn, count: u64) {
    wait_for(&format!("{count} wait for a lock"), PATIENCE, || (waiters(conn) == count).then_some(()));
}

#[test]
fn a_lock_is_held_by_one_connection_until_it_unlocks() {
    let (_site, daemon, mut first) = start();
    let mut second = daemon.connect();
    let one = token(&first.ok(lock("a")));
    let error = second.refused(lock("a"), "locked");
    let me = rustix::process::getuid().as_raw();
    assert_eq!((&error["pid"], &error["uid"]), (&json!(std::process::id()), &json!(me)), "{error}");
    let two = token(&second.ok(lock("b")));
    assert!(two > one, "another lock, but one sequence of tokens");
    second.refused(unlock("a", one), "not_found");
    first.refused(unlock("a", two), "not_found");
    first.refused(unlock("nothing", 1), "not_found");
    assert_eq!(first.ok(unlock("a", one)), json!({"ok": true}));
    first.refused(unlock("a", one), "not_found");
    let three = token(&second.ok(lock("a")));
    assert!(three > two);
    let error = second.refused(lock("a"), "conflict");
    assert_eq!(error["token"], three, "it has it already");
    let stats = first.ok(json!({"op": "stats"}));
    assert_eq!((&stats["daemon"]["locks"], &stats["daemon"]["max_locks"]), (&json!(2), &json!(1024)));
}

#[test]
fn those_who_wait_get_it_in_turn() {
    let (_site, daemon, mut first) = start();
    let held = token(&first.ok(lock("a")));
    let mut waiting = Vec::new();
    for count in 1..=5 {
        let mut conn = daemon.connect();
        conn.send(lock_waiting("a", PATIENCE));
        wait_for_waiters(&mut first, count);
        waiting.push(conn);
    }
    first.ok(unlock("a", held));
    let mut last = held;
    for mut conn in waiting {
        let now = token(&conn.answer());
        assert!(now > last, "{now} after {last}");
        last = now;
        // Half of them unlock, the others just go.
        if now.is_multiple_of(2) {
            conn.ok(unlock("a", now));
        }
    }
    assert!(token(&first.ok(lock_waiting("a", PATIENCE))) > last);
}

/// A store behind a lock got the time at which both had come.
#[test]
fn a_write_behind_a_wait_has_the_time_after_it() {
    let (_site, daemon, mut holder) = start();
    let held = token(&holder.ok(lock("a")));
    let mut conn = daemon.connect();
    conn.send_all([
        lock_waiting("a", PATIENCE),
        json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}),
    ]);
    wait_for_waiters(&mut holder, 1);
    let marker = json!({"op": "store", "storage": "jobs", "key": "marker", "data": {}});
    holder.ok(marker);
    holder.ok(unlock("a", held));
    token(&conn.answer());
    conn.answer();
    let mut updated_at = |key: &str| {
        let answer = conn.ok(json!({"op": "get_key", "storage": "jobs", "key": key}));
        answer["records"][0]["updated_at"].as_str().expect("a time").to_owned()
    };
    let (marker, stored) = (updated_at("marker"), updated_at("k"));
    assert!(stored > marker, "{stored}, and what was stored before the lock was free at {marker}");
}

#[test]
fn a_wait_ends_in_time_and_blocks_nobody_else() {
    let (_site, daemon, mut holder) = start();
    holder.ok(lock("a"));
    let mut conn = daemon.connect();
    let begun = Instant::now();
    let wait = Duration::from_millis(150);
    conn.send_all([
        json!({"op": "store", "storage": "jobs", "key": "k", "data": {}, "id": "before"}),
        lock_waiting("a", wait),
        json!({"op": "ping", "id": "after"}),
    ]);
    assert_eq!(conn.answer()["id"], "before", "what was asked before is answered before the wait");
    assert!(begun.elapsed() < wait || waiters(&mut holder) == 0);
    for _ in 0..20 {
        holder.ok(json!({"op": "ping"}));
    }
    conn.refusal("the lock", "locked");
    assert!(begun.elapsed() >= wait, "after {:?}", begun.elapsed());
    assert_eq!(conn.answer()["id"], "after");
    assert_eq!(waiters(&mut holder), 0);
}

#[test]
fn a_lock_whose_time_is_over_is_free() {
    let (_site, daemon, mut first) = start();
    let mut second = daemon.connect();
    let request = json!({"op": "lock", "name": "a", "ttl_ms": 100});
    let begun = Instant::now();
    let one = token(&first.ok(request));
    let two = token(&second.ok(lock_waiting("a", PATIENCE)));
    assert!(begun.elapsed() >= Duration::from_millis(100) && two > one);
    let error = first.refused(unlock("a", one), "not_found");
    assert!(error["message"].as_str().unwrap().contains("ttl_ms"), "{error}");
    second.ok(unlock("a", two));
}

#[test]
fn the_end_of_a_connection_frees_what_it_holds() {
    let (_site, daemon, mut conn) = start();
    let mut other = daemon.connect();
    other.ok(lock("a"));
    other.ok(lock("b"));
    drop(other);
    conn.ok(lock_waiting("a", PATIENCE));
    conn.ok(lock_waiting("b", PATIENCE));
    // Who says that there will be no more requests is still there.
    let mut half = daemon.connect();
    half.ok(lock("c"));
    half.send(lock_waiting("a", Duration::from_secs(1)));
    half.half_close();
    wait_for_waiters(&mut conn, 1);
    conn.refused(lock("c"), "locked");
    half.refusal("the lock", "locked");
    assert_eq!(half.next(), None);
    conn.ok(lock_waiting("c", PATIENCE));
}

/// Kills a process that holds the lock "dead" and has sent `further` too, and says how long it took until another
/// connection had the lock.
fn time_to_free(daemon: &Daemon, further: &[Value], is_ready: impl Fn(&mut Conn) -> bool) -> Duration {
    let mut conn = daemon.connect();
    let lines = [lock("dead")].into_iter().chain(further.iter().cloned());
    let mut holder = Pipeline::start(daemon.socket(), lines);
    let before = token(&holder.answer());
    wait_for("the holder is at work", PATIENCE, || is_ready(&mut conn).then_some(()));
    assert_eq!(conn.refused(lock("dead"), "locked")["pid"], holder.pid());
    let mut heir = daemon.connect();
    heir.send(lock_waiting("dead", PATIENCE));
    wait_for("the heir waits", PATIENCE, || (waiters(&mut conn) >= 1).then_some(()));
    let begun = Instant::now();
    holder.kill();
    let after = token(&heir.answer());
    let took = begun.elapsed();
    assert!(after > before);
    heir.ok(unlock("dead", after));
    took
}

/// The best of some tries: the machine may be busy with other things.
fn assert_soon(what: &str, mut time: impl FnMut() -> Duration) {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        best = best.min(time());
        if best < SOON {
            return;
        }
    }
    panic!("{what}: free after {best:?} at best");
}

#[test]
fn a_holder_that_is_killed_holds_nothing() {
    let (_site, daemon, _conn) = start();
    assert_soon("killed while idle", || time_to_free(&daemon, &[], |_| true));
}

#[test]
fn a_holder_that_is_killed_while_it_waits_holds_nothing_and_waits_no_more() {
    let (_site, daemon, mut conn) = start();
    let other = token(&conn.ok(lock("other")));
    let mut further = vec![lock_waiting("other", PATIENCE * 10)];
    // Far more than the daemon reads ahead.
    let text = "x".repeat(1000);
    further.extend(
        (0..3000)
            .map(|n| json!({"op": "store", "storage": "jobs", "key": format!("k{n}"), "data": {"t": text}})),
    );
    further.push(lock("too late"));
    assert_soon("killed while waiting", || {
        let took = time_to_free(&daemon, &further, |conn| waiters(conn) >= 1);
        wait_for_waiters(&mut conn, 0);
        took
    });
    conn.ok(unlock("other", other));
    // What it had sent before it died may be worked on, but it gets no lock for it.
    conn.ok(lock_waiting("other", PATIENCE));
    conn.ok(lock_waiting("too late", PATIENCE));
}

#[test]
fn a_holder_that_is_killed_while_it_is_busy_holds_nothing() {
    let (_site, daemon, _conn) = start();
    let text = "x".repeat(2000);
    let store =
        |n: u32| json!({"op": "store", "storage": "settings", "key": format!("k{n}"), "data": {"t": text}});
    let further: Vec<_> = (0..4000)
        .map(|n| if n % 20 == 0 { json!({"op": "flush", "storage": "settings"}) } else { store(n) })
        .collect();
    let stored = |conn: &mut Conn| {
        conn.ok(json!({"op": "get_key", "storage": "settings", "key": "k30"}))["records"] != json!([])
    };
    assert_soon("killed while busy", || time_to_free(&daemon, &further, stored));
}

#[test]
fn tokens_grow_across_restarts_and_crashes() {
    let site = Site::new(&Config::both());
    let mut last = 0;
    for round in 0..4 {
        let daemon = site.start();
        let mut conn = daemon.connect();
        // More than is reserved at a time.
        for _ in 0..1_200 {
            let now = token(&conn.ok(lock("a")));
            assert!(now > last, "round {round}: {now} after {last}");
            last = now;
            conn.ok(unlock("a", now));
        }
        if round % 2 == 0 { daemon.kill() } else { daemon.stop() }
    }
    let file = site.path("settings/lock_tokens");
    std::fs::write(&file, "not a number").expect("write the file");
    let exit = site.refused_start();
    assert!(exit.stderr.contains("settings/lock_tokens"), "{}", exit.stderr);
    std::fs::remove_file(&file).expect("remove it");
    let daemon = site.start();
    assert!(token(&daemon.connect().ok(lock("a"))) > last, "the other storage's file has them too");
}

#[test]
fn what_is_no_lock_is_refused() {
    let (_site, _daemon, mut conn) = start();
    conn.refused(json!({"op": "lock"}), "bad_request");
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("x".repeat(256))),
        ("name", json!(7)),
        ("wait_ms", json!(-1)),
        ("wait_ms", json!(1_u64 << 50)),
        ("ttl_ms", json!(0)),
        ("ttl_ms", json!(u64::MAX)),
    ] {
        let mut request = lock("a");
        request[field] = value;
        assert_eq!(conn.refused(&request, "bad_request")["field"], field, "{request}");
    }
    conn.refused(json!({"op": "unlock", "name": "a"}), "bad_request");
    conn.ok(lock(&"x".repeat(255)));
    let stats = conn.ok(json!({"op": "stats"}));
    assert_eq!(stats["daemon"]["locks"], 1, "only the good one is held");
}

#[test]
fn who_waits_keeps_no_date_open() {
    let config = Config::new().limits("max_open_dates = 1\nbusy_wait_ms = 200").dated("jobs", "");
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(lock("a"));
    let store = |date: &str| json!({"op": "store", "date": date, "key": "k", "data": {}});
    let mut waiting = daemon.connect();
    // In one piece, so that it is one pass over the lines.
    waiting.send_all([store("2025-01-01"), lock_waiting("a", PATIENCE * 10)]);
    assert_eq!(waiting.answer()["ok"], true, "the answer to what was before the lock");
    wait_for_waiters(&mut conn, 1);
    conn.ok(store("2025-01-02"));
}

#[test]
fn the_number_of_locks_is_bounded() {
    let site = Site::new(&Config::both().limits("max_locks = 3"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let tokens: Vec<_> = (0..3).map(|n| token(&conn.ok(lock(&format!("n{n}"))))).collect();
    let error = conn.refused(lock("n3"), "busy");
    assert!(error["message"].as_str().unwrap().contains("max_locks"), "{error}");
    conn.ok(unlock("n1", tokens[1]));
    conn.ok(lock("n3"));
}

#[test]
fn a_daemon_that_stops_lets_nobody_wait() {
    let (_site, daemon, mut conn) = start();
    conn.ok(lock("a"));
    let mut waiting = daemon.connect();
    waiting.send(lock_waiting("a", PATIENCE * 10));
    wait_for_waiters(&mut conn, 1);
    daemon.signal(Signal::TERM);
    waiting.refusal("the lock", "shutting_down");
    daemon.ended_cleanly();
}

/// `fastpersist lock …`, started.
fn run(site: &Site, options: &[&str], script: &str) -> Child {
    // Whoever runs the tests in the background may have signals ignored, and the program keeps to that.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM").arg(binary("fastpersist"));
    command.arg("lock").args(options).args(["--", "sh", "-c", script]).current_dir(site.path(""));
    command.env("FASTPERSIST_SOCKET", site.socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start fastpersist")
}

/// Its exit code, and what it printed to both.
fn end(mut child: Child) -> (Option<i32>, String, String) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while child.try_wait().expect("wait for fastpersist").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("end fastpersist");
            panic!("fastpersist does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("wait for fastpersist");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Waits until a command has made a file.
fn wait_for_file(site: &Site, name: &str) -> String {
    let file = site.path(name);
    wait_for(&format!("{name} is there"), PATIENCE, || {
        std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
    })
}

#[test]
fn the_command_runs_under_the_lock_and_its_exit_code_is_passed_on() {
    let (site, _daemon, mut conn) = start();
    let (code, printed, errors) = end(run(&site, &["job"], "echo $FASTPERSIST_LOCK_TOKEN; exit 7"));
    assert_eq!(code, Some(7), "{errors}");
    let inside: u64 = printed.trim().parse().expect("the token");
    let held = token(&conn.ok(lock("job")));
    assert!(held > inside, "it is free at once");
    let (code, printed, errors) = end(run(&site, &["job"], "echo ran"));
    assert_eq!((code, printed.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("locked") && errors.contains(&std::process::id().to_string()), "{errors}");
    let waiting = run(&site, &["job", "--wait-ms", "60000"], "echo ran");
    wait_for_waiters(&mut conn, 1);
    conn.ok(unlock("job", held));
    assert_eq!(end(waiting).1, "ran\n");
    assert_eq!(end(run(&site, &["job"], "kill -9 $$")).0, Some(128 + 9));
    let mut missing = Command::new(binary("fastpersist"));
    missing.args(["lock", "job", "--", "/no/such/program"]).env("FASTPERSIST_SOCKET", site.socket());
    assert_eq!(missing.output().expect("run fastpersist").status.code(), Some(127));
}

#[test]
fn commands_under_one_lock_never_run_at_once() {
    let (site, _daemon, _conn) = start();
    std::fs::write(site.path("count"), "0\n").expect("write");
    // Without the lock many of these would read the same number.
    let script = "n=$(cat count); sleep 0.02; echo $((n + 1)) > count";
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let (code, _, errors) = end(run(&site, &["count", "--wait-ms", "60000"], script));
                    assert_eq!(code, Some(0), "{errors}");
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string(site.path("count")).expect("read"), "20\n");
}

/// A command that waits, and says by which signal it is told to stop.
const PATIENT: &str = "trap 'echo TERM > told; exit 3' TERM; trap 'echo INT > told; exit 4' INT; echo $$ > running; \
                       while :; do sleep 0.01; done";

#[test]
fn signals_are_passed_on() {
    let (site, _daemon, mut conn) = start();
    for (signal, name, code) in [(Signal::TERM, "TERM\n", 3), (Signal::INT, "INT\n", 4)] {
        let child = run(&site, &["job"], PATIENT);
        wait_for_file(&site, "running");
        conn.refused(lock("job"), "locked");
        kill_process(Pid::from_child(&child), signal).expect("signal fastpersist");
        assert_eq!(end(child).0, Some(code));
        assert_eq!(wait_for_file(&site, "told"), name);
        std::fs::remove_file(site.path("running")).expect("remove it");
        std::fs::remove_file(site.path("told")).expect("remove it");
    }
}

#[test]
fn the_command_ignores_what_its_caller_wanted_to_be_ignored() {
    let (site, _daemon, _conn) = start();
    // As `nohup` does.
    let script = "trap '' HUP; exec \"$0\" lock job -- grep SigIgn /proc/self/status";
    let mut nohup = Command::new("sh");
    nohup.args(["-c", script]).arg(binary("fastpersist")).env("FASTPERSIST_SOCKET", site.socket());
    let printed = nohup.output().expect("run sh").stdout;
    let printed = String::from_utf8(printed).expect("UTF-8");
    let mask = printed.trim().strip_prefix("SigIgn:").expect("a mask").trim();
    assert_eq!(u64::from_str_radix(mask, 16).expect("a number") & 1, 1, "SIGHUP: {printed}");
}

#[test]
fn a_program_that_was_replaced_while_it_waited_still_runs_its_command() {
    let (site, _daemon, mut conn) = start();
    let copy = site.path("fastpersist");
    let copied = Command::new("cp").arg(binary("fastpersist")).arg(&copy).status().expect("run cp");
    assert!(copied.success(), "{copied}");
    let held = token(&conn.ok(lock("job")));
    let mut command = Command::new(&copy);
    command.args(["lock", "job", "--wait-ms", "60000", "--", "echo", "ran"]);
    command.env("FASTPERSIST_SOCKET", site.socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = command.spawn().expect("start fastpersist");
    wait_for_waiters(&mut conn, 1);
    std::fs::remove_file(&copy).expect("remove it");
    conn.ok(unlock("job", held));
    let (code, printed, errors) = end(waiting);
    assert_eq!((code, printed.as_str()), (Some(0), "ran\n"), "{errors}");
}

#[test]
fn the_command_is_told_to_stop_when_the_lock_is_lost() {
    let (site, daemon, mut conn) = start();
    let (code, _, errors) = end(run(&site, &["job", "--ttl-ms", "200"], PATIENT));
    assert_eq!((code, wait_for_file(&site, "told").as_str()), (Some(1), "TERM\n"), "{errors}");
    assert!(errors.contains("ttl"), "{errors}");
    conn.ok(lock_waiting("job", PATIENCE));
    std::fs::remove_file(site.path("running")).expect("remove it");
    std::fs::remove_file(site.path("told")).expect("remove it");
    let child = run(&site, &["other"], PATIENT);
    wait_for_file(&site, "running");
    daemon.kill();
    let (code, _, errors) = end(child);
    assert_eq!((code, wait_for_file(&site, "told").as_str()), (Some(69), "TERM\n"), "{errors}");
    assert!(errors.contains("daemon"), "{errors}");
}

#[test]
fn the_command_does_not_outlive_a_killed_fastpersist() {
    let (site, _daemon, mut conn) = start();
    let mut child = run(&site, &["job"], PATIENT);
    let running = wait_for_file(&site, "running");
    let before = Instant::now();
    child.kill().expect("kill fastpersist");
    conn.ok(lock_waiting("job", PATIENCE));
    assert!(before.elapsed() < PATIENCE / 2);
    assert_eq!(wait_for_file(&site, "told"), "TERM\n", "process {running}");
    child.wait().expect("reap it");
}
