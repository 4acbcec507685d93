//! Large results that clients get as memory: written once, sealed, and passed on as a file descriptor.
//!
//! What a client holds stays in memory for as long as the client likes, and is counted to this process. The
//! kernel does not say who has a descriptor, but it does say, to whoever watches an inode, when its last
//! descriptor was closed and its last mapping has gone.
//!
//! Invariant: results that are being written and results that clients hold are together never larger, and
//! never more, than the bounds, and what a client can reach can be changed by nobody, this process included.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

/// So many results are under way or held at once. Each is a descriptor of this process until it is sent and one in
/// flight until it is received, and the kernel bounds both for everybody together. It also queues only so many
/// events, and one that is lost would count for ever.
const MAX_RESULTS: usize = 256;

/// The results that are handed over or about to be.
#[derive(Debug)]
pub struct Handovers {
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Made with the first result.
    watch: Option<OwnedFd>,
    /// Bytes that are taken, written or not.
    bytes: u64,
    /// Results that are being written or held.
    results: usize,
    /// What clients hold, by the watch on it.
    held: HashMap<i32, u64>,
}

/// Why no more can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// This result alone is as large as all may be.
    #[error("the result is larger than limits.max_handed_over_bytes allows")]
    Alone,
    /// Others have the rest.
    #[error("results that clients still hold take what limits.max_handed_over_bytes allows; try again")]
    ByOthers,
    /// There are as many as may be.
    #[error("clients hold {MAX_RESULTS} results, and no more may be handed over; close some and try again")]
    ByNumber,
}

/// Why a result cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// There is no room for it.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The system gives no memory file.
    #[error("the system gives no memory for the result: {0}")]
    Io(#[from] io::Error),
}

impl Handovers {
    /// At most so many bytes together.
    pub fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self { max_bytes, state: Mutex::default() })
    }

    /// Bytes of results that are being written or are held by clients.
    pub fn bytes(&self) -> u64 {
        let mut state = self.state.lock();
        state.collect();
        state.bytes
    }

    /// Begins a result.
    ///
    /// # Errors
    /// See [`BeginError`].
    pub fn begin(self: &Arc<Self>) -> Result<Sheet, BeginError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file =
            File::from(rustix::fs::memfd_create("fastpersist-result", flags).map_err(io::Error::from)?);
        let mut state = self.state.lock();
        if state.results >= MAX_RESULTS {
            state.collect();
        }
        if state.results >= MAX_RESULTS {
            return Err(Exhausted::ByNumber.into());
        }
        state.results += 1;
        drop(state);
        Ok(Sheet { file, bytes: 0, is_sealed: false, handovers: Arc::clone(self) })
    }

    fn take(&self, more: u64, own: u64) -> Result<(), Exhausted> {
        let mut state = self.state.lock();
        if state.bytes + more > self.max_bytes {
            state.collect();
        }
        if state.bytes + more <= self.max_bytes {
            state.bytes += more;
            Ok(())
        } else if state.bytes > own {
            Err(Exhausted::ByOthers)
        } else {
            Err(Exhausted::Alone)
        }
    }

    fn give_back(&self, bytes: u64) {
        self.state.lock().bytes -= bytes;
    }
}

impl State {
    /// Takes note of what clients have closed.
    fn collect(&mut self) {
        let Some(watch) = &self.watch else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watch, &mut buffer);
        // Nothing to read is an error too, and all of them mean: not now.
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::CLOSE_NOWRITE)
                && let Some(bytes) = self.held.remove(&event.wd())
            {
                self.bytes -= bytes;
                self.results -= 1;
            }
        }
    }

    fn watch(&mut self, path: &str, bytes: u64) -> io::Result<()> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?),
        };
        let flags = WatchFlags::CLOSE_NOWRITE | WatchFlags::ONESHOT;
        self.held.insert(inotify::add_watch(watch, path, flags)?, bytes);
        Ok(())
    }
}

/// A result that is being written.
#[derive(Debug)]
pub struct Sheet {
    file: File,
    bytes: u64,
    is_sealed: bool,
    handovers: Arc<Handovers>,
}

/// A result that nobody can change any more.
#[derive(Debug)]
pub struct Handover {
    /// A description of its own, which can only be read.
    pub fd: OwnedFd,
    /// How long it is.
    pub bytes: u64,
}

