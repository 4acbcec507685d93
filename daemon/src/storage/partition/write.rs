//! Writing: admission, the queue, the commit group.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Partition;
#[cfg(test)]
use crate::planted::Bug;
use crate::storage::group::{self, Encoded, Start};
use crate::wal::WalError;
use crate::wal::commit::{Gone, Refusal, Reply, Submission, UnitResult, Waiting};

/// What a committer uses again and again.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    group: Vec<Waiting>,
    lines: Vec<u8>,
}

/// Lines of one group are kept allocated up to this size.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// The bound on unflushed records is reached and did not give way in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "{pending_bytes} bytes wait to be flushed and max_pending_bytes is {max_pending_bytes}; send the write again later"
)]
pub struct Busy {
    pending_bytes: usize,
    max_pending_bytes: usize,
}

impl Partition {
    pub(super) fn unflushed_bytes(&self) -> usize {
        self.memtable.read().pending_bytes() + self.flushing_bytes.load(Ordering::Relaxed)
    }

    /// Waits until there is room for more unflushed records.
    ///
    /// # Errors
    /// [`Busy`] when there is none after `limits.busy_wait_ms`.
    pub async fn admit(&self) -> Result<(), Busy> {
        let max_pending_bytes = self.config.max_pending_bytes;
        if self.has_room() {
            return Ok(());
        }
        let wait = async {
            loop {
                let room = self.room.notified();
                if self.has_room() {
                    return;
                }
                self.want_flush();
                room.await;
            }
        };
        tokio::time::timeout(self.shared.limits.busy_wait, wait)
            .await
            .map_err(|_| Busy { pending_bytes: self.unflushed_bytes(), max_pending_bytes })
    }

    /// Whether there is room for more unflushed records right now.
    pub fn has_room(&self) -> bool {
        self.unflushed_bytes() < self.config.max_pending_bytes
    }

    /// Commits what one connection has, together with what others have; answers each request in order.
    ///
    /// # Errors
    /// [`Gone`] when the committer panicked.
    pub async fn submit(self: &Arc<Self>, submission: Submission) -> Result<Vec<UnitResult>, Gone> {
        let (sender, answer) = oneshot::channel();
        let reply = Reply::new(move |results| {
            // A connection that is gone needs no answer.
            let _ = sender.send(results);
        });
        self.submit_with(submission, reply).await;
        answer.await.unwrap_or(Err(Gone))
    }

    /// Commits what one connection has, and gives the results to `reply`, now or when another leader has
    /// them.
    ///
    /// Must not be cancelled: whoever leads has to come to the end.
    pub async fn submit_with(self: &Arc<Self>, submission: Submission, reply: Reply) {
        if self.queue.push(Waiting { submission, reply }) {
            self.lead_once().await;
        }
    }

    /// Commits one group, and leaves the next ones to a task of their own.
    async fn lead_once(self: &Arc<Self>) {
        self.gather().await;
        self.commit_without_starving().await;
        if self.queue.must_go_on() {
            tokio::spawn(Arc::clone(self).lead_on());
        }
    }

    /// Lets whoever is ready get into this group, and waits a moment for those who were just answered:
    /// they are likely to come again.
    async fn gather(&self) {
        if self.queue.is_lone() {
            return;
        }
        let begun = Instant::now();
        let patience = self.queue.patience();
        loop {
            tokio::task::yield_now().await;
            let gathered = self.queue.is_gathered();
            if gathered || begun.elapsed() >= patience {
                self.queue.note_gathering(gathered);
                return;
            }
        }
    }

    async fn lead_on(self: Arc<Self>) {
        loop {
            self.gather().await;
            self.commit_without_starving().await;
            if !self.queue.must_go_on() {
                break;
            }
        }
    }

    async fn commit_without_starving(self: &Arc<Self>) {
        // From here on, so that a group which waits in vain for a thread counts too.
        let _committing = self.committing.begin();
        if let Some(_slot) = self.shared.inline_slots.take() {
            self.commit_guarded();
            return;
        }
        let partition = Arc::clone(self);
        let blocking = tokio::task::spawn_blocking(move || partition.commit_guarded());
        if blocking.await.is_err() {
            self.latch.close("the committer could not be run");
        }
    }

