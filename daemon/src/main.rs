//! `fastpersistd`: arguments, logging, exit code. Everything else is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use fastpersistd::config::{self, Overrides};
use fastpersistd::{daemon, logging, offline};

// Records are many small allocations that live long. Chosen by its reputation for that; it was not compared
// with the system's allocator here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A configuration, a lock or data that needs a person.
const EXIT_CONFIG: u8 = 78;

/// One durable store that many processes on one host share.
#[derive(Debug, Parser)]
#[command(version, about, after_help = "Example: fastpersistd --base-dir /var/lib/fastpersistd")]
struct Arguments {
    #[command(subcommand)]
    command: Option<offline::Command>,
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let overrides = Overrides {
        config: arguments.config,
        base_dir: arguments.base_dir,
        socket: arguments.socket,
        log_level: arguments.log_level,
    };
    if let Some(command) = &arguments.command {
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
        let names: Vec<_> = config.storages.iter().map(|storage| storage.name.as_str()).collect();
        println!("the configuration is right; storages: {}", names.join(", "));
        return ExitCode::SUCCESS;
    }
    if let Err(error) = logging::start(&config.daemon) {
        eprintln!("fastpersistd: log_dir cannot be used: {error}");
        return ExitCode::from(EXIT_CONFIG);
    }
    let ended = daemon::run(config, overrides, |socket| {
        // Nobody has to watch: without standard output the daemon runs as well.
        let _ = daemon::greet(socket);
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("fastpersistd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
