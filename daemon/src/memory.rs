//! Giving memory back to the system after large flushes.
//!
//! There are two allocators in the process: the daemon's (mimalloc) and the C library's, which DuckDB uses.
//! Both keep what is freed. After a flush of a million rows that is some hundred megabytes which nobody
//! needs until the next one.
//!
//! This is the only file with unsafe code: two calls into the allocators.

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
