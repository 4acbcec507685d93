//! Work on a storage's files by a process of its own, beside the daemon or without it.
//!
//! Each is a subcommand of `fastpersistd`, because it needs DuckDB; `fastpersist` forwards to them, so that a
//! user knows one command. The invariant of each is in its module: what it may touch, and whether the daemon
//! may run meanwhile.

mod hold;
pub mod plan;
pub mod read_python;
pub mod repair;
pub mod restore;
pub mod walk;

use std::process::ExitCode;

use clap::Subcommand;

pub use hold::{Held, OfflineError, hold};

use crate::config::Overrides;

/// What ended a subcommand before its time.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: u8,
    /// What was wrong, and what to do.
    pub message: String,
}

impl Failure {
    /// It did not do what was asked for.
    pub const FAILED: u8 = 1;
    /// The arguments do not fit together.
    pub const USAGE: u8 = 2;
    /// A file could not be read or written.
    pub const IO: u8 = 74;
    /// The configuration, or data that needs a person.
    pub const CONFIGURATION: u8 = 78;

    /// A failure with that exit code.
    pub fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A file that could not be read or written.
    pub fn io(file: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.display().to_string();
        move |error| Self::new(Self::IO, format!("{file}: {error}"))
    }
}

impl From<OfflineError> for Failure {
    fn from(error: OfflineError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a directory with what a storage held at some moment, from its backups and its WAL
    Restore(restore::RestoreArgs),
    /// Say what is damaged in a storage and what would be lost, and mend it
    Repair(repair::RepairArgs),
    /// Print the records in a directory of the Python library
    #[command(hide = true)]
    ReadPython(read_python::Arguments),
}

/// Runs a subcommand; a failure is told on standard error.
pub fn run(command: &Command, overrides: &Overrides) -> ExitCode {
    // What goes on all the same is told beside the result. It fails only where somebody else listens already.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .without_time()
        .with_target(false)
        .try_init();
    let ended = match command {
        Command::Restore(args) => restore::run(args, overrides),
        Command::Repair(args) => repair::run(args, overrides).map_err(Failure::from),
        Command::ReadPython(args) => read_python::run(args, &mut std::io::stdout().lock())
            .map_err(|error| Failure::new(Failure::FAILED, error.to_string())),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fastpersistd: {}", failure.message);
            ExitCode::from(failure.exit)
        }
    }
}
