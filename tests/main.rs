//! What `fastpersistd` promises, tested from outside, line by line: the real program, a raw socket, kill -9, and
//! readers that share no code with it. One module per promise.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// DuckDB is a name and no code.
#![allow(clippy::doc_markdown)]

// The fault instruments stand on it too, and use other parts of it.
#[allow(dead_code, reason = "shared with the fault instruments")]
mod harness;

// Talking: lines, answers, and what bad input gets.
mod bad_input;
mod bad_names;
mod lines;

// The two models and what a record holds.
mod collection;
mod data;
mod dated;
mod dates;
mod extra_schema;
mod special_fields;
mod timestamps;
mod value;

// Writing and reading.
mod batch;
mod compare_and_set;
mod delete;
mod durability;
mod history;
mod if_seq;
mod keys;
mod many_writers;
mod producers;
mod query;

// Sharing: what one process tells the others.
mod subscribe;

// Bounds: what one client may cost the others.
mod access;
mod limits;
mod locks;
mod slow_clients;
mod writer;

// From memory to the disk, and what others read there.
mod backup;
mod cache;
mod disk_layout;
mod flush;
mod parquet;
mod parquet_names;
mod segments;

// Starting, stopping, failing.
mod command_line;
mod configuration;
mod damage;
mod found;
mod health;
mod import;
mod log_end;
mod logs;
mod metrics;
mod ownership;
mod packages;
mod recovery;
mod repair;
mod restore;
mod shutdown;
mod signals;
mod systemd;
mod torn_tail;
mod two_daemons;

// What is written about it.
mod docs;

/// The parts that this program's own processes play.
fn play(role: &str, socket: &str) {
    match role {
        "count-up" => compare_and_set::count_up(socket),
        "numbers" => producers::client::run(socket),
        other => panic!("no role {other}"),
    }
}
