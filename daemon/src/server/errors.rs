//! Inner errors to wire errors: the one place that chooses error codes.

use fastpersist_protocol::error::{ErrorCode, WireError};

use crate::backup::BackupError;
use crate::config::Role;
use crate::disk;
use crate::duck::query;
use crate::export::ExportError;
use crate::locks::{LockError, TokenError};
use crate::storage::StorageError;
use crate::storage::exporting::ExportingError;
use crate::storage::partition::{Busy, ChangesError, FlushError, Gone, MendError, ReadError};
use crate::storage::rules::RuleError;
use crate::storage::watch::WatchError;
use crate::wal::WalError;
use crate::wal::commit::Refusal;

pub(super) fn of_rule(error: &RuleError) -> WireError {
    match error {
        RuleError::WrongField { field, .. } => WireError::field(field, error.to_string()),
        RuleError::Misfit { column, .. } => {
            WireError::new(ErrorCode::BadRequest, error.to_string()).with_text("column", column.as_str())
        }
    }
}

pub(super) fn of_refusal(refusal: &Refusal, in_batch: bool) -> WireError {
    let new = |code| WireError::new(code, refusal.to_string());
    match refusal {
        Refusal::Conflict { current_seq, index, .. } => {
            let error = new(ErrorCode::Conflict).with_number("current_seq", *current_seq);
            if in_batch { error.with_number("index", *index as u64) } else { error }
        }
        Refusal::DiskFull => new(ErrorCode::DiskFull),
        Refusal::Unavailable(_) => new(ErrorCode::Busy),
        Refusal::ReadOnly(_) => new(ErrorCode::ReadOnly),
        Refusal::OutcomeUnknown(_) => new(ErrorCode::OutcomeUnknown),
    }
}

pub(super) fn of_storage(error: &StorageError) -> WireError {
    match error {
        StorageError::TooManyDates { .. } => WireError::new(ErrorCode::Busy, error.to_string()),
        StorageError::Open(open) if open.is_in_use() || open.is_astray() => {
            WireError::new(ErrorCode::Busy, error.to_string())
        }
        StorageError::Open(open) if open.is_full() => WireError::new(ErrorCode::DiskFull, error.to_string()),
        StorageError::Open(_) | StorageError::Gone => internal("opening a partition", error),
    }
}

pub(super) fn of_busy(error: &Busy) -> WireError {
    WireError::new(ErrorCode::Busy, error.to_string())
}

pub(super) fn of_gone(error: &Gone) -> WireError {
    WireError::new(ErrorCode::OutcomeUnknown, error.to_string())
}

pub(super) fn of_read(error: &ReadError) -> WireError {
    match error {
        ReadError::Duck(duck) if query::is_out_of_memory(duck) => {
            WireError::new(ErrorCode::Busy, error.to_string())
        }
        ReadError::Duck(_) | ReadError::Gone => internal("a read", error),
    }
}

pub(super) fn of_flush(error: &FlushError) -> WireError {
    let code = match error {
        FlushError::NoRoom { .. } | FlushError::Wal(WalError::Full(_)) => ErrorCode::DiskFull,
        FlushError::Wal(WalError::Unavailable(_)) | FlushError::Astray(_) => ErrorCode::Busy,
        FlushError::Wal(WalError::Failed(_)) => ErrorCode::ReadOnly,
        // There was room when it began.
        _ if error.is_full() => ErrorCode::DiskFull,
        FlushError::Duck(_) | FlushError::Directory(_) | FlushError::Thread(_) => {
            return internal("the flush", error);
        }
    };
    WireError::new(code, error.to_string())
}

pub(super) fn of_watch(error: &WatchError) -> WireError {
    match error {
        WatchError::Storage(error) => of_storage(error),
        WatchError::Changes(ChangesError::Compacted { oldest_seq }) => {
            WireError::new(ErrorCode::Compacted, error.to_string()).with_number("oldest_seq", *oldest_seq)
        }
        WatchError::Changes(_) | WatchError::Gone => internal("reading the changes", error),
    }
}

pub(super) fn forbidden(op: &str, role: Role, needed: Role) -> WireError {
    let message = format!(
        "{op:?} needs the role {:?}, and you have {:?}; an administrator grants roles in [[access]]",
        needed.as_str(),
        role.as_str()
    );
    WireError::new(ErrorCode::Forbidden, message).with_text("needed_role", needed.as_str())
}

