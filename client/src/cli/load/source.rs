//! The input of a load, cut into chunks that are batches already.
//!
//! It is read in a thread of its own, so that reading, parsing and the daemon's work overlap.
//!
//! Invariant: chunks come in the order of the input, and `records` counts every record of the input up to
//! the chunk's end, good, bad or skipped; that number is what a resumed load skips.

use std::fs::File;
use std::io::{self, Read};

use fastpersist_client::protocol::frame::{Line, LineBuffer};
use tokio::sync::mpsc::Sender;

use super::csv_rows::{Cells, document};
use super::item::{Item, Mapping};

/// A line longer than this is bad. The daemon's own limit (1 MiB unless configured) comes first.
const LINE_BYTES_MAX: usize = 64 << 20;
/// A batch is one line for the daemon, so it stays well below that limit.
const CHUNK_BYTES_MAX: usize = 512 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Ndjson,
    Csv,
}

/// What to read and how.
pub(crate) struct Source {
    pub(crate) input: Input,
    pub(crate) format: Format,
    pub(crate) mapping: Mapping,
    pub(crate) cells: Cells,
    pub(crate) batch_size: usize,
    /// Records that an earlier load has done.
    pub(crate) skip: u64,
    /// End with the first bad record.
    pub(crate) strict: bool,
}

pub(crate) enum Input {
    File(File),
    Stdin,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Stdin => io::stdin().read(buffer),
        }
    }
}

/// A piece of the input.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// To be stored, all of one date.
    pub(crate) items: Vec<Item>,
    /// The lines that are no records, and why.
    pub(crate) bad: Vec<(u64, String)>,
    /// Records of the input up to here.
    pub(crate) records: u64,
    /// Bytes of the input up to here.
    pub(crate) bytes: u64,
    item_bytes: usize,
}

impl Chunk {
    fn is_full(&self, batch_size: usize) -> bool {
        self.items.len() >= batch_size || self.bad.len() >= batch_size || self.item_bytes >= CHUNK_BYTES_MAX
    }
}

/// The consumer is gone, so reading has no purpose any more.
struct Hungup;

/// Why reading stopped early.
enum Stop {
    Done,
    Failed(io::Error),
}

impl From<Hungup> for Stop {
    fn from(_: Hungup) -> Self {
        Self::Done
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Source {
    /// Reads to the end, handing on chunks; an error of the input comes as the last message.
    pub(crate) fn run(self, chunks: Sender<io::Result<Chunk>>) {
        let Self { input, format, mapping, cells, batch_size, skip, strict } = self;
        let mut cutter = Cutter { chunks, batch_size, skip, strict, chunk: Chunk::default() };
        let read = match format {
            Format::Ndjson => read_lines(input, &mapping, &mut cutter),
            Format::Csv => read_csv(input, &mapping, &cells, &mut cutter),
        };
        let last = match read {
            Ok(()) => cutter.cut().map_err(Stop::from),
            Err(stop) => Err(stop),
        };
        if let Err(Stop::Failed(error)) = last {
            // Whoever hung up has a reason to end of its own.
            let _ = cutter.chunks.blocking_send(Err(error));
        }
    }
}

/// Collects records into chunks.
struct Cutter {
    chunks: Sender<io::Result<Chunk>>,
    batch_size: usize,
    skip: u64,
    strict: bool,
    chunk: Chunk,
}

impl Cutter {
    /// Whether the next record is one that an earlier load has done; then it is counted.
    fn skips(&mut self) -> bool {
        let skips = self.chunk.records < self.skip;
        if skips {
            self.chunk.records += 1;
        }
        skips
    }

    fn add(&mut self, line: u64, item: Result<Item, String>) -> Result<(), Stop> {
        match item {
            Ok(item) => {
                if self.chunk.items.first().is_some_and(|first| first.date != item.date) {
                    self.cut()?;
                }
                self.chunk.item_bytes += item.byte_count();
                self.chunk.items.push(item);
                self.chunk.records += 1;
            }
            Err(error) => {
                self.chunk.bad.push((line, error));
                self.chunk.records += 1;
                if self.strict {
                    self.cut()?;
                    return Err(Stop::Done);
                }
            }
        }
        if self.chunk.is_full(self.batch_size) {
            self.cut()?;
        }
        Ok(())
    }

    /// Hands on what there is.
    fn cut(&mut self) -> Result<(), Hungup> {
        let (records, bytes) = (self.chunk.records, self.chunk.bytes);
        let chunk = std::mem::replace(&mut self.chunk, Chunk { records, bytes, ..Chunk::default() });
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| Hungup)
    }
}

fn read_lines(mut input: impl Read, mapping: &Mapping, cutter: &mut Cutter) -> Result<(), Stop> {
    let mut buffer = LineBuffer::new(LINE_BYTES_MAX);
    let mut number = 0;
    let mut ended = false;
    while !ended {
        let count = match input.read(buffer.space()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        buffer.fill(count);
        cutter.chunk.bytes += count as u64;
        if count == 0 {
            ended = true;
            if !buffer.is_empty() {
                // The last line may lack its end.
                buffer.space()[0] = b'\n';
                buffer.fill(1);
            }
        }
        let mut at = 0;
        while let Some((line, next)) = buffer.peek(at) {
            at = next;
            number += 1;
            if cutter.skips() {
                continue;
            }
            let item = match line {
                Line::TooLong => Err(format!("longer than {} MiB", LINE_BYTES_MAX >> 20)),
                Line::Bytes(bytes) if bytes.trim_ascii().is_empty() => {
                    cutter.chunk.records += 1;
                    continue;
                }
                Line::Bytes(bytes) => match std::str::from_utf8(bytes) {
                    Ok(json) => Item::read(number, json, mapping),
                    Err(error) => Err(format!("not UTF-8 at byte {}", error.valid_up_to())),
                },
            };
            cutter.add(number, item)?;
        }
        buffer.consume(at);
    }
    Ok(())
}

fn read_csv(input: impl Read, mapping: &Mapping, cells: &Cells, cutter: &mut Cutter) -> Result<(), Stop> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let names = reader.headers().map_err(csv_error)?.clone();
    let mut bytes = csv::ByteRecord::new();
    while reader.read_byte_record(&mut bytes).map_err(csv_error)? {
        cutter.chunk.bytes = reader.position().byte();
        if cutter.skips() {
            continue;
        }
        let line = bytes.position().map_or(0, csv::Position::line);
        let item = match csv::StringRecord::from_byte_record(bytes.clone()) {
            Ok(row) => document(&names, &row, cells).and_then(|json| Item::read(line, &json, mapping)),
            Err(error) => Err(format!("not UTF-8: {error}")),
        };
        cutter.add(line, item)?;
    }
    Ok(())
}

fn csv_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use super::*;

