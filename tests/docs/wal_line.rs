//! The WAL line in DESIGN.md: its checksum is right, and the daemon writes just such a line.

use serde_json::{Value, json};

use super::{DESIGN, page::Block, to_run};
use crate::harness::{Config, Site, files};

/// CRC-32 (IEEE), bit by bit: slow, and with no code of the daemon's in it.
fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        let shift = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        (0..8).fold(crc ^ u32::from(*byte), shift)
    };
    !bytes.iter().fold(!0, update)
}

/// The line as JSON, once its checksum is found right.
fn checked(line: &str, what: &str) -> Value {
    let end = line.rfind(",\"crc\"").unwrap_or_else(|| panic!("{what}: no crc in {line}"));
    let crc = format!("{:08x}", crc32(&line.as_bytes()[..end]));
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{what}: {line}: {e}"));
    assert_eq!(value["crc"], crc, "{what}: the checksum of {line}");
    value
}

/// A daemon is brought to the place where the document's line stands, and asked for the same write.
fn written(shown: &Value) -> String {
    let site = Site::new(&Config::new().dated("jobs", "duckdb_flush_interval_seconds = 3600"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let date = "2025-01-15";
    for n in 1..shown["seq"].as_u64().expect("a seq") {
        conn.ok(json!({"op": "store", "date": date, "key": format!("k{n}"), "data": {}}));
    }
    let mut request = shown.clone();
    for field in ["updated_at", "seq", "durable_seq", "crc"] {
        request.as_object_mut().expect("an object").shift_remove(field).expect("a field of a WAL line");
    }
    request["date"] = json!(date);
    assert_eq!(conn.ok(&request)["seq"], shown["seq"]);
    daemon.kill();
    let segment = files::segments(&site.path("jobs")).pop().expect("a segment");
    let (_, line) = files::wal_lines(&segment).pop().expect("a line");
    String::from_utf8(line).expect("a line in UTF-8")
}

fn check(block: &Block) {
    let what = block.to_string();
    let mut shown = checked(block.text.trim_end(), &what);
    let line = written(&shown);
    let real = checked(line.trim_end(), "the daemon");
    for field in ["updated_at", "crc"] {
        shown[field] = real[field].clone();
    }
    // As text, so that the order of the fields counts too.
    assert_eq!(shown.to_string(), line.trim_end(), "{what}: the daemon writes it otherwise");
}

#[test]
fn the_wal_line_is_one_that_the_daemon_writes() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
    for block in to_run(DESIGN, "json") {
        check(&block);
    }
}
