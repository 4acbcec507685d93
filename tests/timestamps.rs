//! `timestamp`: many forms in, one form out, and in DuckDB exactly the instant that was sent.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::harness::{Config, Conn, Site, is_stamp, python};

/// What may be sent, what comes back, and the same in microseconds since 1970.
const FORMS: [(&str, &str, i64); 19] = [
    ("2025-01-15T10:30:00Z", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15T10:30:00z", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15t10:30:00Z", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15T10:30:00+00:00", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15T12:30:00+02:00", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15T05:00:00-05:30", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-16T00:30:00+14:00", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15T10:30:00", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15 10:30:00", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15 10:30:00Z", "2025-01-15T10:30:00.000000Z", 1_736_937_000_000_000),
    ("2025-01-15 12:30:00.5+02:00", "2025-01-15T10:30:00.500000Z", 1_736_937_000_500_000),
    ("2025-01-15T10:30:00.123456Z", "2025-01-15T10:30:00.123456Z", 1_736_937_000_123_456),
    ("2025-01-15T10:30:00.000001", "2025-01-15T10:30:00.000001Z", 1_736_937_000_000_001),
    ("2025-01-15T10:30:00.123456000Z", "2025-01-15T10:30:00.123456Z", 1_736_937_000_123_456),
    ("2025-01-15", "2025-01-15T00:00:00.000000Z", 1_736_899_200_000_000),
    ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999Z", 1_709_251_199_999_999),
    ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z", -1),
    ("1600-01-01T00:00:00.000001Z", "1600-01-01T00:00:00.000001Z", -11_676_095_999_999_999),
    ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
];

fn stamp(conn: &mut Conn, n: usize) -> serde_json::Value {
    let got = conn.ok(json!({"op": "get_key_process", "date": "2025-01-15", "key": format!("k{n:02}")}));
    got["record"]["timestamp"].clone()
}

#[test]
fn every_form_comes_back_in_one_form() {
    let site = Site::new(&Config::new().dated("jobs", "cache_max_bytes = 1"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (n, (sent, out, _)) in FORMS.iter().enumerate() {
        let key = format!("k{n:02}");
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": key, "data": {"timestamp": sent}}));
        assert_eq!(stamp(&mut conn, n), *out, "{sent} in data");
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": key, "timestamp": sent, "data": {}}));
        assert_eq!(stamp(&mut conn, n), *out, "{sent}");
    }
    drop(conn);
    daemon.kill();
    let daemon = site.start();
    let mut conn = daemon.connect();
    for (n, (sent, out, _)) in FORMS.iter().enumerate() {
        assert_eq!(stamp(&mut conn, n), *out, "{sent}, from the WAL");
    }
    conn.ok(json!({"op": "flush"}));
    for (n, (sent, out, _)) in FORMS.iter().enumerate() {
        assert_eq!(stamp(&mut conn, n), *out, "{sent}, from DuckDB");
    }
    drop(conn);
    daemon.stop();
    if !python::available() {
        return;
    }
    let rows = python::rows(
        &site.path("jobs/2025-01-15/data.duckdb"),
        "SELECT epoch_us(timestamp), CAST(timestamp AS VARCHAR), updated_at IS NULL FROM storage ORDER BY key",
    );
    assert_eq!(rows.len(), FORMS.len());
    for (row, (sent, _, micros)) in rows.iter().zip(FORMS) {
        assert_eq!((&row[0], &row[2]), (&json!(micros), &json!(false)), "{sent} is {} in DuckDB", row[1]);
    }
}

#[test]
fn a_timestamp_that_cannot_be_read_is_refused() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let bad = [
        "yesterday",
        "",
        "2025-02-30",
        "2025-02-30T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-01-15T25:00:00Z",
        "2025-01-15T10:61:00Z",
        "2025-01-15T10:30:00+25:00",
        "10:30:00",
        "1736937000",
        "2025-01-15T10:30:00Z trailing",
        "15.01.2025",
        "NaN",
    ];
    for storage in ["jobs", "settings"] {
        for sent in bad {
            let request =
                json!({"op": "store", "storage": storage, "key": "k", "timestamp": sent, "data": {}});
            let error = conn.refused(request, "bad_request");
            assert!(error["message"].as_str().unwrap().contains("timestamp"), "{error}");
        }
        assert_eq!(conn.ok(json!({"op": "get_key", "storage": storage, "key": "k"}))["records"], json!([]));
    }
}

#[test]
fn one_in_data_that_cannot_be_read_warns_and_is_null() {
    let site = Site::new(&Config::new().dated("jobs", ""));
    let daemon = site.start();
    let mut conn = daemon.connect();
    for sent in ["yesterday", "2025-02-30", "2025-01-15T10:61:00Z"] {
        let stored = conn.ok(json!({"op": "store", "key": "k", "data": {"timestamp": sent}}));
        assert!(stored["warnings"][0].as_str().unwrap_or_default().contains("timestamp"), "{stored}");
        let record = conn.ok(json!({"op": "get_key_process", "key": "k"}))["record"].clone();
        assert_eq!((&record["timestamp"], &record["data"]["timestamp"]), (&json!(null), &json!(sent)));
    }
}

#[test]
fn a_timestamp_left_out_is_now() {
    let site = Site::new(&Config::both());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for storage in ["jobs", "settings"] {
        let before = Utc::now();
        conn.ok(json!({"op": "store", "storage": storage, "key": "k", "data": {}}));
        let after = Utc::now();
        let got = conn.ok(json!({"op": "get_key", "storage": storage, "key": "k"}));
        let stamp = &got["records"][0]["timestamp"];
        assert!(is_stamp(stamp), "{stamp}");
        let stamp: DateTime<Utc> = stamp.as_str().unwrap().parse().unwrap();
        // The clock that labels may be a coarse one.
        let slack = TimeDelta::milliseconds(20);
        assert!(before - slack <= stamp && stamp <= after + slack, "{before} {stamp} {after}");
    }
}
