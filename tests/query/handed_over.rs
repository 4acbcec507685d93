//! `"result":"fd"`: a result as sealed memory with an Arrow stream, passed on with the answer.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;
use serde_json::{Value, json};

use super::start;
use crate::harness::{Config, Conn, Receiver, python};

fn ask(sql: &str) -> Value {
    json!({"op": "query", "storage": "jobs", "sql": sql, "result": "fd"})
}

fn held_bytes(conn: &mut Conn) -> u64 {
    conn.ok(json!({"op": "stats"}))["daemon"]["handed_over_bytes"].as_u64().expect("a number")
}

#[test]
fn it_is_sealed_memory_with_an_arrow_stream() {
    let (_site, daemon, mut conn) = start(&Config::new().limits("max_query_rows = 10").dated("jobs", ""));
    for n in 0..100 {
        conn.ok(json!({"op": "store", "storage": "jobs", "key": format!("k{n:02}"), "data": {"n": n}}));
    }
    conn.send(ask("SELECT key, (data->>'$.n')::BIGINT AS n FROM storage ORDER BY key"));
    let mut receiver = Receiver::new(&mut conn);
    let answer = receiver.answer();
    let memory = receiver.memory.pop().expect("a descriptor came with the answer");
    let columns = json!([{"name": "key", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}]);
    assert_eq!(answer["columns"], columns, "{answer}");
    assert_eq!((&answer["result"], &answer["row_count"]), (&json!("fd"), &json!(100)), "{answer}");
    assert_eq!((&answer["truncated"], answer.get("rows")), (&json!(false), None));
    let seals = rustix::fs::fcntl_get_seals(&memory).expect("memory that can be sealed");
    assert!(
        seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL),
        "{seals:?}"
    );
    let mut file = File::from(memory);
    file.write_all(b"x").expect_err("it can only be read");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("readable");
    assert_eq!(answer["bytes"], json!(bytes.len()));
    assert!(bytes.starts_with(&[0xff; 4]) && bytes.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
    if python::available() {
        const SCRIPT: &str = "import json, pyarrow as pa, sys\n\
            table = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all()\n\
            print(json.dumps([table.num_rows, table.column('key')[99].as_py(), sum(table.column('n').to_pylist())]))";
        file.seek(SeekFrom::Start(0)).expect("at its beginning");
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        assert_eq!(python::run(SCRIPT, &[&path]), json!([100, "k99", 4950]));
    }
    drop(daemon);
}

#[test]
fn descriptors_come_in_the_order_of_the_answers_between_others() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    for n in 0..20 {
        conn.send(json!({"op": "store", "id": n, "storage": "jobs", "key": "k", "data": {"n": n}}));
        let mut line = ask(&format!("SELECT * FROM range({n})"));
        line["id"] = json!(n + 100);
        conn.send(line);
    }
    let mut receiver = Receiver::new(&mut conn);
    for n in 0..20 {
        assert_eq!(receiver.answer()["id"], json!(n));
        let answer = receiver.answer();
        assert_eq!((&answer["id"], &answer["row_count"]), (&json!(n + 100), &json!(n)), "{answer}");
        let memory = receiver.memory.remove(0);
        let length = File::from(memory).metadata().expect("its length").len();
        assert_eq!(answer["bytes"], json!(length), "the descriptor of this answer and of no other");
    }
}

/// As with `socat`: the kernel throws a descriptor away that nobody takes.
#[test]
fn a_client_that_takes_no_descriptors_still_gets_its_answers() {
    let (_site, _daemon, mut conn) = start(&Config::new().dated("jobs", ""));
    let answer = conn.ok(ask("SELECT 1 AS n"));
    assert_eq!((&answer["result"], &answer["row_count"]), (&json!("fd"), &json!(1)));
    let refused = conn.refused(ask("SELECT 1::UHUGEINT AS n"), "query_failed");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("UHUGEINT")), "{refused}");
    conn.refused(ask("SELECT * FROM read_text('/etc/passwd')"), "query_rejected");
    conn.refused(ask("DELETE FROM storage"), "query_rejected");
    let mut wrong = ask("SELECT 1");
    wrong["result"] = json!("arrow");
    conn.refused(wrong, "bad_request");
    assert_eq!(held_bytes(&mut conn), 0, "what nobody took is given back");
}

#[test]
fn what_clients_hold_is_bounded_and_given_back_when_they_close_it() {
    let config = Config::new().limits("max_handed_over_bytes = 1000000").dated("jobs", "");
    let (_site, daemon, mut conn) = start(&config);
    let mut other = daemon.connect();
    conn.send(ask("SELECT * FROM range(80000)"));
    let mut receiver = Receiver::new(&mut conn);
    let first = receiver.answer();
    let memory = receiver.memory.pop().expect("a descriptor");
    assert_eq!(first["truncated"], json!(false), "{first}");
    let held = held_bytes(&mut other);
    assert_eq!(json!(held), first["bytes"]);
    let busy = other.refused(ask("SELECT * FROM range(80000)"), "busy");
    assert!(busy["message"].as_str().is_some_and(|text| text.contains("max_handed_over_bytes")), "{busy}");
    let rows = other.ok(json!({"op": "query", "storage": "jobs", "sql": "SELECT 1"}));
    assert_eq!(rows["row_count"], json!(1), "rows need no such memory");
    drop(memory);
    let again = other.ok(ask("SELECT * FROM range(80000)"));
    assert_eq!(again["row_count"], json!(80_000));
    let cut = other.ok(ask("SELECT * FROM range(10000000)"));
    assert_eq!(cut["truncated"], json!(true), "{cut}");
    assert!(cut["bytes"].as_u64().is_some_and(|bytes| (900_000..=1_000_000).contains(&bytes)), "{cut}");
    // A client that goes before it has read anything holds nothing either.
    let mut gone = daemon.connect();
    gone.send(ask("SELECT * FROM range(80000)"));
    drop(gone);
    let deadline = Instant::now() + Duration::from_secs(10);
    while held_bytes(&mut other) > 0 {
        assert!(Instant::now() < deadline, "{} bytes are still held", held_bytes(&mut other));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whoever asks and does not read gets a few, and then is not worked for any more.
#[test]
fn results_that_nobody_takes_leave_the_daemon_its_descriptors() {
    let config = Config::new().limits("output_stall_timeout_ms = 500").dated("jobs", "");
    let (_site, daemon, mut conn) = start(&config);
    let descriptors = format!("/proc/{}/fd", daemon.pid());
    let open = || std::fs::read_dir(&descriptors).expect("the daemon's descriptors").count();
    let before = open();
    // One: two would have all results that may be held before the kernel takes no more from the daemon.
    let mut stalled = daemon.connect();
    // At once: the daemon may have hung up before a second piece.
    stalled.send_bytes(format!("{}\n", ask("SELECT 1")).repeat(300).as_bytes());
    let deadline = Instant::now() + Duration::from_secs(30);
    let stalls = || daemon.log().matches("a client was disconnected").count();
    let mut most = 0;
    while stalls() == 0 {
        most = most.max(open());
        assert!(Instant::now() < deadline, "it was not disconnected");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(most < before + 100, "{most} descriptors were open, {before} before");
    let answer = daemon.connect().ok(json!({"op": "ping"}));
    assert_eq!(answer["pong"], json!(true));
    drop(stalled);
    let deadline = Instant::now() + Duration::from_secs(10);
    while held_bytes(&mut conn) > 0 {
        assert!(Instant::now() < deadline, "{} bytes are still held", held_bytes(&mut conn));
        std::thread::sleep(Duration::from_millis(5));
    }
}
