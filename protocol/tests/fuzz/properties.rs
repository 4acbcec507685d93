//! What must hold whatever bytes a client sends. The fuzz target (`fuzz/`) and the test beside this file share it.
//!
//! The bytes are one stream of lines. It is cut in pieces and read through the framing, each line goes through the
//! parser, and what comes out is held against a second opinion: a plain split at `\n`, `serde_json`, and a count of
//! brackets, none of which is the code under test.
//!
//! Invariant: every way to be wrong ends as an `Err` that says what was wrong; nothing here panics by itself.

use std::collections::BTreeMap;

use fastpersist_protocol::error::ErrorCode;
use fastpersist_protocol::frame::{Line, LineBuffer};
use fastpersist_protocol::request::{ParseLimits, Parsed, Request, parse};
use fastpersist_protocol::{MAX_KEY_BYTES, MAX_NAME_BYTES, reply};
use serde_json::Value;
use serde_json::value::RawValue;

/// `Err` is what was found.
pub(crate) type Found = Result<(), String>;

/// The members of an object, each as it was written.
type Members<'a> = BTreeMap<String, &'a RawValue>;

/// The default of `max_line_bytes`, and one that the short lines of a fuzzer pass all the time.
const LINE_LIMITS: [usize; 2] = [1 << 20, 48];

/// Far below the defaults, so that short inputs reach them.
const TIGHT: ParseLimits = ParseLimits { max_json_depth: 4, max_batch_ops: 2 };

/// What an error says, its id aside, stays short: a line of a megabyte must not come back.
const MAX_ERROR_BYTES: usize = 2048;

/// Members that need not be written again, because they say what holds without them.
const DEFAULTS: [(&str, &str); 5] = [
    ("durability", "\"sync\""),
    ("format", "\"json\""),
    ("result", "\"rows\""),
    ("fresh", "true"),
    ("all_items", "false"),
];

/// Checks everything that is promised for any bytes.
///
/// # Errors
/// What does not hold.
pub(crate) fn check(input: &[u8]) -> Found {
    for limit in LINE_LIMITS {
        let expected = plain_lines(input, limit);
        for cut in 0..3 {
            let got = framed_lines(input, limit, &mut Cuts::of(input, cut))?;
            same_lines(&expected, &got)?;
        }
    }
    for line in plain_lines(input, LINE_LIMITS[0]).into_iter().flatten() {
        for limits in [ParseLimits::default(), TIGHT] {
            check_parsed(line, &parse(line, limits), limits)?;
        }
    }
    Ok(())
}

/// Where a stream is cut: the whole in one piece, byte by byte, or at places that its bytes decide.
struct Cuts {
    kind: u8,
    state: u64,
}

impl Cuts {
    fn of(input: &[u8], kind: u8) -> Self {
        // Byte by byte takes long for a long input.
        let kind = if kind == 1 && input.len() > 256 { 2 } else { kind };
        let hash = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self { kind, state: input.iter().fold(0xcbf2_9ce4_8422_2325, hash) | 1 }
    }

    fn next(&mut self, most: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let size = match self.kind {
            0 => most,
            1 => 1,
            _ if self.state.is_multiple_of(4) => (self.state >> 8) as usize % 8,
            _ => (self.state >> 8) as usize % 512,
        };
        size.clamp(1, most)
    }
}

/// The plain meaning of framing. `None` is a line over the limit.
fn plain_lines(input: &[u8], limit: usize) -> Vec<Option<&[u8]>> {
    let mut lines: Vec<_> = input.split(|byte| *byte == b'\n').collect();
    lines.pop();
    let without_return = lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    without_return.map(|line| (line.len() <= limit).then_some(line)).collect()
}

/// The lines as a connection reads them: some are worked on and consumed before others.
fn framed_lines(input: &[u8], limit: usize, cuts: &mut Cuts) -> Result<Vec<Option<Vec<u8>>>, String> {
    let mut buffer = LineBuffer::new(limit);
    let mut lines = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let space = buffer.space();
        let size = cuts.next(rest.len().min(space.len()));
        space[..size].copy_from_slice(&rest[..size]);
        buffer.fill(size);
        rest = &rest[size..];
        while buffer.peek(0).is_some() {
            let mut at = 0;
            let mut at_once = cuts.next(8);
            while let Some((line, next)) = buffer.peek(at).filter(|_| at_once > 0) {
                lines.push(match line {
                    Line::Bytes(bytes) => Some(bytes.to_vec()),
                    Line::TooLong => None,
                });
                at = next;
                at_once -= 1;
            }
            buffer.consume(at);
        }
        buffer.consume(0);
        if buffer.len() > limit + 1 {
            return Err(format!("{} bytes of half a line are kept, the limit is {limit}", buffer.len()));
        }
    }
    Ok(lines)
}