    /// A panic in the committer must not leave the others waiting, nor the log in use.
    fn commit_guarded(&self) {
        let commit = std::panic::AssertUnwindSafe(|| self.commit());
        if std::panic::catch_unwind(commit).is_err() {
            self.latch.close("the committer panicked");
            self.buffers.lock().group.clear();
        }
    }

    /// Commits everything that waits.
    fn commit(&self) {
        let mut buffers = self.buffers.lock();
        let Buffers { group, lines } = &mut *buffers;
        self.queue.take(group);
        if group.is_empty() {
            return;
        }
        let results = match self.latch.reason() {
            Some(reason) => refuse_all(group, &Refusal::ReadOnly(reason.to_owned())),
            None => self.commit_group(group, lines),
        };
        #[cfg(test)]
        if self.has_planted(Bug::AnswerBeforePublish) {
            for (waiting, results) in group.iter_mut().zip(&results) {
                std::mem::replace(&mut waiting.reply, Reply::new(drop)).send(results.clone());
            }
            self.publish(group, &results);
            return group.clear();
        }
        for (waiting, results) in group.drain(..).zip(results) {
            waiting.reply.send(results);
        }
        lines.clear();
        lines.shrink_to(KEPT_BUFFER_BYTES);
    }

    fn commit_group(&self, group: &mut [Waiting], lines: &mut Vec<u8>) -> Vec<Vec<UnitResult>> {
        let mut wal = self.wal.lock();
        let durable_seq = self.watermarks.durable();
        let mut start = Start { next_seq: self.watermarks.appended() + 1, stores: wal.has_room() };
        let results = loop {
            let results = group::plan(group, &self.memtable.read(), start);
            let encoded = group::encode(group, &results, durable_seq, lines);
            if encoded.records == 0 {
                return self.answer_without_writing(&mut wal, group, results);
            }
            #[cfg(test)]
            if self.has_planted(Bug::PublishBeforeSync) {
                self.publish(group, &results);
            }
            match self.append(&mut wal, lines, encoded) {
                Ok(()) => break results,
                Err(error) => {
                    tracing::error!(storage = %self.config.name, %error, "a commit group failed");
                    if start.stores && matches!(error, WalError::Full(_)) {
                        // There may still be room for the deletions.
                        start.stores = false;
                        group::take_back(group);
                        lines.clear();
                        continue;
                    }
                    return refuse_done(results, &refusal(&error), start.next_seq);
                }
            }
        };
        drop(wal);
        #[cfg(test)]
        if self.has_planted(Bug::AnswerBeforePublish) {
            return results;
        }
        self.publish(group, &results);
        if self.watermarks.appended() - self.watermarks.flushed() >= self.config.batch_size {
            self.want_flush();
        }
        results
    }

    /// A group that writes nothing: what it says (that a record is not there) may rest on writes that are
    /// not synced yet, and must be as durable as it was asked for.
    fn answer_without_writing(
        &self,
        wal: &mut crate::wal::Wal,
        group: &[Waiting],
        results: Vec<Vec<UnitResult>>,
    ) -> Vec<Vec<UnitResult>> {
        let sync = group.iter().any(|waiting| waiting.submission.sync);
        if !sync || self.watermarks.durable() == self.watermarks.appended() {
            return results;
        }
        match wal.sync() {
            Ok(()) => {
                self.note_durable();
                results
            }
            Err(error) => {
                tracing::error!(storage = %self.config.name, %error, "a sync of the log failed");
                refuse_done(results, &refusal(&error), 0)
            }
        }
    }

