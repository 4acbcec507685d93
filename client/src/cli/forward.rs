//! Verbs that work on a storage's directory while no daemon runs: they are the daemon program's, because they
//! need DuckDB, and are passed on to it as they stand.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Global;
use super::failure::{Exit, Failure, Outcome};

const PROGRAM: &str = "fastpersistd";

/// Whatever the daemon program's verb takes.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ForwardArgs {
    /// The verb's own options; `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Runs `fastpersistd VERB …`; ends with its exit code.
pub(crate) fn forward(global: &Global, verb: &str, args: &ForwardArgs) -> Outcome {
    let mut command = Command::new(find_program()?);
    command.arg(verb);
    if let Some(storage) = &global.storage {
        command.arg("--storage").arg(storage);
    }
    let status = command.args(&args.options).status().map_err(|error| Failure::io(PROGRAM, &error))?;
    match status.code() {
        Some(0) => Ok(()),
        // What was wrong is said already.
        Some(code) => std::process::exit(code),
        None => Err(Failure::failed(format!("{PROGRAM} {verb} was killed"))),
    }
}

/// The daemon's program: beside this one, else on the PATH.
pub(crate) fn find_program() -> Outcome<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain(on_path).find(|program| program.is_file()).ok_or_else(|| {
        Failure::new(Exit::Configuration, format!("{PROGRAM} is neither beside this program nor on the PATH"))
    })
}
