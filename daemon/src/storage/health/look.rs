//! Looking at files: the databases, open or closed, and the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastpersist_protocol::time::Date;

use super::{HealthReport, ProblemKind};
use crate::config::StorageConfig;
use crate::disk;
use crate::duck::{DuckError, Inspector, TableLook};
use crate::storage::dated::{self, Dated};
use crate::storage::partition::{Layout, Partition, Shared, losses, notes};
use crate::storage::settled;
use crate::storage::{Kind, Storage};
use crate::wal::recover::{self, TORN_PREFIX};
use crate::wal::{horizon, scan};

/// A date may be opened or closed while it is looked at, or give up old segments; then it is looked at again.
const TRIES: usize = 20;
/// Before it is tried again where somebody else holds the date.
const PAUSE: Duration = Duration::from_millis(50);
const REBUILT: &str = "restart the daemon, which then rebuilds the file from its backup and the log";

impl Storage {
    pub(super) fn look_at_files(&self, deep: bool, report: &mut HealthReport) {
        let dated = match &self.kind {
            Kind::Collection(collection) => {
                let partition = collection.partition();
                look_at_open(partition, deep, report);
                for directory in partition.day_directories() {
                    report.torn_count += torn_in(partition.shared(), &directory);
                }
                return;
            }
            Kind::Dated(dated) => dated,
        };
        let all = match dated.dates() {
            Ok(all) => all,
            Err(error) => {
                let message = format!("{}: {error}", self.config.base_dir.display());
                return report.add(None, ProblemKind::FileUnreadable, message);
            }
        };
        for date in all {
            report.torn_count += torn_in(dated.shared(), &self.config.base_dir.join(date.to_string()));
            look_at_date(dated, &self.config, date, deep, report);
        }
    }
}

fn torn_in(shared: &Shared, directory: &Path) -> u64 {
    let names = shared.disk.list(directory).unwrap_or_default();
    let torn = |name: &&String| name.starts_with(TORN_PREFIX) && !name.ends_with(disk::TEMPORARY_SUFFIX);
    names.iter().filter(torn).count() as u64
}

fn look_at_date(dated: &Dated, config: &StorageConfig, date: Date, deep: bool, report: &mut HealthReport) {
    for _ in 0..TRIES {
        if let Some(partition) = dated.open_partition(date) {
            return look_at_open(&partition, deep, report);
        }
        let mut found = HealthReport::default();
        let whole = dated.while_closed(date, |go_on| {
            look_at_closed(dated.shared(), config, date, deep, go_on, &mut found);
            go_on()
        });
        if whole.is_none() {
            std::thread::sleep(PAUSE);
        }
        if whole == Some(true) {
            report.problems.append(&mut found.problems);
            report.files += found.files;
            report.rows += found.rows;
            report.wal_segments += found.wal_segments;
            report.wal_records += found.wal_records;
            return;
        }
    }
    let message = "the date is opened, closed or cleared of old segments all the time, and could not be looked at; check again";
    report.add(Some(date), ProblemKind::FileInUse, message);
}

/// Looks at a partition through what it has open.
fn look_at_open(partition: &Arc<Partition>, deep: bool, report: &mut HealthReport) {
    let date = partition.date();
    let base = partition.config().base_dir.clone();
    let base = date.map_or_else(|| base.clone(), |date| base.join(date.to_string()));
    if let Err(error) = horizon::removed_through(&*partition.shared().disk, &base) {
        report.add(date, ProblemKind::FileUnreadable, format!("{}: {error}", base.display()));
    }
    let before = partition.gauges();
    if !(before.appended_seq >= before.durable_seq && before.durable_seq >= before.flushed_seq) {
        let message = format!(
            "appended {}, durable {}, flushed {}",
            before.appended_seq, before.durable_seq, before.flushed_seq
        );
        report.add(date, ProblemKind::WatermarkMismatch, message);
    }
    noted(partition.shared(), partition.files().paths(), date, report);
    let looks = match partition.inspector() {
        Ok(Some(mut inspector)) => {
            let looks = inspector.look();
            if deep {
                let go_on = || !partition.shared().stopping.load(Ordering::Relaxed);
                read_all(&inspector, &go_on, report, |report, error| {
                    partition.note_trouble(&error);
                    tell(&error, date, report);
                });
            }
            looks
        }
        Ok(None) => Vec::new(),
        Err(error) => vec![Err(error)],
    };
    let after = partition.gauges();
    for look in looks {
        report.files += 1;
        match look {
            Ok(look) => {
                if !deep {
                    report.rows += look.rows;
                }
                let still =
                    before.appended_seq == after.appended_seq && before.flushed_seq == after.appended_seq;
                let in_memory =
                    (still && before.complete && after.complete).then_some(after.cache_records as u64);
                judge(&look, (before.flushed_seq, after.durable_seq), in_memory, partition, report);
            }
            Err(error) => {
                partition.note_trouble(&error);
                tell(&error, date, report);
            }
        }
    }
    let told = |problem: &super::Problem| problem.kind == ProblemKind::FileDamaged && problem.date == date;
    if partition.is_suspect() && !report.problems.iter().any(told) {
        let message = format!("DuckDB could not read something since the start; check deeply, and {REBUILT}");
        report.add(date, ProblemKind::Suspect, message);
    }
    let segments = partition.wal_segments();
    report.wal_segments += segments.len() as u64;
    if deep {
        look_at_log(partition.shared(), partition.config(), date, segments, &|| true, report);
    }
}

