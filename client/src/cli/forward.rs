//! Verbs that are work on files, and that `fastpersistd` does: it has DuckDB.
//!
//! The daemon's program is run with the arguments as they came, in this process's place: what it prints and its
//! exit code are the verb's.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Global;
use super::demo::find_program;
use super::failure::{Failure, Outcome};

/// What such a verb takes; everything else is for `fastpersistd` to check.
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// The daemon's configuration file; found as the daemon finds it unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where storages without a `base_dir` of their own live.
    #[arg(long, value_name = "DIR")]
    pub(crate) base_dir: Option<PathBuf>,
}

/// Runs `fastpersistd VERB` with `arguments` in the place of this process; only a failure to do so comes back.
pub(crate) fn forward(
    global: &Global,
    args: &ForwardArgs,
    verb: &str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Outcome {
    let program = find_program()?;
    let mut command = Command::new(&program);
    command.arg(verb);
    for (option, value) in [("--config", &args.config), ("--base-dir", &args.base_dir)] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    if let Some(storage) = &global.storage {
        command.arg("--storage").arg(storage);
    }
    let error = command.args(arguments).exec();
    Err(Failure::io(program.display(), &error))
}
