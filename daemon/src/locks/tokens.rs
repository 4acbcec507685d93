//! Fencing tokens: numbers that only ever grow, across restarts and crashes too.
//!
//! A lock must not cost an fdatasync, so tokens are reserved many at a time: a small file says from where on
//! none was given out. A restart goes on behind what was reserved, whether it was given out or not.
//!
//! The tokens are the daemon's and not a storage's, but a storage may come or go with the configuration. So
//! each storage's directory has the file, and the highest of them counts.
//!
//! Invariant: a token is given out only when files say that it is reserved.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{self, Disk};
use crate::latch::Astray;

/// The file's name in each `base_dir`.
pub const TOKEN_FILE: &str = "lock_tokens";
/// How many tokens are reserved at a time.
const RESERVED: u64 = 1_000;
/// So far behind the newest token a restored directory begins: until it takes the place of the old one, locks may
/// go on being taken there.
const BEYOND: u64 = 1 << 32;

/// Why the tokens cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("the file {file} with the lock tokens cannot be used: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else than a number.
    #[error(
        "{file} should hold the next lock token and holds something else; write a number into it that is higher than every token that was ever given out"
    )]
    Damaged {
        /// The file.
        file: String,
    },
    /// A storage's directory is away. What is reserved elsewhere would be given out again when it is back.
    #[error(transparent)]
    Astray(#[from] Astray),
}

impl TokenError {
    fn io(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.display().to_string();
        move |source| Self::Io { file, source }
    }
}

/// The tokens that are reserved and not given out: from `next` to before `end`.
#[derive(Debug)]
struct Range {
    next: u64,
    end: u64,
}

/// A directory with a file of tokens.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// Which directory it was when it was opened, where it was there.
    identity: Option<(u64, u64)>,
}

impl Place {
    fn file(&self) -> PathBuf {
        self.directory.join(TOKEN_FILE)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Tokens {
    disk: Arc<dyn Disk>,
    places: Vec<Place>,
    range: Mutex<Range>,
    /// Held while more are being reserved.
    reserving: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// Reads from where on tokens are free.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn open<'d>(
        disk: &Arc<dyn Disk>,
        directories: impl IntoIterator<Item = &'d Path>,
    ) -> Result<Arc<Self>, TokenError> {
        let place = |directory: &Path| Place {
            directory: directory.to_owned(),
            identity: disk::identity(directory).ok(),
        };
        let places: Vec<_> = directories.into_iter().map(place).collect();
        let mut next = 1;
        for place in &places {
            next = next.max(read(&**disk, &place.file())?);
        }
        let range = Mutex::new(Range { next, end: next });
        Ok(Arc::new(Self { disk: Arc::clone(disk), places, range, reserving: tokio::sync::Mutex::default() }))
    }

    /// The next token; `None` when more must be [reserved](Self::reserve) first.
    pub fn take(&self) -> Option<u64> {
        let mut range = self.range.lock();
        let token = range.next;
        if token >= range.end {
            return None;
        }
        range.next += 1;
        Some(token)
    }

    /// Makes sure that there is a token to take.
    ///
    /// # Errors
    /// When it cannot be written down that they are reserved.
    pub async fn reserve(self: &Arc<Self>) -> Result<(), TokenError> {
        let _one_at_a_time = self.reserving.lock().await;
        let end = {
            let range = self.range.lock();
            if range.next < range.end {
                return Ok(());
            }
            range.end + RESERVED
        };
        let tokens = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || tokens.write(end)).await;
        written.unwrap_or_else(|_| {
            let source = io::Error::other("writing it panicked");
            Err(TokenError::Io { file: TOKEN_FILE.to_owned(), source })
        })?;
        self.range.lock().end = end;
        Ok(())
    }

    fn write(&self, end: u64) -> Result<(), TokenError> {
        for place in &self.places {
            if let Some(identity) = place.identity {
                Astray::look(&place.directory, identity)?;
            }
        }
        for file in self.places.iter().map(Place::file) {
            disk::write_durably(&*self.disk, &file, format!("{end}\n").as_bytes())
                .map_err(TokenError::io(&file))?;
        }
        Ok(())
    }
}

/// Lets the directory that a restore made go on where no token of the old one has been, and none will have been
/// when it is put in its place.
///
/// # Errors
/// See [`TokenError`].
pub fn carry_over(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), TokenError> {
    let next = read(disk, &from.join(TOKEN_FILE))?;
    let file = to.join(TOKEN_FILE);
    disk::write_durably(disk, &file, format!("{}\n", next + BEYOND).as_bytes()).map_err(TokenError::io(&file))
}

fn read(disk: &dyn Disk, file: &Path) -> Result<u64, TokenError> {
    let bytes = match disk.read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(1),
        bytes => bytes.map_err(TokenError::io(file))?,
    };
    let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
    // Far below the end of the numbers, so that reserving never comes to it.
    let number = number.filter(|number| (1..=u64::MAX / 2).contains(number));
    number.ok_or_else(|| TokenError::Damaged { file: file.display().to_string() })
}
