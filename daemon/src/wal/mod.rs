//! The log that makes writes durable: segments of JSON lines, one sequence per partition.
//!
//! A [`Wal`] has one writer at a time, the committer ([`commit`]). It appends the lines of a commit
//! group, syncs them, and changes segments by size, age and day. What happens at a restart is in
//! [`scan`] and [`recover`]; which segments may be deleted is in [`horizon`].
//!
//! Invariant: a segment is sealed only when everything in it is synced, so whatever is torn after a
//! power cut is at the end of the newest segment.

pub mod commit;
#[cfg(test)]
pub(crate) mod corruption;
pub mod entry;
#[cfg(test)]
pub(crate) mod failing;
pub mod follow;
pub mod horizon;
pub mod recover;
pub mod scan;
pub mod segment;
pub mod watermarks;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpersist_protocol::time::Date;

use crate::clock::Clock;
use crate::disk::{self, Disk};
use crate::latch::Latch;
use crate::underway::Underway;
use segment::{Active, AppendError, ReadySpare, Sealed, Space, Spare};

/// How long to wait before the next try to reserve space on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// Where a log's segments stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// All in one directory (dated: the date's own).
    Fixed(PathBuf),
    /// In a directory per day below this one (collection).
    Daily(PathBuf),
}

impl Place {
    /// The partition's own directory.
    pub fn base(&self) -> &Path {
        match self {
            Self::Fixed(directory) => directory,
            Self::Daily(base) => base,
        }
    }

    /// The directory for segments that begin on `today`.
    pub fn directory(&self, today: Date) -> PathBuf {
        match self {
            Self::Fixed(directory) => directory.clone(),
            Self::Daily(base) => base.join(today.to_string()),
        }
    }
}

/// When a segment is sealed.
#[derive(Debug, Clone, Copy)]
pub struct SegmentLimits {
    /// `max_wal_size`.
    pub max_bytes: u64,
    /// `max_wal_age_seconds`.
    pub max_age: Duration,
}

/// Why a group could not be appended or synced.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// There is no room; nothing of the group is in the log.
    #[error("the disk is full: {0}")]
    Full(io::Error),
    /// No file could be had for the moment; nothing of the group is in the log.
    #[error("the log cannot be extended: {0}")]
    Unavailable(io::Error),
    /// The log's end is uncertain; it takes nothing more until a restart.
    #[error("the log failed: {0}")]
    Failed(io::Error),
}

/// The log of one partition.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    place: Place,
    limits: SegmentLimits,
    latch: Arc<Latch>,
    active: Option<Active>,
    active_day: Option<Date>,
    spare: Option<Spare>,
    ready: Option<ReadySpare>,
    sealed: VecDeque<Sealed>,
    /// The directory of the newest segment and the highest number used there.
    newest: Option<(PathBuf, u64)>,
    synced: bool,
    /// The fdatasync that is under way.
    syncing: Arc<Underway>,
    /// Set while space for another segment cannot be had.
    full_since: Option<Instant>,
}

