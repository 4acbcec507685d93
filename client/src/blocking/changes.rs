//! Changes for programs without a runtime.

use std::thread;

use super::{Broken, Deadline, Wire};
use crate::changes::{Begun, Change, Follow, Pauses, Taken, heals};
use crate::error::Error;
use crate::options::ConnectOptions;

/// The changes of a storage, one after the other; each `next` waits for one.
///
/// It connects again by itself, for as long as it takes, and goes on behind the last change. It ends with
/// the first error that time does not heal: `forbidden`, an `unknown_storage`, or `compacted`, when what
/// comes next is not kept any more; `oldest_seq` then says from where on it is.
///
/// ```no_run
/// # fn example() -> Result<(), fastpersist_client::Error> {
/// use fastpersist_client::blocking::Client;
///
/// let client = Client::connect_default()?;
/// for change in client.subscribe("jobs").from_seq(1).iter() {
///     let change = change?;
///     println!("{} at {}", change.key(), change.seq());
/// }
/// # Ok(()) }
/// ```
pub struct Changes {
    follow: Follow,
    options: ConnectOptions,
    wire: Option<Wire>,
    begun: Option<Begun>,
    ended: bool,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("follow", &self.follow).finish_non_exhaustive()
    }
}

impl Changes {
    pub(crate) fn new(follow: Follow, options: ConnectOptions) -> Self {
        Self { follow, options, wire: None, begun: None, ended: false }
    }

    /// Waits until the daemon has begun to tell: whatever is stored from then on comes.
    ///
    /// # Errors
    /// One that time does not heal; the iterator has then ended.
    pub fn begun(&mut self) -> Result<Begun, Error> {
        let mut pauses = Pauses::default();
        loop {
            if let Some(begun) = self.begun {
                return Ok(begun);
            }
            if let Err(error) = self.connect() {
                self.healing(error, &mut pauses)?;
            }
        }
    }

    /// Waits, where that may help.
    fn healing(&mut self, error: Error, pauses: &mut Pauses) -> Result<(), Error> {
        self.wire = None;
        if !heals(&error) {
            self.ended = true;
            return Err(error);
        }
        thread::sleep(pauses.next());
        Ok(())
    }

    /// Connects and subscribes, where that is not done.
    fn connect(&mut self) -> Result<&mut Wire, Error> {
        let mut wire = match self.wire.take() {
            Some(wire) => return Ok(self.wire.insert(wire)),
            None => Wire::open(&self.options, Deadline::after(None))?,
        };
        let deadline = Deadline::after(self.options.request_timeout);
        let sent = wire.send(&self.follow.line(), deadline);
        sent.map_err(|(Broken::NothingSent(error) | Broken::Midway(error))| error)?;
        match self.follow.take(&wire.line(deadline)?)? {
            Taken::Begun(begun) => {
                self.begun.get_or_insert(begun);
            }
            _ => return Err(Error::Protocol("an event came before the answer".to_owned())),
        }
        Ok(self.wire.insert(wire))
    }

    /// The next change; `None` where the daemon must be asked again.
    fn change(&mut self) -> Result<Option<Change>, Error> {
        let line = self.connect()?.line(Deadline::after(None))?;
        match self.follow.take(&line)? {
            Taken::Change(change) => Ok(Some(change)),
            Taken::Dropped | Taken::Begun(_) => {
                self.wire = None;
                Ok(None)
            }
        }
    }
}

impl Iterator for Changes {
    type Item = Result<Change, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut pauses = Pauses::default();
        while !self.ended {
            match self.change() {
                Ok(Some(change)) => return Some(Ok(change)),
                // Who falls behind again and again must not keep the daemon busy with it.
                Ok(None) => thread::sleep(pauses.next()),
                Err(error) => {
                    if let Err(error) = self.healing(error, &mut pauses) {
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}
