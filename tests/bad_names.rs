//! Names and dates that cannot be: refused with what is wrong, and nothing is stored or made on disk.

use std::fs;

use serde_json::json;

use crate::harness::{Config, Site, files};

#[test]
fn a_date_that_does_not_exist_is_refused() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let dates = [
        "2025-02-30",
        "2025-02-29",
        "2025-13-01",
        "2025-00-10",
        "2025-01-00",
        "2025-01-32",
        "2025-1-5",
        "20250115",
        "15-01-2025",
        "2025-01-15T00:00:00Z",
        " 2025-01-15",
        "2025-01-15 ",
        "today",
        "",
        "+2025-01-15",
        "-025-01-15",
        "２０２５-01-15",
        "../../tmp",
        "2025-01-15/..",
    ];
    for date in dates {
        let requests = [
            json!({"op": "store", "storage": "jobs", "date": date, "key": "k", "data": {}}),
            json!({"op": "delete", "storage": "jobs", "date": date, "key": "k"}),
            json!({"op": "batch", "storage": "jobs", "date": date, "ops": [{"op": "store", "key": "k", "data": {}}]}),
            json!({"op": "get_key", "storage": "jobs", "date": date, "key": "k"}),
            json!({"op": "get_key_process", "storage": "jobs", "date": date, "key": "k"}),
            json!({"op": "keys", "storage": "jobs", "date": date}),
        ];
        for request in requests {
            let error = conn.refused(&request, "bad_request");
            assert!(error["message"].as_str().unwrap().contains("date"), "{request}: {error}");
        }
    }
    // A leap day does exist.
    conn.ok(json!({"op": "store", "storage": "jobs", "date": "2024-02-29", "key": "k", "data": {}}));
    assert_eq!(conn.ok(json!({"op": "dates", "storage": "jobs"}))["dates"], json!(["2024-02-29"]));
}

#[test]
fn a_key_has_1_to_1024_bytes() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings"] {
        for key in [String::new(), "k".repeat(1025), "é".repeat(513)] {
            let error = conn
                .refused(json!({"op": "store", "storage": storage, "key": key, "data": {}}), "bad_request");
            assert!(error["message"].as_str().unwrap().contains("key"), "{error}");
            conn.refused(json!({"op": "delete", "storage": storage, "key": key}), "bad_request");
            conn.refused(json!({"op": "get_key", "storage": storage, "key": key}), "bad_request");
        }
        for key in ["k".repeat(1024), "é".repeat(512), " ".to_owned()] {
            conn.ok(json!({"op": "store", "storage": storage, "key": key, "data": {}}));
            let got = conn.ok(json!({"op": "get_key", "storage": storage, "key": key}));
            assert_eq!(got["records"][0]["key"], key);
        }
        assert_eq!(conn.ok(json!({"op": "keys", "storage": storage}))["keys"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn other_names_have_up_to_255_bytes() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let cases = [
        ("jobs", "process_name"),
        ("jobs", "username"),
        ("settings", "collection_name"),
        ("settings", "item_name"),
    ];
    for (storage, field) in cases {
        for bad in ["n".repeat(256), "é".repeat(128)] {
            let mut request = json!({"op": "store", "storage": storage, "key": "k", "data": {}});
            request[field] = json!(bad);
            let error = conn.refused(request, "bad_request");
            assert!(error["message"].as_str().unwrap().contains(field), "{error}");
        }
        let mut request = json!({"op": "store", "storage": storage, "key": field, "data": {}});
        request[field] = json!("n".repeat(255));
        conn.ok(request);
        let got = conn.ok(json!({"op": "get_key", "storage": storage, "key": field}));
        assert_eq!(got["records"][0][field], "n".repeat(255));
    }
}

#[test]
fn a_name_holds_no_nul() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let cases = [
        ("jobs", "key"),
        ("jobs", "process_name"),
        ("jobs", "username"),
        ("settings", "collection_name"),
        ("settings", "item_name"),
    ];
    for (storage, field) in cases {
        let mut request = json!({"op": "store", "storage": storage, "key": "k", "data": {}});
        request[field] = json!("a\u{0}b");
        let error = conn.refused(request, "bad_request");
        assert!(error["message"].as_str().unwrap().contains(field), "{error}");
        assert_eq!(conn.ok(json!({"op": "keys", "storage": storage}))["keys"], json!([]));
    }
}

#[test]
fn names_never_become_paths() {
    let config = Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\"");
    let site = Site::new(&config);
    fs::write(site.path("precious"), "untouched").unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for name in ["../../precious", "/etc/passwd", "..", ".", "a/b", "~", "$HOME", "-rf", "con\u{7f}"] {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": name, "process_name": name, "data": {}}));
        let got = conn.ok(json!({"op": "get_key", "date": "2025-01-15", "key": name}));
        assert_eq!(got["records"][0]["process_name"], name);
    }
    conn.ok(json!({"op": "flush"}));
    conn.ok(json!({"op": "export_parquet"}));
    drop(conn);
    daemon.stop();
    assert_eq!(fs::read_to_string(site.path("precious")).unwrap(), "untouched");
    let strangers: Vec<_> = files::tree(&site.path(""))
        .into_iter()
        .filter(|path| !path.starts_with(site.path("jobs")) && !path.starts_with(site.path("parquet")))
        .filter(|path| {
            !["precious", "config.toml", "stdout.log", "stderr.log", "sock"]
                .contains(&path.file_name().unwrap().to_string_lossy().as_ref())
        })
        .collect();
    assert_eq!(strangers, [] as [std::path::PathBuf; 0], "files outside the storage's directories");
}
