//! What bad input gets: a clear error, and the connection, the others and the store go on as if nothing had been.

use std::{net::Shutdown, time::Instant};

use serde_json::{Value, json};

use crate::harness::{Config, Conn, Daemon, PATIENCE, Site, wait_for};

fn start() -> (Site, Daemon, Conn) {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

/// Nothing at all is stored, under today's date or any other.
fn assert_empty(conn: &mut Conn) {
    assert_eq!(conn.ok(json!({"op": "dates", "storage": "jobs"}))["dates"], json!([]));
    assert_eq!(conn.ok(json!({"op": "keys", "storage": "settings"}))["keys"], json!([]));
}

/// Sends bytes as one line and expects a refusal; the next line on the same connection must work.
fn refused_bytes(conn: &mut Conn, line: &[u8], code: &str) -> Value {
    let what = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
    conn.send_bytes(line);
    conn.send_bytes(b"\n");
    let error = conn.refusal(&what, code);
    assert_eq!(conn.ok(json!({"op": "ping", "id": "after"}))["id"], "after");
    error
}

#[test]
fn what_is_not_json_is_bad_json() {
    let (_site, _daemon, mut conn) = start();
    let lines: [&[u8]; 13] = [
        b"hello",
        b"{",
        b"{\"op\":\"ping\"",
        b"{\"op\":\"ping\",}",
        b"{'op':'ping'}",
        b"{\"op\":\"ping\"} x",
        b"{\"op\":\"ping\"}{\"op\":\"ping\"}",
        b"{\"op\":\"pi",
        b"{\"op\":ping}",
        b"{op:\"ping\"}",
        b"{\"op\":\"ping\",\"id\":01}",
        b"{\"op\":\"ping\",\"id\":NaN}",
        b"{\"op\":\"store\",\"storage\":\"jobs\",\"key\":\"k\",\"data\":{\"a\":1,}}",
    ];
    for line in lines {
        refused_bytes(&mut conn, line, "bad_json");
    }
    assert_empty(&mut conn);
}

#[test]
fn json_that_is_no_object_is_refused() {
    let (_site, _daemon, mut conn) = start();
    for line in ["[]", r#"[{"op":"ping"}]"#, "7", "\"ping\"", "null", "true"] {
        let answer = conn.ask(line);
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        assert!(["bad_json", "bad_request"].contains(&code), "{line} got {answer}");
        conn.ok(json!({"op": "ping"}));
    }
}

#[test]
fn invalid_utf8_nul_and_control_bytes_are_bad_json() {
    let (_site, _daemon, mut conn) = start();
    let store = |inside: &[u8]| {
        let head = &b"{\"op\":\"store\",\"storage\":\"jobs\",\"key\":\"k\",\"data\":{\"text\":\""[..];
        [head, inside, b"\"}}"].concat()
    };
    // Lone continuation, cut sequence, overlong slash, surrogate in UTF-8, beyond U+10FFFF, 0xFF.
    for bytes in [
        &b"\x80"[..],
        b"\xc3",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"a\x00b",
        b"a\tb",
        b"a\x01b",
    ] {
        refused_bytes(&mut conn, &store(bytes), "bad_json");
    }
    refused_bytes(&mut conn, b"\xff\xfe", "bad_json");
    refused_bytes(&mut conn, b"\0", "bad_json");
    refused_bytes(&mut conn, b"{\"op\":\"ping\"}\0", "bad_json");
    refused_bytes(
        &mut conn,
        b"{\"op\":\"store\",\"storage\":\"jobs\",\"key\":\"\xff\",\"data\":{}}",
        "bad_json",
    );
    assert_empty(&mut conn);
}

#[test]
fn a_field_that_is_missing_or_of_the_wrong_type_is_named() {
    let (_site, _daemon, mut conn) = start();
    let cases = [
        (r"{}", "op"),
        (r#"{"op":7}"#, "op"),
        (r#"{"op":"ping","storage":7}"#, "storage"),
        (r#"{"op":"store","storage":7,"key":"k","data":{}}"#, "storage"),
        (r#"{"op":"store","storage":"jobs","data":{}}"#, "key"),
        (r#"{"op":"store","storage":"jobs","key":7,"data":{}}"#, "key"),
        (r#"{"op":"store","storage":"jobs","key":null,"data":{}}"#, "key"),
        (r#"{"op":"store","storage":"jobs","key":"k"}"#, "data"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":[1]}"#, "data"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":"{}"}"#, "data"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":null}"#, "data"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":7}"#, "data"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"process_name":7}"#, "process_name"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"username":{}}"#, "username"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"timestamp":7}"#, "timestamp"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"date":20250115}"#, "date"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"durability":"maybe"}"#, "durability"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"durability":true}"#, "durability"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"if_seq":"1"}"#, "if_seq"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"if_seq":-1}"#, "if_seq"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"if_seq":1.5}"#, "if_seq"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"collection_name":5}"#, "collection_name"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"item_name":[]}"#, "item_name"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"value":[1]}"#, "value"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"value":{}}"#, "value"),
        (r#"{"op":"delete","storage":"jobs"}"#, "key"),
        (r#"{"op":"get_key","storage":"jobs"}"#, "key"),
        (r#"{"op":"get_key_process","storage":"jobs"}"#, "key"),
        (r#"{"op":"get_item","storage":"settings"}"#, "key"),
        (r#"{"op":"keys","storage":"jobs","limit":"ten"}"#, "limit"),
        (r#"{"op":"keys","storage":"jobs","limit":-1}"#, "limit"),
        (r#"{"op":"keys","storage":"jobs","prefix":1}"#, "prefix"),
        (r#"{"op":"batch","storage":"jobs"}"#, "ops"),
        (r#"{"op":"batch","storage":"jobs","ops":{}}"#, "ops"),
    ];
    for (line, field) in cases {
        let error = conn.refused(line, "bad_request");
        assert!(
            error["message"].as_str().unwrap().contains(field),
            "{line}: {field} is not named in {error}"
        );
    }
    assert_empty(&mut conn);
}

#[test]
fn an_unknown_field_is_named() {
    let (_site, _daemon, mut conn) = start();
    let cases = [
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"proces_name":"p"}"#, "proces_name"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"itemname":"i"}"#, "itemname"),
        (r#"{"op":"delete","storage":"jobs","key":"k","data":{}}"#, "data"),
        (r#"{"op":"get_key","storage":"jobs","key":"k","durability":"sync"}"#, "durability"),
        (r#"{"op":"get_key_process","storage":"jobs","key":"k","Process_name":"p"}"#, "Process_name"),
        (r#"{"op":"get_item","storage":"settings","key":"k","colection":"c"}"#, "colection"),
        (r#"{"op":"keys","storage":"jobs","before":"x"}"#, "before"),
        (r#"{"op":"dates","storage":"jobs","form":"x"}"#, "form"),
        (r#"{"op":"ping","verbose":true}"#, "verbose"),
        (r#"{"op":"flush","storage":"jobs","force":true}"#, "force"),
        (r#"{"op":"batch","storage":"jobs","ops":[],"extra":1}"#, "extra"),
        (r#"{"op":"batch","storage":"jobs","ops":[{"op":"store","key":"k","data":{},"exta":1}]}"#, "exta"),
        // These belong to the other model, or stand on the batch and not on its ops.
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"value":1}"#, "value"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"item_name":"i"}"#, "item_name"),
        (r#"{"op":"store","storage":"jobs","key":"k","data":{},"collection_name":"c"}"#, "collection_name"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"date":"2025-01-15"}"#, "date"),
        (r#"{"op":"store","storage":"settings","key":"k","data":{},"process_name":"p"}"#, "process_name"),
        (
            r#"{"op":"batch","storage":"jobs","ops":[{"op":"store","key":"k","data":{},"storage":"jobs"}]}"#,
            "storage",
        ),
        (
            r#"{"op":"batch","storage":"jobs","ops":[{"op":"store","key":"k","data":{},"date":"2025-01-15"}]}"#,
            "date",
        ),
    ];
    for (line, field) in cases {
        let error = conn.refused(line, "bad_request");
        assert!(
            error["message"].as_str().unwrap().contains(field),
            "{line}: {field} is not named in {error}"
        );
    }
    assert_empty(&mut conn);
}

#[test]
fn an_unknown_op_or_storage_is_named() {
    let (_site, _daemon, mut conn) = start();
    for op in ["stor", "STORE", ""] {
        let error = conn.refused(json!({"op": op, "key": "k"}), "unknown_op");
        assert!(error["message"].as_str().unwrap().contains(op), "{error}");
    }
    let requests = [
        json!({"op": "store", "storage": "job", "key": "k", "data": {}}),
        json!({"op": "get_key", "storage": "job", "key": "k"}),
        json!({"op": "batch", "storage": "job", "ops": []}),
        json!({"op": "keys", "storage": "job"}),
        json!({"op": "flush", "storage": "job"}),
    ];
    for request in requests {
        let error = conn.refused(request, "unknown_storage");
        assert!(error["message"].as_str().unwrap().contains("job"), "{error}");
    }
    assert_empty(&mut conn);
}

#[test]
fn an_op_of_the_other_model_is_refused() {
    let (_site, _daemon, mut conn) = start();
    conn.refused(json!({"op": "get_item", "storage": "jobs", "key": "k"}), "bad_request");
    conn.refused(json!({"op": "collections", "storage": "jobs", "key": "k"}), "bad_request");
    conn.refused(json!({"op": "get_key_process", "storage": "settings", "key": "k"}), "bad_request");
    conn.refused(json!({"op": "dates", "storage": "settings"}), "bad_request");
    assert_empty(&mut conn);
}

/// A store whose line has exactly `bytes` bytes before its end.
fn store_of(bytes: usize) -> String {
    let head = r#"{"op":"store","storage":"jobs","key":"k","data":{"pad":""#;
    let tail = r#""}}"#;
    format!("{head}{}{tail}", "x".repeat(bytes - head.len() - tail.len()))
}

#[test]
fn a_line_over_the_limit_is_skipped_to_its_end() {
    let (_site, _daemon, mut conn) = start();
    let limit = 1024 * 1024;
    let error = refused_bytes(&mut conn, store_of(limit + 1).as_bytes(), "line_too_long");
    assert!(error["message"].as_str().unwrap().contains("1048576"), "the limit is not named: {error}");
    // Three in a row, and what follows each on the same connection.
    conn.send(store_of(limit + 1));
    conn.send(json!({"op": "ping", "id": 1}));
    conn.send(store_of(3 * limit));
    conn.send(json!({"op": "ping", "id": 2}));
    conn.refusal("1 MiB + 1", "line_too_long");
    assert_eq!(conn.answer()["id"], 1);
    conn.refusal("3 MiB", "line_too_long");
    assert_eq!(conn.answer()["id"], 2);
    assert_empty(&mut conn);
}

#[test]
fn a_line_at_the_limit_is_stored() {
    let (_site, _daemon, mut conn) = start();
    let line = store_of(1024 * 1024);
    conn.ok(&line);
    conn.send(json!({"op": "get_key_process", "storage": "jobs", "key": "k"}));
    let pad = crate::harness::raw(&conn.text(), &["record", "data", "pad"]);
    assert_eq!(pad.len() - 2, line.matches('x').count());
}

#[test]
fn the_line_limit_can_be_set() {
    let site = Site::new(&Config::both().limits("max_line_bytes = 2000"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(store_of(2000));
    conn.refused(store_of(2001), "line_too_long");
    conn.ok(json!({"op": "ping"}));
}

#[test]
fn a_line_without_end_costs_no_memory() {
    let (_site, daemon, mut conn) = start();
    let before = daemon.resident_bytes();
    let mut most = before;
    let megabyte = vec![b'x'; 1024 * 1024];
    for _ in 0..64 {
        conn.send_bytes(&megabyte);
        most = most.max(daemon.resident_bytes());
    }
    conn.send("");
    conn.refusal("64 MiB", "line_too_long");
    assert!(most < before + 24 * 1024 * 1024, "grew from {before} to {most} bytes");
    conn.ok(json!({"op": "ping"}));
}

/// A store whose deepest bracket is number `depth`, the line's own being the first.
fn nested(depth: usize, open: &str, close: &str) -> String {
    let inner = depth - 2;
    format!(
        r#"{{"op":"store","storage":"jobs","key":"deep","data":{{"a":{}1{}}}}}"#,
        open.repeat(inner),
        close.repeat(inner)
    )
}

#[test]
fn nesting_of_64_is_stored_and_of_65_is_bad_json() {
    let (_site, _daemon, mut conn) = start();
    for (open, close) in [("[", "]"), (r#"{"x":"#, "}")] {
        conn.ok(nested(64, open, close));
        refused_bytes(&mut conn, nested(65, open, close).as_bytes(), "bad_json");
        refused_bytes(&mut conn, nested(5000, open, close).as_bytes(), "bad_json");
    }
    // Far deeper than any stack, and never closed.
    refused_bytes(&mut conn, "[".repeat(500_000).as_bytes(), "bad_json");
    // Width is not depth, and brackets in a string are none.
    let wide = vec!["[]"; 1000].join(",");
    conn.ok(format!(r#"{{"op":"store","storage":"jobs","key":"wide","data":{{"a":[{wide}]}}}}"#));
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "text", "data": {"a": "[{".repeat(500)}}));
}

#[test]
fn the_depth_limit_can_be_set() {
    let site = Site::new(&Config::both().limits("max_json_depth = 10"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(nested(10, "[", "]"));
    conn.refused(nested(11, "[", "]"), "bad_json");
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_line_stores_nothing() {
    let (_site, daemon, mut other) = start();
    for cut in [1, 20, 60] {
        let mut conn = daemon.connect();
        let line = r#"{"op":"store","storage":"jobs","key":"half","data":{"value":100}}"#;
        conn.send(json!({"op": "ping", "id": cut}));
        conn.send_bytes(&line.as_bytes()[..cut]);
        assert_eq!(conn.answer()["id"], cut);
        conn.stream().shutdown(Shutdown::Both).unwrap();
    }
    other.ok(json!({"op": "ping"}));
    assert_empty(&mut other);
}

#[test]
fn clients_that_say_nothing_hold_up_nobody() {
    let (_site, daemon, mut conn) = start();
    let silent: Vec<_> = (0..40).map(|_| daemon.connect()).collect();
    let begun = Instant::now();
    for n in 0..50 {
        conn.ok(json!({"op": "store", "storage": "jobs", "key": format!("k{n}"), "data": {}}));
    }
    assert!(begun.elapsed() < PATIENCE / 2, "50 stores beside silent clients took {:?}", begun.elapsed());
    drop(silent);
    // Their places are free again.
    wait_for("64 connections of one user at once", PATIENCE, || {
        let mut all: Vec<_> = (0..60).map(|_| daemon.connect()).collect();
        let answered = all.iter_mut().filter_map(|conn| conn.try_ask(json!({"op": "ping"})));
        (answered.filter(|answer| answer["ok"] == true).count() == 60).then_some(())
    });
}

/// A line of a megabyte once came back in the error that refused it, three times as long.
#[test]
fn what_was_wrong_is_said_without_the_whole_line() {
    let (_site, _daemon, mut conn) = start();
    let long = "\u{feff}".repeat(300_000);
    let store = |name: &str, value: &str| {
        format!(r#"{{"op":"store","storage":"jobs","key":"k","data":{{}},"{name}":"{value}"}}"#)
    };
    let lines = [
        store(&long, ""),
        store("date", &long),
        store("timestamp", &long),
        store("durability", &long),
        store("process_name", &long),
        format!(r#"{{"op":"stats","format":"{long}"}}"#),
        format!(r#"{{"op":"query","storage":"jobs","sql":"SELECT 1","result":"{long}"}}"#),
        format!(r#"{{"op":"{long}"}}"#),
    ];
    for line in lines {
        conn.send(line);
        let text = conn.text();
        assert!(text.len() < 2_000, "{} bytes: {}", text.len(), &text[..80]);
        assert!(text.contains("bad_request") || text.contains("unknown_op"), "{text}");
    }
    assert_empty(&mut conn);
}
