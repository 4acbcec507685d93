//! The kinds of bad lines, each with the answer that `PROTOCOL.md` promises for it.

use crate::harness::Random;

/// The defaults of `max_line_bytes`, `max_json_depth`, `max_batch_ops` and `max_query_sql_bytes`.
const LINE_BYTES: usize = 1 << 20;
const DEPTH: usize = 64;
const BATCH_OPS: usize = 10_000;
const SQL_BYTES: usize = 65_536;

/// The refusal that a line must get.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    /// The id as it was written.
    pub(super) id: Option<String>,
}

/// Bytes that are no request, and what they are answered with: mostly one line with one refusal.
pub(super) struct Bad {
    pub(super) bytes: Vec<u8>,
    pub(super) refusals: Vec<Refusal>,
}

pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) make: fn(&mut Random) -> Bad,
}

/// One line without an id.
fn line(code: &'static str, text: impl AsRef<[u8]>) -> Bad {
    let bytes = [text.as_ref(), b"\n"].concat();
    Bad { bytes, refusals: vec![Refusal { code, id: None }] }
}

/// One of several lines.
fn one_of(random: &mut Random, code: &'static str, lines: &[&str]) -> Bad {
    line(code, random.pick(lines))
}

/// A store with further fields, which nobody may find later.
fn store(more: &str) -> String {
    format!(r#"{{"op":"store","storage":"jobs","key":"bad","data":{{"bad":true}}{more}}}"#)
}

/// One store of many, with something wrong behind it.
fn one_store(random: &mut Random, code: &'static str, more: &[&str]) -> Bad {
    line(code, store(random.pick::<&str>(more)))
}

/// Bytes that are no text, in no more lines than one.
fn noise(random: &mut Random, count: u64) -> Vec<u8> {
    let byte = |random: &mut Random| match random.between(0, 255) as u8 {
        b'\n' => 0,
        byte => byte,
    };
    // 0xFF is never UTF-8, so this is no request by chance.
    std::iter::once(0xff).chain((0..count).map(|_| byte(random))).collect()
}

pub(super) const KINDS: [Kind; 34] = [
    Kind {
        name: "no JSON",
        make: |r| one_of(r, "bad_json", &["hello", "{op:\"ping\"}", "{'op':'ping'}", "}", ","]),
    },
    Kind {
        name: "no object",
        make: |r| one_of(r, "bad_json", &["[]", "[{\"op\":\"ping\"}]", "7", "\"ping\"", "null"]),
    },
    Kind { name: "cut", make: cut },
    Kind {
        name: "text behind",
        make: |r| {
            one_of(
                r,
                "bad_json",
                &["{\"op\":\"ping\"} x", "{\"op\":\"ping\"}{\"op\":\"ping\"}", "{\"op\":\"ping\",}"],
            )
        },
    },
    Kind {
        name: "wrong type",
        make: |r| {
            one_store(
                r,
                "bad_request",
                &[r#","process_name":7"#, r#","username":{}"#, r#","if_seq":"1""#, r#","durability":true"#],
            )
        },
    },
    Kind {
        name: "missing field",
        make: |r| {
            one_of(
                r,
                "bad_request",
                &[
                    "{}",
                    r#"{"op":"store","storage":"jobs","data":{}}"#,
                    r#"{"op":"store","storage":"jobs","key":"bad"}"#,
                ],
            )
        },
    },
    Kind {
        name: "unknown field",
        make: |r| one_store(r, "bad_request", &[r#","proces_name":"p""#, r#","":1"#, r#","Key":"k""#]),
    },
    Kind {
        name: "field twice",
        make: |r| {
            one_store(
                r,
                "bad_request",
                &[r#","key":"bad2""#, r#","data":{}"#, r#","storage":"jobs""#, r#","\u006bey":"x""#],
            )
        },
    },
    Kind { name: "invalid UTF-8", make: invalid_utf8 },
    Kind {
        name: "half a surrogate pair",
        make: |r| {
            one_store(
                r,
                "bad_json",
                &[r#","username":"\ud800""#, r#","username":"\udc00\ud800""#, r#","username":"\uD83Dx""#],
            )
        },
    },
    Kind {
        name: "NUL and control bytes",
        make: |r| {
            one_store(
                r,
                "bad_json",
                &[",\"username\":\"a\0b\"", ",\"username\":\"a\tb\"", "\0", ",\"username\":\"\u{1f}\""],
            )
        },
    },
    Kind {
        name: "NUL in a name",
        make: |r| one_store(r, "bad_request", &[r#","process_name":"a\u0000""#, r#","username":"\u0000""#]),
    },
    Kind { name: "byte order mark", make: |_| line("bad_json", format!("\u{feff}{}", store(""))) },
    Kind { name: "too long", make: too_long },
    Kind { name: "too deep", make: too_deep },
    Kind { name: "value too large", make: value_too_large },
    Kind {
        name: "no number",
        make: |r| {
            one_store(
                r,
                "bad_json",
                &[
                    r#","if_seq":01"#,
                    r#","if_seq":1."#,
                    r#","if_seq":+1"#,
                    r#","if_seq":NaN"#,
                    r#","if_seq":0x1"#,
                    r#","if_seq":1e"#,
                    r#","if_seq":-"#,
                ],
            )
        },
    },
    Kind {
        name: "number out of range",
        make: |r| {
            one_store(
                r,
                "bad_request",
                &[
                    r#","if_seq":-1"#,
                    r#","if_seq":-0"#,
                    r#","if_seq":1.5"#,
                    r#","if_seq":1e99999"#,
                    r#","if_seq":18446744073709551616"#,
                ],
            )
        },
    },
    Kind {
        name: "empty lines",
        make: |r| Bad { bytes: r.pick(&[&b"\n"[..], b"\r\n", b"\n\r\n\n"]).to_vec(), refusals: Vec::new() },
    },
    Kind {
        name: "carriage returns",
        make: |r| one_of(r, "bad_json", &["\r\r", " \r", "\r{\"op\":\r\"ping\"", "{\"op\":\"pi\rng\"}"]),
    },
    Kind { name: "a megabyte of spaces", make: |r| line("bad_json", vec![r.pick(b" \t\r"); LINE_BYTES]) },
    Kind {
        name: "a megabyte of key",
        make: |_| {
            line(
                "bad_request",
                format!(r#"{{"op":"store","storage":"jobs","key":"{}","data":{{}}}}"#, "k".repeat(1_000_000)),
            )
        },
    },
    Kind {
        name: "a megabyte of field name",
        make: |_| line("bad_request", store(&format!(",\"{}\":1", "\u{feff}".repeat(300_000)))),
    },
    Kind {
        name: "too many operations",
        make: |_| batch(&vec![r#"{"op":"delete","key":"b"}"#; BATCH_OPS + 1], "bad_request"),
    },
    Kind {
        name: "nested batch",
        make: |_| {
            batch(&[r#"{"op":"store","key":"bad","data":{}}"#, r#"{"op":"batch","ops":[]}"#], "bad_request")
        },
    },
    Kind {
        name: "bad operation in a batch",
        make: |r| {
            batch(
                &[
                    r#"{"op":"store","key":"bad","data":{}}"#,
                    r.pick(&["7", "{}", r#"{"op":"ping"}"#, r#"{"op":"store","key":"","data":{}}"#]),
                ],
                "bad_request",
            )
        },
    },
    Kind {
        name: "bad date",
        make: |r| {
            one_store(
                r,
                "bad_request",
                &[
                    r#","date":"2025-02-29""#,
                    r#","date":"0000-01-01""#,
                    r#","date":"2025-1-1""#,
                    r#","date":"../../etc""#,
                    r#","date":20250101"#,
                ],
            )
        },
    },
    Kind {
        name: "bad timestamp",
        make: |r| {
            one_store(
                r,
                "bad_request",
                &[
                    r#","timestamp":"yesterday""#,
                    r#","timestamp":"2025-01-15T25:00:00Z""#,
                    r#","timestamp":1736937000"#,
                    r#","timestamp":"9999-12-31T23:59:59-01:00""#,
                ],
            )
        },
    },
    Kind { name: "bad SQL", make: bad_sql },
    Kind { name: "long id", make: long_id },
    Kind {
        name: "id that is no scalar",
        make: |r| one_store(r, "bad_request", &[r#","id":{"a":1}"#, r#","id":[1]"#, r#","id":[]"#]),
    },
    Kind {
        name: "binary",
        make: |r| {
            let count = r.between(0, 5_000);
            line("bad_json", noise(r, count))
        },
    },
    Kind { name: "another protocol", make: another_protocol },
    Kind { name: "not here", make: not_here },
];

/// A request without its end.
fn cut(random: &mut Random) -> Bad {
    let whole = store("");
    let length = random.between(1, whole.len() as u64 - 1) as usize;
    line("bad_json", &whole[..length])
}

fn invalid_utf8(random: &mut Random) -> Bad {
    // A lone continuation, a cut sequence, an overlong slash, a surrogate, beyond U+10FFFF.
    let bytes = random.pick(&[&b"\x80"[..], b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]);
    let parts = [&br#"{"op":"store","storage":"jobs","key":"bad","data":{"a":""#[..], bytes, b"\"}}"];
    line("bad_json", parts.concat())
}

/// One byte too long, or several megabytes, of anything.
fn too_long(random: &mut Random) -> Bad {
    let over = random.pick(&[1, 2, 65_536, LINE_BYTES, 3 * LINE_BYTES]);
    let fill = random.pick(b"x \"{\r\xff");
    let mut bytes = vec![fill; LINE_BYTES + over];
    // One `\r` at the end belongs to the line's end.
    *bytes.last_mut().expect("a byte") = b'x';
    line("line_too_long", bytes)
}

fn too_deep(random: &mut Random) -> Bad {
    let (open, close) = random.pick(&[("[", "]"), (r#"{"a":"#, "}")]);
    let depth = random.pick(&[DEPTH - 1, DEPTH, 1_000, 100_000]);
    let close = if random.one_in(2) { close.repeat(depth) } else { String::new() };
    line(
        "bad_json",
        format!(
            r#"{{"op":"store","storage":"jobs","key":"bad","data":{{"a":{}1{close}}}}}"#,
            open.repeat(depth)
        ),
    )
}

fn value_too_large(random: &mut Random) -> Bad {
    let value =
        random.pick(&["9223372036854775808", "-9223372036854775809", "1e999", "-1e308999", "[1]", "{}"]);
    line(
        "bad_request",
        format!(r#"{{"op":"store","storage":"settings","key":"bad","data":{{}},"value":{value}}}"#),
    )
}

fn batch(ops: &[&str], code: &'static str) -> Bad {
    line(code, format!(r#"{{"op":"batch","storage":"jobs","ops":[{}]}}"#, ops.join(",")))
}

fn bad_sql(random: &mut Random) -> Bad {
    let long = format!("SELECT {}1", " ".repeat(SQL_BYTES));
    let sql = random.pick(&[
        "",
        "SELEC 1",
        "DROP TABLE storage",
        "DELETE FROM storage",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY storage TO '/tmp/x'",
        "PRAGMA version",
        &long,
    ]);
    line("query_rejected", format!(r#"{{"op":"query","storage":"jobs","sql":"{sql}"}}"#))
}

/// An id comes back whole, however long it is.
fn long_id(random: &mut Random) -> Bad {
    let length = random.between(1, 100_000) as usize;
    let id = random.pick(&[format!("\"{}\"", "\\u00e9".repeat(length / 6)), "1".repeat(length)]);
    let mut bad = line("unknown_op", format!(r#"{{"op":"no_such_op","id":{id}}}"#));
    bad.refusals[0].id = Some(id);
    bad
}

/// What comes when somebody takes the socket for another one.
fn another_protocol(random: &mut Random) -> Bad {
    let tls = &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\x13\x37\xc0\x2b"[..];
    let http = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{]";
    let redis = b"*1\r\n$4\r\nPING\r";
    let bytes = [random.pick(&[tls, http, redis]), b"\n"].concat();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && *line != b"\r");
    let refusals = lines.map(|_| Refusal { code: "bad_json", id: None }).collect();
    Bad { bytes, refusals }
}

/// Well-formed, but nothing of that name is here.
fn not_here(random: &mut Random) -> Bad {
    let id = random.pick(&["1.50", "\"a\\/b\"", "null", "true", "-0"]);
    let (code, rest) = random.pick(&[
        ("unknown_op", r#""op":"stor","storage":"jobs""#),
        ("unknown_storage", r#""op":"store","storage":"job","key":"bad","data":{}"#),
        ("unknown_storage", r#""op":"store","key":"bad","data":{}"#),
        ("bad_request", r#""op":"store","storage":"settings","key":"bad","data":{},"process_name":"p""#),
        ("bad_request", r#""op":"get_item","storage":"jobs","key":"bad""#),
        ("bad_request", r#""op":"store","storage":"jobs","key":"bad","data":{},"producer":"p""#),
        ("not_found", r#""op":"verify_backup","storage":"settings","backup":"2001-01-01""#),
    ]);
    Bad {
        bytes: format!("{{\"id\":{id},{rest}}}\n").into_bytes(),
        refusals: vec![Refusal { code, id: Some(id.to_owned()) }],
    }
}
