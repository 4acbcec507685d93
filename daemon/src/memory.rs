//! Giving memory back to the system after large flushes.
//!
//! DuckDB uses the C library's allocator, which keeps what is freed. After a flush of a million rows that is
//! more than a hundred megabytes which nobody needs until the next one.

/// Asks the C library to return free memory to the system.
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointer and may be called at any time, from any thread; it touches only
    // memory that is free.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