/// Reads everything; an error goes to `on_error`.
fn read_all(
    inspector: &Inspector,
    go_on: &dyn Fn() -> bool,
    report: &mut HealthReport,
    mut on_error: impl FnMut(&mut HealthReport, DuckError),
) {
    for read in inspector.read_all(go_on) {
        match read {
            Ok(rows) => report.rows += rows,
            Err(error) => on_error(report, error),
        }
    }
}

/// Compares a file's figures with what they should be.
fn judge(
    look: &TableLook,
    (least, most): (u64, u64),
    in_memory: Option<u64>,
    partition: &Partition,
    report: &mut HealthReport,
) {
    let (date, file) = (partition.date(), look.file.display());
    if !(least..=most).contains(&look.flushed_seq) || look.max_seq > look.flushed_seq {
        let message = format!(
            "{file} is complete up to record {} and has rows up to {}; the daemon has flushed up to {least}. {REBUILT}",
            look.flushed_seq, look.max_seq
        );
        report.add(date, ProblemKind::WatermarkMismatch, message);
    }
    if look.is_history {
        // Each place is a row: a write, or a deletion.
        let lost = losses::count(&*partition.shared().disk, &partition.config().base_dir, look.flushed_seq);
        if !(look.flushed_seq.saturating_sub(lost)..=look.flushed_seq).contains(&look.rows) {
            let message = format!(
                "{file} has {} rows for {} records ({lost} of them lost in a repair); rebuild_history_from_wal puts back what the log has",
                look.rows, look.flushed_seq
            );
            report.add(date, ProblemKind::RowCountMismatch, message);
        }
    } else if let Some(records) = in_memory.filter(|records| *records != look.rows) {
        let mend = if date.is_none() { "rebuild_latest_from_history makes it anew" } else { REBUILT };
        let message = format!("{file} has {} rows, memory has {records} records; {mend}", look.rows);
        report.add(date, ProblemKind::RowCountMismatch, message);
    }
}

/// What DuckDB says about a file, as a problem.
fn tell(error: &DuckError, date: Option<Date>, report: &mut HealthReport) {
    let missing = error.file().is_some_and(|file| !file.exists());
    let text = error.to_string();
    if missing {
        report.add(date, ProblemKind::FileMissing, format!("{text}. {REBUILT}"));
    } else if error.is_damage() {
        // One problem for each file: the deep look finds what a note or the quick one has told already.
        let file = error.file().map(|file| file.display().to_string()).unwrap_or_default();
        let told = |problem: &super::Problem| {
            problem.kind == ProblemKind::FileDamaged
                && problem.date == date
                && problem.message.starts_with(&file)
        };
        if !report.problems.iter().any(told) {
            report.add(date, ProblemKind::FileDamaged, format!("{file} is damaged: {text}. {REBUILT}"));
        }
    } else if error.is_in_use() {
        report.add(date, ProblemKind::FileInUse, text);
    } else {
        report.add(date, ProblemKind::FileUnreadable, text);
    }
}

/// Files about which a note says that they are damaged.
fn noted<'f>(
    shared: &Shared,
    files: impl Iterator<Item = &'f Path>,
    date: Option<Date>,
    report: &mut HealthReport,
) {
    for file in files {
        if let Some(why) = notes::why_suspect(&*shared.disk, file) {
            let message = format!("{} is damaged: {why}. {REBUILT}", file.display());
            report.add(date, ProblemKind::FileDamaged, message);
        }
    }
}