pub(super) fn unknown_storage(name: Option<&str>, known: &[&str]) -> WireError {
    let message = match name {
        Some(name) => format!("there is no storage {name:?}; there is {}", known.join(", ")),
        None => format!("several storages are configured; name one with \"storage\": {}", known.join(", ")),
    };
    WireError::new(ErrorCode::UnknownStorage, message)
}

pub(super) fn shutting_down() -> WireError {
    WireError::new(ErrorCode::ShuttingDown, "the daemon is stopping; send the request again to the next one")
}

/// Something that should not happen: the log gets the details, the client what it can use.
pub(super) fn internal(what: &str, error: &dyn std::error::Error) -> WireError {
    tracing::error!(%error, "{what} failed");
    WireError::new(ErrorCode::Internal, format!("{what} failed: {error}"))
}

pub(super) fn of_lock(error: &LockError) -> WireError {
    let new = |code| WireError::new(code, error.to_string());
    match error {
        LockError::Held { holder, .. } => {
            let locked = new(ErrorCode::Locked).with_number("uid", u64::from(holder.uid));
            match holder.pid.and_then(|pid| u64::try_from(pid).ok()) {
                Some(pid) => locked.with_number("pid", pid),
                None => locked,
            }
        }
        LockError::Yours { token, .. } => new(ErrorCode::Conflict).with_number("token", *token),
        LockError::TooMany { .. } | LockError::Tokens(TokenError::Astray(_)) => new(ErrorCode::Busy),
        LockError::Tokens(TokenError::Io { source, .. }) if disk::is_full(source) => new(ErrorCode::DiskFull),
        LockError::Tokens(error) => internal("taking a lock", error),
        // Nobody reads the answer of a connection that has ended.
        LockError::Stopping | LockError::Gone => new(ErrorCode::ShuttingDown),
    }
}

pub(super) fn of_busy_key() -> WireError {
    let message = "a record on which the write depends could not be kept in memory; send it again";
    WireError::new(ErrorCode::Busy, message)
}

pub(super) fn of_export(error: &ExportingError) -> WireError {
    match error {
        ExportingError::NoRoot(_) => WireError::new(ErrorCode::NotFound, error.to_string()),
        ExportingError::BadPath(_) => WireError::field("path", error.to_string()),
        ExportingError::Storage(error) => of_storage(error),
        ExportingError::Flush(error) => of_flush(error),
        ExportingError::Read(error) => of_read(error),
        // The data has a name that no directory can have; everything else was exported.
        ExportingError::Export(ExportError::TooLong { names, .. }) => {
            let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
            WireError::new(ErrorCode::BadRequest, format!("{error}: {}", names.join(", ")))
        }
        // Only a second signal to stop interrupts it.
        ExportingError::Export(export) if export.is_interrupted() => shutting_down(),
        ExportingError::Export(export) if export.is_full() => {
            WireError::new(ErrorCode::DiskFull, error.to_string())
        }
        _ => internal("the export", error),
    }
}

pub(super) fn of_backup(error: &BackupError) -> WireError {
    let new = |code| WireError::new(code, error.to_string());
    match error {
        BackupError::Off { .. } => new(ErrorCode::BadRequest),
        BackupError::NoData { .. } | BackupError::Unknown { .. } => new(ErrorCode::NotFound),
        // What was named, a backup that can be restored from, is not there. It is nothing that failed inside
        // the daemon, and sending the request again does not help.
        BackupError::Damaged { what, .. } => new(ErrorCode::NotFound).with_text("damaged", what.as_str()),
        BackupError::Storage(error) => of_storage(error),
        BackupError::Flush(error) => of_flush(error),
        BackupError::Duck(duck) if duck.is_in_use() => new(ErrorCode::Busy),
        // Only a second signal to stop interrupts a copy.
        BackupError::Duck(duck) if duck.is_interrupted() => shutting_down(),
        _ if error.is_full() => new(ErrorCode::DiskFull),
        _ => internal("the backup", error),
    }
}

pub(super) fn of_mend(error: &MendError) -> WireError {
    match error {
        MendError::Dated { .. } => WireError::field("storage", error.to_string()),
        MendError::NoLog { .. } => WireError::new(ErrorCode::NotFound, error.to_string()),
        MendError::Flush(error) => of_flush(error),
        _ => internal("mending", error),
    }
}
