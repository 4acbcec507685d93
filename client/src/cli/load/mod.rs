//! The verb `load`: a file into a storage, in batches, with several of them on their way.
//!
//! The modules in the order of a record: `source` reads it (`csv_rows` makes JSON of CSV), `template` and
//! `item` say what it is called, `send` stores it, `state` remembers how far that was.
//!
//! Invariant: what is remembered as done is a beginning of the input without gaps.

mod csv_rows;
mod item;
mod run;
mod send;
mod source;
mod state;
mod template;

use std::fs::{self, File};
use std::path::PathBuf;

use clap::Args;
use fastpersist_client::{Date, Model, StorageInfo};

pub(super) use csv_rows::{Cells, document};
pub(super) use item::Fielded;
use item::Mapping;
use source::{Format, Input};
pub(super) use template::Template;

use super::failure::{Failure, Outcome};
use super::output::Output;
use super::{Global, parse_date};

const HELP: &str = "\
With --key, each line is a document, and --key and the other options that end in -field say which of its \
fields name the record. --key may be made of several fields: '{carrier}{flight}-{time:04}', where :04 \
pads with zeros. Without --key, each line is a store as the protocol has it, {\"key\":…,\"data\":{…},…}, or \
a record as `get` prints it.

In CSV the first row names the columns. Cells that are numbers as JSON writes them become numbers, true \
and false become booleans, empty cells become null, and all others are texts.

Records of one key are stored in the order of their lines. Only where several batches are under way and \
the daemon refuses a line, the rest of its batch may come after the next one; --in-flight 1 prevents that.

After an interruption the same command with the same --resume goes on. The last lines before it may be \
stored a second time, as a new version of the same record.

Example:
  fastpersist -s jobs load jobs.ndjson --key id --process-field worker
  fastpersist -s flights load flights.csv --key '{carrier}{flight}-{origin}' --null NA
  fastpersist -s jobs get task_1 | fastpersist -s archive load -
  fastpersist -s jobs load huge.ndjson --key id --resume huge.state";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct LoadArgs {
    /// The file; - reads standard input.
    file: String,
    /// What the file is; without it that is told from its name, and standard input is NDJSON.
    #[arg(long)]
    format: Option<Format>,
    /// The field that is the key, or a template of fields in braces.
    #[arg(long, value_name = "FIELD", value_parser = Template::parse)]
    key: Option<Template>,
    /// The field that is the process name.
    #[arg(long, value_name = "FIELD", requires = "key")]
    process_field: Option<String>,
    /// The field that is the collection name.
    #[arg(long, value_name = "FIELD", requires = "key")]
    collection_field: Option<String>,
    /// The field that is the item name.
    #[arg(long, value_name = "FIELD", requires = "key")]
    item_field: Option<String>,
    /// The field that is the typed value.
    #[arg(long, value_name = "FIELD", requires = "key")]
    value_field: Option<String>,
    /// The field that is the timestamp.
    #[arg(long, value_name = "FIELD", requires = "key")]
    timestamp_field: Option<String>,
    /// The field that is the date.
    #[arg(long, value_name = "FIELD", requires = "key")]
    date_field: Option<String>,
    /// The date of records that have none of their own; without it today.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    date: Option<Date>,
    /// CSV: take every cell as a text.
    #[arg(long)]
    strings: bool,
    /// CSV: cells with this text are null too.
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// Records in one batch.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch_size: u64,
    /// Batches under way at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    in_flight: u64,
    /// Stop at the first bad line; without it bad lines are reported and left out.
    #[arg(long)]
    strict: bool,
    /// Remember in this file how far the load has come, and go on from there.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

impl LoadArgs {
    fn format(&self) -> Outcome<Format> {
        let extension = self.file.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        let format = match (self.format, extension.as_deref()) {
            (Some(format), _) => format,
            (None, _) if self.file == "-" => Format::Ndjson,
            (None, Some("csv")) => Format::Csv,
            (None, Some("ndjson" | "jsonl" | "json")) => Format::Ndjson,
            (None, _) => {
                let message = format!("{} does not tell by its name what it is", self.file);
                return Err(Failure::usage(message).with_hint("--format ndjson or --format csv says it"));
            }
        };
        if format == Format::Csv && self.key.is_none() {
            return Err(Failure::usage("CSV needs --key")
                .with_hint("--key names the column, or a template of columns"));
        }
        Ok(format)
    }

    /// The input, and its length where that is known.
    fn open(&self) -> Outcome<(Input, Option<u64>)> {
        if self.file == "-" {
            return Ok((Input::Stdin, None));
        }
        let file = File::open(&self.file).map_err(|error| Failure::io(&self.file, &error))?;
        let length = file.metadata().ok().filter(fs::Metadata::is_file).map(|data| data.len());
        Ok((Input::File(file), length))
    }

    /// Names that the storage does not have would fail on every line; better to say so once.
    fn check_model(&self, storage: &StorageInfo) -> Outcome {
        let dated = [
            ("--process-field", self.process_field.is_some()),
            ("--date-field", self.date_field.is_some()),
            ("--date", self.date.is_some()),
        ];
        let collection = [
            ("--collection-field", self.collection_field.is_some()),
            ("--item-field", self.item_field.is_some()),
            ("--value-field", self.value_field.is_some()),
        ];
        let foreign = match storage.model {
            Model::Dated => collection,
            Model::Collection => dated,
            _ => return Ok(()),
        };
        match foreign.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => {
                let StorageInfo { name, model, .. } = storage;
                Err(Failure::usage(format!("{name:?} is a {model} storage, for which there is no {option}")))
            }
        }
    }

    fn mapping(&self) -> Mapping {
        Mapping {
            key: self.key.clone(),
            process: self.process_field.clone(),
            collection: self.collection_field.clone(),
            item: self.item_field.clone(),
            value: self.value_field.clone(),
            timestamp: self.timestamp_field.clone(),
            date: self.date_field.clone(),
        }
    }

    fn cells(&self) -> Cells {
        Cells { strings: self.strings, null: self.null.clone() }
    }
}

pub(crate) fn load(global: &Global, args: &LoadArgs, out: &mut Output) -> Outcome {
    run::run(global, args, out)
}
