//! `fastpersist`: the command line of `fastpersistd`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
