//! Verbs that the daemon's program does, because they need its code: the user has to know one command only.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Global;
use super::failure::{Exit, Failure, Outcome};

/// The daemon's program.
const PROGRAM: &str = "fastpersistd";

#[derive(Debug, Args)]
#[command(after_help = "\
Says where the socket and the storages will be, and warns of what is allowed and probably not meant.
Ends with 78 where something is wrong, and says what would be right. Nothing is made or changed.

Example:
  fastpersist check-config --config /etc/fastpersistd/config.toml")]
pub(crate) struct CheckConfigArgs {
    /// The configuration file; without it what the daemon would read.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As the daemon's own --base-dir.
    #[arg(long, value_name = "DIR")]
    base_dir: Option<PathBuf>,
}

pub(crate) fn check_config(global: &Global, args: &CheckConfigArgs) -> Outcome {
    let mut all: Vec<OsString> = vec!["--check-config".into()];
    let mut option = |name: &str, value: Option<OsString>| {
        all.extend(value.into_iter().flat_map(|value| [name.into(), value]));
    };
    option("--config", args.config.clone().map(Into::into));
    option("--base-dir", args.base_dir.clone().map(Into::into));
    option("--socket", global.socket.clone().map(Into::into));
    become_daemon_program(&all)
}

/// Lets the daemon's program take this one's place; its exit code is then ours. Comes back only when it fails.
fn become_daemon_program(arguments: &[OsString]) -> Outcome {
    let program = find_program()?;
    let error = Command::new(&program).args(arguments).exec();
    Err(Failure::io(program.display(), &error))
}

/// The daemon's program beside this one, else on the PATH.
pub(crate) fn find_program() -> Outcome<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain(on_path).find(|program| program.is_file()).ok_or_else(|| {
        Failure::new(Exit::Configuration, format!("{PROGRAM} is neither beside this program nor on the PATH"))
            .with_hint("build it with cargo build --release, or install it")
    })
}

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
    let mut all: Vec<OsString> = vec![verb.into()];
    let mut option = |name: &str, value: Option<OsString>| {
        all.extend(value.into_iter().flat_map(|value| [name.into(), value]));
    };
    option("--config", args.config.clone().map(Into::into));
    option("--base-dir", args.base_dir.clone().map(Into::into));
    option("--storage", global.storage.clone().map(Into::into));
    all.extend(arguments);
    become_daemon_program(&all)
}
