//! What a package brings along: man pages and shell completions, made from the arguments themselves so that they
//! cannot say anything else.

use std::path::Path;
use std::{fs, io};

use clap::Command;
use clap_complete::Shell;

/// What the program is called.
const NAME: &str = "fastpersistd";
/// Programs that only an administrator starts.
const SECTION: &str = "8";

/// Writes them below a directory, in `man` and `completions`.
pub(crate) fn generate(command: &Command, directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut visible(command), NAME, &completions)?;
    }
    let mut command = visible(command);
    command.build();
    write_pages(command, &man)
}

/// The command without what is hidden: nobody is to be led there.
fn visible(command: &Command) -> Command {
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .after_help(command.get_after_help().cloned().unwrap_or_default())
        .args(command.get_arguments().cloned())
        .subcommands(subcommands.cloned())
        .disable_help_subcommand(true)
}

/// A page for the command, and one for each of its subcommands.
fn write_pages(command: Command, directory: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        write_pages(subcommand.clone(), directory)?;
    }
    clap_mangen::Man::new(command).section(SECTION).generate_to(directory).map(drop)
}
