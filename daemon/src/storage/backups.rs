//! Which partitions are backed up, which backups there are, and which go.
//!
//! Invariant: of one storage only one backup, verification or removal is at work at any time. Whoever does it
//! holds the turn, on a thread that does not stop when the client goes away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fastpersist_protocol::time::Date;

use super::partition::backup::is_covered;
use super::partition::{Partition, Shared};
use super::schema::Model;
use super::{Kind, Storage};
use crate::backup::manifest::{self, Found, Manifest, ManifestError, State};
use crate::backup::{BackupError, retention, verify};
use crate::schedule::{self, JobKind};
use crate::stats::VerifiedBackup;

/// By how much the thread steps back behind those that answer clients.
const BACKUP_NICE: i32 = 5;

/// What the retention removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The backups, by name.
    pub backups: Vec<Date>,
    /// A collection's directories of days in which nothing was left.
    pub empty_directories: u64,
}

impl Storage {
    /// Takes a backup now: of a collection; of one date; or, without a date, of every date that has changed since
    /// its last one. A storage, or a set of dates, in which there is nothing to back up answers none.
    ///
    /// # Errors
    /// See [`BackupError`]. Of several dates, the first that failed; the others are backed up all the same.
    pub async fn backup(&self, date: Option<Date>) -> Result<Vec<Manifest>, BackupError> {
        self.check_backups_are_on()?;
        let (partition, day) = match (&self.kind, date) {
            (Kind::Collection(collection), _) => (Arc::clone(collection.partition()), self.today()),
            (Kind::Dated(_), Some(date)) => {
                let partition = self.partition_for_read(Some(date)).await?;
                (partition.ok_or(BackupError::NoData { date })?, date)
            }
            (Kind::Dated(_), None) => return self.backup_touched(None).await,
        };
        let taking = async { Ok(self.back_up(partition, day).await?.into_iter().collect()) };
        self.noted(JobKind::Backup, |taken: &Vec<Manifest>| rows_of(taken), taking).await
    }

    /// Backs up what has changed since its last backup: of a dated storage each such date; dates that are
    /// closed and have not changed are not opened. A collection that has not changed is backed up all the same
    /// where a `day` is asked for, of which there is none.
    ///
    /// # Errors
    /// See [`Storage::backup`].
    pub async fn backup_touched(&self, day: Option<Date>) -> Result<Vec<Manifest>, BackupError> {
        self.check_backups_are_on()?;
        self.noted(JobKind::Backup, |taken: &Vec<Manifest>| rows_of(taken), self.back_up_touched(day)).await
    }

    async fn back_up_touched(&self, day: Option<Date>) -> Result<Vec<Manifest>, BackupError> {
        let mut taken = Vec::new();
        match &self.kind {
            Kind::Collection(collection) => {
                let partition = collection.partition();
                if self.is_collection_touched(partition, day) {
                    let day = day.unwrap_or_else(|| self.today());
                    taken.extend(self.back_up(Arc::clone(partition), day).await?);
                }
            }
            Kind::Dated(dated) => {
                let mut failed = None;
                for date in dated
                    .touched_dates(|directory, seq| is_covered(&self.shared, directory, seq))
                    .map_err(|source| BackupError::Io { file: self.config.base_dir.clone(), source })?
                {
                    match self.back_up_date(date).await {
                        Ok(manifest) => taken.extend(manifest),
                        Err(error) if failed.is_none() => failed = Some(error),
                        Err(error) => {
                            tracing::error!(storage = %self.config.name, %date, %error, "the backup failed");
                        }
                    }
                }
                failed.map_or(Ok(()), Err)?;
            }
        }
        Ok(taken)
    }

    async fn back_up_date(&self, date: Date) -> Result<Option<Manifest>, BackupError> {
        match self.partition_for_read(Some(date)).await? {
            Some(partition) => self.back_up(partition, date).await,
            None => Ok(None),
        }
    }

    fn is_collection_touched(&self, partition: &Partition, day: Option<Date>) -> bool {
        let (disk, base) = (&*self.shared.disk, &self.config.base_dir);
        let found = match day {
            Some(day) => manifest::find(disk, &base.join(day.to_string())),
            None => manifest::newest_verified(disk, base),
        };
        let found = found.ok().flatten().filter(Found::is_verified);
        partition.appended_seq() > found.map_or(0, |found| found.manifest.seq)
    }

