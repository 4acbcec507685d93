//! Locks on a clock that the test moves.

use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use fastpersist_protocol::time::Timestamp;

use super::*;
use crate::clock::simulated::SimulatedClock;
use crate::disk::RealDisk;

struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<SimulatedClock>,
    table: LockTable,
    stop: watch::Sender<bool>,
    stopping: watch::Receiver<bool>,
}

const SECOND: Duration = Duration::from_secs(1);

impl Bench {
    fn new(max_locks: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(SimulatedClock::new(Timestamp::now()));
        let table = open(&[dir.path().to_owned()], &clock, max_locks).expect("no file is no error");
        let (stop, stopping) = watch::channel(false);
        Self { dir, clock, table, stop, stopping }
    }

    fn owner(&self, pid: i32) -> Arc<Owner> {
        self.table.owner(Process { uid: 7, pid: Some(pid) })
    }

    fn lock<'b>(
        &'b self,
        owner: &'b Owner,
        name: &'b str,
        wait: Duration,
        ttl: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<u64, LockError>> + 'b>> {
        Box::pin(self.table.lock(owner, name, Terms { wait, ttl }, self.stopping.clone()))
    }

    async fn take(&self, owner: &Owner, name: &str) -> Result<u64, LockError> {
        self.lock(owner, name, Duration::ZERO, None).await
    }
}

fn open(dirs: &[PathBuf], clock: &Arc<SimulatedClock>, max_locks: usize) -> Result<LockTable, TokenError> {
    let disk = RealDisk::shared();
    LockTable::open(&disk, dirs.iter().map(PathBuf::as_path), Arc::clone(clock) as _, max_locks)
}

/// One look at a future.
fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn those_who_wait_get_it_in_the_order_in_which_they_came() {
    let bench = Bench::new(10);
    let owners: Vec<_> = (0..4).map(|pid| bench.owner(pid)).collect();
    let first = bench.take(&owners[0], "a").await.expect("free");
    let mut waiting: Vec<_> = owners[1..].iter().map(|o| bench.lock(o, "a", 60 * SECOND, None)).collect();
    assert!(waiting.iter_mut().all(|wait| poll(wait).is_none()));
    assert_eq!(bench.table.counts(), (1, 3));
    // The one in the middle gives up.
    drop(waiting.remove(1));
    assert_eq!(bench.table.counts(), (1, 2));
    bench.table.unlock(&owners[0], "a", first).expect("held");
    assert!(poll(&mut waiting[1]).is_none(), "it is not its turn");
    let late = bench.take(&owners[0], "a").await.expect_err("nobody overtakes those who wait");
    assert!(matches!(late, LockError::Held { holder: Process { pid: Some(1), .. }, .. }), "{late}");
    let second = poll(&mut waiting[0]).expect("its turn").expect("the lock");
    assert!(poll(&mut waiting[1]).is_none());
    bench.table.leave(&owners[1]);
    let third = poll(&mut waiting[1]).expect("its turn").expect("the lock");
    assert!(first < second && second < third, "{first} {second} {third}");
    bench.table.leave(&owners[3]);
    drop(waiting);
    assert_eq!(bench.table.counts(), (0, 0));
    assert!(bench.table.locks.lock().is_empty(), "nothing is left of a lock that nobody has");
}

#[tokio::test]
async fn a_lock_whose_time_is_over_is_free_and_its_token_worth_nothing() {
    let bench = Bench::new(10);
    let (a, b) = (bench.owner(1), bench.owner(2));
    let first = bench.lock(&a, "n", Duration::ZERO, Some(5 * SECOND)).await.expect("free");
    let mut waiting = bench.lock(&b, "n", 60 * SECOND, None);
    assert!(poll(&mut waiting).is_none());
    bench.clock.advance(4 * SECOND);
    assert!(poll(&mut waiting).is_none());
    bench.clock.advance(SECOND);
    let second = poll(&mut waiting).expect("the time is over").expect("the lock");
    assert!(second > first);
    assert!(bench.table.unlock(&a, "n", first).is_err());
    assert!(bench.table.unlock(&a, "n", second).is_err(), "it is another one's");
    assert!(bench.table.unlock(&b, "n", first).is_err(), "it is an old token");
    bench.table.unlock(&b, "n", second).expect("held");
    drop(waiting);
    bench.lock(&a, "n", Duration::ZERO, Some(SECOND)).await.expect("free");
    bench.clock.advance(SECOND);
    bench.take(&a, "n").await.expect("its own is over, so it is free for it too");
}

