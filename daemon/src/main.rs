//! `fastpersistd`: arguments, logging, exit code. Everything else is in the library.

mod generate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use fastpersistd::config::{self, Overrides};
use fastpersistd::logging::Logging;
use fastpersistd::systemd::Notifier;
use fastpersistd::{daemon, memory, offline, signals};

// Records are many small allocations that live long. Chosen by its reputation for that; it was not compared
// with the system's allocator here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A configuration, a lock or data that needs a person.
const EXIT_CONFIG: u8 = 78;
/// A file that cannot be written.
const EXIT_IO: u8 = 74;

/// One durable store that many processes on one host share.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
#[command(version, about, after_help = "Example: fastpersistd --base-dir /var/lib/fastpersistd")]
struct Arguments {
    /// The configuration file [default: /etc/fastpersistd/config.toml where it exists, else two storages]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where storages without a `base_dir` of their own live
    #[arg(long, global = true, value_name = "DIR")]
    base_dir: Option<PathBuf>,
    /// The socket: a path, or @name in the abstract namespace
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    check_config: bool,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the man page and completions, for packages
    #[command(hide = true)]
    GenerateDocs {
        /// The directory; it gets `man` and `completions`
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    #[command(flatten)]
    Offline(offline::Command),
}

fn main() -> ExitCode {
    memory::keep_few_arenas();
    let arguments = Arguments::parse();
    if let Some(Command::GenerateDocs { directory }) = &arguments.command {
        return match generate::generate(&Arguments::command(), directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("fastpersistd: {}: {error}", directory.display());
                ExitCode::from(EXIT_IO)
            }
        };
    }
    if let Err(error) = signals::survive_file_size_limit() {
        eprintln!("fastpersistd: {error}");
        return ExitCode::FAILURE;
    }
    let overrides = Overrides {
        config: arguments.config,
        base_dir: arguments.base_dir,
        socket: arguments.socket,
        log_level: arguments.log_level,
    };
    if let Some(Command::Offline(command)) = &arguments.command {
        return offline::run(command, &overrides);
    }
    let config = match config::load(&overrides) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("fastpersistd: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.check_config {
        if let Err(error) = config.check_log_dir() {
            eprintln!("fastpersistd: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
        println!("{}", config.summary());
        return ExitCode::SUCCESS;
    }
    let logging = match Logging::start(&config.daemon) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("fastpersistd: {}: {error}", config.file);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let to_file = logging.is_to_file();
    let ended = daemon::run(config, overrides, logging, |socket| {
        // Nobody has to watch: without standard output the daemon runs as well.
        let _ = daemon::greet(socket);
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            if to_file {
                // Whoever started it looks here; without a log file the line before is here already.
                eprintln!("fastpersistd: {error}");
            }
            Notifier::from_environment().status(&format!("failed: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