    fn check_backups_are_on(&self) -> Result<(), BackupError> {
        if self.config.backup {
            return Ok(());
        }
        Err(BackupError::Off { storage: self.config.name.clone() })
    }

    async fn back_up(&self, partition: Arc<Partition>, day: Date) -> Result<Option<Manifest>, BackupError> {
        let begun = Instant::now();
        let date = partition.date();
        let taken = self.in_turn(move |_| partition.back_up(day)).await;
        if let Ok(Some(manifest)) = &taken {
            tracing::info!(storage = %self.config.name, date = ?date.map(|d| d.to_string()), backup = %manifest.backup,
                seq = manifest.seq, bytes = manifest.bytes(), took = ?begun.elapsed(), "backed up and verified");
        }
        self.note_newest_backup();
        taken
    }

    /// Tells `stats` of the newest backup that counts as verified, or that there is none any more.
    pub(super) fn note_newest_backup(&self) {
        // Where they cannot be listed, nothing new is known.
        let Ok(found) = manifest::list(&*self.shared.disk, &self.config.base_dir) else { return };
        let newest = found.iter().filter(|one| one.is_verified()).max_by_key(|one| one.manifest.created_at);
        let newest = newest.map(|one| VerifiedBackup { seq: one.manifest.seq, at: one.manifest.created_at });
        self.stats.note_verified_backup(newest);
    }

    /// The backups that there are, by name. They are looked at, not read: one counts as verified that was
    /// verified when it was taken, was not found damaged since, and whose files have the right lengths.
    ///
    /// # Errors
    /// When the storage's directory cannot be listed.
    pub fn list_backups(&self) -> Result<Vec<Found>, BackupError> {
        let mut found = manifest::list(&*self.shared.disk, &self.config.base_dir)?;
        found.retain(|one| one.state != State::Removed);
        Ok(found)
    }

    /// Reads a whole backup and compares it with its manifest. One that differs is not used from then on; one
    /// that was found to differ and does not any more is used again.
    ///
    /// # Errors
    /// [`BackupError::Unknown`], [`BackupError::Damaged`], and see there.
    pub async fn verify_backup(&self, name: &str) -> Result<Manifest, BackupError> {
        let unknown = || BackupError::Unknown { name: name.to_owned() };
        // Only a date becomes a path.
        let day = Date::parse(name).ok_or_else(unknown)?;
        let config = Arc::clone(&self.config);
        let open = self.open_partitions();
        let verified = self.in_turn(move |shared| {
            let directory = config.base_dir.join(day.to_string());
            manifest::roll_forward(&*shared.disk, &directory)?;
            let found = manifest::find(&*shared.disk, &directory).map_err(|error| match error {
                ManifestError::Content { what, .. } => BackupError::Damaged { name: day.to_string(), what },
                error @ ManifestError::Io { .. } => error.into(),
            })?;
            let Some(found) = found.filter(|found| found.state != State::Removed) else { return Ok(None) };
            let verified = verify::verify(&shared.engine, &found);
            match &verified {
                Ok(()) => manifest::mark_sound(&*shared.disk, &directory)?,
                Err(BackupError::Damaged { what, .. }) => mark_damaged(&shared, &config.name, &found, what)?,
                Err(_) => {}
            }
            for partition in open.iter().filter(|partition| partition.date().is_none_or(|date| date == day)) {
                partition.look_for_backups();
            }
            verified.map(|()| Some(found.manifest))
        });
        let verified = verified.await;
        self.note_newest_backup();
        verified?.ok_or_else(unknown)
    }

