//! A wall clock of the daemon's own, which a test sets while it runs and which is nobody else's.
//!
//! A small library that the daemon is started with (`LD_PRELOAD`) adds to the wall clock what stands in a file, at the moment it
//! is asked. The clock that never goes back is left alone. Files get their times from the kernel, whose clock
//! is right; so whoever syncs a file sets its time too, as a kernel with that clock would.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use super::Site;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("TEST_CLOCK_FILE"), O_RDONLY | O_CLOEXEC);
    void *map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || map == MAP_FAILED) abort();
    close(fd);
    ahead = map;
}

static int64_t seconds(void) { return ahead ? __atomic_load_n(ahead, __ATOMIC_SEQ_CST) : 0; }

int clock_gettime(clockid_t id, struct timespec *out) {
    long done = syscall(SYS_clock_gettime, id, out);
    if (done == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) out->tv_sec += seconds();
    return (int) done;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void) zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *out, int base) {
    clock_gettime(CLOCK_REALTIME, out);
    return base;
}

static int synced(int fd, long done) {
    if (done == 0 && seconds() != 0) {
        int kept = errno;
        struct timespec times[2] = {{0, UTIME_OMIT}, {0, 0}};
        clock_gettime(CLOCK_REALTIME, &times[1]);
        futimens(fd, times);
        errno = kept;
    }
    return (int) done;
}

int fdatasync(int fd) { return synced(fd, syscall(SYS_fdatasync, fd)); }
int fsync(int fd) { return synced(fd, syscall(SYS_fsync, fd)); }
"#;

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// See the module.
pub(crate) struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    /// `None` where there is no C compiler; says so.
    pub(crate) fn new(site: &Site) -> Option<Self> {
        let (source, library) = (site.path("clock.c"), site.path("clock.so"));
        fs::write(&source, SOURCE).expect("write the library's source");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
        match compiled {
            Ok(status) => assert!(status.success(), "cc: {status}"),
            Err(error) => {
                eprintln!("skipped: a C compiler is needed to give the daemon a clock of its own: {error}");
                return None;
            }
        }
        let clock = Self { file: site.path("clock"), library };
        fs::write(&clock.file, vec![0; 4096]).expect("write the clock");
        Some(clock)
    }

    /// The site's daemon, with this clock.
    pub(crate) fn command(&self, site: &Site) -> Command {
        let mut command = site.command();
        command.env("LD_PRELOAD", &self.library).env("TEST_CLOCK_FILE", &self.file);
        command
    }

    /// Sets the clock so many seconds ahead of the machine's, or behind it.
    pub(crate) fn set(&self, ahead_seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        // In place: the daemon has it mapped.
        let file = fs::File::options().write(true).open(&self.file).expect("open the clock");
        file.write_all_at(&ahead_seconds.to_ne_bytes(), 0).expect("set the clock");
    }

    /// What a clock shows that is so far ahead of the machine's, in seconds.
    pub(crate) fn shows(ahead_seconds: i64) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        now.as_secs() as i64 + ahead_seconds
    }
}
