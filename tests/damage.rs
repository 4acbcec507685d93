//! Damage with valid records behind it is told, never skipped: exit 78, file and offset, and no file touched.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::json;

use crate::harness::{Config, Site, files};

fn config() -> Config {
    Config::new()
        .dated("jobs", "batch_size = 1000000\nduckdb_flush_interval_seconds = 3600\nmax_wal_size = 16384")
}

/// A killed daemon's directory with `count` records of about 1,000 bytes, none of them flushed. Each was answered
/// before the next was sent: whatever is damaged but the last had reached the disk whole.
fn crashed(count: usize) -> Site {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    let pad = "x".repeat(1000);
    for n in 0..count {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": format!("k{n}"), "data": {"n": n, "pad": pad}}));
    }
    daemon.kill();
    site
}

/// All files but the lock, which a daemon may take before it looks at anything else.
fn snapshot(site: &Site) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files::snapshot(&site.path("jobs"));
    files.retain(|path, _| !path.file_name().unwrap().to_string_lossy().contains("lock"));
    files
}

/// The start is refused, twice the same, with the file's name and one of the offsets; and every file stays as it was.
fn refused(site: &Site, file: &str, offsets: &[usize], what: &str) {
    let before = snapshot(site);
    for _ in 0..2 {
        let exit = site.try_start().err().unwrap_or_else(|| panic!("{what}: the daemon started"));
        assert_eq!(exit.code, Some(78), "{what}: {}", exit.stderr);
        assert!(exit.stderr.contains(file), "{what}: {file} is not named: {}", exit.stderr);
        let digits: Vec<_> = exit.stderr.split(|c: char| !c.is_ascii_digit()).collect();
        let named =
            offsets.is_empty() || offsets.iter().any(|offset| digits.contains(&offset.to_string().as_str()));
        assert!(named, "{what}: none of {offsets:?} is named: {}", exit.stderr);
    }
    let changed = files::changed(&before, &snapshot(site));
    assert_eq!(changed, [] as [PathBuf; 0], "{what}");
}

fn all_there(site: &Site, count: usize) {
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..count {
        let got = conn.ok(json!({"op": "get_key_process", "date": "2025-01-15", "key": format!("k{n}")}));
        assert_eq!(got["record"]["data"]["n"], n);
    }
}

#[test]
fn a_byte_that_changed_in_an_early_record() {
    let site = crashed(8);
    let segment = files::segments(&site.path("jobs"))[0].clone();
    let sound = fs::read(&segment).unwrap();
    let lines = files::wal_lines(&segment);
    let (start, length) = (lines[2].0, lines[2].1.len());
    // Its beginning, its middle, its end, the line's end; and one that still is valid JSON: only the checksum knows.
    let changes = [
        (start, b'x'),
        (start + length / 2, b'y'),
        (start + length / 2, b'"'),
        (start + length / 2, 0),
        (start + 1, 0xff),
        (start + length - 2, b' '),
        (start + length - 1, b' '),
        (start + length - 1, 0),
        (0, b' '),
    ];
    for (at, byte) in changes {
        let mut bytes = sound.clone();
        assert_ne!(bytes[at], byte);
        bytes[at] = byte;
        fs::write(&segment, bytes).unwrap();
        let offsets = if at == 0 { vec![0] } else { vec![start, at, start + length] };
        refused(&site, "wal_000001.jsonl", &offsets, &format!("byte {byte} at {at}, record at {start}"));
    }
    // With its byte back the store is whole.
    fs::write(&segment, sound).unwrap();
    all_there(&site, 8);
}

#[test]
fn every_bit_of_a_record_is_covered_by_its_checksum() {
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..3 {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": format!("k{n}"), "process_name": "p", "data": {"n": n}}));
    }
    daemon.kill();
    let segment = files::segments(&site.path("jobs"))[0].clone();
    let sound = fs::read(&segment).unwrap();
    let length = files::wal_lines(&segment)[0].1.len();
    for at in (0..length).step_by(3) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let exit = site
            .try_start()
            .err()
            .unwrap_or_else(|| panic!("bit 0 of byte {at} flipped: the daemon started"));
        assert_eq!(exit.code, Some(78), "byte {at} ({:?}): {}", sound[at] as char, exit.stderr);
    }
}

#[test]
fn a_record_that_is_missing_between_others() {
    let site = crashed(8);
    let segment = files::segments(&site.path("jobs"))[0].clone();
    let sound = fs::read(&segment).unwrap();
    let lines = files::wal_lines(&segment);
    let (start, length) = (lines[3].0, lines[3].1.len());
    let mut bytes = sound.clone();
    bytes.drain(start..start + length);
    fs::write(&segment, bytes).unwrap();
    refused(&site, "wal_000001.jsonl", &[start], "the fourth record was taken out");
}

#[test]
fn the_end_of_a_segment_that_has_a_successor() {
    let site = crashed(60);
    let segments = files::segments(&site.path("jobs"));
    assert!(segments.len() >= 3, "{segments:?}");
    let sound = fs::read(&segments[0]).unwrap();
    let (start, line) = files::wal_lines(&segments[0]).pop().unwrap();
    // Torn in the last line, or cut right before it: later records stand in the next file.
    for cut in [start + line.len() / 2, start] {
        fs::write(&segments[0], &sound[..cut]).unwrap();
        let offsets: &[usize] = if cut == start { &[] } else { &[start, cut] };
        refused(&site, "wal_00000", offsets, &format!("cut at {cut}, last record at {start}"));
    }
    fs::write(&segments[0], sound).unwrap();
    all_there(&site, 60);
}

#[test]
fn a_segment_that_is_missing_between_others() {
    let site = crashed(60);
    let segments = files::segments(&site.path("jobs"));
    let aside = site.path("aside");
    fs::rename(&segments[1], &aside).unwrap();
    refused(&site, "wal_00000", &[], "the second segment is not there");
    fs::rename(&aside, &segments[1]).unwrap();
    all_there(&site, 60);
}

#[test]
fn damage_in_what_is_flushed_already_loses_nothing() {
    // These records lie in DuckDB: a start may refuse or go on, but what it serves must be right.
    let site = Site::new(&config());
    let daemon = site.start();
    let mut conn = daemon.connect();
    for n in 0..5 {
        conn.ok(json!({"op": "store", "date": "2025-01-15", "key": format!("k{n}"), "data": {"n": n}}));
    }
    conn.ok(json!({"op": "flush"}));
    drop(conn);
    daemon.stop();
    let segment = files::segments(&site.path("jobs"))[0].clone();
    let mut bytes = fs::read(&segment).unwrap();
    let (start, line) = files::wal_lines(&segment).swap_remove(1);
    bytes[start + line.len() / 2] ^= 1;
    fs::write(&segment, bytes).unwrap();
    match site.try_start() {
        Err(exit) => assert_eq!(exit.code, Some(78), "{}", exit.stderr),
        Ok(daemon) => {
            let mut conn = daemon.connect();
            for n in 0..5 {
                let got =
                    conn.ok(json!({"op": "get_key_process", "date": "2025-01-15", "key": format!("k{n}")}));
                assert_eq!(got["record"]["data"]["n"], n);
            }
            assert_eq!(
                conn.ok(json!({"op": "store", "date": "2025-01-15", "key": "k", "data": {}}))["seq"],
                6
            );
        }
    }
}
