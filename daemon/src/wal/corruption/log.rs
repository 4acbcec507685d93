//! The logs that are harmed: some segments, written by the log itself, and what was written into them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastpersist_protocol::time::{Date, Timestamp};
use fastpersist_protocol::value::Value;

use crate::clock::RealClock;
use crate::disk::RealDisk;
use crate::latch::Latch;
use crate::storage::faults::chance::Chance;
use crate::storage::record::{Columns, Names, Record, Writer};
use crate::storage::schema::Model;
use crate::wal::commit::{Producer, Submission};
use crate::wal::entry::{self, Gap};
use crate::wal::segment::Sealed;
use crate::wal::{Place, SegmentLimits, Wal};

/// The days on which a collection's log is written; a dated one is all in the directory of the first.
pub(super) const DAYS: [&str; 3] = ["2025-01-15", "2025-01-16", "2025-01-14"];
/// A log gets groups until it has so many bytes, and a last one.
const CONTENT_BYTES: usize = 2_300;
/// And at most so many.
pub(super) const MAX_CONTENT_BYTES: usize = 3_500;

/// A line that was written.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) durable_seq: u64,
    /// With its newline.
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<Record>,
    pub(super) producer: Option<Producer>,
    pub(super) gap: Option<Gap>,
}

/// A segment: where it stands, which lines it holds, and how many NUL follow them.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) day: usize,
    pub(super) name: String,
    pub(super) lines: Range<usize>,
    pub(super) tail_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) model: Model,
    pub(super) lines: Vec<Line>,
    /// In the order in which they were written.
    pub(super) segments: Vec<Segment>,
    /// How many lines were synced.
    pub(super) synced: usize,
    /// What the database has.
    pub(super) flushed_seq: u64,
    /// What stood before the first line was removed.
    pub(super) removed_seq: u64,
}

impl Log {
    /// A log of this seed; it is written in `directory` and stays there no longer than this takes.
    pub(super) fn write(seed: u64, directory: &Path) -> Self {
        let mut writing = Writing::begin(seed, directory);
        while writing.content_bytes() < CONTENT_BYTES {
            writing.group();
        }
        writing.end()
    }

    pub(super) fn content(&self, segment: usize) -> Vec<u8> {
        self.lines[self.segments[segment].lines.clone()].iter().flat_map(|line| line.bytes.clone()).collect()
    }

    /// The segment as a file, with the NUL behind its lines.
    pub(super) fn file(&self, segment: usize) -> Vec<u8> {
        let mut bytes = self.content(segment);
        bytes.resize(bytes.len() + self.segments[segment].tail_bytes, 0);
        bytes
    }

    /// Where a segment's lines begin and end in it.
    pub(super) fn extents(&self, segment: usize) -> Vec<(usize, Range<usize>)> {
        let mut at = 0;
        let lines = self.segments[segment].lines.clone();
        lines
            .map(|line| {
                let start = at;
                at += self.lines[line].bytes.len();
                (line, start..at)
            })
            .collect()
    }

    /// Whether the database has all of a line.
    pub(super) fn is_flushed(&self, line: usize) -> bool {
        self.lines[line].last_seq <= self.flushed_seq
    }

    pub(super) fn is_daily(&self) -> bool {
        self.model == Model::Collection
    }
}

/// Where a log stands below a directory.
pub(super) fn place(model: Model, root: &Path) -> Place {
    match model {
        Model::Dated => Place::Fixed(root.join(DAYS[0])),
        Model::Collection => Place::Daily(root.to_owned()),
    }
}

/// A log of this model that goes on behind `sealed`.
pub(super) fn wal(model: Model, root: &Path, max_bytes: u64, sealed: Vec<Sealed>) -> Wal {
    let limits = SegmentLimits { max_bytes, max_age: Duration::from_secs(300) };
    let clock = Arc::new(RealClock::default());
    Wal::new(RealDisk::shared(), clock, place(model, root), limits, Arc::new(Latch::default()), sealed)
}

/// A log while it is written.
struct Writing {
    chance: Chance,
    model: Model,
    wal: Wal,
    day: usize,
    lines: Vec<Line>,
    /// The file of each line.
    files: Vec<PathBuf>,
    next_seq: u64,
    first_seq: u64,
    synced: usize,
    /// Up to here the database must have it.
    flushed_at_least: u64,
}

