//! Dates: isolated from each other, written at once, today by the storage's clock, and never made by a read.

use std::thread;

use chrono::{FixedOffset, Utc};
use serde_json::{Value, json};

use crate::harness::{Config, Conn, Site, files};

#[test]
fn dates_are_isolated_and_listed_in_order() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let dates = ["2025-03-01", "1999-12-31", "2025-01-15", "9999-12-31", "0001-01-01"];
    for (n, date) in dates.iter().enumerate() {
        let stored = conn.ok(json!({"op": "store", "date": date, "key": "k", "data": {"n": n}}));
        assert_eq!(stored["seq"], 1, "each date has its own sequence");
    }
    for (n, date) in dates.iter().enumerate() {
        let record = conn.ok(json!({"op": "get_key_process", "date": date, "key": "k"}))["record"].clone();
        assert_eq!((&record["date"], &record["data"]["n"]), (&json!(date), &json!(n)));
    }
    let sorted = json!(["0001-01-01", "1999-12-31", "2025-01-15", "2025-03-01", "9999-12-31"]);
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"], sorted);
    conn.ok(json!({"op": "delete", "date": "2025-01-15", "key": "k"}));
    assert!(
        conn.ok(json!({"op": "get_key_process", "date": "2025-03-01", "key": "k"}))["record"].is_object()
    );
    daemon.kill();
    let daemon = site.start();
    assert!(
        daemon.connect().ok(json!({"op": "get_key_process", "date": "1999-12-31", "key": "k"}))["record"]
            .is_object()
    );
}

#[test]
fn ten_dates_are_written_at_the_same_time() {
    let site = Site::new(&Config::new().dated("jobs", "batch_size = 50"));
    let daemon = site.start();
    thread::scope(|scope| {
        for day in 1..=10 {
            let mut conn = daemon.connect();
            scope.spawn(move || {
                for n in 1..=200 {
                    let store = json!({
                        "op": "store", "date": format!("2025-01-{day:02}"), "key": format!("k{n:03}"),
                        "data": {"day": day, "n": n}
                    });
                    assert_eq!(conn.ok(store)["seq"], n);
                }
            });
        }
    });
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"].as_array().unwrap().len(), 10);
    for day in 1..=10 {
        let date = format!("2025-01-{day:02}");
        let reads =
            (1..=200).map(|n| json!({"op": "get_key_process", "date": date, "key": format!("k{n:03}")}));
        for (n, got) in conn.all_ok(reads).iter().enumerate() {
            assert_eq!(got["record"]["data"], json!({"day": day, "n": n + 1}), "{date}");
        }
    }
}

#[test]
fn more_dates_than_stay_open_are_all_there() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let dates: Vec<_> =
        (1..=12).flat_map(|month| (1..=10).map(move |day| format!("2024-{month:02}-{day:02}"))).collect();
    for round in 0..2 {
        for date in &dates {
            let key = format!("k{round}");
            conn.ok(json!({"op": "store", "date": date, "key": key, "data": {"date": date}}));
        }
        conn.ok(json!({"op": "flush"}));
    }
    for date in &dates {
        for key in ["k0", "k1"] {
            let got = conn.ok(json!({"op": "get_key_process", "date": date, "key": key}));
            assert_eq!(got["record"]["data"]["date"], *date);
        }
    }
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"], json!(dates));
    drop(conn);
    daemon.stop();
    let daemon = site.start();
    let mut conn = daemon.connect();
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"], json!(dates));
    for date in &dates {
        assert!(
            conn.ok(json!({"op": "get_key_process", "date": date, "key": "k1"}))["record"].is_object(),
            "{date}"
        );
        let next = conn.ok(json!({"op": "store", "date": date, "key": "k2", "data": {}}));
        assert_eq!(next["seq"], 3, "{date}: the sequence goes on");
    }
}

#[test]
fn a_date_that_cannot_be_flushed_stays_open_and_is_seen_to_fail() {
    let quiet = "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600";
    let site =
        Site::new(&Config::new().limits("max_open_dates = 2\nbusy_wait_ms = 200").dated("jobs", quiet));
    let daemon = site.start();
    let mut conn = daemon.connect();
    let store = |date: &str| json!({"op": "store", "date": date, "key": "k", "data": {"of": date}});
    let dates = ["2025-01-01", "2025-01-02"];
    for date in dates {
        conn.ok(store(date));
    }
    let in_the_way = site.path("jobs/2025-01-01/data.duckdb");
    std::fs::create_dir(&in_the_way).unwrap();
    // The other one goes in its place.
    conn.ok(store("2025-01-03"));
    let state = |conn: &mut Conn| conn.ok(json!({"op": "stats"}))["storages"]["jobs"].clone();
    let jobs = state(&mut conn);
    assert!(daemon.log().contains("2025-01-01/data.duckdb"), "why it cannot be flushed is told");
    assert_eq!(jobs["pending_writes"], 2, "{jobs}");
    let also = site.path("jobs/2025-01-03/data.duckdb");
    std::fs::create_dir(&also).unwrap();
    conn.refused(store("2025-01-04"), "busy");
    let read = json!({"op": "get_key_process", "date": "2025-01-01", "key": "k"});
    assert_eq!(conn.ok(read.clone())["record"]["data"]["of"], "2025-01-01", "what is open goes on");
    for directory in [in_the_way, also] {
        std::fs::remove_dir(directory).unwrap();
    }
    conn.ok(store("2025-01-04"));
    conn.ok(store("2025-01-05"));
    conn.ok(json!({"op": "flush"}));
    assert_eq!(state(&mut conn)["pending_writes"], 0);
    assert_eq!(conn.ok(read)["record"]["data"]["of"], "2025-01-01");
}

