//! Lets recovery loose on a harmed log and compares what comes with what must come.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastpersist_protocol::time::Date;

use super::harm::{File, Harm};
use super::log::{self, DAYS, Line, Log};
use super::verdict::{Expected, Torn};
use crate::disk::Disk;
use crate::planted::Bug;
use crate::storage::faults::chance::Chance;
use crate::wal::entry::Entry;
use crate::wal::failing::FailingDisk;
use crate::wal::follow::{FollowError, Lines, Tail};
use crate::wal::horizon;
use crate::wal::recover::{self, RecoverError, Recovered, Told};

/// A harmed log on the disk, and what is found out about it.
pub(super) struct Case<'l> {
    pub(super) log: &'l Log,
    pub(super) harm: &'l Harm,
    pub(super) expected: &'l Expected,
    pub(super) root: &'l Path,
    pub(super) bug: Option<Bug>,
    pub(super) files: Vec<File>,
}

/// Every file below the root with its bytes.
type Snapshot = BTreeMap<PathBuf, Vec<u8>>;

/// What a start made of it.
type Start = (Vec<Entry>, Result<Recovered, RecoverError>);

/// What an interrupted start leaves.
const LEFTOVERS: [(&str, &[u8]); 2] = [("wal_next.jsonl.tmp", b"\0\0\0"), ("wal_000099.jsonl", b"\0\0\0\0")];

type Checked = Result<(), String>;

