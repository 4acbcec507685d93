//! Whether there are backups that are new enough, and whether those that are needed can be restored from.

use std::path::Path;

use fastpersist_protocol::time::{Date, Timestamp};

use super::{HealthReport, ProblemKind};
use crate::backup;
use crate::backup::manifest::{self, Found, State};
use crate::disk::Disk;
use crate::storage::partition::Shared;
use crate::storage::settled;
use crate::storage::{Kind, Storage};

/// A backup that is older than this, while there is something newer, is told.
const MAX_AGE_DAYS: i64 = 2;
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

impl Storage {
    pub(super) fn look_at_backups(&self, report: &mut HealthReport) {
        if !self.config.backup {
            return;
        }
        match &self.kind {
            Kind::Collection(collection) => {
                let partition = collection.partition();
                self.look_for_damage(partition.shared(), report);
                self.look_at_newest(partition.shared(), partition.gauges().appended_seq, report);
            }
            Kind::Dated(dated) => {
                for date in dated.dates().unwrap_or_default() {
                    let last_seq = match dated.open_partition(date) {
                        Some(partition) => Some(partition.gauges().appended_seq),
                        None => self.settled_seq(dated.shared(), date),
                    };
                    self.look_at_date(dated.shared(), date, last_seq, report);
                }
            }
        }
    }

    fn settled_seq(&self, shared: &Shared, date: Date) -> Option<u64> {
        settled::read_settled(&*shared.disk, &self.config.base_dir.join(date.to_string())).ok().flatten()
    }

    /// A damaged backup of a collection matters until a verified one reaches as far. One whose manifest cannot
    /// be read matters as long as it is there: nobody knows how far it reaches.
    fn look_for_damage(&self, shared: &Shared, report: &mut HealthReport) {
        let (disk, base) = (&*shared.disk, &self.config.base_dir);
        // A directory that cannot be listed is told of by the look for the newest one.
        let days = disk.list(base).unwrap_or_default();
        let found: Vec<_> = days
            .iter()
            .filter(|name| Date::parse(name).is_some())
            .map(|name| look_in(disk, &base.join(name)))
            .collect();
        let whole = found.iter().flatten().flatten().filter(|one| one.is_verified());
        let covered = whole.map(|one| one.manifest.seq).max();
        for one in found {
            if !matches!(&one, Ok(Some(one)) if covered.is_some_and(|seq| seq >= one.manifest.seq)) {
                tell_damage(None, &one, report);
            }
        }
    }

    fn look_at_newest(&self, shared: &Shared, last_seq: u64, report: &mut HealthReport) {
        let (disk, base) = (&*shared.disk, &self.config.base_dir);
        let now = shared.clock.now();
        let message = match manifest::newest_verified(disk, base) {
            Err(error) => error.to_string(),
            Ok(Some(newest))
                if newest.manifest.seq >= last_seq || is_new(newest.manifest.created_at, now) =>
            {
                return;
            }
            Ok(Some(newest)) => {
                let records = last_seq - newest.manifest.seq;
                format!(
                    "the newest verified backup is of {}, and {records} records are newer",
                    newest.manifest.created_at
                )
            }
            Ok(None) => {
                let days = disk.list(base).unwrap_or_default();
                let Some(oldest) = days.iter().find_map(|name| Date::parse(name)) else { return };
                if last_seq == 0 || !is_old(midnight(oldest, now), now) {
                    return;
                }
                "there is no verified backup".to_owned()
            }
        };
        report.add(
            None,
            ProblemKind::BackupMissing,
            format!("{message}; `backup` takes one now, and says what is wrong"),
        );
    }

    /// A date is backed up when it is over; until two days later nothing is missing.
    fn look_at_date(&self, shared: &Shared, date: Date, last_seq: Option<u64>, report: &mut HealthReport) {
        let now = shared.clock.now();
        let directory = self.config.base_dir.join(date.to_string());
        let found = look_in(&*shared.disk, &directory);
        if tell_damage(Some(date), &found, report) || !is_old(midnight(date, now), now) {
            return;
        }
        let message = match found {
            Err(told) => told,
            Ok(Some(found)) if last_seq.is_none_or(|last_seq| found.manifest.seq >= last_seq) => return,
            Ok(Some(found)) if is_new(found.manifest.created_at, now) => return,
            Ok(Some(_)) => "the date was written after its backup".to_owned(),
            Ok(None) => "the date has no backup".to_owned(),
        };
        report.add(Some(date), ProblemKind::BackupMissing, format!("{message}; `backup` takes one now"));
    }
}

/// The backup in a directory; an error tells of one whose manifest is gone or cannot be read.
fn look_in(disk: &dyn Disk, directory: &Path) -> Result<Option<Found>, String> {
    let mut alone = None;
    // In this order: a backup's files get their names when its manifest is there, and lose them before it goes. The
    // retention may take both away between the two looks: then there is no file when it is looked for again.
    for _ in 0..2 {
        let names = disk.list(directory).unwrap_or_default();
        let found = manifest::find(disk, directory).map_err(|error| error.to_string())?;
        alone = names.into_iter().find(|name| name.ends_with(backup::FILE_SUFFIX));
        if found.is_some() || alone.is_none() {
            return Ok(found);
        }
    }
    Err(format!(
        "{} has a backup's file {}, but {} is missing, so the backup is not used; `backup` takes a new one, \
         or remove its files",
        directory.display(),
        alone.unwrap_or_default(),
        manifest::MANIFEST_FILE
    ))
}

/// Tells of a backup that cannot be restored from; answers whether it is one.
fn tell_damage(date: Option<Date>, found: &Result<Option<Found>, String>, report: &mut HealthReport) -> bool {
    let message = match found {
        Err(told) => told.clone(),
        Ok(Some(found)) if found.state == State::Damaged => {
            format!(
                "the backup {} is damaged and is not used; `backup` takes a new one",
                found.manifest.backup
            )
        }
        Ok(_) => return false,
    };
    report.add(date, ProblemKind::BackupDamaged, message);
    true
}

fn midnight(date: Date, now: Timestamp) -> Timestamp {
    Timestamp::parse(&date.to_string()).unwrap_or(now)
}

fn is_old(moment: Timestamp, now: Timestamp) -> bool {
    now.as_micros() - moment.as_micros() > MAX_AGE_DAYS * DAY_MICROS
}

/// Whether a backup was taken lately. One that was taken in the future was taken while the clock was wrong: nobody
/// knows when, and it would pass for a new one until then.
fn is_new(taken: Timestamp, now: Timestamp) -> bool {
    !is_old(taken, now) && taken.as_micros() - now.as_micros() <= DAY_MICROS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_from_the_future_is_no_new_one() {
        let time = |text| Timestamp::parse(text).expect("a time");
        let now = time("2025-01-15T12:00:00Z");
        for (taken, expected) in [
            ("2025-01-15T12:00:00Z", true),
            ("2025-01-13T12:00:00Z", true),
            ("2025-01-13T11:59:59Z", false),
            ("2025-01-16T11:00:00Z", true),
            ("2035-01-15T12:00:00Z", false),
        ] {
            assert_eq!(is_new(time(taken), now), expected, "{taken}");
        }
    }
}