/// Holds the lines that came out against those that should.
///
/// # Errors
/// The first that differs.
pub(crate) fn same_lines(expected: &[Option<&[u8]>], got: &[Option<Vec<u8>>]) -> Found {
    let differs = expected.iter().zip(got).position(|(expected, got)| *expected != got.as_deref());
    match differs {
        Some(at) => Err(format!("line {at} should be {:?}, is {:?}", expected[at], got[at])),
        None if expected.len() != got.len() => {
            Err(format!("{} lines went in, {} came out", expected.len(), got.len()))
        }
        None => Ok(()),
    }
}

/// What is true of a line, found without the parser.
struct Truth<'a> {
    members: Members<'a>,
    depth: usize,
    repeated: bool,
}

impl<'a> Truth<'a> {
    /// `None` where the line is no object whose strings can all be written as UTF-8.
    fn of(line: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let members: Members<'a> = serde_json::from_str(text).ok()?;
        let (mut depth, mut deepest, mut colons) = (0usize, 0, 0);
        let mut at = 0;
        while let Some(byte) = text.as_bytes().get(at) {
            match byte {
                b'"' => {
                    let end = end_of_string(text.as_bytes(), at)?;
                    serde_json::from_str::<String>(&text[at..end]).ok()?;
                    at = end - 1;
                }
                b'{' | b'[' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' => depth = depth.checked_sub(1)?,
                b':' if depth == 1 => colons += 1,
                _ => {}
            }
            at += 1;
        }
        Some(Self { repeated: colons != members.len(), members, depth: deepest })
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.members.get(name).map(|raw| raw.get())
    }
}

/// Where the string ends whose opening quote is at `at`.
fn end_of_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Holds what the parser made of a line against what is true of it.
///
/// # Errors
/// What does not fit.
pub(crate) fn check_parsed(line: &[u8], parsed: &Parsed<'_>, limits: ParseLimits) -> Found {
    let truth = Truth::of(line).filter(|truth| truth.depth <= limits.max_json_depth);
    let bad_json = matches!(&parsed.request, Err(error) if error.code == ErrorCode::BadJson);
    let Some(truth) = truth else {
        return match (bad_json, parsed.id) {
            (true, None) => check_error(parsed),
            (true, Some(id)) => Err(format!("a line that is no request has the id {id}")),
            (false, _) => Err(format!("not JSON within the limits, but taken for it: {:?}", parsed.request)),
        };
    };
    if bad_json {
        return Err(format!("JSON within the limits, but refused as none: {:?}", parsed.request));
    }
    let scalar = truth.text("id").filter(|id| !id.starts_with(['{', '[']));
    if !truth.repeated && parsed.id != scalar {
        return Err(format!("the id is {scalar:?}, and {:?} was understood", parsed.id));
    }
    match &parsed.request {
        Err(_) => check_error(parsed),
        Ok(_) if truth.repeated => Err("a field stands twice, and nobody said so".to_owned()),
        Ok(_) if truth.text("id") != scalar => Err("an id that is no scalar was taken".to_owned()),
        Ok(request) => check_request(&truth, parsed.id, request, limits),
    }
}

/// The answer to a bad line is one short line of JSON with the id, byte for byte.
fn check_error(parsed: &Parsed<'_>) -> Found {
    let Err(error) = &parsed.request else { return Ok(()) };
    if !matches!(error.code, ErrorCode::BadJson | ErrorCode::BadRequest | ErrorCode::UnknownOp) {
        return Err(format!("a parser cannot know {error}"));
    }
    let mut answer = Vec::new();
    reply::error(&mut answer, parsed.id, error);
    if answer.iter().position(|byte| *byte == b'\n') != Some(answer.len() - 1) {
        return Err(format!("an answer that is not one line: {answer:?}"));
    }
    let said = answer.len() - parsed.id.map_or(0, str::len);
    if said > MAX_ERROR_BYTES {
        return Err(format!("an error of {said} bytes"));
    }
    let Some(truth) = Truth::of(&answer[..answer.len() - 1]) else {
        return Err(format!("an answer that is no JSON: {}", String::from_utf8_lossy(&answer)));
    };
    if truth.text("id") != parsed.id || truth.text("ok") != Some("false") {
        return Err(format!("an answer to another request: {}", String::from_utf8_lossy(&answer)));
    }
    Ok(())
}