/// Looks at a date that nobody opens meanwhile.
fn look_at_closed(
    shared: &Arc<Shared>,
    config: &StorageConfig,
    date: Date,
    deep: bool,
    go_on: &dyn Fn() -> bool,
    report: &mut HealthReport,
) {
    let directory = config.base_dir.join(date.to_string());
    let settled_seq = settled::read_settled(&*shared.disk, &directory).ok().flatten();
    if settled_seq.is_none() && directory.join(settled::SETTLED_FILE).exists() {
        let message = format!(
            "{} tells no record, so whether the date's files have all of it is not known; opening the date replaces it",
            directory.join(settled::SETTLED_FILE).display()
        );
        report.add(Some(date), ProblemKind::FileUnreadable, message);
    }
    if let Err(error) = horizon::removed_through(&*shared.disk, &directory) {
        report.add(Some(date), ProblemKind::FileUnreadable, format!("{}: {error}", directory.display()));
    }
    let layout = dated::layout(config, date, settled_seq);
    let some = Some(date);
    noted(shared, layout.files.paths(), some, report);
    report.files += 1;
    if layout.files.exist() {
        match Inspector::of_files(&shared.engine, &config.schema, &layout.files, None) {
            Ok(mut inspector) => {
                for look in inspector.look() {
                    judge_closed(look, &layout, deep, report);
                }
                if deep {
                    read_all(&inspector, go_on, report, |report, error| {
                        notes::note_damage(shared, &error);
                        tell(&error, some, report);
                    });
                }
            }
            Err(error) => tell(&error, some, report),
        }
    } else if settled_seq.is_some() {
        let file = files_text(&layout);
        report.add(some, ProblemKind::FileMissing, format!("{file} is missing. {REBUILT}"));
    }
    match recover::segments(&*shared.disk, &layout.wal_directories) {
        Ok(segments) => {
            report.wal_segments += segments.len() as u64;
            if deep {
                let segments = segments.into_iter().map(|segment| (segment.path, u64::MAX)).collect();
                look_at_log(shared, config, some, segments, go_on, report);
            }
        }
        Err(error) => report.add(some, ProblemKind::FileUnreadable, error.to_string()),
    }
}

fn files_text(layout: &Layout) -> String {
    let files: Vec<_> = layout.files.paths().map(|file| file.display().to_string()).collect();
    files.join(", ")
}

/// Compares a closed date's file with what was noted when it was closed.
fn judge_closed(look: Result<TableLook, DuckError>, layout: &Layout, deep: bool, report: &mut HealthReport) {
    let look = match look {
        Ok(look) => look,
        Err(error) => return tell(&error, layout.date, report),
    };
    if !deep {
        report.rows += look.rows;
    }
    if let Some(settled_seq) = layout.settled_seq.filter(|seq| *seq != look.flushed_seq) {
        let (file, seq) = (look.file.display(), look.flushed_seq);
        let message =
            format!("{file} is complete up to record {seq}, and was closed at {settled_seq}. {REBUILT}");
        report.add(layout.date, ProblemKind::WatermarkMismatch, message);
    }
}

/// Reads segments, the first so many bytes of each, and checks every line and the order. What was removed may be missing
/// anywhere among them: a power cut may bring some of it back.
fn look_at_log(
    shared: &Shared,
    config: &StorageConfig,
    date: Option<Date>,
    segments: Vec<(PathBuf, u64)>,
    go_on: &dyn Fn() -> bool,
    report: &mut HealthReport,
) {
    let base = date.map_or_else(|| config.base_dir.clone(), |date| config.base_dir.join(date.to_string()));
    // A note that cannot be read is told where the partition is looked at.
    let removed_seq = horizon::removed_through(&*shared.disk, &base).unwrap_or(0);
    let mut expected = None;
    for (file, length) in segments {
        if !go_on() || shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let bytes = match shared.disk.read(&file) {
            Ok(bytes) => bytes,
            // It was old enough to go, and went.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                expected = None;
                continue;
            }
            Err(error) => {
                report.add(date, ProblemKind::FileUnreadable, format!("{}: {error}", file.display()));
                expected = None;
                continue;
            }
        };
        let bytes = &bytes[..bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
        let first = scan::first_readable_seq(bytes);
        let after_removed =
            first.filter(|first| expected.is_some_and(|seq| (seq..=removed_seq + 1).contains(first)));
        let scanned = scan::scan(bytes, config.model(), after_removed.or(expected), 0, |entry| {
            report.wal_records += entry.records.len() as u64;
        });
        let (offset, reason) = match scanned {
            Ok(end) if !end.torn => {
                expected = end.last_seq.map(|last| last + 1).or(expected);
                continue;
            }
            Ok(end) => (end.valid_bytes, "this line is not readable".to_owned()),
            Err(damage) => (damage.offset, damage.reason),
        };
        expected = None;
        let message = format!(
            "{} is damaged at byte {offset}: {reason}; stop the daemon, and `fastpersist repair --storage {}` says what would be lost",
            file.display(),
            config.name
        );
        report.add(date, ProblemKind::WalDamaged, message);
    }
}
