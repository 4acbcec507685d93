//! The inputs that fuzzing begins with: every request of `PROTOCOL.md`, and one file for each kind of trouble.
//!
//! They lie in `fuzz/corpus/lines`, beside what fuzzing has found worth keeping since.
//! `FASTPERSIST_WRITE_CORPUS=1 cargo test -p fastpersist-protocol --test fuzz corpus` writes those that are made here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fastpersist_protocol::request::{Op, ParseLimits, parse};

const MOST_FILES: usize = 300;

/// One for each kind of trouble.
const TROUBLES: [(&str, &[u8]); 41] = [
    ("no-json", b"hello\n"),
    ("no-object", b"[{\"op\":\"ping\"}]\n7\n\"ping\"\nnull\n"),
    ("cut", b"{\"op\":\"store\",\"storage\":\"jobs\",\"key\":\"k\",\"data\":{\"a\":\n"),
    ("text-behind", b"{\"op\":\"ping\"} x\n{\"op\":\"ping\"}{\"op\":\"ping\"}\n"),
    ("comma-behind", b"{\"op\":\"ping\",}\n"),
    ("quotes", b"{'op':'ping'}\n{op:\"ping\"}\n"),
    ("wrong-type", b"{\"op\":\"store\",\"key\":7,\"data\":[1]}\n"),
    ("unknown-field", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"proces_name\":\"w\"}\n"),
    ("field-twice", b"{\"op\":\"ping\",\"id\":1,\"id\":2}\n"),
    ("data-twice", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{\"a\":1},\"data\":{\"a\":2}}\n"),
    ("other-model", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"value\":1,\"item_name\":\"i\"}\n"),
    ("not-utf8", b"{\"op\":\"ping\",\"id\":\"\xc3\x28\xed\xa0\x80\xff\"}\n"),
    ("half-a-pair", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{\"a\":\"\\ud800\"}}\n"),
    ("whole-pair", b"{\"op\":\"store\",\"key\":\"\\ud83d\\ude00\",\"data\":{\"a\":\"\\ud83d\\ude00\"}}\n"),
    ("nul", b"{\"op\":\"get_key\",\"key\":\"a\\u0000b\"}\n{\"op\":\"ping\"}\0\n\0\n"),
    ("control", b"{\"op\":\"get_key\",\"key\":\"a\tb\x01\"}\n"),
    ("byte-order-mark", b"\xef\xbb\xbf{\"op\":\"ping\"}\n"),
    ("escapes", b"{\"\\u006fp\":\"p\\u0069ng\",\"id\":\"\\/\\b\\f\\n\\r\\t\\\"\\\\\"}\n{\"op\":\"\\x\"}\n"),
    ("too-long", b"{\"op\":\"ping\",\"id\":\"0123456789012345678901234567890123456789\"}\n{\"op\":\"ping\"}\n"),
    ("too-deep", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{\"a\":[[[[[[1]]]]]]}}\n"),
    ("never-closed", b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n"),
    ("large-numbers", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"value\":9223372036854775808}\n{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"value\":1e999}\n"),
    ("small-numbers", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"value\":-0.0}\n{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"value\":-0,\"if_seq\":-1}\n"),
    ("exponents", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{\"e\":1e99999999},\"value\":1E-999999999}\n"),
    ("no-numbers", b"{\"op\":\"ping\",\"id\":01}\n{\"op\":\"ping\",\"id\":NaN}\n{\"op\":\"ping\",\"id\":1.}\n"),
    ("ids", b"{\"op\":\"ping\",\"id\":1.50}\n{\"op\":\"ping\",\"id\":1E+5}\n{\"op\":\"ping\",\"id\":null}\n{\"op\":\"ping\",\"id\":false}\n"),
    ("id-no-scalar", b"{\"op\":\"ping\",\"id\":{\"a\":1}}\n{\"op\":\"ping\",\"id\":[]}\n"),
    ("empty-lines", b"\n\r\n\r\r\n  \n{\"op\":\"ping\"}\r\n"),
    ("white-space", b"  { \"op\" :\t\"ping\" , \"id\" : 3 }  \r\n"),
    ("empty-key", b"{\"op\":\"get_key\",\"key\":\"\"}\n"),
    ("no-op", b"{}\n{\"op\":7}\n{\"op\":null}\n{\"op\":\"stor\"}\n"),
    ("batch-nested", b"{\"op\":\"batch\",\"ops\":[{\"op\":\"batch\",\"ops\":[]}]}\n"),
    ("batch-of-others", b"{\"op\":\"batch\",\"ops\":[7,{\"op\":\"get_key\",\"key\":\"k\"}]}\n"),
    ("batch-too-many", b"{\"op\":\"batch\",\"ops\":[{\"op\":\"delete\",\"key\":\"a\"},{\"op\":\"delete\",\"key\":\"b\"},{\"op\":\"delete\",\"key\":\"c\"}]}\n"),
    ("dates", b"{\"op\":\"keys\",\"date\":\"2025-02-29\"}\n{\"op\":\"keys\",\"date\":\"0000-01-01\"}\n{\"op\":\"keys\",\"date\":\"2025-1-1\"}\n"),
    ("timestamps", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"timestamp\":\"2025-01-15 10:30:60,5+23:59\"}\n{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"timestamp\":\"2025-01-15T25:00\"}\n"),
    ("timestamp-ends", b"{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"timestamp\":\"0001-01-01T00:00:00+01:00\"}\n{\"op\":\"store\",\"key\":\"k\",\"data\":{},\"timestamp\":\"9999-12-31T23:59:59.999999999Z\"}\n"),
    ("producer-alone", b"{\"op\":\"delete\",\"key\":\"k\",\"producer\":\"p\"}\n{\"op\":\"delete\",\"key\":\"k\",\"producer\":\"p\",\"producer_seq\":0}\n"),
    ("query-params", b"{\"op\":\"query\",\"sql\":\"SELECT ?\",\"params\":[1,\"a\",null,[2],{\"b\":1e999}],\"max_rows\":0}\n"),
    ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x0a\x13\x37\n"),
    ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
];

/// Operations and fields that the transcripts do not show.
const MORE: [&str; 6] = [
    r#"{"op":"collections","storage":"settings","key":"user_profile"}"#,
    r#"{"op":"dates","storage":"jobs"}"#,
    r#"{"op":"store","storage":"jobs","key":"k","data":{"status":"x","status_int":7,"timestamp":"2025-01-15"},"process_name":null,"timestamp":"2025-01-15T10:30:00.5+02:00","username":"ann","durability":"buffered","if_seq":0,"producer":"p","producer_seq":1}"#,
    r#"{"op":"history","storage":"settings","key":"k","all_items":true,"limit":5,"before_seq":9}"#,
    r#"{"op":"query","storage":"jobs","sql":"SELECT 1","from":"2025-01-01","to":"2025-01-31","fresh":false,"max_rows":5,"timeout_ms":9,"result":"fd"}"#,
    r#"{"op":"import","storage":"settings","ops":[{"op":"store","key":"k","data":{},"value":1.5,"status":"s","status_int":-1,"updated_at":"2024-12-31"}]}"#,
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn directory() -> PathBuf {
    root().join("fuzz/corpus/lines")
}

/// The requests of every transcript.
fn requests() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("protocol/PROTOCOL.md")).expect("read PROTOCOL.md");
    let sent = page.lines().filter_map(|line| line.strip_prefix("> ")).filter(|line| line.starts_with('{'));
    sent.map(str::to_owned).chain(MORE.map(str::to_owned)).collect()
}

/// What the corpus begins with, by file name.
fn made() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for request in requests() {
        let parsed = parse(request.as_bytes(), ParseLimits::default());
        let op = parsed.request.map_or("refused", |request| request.op.name());
        let number =
            (1..=MOST_FILES).find(|n| !files.contains_key(&format!("ok-{op}-{n}"))).expect("a free number");
        files.insert(format!("ok-{op}-{number}"), format!("{request}\n").into_bytes());
    }
    for (name, bytes) in TROUBLES {
        files.insert(format!("bad-{name}"), bytes.to_vec());
    }
    // Whatever is wrong with it, it must not come back whole in a message. A control character grows there.
    let long = "x\\u0001".repeat(200);
    let fields = ["date", "timestamp", "durability", "process_name", "data", "value", long.as_str()];
    let store = |field| format!("{{\"op\":\"store\",\"key\":\"k\",\"data\":{{}},\"{field}\":\"{long}\"}}\n");
    files.insert("bad-long-texts".to_owned(), fields.map(store).concat().into_bytes());
    files
}

/// Every file of the corpus, in order.
pub(crate) fn files() -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory()).expect("the corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() <= MOST_FILES, "{} files are too many; minimise them", paths.len());
    paths.iter().map(|path| std::fs::read(path).expect("read a file of the corpus")).collect()
}

/// The words of the dictionary, which is in libFuzzer's form: `"text"` with `\\`, `\"` and `\xNN`.
pub(crate) fn dictionary() -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(root().join("fuzz/lines.dict")).expect("read the dictionary");
    let words = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words.map(unescaped).collect()
}

fn unescaped(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    loop {
        let (byte, behind) = match rest {
            [] => return bytes,
            [b'\\', b'x', high, low, behind @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                (u8::from_str_radix(digits, 16).expect("two hexadecimal digits"), behind)
            }
            [b'\\', byte, behind @ ..] | [byte, behind @ ..] => (*byte, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
}

#[test]
fn the_corpus_has_every_operation_and_every_trouble() {
    let made = made();
    let directory = directory();
    for (name, bytes) in &made {
        let path = directory.join(name);
        if std::env::var_os("FASTPERSIST_WRITE_CORPUS").is_some() {
            std::fs::write(&path, bytes).expect("write a file of the corpus");
        }
        let found = std::fs::read(&path).unwrap_or_default();
        assert!(found == *bytes, "{name} is not as it is made here; FASTPERSIST_WRITE_CORPUS=1 writes it");
    }
    for op in Op::NAMES {
        assert!(made.contains_key(&format!("ok-{op}-1")), "no request {op:?} in the corpus");
    }
}

#[test]
fn the_dictionary_has_every_operation() {
    let words = dictionary();
    for op in Op::NAMES {
        assert!(words.contains(&format!("\"{op}\"").into_bytes()), "{op:?} is not in fuzz/lines.dict");
    }
}