impl Writing {
    fn begin(seed: u64, root: &Path) -> Self {
        let mut chance = Chance::new(seed);
        let model = chance.one_of(&[Model::Dated, Model::Collection]);
        // Each group its own segment, a few, preallocated.
        let max_bytes = chance.one_of(&[1, 700, 65_536, 65_536]);
        let first_seq = chance.one_of(&[1, 1, 41]);
        let day = if model == Model::Dated { 0 } else { chance.below(3) as usize };
        Self {
            wal: wal(model, root, max_bytes, Vec::new()),
            chance,
            model,
            day,
            lines: Vec::new(),
            files: Vec::new(),
            next_seq: first_seq,
            first_seq,
            synced: 0,
            flushed_at_least: first_seq - 1,
        }
    }

    fn content_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.bytes.len()).sum()
    }

    fn durable_seq(&self) -> u64 {
        self.synced.checked_sub(1).map_or(self.first_seq - 1, |last| self.lines[last].last_seq)
    }

    /// One commit group, and perhaps a sync, another segment, another day.
    fn group(&mut self) {
        let first = self.lines.len();
        if self.chance.percent(8) {
            self.sync();
            self.gap();
        } else {
            let durable_seq = self.durable_seq();
            for _ in 0..=self.chance.below(5) {
                let line = line(&mut self.chance, self.model, self.next_seq, durable_seq);
                self.next_seq = line.last_seq + 1;
                self.lines.push(line);
                if self.content_bytes() >= CONTENT_BYTES {
                    break;
                }
            }
        }
        let group = &self.lines[first..];
        let bytes: Vec<u8> = group.iter().flat_map(|line| line.bytes.clone()).collect();
        let records = group.iter().map(|line| line.records.len() as u64).sum();
        let today = Date::parse(DAYS[self.day]).expect("a date");
        self.wal.append(&bytes, self.next_seq - 1, records, today).expect("appended");
        let (file, _) = self.wal.segments().pop().expect("it is somewhere");
        self.files.resize(self.lines.len(), file);
        if self.files.len() > first && first > 0 && self.files[first] != self.files[first - 1] {
            // What is sealed is synced.
            self.synced = self.synced.max(first);
        }
        if self.chance.percent(70) || self.lines[first].gap.is_some() {
            self.sync();
        }
        if self.chance.percent(25) {
            self.seal();
        }
    }

    fn sync(&mut self) {
        self.wal.sync().expect("synced");
        self.synced = self.lines.len();
    }

    fn seal(&mut self) {
        self.wal.seal().expect("sealed");
        self.synced = self.lines.len();
        if self.model == Model::Collection && self.chance.percent(60) {
            self.day = self.chance.below(3) as usize;
        }
    }

    /// What a repair left in place of records.
    fn gap(&mut self) {
        let gap = Gap { count: 1 + self.chance.below(4), lost: self.chance.percent(70) };
        let mut bytes = Vec::new();
        entry::encode_gap(gap, self.next_seq, instant(&mut self.chance), &mut bytes);
        let (first_seq, last_seq) = (self.next_seq, self.next_seq + gap.count - 1);
        let (durable_seq, gap) = (first_seq - 1, Some(gap));
        self.lines.push(Line {
            first_seq,
            last_seq,
            durable_seq,
            bytes,
            records: vec![],
            producer: None,
            gap,
        });
        self.next_seq = last_seq + 1;
        if gap.is_some_and(|gap| !gap.lost) {
            self.flushed_at_least = last_seq;
        }
    }

    fn end(mut self) -> Log {
        let durable = self.durable_seq();
        let further = durable.saturating_sub(self.flushed_at_least) + 1;
        let further = if self.chance.percent(50) { 0 } else { self.chance.below(further) };
        let flushed_seq = self.flushed_at_least + further;
        let mut segments: Vec<Segment> = Vec::new();
        for (line, file) in self.files.iter().enumerate() {
            let directory = file.parent().and_then(Path::file_name).expect("a day");
            let day = DAYS.iter().position(|day| directory == *day).expect("one of the days");
            let name = file.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            match segments.last_mut() {
                Some(segment) if segment.day == day && segment.name == name => segment.lines.end = line + 1,
                _ => segments.push(Segment { day, name, lines: line..line + 1, tail_bytes: 0 }),
            }
        }
        let Self { model, lines, synced, mut chance, first_seq, .. } = self;
        let removed_seq = first_seq - 1;
        let mut log = Log { model, lines, segments, synced, flushed_seq, removed_seq };
        log.check_files(&self.files);
        let last = log.segments.len() - 1;
        for segment in 0..=last {
            let to_sector = log.content(segment).len().next_multiple_of(512) - log.content(segment).len();
            let tails = if segment == last { [0, to_sector, 700, 4096] } else { [0, 0, 0, 300] };
            log.segments[segment].tail_bytes = chance.one_of(&tails);
        }
        log
    }
}

