//! What a package brings along: shell completions and man pages, made from the arguments themselves so that they
//! cannot say anything else. `completions` is for whoever has no package.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use super::failure::{Failure, Outcome};

/// What the program is called.
const NAME: &str = "fastpersist";

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fastpersist completions bash > ~/.local/share/bash-completion/completions/fastpersist
  fastpersist completions zsh > ~/.zfunc/_fastpersist
  fastpersist completions fish > ~/.config/fish/completions/fastpersist.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// The directory; it gets `man` and `completions`.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(&Cli::command()), NAME, &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script).map_err(|error| Failure::output(&error))
}

pub(crate) fn generate(args: &GenerateArgs) -> Outcome {
    let directory = &args.directory;
    write(directory).map_err(|error| Failure::io(directory.display(), &error))
}

fn write(directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut visible(&Cli::command()), NAME, &completions)?;
    }
    Ok(())
}

/// The command without what is hidden: nobody is to be led there.
fn visible(command: &Command) -> Command {
    let bare = Command::new(NAME).args(command.get_arguments().cloned());
    bare.subcommands(command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned())
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
}
