//! Names that are no file names: percent-encoded as Hive does, and no two of them one directory's rows lost.

use serde_json::{Value, json};

use crate::{
    harness::{Config, Conn, Site, files, python},
    parquet::exported,
};

fn start() -> (Site, crate::harness::Daemon, Conn) {
    let site = Site::new(&Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\""));
    let daemon = site.start();
    let conn = daemon.connect();
    (site, daemon, conn)
}

fn store(conn: &mut Conn, process_name: &Value) {
    conn.ok(
        json!({"op": "store", "date": "2025-01-15", "key": "k", "process_name": process_name, "data": {}}),
    );
}

/// How many rows the exported files have in all, each file read alone and without its directories' meaning.
fn rows_in_files(site: &Site) -> u64 {
    let script = "import json, sys\nimport pyarrow.parquet as pq\n\
        print(json.dumps(sum(pq.ParquetFile(path).metadata.num_rows for path in sys.argv[1:])))";
    let paths: Vec<_> =
        files::tree(&site.path("parquet")).iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    python::run(script, &paths).as_u64().unwrap()
}

#[test]
fn unsafe_characters_are_percent_encoded() {
    let (site, _daemon, mut conn) = start();
    // The characters that Hive escapes, and beside them some that it leaves alone.
    let cases = [
        ("a/b", "a%2Fb"),
        ("a=b", "a%3Db"),
        ("a:b", "a%3Ab"),
        ("a%b", "a%25b"),
        ("a%2Fb", "a%252Fb"),
        ("a\\b", "a%5Cb"),
        ("a\"b'c", "a%22b%27c"),
        ("a#b*c?d", "a%23b%2Ac%3Fd"),
        ("a[b]{c^d", "a%5Bb%5D%7Bc%5Ed"),
        ("a\nb\u{1}c\u{7f}", "a%0Ab%01c%7F"),
        ("../../up", "..%2F..%2Fup"),
        ("plain-1_2.3", "plain-1_2.3"),
    ];
    for (name, _) in cases {
        store(&mut conn, &json!(name));
    }
    conn.ok(json!({"op": "export_parquet"}));
    let mut expected: Vec<_> = cases
        .iter()
        .map(|(_, encoded)| format!("process_name={encoded}/date=2025-01-15/data.parquet"))
        .collect();
    let mut found = exported(&site);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    if python::available() {
        let rows = python::parquet_rows(&site.path("parquet"), "SELECT DISTINCT process_name FROM {files}");
        let mut names: Vec<_> = rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
        let mut expected: Vec<_> = cases.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "a reader decodes them");
    }
}

#[test]
fn letters_of_other_scripts_and_blanks_are_found_again() {
    let (site, _daemon, mut conn) = start();
    let names = ["é", "日本", "a b", "😀", "~", "."];
    for name in names {
        store(&mut conn, &json!(name));
    }
    conn.ok(json!({"op": "export_parquet"}));
    assert_eq!(exported(&site).len(), names.len());
    if python::available() {
        let rows = python::parquet_rows(&site.path("parquet"), "SELECT DISTINCT process_name FROM {files}");
        let mut found: Vec<_> = rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
        found.sort();
        let mut expected = names.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn names_that_hive_cannot_tell_apart_lose_no_row() {
    if !python::available() {
        return;
    }
    let (site, _daemon, mut conn) = start();
    // For Hive all three are the default partition.
    for name in [json!(null), json!(""), json!("__HIVE_DEFAULT_PARTITION__")] {
        store(&mut conn, &name);
    }
    conn.ok(json!({"op": "export_parquet"}));
    assert_eq!(rows_in_files(&site), 3, "{:?}", exported(&site));
}

#[test]
fn a_name_too_long_for_a_directory_is_told_and_stops_no_other() {
    let (site, daemon, mut conn) = start();
    // With `process_name=` before it the first fills a directory's name to the last of its 255 bytes.
    let fits = ["m".repeat(242), "short".to_owned()];
    let too_long = ["n".repeat(243), "/".repeat(255), "é".repeat(127)];
    for name in fits.iter().chain(&too_long) {
        store(&mut conn, &json!(name));
    }
    for _ in 0..2 {
        let answer = conn.ask(json!({"op": "export_parquet"}));
        assert_eq!(answer["ok"], false, "what is left out is told: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(too_long.iter().any(|name| message.contains(name)), "no name is told: {answer}");
        let expected = fits.clone().map(|name| format!("process_name={name}/date=2025-01-15/data.parquet"));
        assert_eq!(exported(&site), expected);
    }
    drop(conn);
    // Nothing is lost by it: the store itself ends as cleanly as ever.
    daemon.stop();
}
