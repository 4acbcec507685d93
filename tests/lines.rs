//! Contract 1: one JSON object per line, one answer per request, in order, `id` echoed byte for byte.

use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Config, Site, raw};

#[test]
fn ping_answers_pong() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    assert_eq!(daemon.connect().ok(json!({"op": "ping"})), json!({"ok": true, "pong": true}));
}

#[test]
fn an_id_comes_back_byte_for_byte() {
    let ids = [
        "7",
        "-1",
        "0",
        "1.0",
        "1.50",
        "1e5",
        "1E+5",
        "123456789012345678901234567890",
        "\"seven\"",
        "\"\"",
        r#""caf\u00e9 \/ \"x\"""#,
        "\"café 日本\"",
        "true",
        "false",
        "null",
    ];
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for id in ids {
        conn.send(format!(r#"{{"op":"ping","id":{id}}}"#));
        assert_eq!(raw(&conn.text(), &["id"]), id, "on a success");
        conn.send(format!(r#"{{"id":{id},"op":"no_such_op"}}"#));
        let text = conn.text();
        assert_eq!(raw(&text, &["id"]), id, "on a failure");
        assert_eq!(raw(&text, &["error", "code"]), "\"unknown_op\"");
    }
}

#[test]
fn no_id_in_the_request_means_none_in_the_answer() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert!(conn.ok(json!({"op": "ping"})).get("id").is_none());
    assert!(conn.ask(json!({"op": "no_such_op"})).get("id").is_none());
    assert!(conn.ask(json!({"op": "store", "storage": "jobs"})).get("id").is_none());
}

#[test]
fn an_id_is_a_scalar() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.refused(json!({"op": "ping", "id": [1]}), "bad_request");
    conn.refused(json!({"op": "ping", "id": {"a": 1}}), "bad_request");
    conn.ok(json!({"op": "ping"}));
}

#[test]
fn carriage_returns_are_tolerated_and_empty_lines_ignored() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.send_bytes(b"\n\r\n{\"op\":\"ping\",\"id\":1}\r\n\n\n\r\n{\"op\":\"ping\",\"id\":2}\n");
    assert_eq!(conn.answer()["id"], 1);
    assert_eq!(conn.answer()["id"], 2);
    // A carriage return is no part of what is stored.
    conn.send_bytes(b"{\"op\":\"store\",\"storage\":\"jobs\",\"key\":\"k\",\"data\":{\"a\":1}}\r\n");
    assert_eq!(conn.answer()["ok"], true);
    conn.send(json!({"op": "get_key_process", "storage": "jobs", "key": "k"}));
    assert_eq!(raw(&conn.text(), &["record", "data"]), r#"{"a":1}"#);
}

#[test]
fn white_space_between_tokens_is_json_like_any_other() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(conn.ok("  { \"op\" :\t\"ping\" , \"id\" : 3 }  ")["id"], 3);
}

#[test]
fn escaped_field_names_and_values_mean_what_they_say() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(
        r#"{"\u006fp":"\u0073tore","storage":"jo\u0062s","key":"a\u0062c","d\u0061ta":{"n":1},"process_name":"p\n"}"#,
    );
    let got =
        conn.ok(json!({"op": "get_key_process", "storage": "jobs", "key": "abc", "process_name": "p\n"}));
    assert_eq!(got["record"]["data"]["n"], 1);
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let request = |n: u64| match n % 5 {
        0 => json!({"op": "store", "id": n, "storage": "jobs", "key": format!("k{n}"), "data": {"n": n}}),
        1 => json!({"op": "ping", "id": n}),
        2 => {
            json!({"op": "store", "id": n, "storage": "settings", "key": format!("k{n}"), "data": {}, "value": n})
        }
        3 => json!({"op": "no_such_op", "id": n}),
        _ => json!({"op": "get_key", "id": n, "storage": "jobs", "key": format!("k{}", n - 4)}),
    };
    let answers = conn.pipeline((0..1000).map(request));
    let ids: Vec<u64> = answers.iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..1000).collect::<Vec<_>>());
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer["ok"], n % 5 != 3, "{answer}");
    }
}

#[test]
fn a_half_closed_client_gets_every_answer_it_is_owed() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..300 {
        conn.send(
            json!({"op": "store", "id": n, "storage": "jobs", "key": format!("k{n}"), "data": {"n": n}}),
        );
    }
    conn.half_close();
    for n in 0..300 {
        let answer = conn.answer();
        assert_eq!((&answer["id"], &answer["ok"]), (&json!(n), &json!(true)));
    }
    assert_eq!(conn.next(), None, "nothing more is owed");
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for byte in b"{\"op\":\"ping\",\"id\":\"slow\"}\n" {
        conn.stream().write_all(&[*byte]).unwrap();
        conn.stream().flush().unwrap();
    }
    assert_eq!(conn.answer()["id"], "slow");
}

#[test]
fn an_answer_is_one_line_whatever_is_inside() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "storage": "jobs", "key": "a\nb", "data": {"text": "one\ntwo\r\nthree"}}));
    let got = conn.ok(json!({"op": "get_key_process", "storage": "jobs", "key": "a\nb"}));
    assert_eq!(got["record"]["data"]["text"], "one\ntwo\r\nthree");
    // The name comes back inside a message too.
    conn.refused("{\"op\":\"two\\nlines\"}", "unknown_op");
    conn.ok(json!({"op": "ping"}));
}

#[test]
fn the_storage_may_be_left_out_where_there_is_one() {
    let site = Site::new(&Config::new().dated("only", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "key": "k", "data": {"n": 1}}));
    conn.ok(json!({"op": "store", "storage": "only", "key": "k", "data": {"n": 2}}));
    assert_eq!(conn.ok(json!({"op": "get_key_process", "key": "k"}))["record"]["data"]["n"], 2);
}

#[test]
fn the_storage_is_needed_where_there_are_two() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let error = conn.refused(json!({"op": "store", "key": "k", "data": {}}), "unknown_storage");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("jobs") && message.contains("settings"),
        "it names those that there are: {error}"
    );
}

#[test]
fn ping_info_and_stats_say_who_is_there() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let info = conn.ok(json!({"op": "info"}));
    assert_eq!(info["pid"], daemon.pid(), "{info}");
    assert!(
        info["name"].is_string() && info["version"].is_string() && !info["started_at"].is_null(),
        "{info}"
    );
    let text = info.to_string();
    for part in ["jobs", "settings", "dated", "collection"] {
        assert!(text.contains(part), "{part} is missing in {info}");
    }
    let stats = conn.ok(json!({"op": "stats"}));
    for name in [
        "cache_size",
        "cache_bytes",
        "pending_writes",
        "current_wal_size",
        "current_wal_count",
        "wal_files_count",
        "wal_sequence",
    ] {
        assert_eq!(count_members(&stats, name), 2, "{name} once for each storage in {stats}");
    }
}

/// How many objects within `value` have a number called `name`.
fn count_members(value: &Value, name: &str) -> usize {
    match value {
        Value::Object(members) => {
            usize::from(members.get(name).is_some_and(Value::is_number))
                + members.values().map(|member| count_members(member, name)).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(|item| count_members(item, name)).sum(),
        _ => 0,
    }
}