/// A request says all that the line says, and written again it is the same request.
fn check_request(truth: &Truth<'_>, id: Option<&str>, request: &Request<'_>, limits: ParseLimits) -> Found {
    let mut written = Vec::new();
    request.write_line(id, &mut written);
    let line = written.strip_suffix(b"\n").ok_or("a written request has no end")?;
    if line.contains(&b'\n') {
        return Err("a written request has more than one line".to_owned());
    }
    let again = parse(line, limits);
    match &again.request {
        Ok(same) if same == request && again.id == id => {}
        other => return Err(format!("{request:?} was written, and read again it is {other:?}")),
    }
    let Some(rewritten) = Truth::of(line) else {
        return Err(format!("written as what is no JSON: {}", String::from_utf8_lossy(line)));
    };
    if rewritten.depth > limits.max_json_depth {
        return Err(format!("{} deep when it is written again", rewritten.depth));
    }
    let op: Option<String> = truth.text("op").and_then(|op| serde_json::from_str(op).ok());
    if op.as_deref() != Some(request.op.name()) {
        return Err(format!("{:?} was asked for, {} was understood", truth.text("op"), request.op.name()));
    }
    check_kept(&truth.members, &rewritten.members, limits)
}

/// No member is overlooked or changed, and names have lawful lengths.
fn check_kept(sent: &Members<'_>, kept: &Members<'_>, limits: ParseLimits) -> Found {
    for (name, value) in sent {
        check_length(name, value.get())?;
        let again = kept.get(name).map(|raw| raw.get());
        let same = match (name.as_str(), again) {
            ("subscription", None) => false,
            (_, None) => value.get() == "null" || DEFAULTS.contains(&(name.as_str(), value.get())),
            ("ops", Some(again)) => {
                check_ops(value.get(), again, limits)?;
                true
            }
            // As they were sent, byte for byte.
            ("data" | "params" | "subscription" | "id", Some(again)) => again == value.get(),
            // Written in the one form that answers have.
            ("timestamp" | "updated_at", Some(_)) => true,
            // Null counts as left out, and a name that is left out is the empty one.
            ("collection_name" | "item_name", Some("\"\"")) if value.get() == "null" => true,
            (_, Some(again)) => same_value(value.get(), again),
        };
        if !same {
            return Err(format!("{name} is {}, and became {again:?}", value.get()));
        }
    }
    Ok(())
}

/// Each operation of a batch is kept as a request is.
fn check_ops(sent: &str, kept: &str, limits: ParseLimits) -> Found {
    let members = |text| -> Result<Vec<Members<'_>>, String> {
        serde_json::from_str(text).map_err(|error| format!("ops that are no objects were taken: {error}"))
    };
    let (sent, kept) = (members(sent)?, members(kept)?);
    if sent.len() != kept.len() || sent.len() > limits.max_batch_ops {
        return Err(format!("{} ops became {}", sent.len(), kept.len()));
    }
    sent.iter().zip(&kept).try_for_each(|(sent, kept)| check_kept(sent, kept, limits))
}

fn check_length(name: &str, value: &str) -> Found {
    let least = usize::from(matches!(name, "key" | "producer" | "name"));
    let most = match name {
        "key" => MAX_KEY_BYTES,
        "storage" | "process_name" | "collection_name" | "item_name" | "username" | "producer" | "name"
        | "path" | "backup" => MAX_NAME_BYTES,
        _ => return Ok(()),
    };
    match serde_json::from_str::<Option<String>>(value) {
        Ok(None) => Ok(()),
        Ok(Some(text)) if (least..=most).contains(&text.len()) && !text.contains('\0') => Ok(()),
        other => Err(format!("{name} was taken as {other:?}")),
    }
}

/// Whether two texts are the same JSON value, numbers by what they amount to. Doubles are not read by the reader of JSON:
/// it is right in all but the last digit unless it is built otherwise.
fn same_value(one: &str, other: &str) -> bool {
    match (serde_json::from_str::<Value>(one), serde_json::from_str::<Value>(other)) {
        (Ok(Value::Number(a)), Ok(Value::Number(b))) if a.is_f64() || b.is_f64() => {
            one.parse::<f64>().is_ok_and(|one| other.parse() == Ok(one))
        }
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
