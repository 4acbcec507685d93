//! Work on directories without a running daemon, as subcommands of the daemon's program, because it needs
//! DuckDB. People call them through `fastpersist`.

pub mod read_python;
