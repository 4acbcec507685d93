//! From a client's SQL to its rows: a place among those that run, the dates it asks for, a flush of what they
//! have not in DuckDB, and then a thread of its own.
//!
//! Invariant: a query ends in time. Whatever it waits for, it waits no longer than its own timeout; while it
//! runs, it is watched from here, and interrupted until it is over.

mod places;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpersist_protocol::time::Date;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout_at;

use super::partition::{FlushError, Partition};
use super::schema::Model;
use super::{Kind, Storage, StorageError};
use crate::config::Limits;
use crate::duck::DuckError;
use crate::duck::gate::{Checked, Gate, Rejection};
use crate::duck::query::{
    Borrowed, Bounds, Cancelled, Form, Parameter, Part, Query, Rows, RunError, Running, View, spawn,
};
use crate::handover::Handovers;
use crate::stats::resident_bytes;
use places::{Place, Places};

/// How often a query that runs is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often one that was ended is interrupted.
const NUDGE_INTERVAL: Duration = Duration::from_millis(2);
/// How long a query that was ended may take to end; then it is answered all the same.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long a query that had to make room waits before it begins again; twice as long each time.
const PREEMPTED_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PREEMPTED_PAUSE: Duration = Duration::from_millis(400);
/// How much the process may grow while a query runs, beside what DuckDB counts and what is answered. DuckDB does
/// not count everything: texts that a function makes are not in its limit.
const UNCOUNTED_BYTES: u64 = 512 << 20;

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The SQL is not one that may run.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// As many parameters as the SQL has must be given.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `from` comes behind `to`.
    #[error("from {from} comes after to {to}")]
    Range {
        /// The first date.
        from: Date,
        /// The last date.
        to: Date,
    },
    /// More dates than may be read at once.
    #[error(
        "{asked} dates have data between from and to, and limits.max_query_dates is {max}; ask for fewer"
    )]
    TooManyDates {
        /// How many there are.
        asked: usize,
        /// The limit.
        max: usize,
    },
    /// Others use what there is.
    #[error("{what} were in use for the whole time that the query may take; try again")]
    Busy {
        /// What was waited for.
        what: &'static str,
    },
    /// A date cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is in memory could not be brought into DuckDB.
    #[error("{0}; a query with \"fresh\": false reads what is there")]
    Flush(#[from] FlushError),
    /// DuckDB failed.
    #[error(transparent)]
    Duck(#[from] DuckError),
    /// The storage's directory cannot be listed.
    #[error("the dates cannot be listed: {0}")]
    Dates(std::io::Error),
    /// The thread could not be had, or did not come to its end.
    #[error("the query's thread failed: {0}")]
    Thread(std::io::Error),
}

/// What all queries of the daemon share.
#[derive(Debug)]
pub struct Queries {
    gate: Gate,
    places: Places,
    dates: Arc<Semaphore>,
    handovers: Arc<Handovers>,
    limits: Limits,
}

impl Queries {
    /// For a daemon with these limits.
    ///
    /// # Errors
    /// [`DuckError::Start`] when the gate's DuckDB does not start.
    pub fn new(limits: &Limits) -> Result<Self, DuckError> {
        Ok(Self {
            gate: Gate::open(limits.max_query_sql_bytes)?,
            places: Places::new(limits.max_concurrent_queries, limits.max_concurrent_queries_per_uid),
            dates: Arc::new(Semaphore::new(limits.max_query_dates)),
            handovers: Handovers::new(limits.max_handed_over_bytes),
            limits: limits.clone(),
        })
    }

    /// What is under way.
    pub fn load(&self) -> QueryLoad {
        QueryLoad { running: self.places.taken(), handed_over_bytes: self.handovers.bytes() }
    }
}

/// How near queries are to their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryLoad {
    /// Queries that run.
    pub running: usize,
    /// Bytes of results that clients hold as memory, or will.
    pub handed_over_bytes: u64,
}

/// One query, as it was asked.
#[derive(Debug)]
pub struct Asked {
    /// The SQL, unchecked.
    pub sql: String,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Dated: the first date.
    pub from: Option<Date>,
    /// Dated: the last date.
    pub to: Option<Date>,
    /// Whether everything that was answered before must be seen.
    pub fresh: bool,
    /// At most so many rows.
    pub max_rows: Option<u64>,
    /// At most so long.
    pub timeout: Option<Duration>,
    /// Whether the result is handed over as memory, instead of rows.
    pub hand_over: bool,
}