impl Case<'_> {
    /// Everything that must hold. Says what does not.
    pub(super) fn check(&self, chance: &mut Chance) -> Checked {
        self.lay_out(chance);
        let checked = catch_unwind(AssertUnwindSafe(|| {
            self.check_followed()?;
            self.check_settled()?;
            self.check_started(chance)
        }));
        checked.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("WRONG: it panics: {}", said.or(panic.downcast_ref().copied()).unwrap_or_default()))
        })
    }

    fn path(&self, day: usize, name: &str) -> PathBuf {
        self.root.join(DAYS[day]).join(name)
    }

    fn path_of(&self, file: usize) -> PathBuf {
        self.path(self.files[file].day, &self.files[file].name)
    }

    pub(super) fn directories(&self) -> Vec<PathBuf> {
        let days = if self.log.is_daily() { &DAYS[..] } else { &DAYS[..1] };
        let mut directories: Vec<_> = days.iter().map(|day| self.root.join(day)).collect();
        directories.sort();
        directories
    }

    pub(super) fn lay_out(&self, chance: &mut Chance) {
        for directory in self.directories() {
            fs::create_dir_all(directory).expect("made");
        }
        for (file, at) in self.files.iter().zip(0..) {
            fs::write(self.path_of(at), &file.bytes).expect("written");
        }
        for (name, bytes) in LEFTOVERS {
            if chance.percent(20) {
                fs::write(self.path(0, name), bytes).expect("written");
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for directory in self.directories() {
            for entry in fs::read_dir(directory).expect("listed") {
                let path = entry.expect("an entry").path();
                let bytes = fs::read(&path).expect("read");
                snapshot.insert(path, bytes);
            }
        }
        snapshot
    }

    /// Every file without the NUL behind its lines, which may be trimmed at any start.
    fn contents(&self) -> Snapshot {
        let mut contents = self.snapshot();
        for bytes in contents.values_mut() {
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        }
        contents
    }

    fn recover(&self, flushed_seq: u64, settled_seq: Option<u64>) -> Start {
        let disk: Arc<dyn Disk> = Arc::new(FailingDisk { bug: self.bug, ..FailingDisk::default() });
        let mut entries = Vec::new();
        let (directories, model) = (self.directories(), self.log.model);
        let told = Told { flushed_seq, settled_seq, removed_seq: self.log.removed_seq };
        let recovered = recover::recover(&disk, &directories, model, told, |entry| {
            entries.push(entry);
        });
        (entries, recovered)
    }

    /// A partition that was closed with everything in the database reads nothing and changes nothing.
    fn check_settled(&self) -> Checked {
        let Some(last) = self.log.lines.last() else { return Ok(()) };
        let before = self.snapshot();
        let (entries, recovered) = self.recover(last.last_seq, Some(last.last_seq));
        let recovered = recovered.map_err(|error| format!("WRONG: settled, and refused: {error}"))?;
        ensure(entries.is_empty() && recovered.last_seq == last.last_seq, "settled, and something comes")?;
        ensure(self.snapshot() == before, "settled, and files are changed")
    }

    fn check_started(&self, chance: &mut Chance) -> Checked {
        let before = self.snapshot();
        let (entries, recovered) = self.recover(self.log.flushed_seq, None);
        let needed = |through: usize| {
            let lines = self.log.lines[..through].iter().zip(0..);
            lines.filter(|(_, at)| !self.log.is_flushed(*at)).map(|(line, _)| line).collect::<Vec<_>>()
        };
        if self.harm.is_tear()
            && !matches!(self.expected, Expected::Starts { through, .. } if *through >= self.log.synced)
        {
            return Err(format!("WRONG: a tear, and the instrument expects {:?}", self.expected));
        }
        match (recovered, self.expected) {
            (Err(RecoverError::Damaged { file, offset, .. }), Expected::Refused { places }) => {
                compare(&entries, &needed(self.log.lines.len()), false)?;
                let is_there = |place: &(usize, usize)| {
                    self.files.get(place.0).is_some()
                        && self.path_of(place.0) == Path::new(&file)
                        && place.1 == offset
                };
                ensure(
                    places.iter().any(is_there),
                    &format!("damage at {file} {offset}, not at {places:?}"),
                )?;
                ensure(self.snapshot() == before, "it is refused, and files are changed")
            }
            (Err(RecoverError::Damaged { .. }), Expected::Either { .. }) => {
                ensure(self.snapshot() == before, "it is refused, and files are changed")
            }
            (Ok(recovered), Expected::Starts { through, torn }) => {
                let needed = needed(*through);
                compare(&entries, &needed, true)?;
                self.check_recovered(&recovered, *through, torn.as_ref(), &needed)?;
                self.check_files(*through, torn.as_ref(), &before)?;
                self.check_again(recovered, &needed, chance)
            }
            (Ok(recovered), Expected::Either { through }) => {
                let needed = needed(*through);
                compare(&entries, &needed, true)?;
                self.check_removable(&recovered, &needed)?;
                self.check_again(recovered, &needed, chance)
            }
            (Ok(recovered), Expected::Refused { .. }) => {
                compare(&entries, &needed(self.log.lines.len()), true)?;
                Err(format!("WRONG: it starts ({recovered:?}), and must be {:?}", self.expected))
            }
            (Err(error), _) => Err(format!("WRONG: {error}, and must be {:?}", self.expected)),
        }
    }

    fn check_recovered(
        &self,
        recovered: &Recovered,
        through: usize,
        torn: Option<&Torn>,
        needed: &[&Line],
    ) -> Checked {
        let last = self.log.lines[..through].last().map_or(0, |line| line.last_seq).max(self.log.flushed_seq);
        ensure(recovered.last_seq == last, &format!("last_seq {}, not {last}", recovered.last_seq))?;
        ensure(recovered.torn_count == usize::from(torn.is_some()), "torn ends are counted wrongly")?;
        let order = recovered.sealed.iter().map(|sealed| sealed.last_seq);
        ensure(order.is_sorted(), "segments are out of order")?;
        for sealed in &recovered.sealed {
            let length = fs::metadata(&sealed.path).map_err(|error| format!("WRONG: {error}"))?.len();
            ensure(
                sealed.bytes == length || sealed.last_seq <= self.log.flushed_seq || length > sealed.bytes,
                "bytes",
            )?;
        }
        self.check_removable(recovered, needed)
    }

    /// What the retention lets go holds nothing that is needed and stands nowhere else.
    fn check_removable(&self, recovered: &Recovered, needed: &[&Line]) -> Checked {
        let later = SystemTime::now() + Duration::from_secs(60);
        let count = horizon::removable(&recovered.sealed, self.log.flushed_seq, Duration::ZERO, later);
        let gone: Vec<_> = recovered.sealed[..count].iter().map(|sealed| &sealed.path).collect();
        let mut stays = self.snapshot();
        stays.retain(|path, _| !gone.contains(&path));
        let is_in =
            |line: &Line| stays.values().any(|bytes| memchr::memmem::find(bytes, &line.bytes).is_some());
        let lost = needed.iter().find(|line| !is_in(line));
        lost.map_or(Ok(()), |line| Err(format!("LOST: record {} would go with {gone:?}", line.first_seq)))
    }

    /// Of the files there are those that hold lines, each as it was or cut behind its last line, and what was cut off.
    fn check_files(&self, through: usize, torn: Option<&Torn>, before: &Snapshot) -> Checked {
        let after = self.snapshot();
        let kept = torn.map(|torn| {
            let File { day, name, bytes } = &self.files[torn.segment];
            (self.path(*day, &format!("torn-{}-{name}", torn.offset)), &bytes[torn.offset..torn.end])
        });
        for (path, bytes) in &after {
            match &kept {
                Some((kept, cut)) if kept == path => {
                    ensure(bytes == cut, "what was cut off is not kept as it was")?;
                }
                _ => {
                    let was = before.get(path).ok_or_else(|| format!("WRONG: {} is new", path.display()))?;
                    ensure(was.starts_with(bytes), &format!("{} is another", path.display()))?;
                    ensure(bytes.iter().any(|byte| *byte != 0), &format!("{} is empty", path.display()))?;
                }
            }
        }
        if let Some((path, _)) = &kept {
            ensure(after.contains_key(path), &format!("{} is not there", path.display()))?;
        }
        for line in &self.log.lines[..through] {
            let is_there = |bytes: &Vec<u8>| memchr::memmem::find(bytes, &line.bytes).is_some();
            let was_there = before.values().any(is_there);
            ensure(!was_there || after.values().any(is_there), "LOST: a line is in no file any more")?;
        }
        Ok(())
    }

    /// The next start finds the same, nothing torn, and changes nothing; and so it does behind further writes.
    fn check_again(&self, recovered: Recovered, needed: &[&Line], chance: &mut Chance) -> Checked {
        let flushed_seq = self.log.flushed_seq;
        let before = self.contents();
        let (entries, again) = self.recover(flushed_seq, None);
        let again = again.map_err(|error| format!("WRONG: the second start is refused: {error}"))?;
        compare(&entries, needed, true).map_err(|problem| format!("{problem}, at the second start"))?;
        ensure(again.torn_count == 0, "the second start finds something torn")?;
        ensure(again.last_seq == recovered.last_seq, "the second start ends elsewhere")?;
        ensure(self.contents() == before, "the second start changes files")?;
        let is_torn = recovered.torn_count > 0;
        if is_torn || chance.percent(20) { self.check_goes_on(recovered, needed, chance) } else { Ok(()) }
    }

    fn check_goes_on(&self, recovered: Recovered, needed: &[&Line], chance: &mut Chance) -> Checked {
        let seq = recovered.last_seq + 1;
        let durable = self.log.synced.checked_sub(1).map_or(0, |last| self.log.lines[last].last_seq);
        ensure(!self.harm.is_tear() || seq > durable, "LOST: a place that was answered is given again")?;
        let further = log::line(chance, self.log.model, seq, recovered.last_seq);
        let day = if self.log.is_daily() { chance.below(3) as usize } else { 0 };
        let today = Date::parse(DAYS[day]).expect("a date");
        let mut wal = log::wal(self.log.model, self.root, 1, recovered.sealed);
        let records = further.records.len() as u64;
        wal.append(&further.bytes, further.last_seq, records, today)
            .map_err(|error| format!("WRONG: {error}"))?;
        wal.close().map_err(|error| format!("WRONG: {error}"))?;
        drop(wal);
        let needed: Vec<_> = needed.iter().copied().chain([&further]).collect();
        let (entries, behind) = self.recover(self.log.flushed_seq, None);
        let behind = behind.map_err(|error| format!("WRONG: refused behind further writes: {error}"))?;
        compare(&entries, &needed, true).map_err(|problem| format!("{problem}, behind further writes"))?;
        ensure(behind.last_seq == further.last_seq, "further writes end elsewhere")?;
        // Among other days, what nobody can read and nobody needs may be taken for the end.
        let is_unneeded = matches!(self.expected, Expected::Either { .. });
        ensure(behind.torn_count == 0 || is_unneeded, "further writes are torn")
    }

    /// Whoever follows the changes gets right records, one behind the other, and all of a segment that was not hurt.
    fn check_followed(&self) -> Checked {
        for file in 0..self.files.len() {
            let Ok(mut tail) = Tail::open(&self.path_of(file)) else { continue };
            let _planted = crate::planted::on_this_thread(self.bug);
            let last = self.log.lines.last().map_or(0, |line| line.last_seq);
            let mut from = self.log.lines[0].first_seq;
            let mut is_first = true;
            loop {
                match tail.read(self.log.model, from, last) {
                    Ok(Lines::Records(records)) => {
                        for record in &records {
                            ensure(is_first || record.seq() == from, "a follower misses a record")?;
                            self.check_record(record)?;
                            (from, is_first) = (record.seq() + 1, false);
                        }
                    }
                    Ok(Lines::Gap(behind)) => {
                        ensure(behind > from, "a follower goes back")?;
                        from = behind;
                    }
                    Ok(Lines::End) | Err(FollowError::Damaged { .. }) => break,
                    Err(error @ FollowError::Io { .. }) => return Err(format!("WRONG: {error}")),
                }
            }
            if matches!(self.harm, Harm::Bytes { segment, .. } if *segment != file) {
                let end = self.log.lines[self.log.segments[file].lines.end - 1].last_seq;
                ensure(from == end + 1, &format!("LOST: a follower of a sound segment ends at {from}"))?;
            }
        }
        Ok(())
    }

    fn check_record(&self, record: &crate::storage::record::Record) -> Checked {
        let mut written = self.log.lines.iter().flat_map(|line| &line.records);
        let is_right = written.any(|written| written.columns() == record.columns());
        ensure(is_right, &format!("a follower gets what was never written: {record:?}"))
    }
}

/// Each entry is the line that was written, in order, from the first one that is needed on; where `all`, none is missing.
fn compare(entries: &[Entry], needed: &[&Line], all: bool) -> Checked {
    for (at, entry) in entries.iter().enumerate() {
        let Some(line) = needed.get(at) else {
            return Err(format!("WRONG: record {} comes, and is none of those to come", entry.seq));
        };
        let records = entry.records.iter().map(crate::storage::record::Record::columns);
        let is_right = records.eq(line.records.iter().map(crate::storage::record::Record::columns));
        let stands = (entry.seq, entry.last_seq(), entry.durable_seq);
        let must_stand = (line.first_seq, line.last_seq, line.durable_seq);
        if !is_right || stands != must_stand || entry.gap != line.gap || entry.producer != line.producer {
            return Err(format!("WRONG: {entry:?} comes where {line:?} was written"));
        }
        let mark = entry.mark().map(|(name, mark)| (name, mark.producer_seq, mark.seq));
        let producer = line.producer.as_ref().filter(|_| !line.records.is_empty());
        let must_be = producer.map(|producer| (Arc::clone(&producer.name), producer.seq, line.last_seq));
        ensure(mark == must_be, "a producer's mark is another")?;
    }
    let missing = needed.get(entries.len()).filter(|_| all);
    missing.map_or(Ok(()), |line| Err(format!("LOST: record {} does not come", line.first_seq)))
}

fn ensure(holds: bool, what: &str) -> Checked {
    let kind = if what.starts_with("LOST") { "" } else { "WRONG: " };
    if holds { Ok(()) } else { Err(format!("{kind}{what}")) }
}
