//! Giving memory back to the system after large flushes.
//!
//! There are two allocators in the process: the daemon's (mimalloc) and the C library's, which DuckDB uses.
//! Both keep what is freed. After a flush of a million rows that is some hundred megabytes which nobody
//! needs until the next one. What many small flushes, queries and backups leave behind adds up as well, so memory is
//! given back now and then, too: a quarter of what an idle daemon had behind a minute of full load.
//!
//! The C library gives each of many threads a place of its own to allocate from, up to eight for each processor, and
//! what is free in one of them serves no other. DuckDB runs on a thread for each flush and query, so in a soak of five minutes
//! these places held 250 to 350 MB for 30 that were in use, and were still growing. With two of them it was 100 MB, from the
//! first minute on, and neither writes nor queries were slower.
//!
//! This is the only file with unsafe code: calls into the allocators.

use std::time::Duration;

use tokio::sync::watch;

/// How often memory is given back. Each time costs about a hundredth of a second, and what is used again must be had
/// from the system again.
const INTERVAL: Duration = Duration::from_secs(30);

/// Gives memory back now and then, until the daemon stops.
pub async fn keep_giving_back(mut stopping: watch::Receiver<bool>) {
    while tokio::time::timeout(INTERVAL, stopping.wait_for(|stopping| *stopping)).await.is_err() {
        // A panic in there would have been told; the next time is as good.
        let _ = tokio::task::spawn_blocking(give_back).await;
    }
}

/// Places from which the C library allocates.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;

/// Bounds what the C library's allocator keeps. Must be called before there are threads.
#[allow(unsafe_code)]
pub fn keep_few_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number in the allocator, under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Asks both allocators to return free memory to the system.
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: both functions take no pointer and may be called at any time, from any thread; they touch only
    // memory that is free.
    unsafe {
        libmimalloc_sys::mi_collect(true);
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        libc::malloc_trim(0);
    }
}