#[test]
fn reads_and_refused_writes_make_no_date() {
    let site = Site::new(&Config::new().dated("jobs", "extra_schema = { n = \"int64\" }"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "date": "2025-01-01", "key": "k", "data": {}}));
    let date = "2031-07-07";
    let reads = [
        json!({"op": "get_key_process", "date": date, "key": "k"}),
        json!({"op": "get_key", "date": date, "key": "k"}),
        json!({"op": "keys", "date": date}),
        json!({"op": "keys", "date": date, "prefix": "k", "limit": 5}),
    ];
    for read in reads {
        conn.ok(read);
    }
    // A delete of what is not there writes nothing, a store that is refused neither.
    assert_eq!(conn.ok(json!({"op": "delete", "date": date, "key": "k"}))["deleted"], false);
    conn.refused(json!({"op": "store", "date": date, "key": "k", "data": {"n": "x"}}), "bad_request");
    conn.refused(json!({"op": "store", "date": date, "key": "k", "data": {}, "if_seq": 4}), "conflict");
    conn.refused(json!({"op": "delete", "date": date, "key": "k", "if_seq": 4}), "conflict");
    let batch = json!([{"op": "store", "key": "k", "data": {}}, {"op": "store", "key": "", "data": {}}]);
    conn.refused(json!({"op": "batch", "date": date, "ops": batch}), "bad_request");
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"], json!(["2025-01-01"]));
    conn.ok(json!({"op": "flush"}));
    drop(conn);
    daemon.stop();
    let made: Vec<_> = files::tree(&site.path("jobs"))
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(date))
        .collect();
    assert_eq!(made, [] as [std::path::PathBuf; 0]);
    assert!(!site.path("jobs").join(date).exists(), "not even an empty directory");
}

#[test]
fn a_date_left_out_is_today_in_the_storages_timezone() {
    // 26 hours apart: never the same date.
    let zones = [("Pacific/Kiritimati", 14), ("Etc/GMT+12", -12), ("UTC", 0)];
    let config = zones.iter().enumerate().fold(Config::new(), |config, (n, (zone, _))| {
        config.dated(&format!("z{n}"), &format!("timezone = \"{zone}\""))
    });
    let site = Site::new(&config);
    let daemon = site.start();
    let mut conn = daemon.connect();
    let today = |hours: i32| {
        Utc::now().with_timezone(&FixedOffset::east_opt(hours * 3600).unwrap()).date_naive().to_string()
    };
    for (n, (zone, hours)) in zones.iter().enumerate() {
        let storage = format!("z{n}");
        let before = today(*hours);
        conn.ok(json!({"op": "store", "storage": storage, "key": "k", "data": {}}));
        let dates = conn.ok(json!({"op": "dates", "storage": storage}))["dates"].clone();
        let after = today(*hours);
        let date: Vec<&str> = dates.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(date == [before.as_str()] || date == [after.as_str()], "{zone}: {date:?}, not {before}");
        if before == after {
            let got = conn.ok(json!({"op": "get_key_process", "storage": storage, "key": "k"}));
            assert_eq!(got["record"]["date"], *before, "{zone}");
            assert!(site.path(&storage).join(&before).is_dir(), "{zone}: a directory per date");
        }
    }
}

#[test]
fn strangers_in_the_base_directory_are_no_dates() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    for name in ["lost+found", "2025-02-30", "2025-1-1", "notes"] {
        std::fs::create_dir_all(site.path("jobs").join(name)).unwrap();
    }
    std::fs::write(site.path("jobs/README"), "not ours").unwrap();
    let daemon = site.start();
    let mut conn = daemon.connect();
    conn.ok(json!({"op": "store", "date": "2025-01-01", "key": "k", "data": {}}));
    assert_eq!(conn.ok(json!({"op": "dates"}))["dates"], json!(["2025-01-01"]));
    drop(conn);
    daemon.stop();
    assert_eq!(std::fs::read_to_string(site.path("jobs/README")).unwrap(), "not ours");
}
