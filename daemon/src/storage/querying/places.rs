//! Places for queries: so many run at once, and one user's share of them.
//!
//! DuckDB looks for an interrupt between its chunks of rows and not within an expression, so a query can be
//! written that nothing ends. It keeps its place. That must not take the places of everybody else.
//!
//! Invariant: a place is held for as long as the thread of its query lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{QueryError, take};

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    max_own: usize,
    all: Arc<Semaphore>,
    /// Those who have a place or wait for one.
    by_uid: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

/// A query's place; dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(max: usize, max_own: usize) -> Self {
        let all = Arc::new(Semaphore::new(max));
        Self { max, max_own: max_own.min(max), all, by_uid: Mutex::default() }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.max - self.all.available_permits()
    }

    /// A place for a user's query.
    pub(super) async fn take(&self, uid: u32, deadline: Instant) -> Result<Place, QueryError> {
        // One's own first: who waits for that keeps nothing from others.
        let all = "all places for queries";
        let share = if self.max_own < self.max { "all places for one user's queries" } else { all };
        let own = take(&self.of(uid), 1, deadline, share).await?;
        let of_all = take(&self.all, 1, deadline, all).await?;
        Ok(Place { _own: own, _of_all: of_all })
    }

    fn of(&self, uid: u32) -> Arc<Semaphore> {
        let mut by_uid = self.by_uid.lock();
        // A permit and whoever waits for one hold the semaphore too.
        by_uid.retain(|other, own| *other == uid || Arc::strong_count(own) > 1);
        Arc::clone(by_uid.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.max_own))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_user_leaves_places_for_others() {
        let places = Places::new(3, 2);
        let soon = || Instant::now() + Duration::from_millis(20);
        let first = places.take(1, soon()).await.expect("a place");
        let _second = places.take(1, soon()).await.expect("a place");
        let busy = places.take(1, soon()).await.expect_err("all of one's own are taken");
        assert!(busy.to_string().contains("one user's"), "{busy}");
        let _others = places.take(2, soon()).await.expect("a place for another user");
        assert_eq!(places.taken(), 3);
        places.take(3, soon()).await.expect_err("all are taken");
        drop(first);
        let third = places.take(3, soon()).await.expect("a place");
        places.take(1, soon()).await.expect_err("no place is left");
        drop(third);
        places.take(1, soon()).await.expect("a place");
        assert_eq!(places.by_uid.lock().len(), 2, "who has none and waits for none is forgotten");
    }
}