    fn chunks(input: &str, format: Format, skip: u64, strict: bool) -> Vec<Chunk> {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, input.as_bytes()).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mapping = Mapping {
            key: Some(Template::parse("k").unwrap()),
            date: Some("d".to_owned()),
            ..Mapping::default()
        };
        let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
        let source = Source {
            input: Input::File(file),
            format,
            mapping,
            cells: Cells::default(),
            batch_size: 3,
            skip,
            strict,
        };
        source.run(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).map(Result::unwrap).collect()
    }

    fn shape(chunks: &[Chunk]) -> Vec<(Vec<u64>, Vec<u64>, u64)> {
        chunks
            .iter()
            .map(|chunk| {
                let items = chunk.items.iter().map(|item| item.line).collect();
                (items, chunk.bad.iter().map(|(line, _)| *line).collect(), chunk.records)
            })
            .collect()
    }

    const LINES: &str = "{\"k\":1}\n\n{\"k\":2}\nbad\r\n{\"k\":3}\n{\"k\":4,\"d\":\"2025-01-15\"}\n{\"k\":5,\"d\":\"2025-01-15\"}";

    #[test]
    fn chunks_end_when_full_and_when_the_date_changes() {
        let found = chunks(LINES, Format::Ndjson, 0, false);
        assert_eq!(shape(&found), [(vec![1, 3, 5], vec![4], 5), (vec![6, 7], vec![], 7)]);
        assert_eq!(found[1].bytes, LINES.len() as u64);
    }

    #[test]
    fn what_is_done_is_skipped_and_strict_ends_at_the_first_bad_line() {
        assert_eq!(
            shape(&chunks(LINES, Format::Ndjson, 4, false)),
            [(vec![5], vec![], 5), (vec![6, 7], vec![], 7)]
        );
        assert_eq!(shape(&chunks(LINES, Format::Ndjson, 0, true)), [(vec![1, 3], vec![4], 4)]);
    }

    #[test]
    fn csv_rows_know_their_lines() {
        let input = "k,text\n1,\"two\nlines\"\n2,x\n3\n4,y\n";
        assert_eq!(
            shape(&chunks(input, Format::Csv, 0, false)),
            [(vec![2, 4, 6], vec![5], 4), (vec![], vec![], 4)]
        );
    }
}