impl Sheet {
    /// How long it is.
    pub fn written(&self) -> u64 {
        self.bytes
    }

    /// Cuts it back to an earlier length, so that there is room for an end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.file.seek(SeekFrom::Start(bytes))?;
        self.handovers.give_back(self.bytes - bytes);
        self.bytes = bytes;
        Ok(())
    }

    /// Seals it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn seal(mut self) -> io::Result<Handover> {
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.file, seals)?;
        // The kernel tells nobody when the description is closed that memfd_create has made.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let fd = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.handovers.state.lock().watch(&path, self.bytes)?;
        // From here on they are given back when the client closes it.
        self.is_sealed = true;
        let bytes = std::mem::take(&mut self.bytes);
        Ok(Handover { fd, bytes })
    }
}

impl Drop for Sheet {
    fn drop(&mut self) {
        let mut state = self.handovers.state.lock();
        state.bytes -= self.bytes;
        state.results -= usize::from(!self.is_sealed);
    }
}

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = bytes.len() as u64;
        if let Err(exhausted) = self.handovers.take(more, self.bytes) {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, exhausted));
        }
        // Counted also where it fails: what was written of it is there.
        self.bytes += more;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn sealed(handovers: &Arc<Handovers>, bytes: usize) -> Handover {
        let mut sheet = handovers.begin().expect("a sheet");
        sheet.write_all(&vec![7; bytes]).expect("room");
        sheet.seal().expect("sealed")
    }

    #[test]
    fn a_client_can_read_it_and_nobody_can_change_it() {
        let handovers = Handovers::new(1 << 20);
        let handover = sealed(&handovers, 10_000);
        let mut file = File::from(handover.fd);
        let mut read = Vec::new();
        file.read_to_end(&mut read).expect("readable");
        assert_eq!(read, vec![7; 10_000]);
        file.write_all(b"x").expect_err("not to be written");
        file.set_len(5).expect_err("not to be cut");
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let writable = File::options().write(true).open(again);
        assert!(writable.is_err() || writable.is_ok_and(|mut file| file.write_all(b"x").is_err()));
    }

    #[test]
    fn what_clients_hold_counts_until_the_last_of_them_has_closed_it() {
        let handovers = Handovers::new(30_000);
        let first = sealed(&handovers, 20_000);
        assert_eq!(handovers.bytes(), 20_000);
        let mut sheet = handovers.begin().expect("a sheet");
        sheet.write_all(&[1; 10_000]).expect("room");
        let why = |error: io::Error| error.get_ref().and_then(|why| why.downcast_ref()).copied();
        let error = sheet.write_all(&[1]).expect_err("no more room");
        assert_eq!(why(error), Some(Exhausted::ByOthers));
        let second = first.fd.try_clone().expect("another descriptor");
        drop(first);
        sheet.write_all(&[1]).expect_err("it is still held");
        drop(second);
        sheet.write_all(&vec![1; 20_000]).expect("nobody holds the first any more");
        let error = sheet.write_all(&[1]).expect_err("larger than all may be");
        assert_eq!(why(error), Some(Exhausted::Alone));
        sheet.cut(29_000).expect("cut");
        sheet.write_all(&[2; 1_000]).expect("room for an end");
        assert_eq!((sheet.written(), handovers.bytes()), (30_000, 30_000));
        drop(sheet);
        assert_eq!(handovers.bytes(), 0);
    }

    #[test]
    fn only_so_many_are_held_and_no_closing_is_missed() {
        let handovers = Handovers::new(1 << 20);
        // More than the kernel queues events for, without anybody asking meanwhile.
        for _ in 0..20_000 {
            drop(sealed(&handovers, 10));
        }
        let held: Vec<_> = (0..MAX_RESULTS).map(|_| sealed(&handovers, 10)).collect();
        assert_eq!(handovers.bytes(), 10 * MAX_RESULTS as u64);
        let error = handovers.begin().expect_err("one too many");
        assert!(matches!(error, BeginError::Exhausted(Exhausted::ByNumber)), "{error}");
        drop(held);
        drop(handovers.begin().expect("they are closed"));
        assert_eq!(handovers.bytes(), 0);
    }
}