    /// Writes the lines, syncs them where somebody waits for that, and moves the watermarks.
    fn append(&self, wal: &mut crate::wal::Wal, lines: &[u8], encoded: Encoded) -> Result<(), WalError> {
        wal.append(lines, encoded.last_seq, encoded.records, self.today())?;
        self.watermarks.advance_appended(encoded.last_seq);
        #[cfg(test)]
        if self.has_planted(Bug::AnswerBeforeSync) {
            self.watermarks.advance_durable();
            return Ok(());
        }
        if encoded.sync {
            let begun = Instant::now();
            wal.sync()?;
            self.watermarks.advance_durable();
            self.queue.note_sync(begun.elapsed());
            self.stats.note_fsync(begun.elapsed());
        } else {
            self.unsynced.notify_one();
        }
        self.stats.note_commit(encoded.records);
        Ok(())
    }

    #[cfg(test)]
    fn has_planted(&self, bug: Bug) -> bool {
        self.shared.disk.planted() == Some(bug)
    }

    /// Lets readers see what is done. A record has a place if and only if its request is done.
    fn publish(&self, group: &mut [Waiting], results: &[Vec<UnitResult>]) {
        let mut told = Vec::new();
        let mut memtable = self.memtable.write();
        // Whoever begins to follow holds the table too, so nobody can come between this and the last record.
        let watched = self.feed.is_watched();
        for (waiting, results) in group.iter_mut().zip(results) {
            for (name, mark) in group::marks(&waiting.submission, results) {
                memtable.producers_mut().note(name, mark);
            }
            for write in waiting.submission.writes.drain(..) {
                if write.record.seq() > 0 {
                    if watched {
                        told.push(write.record.clone());
                    }
                    memtable.publish(write.record);
                }
            }
        }
        drop(memtable);
        if watched {
            self.feed.publish(told, self.watermarks.durable());
        }
    }

    /// Everything that is written is on stable storage. The caller holds the log.
    pub(super) fn note_durable(&self) {
        self.watermarks.advance_durable();
        if self.feed.is_watched() {
            self.feed.note_durable(self.watermarks.durable());
        }
    }

    /// Asks for a flush soon.
    pub(super) fn want_flush(&self) {
        if !self.flush_wanted.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Syncs what buffered writes have left in the file.
    pub(super) fn sync_wal(&self) -> Result<(), WalError> {
        let mut wal = self.wal.lock();
        if self.watermarks.durable() == self.watermarks.appended() {
            return Ok(());
        }
        let begun = Instant::now();
        wal.sync()?;
        self.note_durable();
        self.stats.note_fsync(begun.elapsed());
        Ok(())
    }
}

fn refusal(error: &WalError) -> Refusal {
    match error {
        WalError::Full(_) => Refusal::DiskFull,
        WalError::Unavailable(error) => Refusal::Unavailable(error.to_string()),
        WalError::Failed(error) => Refusal::OutcomeUnknown(error.to_string()),
    }
}

fn refuse_all(group: &[Waiting], refusal: &Refusal) -> Vec<Vec<UnitResult>> {
    let refuse = |waiting: &Waiting| {
        waiting.submission.units.iter().map(|_| UnitResult::Refused(refusal.clone())).collect()
    };
    group.iter().map(refuse).collect()
}

/// The group was not written: what seemed to be done is refused, and whatever may rest on that; what was refused anyway
/// stays, and so does what rests on a record before `first_seq`, the group's first place.
fn refuse_done(mut results: Vec<Vec<UnitResult>>, refusal: &Refusal, first_seq: u64) -> Vec<Vec<UnitResult>> {
    // Behind a failed log nothing is certain that was not durable.
    let is_certain =
        |seq: u64| (1..first_seq).contains(&seq) && !matches!(refusal, Refusal::OutcomeUnknown(_));
    for result in results.iter_mut().flatten() {
        let stays = match result {
            UnitResult::Done(_) => false,
            UnitResult::Duplicate { seq } => seq.is_some_and(is_certain),
            UnitResult::Refused(Refusal::Conflict { current_seq, .. }) => is_certain(*current_seq),
            _ => true,
        };
        if !stays {
            *result = UnitResult::Refused(refusal.clone());
        }
    }
    results
}

#[cfg(test)]
mod tests;