#[tokio::test]
async fn the_wait_ends_with_who_holds_it() {
    let bench = Bench::new(10);
    let (a, b) = (bench.owner(1), bench.owner(2));
    let token = bench.take(&a, "n").await.expect("free");
    let mut waiting = bench.lock(&b, "n", 2 * SECOND, None);
    assert!(poll(&mut waiting).is_none());
    bench.clock.advance(2 * SECOND);
    let error = poll(&mut waiting).expect("the wait is over").expect_err("it is held");
    assert_eq!(error.to_string(), "the lock \"n\" is held by process 1 of uid 7");
    drop(waiting);
    let again = bench.take(&a, "n").await.expect_err("it has it already");
    assert!(matches!(again, LockError::Yours { token: yours, .. } if yours == token), "{again}");
}

#[tokio::test]
async fn who_is_gone_gets_nothing() {
    let bench = Bench::new(10);
    let (a, b) = (bench.owner(1), bench.owner(2));
    bench.take(&a, "n").await.expect("free");
    let mut waiting = bench.lock(&b, "n", 60 * SECOND, None);
    assert!(poll(&mut waiting).is_none());
    bench.table.leave(&b);
    bench.table.leave(&a);
    assert!(matches!(poll(&mut waiting), Some(Err(LockError::Gone))));
    drop(waiting);
    assert!(matches!(bench.take(&b, "n").await, Err(LockError::Gone)));
    assert_eq!(bench.table.counts(), (0, 0));
}

#[tokio::test]
async fn a_daemon_that_stops_hands_no_lock_on() {
    let bench = Bench::new(10);
    let (a, b) = (bench.owner(1), bench.owner(2));
    bench.take(&a, "n").await.expect("free");
    let mut waiting = bench.lock(&b, "n", 60 * SECOND, None);
    assert!(poll(&mut waiting).is_none());
    bench.stop.send(true).expect("somebody listens");
    bench.table.leave(&a);
    assert!(matches!(poll(&mut waiting), Some(Err(LockError::Stopping))));
}

#[tokio::test]
async fn the_limit_counts_what_is_held_and_not_what_is_over() {
    let bench = Bench::new(2);
    let a = bench.owner(1);
    bench.lock(&a, "x", Duration::ZERO, Some(SECOND)).await.expect("free");
    bench.take(&a, "y").await.expect("free");
    assert!(matches!(bench.take(&a, "z").await, Err(LockError::TooMany { max: 2 })));
    bench.clock.advance(SECOND);
    bench.take(&a, "z").await.expect("one is over");
    assert!(matches!(bench.take(&a, "x").await, Err(LockError::TooMany { .. })));
}

#[tokio::test]
async fn tokens_grow_across_restarts_and_over_what_is_reserved() {
    let bench = Bench::new(10);
    let mut last = 0;
    let other = bench.dir.path().join("other");
    std::fs::create_dir(&other).expect("a directory");
    let dirs = [bench.dir.path().to_owned(), other.clone()];
    for run in 0..3 {
        // A storage may come or go, and a file with it.
        let dirs = if run == 1 { &dirs[1..] } else { &dirs[..] };
        let table = open(dirs, &bench.clock, 10).expect("good files");
        let owner = table.owner(Process { uid: 0, pid: None });
        for _ in 0..1_500 {
            let stopping = bench.stopping.clone();
            let token = table.lock(&owner, "n", Terms::default(), stopping).await.expect("free");
            assert!(token > last, "{token} after {last}");
            last = token;
            table.unlock(&owner, "n", token).expect("held");
        }
    }
    std::fs::write(other.join(TOKEN_FILE), "many\n").expect("write");
    let error = open(&dirs, &bench.clock, 10).expect_err("no number");
    assert!(matches!(error, TokenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn without_a_file_for_tokens_there_is_no_lock() {
    let bench = Bench::new(10);
    let a = bench.owner(1);
    let path = bench.dir.path().to_owned();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).expect("moved away");
    assert!(matches!(bench.take(&a, "n").await, Err(LockError::Tokens(_))));
    std::fs::rename(&away, &path).expect("put back");
    assert_eq!(bench.take(&a, "n").await.expect("free"), 1, "nothing was given out before");
}

/// Tokens were reserved in a directory that stood in another's place, and given out again when that one was back.
#[tokio::test]
async fn in_another_directory_no_tokens_are_reserved() {
    let bench = Bench::new(10);
    let a = bench.owner(1);
    let path = bench.dir.path().to_owned();
    let take = async || -> Result<u64, LockError> {
        let token = bench.take(&a, "n").await?;
        bench.table.unlock(&a, "n", token).expect("held");
        Ok(token)
    };
    assert_eq!(take().await.expect("free"), 1);
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).expect("moved away");
    std::fs::create_dir(&path).expect("another one");
    let error = loop {
        match take().await {
            Ok(token) => assert!(token <= 1_000, "{token} was never reserved"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LockError::Tokens(TokenError::Astray(_))), "{error}");
    assert!(!path.join(TOKEN_FILE).exists());
    std::fs::remove_dir(&path).expect("removed");
    std::fs::rename(&away, &path).expect("put back");
    assert_eq!(take().await.expect("free"), 1_001);
}
