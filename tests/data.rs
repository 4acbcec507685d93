//! `data` comes back byte for byte: from memory, after a kill -9, and from DuckDB.

use serde_json::json;

use crate::harness::{Config, Daemon, Site, raw};

/// Objects that a parser would be tempted to tidy up.
const OBJECTS: [&str; 22] = [
    r"{}",
    r"{  }",
    r#"{"z":1,"a":2,"m":3}"#,
    r#"{ "spaced" :  [ 1 ,2,   3 ] , "tab":	1 }"#,
    r#"{"a":1,"a":2,"a":{"a":3,"a":4}}"#,
    r#"{"n":123456789012345678901234567890}"#,
    r#"{"n":-9223372036854775809,"m":18446744073709551616}"#,
    r#"{"n":0.1000000000000000055511151231257827021181583404541015625}"#,
    r#"{"n":1.0,"m":1.50,"e":1E5,"f":1e+05,"z":-0,"y":-0.0,"x":0e0}"#,
    r#"{"n":3.141592653589793238462643383279502884197169399375105820974944}"#,
    r#"{"n":1e999,"m":-1E400,"tiny":1e-999}"#,
    r#"{"escapes":"\"\\\/\b\f\n\r\t\u0041\u00e9\u00E9\ud83d\ude00"}"#,
    r#"{"separators":"  ","del":""}"#,
    r#"{"text":"é日本語😀","ключ":"значение","":"empty name"}"#,
    r#"{"nul":"a\u0000b"}"#,
    r#"{"deep":{"er":{"est":[[[[{"x":[null,true,false]}]]]]}}}"#,
    r#"{"quote":"it's \"quoted\"","sql":"'; DROP TABLE storage; --","percent":"%s %d {} {0}"}"#,
    r#"{"\u006b\u0065\u0079":1,"a\"b":2,"c\\d":3}"#,
    r#"{"base64":"////+++==","html":"<a href='x'>&amp;</a>"}"#,
    r#"{"data":{"data":{}},"op":"delete","seq":99,"crc":"00000000","key":"other"}"#,
    r#"{"line":"\u2028\u2029\u0085\u000a"}"#,
    r#"{"null":null,"true":true,"list":[],"object":{}}"#,
];

fn requests(storage: &str) -> Vec<String> {
    let request = |(n, data): (usize, &&str)| {
        format!(r#"{{"op":"store","storage":"{storage}","key":"k{n:03}","data":{data}}}"#)
    };
    OBJECTS.iter().enumerate().map(request).collect()
}

fn assert_same(daemon: &Daemon, when: &str) {
    let mut conn = daemon.connect();
    for (n, data) in OBJECTS.iter().enumerate() {
        for (op, storage) in [("get_key_process", "jobs"), ("get_item", "settings")] {
            conn.send(json!({"op": op, "storage": storage, "key": format!("k{n:03}")}));
            let text = conn.text();
            assert_eq!(raw(&text, &["ok"]), "true", "{when}: {data}: {text}");
            assert_eq!(raw(&text, &["record", "data"]), *data, "{when}, {storage}");
        }
    }
}

/// Nothing stays in memory after a flush: what is read then has been in DuckDB.
fn cold() -> Config {
    Config::new().dated("jobs", "cache_max_bytes = 1").collection("settings", "cache_max_bytes = 1")
}

#[test]
fn data_comes_back_byte_for_byte_from_memory_wal_and_duckdb() {
    let site = Site::new(&cold());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings"] {
        conn.all_ok(requests(storage));
    }
    assert_same(&daemon, "from memory");
    daemon.kill();
    let daemon = site.start();
    assert_same(&daemon, "after kill -9");
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings"] {
        conn.ok(json!({"op": "flush", "storage": storage}));
    }
    assert_same(&daemon, "after a flush");
    daemon.stop();
    assert_same(&site.start(), "after a clean restart");
}

#[test]
fn half_a_surrogate_pair_cannot_stop_a_flush() {
    // JSON's grammar allows it, DuckDB's JSON does not: either it is refused or it must survive being flushed.
    let site = Site::new(&cold());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let data = r#"{"half":"\ud800","other":"\udc00x"}"#;
    let mut taken = Vec::new();
    for (op, storage) in [("get_key_process", "jobs"), ("get_item", "settings")] {
        let answer =
            conn.ask(format!(r#"{{"op":"store","storage":"{storage}","key":"half","data":{data}}}"#));
        if answer["ok"] == true {
            taken.push((op, storage));
        } else {
            let code = answer["error"]["code"].as_str().unwrap();
            assert!(["bad_json", "bad_request"].contains(&code), "{answer}");
        }
        conn.ok(json!({"op": "store", "storage": storage, "key": "whole", "data": {}}));
        conn.ok(json!({"op": "flush", "storage": storage}));
    }
    daemon.stop();
    let daemon = site.start();
    for (op, storage) in taken {
        let mut conn = daemon.connect();
        conn.send(json!({"op": op, "storage": storage, "key": "half"}));
        assert_eq!(raw(&conn.text(), &["record", "data"]), data);
        assert!(conn.ok(json!({"op": op, "storage": storage, "key": "whole"}))["record"].is_object());
    }
}

#[test]
fn names_of_any_kind_come_back_as_they_were() {
    let names = [
        "a\nb", "tab\t", "quote\"'", "\\", "é", "e\u{301}", "😀", "\u{2028}", " lead", "trail ", "%_",
        "null", "\u{7f}",
    ];
    let site = Site::new(&cold());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for name in names {
        conn.ok(json!({"op": "store", "storage": "jobs", "key": name, "process_name": name, "username": name, "data": {"n": name}}));
        conn.ok(json!({
            "op": "store", "storage": "settings", "key": name, "collection_name": name, "item_name": name, "data": {}, "value": name
        }));
    }
    let check = |daemon: &Daemon, when: &str| {
        let mut conn = daemon.connect();
        for name in names {
            let got = conn
                .ok(json!({"op": "get_key_process", "storage": "jobs", "key": name, "process_name": name}));
            let record = &got["record"];
            assert_eq!(
                (&record["key"], &record["process_name"]),
                (&json!(name), &json!(name)),
                "{when}: {name:?}"
            );
            assert_eq!(
                (&record["username"], &record["data"]["n"]),
                (&json!(name), &json!(name)),
                "{when}: {name:?}"
            );
            let got = conn.ok(json!({
                "op": "get_item", "storage": "settings", "key": name, "collection_name": name, "item_name": name
            }));
            assert_eq!(got["record"]["value"], name, "{when}: {name:?}");
        }
        let keys = conn.ok(json!({"op": "keys", "storage": "jobs"}));
        assert_eq!(keys["keys"].as_array().unwrap().len(), names.len(), "{when}: no two names are one");
    };
    check(&daemon, "from memory");
    daemon.stop();
    check(&site.start(), "from DuckDB");
}

#[test]
fn a_megabyte_of_data_goes_through_everything() {
    let site = Site::new(&cold());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let pad = "é\\n".repeat(240_000);
    let line = format!(r#"{{"op":"store","storage":"jobs","key":"big","data":{{"pad":"{pad}"}}}}"#);
    conn.ok(line);
    let pad = format!("\"{pad}\"");
    let same = |daemon: &Daemon| {
        let mut conn = daemon.connect();
        conn.send(json!({"op": "get_key_process", "storage": "jobs", "key": "big"}));
        assert!(raw(&conn.text(), &["record", "data", "pad"]) == pad, "a megabyte has changed");
    };
    same(&daemon);
    daemon.stop();
    same(&site.start());
}