/// Who asked.
pub struct Asker {
    /// Whose share of the places it takes.
    pub uid: u32,
    /// Whether the daemon stops.
    pub stopping: watch::Receiver<bool>,
    /// Whether nobody waits for the answer any more.
    pub is_gone: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Asker {
    /// Why nobody is served any more by an answer.
    fn wants_no_more(&self) -> Option<Cancelled> {
        if *self.stopping.borrow() {
            Some(Cancelled::Stopping)
        } else {
            (self.is_gone)().then_some(Cancelled::Unwanted)
        }
    }

    /// Waits for something before the query can begin, as long as there is somebody to wait for it: who is gone must not
    /// keep its connection and its turn.
    async fn while_waiting<T>(
        &self,
        work: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        let unwanted = async {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if let Some(why) = self.wants_no_more() {
                    return why;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            why = unwanted => Err(RunError::Cancelled(why).into()),
        }
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// What a query reads; held until its thread has ended.
#[derive(Debug)]
struct Source {
    date: Option<Date>,
    held: Held,
}

#[derive(Debug)]
pub(super) enum Held {
    Open(Arc<Partition>),
    Attached(Borrowed),
}

impl Source {
    /// The rows of one date.
    fn part(&self) -> Option<Part> {
        match (&self.held, self.date) {
            (Held::Attached(borrowed), Some(date)) => Some(Part::of_borrowed(date, borrowed)),
            (Held::Open(partition), date) => partition.duck_store().map(|store| Part::of_store(date, &store)),
            (Held::Attached(_), None) => None,
        }
    }

    fn partition(&self) -> Option<&Arc<Partition>> {
        match &self.held {
            Held::Open(partition) => Some(partition),
            Held::Attached(_) => None,
        }
    }
}

/// The time that a query has, and what may end it before.
struct Watch {
    deadline: Instant,
    client: Asker,
    max_resident_bytes: u64,
}

impl Storage {
    /// Runs a query.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn query(
        &self,
        queries: &Arc<Queries>,
        asked: Asked,
        client: Asker,
    ) -> Result<Rows, QueryError> {
        let limits = &queries.limits;
        let timeout = asked.timeout.map_or(limits.query_timeout, |asked| asked.min(limits.query_timeout));
        let deadline = Instant::now() + timeout;
        let place = client.while_waiting(queries.places.take(client.uid, deadline)).await?;
        let checked = self.check(queries, asked.sql.clone()).await?;
        let (form, most) = if asked.hand_over {
            (Form::Arrow(Arc::clone(&queries.handovers)), usize::MAX)
        } else {
            (Form::Rows, limits.max_query_rows)
        };
        let max_rows = asked.max_rows.map_or(most, |rows| usize::try_from(rows).unwrap_or(most).min(most));
        let bounds = Bounds { max_rows, max_bytes: limits.max_query_bytes };
        let growth = limits.duckdb_memory_bytes + limits.max_query_bytes as u64 + UNCOUNTED_BYTES;
        let watch = Watch { deadline, client, max_resident_bytes: resident_bytes() + growth };
        let (mut place, mut pause) = (Some(place), PREEMPTED_PAUSE);
        loop {
            let running = self.shared.engine.runnings().add(&self.config.name);
            let prepared = tokio::select! {
                biased;
                why = running.ended() => Err(RunError::Cancelled(why).into()),
                prepared = watch.client.while_waiting(self.prepare(queries, &asked, &running, deadline)) => prepared,
            };
            let (result, left) = match prepared {
                Ok((sources, permits)) => {
                    let (checked, parameters) = (checked.clone(), asked.parameters.clone());
                    let (views, form) = (self.views(&sources), form.clone());
                    let query = Query { checked, parameters, views, bounds, form };
                    let begun = self.begin(query, &running, (sources, permits, place.take()))?;
                    watch.until_end(&running, begun).await?
                }
                Err(QueryError::Run(error)) => (Err(error), place.take()),
                Err(error) => return Err(error),
            };
            match (result, left) {
                // Without its place its thread did not end.
                (Err(RunError::Cancelled(Cancelled::Preempted)), Some(left)) if Instant::now() < deadline => {
                    place = Some(left);
                    // Whoever needed what it held must come before it.
                    tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
                    pause = (pause * 2).min(LONGEST_PREEMPTED_PAUSE);
                }
                (result, _) => return Ok(result?),
            }
        }
    }

    /// Holds what is to be read and brings into DuckDB what is missing there.
    async fn prepare(
        &self,
        queries: &Queries,
        asked: &Asked,
        running: &Arc<Running>,
        deadline: Instant,
    ) -> Result<(Vec<Source>, Option<OwnedSemaphorePermit>), QueryError> {
        let (sources, permits) = self.sources(queries, (asked.from, asked.to), running, deadline).await?;
        if asked.fresh {
            freshen(&sources, deadline).await?;
        }
        Ok((sources, permits))
    }

    async fn check(&self, queries: &Arc<Queries>, sql: String) -> Result<Checked, QueryError> {
        let (queries, tables) = (Arc::clone(queries), View::names(self.config.model()));
        let (sender, checked) = oneshot::channel();
        spawn(move || drop(sender.send(queries.gate.check(&sql, tables)))).map_err(QueryError::Thread)?;
        Ok(checked.await.map_err(|_| panicked())??)
    }

    fn views(&self, sources: &[Source]) -> Vec<View> {
        let schema = &self.config.schema;
        match self.config.model() {
            Model::Dated => {
                vec![View::dated(schema, sources.iter().filter_map(Source::part).collect())]
            }
            Model::Collection => {
                let store = sources.first().and_then(Source::partition).and_then(|held| held.duck_store());
                View::collection(schema, store.as_deref())
            }
        }
    }

    /// What is to be read, held open, and the places for what is attached.
    async fn sources(
        &self,
        queries: &Queries,
        (from, to): (Option<Date>, Option<Date>),
        running: &Arc<Running>,
        deadline: Instant,
    ) -> Result<(Vec<Source>, Option<OwnedSemaphorePermit>), QueryError> {
        let store = match &self.kind {
            Kind::Collection(collection) => {
                let held = Held::Open(Arc::clone(collection.partition()));
                return Ok((vec![Source { date: None, held }], None));
            }
            Kind::Dated(store) => store,
        };
        let from = from.or(to).unwrap_or_else(|| self.today());
        let to = to.unwrap_or(from);
        if from > to {
            return Err(QueryError::Range { from, to });
        }
        let dates = if from == to {
            vec![from]
        } else {
            let all = store.dates().map_err(QueryError::Dates)?;
            all.into_iter().filter(|date| (from..=to).contains(date)).collect()
        };
        let max = queries.limits.max_query_dates;
        if dates.len() > max {
            return Err(QueryError::TooManyDates { asked: dates.len(), max });
        }
        let closed = dates.iter().filter(|date| !store.is_open(**date)).count();
        let permits = take(&queries.dates, closed, deadline, "limits.max_query_dates").await?;
        let mut sources = Vec::with_capacity(dates.len());
        for date in dates {
            let holding = timeout_at(deadline.into(), store.hold(date, running));
            let held = holding.await.map_err(|_| RunError::Cancelled(Cancelled::Timeout))??;
            sources.extend(held.map(|held| Source { date: Some(date), held }));
        }
        Ok((sources, Some(permits)))
    }

    /// Starts the query on its thread, which lets go of everything before it tells the result.
    fn begin(
        &self,
        query: Query,
        running: &Arc<Running>,
        (sources, permits, place): (Vec<Source>, Option<OwnedSemaphorePermit>, Option<Place>),
    ) -> Result<oneshot::Receiver<Ended>, QueryError> {
        let (engine, running) = (Arc::clone(&self.shared.engine), Arc::clone(running));
        let (sender, ended) = oneshot::channel();
        let work = move || {
            let result = query.run(&engine, &running);
            drop((sources, permits));
            let _ = sender.send((result, place));
        };
        spawn(work).map_err(QueryError::Thread)?;
        Ok(ended)
    }
}

/// A query's end, and its place among those that run.
type Ended = (Result<Rows, RunError>, Option<Place>);

impl Watch {
    /// Waits for the end of a query, and sees to it that it comes.
    async fn until_end(
        &self,
        running: &Running,
        mut ended: oneshot::Receiver<Ended>,
    ) -> Result<Ended, QueryError> {
        let mut cancelled_at = None;
        loop {
            let pause = if cancelled_at.is_some() { NUDGE_INTERVAL } else { self.next_look() };
            match tokio::time::timeout(pause, &mut ended).await {
                Ok(ended) => return ended.map_err(|_| panicked()),
                Err(_) => running.nudge(),
            }
            if let Some(why) = self.must_end() {
                running.cancel(why);
            }
            let Some(why) = running.cancelled() else { continue };
            let since = *cancelled_at.get_or_insert_with(Instant::now);
            if since.elapsed() > END_PATIENCE {
                // Its thread keeps the place until it ends.
                return Ok((Err(RunError::Cancelled(why)), None));
            }
        }
    }

    fn next_look(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.clamp(Duration::from_millis(1), LOOK_INTERVAL)
    }

    fn must_end(&self) -> Option<Cancelled> {
        self.client.wants_no_more().or_else(|| {
            if Instant::now() >= self.deadline {
                Some(Cancelled::Timeout)
            } else if resident_bytes() > self.max_resident_bytes {
                Some(Cancelled::Memory)
            } else {
                None
            }
        })
    }
}

/// Takes places, or waits for them as long as the query may take.
async fn take(
    places: &Arc<Semaphore>,
    count: usize,
    deadline: Instant,
    what: &'static str,
) -> Result<OwnedSemaphorePermit, QueryError> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let taking = timeout_at(deadline.into(), Arc::clone(places).acquire_many_owned(count));
    // Nobody closes a semaphore.
    taking.await.ok().and_then(Result::ok).ok_or(QueryError::Busy { what })
}

async fn freshen(sources: &[Source], deadline: Instant) -> Result<(), QueryError> {
    for partition in sources.iter().filter_map(Source::partition) {
        let flushed = timeout_at(deadline.into(), partition.freshen()).await;
        flushed.map_err(|_| RunError::Cancelled(Cancelled::Timeout))??;
    }
    Ok(())
}

fn panicked() -> QueryError {
    QueryError::Thread(std::io::Error::other("it panicked"))
}