impl Wal {
    /// A log that continues behind `sealed`, as [`recover`] found them.
    pub fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        place: Place,
        limits: SegmentLimits,
        latch: Arc<Latch>,
        sealed: Vec<Sealed>,
    ) -> Self {
        Self {
            disk,
            clock,
            place,
            limits,
            latch,
            active: None,
            active_day: None,
            spare: None,
            ready: None,
            sealed: sealed.into(),
            newest: None,
            synced: true,
            syncing: Arc::default(),
            full_since: None,
        }
    }

    /// The mark of the fdatasync that is under way, for whoever must not wait for the log's lock.
    pub fn syncing(&self) -> Arc<Underway> {
        Arc::clone(&self.syncing)
    }

    /// Whether there is room for stores. Deletions may still use what is left of the segment.
    pub fn has_room(&mut self) -> bool {
        let must_know = self.limits.max_bytes - self.limits.max_bytes / 4;
        if self.active.as_ref().is_some_and(|active| active.bytes() >= must_know) {
            // The rest is for deletions, should there be no room for another segment.
            self.wait_for_spare();
        }
        self.poll_spare();
        match self.full_since {
            // A second one would be prepared under the same name.
            Some(_) if self.ready.is_some() => {
                self.full_since = None;
                true
            }
            Some(since) if since.elapsed() >= FULL_RETRY && self.spare.is_none() => {
                self.full_since = Some(Instant::now());
                self.begin_spare();
                if self.spare.is_none() {
                    // Nothing can be prepared ahead; the next group finds out by itself.
                    self.full_since = None;
                }
                self.wait_for_spare();
                self.full_since.is_none()
            }
            state => state.is_none(),
        }
    }

    /// Appends the lines of one group of so many `records`, the last of which is `last_seq`.
    ///
    /// # Errors
    /// See [`WalError`]; after [`WalError::Failed`] the latch is closed.
    pub fn append(&mut self, lines: &[u8], last_seq: u64, records: u64, today: Date) -> Result<(), WalError> {
        self.check_latch()?;
        if self.must_roll(today) {
            self.latch.look_at_directory().map_err(|astray| WalError::Unavailable(astray.into()))?;
            match self.roll(today) {
                // Whatever its size and age, the one that there is may still have room for a deletion.
                Err(WalError::Full(_)) if self.active.is_some() => {}
                rolled => rolled?,
            }
        }
        self.latch.check_directory().map_err(|astray| WalError::Unavailable(astray.into()))?;
        let fits = self.active.as_ref().is_none_or(|active| active.fits(lines));
        if !fits && self.full_since.is_none() && !self.has_ready() && self.full_since.is_some() {
            // That there is no room for another segment was not known when stores were let in: they must not take
            // what deletions may need.
            return Err(WalError::Full(io::ErrorKind::StorageFull.into()));
        }
        match self.append_to_active(lines, last_seq, records) {
            // It does not fit what is left of this segment. Another one is made already.
            Err(WalError::Full(_)) if self.has_ready() => {
                self.roll(today)?;
                self.append_to_active(lines, last_seq, records)
            }
            appended => appended,
        }
    }

    /// Whether the next segment is there; waits for one that is being prepared.
    fn has_ready(&mut self) -> bool {
        self.wait_for_spare();
        self.ready.is_some()
    }

    fn append_to_active(&mut self, lines: &[u8], last_seq: u64, records: u64) -> Result<(), WalError> {
        let Some(active) = &mut self.active else {
            return Err(WalError::Failed(io::Error::other("no active segment")));
        };
        match active.append(lines, last_seq, records) {
            Ok(()) => {}
            Err(AppendError::TakenBack(error)) if disk::is_full(&error) => {
                self.full_since = Some(Instant::now());
                return Err(WalError::Full(error));
            }
            Err(AppendError::TakenBack(error) | AppendError::Stuck(error)) => {
                return Err(self.fail("a write to", error));
            }
        }
        self.synced = false;
        let half_full = active.bytes() >= self.limits.max_bytes / 2;
        if half_full && self.spare.is_none() && self.ready.is_none() {
            self.begin_spare();
        }
        self.poll_spare();
        Ok(())
    }

    /// Brings everything appended to stable storage.
    ///
    /// # Errors
    /// [`WalError::Failed`]; the latch is then closed, for a second fdatasync would lie.
    pub fn sync(&mut self) -> Result<(), WalError> {
        if self.synced {
            return Ok(());
        }
        // A second fdatasync after a failed one would report success for bytes that are gone.
        self.check_latch()?;
        let _syncing = self.syncing.begin();
        #[cfg(test)]
        if self.disk.planted() == Some(crate::planted::Bug::NoFdatasync) {
            self.synced = true;
            return Ok(());
        }
        if let Some(active) = &mut self.active
            && let Err(error) = active.sync()
        {
            return Err(self.fail("fdatasync of", error));
        }
        self.synced = true;
        Ok(())
    }

    fn check_latch(&self) -> Result<(), WalError> {
        match self.latch.reason() {
            None => Ok(()),
            Some(reason) => Err(WalError::Failed(io::Error::other(reason.to_owned()))),
        }
    }

    fn fail(&self, what: &str, error: io::Error) -> WalError {
        let path = self.active.as_ref().map(|active| active.path().display().to_string());
        self.latch.close(format!("{what} {} failed: {error}", path.unwrap_or_default()));
        WalError::Failed(error)
    }

    fn must_roll(&self, today: Date) -> bool {
        let Some(active) = &self.active else { return true };
        let day_changed = matches!(self.place, Place::Daily(_)) && self.active_day != Some(today);
        active.bytes() > 0 && (active.bytes() >= self.limits.max_bytes || self.is_old(active)) || day_changed
    }

    fn is_old(&self, active: &Active) -> bool {
        self.clock.elapsed().saturating_sub(active.opened_at()) >= self.limits.max_age
    }

    /// Seals the active segment and begins the next one.
    fn roll(&mut self, today: Date) -> Result<(), WalError> {
        self.sync()?;
        let directory = self.place.directory(today);
        let number = self.next_number(&directory).map_err(WalError::Unavailable)?;
        self.wait_for_spare();
        let ready = self.ready.take();
        let now = self.clock.elapsed();
        let begun = Active::begin(&*self.disk, &directory, number, self.limits.max_bytes, ready, now);
        match begun {
            Ok(active) => {
                self.seal_active(true);
                self.active = Some(active);
                self.active_day = Some(today);
                self.newest = Some((directory, number));
                self.full_since = None;
                Ok(())
            }
            Err(error) if disk::is_full(&error) => {
                self.full_since = Some(Instant::now());
                Err(WalError::Full(error))
            }
            Err(error) => Err(WalError::Unavailable(error)),
        }
    }

    fn next_number(&self, directory: &Path) -> io::Result<u64> {
        if let Some((newest, number)) = &self.newest
            && newest == directory
        {
            return Ok(number + 1);
        }
        let names = self.disk.list(directory)?;
        Ok(names.iter().filter_map(|name| segment::number_of(name)).max().unwrap_or(0) + 1)
    }

    fn seal_active(&mut self, in_background: bool) {
        if let Some(active) = self.active.take() {
            if active.bytes() == 0 {
                // It holds nothing; the file goes, so that an idle day leaves none behind.
                if let Err(error) = self.disk.remove(active.path()) {
                    tracing::warn!(file = %active.path().display(), %error, "an empty WAL segment could not be removed");
                }
                return;
            }
            self.sealed.push_back(active.seal(self.clock.system_time(), in_background));
        }
    }

    /// Seals the active segment when it is old enough, although nothing is being written, and there is room for
    /// another one.
    ///
    /// # Errors
    /// When its last bytes cannot be synced.
    pub fn seal_if_old(&mut self) -> Result<(), WalError> {
        let old = self.active.as_ref().is_some_and(|active| active.bytes() > 0 && self.is_old(active));
        // To seal it gives back what is reserved. On a full disk deletions still need that.
        if old && self.can_go_on() { self.seal() } else { Ok(()) }
    }

    /// Whether there is another segment, or room for one.
    fn can_go_on(&mut self) -> bool {
        self.poll_spare();
        let given_back = self.active.as_ref().map_or(0, Active::unused_bytes);
        let free_bytes = || self.disk.free_bytes(self.place.base()).unwrap_or(u64::MAX);
        self.ready.is_some()
            || free_bytes().saturating_add(given_back) >= segment::reserved_bytes(self.limits.max_bytes)
    }

    /// Seals and trims the active segment now.
    ///
    /// # Errors
    /// When its last bytes cannot be synced.
    pub fn seal(&mut self) -> Result<(), WalError> {
        self.sync()?;
        self.seal_active(false);
        Ok(())
    }

    /// Seals, and removes a segment that was prepared and is not needed.
    ///
    /// # Errors
    /// When the last bytes cannot be synced.
    pub fn close(&mut self) -> Result<(), WalError> {
        let sealed = self.seal();
        self.wait_for_spare();
        if let Some(path) = self.ready.take().map(ReadySpare::into_path) {
            let _ = self.disk.remove(&path);
        }
        sealed
    }

    fn begin_spare(&mut self) {
        // Before its first segment it is not certain that a directory's own name is durable.
        let Some((directory, _)) = &self.newest else { return };
        // Without a spare the next segment is made when it is needed, only slower.
        let space = self.active.as_ref().map_or(Space::Reserved, Active::best_space);
        self.spare = Spare::begin(&self.disk, directory, self.limits.max_bytes, space).ok();
    }

    fn poll_spare(&mut self) {
        if self.spare.as_ref().is_some_and(Spare::is_finished) {
            self.wait_for_spare();
        }
    }

    fn wait_for_spare(&mut self) {
        let Some(spare) = self.spare.take() else { return };
        match spare.check() {
            Ok(ready) => {
                self.ready = Some(ready);
                self.full_since = None;
            }
            Err(error) if disk::is_full(&error) => self.full_since = Some(Instant::now()),
            Err(error) => {
                self.full_since = None;
                tracing::warn!(%error, "a WAL segment could not be prepared ahead");
            }
        }
    }

    /// The segments, oldest first, and how many bytes of each are lines.
    pub fn segments(&self) -> Vec<(PathBuf, u64)> {
        let sealed = self.sealed.iter().map(|segment| (segment.path.clone(), segment.bytes));
        let active = self.active.as_ref().filter(|active| active.bytes() > 0);
        sealed.chain(active.map(|active| (active.path().to_owned(), active.bytes()))).collect()
    }

    /// How many sealed segments [`remove_old`](Self::remove_old) would remove.
    pub fn count_removable(&mut self, unneeded_seq: u64, retain: Duration) -> usize {
        if self.latch.check_directory().is_err() {
            // It would be noted where the log is not.
            return 0;
        }
        let now = self.clock.system_time();
        horizon::removable(self.sealed.make_contiguous(), unneeded_seq, retain, now)
    }

    /// Deletes the segments that [`horizon`] lets go; answers how many.
    ///
    /// # Errors
    /// When a file cannot be removed; it stays in the list and is tried again the next time.
    pub fn remove_old(&mut self, unneeded_seq: u64, retain: Duration) -> io::Result<usize> {
        let count = self.count_removable(unneeded_seq, retain);
        if let Some(last) = count.checked_sub(1).and_then(|index| self.sealed.get(index)) {
            horizon::note_removed(&*self.disk, self.place.base(), last.last_seq)?;
        }
        for _ in 0..count {
            let Some(segment) = self.sealed.front() else { break };
            match self.disk.remove(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.sealed.pop_front(),
            };
        }
        Ok(count)
    }

    /// The segment in which this record is, where the log reaches back to it: the oldest one may begin
    /// behind it.
    pub fn segment_of(&self, seq: u64) -> Option<PathBuf> {
        let index = self.sealed.partition_point(|segment| segment.last_seq < seq);
        let active = || self.active.as_ref().filter(|active| active.bytes() > 0 && active.last_seq() >= seq);
        let sealed = self.sealed.get(index).map(|segment| segment.path.clone());
        sealed.or_else(|| active().map(|active| active.path().to_owned()))
    }

    /// What `stats` tells of the log.
    pub fn gauges(&self) -> WalGauges {
        let (bytes, active) = match &self.active {
            Some(active) if active.bytes() > 0 => (active.bytes(), 1),
            _ => (0, 0),
        };
        WalGauges {
            active_bytes: bytes,
            active_records: self.active.as_ref().map_or(0, Active::records),
            total_bytes: bytes + self.sealed.iter().map(|segment| segment.bytes).sum::<u64>(),
            files_count: self.sealed.len() + active,
            sequence: self.newest.as_ref().map_or(0, |(_, number)| *number),
        }
    }

    /// The last record of the newest segment that has one.
    pub fn last_seq(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, Active::last_seq);
        active.max(self.sealed.back().map_or(0, |segment| segment.last_seq))
    }
}

/// The size of a log at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalGauges {
    /// Bytes in the segment that is being written.
    pub active_bytes: u64,
    /// Records in the segment that is being written.
    pub active_records: u64,
    /// Bytes in all segments.
    pub total_bytes: u64,
    /// Segments that hold anything.
    pub files_count: usize,
    /// The number of the newest segment of this run, 0 before there is one.
    pub sequence: u64,
}

#[cfg(test)]
mod tests;