    /// Reads the bytes of a collection's newest backup again, or of the backup of every date, and marks those
    /// that are not what they were: what nobody reads may rot while the log lets go of what it holds.
    ///
    /// # Errors
    /// When backups cannot be listed or one cannot be marked.
    pub(super) async fn verify_bytes(&self) -> Result<(), BackupError> {
        let config = Arc::clone(&self.config);
        let open = self.open_partitions();
        self.in_turn(move |shared| {
            let (disk, base) = (&*shared.disk, &config.base_dir);
            let read = match config.model() {
                Model::Collection => manifest::newest_verified(disk, base)?.into_iter().collect(),
                Model::Dated => manifest::list(disk, base)?,
            };
            let go_on = || !shared.stopping.load(Ordering::Relaxed);
            for found in read.iter().filter(|found| found.is_verified()) {
                if let Some(what) = verify::check_files(found, &go_on) {
                    mark_damaged(&shared, &config.name, found, &what)?;
                }
            }
            for partition in &open {
                partition.look_for_backups();
            }
            Ok(())
        })
        .await
    }

    /// Removes the backups that are older than `retain_days`, but never the newest verified one, and a
    /// collection's directories of days in which nothing is left.
    ///
    /// # Errors
    /// When something cannot be removed; it is tried again the next time.
    pub async fn apply_retention(&self) -> Result<Removed, BackupError> {
        let config = Arc::clone(&self.config);
        let removed = self.in_turn(move |shared| {
            let (disk, model) = (&*shared.disk, config.model());
            let today = schedule::day_of(shared.clock.now(), config.timezone);
            let rule =
                retention::Rule { model, timezone: config.timezone, today, retain_days: config.retain_days };
            let (gone, found): (Vec<_>, Vec<_>) = manifest::list(disk, &config.base_dir)?
                .into_iter()
                .partition(|one| one.state == State::Removed);
            for one in &gone {
                retention::finish(disk, one, model)?;
            }
            let mut removed = Removed::default();
            for one in retention::expired(found, rule) {
                retention::remove(disk, &one, model)?;
                removed.backups.push(one.manifest.backup);
            }
            if model == Model::Collection {
                removed.empty_directories = remove_empty_days(&shared, &config.base_dir, today)?;
            }
            Ok(removed)
        });
        let removed = removed.await;
        self.note_newest_backup();
        removed
    }

    /// Runs work on backups, one at a time, on a thread of its own that steps back behind those that answer
    /// clients.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Shared>) -> Result<T, BackupError> + Send + 'static,
    ) -> Result<T, BackupError> {
        let turn = Arc::clone(&self.backup_turn).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let (sender, done) = tokio::sync::oneshot::channel();
        let run = move || {
            // Where the system refuses, it only runs as hard as everything else.
            let _ = rustix::process::setpriority_process(None, BACKUP_NICE);
            let result = work(shared);
            drop(turn);
            // Nobody may wait any more: the work is done all the same.
            let _ = sender.send(result);
        };
        let thread = std::thread::Builder::new().name("backup".to_owned()).spawn(run);
        thread.map_err(BackupError::Thread)?;
        let panicked = |_| Err(BackupError::Thread(std::io::Error::other("it panicked")));
        done.await.unwrap_or_else(panicked)
    }
}

fn mark_damaged(shared: &Shared, storage: &str, found: &Found, what: &str) -> Result<(), BackupError> {
    tracing::error!(%storage, backup = %found.manifest.backup, %what, "a backup is damaged and is not used any more");
    manifest::roll_forward(&*shared.disk, &found.directory)?;
    Ok(manifest::mark_damaged(&*shared.disk, &found.directory)?)
}

fn rows_of(taken: &[Manifest]) -> u64 {
    taken.iter().map(Manifest::rows).sum()
}

/// Removes the directories of days in which nothing is left. Those around today are spared: a segment may be
/// about to be made there.
fn remove_empty_days(shared: &Shared, base_dir: &std::path::Path, today: Date) -> Result<u64, BackupError> {
    let mut removed = 0;
    for name in shared
        .disk
        .list(base_dir)
        .map_err(|source| ManifestError::Io { file: base_dir.to_owned(), source })?
    {
        let Some(day) = Date::parse(&name) else { continue };
        let directory = base_dir.join(&name);
        let is_near = (day.epoch_days() - today.epoch_days()).abs() <= 1;
        // One that is not empty is not removed by the system either.
        if !is_near && std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_none()) {
            removed += u64::from(shared.disk.remove_dir(&directory).is_ok());
        }
    }
    Ok(removed)
}

#[cfg(test)]
pub(super) mod tests;