impl Log {
    /// The files have the lines, in order, and nothing but NUL behind them.
    fn check_files(&self, files: &[PathBuf]) {
        for segment in 0..self.segments.len() {
            let found = std::fs::read(&files[self.segments[segment].lines.start]).expect("read");
            let content = self.content(segment);
            assert!(found.starts_with(&content), "a segment is not what was written");
            assert!(found[content.len()..].iter().all(|byte| *byte == 0), "something follows the lines");
        }
        let bytes: usize = self.lines.iter().map(|line| line.bytes.len()).sum();
        assert!(bytes <= MAX_CONTENT_BYTES, "a log of {bytes} bytes has more cases than are counted on");
    }
}

fn instant(chance: &mut Chance) -> Timestamp {
    Timestamp::from_micros(1_736_900_000_000_000 + chance.below(1_000_000_000) as i64).expect("in range")
}

/// A line of one request: a store, a deletion, or a batch of both.
pub(super) fn line(chance: &mut Chance, model: Model, seq: u64, durable_seq: u64) -> Line {
    let mut submission = Submission::default();
    let batch = chance.percent(25);
    let count = if batch { 1 + chance.below(4) } else { 1 };
    let producer = Producer { name: format!("p{}", chance.below(3)).into(), seq: 1 + chance.below(1000) };
    submission.producer = chance.percent(30).then(|| Box::new(producer));
    for _ in 0..count {
        submission.push(record(chance, model, !batch), None);
    }
    submission.end_unit(0, batch);
    let Submission { bodies, mut writes, mut units, .. } = submission;
    for (write, seq) in writes.iter_mut().zip(seq..) {
        write.record.set_seq(seq);
    }
    let producer = units.pop().and_then(|unit| unit.producer).map(|producer| *producer);
    let mut bytes = Vec::new();
    let body = |range: &Range<u32>| &bodies[range.start as usize..range.end as usize];
    if batch {
        let bodies = writes.iter().map(|write| body(&write.body));
        entry::finish_batch(bodies, producer.as_ref(), seq, durable_seq, &mut bytes);
    } else {
        let hasher = std::mem::take(&mut writes[0].hasher);
        entry::finish_line(body(&writes[0].body), hasher, seq, durable_seq, &mut bytes);
    }
    let records: Vec<_> = writes.into_iter().map(|write| write.record).collect();
    let last_seq = seq + records.len() as u64 - 1;
    Line { first_seq: seq, last_seq, durable_seq, bytes, records, producer, gap: None }
}

fn record(chance: &mut Chance, model: Model, may_be_long: bool) -> Record {
    // Documents that look like lines, or like the ends of lines, or are longer than a sector.
    let number = chance.below(1000);
    let data = match chance.below(12) {
        0 => r#"{"op":"store","key":"k","data":{},"seq":1,"durable_seq":0,"crc":"00000000"}"#.to_owned(),
        1 => r#"{"text":"{\"op\":\"store\",\"seq\":9,\"durable_seq\":9,\"crc\":\"00000000\"}\n"}"#.to_owned(),
        2 if may_be_long => format!(r#"{{"text":"{}"}}"#, "x".repeat(400 + chance.below(200) as usize)),
        3 => r#"{"é":"\u0000 \ud83d\ude00 \\"}"#.to_owned(),
        4 => "{}".to_owned(),
        _ => format!(r#"{{"value":{number}}}"#),
    };
    let deleted = chance.percent(20);
    let updated_at = instant(chance);
    let (key, name) = (format!("key_{}", chance.below(5)), format!("name_{}", chance.below(2)));
    let value = [
        None,
        Some(Value::Int(i64::MIN)),
        Some(Value::Float(0.1)),
        Some(Value::Bool(true)),
        Some(Value::String("v\"".into())),
    ];
    let is_collection = model == Model::Collection;
    let unit = chance.percent(50).then_some("nightly.service");
    let pid = chance.percent(50).then_some(4711);
    let columns = Columns {
        key: &key,
        names: match model {
            Model::Dated => Names::Dated { process_name: chance.percent(50).then_some(&name) },
            Model::Collection => Names::Collection { collection_name: &name, item_name: "" },
        },
        data: if deleted { "" } else { &data },
        value: value[chance.below(5) as usize].clone().filter(|_| is_collection && !deleted),
        timestamp: if chance.percent(80) || deleted { Some(updated_at) } else { Some(instant(chance)) },
        status: Some("done").filter(|_| chance.percent(20) && !deleted),
        status_int: Some(-7).filter(|_| chance.percent(20) && !deleted),
        username: Some("anna").filter(|_| chance.percent(20) && !deleted),
        updated_at,
        seq: 0,
        deleted,
        writer: chance.percent(20).then_some(Writer { uid: 1000, pid, unit }),
    };
    Record::new(&columns)
}
